"""``evoimage costs``: sums what the sidecars below a folder say that their generations cost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from airflow.sdk import ObjectStoragePath
from rich.console import RenderableType
from rich.table import Table

from airflow_provider_evoimage.evolink.json_values import number
from airflow_provider_evoimage.evolink.prices import CREDITS_PER_USD
from airflow_provider_evoimage.exceptions import DestinationError, InvalidRequestError
from airflow_provider_evoimage.labels import read_labels

# Bytes; files beyond are somebody else's.
_LONGEST_SIDECAR = 2_000_000
_READERS = 16
NONE = "(none)"


@dataclass
class Sum:
    """What the generations of one group cost.

    :param unknown: generations whose charge is not known.
    """

    generations: int = 0
    images: int = 0
    unknown: int = 0
    credits: Decimal = field(default_factory=Decimal)

    def add(self, manifest: Mapping[str, Any]) -> None:
        """Count one generation."""
        charged = number(manifest["usage"].get("charged"))
        self.generations += 1
        self.images += len(manifest["images"])
        self.unknown += charged is None
        self.credits += Decimal(str(charged or 0))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "generations": self.generations,
            "images": self.images,
            "unknown": self.unknown,
            "credits": float(round(self.credits, 6)),
            "usd": float(round(self.credits / CREDITS_PER_USD, 6)),
        }


@dataclass(frozen=True)
class Costs:
    """The sums of a folder.

    :param by: what is summed by, in order.
    :param groups: the sum of each group, the dearest first.
    """

    by: tuple[str, ...]
    groups: Mapping[tuple[str, ...], Sum]
    total: Sum

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        rows = [
            {"by": dict(zip(self.by, group, strict=True)), **each.to_json()}
            for group, each in self.groups.items()
        ]
        return {"rows": rows, "total": self.total.to_json()}

    def table(self) -> RenderableType:
        """Draw a row for each group, and the total below."""
        table = Table(show_footer=True)
        for number_of, name in enumerate(self.by):
            table.add_column(name, footer="" if number_of else "total", overflow="fold")
        total = _cells(self.total)
        for name, cell in zip(("generations", "images", "credits", "USD"), total, strict=True):
            table.add_column(name, footer=cell, justify="right")
        for group, each in self.groups.items():
            table.add_row(*group, *_cells(each))
        if self.total.unknown:
            table.caption = f"The charge of {self.total.unknown:,} generations is unknown and counts as 0."
        return table


def read_by(text: str) -> tuple[str, ...]:
    """Read the option ``--by``.

    :raises InvalidRequestError: when it names nothing.
    """
    names = tuple(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))
    if not names:
        raise InvalidRequestError("--by names nothing: give model, day, month, dag, task or keys of labels.")
    return names


def costs_below(folder: str, by: Sequence[str]) -> Costs:
    """Sum the sidecars below a folder on any storage, each generation once.

    :param folder: a path, or a URL such as ``s3://conn@bucket/images``.
    :raises DestinationError: when the storage cannot be read.
    """
    groups: dict[tuple[str, ...], Sum] = {}
    total, seen = Sum(), set()
    for manifest in _sidecars(folder):
        if manifest["evolink_task_id"] in seen:
            continue
        seen.add(manifest["evolink_task_id"])
        total.add(manifest)
        group = tuple(_value(manifest, name) for name in by)
        groups.setdefault(group, Sum()).add(manifest)
    ordered = sorted(groups.items(), key=lambda each: (-each[1].credits, each[0]))
    return Costs(tuple(by), dict(ordered), total)


def _value(manifest: Mapping[str, Any], name: str) -> str:
    made_by = manifest.get("made_by")
    made_by = made_by if isinstance(made_by, Mapping) else {}
    created = str(manifest.get("created") or "")
    facts = {
        "model": manifest.get("model"),
        "day": created[:10],
        "month": created[:7],
        "dag": made_by.get("dag_id"),
        "task": made_by.get("task_id"),
    }
    found = facts[name] if name in facts else (read_labels(manifest.get("labels")) or {}).get(name)
    return str(found or NONE)


def _sidecars(folder: str) -> Iterator[Mapping[str, Any]]:
    where = folder if "://" in folder else str(Path(folder).expanduser().absolute())
    try:
        root = ObjectStoragePath(where)
        # A path in fsspec's own form, without the connection, as its file system takes it.
        names = [str(name) for name in root.fs.find(root.path) if str(name).endswith(".json")]
    except Exception as error:
        raise DestinationError(
            f"{folder} cannot be listed: {str(error) or type(error).__name__}", billed=False
        ) from error
    with ThreadPoolExecutor(_READERS, thread_name_prefix="evoimage-costs") as pool:
        for text in pool.map(lambda name: _text(root.fs, name), names):
            manifest = _manifest(text)
            if manifest is not None:
                yield manifest


def _text(fs: Any, name: str) -> bytes:
    try:
        with fs.open(name, "rb") as file:
            found: bytes = file.read(_LONGEST_SIDECAR + 1)
    except FileNotFoundError:  # Removed since it was listed.
        return b""
    except Exception as error:
        raise DestinationError(
            f"{name} cannot be read: {str(error) or type(error).__name__}", billed=False
        ) from error
    return found if len(found) <= _LONGEST_SIDECAR else b""


def _manifest(text: bytes) -> Mapping[str, Any] | None:
    """Read a sidecar; None for JSON of somebody else."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_ours = (
        isinstance(data, Mapping)
        and isinstance(data.get("evolink_task_id"), str)
        and isinstance(data.get("usage"), Mapping)
        and isinstance(data.get("images"), list)
    )
    return data if is_ours else None


def _cells(each: Sum) -> Iterable[str]:
    usd = each.credits / CREDITS_PER_USD
    return f"{each.generations:,}", f"{each.images:,}", f"{each.credits:,.4f}", f"{usd:,.4f}"
