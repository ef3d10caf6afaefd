"""What every test holds to: it expects an error of its own kind, and waits for a state, never for a fixed time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ANY_ERROR = {"Exception", "BaseException"}
# Tests of faults sleep as long as a fault lasts.
WITHOUT_FAULTS = ("unit", "integration", "system", "ui")


def calls(tree: ast.AST, loops: int = 0) -> Iterator[tuple[ast.Call, bool]]:
    """Return all calls, and whether each is in a loop."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call):
            yield node, loops > 0
        yield from calls(node, loops + isinstance(node, ast.While | ast.For | ast.AsyncFor))


def any_error_is_expected(call: ast.Call) -> bool:
    if not ast.unparse(call.func).endswith("raises") or not call.args:
        return False
    expected = call.args[0]
    named = expected.elts if isinstance(expected, ast.Tuple) else [expected]
    return any(ast.unparse(each) in ANY_ERROR for each in named)


def sleeps_for_a_fixed_time(call: ast.Call) -> bool:
    if ast.unparse(call.func) not in {"time.sleep", "asyncio.sleep"}:
        return False
    (seconds,) = call.args
    return isinstance(seconds, ast.Constant) and seconds.value != 0


def offences(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8")
    if "Exception" not in text and "sleep(" not in text:
        return []
    return [
        f"{file.name}:{call.lineno}: {ast.unparse(call)}"
        for call, in_loop in calls(ast.parse(text))
        if any_error_is_expected(call) or (sleeps_for_a_fixed_time(call) and not in_loop)
    ]


@pytest.mark.parametrize("folder", WITHOUT_FAULTS)
def test_no_test_expects_any_error_or_waits_a_fixed_time(folder: str):
    files = [*(TESTS / folder).rglob("*.py")]
    assert files
    assert [each for file in files for each in offences(file)] == []


@pytest.mark.parametrize(
    ("code", "is_wrong"),
    [
        ("with pytest.raises(Exception, match='x'): ...", True),
        ("with pytest.raises((KeyError, BaseException)): ...", True),
        ("with pytest.raises(KeyError): ...", False),
        ("time.sleep(0.15)", True),
        ("async def test_x():\n    await asyncio.sleep(1)", True),
        ("while True:\n    time.sleep(0.02)", False),
        ("time.sleep(delay)", False),
        ("asyncio.sleep(0)", False),
    ],
)
def test_check_sees_what_is_wrong(tmp_path: Path, code: str, is_wrong: bool):
    file = tmp_path / "test_x.py"
    file.write_text(code)
    assert bool(offences(file)) is is_wrong
