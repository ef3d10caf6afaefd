"""What the package says of itself, as Markdown tables for the reference. Knows nothing of Sphinx."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

import airflow_provider_evoimage
from airflow_provider_evoimage import exceptions
from airflow_provider_evoimage.command.app import app
from airflow_provider_evoimage.defaults import CONNECTION_EXTRAS, MANY_GENERATIONS, ONE_GENERATION
from airflow_provider_evoimage.get_provider_info import get_provider_info
from airflow_provider_evoimage.simulator.__main__ import build_parser
from airflow_provider_evoimage.storage.file_names import NAME_FIELDS

PACKAGE = Path(airflow_provider_evoimage.__file__).parent
EXAMPLES = Path(__file__).parents[2] / "example_dags"

#: What each environment variable is for; :func:`variables_that_are_read` finds the names in the code.
ENVIRONMENT = {
    "AIRFLOW_CONN_EVOIMAGE_DEFAULT": "Airflow: the connection `evoimage_default` as JSON or URI",
    "AIRFLOW__EVOIMAGE__IMAGE_ROOTS": "api-server: folders whose pictures the Airflow UI may show, a JSON list",
    "EVOLINK_API_KEY": "command `evoimage`: the API key, where no Airflow connection is named",
    "EVOLINK_BASE_URL": "command `evoimage`: base URL of the API, beside `EVOLINK_API_KEY`",
    "EVOLINK_FILES_BASE_URL": "command `evoimage`: base URL of the files API, beside `EVOLINK_API_KEY`",
    "EVOIMAGE_CONN_ID": "command `evoimage`: the Airflow connection to use, as `--conn-id` does",
}
# Read or set for other programs' sake: the width of a terminal, Airflow's own log level and process context.
NOT_OURS = frozenset({"COLUMNS", "AIRFLOW__LOGGING__LOGGING_LEVEL", "_AIRFLOW_PROCESS_CONTEXT"})


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def provider_modules(kind: str) -> list[str]:
    """Return the modules that the provider's description lists under ``operators``, ``sensors``, and so on."""
    info: Any = get_provider_info()
    return [module for entry in info[kind] for module in entry["python-modules"]]


def public_classes(kind: str) -> list[type]:
    """Return the public classes of those modules, in the order of their modules."""
    return [
        found
        for module in map(importlib.import_module, provider_modules(kind))
        for name, found in vars(module).items()
        if inspect.isclass(found) and found.__module__ == module.__name__ and name.startswith("EvoImage")
    ]


def names_in_annotations() -> set[str]:
    """Return the names that annotations of the public classes use, except those of errors."""
    found = set()
    for each in {
        each for kind in ("operators", "sensors", "hooks", "triggers") for each in public_classes(kind)
    }:
        for node in ast.walk(ast.parse(Path(inspect.getfile(each)).read_text(encoding="utf-8"))):
            annotation = getattr(node, "annotation", None) or getattr(node, "returns", None)
            if annotation is not None:
                found.update(name.id for name in ast.walk(annotation) if isinstance(name, ast.Name))
    return {name for name in found if not name.endswith("Error")}


def errors() -> list[type[exceptions.EvoImageError]]:
    """Return the error classes in the order of their file."""
    return [
        found
        for found in vars(exceptions).values()
        if inspect.isclass(found) and issubclass(found, exceptions.EvoImageError)
    ]


def error_tree() -> str:
    """Return the tree of errors that the module draws."""
    return (exceptions.__doc__ or "").strip()


def connection_extras() -> str:
    """Describe each field of the connection's extra."""
    info: Any = get_provider_info()
    fields = info["connection-types"][0]["conn-fields"]
    rows = [
        [f"`{name}`", field["label"], field["description"], _default(CONNECTION_EXTRAS[name])]
        for name, field in fields.items()
    ]
    return table(["extra", "label in the form", "meaning", "default"], rows)


def _default(value: str | float | None) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else f"`{value}`"


def name_fields() -> str:
    """Describe each field of ``filename_template``, and the default templates."""
    fields = table(["field", "stands for"], [[f"`{{{name}}}`", says] for name, says in NAME_FIELDS.items()])
    defaults = table(
        ["task", "default"],
        [
            ["generate, `@task.evoimage`, and save with one generation", f"`{ONE_GENERATION}`"],
            ["batch, renditions, and save with several generations", f"`{MANY_GENERATIONS}`"],
        ],
    )
    return f"{fields}\n\n{defaults}"


