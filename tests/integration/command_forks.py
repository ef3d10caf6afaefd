"""Runs the command `evoimage` in processes forked from this one, as importing Airflow takes far longer than a command.

Reads lines of JSON with `arguments`, `env` and the files for `stdout` and `stderr`; answers each with the exit code.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from airflow_provider_evoimage.command.__main__ import main


def run(asked: dict[str, Any]) -> int:
    """Run one command as its own process would; return its exit code."""
    for number, name in enumerate(("stdout", "stderr"), start=1):
        file = os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = ["evoimage", *asked["arguments"]]
    try:
        main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - what Python itself does at the top
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = run(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
