"""Reads a person's answer, and narrows manifests to what was chosen. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_provider_evoimage.approval.page import ALL, APPROVE, NONE, REJECT, Choose
from airflow_provider_evoimage.approval.shown import ShownImage
from airflow_provider_evoimage.exceptions import AnswerUnclearError
from airflow_provider_evoimage.shapes import Approver, Manifest

_MOST_COMMENT_CHARACTERS = 2_000


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was decided.

    :param chosen: numbers on the page; empty where everything was rejected.
    :param by: id and name of the person; None where nobody answered in time.
    :param at: when it was answered (ISO 8601, UTC).
    """

    chosen: tuple[int, ...]
    by: Approver | None
    at: str
    comment: str | None = None

    @property
    def outcome(self) -> str:
        """``approved``, ``rejected`` or ``timed_out``."""
        if self.by is None:
            return "timed_out"
        return "approved" if self.chosen else "rejected"


def chosen_numbers(words: Collection[str], choose: Choose, images: int) -> tuple[int, ...]:
    """Return the numbers that the chosen options mean.

    :raises AnswerUnclearError: when they contradict each other; nothing is taken for approved then.
    """
    said = set(words)
    if not said:
        raise AnswerUnclearError("The answer names no option.")
    everything = tuple(range(1, images + 1))
    if said <= {NONE, REJECT}:
        return ()
    if choose == "all" and said == {APPROVE}:
        return everything
    if choose == "many" and said == {ALL}:
        return everything
    numbers = sorted(number for number in everything if str(number) in said)
    if choose == "all" or len(numbers) != len(said):
        raise AnswerUnclearError(f"The answer {', '.join(sorted(said))} contradicts itself or the question.")
    if choose == "one" and len(numbers) > 1:
        raise AnswerUnclearError(f"The answer names {len(numbers)} images, and one was to be chosen.")
    return tuple(numbers)


def by_default(on_timeout: str, choose: Choose, images: int) -> tuple[int, ...]:
    """Return the numbers that stand when nobody answers: none, all, or the first where one is to be chosen."""
    if on_timeout != "approve":
        return ()
    return (1,) if choose == "one" else tuple(range(1, images + 1))


def person_of(user: object) -> Approver | None:
    """Read who answered; None for nobody."""
    if not isinstance(user, Mapping):
        return None
    return {"id": str(user.get("id") or ""), "name": str(user.get("name") or "")}


def moment_of(value: object) -> str:
    """Write when it was answered."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def comment_of(params_input: object) -> str | None:
    """Read the comment of an answer."""
    comment = params_input.get("comment") if isinstance(params_input, Mapping) else None
    text = comment.strip() if isinstance(comment, str) else ""
    return text[:_MOST_COMMENT_CHARACTERS] or None


def described(manifests: Sequence[Manifest], images: Sequence[ShownImage], answer: Answer) -> list[Manifest]:
    """Return each manifest with its chosen images alone, and with ``approval``.

    A manifest of which nothing was chosen has no images.
    """
    found: list[Manifest] = []
    for position, manifest in enumerate(manifests):
        chosen = [each for each in images if each.manifest == position and each.number in answer.chosen]
        found.append(
            {
                **manifest,
                "images": [manifest["images"][each.place] for each in chosen],
                "approval": {
                    "by": None if answer.by is None else answer.by.copy(),
                    "at": answer.at,
                    "chosen": [each.number for each in chosen],
                    "comment": answer.comment,
                    "sha256": [file.sha256 for each in chosen for file in each.files],
                },
            }
        )
    return found


def summary(answer: Answer, images: int) -> dict[str, Any]:
    """Describe an answer for the XCom ``evoimage_images``."""
    return {
        "of": images,
        "chosen": list(answer.chosen),
        "by": None if answer.by is None else answer.by.get("name") or answer.by.get("id"),
        "at": answer.at,
        "comment": (answer.comment or "")[:200],
    }
