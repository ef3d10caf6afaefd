"""Reads the manifest of a batch for its page; the last few are kept in memory."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import OrderedDict
from typing import Any

from airflow_provider_evoimage.plugins.pictures import open_file
from airflow_provider_evoimage.plugins.roots import ImageRoots, NotShownError

MAX_BYTES = 64 * 2**20
_KEPT = 4

_ledgers: OrderedDict[tuple[str, str], list[dict[str, Any]]] = OrderedDict()
_reading = threading.Lock()


def lines_of(url: object, roots: ImageRoots, version: str) -> list[dict[str, Any]]:
    """Return the lines of a batch manifest in the order of the requests.

    :param version: changes when the batch has written its manifest again.
    :raises NotShownError: when it lies outside the roots, is gone, or is no batch manifest.
    """
    location = roots.location(str(url))
    if not location.path.endswith(".batch.jsonl"):
        raise NotShownError("This is not the manifest of a batch.", status=415)
    key = (location.url, version)
    with _reading:
        if key in _ledgers:
            _ledgers.move_to_end(key)
            return _ledgers[key]
        file, _ = open_file(location)
        with contextlib.closing(file):
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise NotShownError("The batch manifest is too large to be shown.", status=415)
        lines = []
        for text in content.decode("utf-8", "replace").split("\n"):
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and "submission" in line:
                    lines.append(line)
        lines.sort(key=lambda line: line["position"] if isinstance(line.get("position"), int) else 0)
        _ledgers[key] = lines
        while len(_ledgers) > _KEPT:
            _ledgers.popitem(last=False)
    return lines
