"""``evoimage save``: waits with ``--wait``, then saves; both with a progress bar."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from airflow_provider_evoimage.command.account import CommandHook
from airflow_provider_evoimage.defaults import IfExists, Provenance
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.exceptions import GenerationUnfinishedError
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.shapes import Manifest
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.file_names import FileNames
from airflow_provider_evoimage.storage.saver import ImageSaver
from airflow_provider_evoimage.waiting.blocking import wait_on_worker
from airflow_provider_evoimage.waiting.polling import Wait
from airflow_provider_evoimage.waiting.result import read_ended, require_images

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

DEFAULT_NAMES = "{evolink_task_id}-{index}.{ext}"


def _log_of_warnings() -> Logger:
    """Return a log that prints warnings to the standard error; the progress bars show the rest."""
    log = logging.getLogger("airflow_provider_evoimage.command")
    log.setLevel(logging.WARNING)
    log.propagate = False
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
    return cast("Logger", log)


def bars(console: Console) -> Progress:
    """Make the progress display; nothing is drawn if the console is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        # Rich 13 ends also a disabled display with an empty line.
        console=console if console.is_terminal else Console(quiet=True),
        transient=True,
        disable=not console.is_terminal,
    )


def finished(
    conn_id: str | None, evolink_task_id: str, *, timeout: float | None, console: Console
) -> Generation:
    """Read a generation that has images; wait for it when ``timeout`` (seconds) is given.

    :raises GenerationUnfinishedError: when it still runs, and waiting was not requested.
    :raises GenerationTimeoutError: when it still runs at the end of the wait.
    :raises EvoImageError: when it failed, was cancelled, or cannot be read.
    """
    with bars(console) as progress:
        bar = progress.add_task("Waiting", total=100, count="")
        hook = CommandHook(conn_id, lambda generation: _advance(progress, bar, generation))
        try:
            generation = hook.get_generation(evolink_task_id)
            if not generation.is_terminal and timeout is not None:
                wait = Wait(evolink_task_id=evolink_task_id, deadline=time.time() + timeout)
                event = wait_on_worker(hook, [wait], _log_of_warnings())
                generation = read_ended(hook, evolink_task_id, event.endings[evolink_task_id], event.reason)
        finally:
            hook.close()
    if not generation.is_terminal:
        at = "" if generation.progress is None else f" ({generation.progress:.0f} %)"
        raise GenerationUnfinishedError(
            f"EvoLink task {evolink_task_id} is still {generation.status}{at}, so there is nothing to save yet; "
            "use --wait to wait for it.",
            evolink_task_id=evolink_task_id,
        )
    require_images(generation, may_ask_again=False)
    return generation


def save(
    conn_id: str | None,
    generation: Generation,
    *,
    destination: str,
    names: str,
    if_exists: IfExists,
    provenance: Provenance,
    alt_text: str | None,
    console: Console,
) -> Manifest:
    """Save the images of a generation; return its manifest."""
    count = len(generation.image_urls)
    with bars(console) as progress:
        bar = progress.add_task("Saving", total=count, count=f"0 of {count}")
        done = 0

        def advance(image: Any) -> None:
            nonlocal done
            del image
            done += 1
            progress.update(bar, completed=done, count=f"{done} of {count}")

        hook = CommandHook(conn_id)
        saver = ImageSaver(
            hook=hook,
            destination=Destination(destination),
            names=FileNames(names),
            if_exists=if_exists,
            provenance=provenance,
            alt_text=alt_text,
            made_by={"dag_id": "evoimage", "run_id": "command", "task_id": "save", "map_index": -1},
            log=_log_of_warnings(),
            on_image=advance,
        )
        try:
            (manifest,) = saver.save([generation], [RequestSummary()])
        finally:
            hook.close()
    return manifest


def _advance(progress: Progress, bar: TaskID, generation: Generation) -> None:
    at = generation.progress or 0
    progress.update(bar, completed=at, count=f"{generation.status}, {at:.0f} %")
