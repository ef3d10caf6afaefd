"""Which test modules meet Airflow: those that import it, or anything of ours that does, however far away."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).parents[1]
# Errors take nothing from Airflow but their base class, so an import of them alone does not count.
ONLY_A_BASE_CLASS = PROJECT / "airflow_provider_evoimage" / "exceptions.py"


@cache
def meets_airflow(module: Path) -> bool:
    """Tell whether a test module imports Airflow, itself or by what it imports."""
    return way_to_airflow(module) is not None


def way_to_airflow(module: Path) -> list[Path] | None:
    """Return the shortest chain of files from this one to one that imports Airflow; None if there is none."""
    ways, known = [[module]], {module, ONLY_A_BASE_CLASS}
    for way in ways:
        names = _imported(way[-1])
        if any(name.partition(".")[0] == "airflow" for name in names):
            return way
        for file in {file for name in names for file in _files(name)} - known:
            known.add(file)
            ways.append([*way, file])
    return None


@cache
def _imported(file: Path) -> frozenset[str]:
    """Names that a file imports, those inside its functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{each.name}" for each in node.names}
    return frozenset(names)


def _files(name: str) -> Iterator[Path]:
    """Return the files of this project that run when `name` is imported: a module and the packages around it."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        path = PROJECT.joinpath(*parts[:length])
        yield from (each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file())
