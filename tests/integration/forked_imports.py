"""What `forked.py` imports before it forks: operators import the rest of this package only when they run."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import threading

# The command first: it sets Airflow's log level before Airflow is imported.
import airflow_provider_evoimage.command.__main__
import tests.integration.task_driver  # noqa: F401

for _module in pkgutil.walk_packages(airflow_provider_evoimage.__path__, "airflow_provider_evoimage."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)
gc.freeze()
# A fork of several threads may inherit a lock that nobody opens.
assert threading.active_count() == 1
