"""Which generations are saved already: sidecars name the EvoLink task of the images beside them."""

from __future__ import annotations

import contextvars
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from airflow_provider_evoimage.evolink.json_values import mapping
from airflow_provider_evoimage.storage.destination import Destination

# A worker's clock and a store's may differ, and a sidecar is written after its generation began.
_CLOCK_TOLERANCE = 3600.0
# A sidecar has some 2 kB; a larger JSON file is something else.
_LARGEST_SIDECAR = 1_000_000
_READS_AT_ONCE = 8

Name = TypeVar("Name")


def sidecars_named(destination: Destination, names: Sequence[str]) -> list[Any]:
    """Read sidecars by their names, several at a time; None for each that is absent."""
    with ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="evoimage-sidecars") as pool:
        futures = [pool.submit(contextvars.copy_context().run, destination.read_json, each) for each in names]
        return [future.result() for future in futures]


def generations_saved_below(
    destination: Destination, *, candidates: Collection[str], since: float
) -> set[str]:
    """Find those generations that a sidecar below a folder names, whatever the files are called.

    Lists the whole folder, and reads the JSON files that were written since a moment, a few at a time.

    :param candidates: the ``evolink_task_id`` of each generation that is looked for.
    :param since: Unix seconds at which the oldest of them began.
    :raises DestinationError: when the storage fails, which must not look like "not saved".
    """
    found: set[str] = set()
    names = destination.json_files(since=since - _CLOCK_TOLERANCE, largest=_LARGEST_SIDECAR)
    for some in _in_parts(names, 200):
        for sidecar in sidecars_named(destination, some):
            evolink_task_id = mapping(sidecar).get("evolink_task_id")
            if isinstance(evolink_task_id, str) and evolink_task_id in candidates:
                found.add(evolink_task_id)
        if len(found) == len(candidates):
            break
    return found


def _in_parts(names: Iterable[Name], size: int) -> Iterator[list[Name]]:
    remaining = iter(names)
    while part := list(islice(remaining, size)):
        yield part
