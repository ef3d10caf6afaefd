"""Functions that run in processes of their own, forked from one that has imported Airflow and this package.

Importing both takes far longer than what a test does in such a process.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]


def forked(
    function: Callable[..., object],
    *arguments: Any,
    env: Mapping[str, str] | None = None,
    files: Mapping[int, str] | None = None,
) -> ForkServerProcess:
    """Start a function in a process of its own, which ends as Python does: with 1 after an exception.

    :param function: of a module, as it is pickled; so are its arguments.
    :param env: the whole environment; None is the one of now.
    :param files: file descriptor → the file or terminal that is opened as it.
    """
    environment = dict(os.environ if env is None else env)
    process = _forks().Process(target=_run, args=(environment, dict(files or {}), function, arguments))
    process.start()
    return process


@cache
def _forks() -> ForkServerContext:
    """Start the process that the others are forked from; it ends with this one."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["tests.integration.forked_imports"])
    with pytest.MonkeyPatch.context() as environment:
        # Python 3.11 does not tell it where this process imports from.
        environment.setenv("PYTHONPATH", str(PROJECT))
        forkserver.ensure_running()
    return forks


def _run(
    env: dict[str, str], files: dict[int, str], function: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    for number, name in files.items():
        file = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    # The streams of the process that forked remember a position in a file of its own.
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, closefd=False)  # noqa: SIM115 (open as long as the process)
        for number, mode in enumerate(("r", "w", "w"))
    )
    os.environ.clear()
    os.environ.update(env)
    function(*arguments)
