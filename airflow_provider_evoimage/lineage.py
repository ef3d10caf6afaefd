"""Reports new images to other DAGs and OpenLineage: asset events, and the output dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias
from airflow.sdk.definitions.asset import AssetRef

from airflow_provider_evoimage.manifest import Manifest

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk.types import Logger

# An event is a row of Airflow's database, so it lists at most these; the sidecars have the rest.
MAX_LISTED = 200


@dataclass(frozen=True, kw_only=True)
class NewImages:
    """The images of one save, or of one generation that is not saved.

    :param save_to: the folder as the user wrote it; None where nothing was saved.
    """

    manifests: Sequence[Manifest]
    save_to: str | None

    @property
    def folder(self) -> str | None:
        """URI of the folder without the connection: it identifies the data, not how this Airflow reaches it."""
        return None if self.save_to is None else folder_uri(self.save_to)

    @property
    def extra(self) -> dict[str, Any]:
        """What an asset event says in its ``extra``, as plain JSON.

        ``generations`` and ``images`` are counts, ``credits`` the sum charged (None where EvoLink does not
        say). ``evolink_task_ids`` and ``paths`` name the first 200 of each; a path is as in the manifest,
        with the connection, so that ObjectStoragePath opens it.
        """
        images = self._images
        charged = [manifest["usage"]["charged"] for manifest in self.manifests]
        return {
            "generations": len(self.manifests),
            "images": len(images),
            "credits": None if None in charged else round(sum(charged), 6),
            "evolink_task_ids": [manifest["evolink_task_id"] for manifest in self.manifests][:MAX_LISTED],
            "paths": [image["path"] for image in images if "path" in image][:MAX_LISTED],
        }

    def announce(self, context: Mapping[str, Any], outlets: Iterable[object], log: Logger) -> None:
        """Give each asset and alias among a task's outlets an event for this save.

        Airflow sends them when the task succeeds. A failing outlet only logs a warning; the images are
        already saved.
        """
        for outlet in outlets:
            try:
                if isinstance(outlet, AssetAlias):
                    if self.folder is not None:
                        context["outlet_events"][outlet].add(Asset(self.folder), extra=self.extra)
                elif isinstance(outlet, (Asset, AssetRef)):
                    context["outlet_events"][outlet].extra.update(self.extra)
            except Exception as error:  # noqa: BLE001 (a paid image must not be lost)
                log.warning("Outlet %r gets no event of the images: %s", outlet, error)

    def openlineage(self) -> OperatorLineage[Any, Any] | None:
        """Describe the folder as OpenLineage's output dataset; None where nothing was saved.

        Only OpenLineage calls this, so it can be imported here.
        """
        if self.folder is None:
            return None
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.event_v2 import OutputDataset
        from openlineage.client.facet_v2 import output_statistics_output_dataset

        namespace, name = _dataset_of(self.folder)
        sizes = [image["bytes"] for image in self._images if "path" in image]
        statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            fileCount=len(sizes), size=sum(sizes)
        )
        dataset = OutputDataset(namespace, name, outputFacets={"outputStatistics": statistics})
        return OperatorLineage(outputs=[dataset])

    @property
    def _images(self) -> list[Mapping[str, Any]]:
        return [image for manifest in self.manifests for image in manifest["images"]]


def folder_uri(save_to: str) -> str:
    """Name a folder without the connection in its URL: ``s3://conn@bucket/a/`` is ``s3://bucket/a``."""
    scheme, separator, rest = save_to.strip().partition("://")
    if not separator:
        scheme, rest = "file", scheme
    netloc, slash, path = rest.partition("/")
    # Airflow would read these two characters as the end of the path.
    path = path.replace("?", "%3F").replace("#", "%23").rstrip("/")
    return f"{scheme.lower()}://{netloc.rpartition('@')[2]}{slash if path else ''}{path}"


def _dataset_of(folder: str) -> tuple[str, str]:
    """Return namespace and name as OpenLineage's naming asks: ``file`` and a path, else the bucket and a key."""
    scheme, _, rest = folder.partition("://")
    netloc, _, path = rest.partition("/")
    path = path.replace("%3F", "?").replace("%23", "#")
    if scheme in {"file", "local"}:
        return "file", f"/{path}"
    if not netloc:
        return scheme, f"/{path}"
    return f"{'s3' if scheme == 's3a' else scheme}://{netloc}", path or "/"
