"""Changes the decisions of this package, one place at a time, and counts the changes that no test notices.

A change of words alone (a message, a reason) is no mistake in a decision: such survivors are counted apart.

``--sample 40`` (the default) tries 40 changes of each module that integration tests hold, chosen by ``--seed``;
``--all`` tries every change. Names of parts (``submission``, ``batch``) limit the run to these.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
WORKPLACE = PROJECT / "out" / "mutation"
GOAL = 0.9
# A change that the tool could not try counts as one that no test notices: pytest did not find a test again by its
# id; see [tool.mutmut] in pyproject.toml.
SURVIVED, NO_TESTS, NOT_TRIED = 0, 33, 255
# Texts, and what a text may be replaced by.
_WORDS = re.compile(r"""f?"(?:[^"\\]|\\.)*"|f?'(?:[^'\\]|\\.)*'|\bNone\b""")
_MAKE_MUTANTS = "from mutmut.__main__ import *; copy_src_dir(); copy_also_copy_files(); create_mutants(1)"
# Held by `make test-stores`, which needs servers, and clients of 1.7 GB; and rows of the table of channels, made while
# its module is imported, before a change is switched on: test_channels.py compares them with docs/renditions.md.
_NOT_TRIED_HERE = re.compile(
    r"ǁ(SftpFiles|S3Objects|GoogleObjects|AzureBlobs)ǁ|channels\.x__(google|banner)__"
)
_MONEY = "tests/integration/money/test_money_"
# Each takes 3 to 50 seconds.
_SLOW = " or ".join(
    [
        "largest_batch",
        "renders_otherwise_after_the_wait",
        "memory_stays_small",
        "two_hundred_at_once",
        "kill_with_ignored_keys",
        # Each kills or crashes a task at many places.
        "at_any_line",
        "at_any_moment",
        "frozen",
        "is_killed",
        # What takes long there is waiting, drawing or importing.
        "three_hundred_triggers",
        "batch_of_thousands",
        "joining_and_leaving",
        "much_metadata",
        "light_to_import",
        "library_is_loaded",
        "in_a_terminal",
        "one_failing_write",
    ]
)