def manifest_fields() -> str:
    """Describe each field of the manifest by its JSON Schema."""
    schema = json.loads((PACKAGE / "manifest.schema.json").read_text(encoding="utf-8"))
    return table(["field", "type", "required", "meaning"], _fields_of(schema, ""))


def _fields_of(schema: dict[str, Any], prefix: str) -> Iterator[list[str]]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        kinds = field.get("type", "any")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        yield [
            f"`{prefix}{name}`",
            " or ".join(kinds),
            "yes" if name in required else "",
            field.get("description", ""),
        ]
        yield from _fields_of(field, f"{prefix}{name}.")
        yield from _fields_of(field.get("items", {}), f"{prefix}{name}[].")


def command() -> str:
    """Describe each command of ``evoimage`` with its arguments and options."""
    group: Any = typer.main.get_command(app)
    parts = [group.help, group.epilog]
    for name, each in sorted(group.commands.items()):
        parts += [f"## evoimage {name}", each.help or ""]
        rows = []
        for parameter in each.params:
            if "--help" in parameter.opts:
                continue
            is_argument = parameter.param_type_name == "argument"
            shown = parameter.metavar or parameter.name if is_argument else ", ".join(parameter.opts)
            rows.append([f"`{shown}`", parameter.help or "", _default_of(parameter)])
        parts.append(table(["argument or option", "meaning", "default"], rows))
    return "\n\n".join(filter(None, parts))


def _default_of(parameter: Any) -> str:
    if parameter.required:
        return "required"
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    if parameter.default is None or parameter.default is False or shown is False:
        return ""
    return f"`{getattr(parameter.default, 'value', parameter.default)}`"


def simulator_options() -> str:
    """Describe each option of ``evoimage-simulator``."""
    formatter = argparse.HelpFormatter("evoimage-simulator")
    rows = []
    for action in build_parser("evoimage-simulator")._actions:  # noqa: SLF001 (argparse has no other list)
        if "--help" not in action.option_strings:
            names = " ".join([*action.option_strings, *([action.metavar] if action.metavar else [])])
            rows.append([f"`{names}`", formatter._expand_help(action)])  # noqa: SLF001
    return table(["option", "meaning"], rows)


def simulator_manual() -> str:
    """Return what ``evoimage-simulator --help`` says below its options."""
    return (build_parser("evoimage-simulator").epilog or "").strip()


def environment() -> str:
    """Describe each environment variable.

    :raises LookupError: when the code reads one that is not described, or one is described that nothing reads.
    """
    read = variables_that_are_read()
    if read != set(ENVIRONMENT):
        differing = ", ".join(sorted(read ^ set(ENVIRONMENT)))
        raise LookupError(f"Environment variables described and read differ: {differing}")
    return table(
        ["variable", "who reads it, and for what"],
        [[f"`{name}`", says] for name, says in ENVIRONMENT.items()],
    )


def variables_that_are_read() -> set[str]:
    """Find the environment variables of this package in its code."""
    found = {"AIRFLOW_CONN_EVOIMAGE_DEFAULT"}  # Airflow makes this name of the connection's id.
    for path in PACKAGE.rglob("*.py"):
        if "simulator" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        found.update(
            name
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            for name in _variables_of(call, constants)
        )
    return found - NOT_OURS


def _variables_of(call: ast.Call, constants: dict[str, object]) -> Iterator[str]:
    called = ast.unparse(call.func)
    words = [
        each.value if isinstance(each, ast.Constant) else constants.get(getattr(each, "id", ""))
        for each in call.args
    ]
    if called in {"os.environ.get", "os.getenv"} and isinstance(words[0], str):
        yield words[0]
    if called.startswith("conf.get") and words[:1] == ["evoimage"]:
        yield f"AIRFLOW__EVOIMAGE__{str(words[1]).upper()}"
    for keyword in call.keywords:
        if keyword.arg == "envvar" and isinstance(keyword.value, ast.Constant):
            yield str(keyword.value.value)


def examples() -> str:
    """Show each example DAG below its first line; paths are as seen from ``docs/reference/``."""
    parts = []
    for path in sorted(EXAMPLES.glob("*.py")):
        first_line = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        shown = f"```{{literalinclude}} ../../example_dags/{path.name}\n:language: python\n```"
        parts += [f"## {path.stem.replace('_', ' ').capitalize()}", first_line, shown]
    return "\n\n".join(parts)
