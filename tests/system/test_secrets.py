"""The API key is in the connection and nowhere else: searched for in everything that a run leaves."""

from __future__ import annotations

import base64
import re
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from tools.local_airflow.airflow import LocalAirflow

pytestmark = pytest.mark.system


RESULT_LINK = re.compile(rb"/files/\w+/images/")


def spellings(secret: str) -> list[bytes]:
    """Every way in which the key may have been written down."""
    plain = secret.encode()
    encoded = [base64.b64encode(b"x" * shift + plain).decode()[4:-4] for shift in range(3)]
    return [each.encode() for each in (secret, quote(secret, safe=""), quote_plus(secret), *encoded)]


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        # SQLite's journals come and go.
        with suppress(FileNotFoundError):
            if path.is_file():
                yield str(path.relative_to(folder)), path.read_bytes()


def rows_of(database: Path) -> Iterator[tuple[str, bytes]]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                yield table, repr(row).encode()


@pytest.fixture(scope="module")
def left_behind(
    airflow: LocalAirflow, canary_key: str, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, bytes]]:
    saved = tmp_path_factory.mktemp("saved")
    # A success, a failure of every kind, and a wait that somebody ends.
    done = airflow.run("canary", {"save_to": saved.as_uri()})
    airflow.wait_for_state("canary", done, "waits_for_ever", "deferred")
    airflow.set_state("canary", done, "waits_for_ever", "failed")
    assert airflow.wait_for_run("canary", done, deadline=180) == "failed"
    assert airflow.task_instance("canary", done, "succeeds")["state"] == "success"
    assert list(saved.rglob("*.png"))
    return [*files_below(airflow.home), *files_below(saved), *rows_of(airflow.home / "airflow.db")]


def test_search_finds_what_it_looks_for(left_behind: list[tuple[str, bytes]]):
    # A search that cannot fail proves nothing: the id and the host are in there.
    assert any(b"task-unified-" in content for _, content in left_behind)
    assert any(table == "task_instance" for table, _ in left_behind)
    assert any(table == "xcom" and RESULT_LINK.search(content) for table, content in left_behind)


def test_api_key_is_nowhere(left_behind: list[tuple[str, bytes]], canary_key: str):
    found = [name for name, content in left_behind for each in spellings(canary_key) if each in content]
    assert found == []


def test_result_links_are_in_no_log_event_or_trigger(left_behind: list[tuple[str, bytes]]):
    # XCom holds them on purpose: it is the hand-over to the next task. (The state store may hold the address of a
    # reference that a task uploaded itself, which is another folder.)
    found = [
        name
        for name, content in left_behind
        if RESULT_LINK.search(content)
        and (name.endswith(".log") or name in {"trigger", "task_state_store", "log"})
    ]
    assert found == []
