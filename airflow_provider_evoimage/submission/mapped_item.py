"""Identifies the item of a mapped list that a task instance stands for: by its content, not by its place.

Airflow numbers mapped tasks by position. When a list is expanded again after a clear, in another order or
with an item inserted, a position stands for another item. A submission belongs to the item.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from itertools import islice, product
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

from airflow_provider_evoimage.evolink.signed_urls import unsigned
from airflow_provider_evoimage.exceptions import EvoImageError, InvalidRequestError

# Arguments that say where an image is saved or who is notified, not what is drawn.
_NOT_DRAWN = frozenset(
    {
        "save_to",
        "filename_template",
        "callback_url",
        "cleanup_references",
        "evoimage_conn_id",
        "map_index_template",
    }
)

# Arguments of the operator for people alone; an argument of this name of a function may well change its prompt.
_FOR_PEOPLE = frozenset({"name", "labels"})


# Of a context: the items that were read.
_ITEMS = "evoimage_mapped_items"


@dataclass(frozen=True)
class MappedItem:
    """One item of the list that a task is mapped over.

    :param digest: of the item's content; "" for a task that is not mapped.
    :param occurrence: how many equal items come before it.
    """

    digest: str = ""
    occurrence: int = 0


def mapped_item(context: Mapping[str, Any]) -> MappedItem:
    """Return the item of this task instance.

    :raises EvoImageError: when the list cannot be read; nothing has been submitted then.
    """
    ti = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    if map_index < 0:
        return MappedItem()
    expand_input = _expand_input(getattr(ti, "task", None))
    if expand_input is None:
        return MappedItem(f"position {map_index}")
    try:
        items = _items_so_far(expand_input, context)
        if len(items) > map_index:
            _raise_if_unresolved(items[map_index])
    except Exception as error:
        raise _unreadable_list(error) from error
    if len(items) <= map_index:
        return MappedItem(f"position {map_index}")
    ignored = _NOT_DRAWN | _FOR_PEOPLE if _is_mapped_operator(ti.task) else _NOT_DRAWN
    *earlier, digest = [_digest(item, ignored) for item in items]
    return MappedItem(digest, earlier.count(digest))


def refuse_rendered_data(context: Mapping[str, Any]) -> None:
    """Refuse values that came from an upstream task through ``expand_kwargs`` and that Airflow rendered as templates.

    A row of data could name a connection or a file in a template, and its content would be sent to EvoLink.

    :raises InvalidRequestError: naming the argument; never its value.
    """
    ti = context["ti"]
    task = getattr(ti, "task", None)
    expand_input = _expand_input(task) if (ti.map_index or 0) >= 0 else None
    if expand_input is None or isinstance(expand_input.value, Mapping):
        # The values of expand() come through unrendered, or the DAG author wrote them.
        return
    rows = expand_input.value
    row = rows[ti.map_index] if isinstance(rows, Sequence) else rows
    if isinstance(row, Mapping):
        return
    try:
        given = _items_so_far(expand_input, context)[ti.map_index]
    except Exception:  # noqa: BLE001 (mapped_item says what is wrong with the list)
        return
    for name, value in given.items() if isinstance(given, Mapping) else ():
        arguments = getattr(task, "op_kwargs", None)
        rendered = arguments.get(name) if isinstance(arguments, Mapping) and name in arguments else None
        rendered = getattr(task, name, value) if rendered is None else rendered
        if name in _rendered_names(task) and _plain(rendered) != _plain(value):
            raise InvalidRequestError(
                f"{name} of this mapped item comes from an upstream task, and Airflow rendered it as a template, which "
                "could send a secret to EvoLink. Wrap such values in airflow.sdk.literal(…), or map with expand()."
            )


def is_given_by_upstream(context: Mapping[str, Any], argument: str) -> bool:
    """Tell whether a mapped task has this argument from an upstream task, not from the DAG author.

    :raises EvoImageError: when the list cannot be read; nothing has been submitted then.
    """
    ti = context["ti"]
    if ti.map_index is None or ti.map_index < 0:
        return False
    expand_input = _expand_input(getattr(ti, "task", None))
    if expand_input is None:
        return False
    value = expand_input.value
    if isinstance(value, Mapping):
        return _is_output(value.get(argument))
    row = value[ti.map_index] if isinstance(value, Sequence) else value
    if isinstance(row, Mapping):
        return _is_output(row.get(argument))
    try:
        given = _items_so_far(expand_input, context)[ti.map_index]
    except Exception as error:
        raise _unreadable_list(error) from error
    return isinstance(given, Mapping) and argument in given


def _unreadable_list(error: Exception) -> EvoImageError:
    return EvoImageError(
        f"The list that this task is mapped over cannot be read: {error}",
        billed=False,
        on_retry="Nothing was submitted; a retry reads it again.",
    )


def _is_output(value: Any) -> bool:
    return hasattr(value, "resolve") and hasattr(value, "iter_references")


def _rendered_names(task: Any) -> set[str]:
    arguments = getattr(task, "op_kwargs", None)
    return {*type(task).template_fields, *(arguments if isinstance(arguments, Mapping) else ())}


def require_names_by_item(
    context: Mapping[str, Any], *, template: str, tells_tasks_apart: bool, default: str | None
) -> None:
    """Check before anything is paid that the items of a mapped task do not save under one name.

    :param template: of the file names, as rendered.
    :param tells_tasks_apart: whether a field of the template differs from item to item.
    :param default: the argument's default.
    :raises InvalidRequestError: when every item would have the same name.
    """
    if tells_tasks_apart or not is_same_for_all_items(context, "filename_template", default):
        return
    if is_same_for_all_items(context, "save_to"):
        raise InvalidRequestError(
            f"filename_template {template!r} gives every item of this mapped task the same name: add {{map_index}}, "
            "{map_suffix} or {evolink_task_id} to it, or map filename_template or save_to."
        )


def is_same_for_all_items(context: Mapping[str, Any], argument: str, default: Any = None) -> bool:
    """Tell whether every item of a mapped task has the same text as this argument; False if it is not mapped.

    :param argument: of the operator; a text.
    :param default: the argument's default, which no author wrote.
    """
    ti = context["ti"]
    task = getattr(ti, "task", None)
    if ti.map_index is None or ti.map_index < 0 or task is None or not task.has_dag():
        return False
    definition = task.dag.task_dict[task.task_id]
    is_mapped = hasattr(definition, "partial_kwargs")
    written = _as_written(definition, argument, default) if is_mapped else getattr(definition, argument)
    if written is _MAPPED:
        return bool(getattr(task, argument) == default)
    return written is None or (isinstance(written, str) and "{{" not in written and "{%" not in written)


def _as_written(definition: Any, argument: str, default: Any) -> Any:
    """Return what the DAG gives a mapped operator as an argument that is the same for all items, else ``_MAPPED``."""
    if argument in definition.partial_kwargs:
        return definition.partial_kwargs[argument]
    # Empty for a decorated function, which is mapped over arguments of its own.
    rows = definition.expand_input.value
    if not isinstance(rows, Mapping) or argument in rows:
        return _MAPPED
    group = definition.task_group
    defaults = {**definition.dag.default_args, **((group.default_args if group else None) or {})}
    return defaults.get(argument, default)


_MAPPED = object()


def _expand_input(task: Any) -> Any:
    """Return the input over which Airflow expands the task or the mapped task group around it.

    These are Airflow's own attributes, the same from 3.1 to 3.3. If one is missing, the position is used.
    """
    if task is None or not task.has_dag():
        return None
    # The running task was made from one item; its definition in the DAG has them all.
    definition = task.dag.task_dict[task.task_id]
    if hasattr(definition, "_get_specified_expand_input"):
        return definition._get_specified_expand_input()  # noqa: SLF001
    return getattr(definition.get_closest_mapped_task_group(), "_expand_input", None)


def _items_so_far(expand_input: Any, context: Mapping[str, Any]) -> list[Any]:
    """Return the items up to that of this task instance; fewer where the list has become shorter.

    They are read once in the life of a context, as each reading is a request to Airflow.
    """
    if _ITEMS not in context:
        cast("dict[str, Any]", context)[_ITEMS] = _items(expand_input, context["ti"].map_index + 1, context)
    found: list[Any] = context[_ITEMS]
    return found


def _items(expand_input: Any, count: int, context: Mapping[str, Any]) -> list[Any]:
    """Return the first items of the list, in Airflow's order: the last argument of ``expand`` varies fastest."""
    value = expand_input.value
    if not isinstance(value, Mapping):
        return _first(value, count, context)
    fields = [_first(each, None, context) for each in value.values()]
    return [dict(zip(value, item, strict=True)) for item in islice(product(*fields), count)]


