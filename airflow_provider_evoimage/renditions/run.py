"""Renders the images of manifests for channels: each file complete or absent, a killed task goes on where it was."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.exceptions import InvalidRequestError, summed_up
from airflow_provider_evoimage.images.channels import Channel
from airflow_provider_evoimage.images.provenance import mark_of
from airflow_provider_evoimage.images.rendering import Fit, Focus, Plan, Upscale, plan_for
from airflow_provider_evoimage.images.signing import SigningIdentity
from airflow_provider_evoimage.images.xmp import Mark
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.renditions.contact_sheet import PREVIEW_EDGE, SHEET, ContactSheets
from airflow_provider_evoimage.renditions.making import Making, Planned
from airflow_provider_evoimage.renditions.original import Original
from airflow_provider_evoimage.renditions.rendition import Renderer, Task
from airflow_provider_evoimage.shapes import MadeBy, Manifest
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.file_names import FileNames, task_fields
from airflow_provider_evoimage.storage.marking import made_from_references

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


@dataclass(kw_only=True)
class RenditionsRun:
    """Renders images for channels.

    :param made_by: the Airflow task.
    :param parallel: renditions at a time.
    :param may_follow_a_kill: whether an earlier try may have died in its middle.
    :param contact_sheet: whether to add overview pictures.
    :param identity: what files are signed with; None for no content credentials.
    """

    destination: Destination
    names: FileNames
    channels: Sequence[Channel]
    fit: Fit
    focus: Focus
    upscale: Upscale
    background: str | None
    made_by: MadeBy
    log: Logger
    parallel: int
    may_follow_a_kill: bool
    contact_sheet: bool = False
    identity: SigningIdentity | None = None

    def render(self, manifests: Sequence[Manifest]) -> list[Manifest]:
        """Render every image for every channel.

        Each image is fetched and decoded once. While some are rendered, the next one is decoded, so that at most
        ``parallel`` + 1 decoded images are in memory.

        :returns: the manifests, each image with ``renditions``.
        :raises InvalidRequestError: when a channel cannot have an image; nothing is written then.
        :raises SaveError: when a file cannot be read or written; a retry makes only the missing ones.
        """
        planned = [self._planned(manifest, item) for item, manifest in enumerate(manifests)]
        self._check_names(planned)
        with tempfile.TemporaryDirectory(prefix="evoimage-", ignore_cleanup_errors=True) as path:
            folder = Path(path)
            making = Making(
                destination=self.destination,
                renderer=Renderer(
                    destination=self.destination,
                    background=self.background,
                    folder=folder,
                    preview_edge=PREVIEW_EDGE if self.contact_sheet else None,
                    identity=self.identity,
                ),
                sheets=ContactSheets(destination=self.destination, folder=folder)
                if self.contact_sheet
                else None,
                made_by=self.made_by,
                log=self.log,
                folder=folder,
                parallel=self.parallel,
                may_follow_a_kill=self.may_follow_a_kill,
            )
            making.make(planned)
        if making.failures:
            raise summed_up(
                making.failures,
                f"{len(making.failures)} of {len(manifests)} manifests could not be rendered.",
            )
        for record in making.records:
            record.ends()
        return making.finished

    def _planned(self, manifest: Manifest, item: int) -> Planned:
        tasks: list[Task] = []
        for image in manifest["images"]:
            original = Original(entry=image, default_mark=self._mark(manifest), uses=len(self.channels))
            for channel in self.channels:
                plan = plan_for(image["width"], image["height"], channel, fit=self.fit, focus=self.focus)
                self._check_scale(plan, channel, image)
                tasks.append(
                    Task(
                        number=len(tasks),
                        original=original,
                        channel=channel,
                        plan=plan,
                        stem=f"{self._name(manifest, item, image['index'])}-{channel.name.replace('.', '-')}",
                    )
                )
        return Planned(
            manifest=manifest, stem=self._name(manifest, item, manifest["images"][0]["index"]), tasks=tasks
        )

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

    def _check_names(self, planned: Sequence[Planned]) -> None:
        stems = [task.stem.casefold() for each in planned for task in each.tasks]
        if len(set(stems)) < len(stems):
            raise InvalidRequestError(
                f"filename_template {self.names.template!r} gives two renditions one name: "
                "add {item} and {index} to it."
            )
        if self.contact_sheet and any(channel.name.startswith(SHEET) for channel in self.channels):
            raise InvalidRequestError(
                f"With contact_sheet=True no rendition may have a name that begins with {SHEET!r}."
            )
        for each in planned:
            for task in each.tasks:
                self.destination.check_length(f"{task.stem}.webp", is_paid=False)
