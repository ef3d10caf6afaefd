"""Names of saved files: a template, its fields, and what file systems take."""

from __future__ import annotations

import hashlib
import re
import string
import unicodedata
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from airflow_provider_evoimage.defaults import MANY_GENERATIONS, ONE_GENERATION
from airflow_provider_evoimage.exceptions import (
    InvalidRequestError,
)

#: The fields of a ``filename_template``.
NAME_FIELDS: dict[str, str] = {
    "dag_id": "id of the DAG",
    "run_id": "id of the DAG run",
    "task_id": "id of the Airflow task",
    "map_index": "index of a mapped task, -1 for others",
    "map_suffix": "'-' and the index of a mapped task, empty for others",
    "item": "which generation of this save, from 0",
    "name": "the item's own name in a batch; its number where it has none",
    "index": "which image of the generation, from 0",
    "ext": "extension by the image's real type, without the dot",
    "evolink_task_id": "EvoLink's id of the generation",
    "model": "model that made the image",
}
_NUMBERS = frozenset({"map_index", "item", "index"})
_EXTENSION = ".{ext}"
_LIKE_A_MAPPED_TASK = re.compile(r"-\d+$")
#: As long as EvoLink's ids, for names that are checked before the id is known.
SOME_ID = "task-unified-0000000000-{:08}"
# Most file systems allow 255 bytes; extensions, part files and records need some of them.
_MAX_NAME_BYTES = 194
_PLAIN = frozenset("_.+=@-")
# Forbidden on Windows shares, or special in a URL.
_FORBIDDEN = frozenset('\\:*?"<>|#')


class FileNames:
    """Names by a template such as ``{dag_id}/{run_id}/{task_id}{map_suffix}-{index}.{ext}``.

    The slashes of the template make folders; those in a value do not.

    :raises InvalidRequestError: when the template names an unknown field, or is no relative path.
    """

    def __init__(self, template: str) -> None:
        self.template = template.strip()
        try:
            parsed = list(string.Formatter().parse(self.template))
        except ValueError as error:
            raise self._wrong(str(error)) from error
        for _, field, format_spec, conversion in parsed:
            if field is not None and (field not in NAME_FIELDS or conversion or "{" in (format_spec or "")):
                raise self._wrong(f"unknown field {{{field}}}; available fields: {', '.join(NAME_FIELDS)}")
        if not self.template or self.template.endswith("/"):
            raise self._wrong("it names no file")
        if self.template.startswith("/") or "\\" in self.template or "://" in self.template:
            raise self._wrong("it must be relative to save_to")
        if ".." in PurePosixPath(self.template).parts:
            raise self._wrong("it must not leave save_to")
        if any(ord(letter) < ord(" ") for letter in self.template):
            raise self._wrong("it holds a control character")
        self.fields = frozenset(field for _, field, _, _ in parsed if field is not None)
        if not self.template.endswith(_EXTENSION):
            raise self._wrong(
                "it must end with .{ext}, as the type of an image is known from its bytes alone"
            )
        # A format that does not fit a field fails here, before the images are paid for.
        filled = self.name(
            {field: 0 if field in _NUMBERS else field for field in NAME_FIELDS} | {"map_suffix": ""}
        )
        if forbidden := _FORBIDDEN.intersection(filled):
            raise self._wrong(f"some stores forbid {' '.join(sorted(forbidden))} in names")

    def name(self, fields: Mapping[str, str | int]) -> str:
        """Fill in the template; return a relative path with ``/``."""
        safe = {key: value if isinstance(value, int) else _safe(value) for key, value in fields.items()}
        try:
            filled = self.template.removesuffix(_EXTENSION).format_map(safe)
        except (ValueError, TypeError) as error:
            raise self._wrong(str(error)) from error
        *folders, stem = filled.split("/")
        # A leading dot hides a file, and "." and ".." are places, not names.
        parts = [_shortened(part.lstrip(".") or "_") for part in (*filter(None, folders), stem)]
        return f"{'/'.join(parts)}.{safe['ext']}"

    @property
    def with_index(self) -> FileNames:
        """The same names with the index of the image, where they lack it."""
        if "index" in self.fields:
            return self
        return FileNames(f"{self.template.removesuffix(_EXTENSION)}-{{index}}{_EXTENSION}")

    @property
    def tells_tasks_apart(self) -> bool:
        """Whether two items of a mapped task never have one name."""
        return not self.fields.isdisjoint({"map_index", "map_suffix", "evolink_task_id"})

    def are_only_of(self, made_by: Mapping[str, Any]) -> bool:
        """Whether no other task of the DAG run has these names, unless it saves the same generation.

        A task ``draw-2`` may have the names of an item of a task ``draw``, so it is never sure; nor is a mapped task.
        """
        if "evolink_task_id" in self.fields:
            return True
        is_default = self.template in {ONE_GENERATION, MANY_GENERATIONS}
        return is_default and made_by["map_index"] < 0 and not _LIKE_A_MAPPED_TASK.search(made_by["task_id"])

    def planned(
        self, made_by: Mapping[str, Any], *, item: int, own_name: str, model: str, images: int, of: str
    ) -> list[str]:
        """Return the names that a request's images will have, without their extensions; used before it is submitted.

        :param own_name: of the item, for ``{name}``; its number where it has none.
        :param images: how many images are requested.
        :param of: the request in an error's words.
        :raises InvalidRequestError: when several images would have one name.
        """
        if images > 1 and "index" not in self.fields:
            raise InvalidRequestError(
                f"filename_template {self.template!r} gives the {images} images of {of} the same name: "
                "add {index} to it."
            )
        fields = {
            **task_fields(made_by),
            "item": item,
            "name": own_name,
            "evolink_task_id": SOME_ID.format(item),
            "model": model,
            "ext": "json",
        }
        return [self.name({**fields, "index": index}) for index in range(images)]

    def _wrong(self, why: str) -> InvalidRequestError:
        return InvalidRequestError(f"filename_template {self.template!r} cannot be used: {why}.")


def _safe(value: str) -> str:
    """Keep letters, marks and digits of any script; each run of others becomes one ``_``."""
    composed = unicodedata.normalize("NFC", value)
    kept = (
        letter if letter in _PLAIN or unicodedata.category(letter)[0] in "LMN" else " " for letter in composed
    )
    # Empty stays empty: the suffix of a task that is not mapped.
    return re.sub(" +", "_", "".join(kept))


def _shortened(name: str) -> str:
    """Shorten a name without its extension to what file systems take; in the middle, to keep an index at its end.

    A hash of the whole name replaces the middle, so that two long names differ.
    """
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    head, tail = name, name[-40:]
    while len(f"{head}~{digest}~{tail}".encode()) > _MAX_NAME_BYTES:
        head = head[:-1]
    return f"{head}~{digest}~{tail}"


def task_fields(made_by: Mapping[str, Any]) -> dict[str, str | int]:
    """Return the fields of file names that identify the Airflow task."""
    map_index = int(made_by["map_index"])
    return {
        "dag_id": str(made_by["dag_id"]),
        "run_id": str(made_by["run_id"]),
        "task_id": str(made_by["task_id"]),
        "map_index": map_index,
        "map_suffix": f"-{map_index}" if map_index >= 0 else "",
    }


def folded(name: str) -> str:
    """Return a form that is equal for two names if a file system ignores case and how an accent is composed."""
    return unicodedata.normalize("NFC", name).casefold()
