"""Runs code once Airflow has stored an operator's result and counts the try as a success."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.sdk import BaseOperator


def call_after_success(operator: BaseOperator, call: Callable[[], None]) -> None:
    """Call a function when this try has succeeded, before the callbacks of the DAG author.

    It is not called when the process dies first, so it must not matter much.

    :param operator: the one that runs, not its definition in the DAG.
    """

    def succeeded(context: Any) -> None:
        del context
        call()

    callbacks = operator.on_success_callback or ()
    operator.on_success_callback = [succeeded, *([callbacks] if callable(callbacks) else callbacks)]
