"""When saved images may stand in for a submission: never where an earlier try may have paid."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from airflow_provider_evoimage.generation.reuse import may_reuse
from airflow_provider_evoimage.submission.record import DamagedRecordError, RecordKeeper


class Store:
    """A store that holds nothing, something, or fails."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def read(self) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def keep(self, record: Any) -> None:
        raise AssertionError


STORES: dict[str, Any] = {
    "none": None,
    "empty": Store(None),
    "record": Store(object()),
    "damaged": Store(DamagedRecordError()),
    "down": Store(OSError("down")),
}
#: Stores with which this try may reuse, by (is_retry, is_cleared, on_clear).
ALLOWED: dict[tuple[bool, bool, Any], set[str]] = {
    (False, False, "auto"): {"none", "empty", "down"},
    (True, False, "auto"): {"empty"},
    (False, True, "auto"): set(),
    (True, True, "auto"): set(),
    (False, True, "regenerate"): set(),
    (False, True, "reuse"): {"empty"},
    (True, True, "reuse"): {"empty"},
}


@pytest.mark.parametrize("situation", ALLOWED, ids=str)
@pytest.mark.parametrize("store", STORES)
def test_reuse_needs_certainty_that_nothing_was_sent(situation: tuple[bool, bool, Any], store: str) -> None:
    is_retry, is_cleared, on_clear = situation
    keeper = RecordKeeper(STORES[store], structlog.get_logger())
    found = may_reuse(keeper=keeper, is_retry=is_retry, is_cleared=is_cleared, on_clear=on_clear)
    assert found is (store in ALLOWED[situation])