@dataclass(frozen=True)
class Part:
    """Modules that the same tests hold.

    :param is_slow: whether the tests take seconds: then a sample of the changes is tried.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    is_slow: bool = True


PARTS = {
    "decisions": Part(
        (
            "evolink/outcome",
            "evolink/pricing_rules",
            "evolink/signed_urls",
            "storage/file_names",
            "submission/budget",
            "submission/decision",
            "submission/identity",
            "waiting/event",
            "waiting/packing",
            "waiting/polling",
        ),
        ("tests/unit",),
        is_slow=False,
    ),
    "submission": Part(
        ("submission/mapped_item", "submission/record", "submission/sealed_request", "submission/submit"),
        (
            "tests/unit/submission",
            "tests/unit/test_stored_formats.py",
            "tests/integration/test_references.py",
            "tests/integration/test_shared_names.py",
            f"{_MONEY}after_the_wait.py",
            f"{_MONEY}changed_requests.py",
            f"{_MONEY}clears.py",
            f"{_MONEY}discarded_store.py",
            f"{_MONEY}failed_generations.py",
            f"{_MONEY}limits.py",
            f"{_MONEY}lookups.py",
            f"{_MONEY}lost_answers.py",
            f"{_MONEY}mapped_lists.py",
            f"{_MONEY}refused_results.py",
        ),
    ),
    "batch": Part(
        ("batch/submission",),
        (
            "tests/unit/batch/test_submission.py",
            "tests/integration/test_batch_budget.py",
            "tests/integration/test_references.py",
            f"{_MONEY}batch_counts.py",
            f"{_MONEY}batch_doubts.py",
            f"{_MONEY}batch_fallback.py",
            f"{_MONEY}batch_queue.py",
        ),
    ),
    "waiting": Part(
        ("waiting/blocking", "waiting/deferral", "waiting/result"),
        (
            "tests/unit/waiting",
            "tests/integration/test_ended_deferral.py",
            f"{_MONEY}failed_generations.py",
            f"{_MONEY}lookups.py",
        ),
    ),
    "storage": Part(
        (
            "storage/destination",
            "storage/download",
            "storage/existing",
            "storage/image_names",
            "storage/progress",
            "storage/saver",
            "storage/stores",
        ),
        (
            "tests/unit/storage",
            "tests/integration/test_reindex.py",
            "tests/integration/test_reuse.py",
            "tests/integration/test_saving.py",
            "tests/integration/test_shared_names.py",
        ),
    ),
    "renditions": Part(
        (
            "images/channels",
            "images/native_sizes",
            "images/rendering",
            "renditions/contact_sheet",
            "renditions/making",
            "renditions/original",
            "renditions/rendition",
            "renditions/run",
        ),
        (
            "tests/unit/images/test_channels.py",
            "tests/unit/images/test_rendering.py",
            "tests/unit/renditions",
            "tests/integration/test_contact_sheets.py",
            "tests/integration/test_renditions.py",
            "tests/integration/test_signed_renditions.py",
        ),
    ),
    "marks": Part(
        (
            "images/containers",
            "images/packets",
            "images/provenance",
            "images/signing",
            "images/xmp",
            "storage/marking",
        ),
        (
            "tests/unit/images/test_containers.py",
            "tests/unit/images/test_provenance.py",
            "tests/integration/test_content_credentials.py",
            "tests/integration/test_marks.py",
            "tests/integration/test_signed_renditions.py",
        ),
    ),
    "approval": Part(
        ("approval/answer", "approval/page", "approval/shown", "approval/sidecar", "operators/approval"),
        ("tests/unit/approval", "tests/integration/test_approval.py"),
    ),
    "ingest": Part(
        ("ingest/account_list", "ingest/outcome", "ingest/run", "ingest/sidecars"),
        ("tests/unit/ingest", "tests/integration/test_ingest.py"),
    ),
    "reuse": Part(
        (
            "batch/reuse",
            "generation/reuse",
            "reuse/last_requests",
            "reuse/search",
            "reuse/sidecar",
            "storage/index",
        ),
        (
            "tests/unit/generation/test_reuse.py",
            "tests/unit/reuse",
            "tests/unit/storage/test_index.py",
            "tests/integration/test_reuse.py",
            "tests/integration/test_reuse_batch.py",
        ),
    ),
    "fallback": Part(
        ("evolink/other_model", "evolink/usage", "submission/fallback", "submission/month_budget"),
        (
            "tests/unit/evolink/test_other_model.py",
            "tests/unit/evolink/test_usage.py",
            "tests/unit/submission/test_fallback.py",
            "tests/unit/submission/test_month_budget.py",
            "tests/integration/test_budgets.py",
            f"{_MONEY}fallback.py",
        ),
    ),
    "generation": Part(
        ("generation/record_file", "generation/run"),
        (
            "tests/unit/generation",
            "tests/integration/test_names_and_labels.py",
            "tests/integration/test_references.py",
            f"{_MONEY}after_the_wait.py",
            f"{_MONEY}clears.py",
            f"{_MONEY}discarded_store.py",
            f"{_MONEY}failed_generations.py",
            f"{_MONEY}fallback.py",
            f"{_MONEY}limits.py",
            f"{_MONEY}lookups.py",
            f"{_MONEY}lost_answers.py",
            f"{_MONEY}refused_results.py",
        ),
    ),
    "batch-run": Part(
        (
            "batch/collection",
            "batch/items",
            "batch/ledger",
            "batch/references",
            "batch/run",
            "batch/source",
            "batch/summary",
        ),
        (
            "tests/unit/batch",
            "tests/unit/test_stored_formats.py",
            "tests/integration/test_batch.py",
            "tests/integration/test_batch_budget.py",
            "tests/integration/test_names_and_labels.py",
            "tests/integration/test_reuse_batch.py",
            f"{_MONEY}batch.py",
            f"{_MONEY}batch_doubts.py",
        ),
    ),
    "triggers": Part(
        (
            "triggers/credits",
            "triggers/finished",
            "triggers/finished_stream",
            "triggers/one_event",
            "triggers/poller",
            "triggers/watch",
            "waiting/finished",
        ),
        (
            "tests/unit/triggers",
            "tests/unit/waiting/test_finished.py",
            "tests/integration/test_budgets.py",
            "tests/integration/test_finished_stream.py",
            "tests/integration/test_poller.py",
            "tests/integration/test_trigger.py",
        ),
    ),
    "requests": Part(
        (
            "arguments",
            "evolink/answers",
            "evolink/errors",
            "evolink/hosts",
            "evolink/json_values",
            "evolink/protocol",
            "evolink/request",
            "images/result_file",
            "labels",
            "retry_policy",
        ),
        (
            "tests/unit/evolink",
            "tests/unit/images/test_result_file.py",
            "tests/unit/test_arguments.py",
            "tests/unit/test_labels.py",
            "tests/unit/test_retry_policy.py",
        ),
    ),
    "references": Part(
        (
            "images/reference_file",
            "references/files",
            "references/reading",
            "references/sources",
            "references/task",
            "references/uploads",
        ),
        (
            "tests/unit/references",
            "tests/integration/test_references.py",
            "tests/integration/test_uploads.py",
        ),
    ),
    "pages": Part(
        ("plugins/ledgers", "plugins/pictures", "plugins/records", "plugins/roots"),
        ("tests/unit/plugins",),
    ),
    "command": Part(
        ("command/costs", "command/estimates", "command/generating", "command/reindex", "command/saving"),
        (
            "tests/unit/command",
            "tests/unit/test_cost_page.py",
            # test_command.py runs commands in processes of their own, where no test is seen to reach a change.
            "tests/integration/test_command_pays_once.py",
            "tests/integration/test_reindex.py",
        ),
    ),
}


def main() -> int:
    """Run the tool on a copy of the tracked files, part by part; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--all", action="store_true", help="try every change")
    parser.add_argument("--sample", type=int, default=40, help="changes to try of each module of a slow part")
    parser.add_argument("--seed", type=int, default=1, help="which changes those are")
    parser.add_argument("--max-children", type=int, default=2, help="changes to try at once")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    total: Counter[str] = Counter()
    left: list[str] = []
    for name in options.parts or PARTS:
        part = PARTS[name]
        sample = options.sample if part.is_slow and not options.all else None
        workplace = _copy(name, part)
        subprocess.run(
            [sys.executable, "-c", _MAKE_MUTANTS], cwd=workplace, check=True, stdout=subprocess.DEVNULL
        )
        mutants = [each for meta in _metas(workplace) for each in _chosen(meta, sample, options.seed)]
        run = [sys.executable, "-m", "mutmut", "run", "--max-children", str(options.max_children)]
        subprocess.run([*run, *mutants], cwd=workplace, check=True)
        for meta in _metas(workplace):
            found, survivors, all_there_are = _read(meta, workplace)
            tried = sum(found.values())
            of = "" if tried == all_there_are else f"; a sample of {tried} among {all_there_are} changes"
            print(f"{meta.relative_to(workplace / 'mutants')}: {_line(found)}{of}", flush=True)
            total += found
            left += survivors
    print("\n".join(left))
    share = total["killed"] / max(total["killed"] + total["left"], 1)
    print(f"all: {_line(total)}; {share:.1%} of what is more than words are killed")
    return 0 if share >= GOAL else 1


