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
    "budget_credits_per_month": None,
}

#: Seconds to keep retrying while EvoLink certainly accepts nothing.
DEFAULT_SUBMIT_TIMEOUT = 300.0

#: Seconds that refusals of one model may last before the next of ``fallback_models`` is asked.
DEFAULT_FALLBACK_AFTER = 60.0

#: Names of the images below ``save_to``, of a task with one generation and with many.
ONE_GENERATION = "{dag_id}/{run_id}/{task_id}{map_suffix}-{index}.{ext}"
MANY_GENERATIONS = "{dag_id}/{run_id}/{task_id}{map_suffix}-{item}-{index}.{ext}"

#: The same where all of an account is saved: equal in every run.
INGESTED_GENERATION = "{model}/{evolink_task_id}-{index}.{ext}"

#: Images that are fetched at one time, by one task and by a batch.
PARALLEL_DOWNLOADS = 8
BATCH_PARALLEL_DOWNLOADS = 16

IfExists = Literal["overwrite", "skip", "error"]
IF_EXISTS: tuple[IfExists, ...] = ("overwrite", "skip", "error")

#: Whether saved images get a mark that says that an AI made them.
Provenance = Literal["mark", "keep"]
PROVENANCE: tuple[Provenance, ...] = ("mark", "keep")

#: Folder below ``save_to`` that says which saved picture was made for which request.
INDEX_FOLDER = "_index"

#: What an editor offers: a templated argument is any text, and EvoLink may have more than is known here. A test
#: compares this with ``evolink.model_facts``.
Model = Literal[
    "gpt-image-1",
    "gpt-image-1.5",
    "gpt-image-1.5-beta",
    "gpt-image-2",
    "gpt-image-2.5-flare",
    "gpt-image-2.5-sunburst",
    "gpt-image-2-beta",
    "gpt-image-1.5-lite",
    "gpt-4o-image",
    "gemini-3-pro-image-preview",
    "gemini-3.1-flash-image-preview",
    "gemini-3.1-flash-lite-image",
    "nano-banana-2-beta",
    "nano-banana-2-lite-beta",
    "nano-banana-pro-beta",
    "nano-banana-beta",
    "doubao-seedream-4.0",
    "doubao-seedream-4.5",
    "doubao-seedream-5.0-lite",
    "doubao-seedream-5.0-pro",
    "doubao-seedream-5.0-flash",
    "doubao-seedream-5.0-pro-layerize",
    "doubao-seedream-5.0-flash-layerize",
    "qwen-image-3.0",
    "qwen-image-3.0-pro",
    "qwen-image-edit",
    "qwen-image-edit-plus",
    "wan2.5-image-to-image",
    "wan2.5-text-to-image",
    "z-image-turbo",
    "krea-2-turbo",
    "grok-imagine-image-2.0",
]
Size = Literal[
    "1:1",
    "2:3",
    "3:2",
    "1024x1024",
    "1024x1536",
    "1536x1024",
    "auto",
    "1:2",
    "2:1",
    "1:3",
    "3:1",
    "3:4",
    "4:3",
    "4:5",
    "5:4",
    "9:16",
    "16:9",
    "9:21",
    "21:9",
]
Quality = Literal[
    "low",
    "medium",
    "high",
    "auto",
    "xhigh",
    "max",
]

#: What EvoLink's list of generations is asked for.
ListedStatus = Literal["processing", "completed", "failed", "cancelled"]
Kind = Literal["image", "video", "audio"]

#: Endings that an asset watcher is told.
FinishedStatus = Literal["completed", "failed", "cancelled"]

OnClear = Literal["auto", "regenerate", "reuse"]
OnChange = Literal["resume", "submit"]
