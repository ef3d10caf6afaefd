"""Saves the images of finished generations: the one saver behind ``save_to`` and EvoImageSaveOperator."""

from __future__ import annotations

import contextvars
import json
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.defaults import PARALLEL_DOWNLOADS, IfExists
from airflow_provider_evoimage.evolink.models import Generation
from airflow_provider_evoimage.exceptions import (
    DownloadError,
    EvoImageError,
    FileExistsAtDestinationError,
    InvalidRequestError,
    LinkExpiredError,
    SaveError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.manifest import Asked, Manifest, build_manifest, without_links
from airflow_provider_evoimage.metrics import image_saved
from airflow_provider_evoimage.storage.destination import Destination, FileNames
from airflow_provider_evoimage.storage.download import (
    IMAGE_TYPES,
    DownloadLimits,
    ImageFile,
    RefusedLinkError,
    describe_image,
    download_image,
)
from airflow_provider_evoimage.storage.progress import SaveProgress, entries_of
from airflow_provider_evoimage.transport import ResultClient, host_of

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


# A dead link may be answered with 403, 404 or 410; before its time is over these mean something else.
_GONE = 410


@dataclass(frozen=True, kw_only=True)
class ImageToSave:
    """One image of one generation, and the name it will have; its extension is known after the download."""

    generation: Generation
    index: int
    fields: Mapping[str, str | int]

    @property
    def url(self) -> str:
        """The result link."""
        return self.generation.image_urls[self.index]


@dataclass(frozen=True, kw_only=True)
class GenerationToSave:
    """One finished generation of a save.

    :param asked: what it was asked for; goes into the manifest.
    :param item: its place among those of the save, for ``{item}`` in names.
    :param name: its own name, for ``{name}``; "" for its place.
    """

    generation: Generation
    asked: Asked
    item: int = 0
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class SaveOutcome:
    """What came of one generation: its manifest, or why images of it are missing."""

    manifest: Manifest | None = None
    errors: Sequence[EvoImageError] = ()


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is to be done for one generation.

    :param has_sidecar: whether a sidecar of this very generation is there: an earlier save was complete.
    :param written_before: files that an earlier try of this save wrote or began to write, by index.
    """

    generation: Generation
    asked: Asked
    images: Sequence[ImageToSave]
    sidecar_name: str
    has_sidecar: bool
    written_before: Mapping[int, Mapping[str, Any]]
    progress: SaveProgress | None


@dataclass(kw_only=True)
class ImageSaver:
    """Saves images below one folder of the user's storage, several at a time, each complete or absent.

    :param hook: reads a generation again when its links fail.
    :param if_exists: what to do about a file of the same name: ``overwrite``, ``skip`` (keep it, fetch
        nothing), or ``error``.
    :param parallel: downloads at a time.
    :param may_follow_a_kill: whether an earlier try of this save may have died in its middle; its traces are
        looked for then.
    :param on_image: told the manifest's entry of each image that is in its place, in order.
    """

    hook: EvoImageHook
    destination: Destination
    names: FileNames
    if_exists: IfExists
    made_by: Mapping[str, Any]
    log: Logger
    parallel: int = PARALLEL_DOWNLOADS
    may_follow_a_kill: bool = True
    on_image: Callable[[Mapping[str, Any]], None] | None = None
    _reread: dict[str, Generation] = field(default_factory=dict)
    _rereading: threading.Lock = field(default_factory=threading.Lock)

    def save(self, generations: Sequence[Generation], asked: Sequence[Asked]) -> list[Manifest]:
        """Save every image of finished generations, and a sidecar manifest for each generation.

        :param asked: what each was asked for; goes into the manifest.
        :returns: one manifest a generation, in order, its images with ``path``, ``sha256``, ``bytes``, …
        :raises SaveError: when an image could not be saved. The others are; a retry fetches the missing ones.
        """
        outcomes = self.save_each(
            [
                GenerationToSave(generation=generation, asked=of, item=item)
                for item, (generation, of) in enumerate(zip(generations, asked, strict=True))
            ]
        )
        failures = [error for outcome in outcomes for error in outcome.errors]
        if failures:
            raise _summed_up(failures, sum(len(generation.image_urls) for generation in generations))
        return [outcome.manifest for outcome in outcomes if outcome.manifest is not None]

    def save_each(self, generations: Sequence[GenerationToSave]) -> list[SaveOutcome]:
        """Save what can be saved, and tell for each generation what came of it, in order."""
        plans = [self._plan(each) for each in generations]
        self._check_names(plans)
        if self.may_follow_a_kill and self.destination.leaves_parts:
            self.destination.remove_parts(self._names_written(plans), self.log)
        with (
            self._result_client() as client,
            tempfile.TemporaryDirectory(prefix="evoimage-") as folder,
            ThreadPoolExecutor(self.parallel, thread_name_prefix="evoimage-save") as pool,
        ):
            work = [
                # Each in its own copy of the context, so that log lines find their task.
                [
                    pool.submit(
                        contextvars.copy_context().run, self._save_one, client, image, Path(folder), plan
                    )
                    for image in plan.images
                ]
                for plan in plans
            ]
            return [
                self._outcome(plan, futures, Path(folder)) for plan, futures in zip(plans, work, strict=True)
            ]

    def _outcome(self, plan: _Plan, futures: Sequence[Future[dict[str, Any]]], folder: Path) -> SaveOutcome:
        saved = []
        errors: list[EvoImageError] = []
        for future in futures:
            try:
                saved.append(future.result())
            except EvoImageError as error:
                errors.append(error)
            else:
                if self.on_image is not None:
                    self.on_image(saved[-1])
        if errors:
            return SaveOutcome(errors=errors)
        try:
            return SaveOutcome(manifest=self._finish(plan, saved, folder))
        except SaveError as error:
            return SaveOutcome(errors=[error])

    def _plan(self, each: GenerationToSave) -> _Plan:
        generation = each.generation
        images = self._images_of(each)
        sidecar_name = self._sidecar_name(images[0])
        task = generation.evolink_task_id
        progress = SaveProgress(self.destination, sidecar_name, task)
        before = entries_of(self.destination.read_json(sidecar_name), task)
        # Beside a sidecar there is a record only where a save was killed between the two.
        begun = progress.found() if self.may_follow_a_kill or not before else {}
        return _Plan(
            generation=generation,
            asked=each.asked,
            images=images,
            sidecar_name=sidecar_name,
            has_sidecar=bool(before),
            written_before=before or begun,
            # A single object that may be written over needs none: it is fetched again, and that is all.
            progress=progress
            if len(images) > 1 or self.if_exists == "error" or self.destination.leaves_parts
            else None,
        )

    def _images_of(self, each: GenerationToSave) -> list[ImageToSave]:
        generation = each.generation
        fields: dict[str, str | int] = {
            **task_fields(self.made_by),
            "item": each.item,
            "name": each.name or str(each.item),
            "evolink_task_id": generation.evolink_task_id,
            "model": generation.model or "unknown-model",
        }
        return [
            ImageToSave(generation=generation, index=index, fields={**fields, "index": index})
            for index in range(len(generation.image_urls))
        ]

    def _name(self, image: ImageToSave, extension: str) -> str:
        return self.names.name({**image.fields, "ext": extension})

    def _sidecar_name(self, image: ImageToSave) -> str:
        return self._name(replace(image, fields={**image.fields, "index": 0}), "json")

    def _names_written(self, plans: Sequence[_Plan]) -> Iterator[str]:
        """Return every name that a save of these writes to, whatever the types of the images."""
        for plan in plans:
            yield plan.sidecar_name
            if plan.progress is not None:
                yield plan.progress.name
            for image in plan.images:
                yield from self._possible_names(image)

    def _possible_names(self, image: ImageToSave) -> Iterator[str]:
        extensions = dict.fromkeys(extension for extension, _ in IMAGE_TYPES.values())
        return (self._name(image, extension) for extension in extensions)

    def _check_names(self, plans: Sequence[_Plan]) -> None:
        """Refuse names that would meet: of two images, or of an image and another generation's manifest."""
        taken: set[str] = set()
        for plan in plans:
            for image in plan.images:
                # The manifest has the name of the first image but for its extension, and so have all types.
                name = self._name(image, "")
                self.destination.check_length(self._name(image, "json"))
                # Many file systems know neither case nor how an accent is composed.
                key = unicodedata.normalize("NFC", name).casefold()
                if key in taken:
                    raise InvalidRequestError(
                        f"filename_template {self.names.template!r} gives two images of this save the same name, "
                        f"{self._name(image, '…')}: add {{index}}, {{item}} or {{evolink_task_id}} to it.",
                        billed=True,
                        on_retry="No retry follows: correct it and clear the task; the links live 24 hours.",
                        evolink_task_id=image.generation.evolink_task_id,
                    )
                taken.add(key)

    def _save_one(
        self, client: ResultClient, image: ImageToSave, folder: Path, plan: _Plan
    ) -> dict[str, Any]:
        before = plan.written_before.get(image.index)
        if before is not None and (kept := self._still_there(image, before)):
            return kept
        if self.if_exists != "overwrite" and (existing := self._existing_name(image)):
            is_ours = before is not None and before.get("path") == self.destination.url(existing)
            if not is_ours:
                return self._keep_existing(image, existing, folder)
        task = image.generation.evolink_task_id
        local = folder / f"{task}-{image.index}".replace(":", "_")
        try:
            file = self._download(client, image, local)
            name = self._name(image, file.extension)
            entry = _saved(image.index, self.destination.url(name), file)
            if plan.progress is not None:
                plan.progress.begins(entry, folder)
            path = self.destination.publish(local, name, file.content_type)
        except SaveError as error:
            error.evolink_task_id = task
            raise
        finally:
            local.unlink(missing_ok=True)
        image_saved(file.bytes)
        self.log.info(
            "Saved image %d of EvoLink task %s: %s (%d×%d, %s).",
            image.index,
            task,
            path,
            file.width,
            file.height,
            _size_in_words(file.bytes),
        )
        return entry

    def _still_there(self, image: ImageToSave, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """Check an entry of an earlier sidecar against the storage; None where the file must be fetched."""
        extension = next(
            (ext for ext, kind in IMAGE_TYPES.values() if kind == entry.get("content_type")), None
        )
        if extension is None:
            return None
        name = self._name(image, extension)
        path = self.destination.url(name)
        if entry.get("path") != path or not self.destination.exists(name):
            return None
        if self.destination.size(name) != entry.get("bytes"):
            return None
        task = image.generation.evolink_task_id
        self.log.info("Image %d of EvoLink task %s is there already: %s.", image.index, task, path)
        return dict(entry)

    def _existing_name(self, image: ImageToSave) -> str | None:
        return next((name for name in self._possible_names(image) if self.destination.exists(name)), None)

    def _keep_existing(self, image: ImageToSave, name: str, folder: Path) -> dict[str, Any]:
        path = self.destination.url(name)
        if self.if_exists == "error":
            raise FileExistsAtDestinationError(
                f"{path} exists and if_exists='error'.", evolink_task_id=image.generation.evolink_task_id
            )
        self.log.info("Kept %s, which was there before (if_exists='skip').", path)
        local = folder / f"existing-{image.generation.evolink_task_id}-{image.index}".replace(":", "_")
        try:
            self.destination.fetch(name, local)
            return _saved(image.index, path, describe_image(local))
        except DownloadError as error:
            raise FileExistsAtDestinationError(
                f"{path} exists and is no whole image, and if_exists='skip' leaves it as it is.",
                on_retry="No retry: remove it or take if_exists='overwrite', then clear the task within 24 hours.",
                evolink_task_id=image.generation.evolink_task_id,
            ) from error
        finally:
            local.unlink(missing_ok=True)

    def _download(self, client: ResultClient, image: ImageToSave, local: Path) -> ImageFile:
        try:
            return download_image(client, image.url, local, self._limits)
        except RefusedLinkError as error:
            fresh = self._read_again(image.generation)
            if image.index >= len(fresh.image_urls):
                raise self._refused(image, fresh, error) from None
            try:
                return download_image(client, fresh.image_urls[image.index], local, self._limits)
            except RefusedLinkError as again:
                raise self._refused(image, fresh, again) from None

    def _read_again(self, generation: Generation) -> Generation:
        """Read a generation once more for fresh links, once however many of its links fail."""
        with self._rereading:
            task = generation.evolink_task_id
            if task not in self._reread:
                self._reread[task] = self.hook.get_generation(task)
            return self._reread[task]

    def _refused(self, image: ImageToSave, fresh: Generation, error: RefusedLinkError) -> DownloadError:
        expires_at = fresh.expires_at
        is_over = expires_at is not None and datetime.fromtimestamp(time.time(), UTC) >= expires_at
        if is_over or error.http_status == _GONE:
            when = f" (they ended at {expires_at:%Y-%m-%d %H:%M} UTC)" if expires_at else ""
            return LinkExpiredError(
                f"The result links of EvoLink task {image.generation.evolink_task_id} are dead{when}: "
                f"{error.message}",
                evolink_task_id=image.generation.evolink_task_id,
                http_status=error.http_status,
            )
        return DownloadError(
            f"{host_of(image.url)} refuses the result link of EvoLink task "
            f"{image.generation.evolink_task_id}, which should live until "
            f"{expires_at or '24 hours after the generation'}, also after reading it anew: {error.message}",
            evolink_task_id=image.generation.evolink_task_id,
            http_status=error.http_status,
        )

    def _finish(self, plan: _Plan, saved: Sequence[Mapping[str, Any]], folder: Path) -> Manifest:
        manifest = build_manifest(plan.generation, asked=plan.asked, made_by=self.made_by, saved=saved)
        name = plan.sidecar_name
        try:
            if self.if_exists != "skip" or plan.has_sidecar or not self.destination.exists(name):
                sidecar = folder / "manifest.json"
                sidecar.write_text(
                    json.dumps(without_links(manifest), indent=2, ensure_ascii=False), encoding="utf-8"
                )
                self.destination.publish(sidecar, name, "application/json")
            if plan.progress is not None:
                plan.progress.ends()
        except SaveError as error:
            error.evolink_task_id = plan.generation.evolink_task_id
            raise
        return manifest

    def _result_client(self) -> ResultClient:
        account = self.hook.settings.account
        return ResultClient(evolink_host=host_of(account.base_url), timeout=account.request_timeout)

    @property
    def _limits(self) -> DownloadLimits:
        return self.hook.settings.download_limits


def task_fields(made_by: Mapping[str, Any]) -> dict[str, str | int]:
    """Return the fields of file names that tell the Airflow task."""
    map_index = int(made_by["map_index"])
    return {
        "dag_id": str(made_by["dag_id"]),
        "run_id": str(made_by["run_id"]),
        "task_id": str(made_by["task_id"]),
        "map_index": map_index,
        "map_suffix": f"-{map_index}" if map_index >= 0 else "",
    }


def _summed_up(failures: Sequence[EvoImageError], of: int) -> EvoImageError:
    """Choose what to raise when several images failed: a passing trouble, if any, so that a retry comes."""
    chosen = next((failure for failure in failures if failure.retryable), failures[0])
    if of > 1:
        chosen.message = f"{len(failures)} of {of} images could not be saved. The first: {chosen.message}"
        chosen.args = (chosen.message,)
    return chosen


def _saved(index: int, path: str, file: ImageFile) -> dict[str, Any]:
    return {
        "index": index,
        "path": path,
        "sha256": file.sha256,
        "bytes": file.bytes,
        "content_type": file.content_type,
        "width": file.width,
        "height": file.height,
    }


def _size_in_words(size: int) -> str:
    if size >= 1_000_000:
        return f"{size / 1_000_000:.1f} MB"
    return f"{size / 1000:.0f} kB"
