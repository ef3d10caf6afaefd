"""The types that users annotate with say what the schema, the pages and the code say."""

from __future__ import annotations

import ast
import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import (
    Any,
    Literal,
    NotRequired,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import pytest

import airflow_provider_evoimage
from airflow_provider_evoimage import shapes
from airflow_provider_evoimage.batch.items import ITEM_FIELDS
from airflow_provider_evoimage.batch.summary import SUMMARY_VERSION
from airflow_provider_evoimage.decorators.evoimage import ARGUMENTS, REQUEST_FIELDS
from airflow_provider_evoimage.defaults import Model, Quality, Size
from airflow_provider_evoimage.evolink.model_facts import MODELS, REFERENCE_RULES
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.ingest.outcome import IngestOutcome

PACKAGE = Path(airflow_provider_evoimage.__file__).parent
DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = json.loads((PACKAGE / "manifest.schema.json").read_text(encoding="utf-8"))
JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
#: Where the schema names no properties, or gives those of any name one type.
OPEN = {"request", "tokens", "labels"}
MADE_BY = shapes.MadeBy(dag_id="a", run_id="b", task_id="c", map_index=-1)


def parts(hint: Any) -> list[Any]:
    """Return the types of a union; one alone as it is."""
    return list(get_args(hint)) if get_origin(hint) in {Union, types.UnionType} else [hint]


def json_types(hint: Any) -> set[str]:
    """Name the JSON types of a hint."""
    found = set()
    for part in parts(hint):
        if is_typeddict(part) or get_origin(part) is dict:
            found.add("object")
        elif get_origin(part) is list:
            found.add("array")
        elif get_origin(part) is Literal:
            found |= {JSON_TYPES[type(value)] for value in get_args(part)}
        else:
            found.add(JSON_TYPES[part])
    return found


def nested(hint: Any) -> tuple[str, Any] | None:
    """Return the TypedDict in a hint, and ``[]`` where it is that of a list's items."""
    for part in parts(hint):
        if is_typeddict(part):
            return "", part
        if get_origin(part) is list and is_typeddict(get_args(part)[0]):
            return "[]", get_args(part)[0]
    return None


def rows(shape: Any, prefix: str = "") -> Iterator[tuple[str, frozenset[str], bool]]:
    """Describe each field of a TypedDict, with what it nests: name, JSON types, whether it is required."""
    for name, hint in get_type_hints(shape).items():
        yield f"{prefix}{name}", frozenset(json_types(hint)), name in shape.__required_keys__
        if (inner := nested(hint)) is not None:
            yield from rows(inner[1], f"{prefix}{name}{inner[0]}.")


def schema_rows(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, frozenset[str], bool]]:
    """Describe each property of the schema likewise."""
    for name, field in node["properties"].items():
        listed = field["type"] if isinstance(field["type"], list) else [field["type"]]
        yield f"{prefix}{name}", frozenset(listed), name in node["required"]
        if name in OPEN:
            continue
        if "properties" in field:
            yield from schema_rows(field, f"{prefix}{name}.")
        elif "properties" in field.get("items", {}):
            yield from schema_rows(field["items"], f"{prefix}{name}[].")


def test_manifest_is_the_schema():
    assert set(rows(shapes.Manifest)) == set(schema_rows(SCHEMA))
    assert len(list(rows(shapes.Manifest))) > 70


def test_saved_manifest_differs_only_in_what_saved_images_have():
    differ = set(rows(shapes.SavedManifest)) ^ set(rows(shapes.Manifest))
    saved = {"path", "sha256", "bytes", "content_type", "width", "height"}
    assert {name for name, _, _ in differ} == {f"images[].{name}" for name in saved}
    assert {name for name, _, required in rows(shapes.SavedManifest) if required} >= {
        f"images[].{name}" for name in saved
    }


@pytest.mark.parametrize(
    ("shape", "node"),
    [
        (shapes.ManifestImage, ("images", "items", "content_type")),
        (shapes.ReusableFor, ("reusable_for", "provenance")),
    ],
)
def test_known_values_are_those_of_the_schema(shape: Any, node: tuple[str, ...]):
    field = SCHEMA["properties"][node[0]]
    for name in node[1:-1]:
        field = field[name]
    assert list(get_args(get_type_hints(shape)[node[-1]])) == field["properties"][node[-1]]["enum"]


def test_batch_summary_is_the_table_of_its_page():
    page = (DOCS / "batch.md").read_text(encoding="utf-8")
    table = page.partition("<!-- summary -->\n")[2].partition("\n\n")[0]
    listed = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", table, flags=re.MULTILINE)
    assert {(name, frozenset(kinds.split(" or "))) for name, kinds in listed} == {
        (name, kinds) for name, kinds, _ in rows(shapes.BatchSummary)
    }
    assert get_args(get_type_hints(shapes.BatchSummary)["v"]) == (SUMMARY_VERSION,)
    assert shapes.BatchSummary.__optional_keys__ == {"warning"}


def test_ingest_summary_has_the_keys_that_are_written():
    assert list(IngestOutcome().summary(MADE_BY)) == list(get_type_hints(shapes.IngestSummary))


def test_requests_have_the_fields_that_are_read():
    assert set(get_type_hints(shapes.BatchRequest)) == set(ITEM_FIELDS)
    assert set(get_type_hints(shapes.ImageRequestFields)) == {*REQUEST_FIELDS, *ARGUMENTS}
    assert shapes.ImageRequestFields.__required_keys__ == {"prompt"}
    # `defaults` is what the request itself notes.
    assert set(get_type_hints(shapes.RequestArguments)) == set(ImageRequest.model_fields) - {"defaults"}
    assert shapes.RequestArguments.__required_keys__ == {"model", "prompt"}


def test_offered_words_are_those_of_the_catalogue():
    facts = MODELS.values()
    assert set(get_args(Model)) == {*MODELS, *REFERENCE_RULES}
    assert set(get_args(Size)) == {size for each in facts for size in each.sizes}
    assert set(get_args(Quality)) == {
        quality for each in facts for quality in (*each.qualities, *each.disputed_qualities)
    }


def test_comparison_sees_what_is_missing():
    longer = TypedDict("longer", {**get_type_hints(shapes.MadeBy), "more": NotRequired[int]})
    assert set(rows(longer)) - set(rows(shapes.MadeBy)) == {("more", frozenset({"integer"}), False)}


def test_module_is_cheap_to_import():
    tree = ast.parse((PACKAGE / "shapes.py").read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"collections.abc", "typing", "airflow_provider_evoimage.defaults"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
