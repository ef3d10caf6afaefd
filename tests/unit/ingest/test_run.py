"""Which generations of the account an ingest run saves."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.answers import GenerationPage
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.ingest.run import IngestArguments, IngestRun, require_lasting_names

LOG: Any = logging.getLogger(__name__)
NOW = 1_790_000_000.0
HOUR = 3600


class Hook:
    """An account with a generation of each age, in hours."""

    def __init__(self, *ages: float, model: str = "m") -> None:
        self.asked: list[Any] = []
        self.page = GenerationPage.read(
            {
                "data": [
                    {
                        "id": f"task-{age:g}",
                        "status": "completed",
                        "created_at": NOW - age * HOUR,
                        "model": model,
                    }
                    for age in ages
                ]
            }
        )

    def now(self) -> float:
        return NOW

    def list_generations(self, *, status: str, model: str | None, page: int, page_size: int) -> Any:
        self.asked.append((status, model, page, page_size))
        return self.page if page == 1 else SimpleNamespace(generations=())


def run(folder: Path, hook: Hook, **arguments: Any) -> IngestRun:
    fields: dict[str, Any] = {
        "save_to": str(folder),
        "filename_template": "{evolink_task_id}-{index}.{ext}",
        "within": 22.0 * HOUR,
        "created_after": None,
        "created_before": None,
        "models": (),
        "made_elsewhere_only": True,
        "own_folders": (),
        "own_grace": 2.0 * HOUR,
        "provenance": "keep",
        "parallel": 1,
    }
    made_by: Any = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
    given = IngestArguments(**{**fields, **arguments})
    return IngestRun(hook=hook, arguments=given, made_by=made_by, log=LOG)  # type: ignore[arg-type]


def ids(listed: Any) -> list[str]:
    return [each.evolink_task_id for each in listed]


def test_oldest_come_first_and_those_too_old_are_only_warned_of(tmp_path: Path):
    ingest = run(tmp_path, Hook(1, 5, 21, 22, 22.5, 23.9, 24))
    wanted, stale = ingest._listed()
    assert ids(wanted) == ["task-22", "task-21", "task-5", "task-1"]
    assert ids(stale) == ["task-23.9", "task-22.5"]
    assert ingest.outcome.found == 4


def test_generation_of_an_unknown_age_is_taken_for_new(tmp_path: Path):
    hook = Hook()
    hook.page = GenerationPage.read({"data": [{"id": "task-x", "status": "completed"}]})
    wanted, stale = run(tmp_path, hook, created_after=NOW - HOUR)._listed()
    assert (ids(wanted), stale) == (["task-x"], [])
    assert wanted[0].age(NOW) == 0


def test_nothing_is_warned_of_before_its_links_die_soon(tmp_path: Path):
    _, stale = run(tmp_path, Hook(3, 19, 20, 20.5), within=2 * HOUR)._listed()
    assert ids(stale) == ["task-20.5"]


def test_interval_holds_its_begin_and_not_its_end_so_that_neighbours_share_nothing(tmp_path: Path):
    hook = Hook(1, 2, 3, 4)
    between = {"created_after": NOW - 3 * HOUR, "created_before": NOW - 1 * HOUR}
    assert ids(run(tmp_path, hook, **between)._listed()[0]) == ["task-3", "task-2"]
    assert ids(run(tmp_path, hook, created_after=NOW - HOUR)._listed()[0]) == ["task-1"]
    assert ids(run(tmp_path, hook, created_before=NOW - 3 * HOUR)._listed()[0]) == ["task-4"]


@pytest.mark.parametrize(
    ("models", "asked", "found"),
    [((), None, 1), (("m",), "m", 1), (("m", "x"), None, 1), (("x", "y"), None, 0)],
)
def test_models_narrow_it_and_one_alone_is_asked_for(tmp_path: Path, models: Any, asked: Any, found: int):
    hook = Hook(1)
    assert len(run(tmp_path, hook, models=models)._listed()[0]) == found
    assert hook.asked[0] == ("completed", asked, 1, 50)


def test_generation_that_an_own_task_may_still_save_is_left_for_the_next_run(tmp_path: Path):
    ingest = run(tmp_path, Hook(1, 1.9, 2, 3))
    wanted, _ = ingest._listed()
    assert ids(ingest._without_young(wanted)) == ["task-3", "task-2"]
    assert ingest.outcome.young == 2


def test_unsaved_links_that_die_soon_are_named_the_oldest_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    ingest = run(tmp_path, Hook(19.9, 20, 21.5))
    wanted, _ = ingest._listed()
    ingest._warn_of_expiring(wanted[::-1])
    assert ingest.outcome.expiring == ["task-21.5", "task-20"]
    assert "2 generations; the first links die in 2" in caplog.text
    caplog.clear()
    ingest._warn_of_expiring(wanted[2:])
    assert (ingest.outcome.expiring, caplog.text) == ([], "")


def test_names_of_files_tell_all_images_apart_and_stay_the_same():
    require_lasting_names("{model}/{evolink_task_id}-{index}.{ext}")
    with pytest.raises(InvalidRequestError, match=r"lacks \{evolink_task_id\}, \{index\}:"):
        require_lasting_names("{model}.{ext}")
    with pytest.raises(InvalidRequestError, match=r"holds \{item\}, \{run_id\}, which differs"):
        require_lasting_names("{run_id}/{item}-{evolink_task_id}-{index}.{ext}")
