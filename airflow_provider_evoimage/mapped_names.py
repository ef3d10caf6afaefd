"""Names of mapped task instances in the Airflow UI: from what they are mapped over, instead of a number."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_evoimage.version_compat import redacted

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    _Operator = BaseOperator
else:
    _Operator = object

#: What ``map_index_template`` of a mapped task is where the author sets none. Never a Python literal, see below.
DEFAULT_TEMPLATE = "{{ task.item_name or '#' ~ ti.map_index }}"
#: Characters of a name; Airflow's column has 250.
LONGEST = 60
_LONGEST_PART = 40
# Of a row or a manifest, the field that people know it by.
_NAMES_OF_ROWS = ("name", "title", "prompt", "sku", "id", "evolink_task_id")
_PATH = re.compile(r"[a-z0-9+]{2,}://\S+|/\S+|\S+\.[a-z0-9]{2,5}", re.IGNORECASE)
_QUERY = re.compile(r"(https?://[^\s?#]+)[?#]\S*", re.IGNORECASE)


class NamedWhenMapped(_Operator):
    """An operator whose mapped instances have a name of their own, unless ``map_index_template`` says another."""

    #: Arguments that name an instance where the rows come from another task.
    naming_fields: ClassVar[Sequence[str]] = ("prompt",)

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Begin to map, as any operator does; None for ``map_index_template`` leaves the numbers."""
        mapped = super().partial(**kwargs)
        if "map_index_template" not in kwargs and mapped.kwargs.get("map_index_template") is None:
            mapped.kwargs["map_index_template"] = DEFAULT_TEMPLATE
        return mapped

    @property
    def item_name(self) -> str:
        """Name this instance; empty if nothing names it. Never raises: Airflow would fail a task that has paid."""
        try:
            return name_of(self)
        except Exception:  # noqa: BLE001 (a name is no reason to fail)
            return ""


def name_of(task: Any) -> str:
    """Return the name of a mapped task instance, at most 60 characters of one line."""
    definition = task.dag.task_dict[task.task_id]
    arguments = getattr(task, "op_kwargs", None)
    arguments = arguments if isinstance(arguments, Mapping) else {}
    expanded = definition._get_specified_expand_input().value  # noqa: SLF001
    names = list(expanded) if isinstance(expanded, Mapping) else [*arguments, *task.naming_fields]
    values = [arguments[name] if name in arguments else getattr(task, name, None) for name in names]
    parts = [each for each in map(_part, values) if each]
    if not isinstance(expanded, Mapping):
        parts = parts[:1]
    return _not_a_literal(_one_line(" · ".join(parts), LONGEST))


def _part(value: Any) -> str:
    if isinstance(value, Mapping):
        request = value.get("request")
        rows = [request, value] if isinstance(request, Mapping) else [value]
        named = (row[name] for row in rows for name in _NAMES_OF_ROWS if row.get(name))
        return _part(next(named, ""))
    if isinstance(value, (list, tuple)):
        first = _part(value[0]) if value else ""
        return f"{first} +{len(value) - 1}" if first and len(value) > 1 else first
    if isinstance(value, (int, float)):
        return str(value)
    if not isinstance(value, str):
        return ""
    text = _QUERY.sub(r"\1", str(redacted(value[:2_000]))).strip()
    if _PATH.fullmatch(text):
        text = text.rstrip("/").rpartition("/")[2]
    return _one_line(text, _LONGEST_PART)


def _one_line(text: str, most: int) -> str:
    """Shorten at a word; without characters that turn, hide or break a line, or that no database takes."""
    kept = "".join(" " if each.isspace() else each for each in text if each.isspace() or _is_shown(each))
    words = " ".join(kept.split())
    if len(words) <= most:
        return words
    short = words[: most - 1]
    at_a_word = short.rpartition(" ")[0]
    return f"{at_a_word if len(at_a_word) > most // 2 else short}…"


def _is_shown(character: str) -> bool:
    # Controls, formats such as text direction, halves of characters, private use, unassigned.
    return unicodedata.category(character)[0] != "C"


def _not_a_literal(text: str) -> str:
    """Return text that stays text: a DAG with ``render_template_as_native_obj`` makes a number of "12", and fails."""
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return f"“{text}”"
