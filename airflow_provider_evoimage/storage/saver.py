"""Saves the images of finished generations: the one saver behind ``save_to`` and EvoImageSaveOperator."""

from __future__ import annotations

import json
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_evoimage.defaults import PARALLEL_DOWNLOADS, IfExists, Provenance
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.exceptions import (
    DownloadError,
    EvoImageError,
    FileExistsAtDestinationError,
    LinkExpiredError,
    NameTakenError,
    SaveError,
    summed_up,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.manifest import RequestSummary, build_manifest, without_links
from airflow_provider_evoimage.metrics import image_saved
from airflow_provider_evoimage.result_links import DownloadLimits, ResultClient, host_of
from airflow_provider_evoimage.shapes import MadeBy, Manifest, ReusableFor
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.download import (
    ImageFile,
    RefusedLinkError,
    download_image,
)
from airflow_provider_evoimage.storage.existing import (
    EarlierSidecar,
    ExistingFiles,
    extension_of,
    new_file_in,
    other_task_of,
    task_in_words,
)
from airflow_provider_evoimage.storage.file_names import FileNames
from airflow_provider_evoimage.storage.image_names import GenerationToSave, ImageNames, ImageToSave
from airflow_provider_evoimage.storage.index import add_to_index, alt_text_hash
from airflow_provider_evoimage.storage.marking import existing_provenance, mark_download, remove_download
from airflow_provider_evoimage.storage.progress import (
    SaveProgress,
    entries_of,
    temporary_folder_failed,
    write_temporary,
)
from airflow_provider_evoimage.storage.save_threads import SaveThreads

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


@dataclass(frozen=True, kw_only=True)
class SaveOutcome:
    """The outcome for one generation: its manifest, or the errors of its missing images."""

    manifest: Manifest | None = None
    errors: Sequence[EvoImageError] = ()


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The plan to save one generation.

    :param sidecar: what lies under the sidecar's name; of this generation or another one, or None.
    :param has_sidecar: whether this generation already has a sidecar: an earlier save was complete.
    :param earlier: the sidecar of another generation whose files are overwritten.
    :param written_before: files that an earlier try of this save wrote or began to write, by index.
    """

    to_save: GenerationToSave
    images: Sequence[ImageToSave]
    sidecar_name: str
    sidecar: object
    has_sidecar: bool
    earlier: EarlierSidecar | None
    written_before: Mapping[int, Mapping[str, Any]]
    progress: SaveProgress | None

    @property
    def generation(self) -> Generation:
        return self.to_save.generation


@dataclass(kw_only=True)
class ImageSaver:
    """Saves images below one folder of the user's storage, several at a time, each complete or absent.

    :param hook: reads a generation again when its links fail.
    :param if_exists: what to do about a file of the same name: ``overwrite``, ``skip`` (keep it, fetch
        nothing), or ``error``.
    :param provenance: ``mark`` writes into each image that an AI made it; ``keep`` saves EvoLink's bytes.
    :param alt_text: goes into the mark of images that have no alt text of their own.
    :param parallel: downloads at a time.
    :param may_follow_a_kill: whether an earlier try of this save may have died in its middle; its traces are
        looked for then.
    :param before_file: called before each image and each sidecar is stored; may stop this save by raising.
    :param on_image: called with the manifest's entry of each saved image, in order.
    :param logs_each_image: False logs each image at DEBUG, for a batch that reports its progress itself.
    """

    hook: EvoImageHook
    destination: Destination
    names: FileNames
    if_exists: IfExists
    made_by: MadeBy
    log: Logger
    provenance: Provenance = "mark"
    alt_text: str | None = None
    parallel: int = PARALLEL_DOWNLOADS
    may_follow_a_kill: bool = True
    before_file: Callable[[], object] | None = None
    on_image: Callable[[Mapping[str, Any]], None] | None = None
    logs_each_image: bool = True
    _warned_of_overwriting: bool = False
    _reread: dict[str, Generation] = field(default_factory=dict)
    _rereading: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._image_names = ImageNames(self.names, self.destination, self.made_by)

    def save(self, generations: Sequence[Generation], requested: Sequence[RequestSummary]) -> list[Manifest]:
        """Save every image of finished generations, and a sidecar manifest for each generation.

        :param requested: the request of each; goes into the manifest.
        :returns: one manifest a generation, in order, its images with ``path``, ``sha256``, ``bytes``, …
        :raises SaveError: when an image could not be saved. The others are; a retry fetches the missing ones.
        """
        to_save = [
            GenerationToSave(generation=generation, requested=of, item=item, name=of.name or "")
            for item, (generation, of) in enumerate(zip(generations, requested, strict=True))
        ]
        for refused in self._image_names.refused(to_save).values():
            raise refused
        outcomes = self.save_each(to_save)
        failures = [error for outcome in outcomes for error in outcome.errors]
        if failures:
            of = sum(len(generation.image_urls) for generation in generations)
            raise summed_up(failures, f"{len(failures)} of {of} images could not be saved." if of > 1 else "")
        return [outcome.manifest for outcome in outcomes if outcome.manifest is not None]

    def save_each(self, generations: Sequence[GenerationToSave]) -> list[SaveOutcome]:
        """Save everything that can be saved; return the outcome of each generation, in order."""
        if not generations:
            return []
        refused = self._image_names.refused(generations)
        with (
            self._result_client() as client,
            _temporary_folder(generations[0].generation) as folder,
            SaveThreads(self.parallel, abandon=client.abandon) as threads,
        ):
            planning = [
                None if number in refused else threads.for_small_file(self._planned, each)
                for number, each in enumerate(generations)
            ]
            planned: list[_Plan | SaveOutcome] = []
            images: list[list[Future[dict[str, Any]]]] = []
            for number, plan in enumerate(self._without_parts(planning)):
                planned.append(SaveOutcome(errors=[refused[number]]) if plan is None else plan)
                if isinstance(plan, _Plan):
                    images.append(
                        [
                            threads.for_image(self._save_one, client, each, folder, plan)
                            for each in plan.images
                        ]
                    )
            plans = [each for each in planned if isinstance(each, _Plan)]
            # A sidecar is written while the images of the next generations are on their way.
            ends = [
                threads.for_small_file(self._end, plan, *self._brought(futures), folder)
                for plan, futures in zip(plans, images, strict=True)
            ]
            outcomes = iter([each.result() for each in ends])
        return [next(outcomes) if isinstance(each, _Plan) else each for each in planned]

    def _without_parts(
        self, planning: Sequence[Future[_Plan | SaveOutcome] | None]
    ) -> Iterable[_Plan | SaveOutcome | None]:
        """Give each plan as soon as it is made; all together where a kill may have left parts to remove first."""
        made = (None if future is None else future.result() for future in planning)
        if not (self.may_follow_a_kill and self.destination.leaves_parts):
            return made
        plans = list(made)
        names = self._names_written([each for each in plans if isinstance(each, _Plan)])
        self.destination.remove_parts(names, self.log)
        return plans

    def _brought(
        self, futures: Sequence[Future[dict[str, Any]]]
    ) -> tuple[list[dict[str, Any]], list[EvoImageError]]:
        """Wait for the images of one generation; return those that are saved, and the errors of the others."""
        saved: list[dict[str, Any]] = []
        errors: list[EvoImageError] = []
        for future in futures:
            try:
                saved.append(future.result())
            except EvoImageError as error:
                errors.append(error)
            else:
                if self.on_image is not None:
                    self.on_image(saved[-1])
        return saved, errors

    def _end(
        self,
        plan: _Plan,
        saved: Sequence[dict[str, Any]],
        errors: Sequence[EvoImageError],
        folder: Path,
    ) -> SaveOutcome:
        """Describe the images of one generation beside them."""
        lost = [error for error in errors if isinstance(error, LinkExpiredError)]
        if saved and lost and len(lost) == len(errors):
            self._finish_with_lost(plan, saved, lost, folder)
        if errors:
            return SaveOutcome(errors=errors)
        try:
            manifest = self._finish(plan, saved, folder)
        except SaveError as error:
            return SaveOutcome(errors=[error])
        self._remove_earlier_images(plan, saved, folder)
        return SaveOutcome(manifest=manifest)

    def _planned(self, each: GenerationToSave) -> _Plan | SaveOutcome:
        try:
            return self._plan(each)
        except SaveError as error:
            error.restate(evolink_task_id=each.generation.evolink_task_id)
            return SaveOutcome(errors=[error] * len(each.generation.image_urls))

    def _plan(self, each: GenerationToSave) -> _Plan:
        images = self._image_names.images_of(each)
        sidecar_name = self._image_names.sidecar(images[0])
        task = each.generation.evolink_task_id
        progress = SaveProgress(self.destination, sidecar_name, task)
        sidecar = self.destination.read_json(sidecar_name)
        before = entries_of(sidecar, task)
        if _belongs_to(sidecar, task):
            # A save by the bare id does not know the request; an earlier one may have.
            each = replace(each, requested=each.requested.completed_by(RequestSummary.in_manifest(sidecar)))
        else:
            self._refuse_anothers_name(sidecar, sidecar_name)
        # A single object that may be overwritten needs no record: it is simply fetched again.
        is_recorded = len(images) > 1 or self.if_exists == "error" or self.destination.leaves_parts
        # A record and a sidecar exist together only if a save was killed between writing them.
        begun = progress.found() if is_recorded and (self.may_follow_a_kill or not before) else {}
        return _Plan(
            to_save=each,
            images=images,
            sidecar_name=sidecar_name,
            sidecar=sidecar,
            has_sidecar=bool(before),
            earlier=EarlierSidecar.of(sidecar, task) if self.if_exists == "overwrite" else None,
            written_before=before or begun,
            progress=progress if is_recorded else None,
        )

    def _refuse_anothers_name(self, sidecar: object, name: str) -> None:
        """Leave the files of another task of this run alone; say once that another run's are overwritten.

        :raises NameTakenError: when another task instance of this DAG run has saved under this name.
        """
        other = other_task_of(sidecar, self.made_by)
        if other and self.if_exists != "error":
            raise NameTakenError(
                f"{self.destination.url(name)} belongs to {other}; {task_in_words(self.made_by)} would save under the "
                "same name."
            )
        if isinstance(sidecar, Mapping) and self.if_exists == "overwrite" and not self._warned_of_overwriting:
            owner = sidecar.get("made_by")
            if isinstance(owner, Mapping) and owner.get("run_id") != self.made_by["run_id"]:
                self._warned_of_overwriting = True
                self.log.warning(
                    "Overwriting images of %s (EvoLink task %s), which have the same names.",
                    task_in_words(owner),
                    sidecar.get("evolink_task_id"),
                )

    def _names_written(self, plans: Sequence[_Plan]) -> Iterator[str]:
        """Return every name that a save of these writes to, whatever the types of the images."""
        for plan in plans:
            yield plan.sidecar_name
            if plan.progress is not None:
                yield plan.progress.name
            for image in plan.images:
                yield from self._image_names.possible(image)

    def _save_one(
        self, client: ResultClient, image: ImageToSave, folder: Path, plan: _Plan
    ) -> dict[str, Any]:
        try:
            return self._bring(client, image, folder, plan)
        except SaveError as error:
            error.restate(evolink_task_id=image.generation.evolink_task_id)
            raise

    def _bring(self, client: ResultClient, image: ImageToSave, folder: Path, plan: _Plan) -> dict[str, Any]:
        before = plan.written_before.get(image.index)
        if before is not None and (kept := self._still_there(image, before, folder, plan)):
            return kept
        if self.if_exists != "overwrite" and (existing := self._existing_name(image)):
            is_ours = before is not None and before.get("path") == self.destination.url(existing)
            if not is_ours:
                return self._keep_existing(image, existing, folder)
        local = new_file_in(folder)
        try:
            file, provenance = mark_download(
                self._download(client, image, local),
                plan.to_save,
                provenance=self.provenance,
                alt_text=self.alt_text,
                log=self.log,
            )
            name = self._image_names.name(image, file.extension)
            entry = _saved(image.index, self.destination.url(name), file, provenance)
            if self.before_file is not None:
                self.before_file()
            self._existing(folder).remove_sidecar(plan.earlier, plan.sidecar_name)
            if plan.progress is not None:
                plan.progress.begins(entry, folder)
            path = self.destination.publish(file.path, name, file.content_type)
        finally:
            remove_download(local)
        image_saved(file.bytes)
        self._log_image(
            "%s saved (%d×%d, %s) as %s; EvoLink task %s.",
            name.rpartition("/")[2],
            file.width,
            file.height,
            _size_in_words(file.bytes),
            path,
            image.generation.evolink_task_id,
        )
        return entry

    def _log_image(self, message: str, *arguments: object) -> None:
        (self.log.info if self.logs_each_image else self.log.debug)(message, *arguments)

    def _still_there(
        self, image: ImageToSave, entry: Mapping[str, Any], folder: Path, plan: _Plan
    ) -> dict[str, Any] | None:
        """Check an earlier try's entry against the storage; return None if the file must be fetched."""
        name = self._name_in(entry, image)
        # The record is written before the file: another generation's may lie there still, as large as ours.
        if name is None or not self._existing(folder).is_as_described(
            name, entry, with_hash=not plan.has_sidecar
        ):
            return None
        task = image.generation.evolink_task_id
        self._log_image(
            "%s exists already: %s; EvoLink task %s.",
            name.rpartition("/")[2],
            entry["path"],
            task,
        )
        return dict(entry)

    def _name_in(self, entry: Mapping[str, Any], image: ImageToSave) -> str | None:
        """Return the name in an image's entry; None if it is no name of this save."""
        extension = extension_of(entry)
        if extension is None:
            return None
        name = self._image_names.name(image, extension)
        return name if entry.get("path") == self.destination.url(name) else None

    def _remove_earlier_images(self, plan: _Plan, saved: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """Remove images of the overwritten generation that have names of this save and were not replaced."""
        if plan.earlier is None:
            return
        task = plan.generation.evolink_task_id
        written = {image["path"] for image in saved}
        for index, entry in plan.earlier.entries.items():
            name = self._name_in(entry, self._image_names.image(plan.to_save, index))
            if name is None or entry["path"] in written:
                continue
            # Another generation of this save may have its image there.
            if self._image_names.is_free(name, task):
                self._existing(folder).remove_image(name, entry)

    def _existing_name(self, image: ImageToSave) -> str | None:
        return next(
            (name for name in self._image_names.possible(image) if self.destination.exists(name)), None
        )

    def _keep_existing(self, image: ImageToSave, name: str, folder: Path) -> dict[str, Any]:
        path = self.destination.url(name)
        if self.if_exists == "error":
            raise FileExistsAtDestinationError(
                f"{path} exists and if_exists='error'.", evolink_task_id=image.generation.evolink_task_id
            )
        self.log.info("Kept %s, which existed before (if_exists='skip').", path)
        try:
            file, statement = self._existing(folder).described(name)
            return _saved(image.index, path, file, existing_provenance(statement))
        except DownloadError as error:
            raise FileExistsAtDestinationError(
                f"{path} exists and is no whole image, and if_exists='skip' leaves it as it is.",
                on_retry="No retry: remove it or take if_exists='overwrite', then clear the task within 24 hours.",
                evolink_task_id=image.generation.evolink_task_id,
            ) from error

    def _existing(self, folder: Path) -> ExistingFiles:
        return ExistingFiles(self.destination, folder, self.log)

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
        """Read a generation again for fresh links; only once, however many of its links fail."""
        with self._rereading:
            task = generation.evolink_task_id
            if task not in self._reread:
                self._reread[task] = self.hook.get_generation(task)
            return self._reread[task]

    def _refused(self, image: ImageToSave, fresh: Generation, error: RefusedLinkError) -> DownloadError:
        expires_at = fresh.expires_at
        # A 410 before its time may be a mistake, so a retry comes.
        if fresh.has_expired(self.hook.now()):
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
            f"{expires_at or '24 hours after the generation'}, also after reading it again: {error.message}",
            evolink_task_id=image.generation.evolink_task_id,
            http_status=error.http_status,
        )

    def _finish(self, plan: _Plan, saved: Sequence[Mapping[str, Any]], folder: Path) -> Manifest:
        manifest = build_manifest(
            plan.generation, requested=plan.to_save.requested, made_by=self.made_by, saved=saved
        )
        if (reusable_for := self._reusable_for(plan)) is not None:
            manifest["reusable_for"] = reusable_for
        name = plan.sidecar_name
        if self.before_file is not None:
            self.before_file()
        try:
            if self.if_exists != "skip" or self._has_changed(plan, saved):
                present = plan.sidecar
                if not self.names.are_only_of(self.made_by):
                    # A task that saves at the same time may have come first.
                    present = self.destination.read_json(name)
                    if not _belongs_to(present, plan.generation.evolink_task_id):
                        self._refuse_anothers_name(present, name)
                described = {**without_links(manifest), "made_by": self._owner(plan, present)}
                sidecar = folder / f"manifest-{secrets.token_hex(4)}.json"
                write_temporary(sidecar, json.dumps(described, indent=2, ensure_ascii=False))
                self.destination.publish(sidecar, name, "application/json")
                # Some stores move it.
                sidecar.unlink(missing_ok=True)
            if plan.progress is not None:
                plan.progress.ends()
        except SaveError as error:
            error.restate(evolink_task_id=plan.generation.evolink_task_id)
            raise
        add_to_index(self.destination, manifest, name, self.log)
        return manifest

    def _reusable_for(self, plan: _Plan) -> ReusableFor | None:
        """Say which later requests these files do for; None where the task does not ask for it."""
        if plan.to_save.requested.reusable_for is None:
            return None
        alt_text = plan.to_save.alt_text or self.alt_text
        settings = {"provenance": self.provenance, "alt_text_sha256": alt_text_hash(alt_text)}
        return cast("ReusableFor", {**plan.to_save.requested.reusable_for, **settings})

    def _owner(self, plan: _Plan, sidecar: object) -> Mapping[str, Any]:
        """Return the task that a sidecar is to name: in one run, the first that saved this generation here.

        When that task makes another generation after a clear, it may replace the files.
        """
        is_shared = _belongs_to(sidecar, plan.generation.evolink_task_id) and other_task_of(
            sidecar, self.made_by
        )
        return sidecar["made_by"] if isinstance(sidecar, Mapping) and is_shared else self.made_by

    def _has_changed(self, plan: _Plan, saved: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the sidecar is absent, or lists other images than are there now."""
        if not plan.has_sidecar:
            return not self.destination.exists(plan.sidecar_name)
        return any(
            plan.written_before.get(image["index"], {}).get("sha256") != image["sha256"] for image in saved
        )

    def _finish_with_lost(
        self,
        plan: _Plan,
        saved: Sequence[Mapping[str, Any]],
        lost: Sequence[LinkExpiredError],
        folder: Path,
    ) -> None:
        """Describe what is saved of a generation whose other links are dead, as no later try brings more."""
        try:
            self._finish(plan, saved, folder)
        except SaveError as error:
            self.log.warning("The images that are saved have no manifest beside them: %s", error.message)
        paths = [image["path"] for image in saved]
        for expired in lost:
            expired.name_saved(paths, of=len(plan.images))

    def _result_client(self) -> ResultClient:
        account = self.hook.settings.account
        return ResultClient(evolink_host=host_of(account.base_url), timeout=account.request_timeout)

    @property
    def _limits(self) -> DownloadLimits:
        return self.hook.settings.download_limits


def _belongs_to(sidecar: object, evolink_task_id: str) -> bool:
    return isinstance(sidecar, Mapping) and sidecar.get("evolink_task_id") == evolink_task_id


@contextmanager
def _temporary_folder(generation: Generation) -> Iterator[Path]:
    try:
        # An abandoned download may still write to the folder.
        folder = tempfile.TemporaryDirectory(prefix="evoimage-", ignore_cleanup_errors=True)
    except OSError as error:
        raise temporary_folder_failed(error).restate(evolink_task_id=generation.evolink_task_id) from error
    with folder as path:
        yield Path(path)


def _saved(index: int, path: str, file: ImageFile, provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "index": index,
        "path": path,
        "sha256": file.sha256,
        "bytes": file.bytes,
        "content_type": file.content_type,
        "width": file.width,
        "height": file.height,
        "provenance": dict(provenance),
    }


def _size_in_words(size: int) -> str:
    if size >= 1_000_000:
        return f"{size / 1_000_000:.1f} MB"
    return f"{size / 1000:.0f} kB"
