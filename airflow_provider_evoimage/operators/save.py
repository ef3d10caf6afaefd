"""The operator that saves the images of generations made elsewhere."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_provider_evoimage.arguments import alt_text_of, as_folder, filled, one_of, whole_number
from airflow_provider_evoimage.defaults import (
    DEFAULT_CONN_ID,
    IF_EXISTS,
    MANY_GENERATIONS,
    ONE_GENERATION,
    PARALLEL_DOWNLOADS,
    PROVENANCE,
    IfExists,
    Provenance,
)
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    GenerationNotFoundError,
    GenerationUnfinishedError,
    InvalidRequestError,
    summed_up,
)
from airflow_provider_evoimage.images_xcom import ImagesXCom
from airflow_provider_evoimage.links import OPERATOR_LINKS
from airflow_provider_evoimage.mapped_names import NamedWhenMapped
from airflow_provider_evoimage.rendered_fields import HidesSecretsOfUrls
from airflow_provider_evoimage.retry_policy import DEFAULT_RETRY_POLICY, retry_policy_argument
from airflow_provider_evoimage.typed_output import HasTypedOutput

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context, ObjectStoragePath, XComArg

    from airflow_provider_evoimage.evolink.answers import Generation
    from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
    from airflow_provider_evoimage.lineage import NewImages
    from airflow_provider_evoimage.shapes import Manifest
    from airflow_provider_evoimage.version_compat import RetryPolicy

# Bytes; a manifest of ten images has some ten thousand.
_LONGEST_SIDECAR = 2_000_000


class EvoImageSaveOperator(NamedWhenMapped, HidesSecretsOfUrls, HasTypedOutput, BaseOperator):
    """Save the images of finished generations to any storage that Airflow is configured for.

    Reads each generation again for fresh links; costs nothing. Links live 24 hours. Each file is complete or
    absent, and the manifest of each generation is saved beside its first image as ``.json``. A retry fetches
    only missing files.

    Returns the manifest of the generation, or a list of them, one for each entry, where ``generation`` is a
    list. Assets and asset aliases among ``outlets`` get one event a save, which describes the images in its
    ``extra``; see
    :attr:`airflow_provider_evoimage.lineage.NewImages.extra`.

    :param generation: a manifest (the output of EvoImageGenerateOperator or EvoImageGenerationSensor), an
        EvoLink task id, or a list of either, for instance a mapped task's output. The text of a manifest and the path
        object of a sidecar (ObjectStoragePath or pathlib.Path) stand for it.
    :param save_to: folder by any URL of Airflow's object storage, for instance ``file:///data/images``.
    :param filename_template: names below ``save_to``; fields in ``storage.file_names.NAME_FIELDS``. Default:
        ``{dag_id}/{run_id}/{task_id}{map_suffix}-{index}.{ext}``, with ``-{item}`` before the index where
        several generations are saved.
    :param if_exists: ``overwrite`` (a re-run replaces its own files), ``skip`` (keep the file, fetch
        nothing), or ``error``.
    :param provenance: ``mark`` writes into each saved PNG, JPEG and WebP that an AI made it, without touching its
        pixels; ``keep`` saves EvoLink's bytes as they are. See docs/provenance.md.
    :param alt_text: the image in words, for people who do not see it; goes into the mark. At most 2,000 characters.
    :param parallel: downloads at a time.
    :param evoimage_conn_id: id of the Airflow connection.
    :param retry_policy: how long to wait before a retry (Airflow 3.3 and later); default: as long as EvoLink
        asks. None uses ``retry_delay``.
    """

    template_fields: Sequence[str] = (
        "generation",
        "save_to",
        "filename_template",
        "alt_text",
        "evoimage_conn_id",
    )
    naming_fields: ClassVar[Sequence[str]] = ("generation",)
    operator_extra_links = OPERATOR_LINKS
    ui_color = "#e6f0ff"

    def __init__(
        self,
        *,
        generation: Any,
        save_to: str | os.PathLike[str] | ObjectStoragePath | XComArg,
        filename_template: str | None = None,
        if_exists: IfExists = "overwrite",
        provenance: Provenance = "mark",
        alt_text: str | None = None,
        parallel: int = PARALLEL_DOWNLOADS,
        evoimage_conn_id: str = DEFAULT_CONN_ID,
        # A default of the signature survives .partial(); one set in kwargs would not.
        retry_policy: RetryPolicy | None = DEFAULT_RETRY_POLICY,
        **kwargs: Any,
    ) -> None:
        super().__init__(**retry_policy_argument(retry_policy), **kwargs)
        self.generation = generation
        # Airflow's templates and rendered fields know texts.
        self.save_to: str = as_folder(save_to)
        self.filename_template = filename_template
        self.if_exists = one_of("if_exists", if_exists, IF_EXISTS)
        self.provenance = one_of("provenance", provenance, PROVENANCE)
        self.alt_text = alt_text
        self.parallel = whole_number("parallel", parallel)
        self.evoimage_conn_id = evoimage_conn_id
        self._saved: NewImages | None = None

    @functools.cached_property
    def hook(self) -> EvoImageHook:
        """The hook of this task's connection."""
        from airflow_provider_evoimage.hooks.evoimage import EvoImageHook

        return EvoImageHook(self.evoimage_conn_id)

    def execute(self, context: Context) -> Manifest | list[Manifest]:
        """Save finished generations, then report the others."""
        images = ImagesXCom(context["ti"], self.log)
        with images.telling_failures():
            saved = self._save(context)
            images.made([saved] if isinstance(saved, dict) else saved)
        return saved

    def _save(self, context: Context) -> Manifest | list[Manifest]:
        from airflow_provider_evoimage.lineage import NewImages
        from airflow_provider_evoimage.manifest import generations_given, made_by, parsed
        from airflow_provider_evoimage.storage.destination import Destination
        from airflow_provider_evoimage.storage.file_names import FileNames
        from airflow_provider_evoimage.storage.saver import ImageSaver
        from airflow_provider_evoimage.submission.mapped_item import require_names_by_item

        generation = parsed(_read_sidecars(self.generation))
        given = generations_given(generation)
        named = dict(given)
        is_single = isinstance(generation, (str, Mapping))
        save_to = filled("save_to", self.save_to)
        if save_to is None:
            raise InvalidRequestError("save_to is empty: name the folder that the images go to.")
        names = FileNames(self.filename_template or (ONE_GENERATION if is_single else MANY_GENERATIONS))
        require_names_by_item(
            context,
            template=names.template,
            # The items may be generations of several models.
            tells_tasks_apart=names.tells_tasks_apart or "model" in names.fields,
            default=None,
        )
        saver = ImageSaver(
            hook=self.hook,
            # The images are paid for; if there are several generations, errors name the first.
            destination=Destination(save_to, evolink_task_id=next(iter(named))),
            names=names,
            if_exists=self.if_exists,
            provenance=self.provenance,
            alt_text=alt_text_of(self.alt_text),
            made_by=made_by(context),
            log=self.log,
            parallel=self.parallel,
            may_follow_a_kill=context["ti"].try_number > 1,
        )
        finished, failures = self._finished(list(named))
        manifests = (
            saver.save(finished, [named[task.evolink_task_id] for task in finished]) if finished else []
        )
        if failures:
            raise summed_up(failures, _introduction(failures, of=len(named)))
        self._saved = NewImages(manifests=manifests, save_to=save_to)
        self._saved.announce(context, self.outlets, self.log)
        by_id = {manifest["evolink_task_id"]: manifest for manifest in manifests}
        # One for each entry, also where a generation was named twice, which is saved once.
        return manifests[0] if is_single else [by_id[evolink_task_id] for evolink_task_id, _ in given]

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:
        """Name the folder that was written, if OpenLineage is installed."""
        del task_instance
        return self._saved.openlineage() if self._saved is not None else None

    def _finished(self, evolink_task_ids: list[str]) -> tuple[list[Generation], list[EvoImageError]]:
        found = self.hook.get_generations(evolink_task_ids)
        finished, failures = [], []
        for evolink_task_id in evolink_task_ids:
            try:
                finished.append(_saveable(evolink_task_id, found.get(evolink_task_id)))
            except EvoImageError as error:
                failures.append(error)
        self.log.info(
            "Saving %d images of %d generations.",
            sum(len(each.image_urls) for each in finished),
            len(finished),
        )
        return finished, failures


