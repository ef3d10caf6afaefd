"""Makes the renditions of many manifests, several at a time, with few images in memory."""

from __future__ import annotations

import contextvars
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_evoimage.exceptions import NameTakenError, SaveError
from airflow_provider_evoimage.manifest import without_links
from airflow_provider_evoimage.renditions.contact_sheet import Cell, ContactSheets, sheet_name
from airflow_provider_evoimage.renditions.original import Original
from airflow_provider_evoimage.renditions.rendition import Made, Renderer, Task
from airflow_provider_evoimage.shapes import ContactSheet, MadeBy, Manifest, ManifestImage, Rendition
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.existing import new_file_in, other_task_of
from airflow_provider_evoimage.storage.progress import SaveProgress, write_temporary

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The renditions of one manifest that are to be made.

    :param stem: name of its sidecar without the extension.
    :param tasks: the renditions, image by image.
    """

    manifest: Manifest
    stem: str
    tasks: Sequence[Task]

    @property
    def sidecar(self) -> str:
        """Name of the sidecar."""
        return f"{self.stem}.json"

    @property
    def originals(self) -> list[Original]:
        """The images, each once."""
        return list({id(task.original): task.original for task in self.tasks}.values())


@dataclass(kw_only=True)
class _Job:
    """A manifest that is being worked on.

    :param before: what an earlier try has recorded, by number of the rendition.
    """

    planned: Planned
    progress: SaveProgress
    before: Mapping[int, Mapping[str, Any]]
    # What an earlier try made of each image, by number of the rendition: known once the image is opened.
    opened: list[Future[dict[int, Made]]] = field(default_factory=list)
    renditions: list[Future[Made]] = field(default_factory=list)

    def made(self) -> list[Made]:
        """Wait for the renditions; if one fails, wait for those that have begun, and cancel the others."""
        try:
            return [each.result() for each in self.renditions]
        except Exception:
            futures: list[Future[Any]] = [*self.opened, *self.renditions]
            begun = [each for each in futures if not each.cancel()]
            wait(begun)
            for original in self.planned.originals:
                original.let_go()
            raise


@dataclass(kw_only=True)
class Making:
    """Makes renditions, manifest by manifest.

    :param folder: a local folder for temporary files.
    :param sheets: where overview pictures are wanted.
    :param may_follow_a_kill: whether an earlier try may have died in its middle.
    """

    destination: Destination
    renderer: Renderer
    sheets: ContactSheets | None
    made_by: MadeBy
    log: Logger
    folder: Path
    parallel: int
    may_follow_a_kill: bool
    finished: list[Manifest] = field(default_factory=list)
    failures: list[SaveError] = field(default_factory=list)
    #: Of the finished manifests; they stay until all are finished, so that a retry makes nothing twice.
    records: list[SaveProgress] = field(default_factory=list)
    # Manifests that wait until the sheet that shows them is published, which their sidecars name.
    _unlisted: deque[tuple[Planned, Manifest, list[ContactSheet]]] = field(default_factory=deque)

    def make(self, planned: Iterable[Planned]) -> None:
        """Make all renditions; a manifest that fails is in ``failures``, and the others are made.

        :raises InvalidRequestError: when a channel cannot have an image.
        """
        with ThreadPoolExecutor(self.parallel, thread_name_prefix="evoimage-render") as pool:
            try:
                for job in self._under_way(planned, pool):
                    try:
                        self._finish(job, job.made())
                    except SaveError as error:
                        self.failures.append(error)
                if self.sheets is not None:
                    self.sheets.close()
                    self._write_listed()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _under_way(self, planned: Iterable[Planned], pool: ThreadPoolExecutor) -> Iterator[_Job]:
        """Hand work to the pool, and yield the oldest manifest as soon as enough others are under way.

        The pool takes its work in order: the next image is opened before the renditions of the last one, so that no
        thread waits for a file while another could be rendered.
        """
        jobs: deque[_Job] = deque()
        render: Callable[[], None] | None = None
        for each in planned:
            try:
                job = self._begun(each)
            except SaveError as error:
                self.failures.append(error)
                continue
            jobs.append(job)
            for original in each.originals:
                opened = _submitted(pool, self._open, job, original)
                job.opened.append(opened)
                if render is not None:
                    render()
                render = _Renditions(self, pool, job, original, opened).submit
            # The newest is not yet handed over as a whole.
            while len(jobs) > self.parallel + 1:
                yield jobs.popleft()
        if render is not None:
            render()
        yield from jobs

    def _begun(self, planned: Planned) -> _Job:
        """Look up what an earlier try has made of a manifest.

        :raises NameTakenError: when another task of the run has files with its name.
        """
        present = self.destination.read_json(planned.sidecar)
        if other := other_task_of(present, self.made_by):
            raise NameTakenError(f"{self.destination.url(planned.sidecar)} belongs to {other}.")
        progress = SaveProgress(
            self.destination, planned.sidecar, str(planned.manifest.get("evolink_task_id"))
        )
        if self.may_follow_a_kill and self.destination.leaves_parts:
            names = [planned.sidecar, progress.name, sheet_name(planned.stem, 1)]
            names.extend(name for task in planned.tasks for name in task.names)
            self.destination.remove_parts(names, self.log)
        before = progress.found() if self.may_follow_a_kill else {}
        return _Job(planned=planned, progress=progress, before=before)

    def _open(self, job: _Job, original: Original) -> dict[int, Made]:
        """Open an image, unless an earlier try has made all its renditions; return those that it has made."""
        kept, tasks = {}, [task for task in job.planned.tasks if task.original is original]
        for task in tasks:
            if made := self.renderer.still_there(task, job.before.get(task.number)):
                kept[task.number] = made
        if len(kept) < len(tasks):
            original.fetch(new_file_in(self.folder))
            original.decode()
        return kept

    def rendition(self, job: _Job, task: Task, opened: Future[dict[int, Made]]) -> Made:
        """Make one rendition, or return that of an earlier try."""
        try:
            # Is done or has begun, as the pool takes its work in order.
            kept = opened.result()
            return kept.get(task.number) or self.renderer.make(task, job.progress)
        finally:
            task.original.used()

    def _finish(self, job: _Job, made: Sequence[Made]) -> None:
        planned = job.planned
        by_image: dict[int, list[Rendition]] = {}
        for task, each in zip(planned.tasks, made, strict=True):
            by_image.setdefault(task.original.entry["index"], []).append(each.rendition)
        images: list[ManifestImage] = [
            {**image, "renditions": by_image[image["index"]]} for image in planned.manifest["images"]
        ]
        finished: Manifest = {**planned.manifest, "images": images}
        self.records.append(job.progress)
        if self.sheets is None:
            self._write(planned, finished)
            return
        cells = [
            Cell(
                preview=each.preview,
                title=task.original.path.rpartition("/")[2],
                rendition=each.entry["rendition"],
            )
            for task, each in zip(planned.tasks, made, strict=True)
            if each.preview is not None
        ]
        finished["contact_sheets"] = entries = self.sheets.add(planned.stem, cells)
        self._unlisted.append((planned, finished, entries))
        self._write_listed()

    def _write_listed(self) -> None:
        """Write the manifests whose sheets are all published."""
        while self._unlisted:
            planned, finished, entries = self._unlisted[0]
            if self.sheets is not None and self.sheets.is_open_for(entries):
                return
            self._unlisted.popleft()
            self._write(planned, finished)

    def _write(self, planned: Planned, finished: Manifest) -> None:
        local = new_file_in(self.folder)
        described = {**without_links(finished), "made_by": self.made_by.copy()}
        write_temporary(local, json.dumps(described, indent=2, ensure_ascii=False))
        try:
            self.destination.publish(local, planned.sidecar, "application/json")
        finally:
            local.unlink(missing_ok=True)
        self.finished.append(finished)
        self.log.info(
            "Rendered %d files of EvoLink task %s.",
            len(planned.tasks),
            planned.manifest.get("evolink_task_id"),
        )


@dataclass(frozen=True)
class _Renditions:
    """The renditions of one image, to be handed to the pool."""

    making: Making
    pool: ThreadPoolExecutor
    job: _Job
    original: Original
    opened: Future[dict[int, Made]]

    def submit(self) -> None:
        for task in self.job.planned.tasks:
            if task.original is self.original:
                self.job.renditions.append(
                    _submitted(self.pool, self.making.rendition, self.job, task, self.opened)
                )


def _submitted(pool: ThreadPoolExecutor, work: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
    """Hand work to the pool, in its own copy of the context, so that log lines find their task."""
    return pool.submit(contextvars.copy_context().run, work, *arguments)
