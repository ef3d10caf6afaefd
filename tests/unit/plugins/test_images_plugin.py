"""The plugin itself: light in every process, registered once, and closed to strangers."""

import importlib.metadata
import subprocess
import sys

from airflow_provider_evoimage.get_provider_info import get_provider_info
from airflow_provider_evoimage.plugins.images import EvoImagePlugin

LOADED = """
import airflow.plugins_manager, sys, time
before = set(sys.modules)
began = time.perf_counter()
from airflow_provider_evoimage.plugins.images import EvoImagePlugin
print(f"{(time.perf_counter() - began) * 1000:.1f} ms")
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_loading_it_imports_no_web_framework():
    found = subprocess.run([sys.executable, "-P", "-c", LOADED], capture_output=True, text=True, check=True)
    *_, duration, modules = found.stdout.strip().splitlines()
    print(duration)
    assert set(modules.split()) <= {"airflow_provider_evoimage", "airflow"}


def test_it_is_an_entry_point_and_not_in_the_description():
    """Airflow loads no plugins from a provider's description by default, and with both it would load it twice."""
    (found,) = importlib.metadata.entry_points(group="airflow.plugins", name="evoimage")
    assert found.load() is EvoImagePlugin
    assert "plugins" not in get_provider_info()


def test_addresses_survive_a_url_prefix():
    for view in EvoImagePlugin.external_views:
        assert not view["href"].startswith("/")
        assert len(view["name"]) <= 9


def test_every_link_class_of_the_description_exists():
    for name in get_provider_info()["extra-links"]:
        module, _, attribute = name.rpartition(".")
        assert getattr(__import__(module, fromlist=[attribute]), attribute)().name
