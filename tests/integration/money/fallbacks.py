"""A request for two models, its worker that dies, and what must have been paid in the end."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.task_driver import KillAtLine, Killed, StateStore, TaskRun, generate, place_of

FIRST, OTHER = "gpt-image-1", "gpt-image-1.5"
#: Codes with which EvoLink refuses a submission because of its model.
REFUSALS = [
    "model_unavailable",
    "no_available_channel",
    "model_not_found",
    "model_access_denied",
    "key_model_not_allowed",
]
#: Codes of failed generations that another model may do better.
FAILURES = [
    "service_error",
    "resource_exhausted",
    "generation_timeout",
    "quota_exceeded",
    "service_unavailable",
]


def let_first_model_fail(evolink: SimulatorServer, code: str) -> None:
    """Let EvoLink refuse the first model, or let its generations fail."""
    setting = "unavailable_models" if code in REFUSALS else "failing_models"
    evolink.state.configure({setting: {FIRST: code}})


def let_all_models_work(evolink: SimulatorServer) -> None:
    evolink.state.configure({"unavailable_models": {}, "failing_models": {}})


def two_models(folder: Path, store: StateStore | None, *, retries: int = 3, **arguments: Any) -> TaskRun:
    """A task that asks one model and then another; without a store it keeps its record beside the images."""
    fields = {"model": FIRST, "fallback_models": [OTHER], "save_to": str(folder), "fallback_after": 20}
    return TaskRun(generate(**(fields | arguments)), retries=retries, store=store)


def purchases(evolink: SimulatorServer) -> list[str]:
    """Return the models of the generations that were or will be charged."""
    evolink.state.settle()
    made = evolink.state.generations.values()
    return [each.order.model for each in made if each.ends_as == "completed"]


class KillAtSecondVisit(KillAtLine):
    """Lets the worker die when it comes to a line for the second time."""

    visits = 0

    def _traced(self, frame: Any, event: str, argument: object) -> Any:
        if event == "line" and place_of(frame) == self.line:
            self.visits += 1
            if self.visits == 1:
                return self._traced
        return super()._traced(frame, event, argument)


class KillThreadsAtLine(KillAtLine):
    """Lets all threads of the worker die when one of them first comes to a line, and notes the lines of all.

    A batch submits on threads of its own. A thread that waits for an answer dies when it would read it.
    """

    def __init__(self, line: tuple[str, int] | None = None) -> None:
        super().__init__(line)
        self._is_dead = False

    def __enter__(self) -> KillAtLine:
        threading.settrace(self._called)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        threading.settrace(None)  # type: ignore[arg-type]

    def _traced(self, frame: Any, event: str, argument: object) -> Any:
        if self._is_dead and event == "line":
            sys.settrace(None)
            raise Killed("together with another thread")
        try:
            return super()._traced(frame, event, argument)
        except Killed:
            self._is_dead = True
            raise


class KillThreadsAtSecondVisit(KillAtSecondVisit, KillThreadsAtLine):
    """The same at the second visit of a line, by whichever thread."""
