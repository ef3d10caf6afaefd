"""ARCHITECTURE.md is true: imports go down its floors, and every file, folder and name in it exists."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import airflow_provider_evoimage

PACKAGE = Path(airflow_provider_evoimage.__file__).parent
PROJECT = Path(__file__).parents[2]
MAP = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8")
TREE = re.search(r"^## The tree\n+```text\n(.*?)```", MAP, flags=re.MULTILINE | re.DOTALL)
CHANGES = re.findall(
    r"^\| ([^|]+) \| ([^|]+) \|$", MAP.partition("| change | file |\n|---|---|\n")[2], flags=re.MULTILINE
)
ROW = re.compile(r"^\| (\d) \| (.+?) \|", flags=re.MULTILINE)


@dataclass(frozen=True)
class Unit:
    """A folder, or a module that lies directly in the package; where the table puts it."""

    floor: int
    place: int
    is_folder: bool

    def may_import(self, other: Unit) -> bool:
        """Tell whether an import goes down; modules of one floor may use those named before them."""
        if other.floor != self.floor:
            return other.floor < self.floor
        return not other.is_folder and other.place < self.place


def floors() -> dict[str, Unit]:
    named = {}
    for number, cell in ROW.findall(MAP):
        for place, name in enumerate(re.findall(r"`([a-z_]+/?)`", cell)):
            named[name.rstrip("/")] = Unit(int(number), place, name.endswith("/"))
    return named


def unit_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports() -> list[tuple[Path, int, str]]:
    """Every import of our own: the file, its line, and the unit that it names."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = (
                    [f"{node.module}.{each.name}" for each in node.names]
                    if node.module == PACKAGE.name
                    else [node.module]
                )
            elif isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            for name in names:
                package, _, rest = name.partition(".")
                unit = rest.partition(".")[0]
                if package == PACKAGE.name and unit not in {"", "__version__"}:
                    found.append((file, node.lineno, unit))
    return found


def test_every_module_and_folder_has_a_floor():
    units = {unit_of(file) for file in PACKAGE.rglob("*.py")} - {"__init__"}
    assert set(floors()) == units


def test_imports_go_down():
    table = floors()
    wrong = [
        f"{file.relative_to(PACKAGE)}:{line} imports {unit}"
        for file, line, unit in imports()
        if unit != unit_of(file) and not table[unit_of(file)].may_import(table[unit])
    ]
    assert wrong == []


def test_check_sees_an_import_that_goes_up():
    table = floors()
    assert not table["storage"].may_import(table["operators"])
    assert not table["storage"].may_import(table["submission"])
    assert table["operators"].may_import(table["storage"])
    assert len(imports()) > 300


def test_simulator_imports_nothing_else_of_the_provider():
    assert {unit for file, _, unit in imports() if unit_of(file) == "simulator"} <= {"simulator"}


def test_every_file_that_the_map_names_exists():
    named = set(re.findall(r"`([\w./-]+\.(?:py|md|csv|toml))`", MAP))
    missing = [name for name in named if not (PACKAGE / name).exists() and not (PROJECT / name).exists()]
    assert missing == []


def tree() -> list[str]:
    """Every path of the tree, by its indentation; folders end with a slash."""
    assert TREE is not None
    paths: list[str] = []
    above: list[str] = []
    for line in TREE[1].splitlines():
        name = line.split()[0]
        above[(len(line) - len(line.lstrip())) // 2 :] = [name]
        paths.append("".join(above))
    return paths


def test_tree_names_what_exists():
    assert [path for path in tree() if not (PROJECT / path).exists()] == []


def test_tree_names_every_folder_and_module_at_the_top_of_the_package():
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    modules = {file for file in PACKAGE.glob("*.py") if file.name != "__init__.py"}
    expected = {f"{folder.relative_to(PROJECT)}/" for folder in folders} | {
        str(module.relative_to(PROJECT)) for module in modules
    }
    assert expected - set(tree()) == set()


def test_every_change_has_a_file_that_exists():
    assert len(CHANGES) >= 20
    files = {change: re.findall(r"`(Makefile|[\w-]*[./][\w./-]*)`", where) for change, where in CHANGES}
    assert [change for change, named in files.items() if not named] == []
    assert [
        name
        for named in files.values()
        for name in named
        if not (PACKAGE / name).exists() and not (PROJECT / name).exists()
    ] == []


def names_in(file: Path) -> set[str]:
    """Functions and classes of a module, methods as `Class.method`."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{each.name}"
                for each in node.body
                if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))
            }
    return found


def test_every_function_on_the_way_of_a_prompt_exists():
    steps = re.findall(r"`([\w/]+\.py)` \(((?:`[\w.]+`(?:, )?)+)\)", MAP)
    assert len(steps) > 20
    missing = [
        f"{file}: {name}"
        for file, names in steps
        if (PACKAGE / file).exists()
        for name in re.findall(r"`([\w.]+)`", names)
        if name not in names_in(PACKAGE / file)
    ]
    assert missing == []
