"""The floors of ARCHITECTURE.md hold: an import goes down, never up or sideways between folders."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import airflow_provider_evoimage

PACKAGE = Path(airflow_provider_evoimage.__file__).parent
PROJECT = Path(__file__).parents[2]
MAP = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8")
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


def test_tree_shows_every_folder_and_module_of_the_package():
    tree = MAP.partition("## The tree")[2].partition("## Words")[0]
    assert [name for name in floors() if name not in tree] == []


def test_at_least_twenty_questions_lead_to_a_file():
    rows = re.findall(
        r"^\| .+ \| `([\w./-]+)` \|$", MAP.partition("## Where do I change")[2], flags=re.MULTILINE
    )
    assert len(rows) >= 20
    assert [name for name in rows if not (PACKAGE / name).exists() and not (PROJECT / name).exists()] == []


def test_every_file_that_the_map_names_exists():
    named = set(re.findall(r"`([\w./-]+\.(?:py|md|csv|toml))`", MAP))
    missing = [name for name in named if not (PACKAGE / name).exists() and not (PROJECT / name).exists()]
    assert missing == []