def _read_sidecars(generation: Any) -> Any:
    """Replace path objects by the text of the sidecars that they name."""
    if isinstance(generation, (list, tuple)):
        return [_in_file(each) for each in generation]
    return _in_file(generation)


def _in_file(value: Any) -> Any:
    """Return the manifest in the file that a path object names; anything else as it is.

    :raises InvalidRequestError: when there is no such file, or it is too large for a manifest.
    """
    from airflow_provider_evoimage.manifest import parsed

    path = as_folder(value)
    if path is value:
        return value
    from airflow.sdk import ObjectStoragePath

    try:
        with ObjectStoragePath(path).open("rb") as file:
            text = file.read(_LONGEST_SIDECAR + 1)
    except FileNotFoundError:
        raise InvalidRequestError(f"generation: there is no sidecar {path}.") from None
    if len(text) > _LONGEST_SIDECAR:
        raise InvalidRequestError(f"generation: {path} is too large for a manifest.")
    return parsed(text.decode("utf-8", "replace").lstrip("\ufeff"))


def _saveable(evolink_task_id: str, generation: Generation | None) -> Generation:
    from airflow_provider_evoimage.waiting.result import require_images

    if generation is None:
        raise GenerationNotFoundError(
            f"EvoLink does not know task {evolink_task_id}.", evolink_task_id=evolink_task_id
        )
    if not generation.is_terminal:
        raise GenerationUnfinishedError(
            f"EvoLink task {evolink_task_id} is still {generation.status}, so there is nothing to save yet.",
            evolink_task_id=evolink_task_id,
        )
    require_images(generation, may_ask_again=False)
    return generation


def _introduction(failures: Sequence[EvoImageError], *, of: int) -> str:
    if of == 1:
        return ""
    ids = ", ".join(failure.evolink_task_id or "?" for failure in failures)
    return f"{len(failures)} of {of} generations could not be saved ({ids}); the others are saved."
