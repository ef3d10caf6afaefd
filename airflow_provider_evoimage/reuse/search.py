"""Finds saved images for requests: by the index, checked against sidecar and files. Whatever is odd is not found.

One request costs two small reads and one size. Many requests cost one listing of the index, two small reads for each
that has an entry, and one listing of each folder with several of their images.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import tenacity

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.defaults import INDEX_FOLDER, Provenance
from airflow_provider_evoimage.exceptions import DestinationError
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.reuse.sidecar import key_in
from airflow_provider_evoimage.shapes import Estimate, MadeBy, Manifest
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.file_names import FileNames, folded
from airflow_provider_evoimage.storage.index import ImagesKey, IndexEntry, alt_text_hash, unusable

#: Attempts to read the storage before it counts as failing: a lookup that gives up too early costs a picture.
ATTEMPTS = 5
#: Reads at a time.
PARALLEL = 16
#: A folder with so many images to check is listed; fewer are looked at one by one.
LISTED_FROM = 8
# Clocks of workers differ a little.
_FROM_THE_FUTURE = timedelta(hours=1)
# Names with one of these are never used again by another run.
_LASTING_FIELDS = frozenset({"run_id", "evolink_task_id"})

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Images that a request may reuse.

    :param alt_text: of the images, as it goes into the mark; None for none.
    :param own_names: names of the images that the task would save itself, as ``FileNames.planned`` gives them.
    """

    key: ImagesKey
    provenance: Provenance
    alt_text: str | None = None
    own_names: Collection[str] = ()


@dataclass(frozen=True, kw_only=True)
class Found:
    """Complete images of the same request.

    :param sidecar: their manifest, without links.
    :param saved_at: when they were complete.
    """

    sidecar: Manifest
    saved_at: datetime

    def manifest(self, requested: RequestSummary, made_by: MadeBy) -> Manifest:
        """Return the manifest of a task that reuses them: it is charged nothing.

        :param requested: the task's request.
        :param made_by: the task.
        """
        estimate = requested.estimate
        kept = cast(
            "Manifest", {name: value for name, value in self.sidecar.items() if name in _OF_A_SIDECAR}
        )
        return {
            **kept,
            "provider": f"airflow-provider-evoimage {__version__}",
            "usage": {
                "estimate": None if estimate is None else cast("Estimate", dict(estimate)),
                "reserved": None,
                "charged": 0,
                "tokens": {},
            },
            "made_by": made_by.copy(),
            "reused": {
                "evolink_task_id": self.sidecar["evolink_task_id"],
                "made_by": self.sidecar["made_by"].copy(),
                "saved_at": self.saved_at.isoformat(timespec="seconds"),
            },
        }


@dataclass(frozen=True, kw_only=True)
class NotFound:
    """There are none.

    :param because: what is wrong with those that the index names; empty where it names none.
    """

    because: str = ""


_OF_A_SIDECAR = frozenset(
    {
        *("v", "evolink_task_id", "status", "model", "created", "completed", "expires_at"),
        *("asked", "made", "request", "images", "reusable_for"),
    }
)


