"""What the tests of the money paths share: an Airflow with or without a task state store."""

from __future__ import annotations

import pytest

from tests.integration.task_driver import StateStore


@pytest.fixture(params=["3.3", "3.1"])
def maybe_store(request: pytest.FixtureRequest) -> StateStore | None:
    """The task state store of Airflow 3.3, or none as before it."""
    return StateStore() if request.param == "3.3" else None
