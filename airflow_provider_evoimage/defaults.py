"""What holds when a DAG author says nothing, and the words they choose from. Imports nothing, as DAG files read it."""

from __future__ import annotations

from typing import Literal

DEFAULT_CONN_ID = "evoimage_default"

#: Seconds to go on asking while EvoLink certainly accepts nothing.
DEFAULT_SUBMIT_TIMEOUT = 300.0

#: Names of the images below ``save_to``, of a task with one generation and with many.
ONE_GENERATION = "{dag_id}/{run_id}/{task_id}{map_suffix}-{index}.{ext}"
MANY_GENERATIONS = "{dag_id}/{run_id}/{task_id}{map_suffix}-{item}-{index}.{ext}"

#: Images that are fetched at one time.
PARALLEL_DOWNLOADS = 4

IfExists = Literal["overwrite", "skip", "error"]
IF_EXISTS: tuple[IfExists, ...] = ("overwrite", "skip", "error")

OnClear = Literal["auto", "regenerate", "reuse"]