@dataclass(kw_only=True)
class ImageSearch:
    """Searches one folder.

    :param names: of the images that the task would save: whether others may overwrite what it reuses.
    :param max_age: of images that are reused; None for any.
    """

    destination: Destination
    names: FileNames
    max_age: timedelta | None
    _sizes: dict[str, dict[str, int] | None] = field(default_factory=dict)

    def find(self, wanted: Wanted) -> Found | NotFound:
        """Search for one request.

        :raises DestinationError: when the storage fails; nothing is known then.
        """
        return self._checked(self._candidate(wanted))

    def find_all(self, wanted: Sequence[Wanted]) -> list[Found | NotFound]:
        """Search for many requests, in order.

        :raises DestinationError: when the storage fails; nothing is known then.
        """
        if not wanted:
            return []
        listed = _lasting(self.destination.sizes_in, INDEX_FOLDER)
        # Without the right to list, each entry is simply read.
        named = [
            each for each in wanted if listed is None or each.key.entry_name.rpartition("/")[2] in listed
        ]
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="evoimage-reuse") as pool:
            candidates = list(pool.map(self._candidate, named))
            folders = _folders_of(
                name for each in candidates if isinstance(each, Found) for name in self._names(each)
            )
            self._sizes = dict(zip(folders, pool.map(self._listed, folders), strict=True))
            found = list(pool.map(self._checked, candidates))
        self._sizes = {}
        by_key = dict(zip([each.key for each in named], found, strict=True))
        return [by_key.get(each.key, NotFound()) for each in wanted]

    def _listed(self, folder: str) -> dict[str, int] | None:
        return _lasting(self.destination.sizes_in, folder)

    def _checked(self, candidate: Found | NotFound) -> Found | NotFound:
        return self._with_files(candidate) if isinstance(candidate, Found) else candidate

    def _candidate(self, wanted: Wanted) -> Found | NotFound:
        """Read entry and sidecar of a request; the files are still to be checked."""
        content = _lasting(self.destination.read_if_there, wanted.key.entry_name)
        if content is None:
            return NotFound()
        entry = IndexEntry.read(content, wanted.key)
        if isinstance(entry, str):
            return NotFound(because=entry)
        because = self._age_problem(entry.saved_at)
        if because:
            return NotFound(because=because)
        sidecar = _json(_lasting(self.destination.read_if_there, entry.sidecar))
        because = unusable(sidecar, self.destination) or self._mismatch(sidecar, entry, wanted)
        return NotFound(because=because) if because else Found(sidecar=sidecar, saved_at=entry.saved_at)

    def _age_problem(self, saved_at: datetime) -> str:
        age = datetime.fromtimestamp(time.time(), UTC) - saved_at
        if age < -_FROM_THE_FUTURE:
            return f"its index entry is from the future, {saved_at:%Y-%m-%d %H:%M} UTC"
        if self.max_age is not None and age > self.max_age:
            return f"its images are older than reuse allows: saved {saved_at:%Y-%m-%d %H:%M} UTC"
        return ""

    def _mismatch(self, sidecar: Mapping[str, Any], entry: IndexEntry, wanted: Wanted) -> str:
        if sidecar["evolink_task_id"] != entry.evolink_task_id:
            return "its files were replaced by those of another generation"
        made_for = key_in(sidecar)
        if made_for is None or made_for.key != wanted.key:
            return "its sidecar is of another request"
        if made_for.provenance != wanted.provenance:
            return f"its images were saved with provenance={made_for.provenance!r}"
        if made_for.alt_text_sha256 != alt_text_hash(wanted.alt_text):
            return "its images have another alt_text"
        if not self._stay(sidecar, wanted):
            return (
                "its images lie where another task of this run may save: add {run_id} or {evolink_task_id} to "
                "filename_template"
            )
        return ""

    def _stay(self, sidecar: Mapping[str, Any], wanted: Wanted) -> bool:
        """Whether no other task of the run, and no other item of the batch, may overwrite these images."""
        if not _LASTING_FIELDS.isdisjoint(self.names.fields):
            return True
        own = {_stem(name) for name in wanted.own_names}
        return all(
            (name := self.destination.name_of(image["path"])) is not None and _stem(name) in own
            for image in sidecar["images"]
        )

    def _with_files(self, found: Found) -> Found | NotFound:
        for name, image in zip(self._names(found), found.sidecar["images"], strict=True):
            size = self._size(name)
            if size is None:
                return NotFound(because=f"its image {image['path']} is gone")
            if size != image["bytes"]:
                return NotFound(
                    because=f"its image {image['path']} was replaced: {size:,} bytes, not {image['bytes']:,}"
                )
        return found

    def _size(self, name: str) -> int | None:
        folder, _, filename = name.rpartition("/")
        listed = self._sizes.get(folder)
        return _lasting(self.destination.size_if_there, name) if listed is None else listed.get(filename)

    def _names(self, found: Found) -> list[str]:
        return [self.destination.name_of(image["path"]) or "" for image in found.sidecar["images"]]


def _folders_of(names: Iterable[str]) -> list[str]:
    """Return the folders that hold so many of these files that a listing is cheaper."""
    count: dict[str, int] = {}
    for name in names:
        folder = name.rpartition("/")[0]
        count[folder] = count.get(folder, 0) + 1
    return [folder for folder, images in count.items() if images >= LISTED_FROM]


def _lasting(call: Callable[[Item], Result], argument: Item) -> Result:
    """Repeat a read while the storage fails for a moment."""
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(DestinationError),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=15),
        reraise=True,
    )
    return attempts(call, argument)


def _stem(name: str) -> str:
    return folded(name.rpartition(".")[0])


def _json(content: bytes | None) -> Any:
    try:
        return None if content is None else json.loads(content)
    except (ValueError, RecursionError):
        return None
