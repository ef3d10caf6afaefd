"""Workflows, hooks and templates of the repository: actions are pinned, targets exist, templates ask what is needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_docs import MAKEFILE, PROJECT

GITHUB = PROJECT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
HOOKS = PROJECT / ".pre-commit-config.yaml"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in read(workflow)["jobs"].values() for step in job["steps"]]


def assert_targets_exist(command: str) -> None:
    target = command.split()[1]
    assert re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE), target


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_and_say_their_version(workflow: Path):
    used = re.findall(r"uses: (\S+)(.*)$", workflow.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_read_only_unless_a_job_says_more(workflow: Path):
    assert read(workflow)["permissions"] == {"contents": "read"}
    for step in steps(workflow):
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_workflows_and_hooks_call_make_targets():
    for workflow in WORKFLOWS:
        runs = [step["run"] for step in steps(workflow) if step.get("run", "").startswith("make")]
        assert runs
        for run in runs:
            assert_targets_exist(run)
    (repo,) = read(HOOKS)["repos"]
    assert repo["repo"] == "local"
    for hook in repo["hooks"]:
        assert_targets_exist(hook["entry"])


def test_matrix_has_every_airflow_that_is_pinned():
    pinned = {
        path.stem.removeprefix("airflow-")
        for path in (PROJECT / ".ci" / "requirements").glob("airflow-*.txt")
        if re.fullmatch(r"airflow-[0-9.]+", path.stem)
    }
    matrix = read(GITHUB / "workflows" / "checks.yml")["jobs"]["matrix"]["strategy"]["matrix"]
    assert set(matrix["airflow"]) == pinned
    assert matrix["python"] == ["3.11", "3.12", "3.13"]


def test_only_the_job_that_publishes_gets_a_token():
    jobs = read(GITHUB / "workflows" / "release.yml")["jobs"]
    assert {name: job.get("permissions") for name, job in jobs.items()} == {
        "build": None,
        "publish": {"id-token": "write"},
    }
    assert "secrets." not in (GITHUB / "workflows" / "release.yml").read_text(encoding="utf-8")


def test_report_of_an_error_asks_for_versions_and_the_evolink_task():
    asked = {each["id"]: each for each in read(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")["body"] if "id" in each}
    for field in ("versions", "evolink-task-id", "log"):
        assert asked[field]["validations"] == {"required": True}
