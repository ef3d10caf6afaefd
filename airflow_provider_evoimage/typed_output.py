"""What type checkers see in ``.output`` of an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


class HasTypedOutput:
    """Lets ``report(draw.output)`` pass a type checker where ``report`` takes a manifest.

    Airflow gives ``output`` the type of the reference that it is while the DAG is parsed, not that of the value that
    the function gets.
    """

    if TYPE_CHECKING:

        @property
        def output(self) -> Any:
            """The task's result, for other tasks."""
