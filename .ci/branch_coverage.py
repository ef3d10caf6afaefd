"""Prints which lines and branches the tests of ``make test-coverage`` have not reached, and both shares.

Fails below the goal of branches. ``fail_under`` of coverage.py is no help: its figure mixes lines and branches.
"""

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
REPORT = PROJECT / "build" / "coverage" / "report.json"
GOAL = 0.95


def main() -> int:
    """Write and print the reports; return the exit code."""
    for report in (["report"], ["json", "-q", "-o", str(REPORT)]):
        subprocess.run([sys.executable, "-m", "coverage", *report], cwd=PROJECT, check=True)
    totals = json.loads(REPORT.read_text())["totals"]
    branches = _share("branches", totals["covered_branches"], totals["num_branches"])
    _share("lines", totals["covered_lines"], totals["num_statements"])
    if branches < GOAL:
        print(f"Fewer than {GOAL:.0%} of the branches are covered.", file=sys.stderr)
    return int(branches < GOAL)


def _share(name: str, covered: int, of: int) -> float:
    share = covered / of
    print(f"{name}: {share:.2%} covered, {covered:,} of {of:,}", flush=True)
    return share


if __name__ == "__main__":
    sys.exit(main())