def _first(value: Any, count: int | None, context: Mapping[str, Any]) -> list[Any]:
    value = _resolved(value, context)
    if isinstance(value, Mapping):
        return list(islice(value.items(), count))
    return [_resolved(item, context) for item in _taken(value, count)]


@dataclass(frozen=True)
class _Unresolved:
    """An item that ``.map()`` skips or fails on; that is a matter of its own task instance."""

    error: Exception


def _raise_if_unresolved(item: Any) -> None:
    for value in [item, *(item.values() if isinstance(item, Mapping) else ())]:
        if isinstance(value, _Unresolved):
            raise value.error


def _taken(value: Any, count: int | None) -> list[Any]:
    """Take the first items of a list with one XCom request for each list that it is made of.

    Iterating over Airflow's sequences makes a request for each item of each. Their classes are private, and the same
    from 3.1 to 3.3; any other sequence is iterated over.
    """
    match type(value).__name__:
        case "LazyXComSequence":
            return list(value[:count])
        case "_MapResult":
            return [_mapped(item, value.callables) for item in _taken(value.value, count)]
        case "_ZipResult":
            columns = [_taken(each, count) for each in value.values]
            return list(islice(type(value)(columns, fillvalue=value.fillvalue), count))
        case "_ConcatResult":
            found: list[Any] = []
            for each in value.values:
                found += _taken(each, None if count is None else count - len(found))
                if count is not None and len(found) >= count:
                    break
            return found
        case _:
            return list(islice(value.items() if isinstance(value, Mapping) else value, count))


