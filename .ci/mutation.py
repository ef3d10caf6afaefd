"""Changes the decisions of this package, one place at a time, and counts the changes that no unit test notices.

A change of words alone (a message, a reason) is no mistake in a decision: such survivors are counted apart.
"""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
WORKPLACE = PROJECT / "out" / "mutation"
GOAL = 0.9
# A change that the tool could not try counts as one that no test notices.
SURVIVED, NO_TESTS, NOT_TRIED = 0, 33, 255
# Texts, and what a text may be replaced by.
_WORDS = re.compile(r"""f?"(?:[^"\\]|\\.)*"|f?'(?:[^'\\]|\\.)*'|\bNone\b""")


def main() -> int:
    """Run the tool on a copy of the tracked files; return the exit code."""
    shutil.rmtree(WORKPLACE, ignore_errors=True)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True)
    for name in tracked.stdout.decode().split("\0"):
        if name:
            (WORKPLACE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, WORKPLACE / name)
    subprocess.run([sys.executable, "-m", "mutmut", "run", *sys.argv[1:]], cwd=WORKPLACE, check=True)
    return report()


def report() -> int:
    """Print a line for each module, and every survivor that is more than words."""
    total: Counter[str] = Counter()
    left: list[str] = []
    for meta in sorted((WORKPLACE / "mutants").rglob("*.py.meta")):
        exits: dict[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"]
        if not exits:
            continue
        found: Counter[str] = Counter()
        for name, code in exits.items():
            change = _change(name) if code in {SURVIVED, NO_TESTS, NOT_TRIED, None} else ""
            kind = "killed" if not change else "words" if _is_words(change) else "left"
            found[kind] += 1
            if kind == "left":
                left.append(f"{name}\n{change}")
        print(f"{meta.relative_to(WORKPLACE / 'mutants')}: {_line(found)}")
        total += found
    print("\n".join(left))
    share = total["killed"] / max(total["killed"] + total["left"], 1)
    print(f"all: {_line(total)}; {share:.1%} of what is more than words are killed")
    return 0 if share >= GOAL else 1


def _line(found: Counter[str]) -> str:
    return f"{found['killed']} killed, {found['left']} left, {found['words']} of words alone"


def _change(name: str) -> str:
    shown = subprocess.run(
        [sys.executable, "-m", "mutmut", "show", name],
        cwd=WORKPLACE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return "\n".join(line for line in shown.splitlines() if re.match(r"[-+] ", line))


def _is_words(change: str) -> bool:
    """Tell whether both sides are the same but for texts."""
    before, after = (
        [_WORDS.sub("…", line[1:]).strip() for line in change.splitlines() if line[0] == sign]
        for sign in "-+"
    )
    return before == after and '"' in change


if __name__ == "__main__":
    sys.exit(main())
