"""What holds when a DAG author says nothing, and the words they choose from. Imports nothing, as DAG files read it."""

from __future__ import annotations

from typing import Literal

DEFAULT_CONN_ID = "evoimage_default"

DEFAULT_MODEL = "gpt-image-1.5"
#: Seconds that one HTTP exchange with EvoLink may take in all; an upload gets more, by its size.
DEFAULT_REQUEST_TIMEOUT = 60.0
#: Megabytes and seconds of one result image.
DEFAULT_MAX_IMAGE_MEGABYTES = 200.0
DEFAULT_DOWNLOAD_TIMEOUT = 600.0

#: Every extra field of the connection, and what holds where it is not set; None: nothing does.
CONNECTION_EXTRAS: dict[str, str | float | None] = {
    "default_model": DEFAULT_MODEL,
    "request_timeout": DEFAULT_REQUEST_TIMEOUT,
    "max_image_megabytes": DEFAULT_MAX_IMAGE_MEGABYTES,
    "download_timeout": DEFAULT_DOWNLOAD_TIMEOUT,
    "max_requests_per_second": None,
    "files_base_url": None,
    "idempotency": "trusted",
    "idempotency_namespace": None,
}

#: Seconds to keep retrying while EvoLink certainly accepts nothing.
DEFAULT_SUBMIT_TIMEOUT = 300.0

#: Names of the images below ``save_to``, of a task with one generation and with many.
ONE_GENERATION = "{dag_id}/{run_id}/{task_id}{map_suffix}-{index}.{ext}"
MANY_GENERATIONS = "{dag_id}/{run_id}/{task_id}{map_suffix}-{item}-{index}.{ext}"

#: Images that are fetched at one time.
PARALLEL_DOWNLOADS = 4

IfExists = Literal["overwrite", "skip", "error"]
IF_EXISTS: tuple[IfExists, ...] = ("overwrite", "skip", "error")

#: Whether saved images get a mark that says that an AI made them.
Provenance = Literal["mark", "keep"]
PROVENANCE: tuple[Provenance, ...] = ("mark", "keep")

#: Folder below ``save_to`` that says which saved picture was made for which request.
INDEX_FOLDER = "_index"

OnClear = Literal["auto", "regenerate", "reuse"]
OnChange = Literal["resume", "submit"]
