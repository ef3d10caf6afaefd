"""The operator that saves everything the account made, whoever asked for it."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_provider_evoimage.arguments import (
    as_folder,
    filled,
    moment,
    one_of,
    seconds,
    texts,
    whole_number,
)
from airflow_provider_evoimage.defaults import (
    DEFAULT_CONN_ID,
    INGESTED_GENERATION,
    PARALLEL_DOWNLOADS,
    PROVENANCE,
    Model,
    Provenance,
)
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.images_xcom import ImagesXCom
from airflow_provider_evoimage.links import OPERATOR_LINKS
from airflow_provider_evoimage.retry_policy import DEFAULT_RETRY_POLICY, retry_policy_argument
from airflow_provider_evoimage.typed_output import HasTypedOutput

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context, ObjectStoragePath, XComArg

    from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
    from airflow_provider_evoimage.lineage import NewImages
    from airflow_provider_evoimage.shapes import IngestSummary
    from airflow_provider_evoimage.version_compat import RetryPolicy

_LINK_LIFETIME = timedelta(hours=24)


class EvoImageIngestOperator(HasTypedOutput, BaseOperator):
    """Save the finished generations of the account, whoever asked for them: playground, command line, other systems.

    Submits nothing and costs nothing. Result links live 24 hours, so run it at least every few hours; a run saves what
    no earlier one saved and adds nothing else. A killed run leaves nothing half done, and the next one goes on. The
    manifest of each generation is saved beside its first image as ``.json``; its ``request`` is null, as EvoLink's list
    does not tell it. A sidecar that exists is never replaced.

    Returns a summary: counts (``found``, ``saved``, ``known``, ``own``, ``young``, ``without_images``, ``failed``),
    ``images``, ``bytes``, ``credits``, the first 200 ``evolink_task_ids`` and ``paths``, ``failures``, and
    ``expiring``: unsaved generations older than 20 hours, which are also a warning in the log. Fails where a retry
    may save more.

    :param save_to: folder by any URL of Airflow's object storage, for instance ``file:///data/account``.
    :param within: save generations that began at most this long ago; at most 24 hours. Older ones are only warned of.
    :param made_elsewhere_only: leave out what own tasks save: generations that a sidecar below ``save_to`` or
        ``own_folders`` names. False saves all of them.
    :param own_folders: where own tasks save to.
    :param own_grace: leave younger generations for the next run, as an own task may be about to save them. Only with
        ``made_elsewhere_only``; 0 where the account has no own tasks.
    :param model: only of this model, or of these.
    :param created_after: only generations that began at this moment or later: a datetime or ISO text, in UTC where it
        names no zone.
    :param created_before: only generations that began before this moment.
    :param filename_template: names below ``save_to``; must hold ``{evolink_task_id}`` and ``{index}``, and nothing that
        differs between runs.
    :param provenance: ``mark`` writes into each saved PNG, JPEG and WebP that an AI made it; ``keep`` saves the bytes
        as they are.
    :param parallel: downloads at a time.
    :param evoimage_conn_id: id of the Airflow connection.
    :param retry_policy: how long to wait before a retry (Airflow 3.3 and later); default: as long as EvoLink
        asks. None uses ``retry_delay``.
    """

    template_fields: Sequence[str] = (
        "save_to",
        "model",
        "created_after",
        "created_before",
        "own_folders",
        "filename_template",
        "evoimage_conn_id",
    )
    operator_extra_links = OPERATOR_LINKS
    ui_color = "#e6f0ff"

    def __init__(
        self,
        *,
        save_to: str | os.PathLike[str] | ObjectStoragePath | XComArg,
        within: float | timedelta = timedelta(hours=23),
        made_elsewhere_only: bool = True,
        own_folders: Sequence[str] | str = (),
        own_grace: float | timedelta = timedelta(hours=1),
        model: Model | str | Sequence[Model | str] | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
        filename_template: str | None = None,
        provenance: Provenance = "mark",
        parallel: int = PARALLEL_DOWNLOADS,
        evoimage_conn_id: str = DEFAULT_CONN_ID,
        # A default of the signature survives .partial(); one set in kwargs would not.
        retry_policy: RetryPolicy | None = DEFAULT_RETRY_POLICY,
        **kwargs: Any,
    ) -> None:
        super().__init__(**retry_policy_argument(retry_policy), **kwargs)
        # Airflow's templates and rendered fields know texts.
        self.save_to: str = as_folder(save_to)
        self.within = within
        if seconds("within", within) > _LINK_LIFETIME.total_seconds():
            raise InvalidRequestError(
                f"within must be at most 24 hours, as long as links live, not {within!r}."
            )
        self.made_elsewhere_only = made_elsewhere_only
        self.own_folders = own_folders
        self.own_grace = own_grace
        if own_grace not in (0, timedelta(0)):
            seconds("own_grace", own_grace)
        self.model = model
        self.created_after = created_after
        self.created_before = created_before
        self.filename_template = filename_template
        self.provenance = one_of("provenance", provenance, PROVENANCE)
        self.parallel = whole_number("parallel", parallel)
        self.evoimage_conn_id = evoimage_conn_id
        self._saved: NewImages | None = None

    @functools.cached_property
    def hook(self) -> EvoImageHook:
        """The hook of this task's connection."""
        from airflow_provider_evoimage.hooks.evoimage import EvoImageHook

        return EvoImageHook(self.evoimage_conn_id)

    def execute(self, context: Context) -> IngestSummary:
        """Save what the account made and nobody saved."""
        images = ImagesXCom(context["ti"], self.log)
        with images.telling_failures():
            from airflow_provider_evoimage.ingest.run import IngestRun
            from airflow_provider_evoimage.manifest import made_by

            arguments, made = self._arguments(), made_by(context)
            outcome = IngestRun(hook=self.hook, arguments=arguments, made_by=made, log=self.log).run()
            self._saved = outcome.images_below(arguments.save_to)
            self._saved.announce(context, self.outlets, self.log)
            images.batch_made(outcome.shown)
        self.log.info("Saved %d images of %d generations.", outcome.images, outcome.saved)
        return outcome.summary(made)

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:
        """Name the folder that was written, if OpenLineage is installed."""
        del task_instance
        return self._saved.openlineage() if self._saved is not None else None

    def _arguments(self) -> Any:
        from airflow_provider_evoimage.ingest.run import IngestArguments

        save_to = filled("save_to", self.save_to)
        if save_to is None:
            raise InvalidRequestError("save_to is empty: name the folder that the images go to.")
        no_grace = self.own_grace in (0, timedelta(0))
        return IngestArguments(
            save_to=save_to,
            filename_template=filled("filename_template", self.filename_template) or INGESTED_GENERATION,
            within=seconds("within", self.within),
            created_after=moment("created_after", self.created_after),
            created_before=moment("created_before", self.created_before),
            models=texts("model", self.model),
            made_elsewhere_only=self.made_elsewhere_only,
            own_folders=texts("own_folders", self.own_folders),
            own_grace=0.0 if no_grace else seconds("own_grace", self.own_grace),
            provenance=self.provenance,
            parallel=self.parallel,
        )
