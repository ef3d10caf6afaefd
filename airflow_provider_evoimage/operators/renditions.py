"""The operator that renders saved images for channels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_provider_evoimage.arguments import as_folder, filled, one_of, whole_number
from airflow_provider_evoimage.defaults import MANY_GENERATIONS
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.images.channels import Channel, channels_of
from airflow_provider_evoimage.images.rendering import FITS, UPSCALES, Fit, Focus, Upscale, checked_focus
from airflow_provider_evoimage.images_xcom import ImagesXCom
from airflow_provider_evoimage.links import OPERATOR_LINKS
from airflow_provider_evoimage.mapped_names import NamedWhenMapped
from airflow_provider_evoimage.rendered_fields import HidesSecretsOfUrls
from airflow_provider_evoimage.typed_output import HasTypedOutput

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context, ObjectStoragePath, XComArg

    from airflow_provider_evoimage.images.signing import SigningIdentity
    from airflow_provider_evoimage.lineage import NewRenditions
    from airflow_provider_evoimage.shapes import Manifest


class EvoImageRenditionsOperator(NamedWhenMapped, HidesSecretsOfUrls, HasTypedOutput, BaseOperator):
    """Cut saved images to the sizes of channels, and save the files.

    Asks EvoLink for nothing and costs nothing. Each file is complete or absent, in sRGB, at most as large as its
    channel takes, and carries the mark of its image on. A retry makes only missing files.

    Returns the manifests (one if ``images`` is one manifest, else a list), each image with ``renditions``: a list
    of ``{channel, path, sha256, width, height, bytes, content_type, quality, cropped, scaled, content_credentials}``.
    ``cropped`` is the share that was cut off; ``scaled`` above 1 was enlarged. With ``contact_sheet`` a manifest has
    ``contact_sheets``: the files of the overview pictures that show it.

    :param images: a manifest, the summary of a batch, the URL of a ``.json`` or ``.jsonl`` manifest, or a list.
    :param save_to: folder by any URL of Airflow's object storage.
    :param renditions: names of ``images.channels.CHANNELS``, and ``Rendition`` objects of your own.
    :param fit: ``cover`` crops; ``contain`` scales the whole picture into the edges; ``pad`` does so and fills the
        rest with ``background``.
    :param focus: the place that a crop keeps: ``center``, or two numbers from 0 to 1 from the left and the top.
    :param upscale: whether an image may be enlarged: ``warn``, ``error`` or ``allow``.
    :param background: colour behind transparent parts and around a padded picture, for instance ``#ffffff``.
    :param filename_template: names below ``save_to``; ``-`` and the channel come before the extension.
    :param parallel: renditions at a time; one decoded image more than that is in memory at most.
    :param contact_sheet: also save overview pictures of all renditions, 48 on each.
    :param sign_conn_id: sign each rendition with C2PA content credentials, the image as their parent. The connection
        has a private key as its password, and ``certificate_chain`` in its extra, both PEM. Needs the extra ``c2pa``.
        A signature is new each time, so the bytes of a rendition that is made again differ.
    """

    template_fields: Sequence[str] = ("images", "save_to", "background", "filename_template")
    naming_fields: ClassVar[Sequence[str]] = ("images",)
    operator_extra_links = OPERATOR_LINKS
    ui_color = "#e6f0ff"

    def __init__(
        self,
        *,
        images: Any,
        save_to: str | os.PathLike[str] | ObjectStoragePath | XComArg,
        renditions: Sequence[str | Channel],
        fit: Fit = "cover",
        focus: Focus = "center",
        upscale: Upscale = "warn",
        background: str | None = None,
        filename_template: str = MANY_GENERATIONS,
        parallel: int = 2,
        contact_sheet: bool = False,
        sign_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.images = images
        # Airflow's templates and rendered fields know texts.
        self.save_to: str = as_folder(save_to)
        self.renditions = [renditions] if isinstance(renditions, (str, Channel)) else list(renditions)
        channels_of(self.renditions)
        self.fit = one_of("fit", fit, FITS)
        self.focus = checked_focus(focus)
        self.upscale = one_of("upscale", upscale, UPSCALES)
        self.background = background
        self.filename_template = filename_template
        self.parallel = whole_number("parallel", parallel)
        self.contact_sheet = contact_sheet
        self.sign_conn_id = sign_conn_id
        self._made: NewRenditions | None = None

    def execute(self, context: Context) -> Manifest | list[Manifest]:
        """Render every image for every channel."""
        images = ImagesXCom(context["ti"], self.log)
        with images.telling_failures():
            rendered = self._rendered(context)
            images.made([rendered] if isinstance(rendered, dict) else rendered)
        return rendered

    def _rendered(self, context: Context) -> Manifest | list[Manifest]:
        from airflow_provider_evoimage.lineage import NewRenditions
        from airflow_provider_evoimage.manifest import made_by
        from airflow_provider_evoimage.renditions.run import RenditionsRun
        from airflow_provider_evoimage.storage.destination import Destination
        from airflow_provider_evoimage.storage.file_names import FileNames
        from airflow_provider_evoimage.storage.saved_manifests import manifests_given

        save_to = filled("save_to", self.save_to)
        if save_to is None:
            raise InvalidRequestError("save_to is empty: name the folder that the renditions go to.")
        identity = self._identity()
        manifests = manifests_given(self.images)
        run = RenditionsRun(
            destination=Destination(save_to),
            names=FileNames(self.filename_template),
            channels=channels_of(self.renditions),
            fit=self.fit,
            focus=self.focus,
            upscale=self.upscale,
            background=filled("background", self.background),
            made_by=made_by(context),
            log=self.log,
            parallel=self.parallel,
            may_follow_a_kill=context["ti"].try_number > 1,
            contact_sheet=self.contact_sheet,
            identity=identity,
        )
        rendered = run.render(manifests)
        self._made = NewRenditions(manifests=rendered, save_to=save_to)
        self._made.announce(context, self.outlets, self.log)
        # The summary of a batch has only their number.
        is_single = isinstance(self.images, dict) and isinstance(self.images.get("images"), list)
        return rendered[0] if is_single else rendered

    def _identity(self) -> SigningIdentity | None:
        """Return what to sign with; a missing library or a wrong certificate fails here, before any work."""
        if self.sign_conn_id is None:
            return None
        from airflow_provider_evoimage.hooks.signing import signing_identity
        from airflow_provider_evoimage.images.signing import require_c2pa

        require_c2pa()
        return signing_identity(self.sign_conn_id)

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:
        """Name the folder that was written, if OpenLineage is installed."""
        del task_instance
        return self._made.openlineage() if self._made is not None else None
