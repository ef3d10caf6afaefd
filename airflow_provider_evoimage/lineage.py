"""Reports new images to other DAGs and OpenLineage: asset events, and the output dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias
from airflow.sdk.definitions.asset import AssetRef

from airflow_provider_evoimage.shapes import Manifest

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk.types import Logger

# An event is a row of Airflow's database, so it lists at most these; the sidecars have the rest.
MAX_LISTED = 200


@dataclass(frozen=True, kw_only=True)
class NewImages:
    """The images of one save, or of one generation that is not saved.

    :param save_to: the folder as the user wrote it; None where nothing was saved.
    :param by_name: whether each name is a partition of the assets (Airflow 3.3 and later).
    :param batch_manifest: URL of the manifest of a batch, with the connection; None where there is none.
    """

    manifests: Sequence[Manifest]
    save_to: str | None
    by_name: bool = False
    batch_manifest: str | None = None

    @property
    def folder(self) -> str | None:
        """URI of the folder without the connection: it identifies the data, not how this Airflow reaches it."""
        return None if self.save_to is None else folder_uri(self.save_to)

    @property
    def extra(self) -> dict[str, Any]:
        """What an asset event says in its ``extra``, as plain JSON.

        ``generations`` and ``images`` are counts, ``credits`` the sum charged (None where EvoLink does not
        say), ``reused`` how many of the generations are those of an earlier run. ``evolink_task_ids`` and
        ``paths`` name the first 200 of each; a path is as in the manifest, with the connection, so that
        ObjectStoragePath opens it. ``labels`` are those that all have, and ``paths_by_name`` has the paths of the
        first 200 names; both only where the DAG author gave some. ``manifest`` is the URL of a batch's manifest.
        """
        paths = [image["path"] for image in self._images if "path" in image]
        lists: dict[str, Any] = {
            "evolink_task_ids": [manifest["evolink_task_id"] for manifest in self.manifests][:MAX_LISTED],
            "paths": paths[:MAX_LISTED],
        }
        if names := self.paths_by_name:
            lists["paths_by_name"] = dict(islice(names.items(), MAX_LISTED))
        return self.extra_of_partitions | lists

    @property
    def extra_of_partitions(self) -> dict[str, Any]:
        """What the event of each partition says: as ``extra``, without the lists.

        There are as many events as names, and Airflow gives all the same ``extra``. The paths of a name stand in the
        batch manifest.
        """
        charged = [manifest["usage"]["charged"] for manifest in self.manifests]
        where = {} if self.batch_manifest is None else {"manifest": self.batch_manifest}
        return {
            "generations": len(self.manifests),
            "images": len(self._images),
            "credits": None if None in charged else round(sum(each or 0 for each in charged), 6),
            "reused": sum("reused" in manifest for manifest in self.manifests),
            **self._shared_labels(),
            **where,
        }

    def _shared_labels(self) -> dict[str, Any]:
        """Return the DAG author's labels that all generations share, if there are any."""
        labels = [manifest.get("labels") or {} for manifest in self.manifests]
        shared = {
            key: value
            for key, value in (labels[0] if labels else {}).items()
            if all(each.get(key) == value for each in labels)
        }
        return {"labels": shared} if shared else {}

    @property
    def paths_by_name(self) -> dict[str, list[str]]:
        """The paths of the saved images of each name that the DAG author gave."""
        found: dict[str, list[str]] = {}
        for manifest in self.manifests:
            if name := manifest.get("name"):
                found.setdefault(name, []).extend(
                    each["path"] for each in manifest["images"] if "path" in each
                )
        return found

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
                    event = context["outlet_events"][outlet]
                    event.extra.update(self.extra_of_partitions if self.by_name else self.extra)
                    if self.by_name:
                        event.add_partitions(list(self.paths_by_name))
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
        files, size = self._files
        statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            fileCount=files, size=size
        )
        dataset = OutputDataset(namespace, name, outputFacets={"outputStatistics": statistics})
        return OperatorLineage(outputs=[dataset])

    @property
    def _files(self) -> tuple[int, int]:
        """Number of saved files, and their bytes."""
        sizes = [image["bytes"] for image in self._images if "path" in image]
        return len(sizes), sum(sizes)

    @property
    def _images(self) -> list[Mapping[str, Any]]:
        return [image for manifest in self.manifests for image in manifest["images"]]


@dataclass(frozen=True, kw_only=True)
class CountedImages(NewImages):
    """The images of a save of any size, counted while it ran.

    :param counts: the event's ``extra``.
    :param bytes: of all files together.
    """

    counts: Mapping[str, Any]
    bytes: int

    @property
    def extra(self) -> dict[str, Any]:
        """What an asset event says; the same fields as those of other saves."""
        return dict(self.counts)

    @property
    def _files(self) -> tuple[int, int]:
        return int(self.counts["images"]), self.bytes


@dataclass(frozen=True, kw_only=True)
class NewRenditions(NewImages):
    """The renditions of one task.

    An event's ``images`` counts the rendered files, and ``paths`` names them; ``credits`` is 0, as nothing was charged.
    """

    @property
    def extra(self) -> dict[str, Any]:
        """What an asset event says in its ``extra``, as plain JSON; the same fields as that of a save."""
        files = self._images
        ids = [str(manifest.get("evolink_task_id")) for manifest in self.manifests]
        return {
            "generations": len(self.manifests),
            "images": len(files),
            "credits": 0,
            "reused": 0,
            "evolink_task_ids": ids[:MAX_LISTED],
            "paths": [file["path"] for file in files][:MAX_LISTED],
        }

    @property
    def _images(self) -> list[Mapping[str, Any]]:
        return [
            rendition
            for manifest in self.manifests
            for image in manifest["images"]
            for rendition in image["renditions"]
        ]


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
