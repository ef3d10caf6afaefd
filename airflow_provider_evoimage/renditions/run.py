"""Renders the images of manifests for channels: each file complete or absent, a killed task goes on where it was."""

from __future__ import annotations

import contextvars
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import ObjectStoragePath

from airflow_provider_evoimage.exceptions import (
    DestinationError,
    EvoImageError,
    InvalidRequestError,
    NameTakenError,
    SaveError,
    summed_up,
)
from airflow_provider_evoimage.images.channels import Channel
from airflow_provider_evoimage.images.provenance import MarkedImage, mark_image, mark_of, read_statement
from airflow_provider_evoimage.images.rendering import Encoded, Fit, Focus, Plan, Upscale, plan_for, render
from airflow_provider_evoimage.images.result_file import describe_image
from airflow_provider_evoimage.images.xmp import AI_SOURCE_TYPES, CREATOR, Mark, packet_of
from airflow_provider_evoimage.manifest import Manifest, RequestSummary, without_links
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.existing import ExistingFiles, new_file_in, other_task_of
from airflow_provider_evoimage.storage.file_names import FileNames, task_fields
from airflow_provider_evoimage.storage.marking import made_from_references
from airflow_provider_evoimage.storage.progress import SaveProgress, write_temporary

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_TYPES = {"jpeg": ("jpg", "image/jpeg"), "png": ("png", "image/png"), "webp": ("webp", "image/webp")}
# Of the part of a file that holds the packet.
_AROUND_PACKET_BYTES = 200


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One rendition to make.

    :param number: among those of its manifest.
    """

    number: int
    image: Mapping[str, Any]
    channel: Channel
    plan: Plan
    stem: str
    mark: Mark


@dataclass(kw_only=True)
class RenditionsRun:
    """Renders images for channels.

    :param made_by: the Airflow task.
    :param parallel: renditions at a time; each holds one decoded image in memory.
    :param may_follow_a_kill: whether an earlier try may have died in its middle.
    """

    destination: Destination
    names: FileNames
    channels: Sequence[Channel]
    fit: Fit
    focus: Focus
    upscale: Upscale
    background: str | None
    made_by: Mapping[str, Any]
    log: Logger
    parallel: int
    may_follow_a_kill: bool

    def render(self, manifests: Sequence[Manifest]) -> list[Manifest]:
        """Render every image for every channel.

        :returns: the manifests, each image with ``renditions``.
        :raises InvalidRequestError: when a channel cannot have an image; nothing is written then.
        :raises SaveError: when a file cannot be read or written; a retry makes only the missing ones.
        """
        planned = [self._tasks(manifest, item) for item, manifest in enumerate(manifests)]
        self._check_names(planned)
        finished, failures = [], []
        with tempfile.TemporaryDirectory(prefix="evoimage-", ignore_cleanup_errors=True) as folder:
            for item, (manifest, tasks) in enumerate(zip(manifests, planned, strict=True)):
                try:
                    finished.append(self._render_one(manifest, tasks, item, Path(folder)))
                except SaveError as error:
                    failures.append(error)
        if failures:
            raise summed_up(failures, f"{len(failures)} of {len(manifests)} manifests could not be rendered.")
        return finished

    def _tasks(self, manifest: Manifest, item: int) -> list[_Task]:
        tasks: list[_Task] = []
        for image in manifest["images"]:
            for channel in self.channels:
                plan = plan_for(image["width"], image["height"], channel, fit=self.fit, focus=self.focus)
                self._check_scale(plan, channel, image)
                tasks.append(
                    _Task(
                        number=len(tasks),
                        image=image,
                        channel=channel,
                        plan=plan,
                        stem=f"{self._name(manifest, item, image['index'])}-{channel.name.replace('.', '-')}",
                        mark=self._mark(manifest),
                    )
                )
        return tasks

    def _check_scale(self, plan: Plan, channel: Channel, image: Mapping[str, Any]) -> None:
        if plan.scaled <= 1 or self.upscale == "allow":
            return
        message = (
            f"{channel.name} ({channel.width}×{channel.height}) enlarges an image of "
            f"{image['width']}×{image['height']} by {plan.scaled:.2f}"
        )
        if self.upscale == "error":
            raise InvalidRequestError(
                f"{message}, and upscale='error'. Draw it with size='for:{channel.name}'."
            )
        self.log.warning("%s.", message)

    def _name(self, manifest: Manifest, item: int, index: int) -> str:
        """Return the name of an image without its extension."""
        fields = {
            **task_fields(self.made_by),
            "item": item,
            "name": str(item),
            "evolink_task_id": str(manifest.get("evolink_task_id")),
            "model": str(manifest.get("model") or "unknown-model"),
            "index": index,
            "ext": "json",
        }
        return self.names.name(fields).removesuffix(".json")

    def _mark(self, manifest: Manifest) -> Mark:
        model = manifest.get("model")
        return mark_of(
            model=model if isinstance(model, str) else None,
            has_references=made_from_references(RequestSummary.in_manifest(manifest)),
        )

    def _check_names(self, planned: Sequence[Sequence[_Task]]) -> None:
        stems = [task.stem.casefold() for tasks in planned for task in tasks]
        if len(set(stems)) < len(stems):
            raise InvalidRequestError(
                f"filename_template {self.names.template!r} gives two renditions one name: "
                "add {item} and {index} to it."
            )
        for tasks in planned:
            for task in tasks:
                self.destination.check_length(f"{task.stem}.webp", is_paid=False)

    def _render_one(self, manifest: Manifest, tasks: Sequence[_Task], item: int, folder: Path) -> Manifest:
        """Render the images of one manifest, several at a time, and write its sidecar."""
        sidecar = f"{self._name(manifest, item, manifest['images'][0]['index'])}.json"
        present = self.destination.read_json(sidecar)
        if other := other_task_of(present, self.made_by):
            raise NameTakenError(f"{self.destination.url(sidecar)} belongs to {other}.")
        progress = SaveProgress(self.destination, sidecar, str(manifest.get("evolink_task_id")))
        if self.may_follow_a_kill and self.destination.leaves_parts:
            names = [
                sidecar,
                progress.name,
                *(f"{task.stem}.{ext}" for task in tasks for ext, _ in _TYPES.values()),
            ]
            self.destination.remove_parts(names, self.log)
        before = progress.found() if self.may_follow_a_kill else {}
        with ThreadPoolExecutor(self.parallel, thread_name_prefix="evoimage-render") as pool:
            futures: list[Future[dict[str, Any]]] = [
                # Each in its own copy of the context, so that log lines find their task.
                pool.submit(
                    contextvars.copy_context().run,
                    self._rendition,
                    task,
                    before.get(task.number),
                    progress,
                    folder,
                )
                for task in tasks
            ]
            try:
                entries = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        images = [
            {
                **image,
                "renditions": [
                    entry["rendition"]
                    for task, entry in zip(tasks, entries, strict=True)
                    if task.image["index"] == image["index"]
                ],
            }
            for image in manifest["images"]
        ]
        finished = {**manifest, "images": images}
        local = folder / "manifest.json"
        described = {**without_links(finished), "made_by": dict(self.made_by)}
        write_temporary(local, json.dumps(described, indent=2, ensure_ascii=False))
        self.destination.publish(local, sidecar, "application/json")
        progress.ends()
        self.log.info("Rendered %d files of EvoLink task %s.", len(entries), manifest.get("evolink_task_id"))
        return finished

    def _rendition(
        self, task: _Task, before: Mapping[str, Any] | None, progress: SaveProgress, folder: Path
    ) -> dict[str, Any]:
        settings = self._settings(task)
        if before is not None and (kept := self._still_there(task, before, settings, folder)):
            return kept
        local = new_file_in(folder)
        original, drawn, marked = (local.with_suffix(end) for end in (".original", ".drawn", ".marked"))
        try:
            mark = self._fetch(task, original)
            spare = len(packet_of(mark)) + _AROUND_PACKET_BYTES
            found = self._drawn(task, original, spare)
            _write(drawn, found.content)
            outcome = mark_image(describe_image(drawn), marked, mark)
            if not isinstance(outcome, MarkedImage):
                raise DestinationError(f"A rendition could not be marked as made by AI: {outcome.because}.")
            file = outcome.file
            extension, content_type = _TYPES[found.format]
            name = f"{task.stem}.{extension}"
            rendition = {
                "channel": task.channel.name,
                "path": self.destination.url(name),
                "sha256": file.sha256,
                "width": found.width,
                "height": found.height,
                "bytes": file.bytes,
                "content_type": content_type,
                "quality": found.quality,
                "cropped": round(task.plan.cropped, 4),
                "scaled": round(task.plan.scaled, 4),
            }
            entry = {
                "index": task.number,
                "path": rendition["path"],
                "bytes": file.bytes,
                "sha256": file.sha256,
                "settings": settings,
                "rendition": rendition,
            }
            progress.begins(entry, folder)
            self.destination.publish(file.path, name, content_type)
        finally:
            for each in (original, drawn, marked):
                each.unlink(missing_ok=True)
        return entry

    def _drawn(self, task: _Task, original: Path, spare_bytes: int) -> Encoded:
        try:
            return render(
                original, task.channel, task.plan, background=self.background, spare_bytes=spare_bytes
            )
        except EvoImageError:
            raise
        except Exception as error:  # Pillow's readers may raise any exception on damaged bytes.
            raise DestinationError(
                f"{task.image['path']} cannot be rendered: {str(error) or type(error).__name__}"
            ) from error

    def _settings(self, task: _Task) -> str:
        """Return a hash of everything that shapes a rendition, to tell whether an earlier try's is the same."""
        shaping = (
            task.image.get("sha256"),
            repr(task.channel),
            repr(task.plan),
            self.background,
            repr(task.mark),
        )
        return hashlib.sha256(repr(shaping).encode()).hexdigest()

    def _still_there(
        self, task: _Task, before: Mapping[str, Any], settings: str, folder: Path
    ) -> dict[str, Any] | None:
        rendition = before.get("rendition")
        if before.get("settings") != settings or not isinstance(rendition, Mapping):
            return None
        for extension, _ in _TYPES.values():
            name = f"{task.stem}.{extension}"
            if before.get("path") == self.destination.url(name) and ExistingFiles(
                self.destination, folder, self.log
            ).is_as_described(name, before, with_hash=True):
                return dict(before)
        return None

    def _fetch(self, task: _Task, local: Path) -> Mark:
        """Copy an image from its storage, and return the mark that its rendition carries on.

        :raises DestinationError: when it cannot be read, or is no longer the image of the manifest.
        """
        path = str(task.image["path"])
        try:
            with ObjectStoragePath(path).open("rb") as source, local.open("wb") as copy:
                digest = hashlib.sha256()
                while block := source.read(1024 * 1024):
                    digest.update(block)
                    copy.write(block)
        except Exception as error:
            raise DestinationError(f"{path} cannot be read: {str(error) or type(error).__name__}") from error
        if task.image.get("sha256") not in {None, digest.hexdigest()}:
            raise InvalidRequestError(
                f"{path} is no longer the image of its manifest: its SHA-256 is another."
            )
        with local.open("rb") as file:
            says = read_statement(file)
        is_of_ai = says.digital_source_type in AI_SOURCE_TYPES
        tool = says.creator_tool or ""
        return Mark(
            digital_source_type=says.digital_source_type if is_of_ai else task.mark.digital_source_type,
            creator_tool=tool if tool.startswith(CREATOR) else task.mark.creator_tool,
            alt_text=says.alt_text,
        )


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise DestinationError(
            f"The temporary folder {path.parent} of this machine did not take it: {error}."
        ) from error