def _mapped(item: Any, functions: Iterable[Callable[[Any], Any]]) -> Any:
    if isinstance(item, _Unresolved):
        return item
    try:
        for function in functions:
            item = function(item)
    except Exception as error:  # noqa: BLE001 (the DAG author's function; Airflow skips or fails that item)
        return _Unresolved(error)
    return item


def _resolved(value: Any, context: Mapping[str, Any]) -> Any:
    return value.resolve(context) if _is_output(value) else value


def _is_mapped_operator(task: Any) -> bool:
    """Whether a list holds arguments of the operator, not of a function or of a group of tasks."""
    definition = task.dag.task_dict[task.task_id]
    return hasattr(definition, "expand_input") and not hasattr(definition, "op_kwargs_expand_input")


def _digest(item: Any, ignored: Set[str] = _NOT_DRAWN) -> str:
    if isinstance(item, Mapping):
        item = {name: value for name, value in item.items() if name not in ignored}
    text = json.dumps(_plain(item), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Turn a value into JSON that is the same in each process; a value without such a form counts by its type."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return unsigned(value) if value.startswith(("http://", "https://")) else value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_plain(each) for each in value]
    if isinstance(value, Set):
        return sorted(json.dumps(_plain(each), sort_keys=True) for each in value)
    if isinstance(value, (date, timedelta, Decimal, PurePath, UUID)):
        return str(value)
    if type(value).__name__ == "LiteralValue":  # airflow.sdk.literal
        return _plain(value.value)
    return f"<{type(value).__name__}>"
