"""The event that a finished wait sends to the task: status words and ids, nothing else. Pure.

Airflow 3.3 logs an event and stores it as plain text, so it never holds a link, a prompt or a key; the task
reads the generation again for those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from airflow_provider_evoimage.evolink.answers import EVOLINK_TASK_ID
from airflow_provider_evoimage.exceptions import EvoImageError
from airflow_provider_evoimage.waiting.polling import Ending

_ENDINGS: tuple[Ending, ...] = get_args(Ending)
# Airflow keeps an event in its log and its database, so it stays small even for many generations.
MAX_EVENT_BYTES = 40_000
# The status of several generations is the first of these that any of them has.
_WORST_FIRST: tuple[Ending, ...] = ("lost", "timeout", "failed", "cancelled", "completed")


@dataclass(frozen=True, kw_only=True)
class WaitEvent:
    """How the wait for one or many generations ended.

    :param endings: by ``evolink_task_id``.
    :param waiting: how many more generations there are: still running, or ended and not named here.
    :param reason: a word that says why generations count as lost, or why the wait broke off.
    """

    endings: Mapping[str, Ending]
    waiting: int = 0
    reason: str = ""

    @classmethod
    def of_some(cls, endings: Mapping[str, Ending], *, total: int, reason: str = "") -> WaitEvent:
        """Make the event of a wait that goes on. It names the first endings, as many as fit.

        :param total: how many generations the wait is for, including those that have ended.
        """
        named: dict[str, Ending] = {}
        # Leave room for the other fields of the event.
        room = MAX_EVENT_BYTES - 200
        for evolink_task_id, ending in endings.items():
            room -= len(json.dumps({evolink_task_id: ending}))
            if room < 0:
                break
            named[evolink_task_id] = ending
        return cls(endings=named, waiting=total - len(named), reason=reason)

    @property
    def status(self) -> Ending:
        """The worst ending of all generations; ``lost`` if the event names none."""
        return next((word for word in _WORST_FIRST if word in self.endings.values()), "lost")

    @property
    def only_task(self) -> str:
        """The id of the only generation.

        :raises EvoImageError: when there are several: the event belongs to another task.
        """
        if len(self.endings) != 1:
            raise _unknown_event()
        return next(iter(self.endings))

    def to_json(self) -> dict[str, Any]:
        """Return the payload: ``{v, status, generations: {id: ending}, waiting?, reason?}``."""
        payload: dict[str, Any] = {"v": 1, "status": self.status, "generations": dict(self.endings)}
        if self.waiting:
            payload["waiting"] = self.waiting
        if self.reason:
            payload["reason"] = self.reason
        return payload

    @classmethod
    def read(cls, event: object) -> WaitEvent:
        """Check an event that arrived.

        :raises EvoImageError: when our triggers cannot have sent it.
        """
        generations = event.get("generations") if isinstance(event, Mapping) else None
        waiting = event.get("waiting", 0) if isinstance(event, Mapping) else None
        if (
            not isinstance(event, Mapping)
            or event.get("v") != 1
            or not isinstance(generations, Mapping)
            or type(waiting) is not int
            or waiting < 0
            or not (generations or waiting)
            or not all(
                isinstance(key, str) and EVOLINK_TASK_ID.fullmatch(key) and word in _ENDINGS
                for key, word in generations.items()
            )
        ):
            raise _unknown_event()
        return cls(endings=dict(generations), waiting=waiting, reason=str(event.get("reason", "")))


def _unknown_event() -> EvoImageError:
    return EvoImageError(
        "The trigger sent an event that this version of the provider does not know; worker and triggerer "
        "may run different versions.",
        on_retry="A retry resumes the generation that the task has recorded and submits nothing.",
    )
