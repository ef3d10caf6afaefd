"""The names of the images of a save and of their sidecars, and which of them collide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.download import IMAGE_TYPES
from airflow_provider_evoimage.storage.file_names import FileNames, folded, task_fields


@dataclass(frozen=True, kw_only=True)
class ImageToSave:
    """One image of one generation, and the name it will have; its extension is known after the download.

    :param is_extra: whether it exceeds the requested number, so that a template without an index has no name
        for it.
    """

    generation: Generation
    index: int
    fields: Mapping[str, str | int]
    is_extra: bool = False

    @property
    def url(self) -> str:
        """The result link."""
        return self.generation.image_urls[self.index]


@dataclass(frozen=True, kw_only=True)
class GenerationToSave:
    """One finished generation of a save.

    :param requested: the request; goes into the manifest.
    :param item: its place among those of the save, for ``{item}`` in names.
    :param name: its own name, for ``{name}``; "" for its place.
    :param alt_text: of its images; None for that of the save.
    """

    generation: Generation
    requested: RequestSummary
    item: int = 0
    name: str = ""
    alt_text: str | None = None


class ImageNames:
    """Names of the images of one task's saves, below its destination.

    :param template: the names' template.
    :param made_by: the task that saves.
    """

    def __init__(self, template: FileNames, destination: Destination, made_by: Mapping[str, Any]) -> None:
        self._template = template
        self._destination = destination
        self._made_by = made_by
        # The generation that uses each name, over all saves so far.
        self._named: dict[str, str] = {}

    def images_of(self, each: GenerationToSave) -> list[ImageToSave]:
        """Return the images of a generation, with the fields of their names."""
        return [self.image(each, index) for index in range(len(each.generation.image_urls))]

    def image(self, each: GenerationToSave, index: int) -> ImageToSave:
        """Return one image of a generation, with the fields of its name."""
        generation, requested = each.generation, each.requested.images
        fields: dict[str, str | int] = {
            **task_fields(self._made_by),
            "item": each.item,
            "name": each.name or str(each.item),
            "evolink_task_id": generation.evolink_task_id,
            "model": generation.model or "unknown-model",
            "index": index,
        }
        is_extra = requested is not None and index >= max(requested, 1)
        return ImageToSave(generation=generation, index=index, fields=fields, is_extra=is_extra)

    def name(self, image: ImageToSave, extension: str) -> str:
        """Return the name of an image with this extension, below the destination."""
        names = self._template.with_index if image.is_extra else self._template
        return names.name({**image.fields, "ext": extension})

    def sidecar(self, image: ImageToSave) -> str:
        """Return the name of the sidecar of an image's generation."""
        return self.name(replace(image, fields={**image.fields, "index": 0}, is_extra=False), "json")

    def possible(self, image: ImageToSave) -> Iterator[str]:
        """Return the names that an image may have, one for each type."""
        extensions = dict.fromkeys(extension for extension, _ in IMAGE_TYPES.values())
        return (self.name(image, extension) for extension in extensions)

    def refused(self, generations: Sequence[GenerationToSave]) -> dict[int, InvalidRequestError]:
        """Find names that are too long or collide: of two images, or of an image and a manifest.

        :returns: the problem with each generation's names, by its place.
        """
        taken: dict[str, str] = {}
        refused: dict[int, InvalidRequestError] = {}
        images = [(place, image) for place, each in enumerate(generations) for image in self.images_of(each)]
        # Extra images take no name that another image needs.
        for place, image in sorted(images, key=lambda placed: placed[1].is_extra):
            if place in refused:
                continue
            try:
                self._take(image, taken)
            except InvalidRequestError as error:
                refused[place] = error.restate(evolink_task_id=image.generation.evolink_task_id)
        self._named.update(taken)
        return refused

    def _take(self, image: ImageToSave, taken: dict[str, str]) -> None:
        # The manifest shares the first image's name, except for the extension, whatever its type.
        name = self.name(image, "json")
        self._destination.check_length(name, is_paid=True)
        key = _without_extension(name)
        task = image.generation.evolink_task_id
        if key in taken or (image.is_extra and self._named.get(key, task) != task):
            raise InvalidRequestError(
                f"filename_template {self._template.template!r} gives two images of this save the same name, "
                f"{self.name(image, '…')}: add {{index}}, {{item}} or {{evolink_task_id}} to it.",
                billed=True,
                on_retry="No retry follows: correct it and clear the task; the links live 24 hours.",
            )
        taken[key] = task

    def is_free(self, name: str, evolink_task_id: str) -> bool:
        """Whether no other generation of these saves has its image under this name."""
        return self._named.get(_without_extension(name), evolink_task_id) == evolink_task_id


def _without_extension(name: str) -> str:
    return folded(name.rpartition(".")[0])
