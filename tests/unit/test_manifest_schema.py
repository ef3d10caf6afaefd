"""The manifest's schema, its table in the docs, and what the code writes are one and the same."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from airflow.sdk import ObjectStoragePath

import airflow_provider_evoimage
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.images.result_file import IMAGE_TYPES
from airflow_provider_evoimage.manifest import MANIFEST_VERSION, RequestSummary, build_manifest, without_links
from tests.unit.test_manifest import ANSWER, LINKS, MADE_BY, SAVED, a_manifest

SCHEMA = json.loads((Path(airflow_provider_evoimage.__file__).parent / "manifest.schema.json").read_text())
PAGE = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text(encoding="utf-8")
APPROVAL = {
    "by": {"id": "7", "name": "Ada"},
    "at": "2026-11-27T10:00:00+00:00",
    "chosen": [2],
    "comment": None,
    "sha256": ["0" * 64, "2" * 64],
}
CHECK = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())


def rows(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Write the schema's properties as the page's rows."""
    for name, field in node.get("properties", {}).items():
        types = field["type"] if isinstance(field["type"], list) else [field["type"]]
        yield f"`{prefix}{name}`", " or ".join(types), field["description"]
        yield from rows(field, f"{prefix}{name}.")
        yield from rows(field.get("items", {}), f"{prefix}{name}[].")


def fields(value: Any, prefix: str = "") -> Iterator[str]:
    """Name every field of a manifest as the page does."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"`{prefix}{name}`"
            if name not in {"request", "tokens"}:
                yield from fields(inner, f"{prefix}{name}.")
    if isinstance(value, list):
        for inner in value:
            yield from fields(inner, f"{prefix.removesuffix('.')}[].")


def test_schema_is_a_schema_of_the_version_that_is_written():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["v"]["const"] == MANIFEST_VERSION


def test_page_has_one_row_for_each_field_as_the_schema_says_it():
    table = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \| ([^|]+) \|$", PAGE, flags=re.MULTILINE)
    assert table == list(rows(SCHEMA))


def test_code_writes_every_field_of_the_schema_and_no_other():
    written = set(fields(a_manifest() | {"approval": APPROVAL}))
    assert written == {name for name, _, _ in rows(SCHEMA)}


@pytest.mark.parametrize(
    "manifest",
    [
        a_manifest(),
        without_links(a_manifest()),
        a_manifest(status="processing", results=[], usage=None),
        a_manifest(created=None, duration=None, model=None),
        build_manifest(
            Generation.read(ANSWER), requested=RequestSummary(), made_by=MADE_BY | {"map_index": 7}
        ),
        build_manifest(Generation.read({"id": ANSWER["id"]}), requested=RequestSummary(), made_by=MADE_BY),
        a_manifest() | {"approval": APPROVAL},
        without_links(a_manifest())
        | {"images": [], "approval": APPROVAL | {"by": None, "chosen": [], "sha256": []}},
    ],
    ids=[
        "saved",
        "sidecar",
        "unfinished",
        "without times",
        "mapped, by id",
        "nothing known",
        "approved",
        "rejected",
    ],
)
def test_every_manifest_fits_the_schema(manifest: dict[str, Any]):
    CHECK.validate(manifest)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"made": -1},
        {"surprise": 1},
        {"images": [{"index": 0, "sha256": "no"}]},
        {"images": [{**SAVED, "content_type": "text/html"}]},
        {"usage": {}},
        {"approval": {**APPROVAL, "sha256": ["no"]}},
    ],
    ids=str,
)
def test_schema_refuses_what_is_no_manifest(change: dict[str, Any]):
    assert not CHECK.is_valid(a_manifest() | change)


def test_schema_names_every_type_that_is_taken():
    images = SCHEMA["properties"]["images"]["items"]["properties"]
    assert images["content_type"]["enum"] == [content_type for _, content_type in IMAGE_TYPES.values()]


def test_page_tells_a_year_later_what_made_a_file(tmp_path: Path):
    page: dict[str, Any] = {"__name__": "page"}
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(code, "manifest.md", "exec"), page)
    image = tmp_path / "moved-here.png"
    image.write_bytes(b"an image")
    saved = {**SAVED, "sha256": hashlib.sha256(b"an image").hexdigest()}
    manifest = without_links(a_manifest() | {"images": [{"index": 0, "url": LINKS[0]}, saved]})
    (tmp_path / "draw-0.json").write_text(json.dumps(manifest))

    found = page["origin"](ObjectStoragePath(image.as_uri()))
    assert page["in_words"](found) == (
        "'a red fox' by gpt-image-1.5, 2025-09-06T11:00:00+00:00, 8.1474 credits, DAG run campaign run"
    )
