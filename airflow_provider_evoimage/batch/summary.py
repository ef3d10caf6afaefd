"""The summary of a batch, small whatever its size. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from airflow_provider_evoimage.batch.ledger import LedgerLine
from airflow_provider_evoimage.shapes import BatchSummary, MadeBy

#: In version 1 ``failures[].item`` was the position.
SUMMARY_VERSION: Final = 2

_SHOWN = 20
_SHOWN_CHARACTERS = 200


def summary_of(
    lines: Sequence[LedgerLine], manifest_url: str, made_by: MadeBy, *, warning: str | None = None
) -> BatchSummary:
    """Return the XCom of a batch.

    ``manifest`` is the URL of the batch manifest; ``items``, ``saved``, ``failed``, ``left_out`` and
    ``images`` are counts; ``drawn`` and ``reused`` are the parts of ``saved`` that this batch drew and took from an
    earlier run; ``credits`` holds what was estimated at the most and what was charged; ``failures``
    describes the first twenty items without images.

    :param warning: of a charge above the limit or the estimate; the summary has the field only then.
    """
    missing = [line for line in lines if line.state != "saved"]
    manifests = [line.manifest for line in lines if line.manifest is not None]
    summary: BatchSummary = {
        "v": SUMMARY_VERSION,
        "manifest": manifest_url,
        "items": len(lines),
        "saved": len(lines) - len(missing),
        "drawn": len(lines) - len(missing) - sum(line.is_reused for line in lines),
        "reused": sum(line.is_reused for line in lines),
        "failed": sum(line.state == "failed" for line in missing),
        "left_out": sum(line.state == "left out" for line in missing),
        "images": sum(len(manifest.get("images") or ()) for manifest in manifests),
        "credits": {
            "estimate": _sum(
                (line.requested.estimate or {}).get("credits_high") for line in lines if not line.is_reused
            ),
            "charged": _sum(line.charged for line in lines),
        },
        "failures": [
            {
                "item": line.item,
                "position": line.position,
                "name": line.name[:_SHOWN_CHARACTERS],
                "evolink_task_id": line.evolink_task_id,
                "code": line.error.code if line.error else None,
                "message": line.error.message[:_SHOWN_CHARACTERS] if line.error else None,
            }
            for line in missing[:_SHOWN]
        ],
        "made_by": made_by.copy(),
    }
    if warning:
        summary["warning"] = warning
    return summary


def missing_in_words(missing: Sequence[LedgerLine], of: int, manifest_url: str) -> str:
    """Describe which items have no images, and why the first has none."""
    first = missing[0]
    why = first.error.message if first.error else "It is still running."
    numbers = ranges_in_words([line.item for line in missing])
    are = "item has" if of == 1 else "items have"
    return (
        f"{len(missing):,} of {of:,} {are} no images: {numbers} (numbered as in file names, from 0). The first: {why} "
        f"{of - len(missing):,} saved; {manifest_url} describes each item."
    )


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: ``1 item``, ``2,000 items``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def ranges_in_words(numbers: Iterable[int]) -> str:
    """Write numbers as ranges: ``3, 7-9``; long lists are cut."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = [str(low) if low == high else f"{low}-{high}" for low, high in ranges[:_SHOWN]]
    return ", ".join(shown) + (", …" if len(ranges) > _SHOWN else "")


def _sum(amounts: Iterable[object]) -> float:
    return round(sum(amount for amount in amounts if isinstance(amount, (int, float))), 6)