def _copy(name: str, part: Part) -> Path:
    """Copy the tracked files, and tell the tool there what to change and which tests to run."""
    workplace = WORKPLACE / name
    shutil.rmtree(workplace, ignore_errors=True)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True)
    for file in tracked.stdout.decode().split("\0"):
        if file:
            (workplace / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / file, workplace / file)
    modules = [f"airflow_provider_evoimage/{module}.py" for module in part.modules]
    tests = [*part.tests, *(["-k", f"not ({_SLOW})"] if part.is_slow else [])]
    settings = workplace / "pyproject.toml"
    header = "[tool.mutmut]\n"
    added = f"only_mutate = {json.dumps(modules)}\npytest_add_cli_args_test_selection = {json.dumps(tests)}\n"
    settings.write_text(settings.read_text().replace(header, header + added))
    return workplace


def _metas(workplace: Path) -> list[Path]:
    """Return the tool's records of the changed modules."""
    return [meta for meta in sorted((workplace / "mutants").rglob("*.py.meta")) if _exits(meta)]


def _exits(meta: Path) -> dict[str, int | None]:
    exits: dict[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"]
    return exits


def _chosen(meta: Path, sample: int | None, seed: int) -> list[str]:
    names = sorted(name for name in _exits(meta) if not _NOT_TRIED_HERE.search(name))
    if sample is None or sample >= len(names):
        return names
    return random.Random(f"{seed} {meta.name}").sample(names, sample)  # noqa: S311 (no secret)


def _read(meta: Path, workplace: Path) -> tuple[Counter[str], list[str], int]:
    """Return what became of a module's changes, the survivors that are more than words, and the number of changes."""
    found: Counter[str] = Counter()
    left: list[str] = []
    exits = _exits(meta)
    for name, code in exits.items():
        if code is None:
            continue
        change = _change(name, workplace) if code in {SURVIVED, NO_TESTS, NOT_TRIED} else ""
        kind = "killed" if not change else "words" if _is_words(change) else "left"
        found[kind] += 1
        if kind == "left":
            left.append(f"{name} ({code})\n{change}")
    return found, left, sum(not _NOT_TRIED_HERE.search(name) for name in exits)


def _line(found: Counter[str]) -> str:
    return f"{found['killed']} killed, {found['left']} left, {found['words']} of words alone"


def _change(name: str, workplace: Path) -> str:
    shown = subprocess.run(
        [sys.executable, "-m", "mutmut", "show", name],
        cwd=workplace,
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
