"""What other DAGs and OpenLineage are told of new images."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors
from structlog.testing import capture_logs

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.lineage import MAX_LISTED, NewImages, NewRenditions, folder_uri
from airflow_provider_evoimage.manifest import RequestSummary, build_manifest
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator
from tests.unit.test_manifest import ANSWER, LINKS, MADE_BY, SAVED, a_manifest

LOG: Any = structlog.get_logger()


def saved_to(save_to: str | None, **changes: Any) -> NewImages:
    files = [
        {**SAVED, "index": index, "path": f"s3://shop@bucket/a-{index}.png"} for index in range(len(LINKS))
    ]
    manifest = build_manifest(
        Generation.read(ANSWER | changes),
        requested=RequestSummary(),
        made_by=MADE_BY,
        saved=files if save_to else [],
    )
    return NewImages(manifests=[manifest], save_to=save_to)


@pytest.mark.parametrize(
    ("save_to", "uri", "dataset"),
    [
        ("s3://shop@bucket/images/", "s3://bucket/images", ("s3://bucket", "images")),
        ("s3://bucket", "s3://bucket", ("s3://bucket", "/")),
        ("S3A://shop@bucket/a/b", "s3a://bucket/a/b", ("s3://bucket", "a/b")),
        ("gs://google@bucket/a", "gs://bucket/a", ("gs://bucket", "a")),
        ("abfs://azure@container/a", "abfs://container/a", ("abfs://container", "a")),
        ("sftp://files@/srv/a", "sftp:///srv/a", ("sftp", "/srv/a")),
        ("sftp://files@host/srv/a", "sftp://host/srv/a", ("sftp://host", "srv/a")),
        ("file:///data/images", "file:///data/images", ("file", "/data/images")),
        ("/data/images/", "file:///data/images", ("file", "/data/images")),
        ("s3://shop@bucket/a@b/c", "s3://bucket/a@b/c", ("s3://bucket", "a@b/c")),
        ("s3://bucket/50%/#1?", "s3://bucket/50%/%231%3F", ("s3://bucket", "50%/#1?")),
        ("s3://bucket/größer ❤", "s3://bucket/größer ❤", ("s3://bucket", "größer ❤")),
    ],
)
def test_folder_is_named_without_the_connection(save_to: str, uri: str, dataset: tuple[str, str]):
    assert folder_uri(save_to) == uri
    assert Asset(uri).uri.removesuffix("/") == uri
    reported = saved_to(save_to).openlineage()
    assert reported is not None
    assert [(each.namespace, each.name) for each in reported.outputs] == [dataset]
    assert reported.inputs == []


def test_event_tells_counts_credits_ids_and_paths():
    assert saved_to("s3://shop@bucket/a").extra == {
        "generations": 1,
        "images": 2,
        "credits": 8.1474,
        "reused": 0,
        "evolink_task_ids": [ANSWER["id"]],
        "paths": ["s3://shop@bucket/a-0.png", "s3://shop@bucket/a-1.png"],
    }


def test_event_of_a_great_many_images_stays_a_small_row():
    (manifest,) = saved_to("s3://shop@bucket/a").manifests
    many = NewImages(manifests=[manifest] * 2000, save_to="s3://shop@bucket/a")
    assert (many.extra["generations"], many.extra["images"]) == (2000, 4000)
    assert len(many.extra["paths"]) == len(many.extra["evolink_task_ids"]) == MAX_LISTED
    assert len(json.dumps(many.extra)) < 48_000


def test_event_of_renditions_names_the_files_and_charges_nothing_again():
    rendition = {"path": "s3://shop@bucket/a-0-story.jpg", "bytes": 7}
    manifest = {"evolink_task_id": "task-1", "images": [{"path": "x", "renditions": [rendition, rendition]}]}
    new = NewRenditions(manifests=[manifest], save_to="s3://shop@bucket/a")
    assert new.extra == {
        "generations": 1,
        "images": 2,
        "credits": 0,
        "reused": 0,
        "evolink_task_ids": ["task-1"],
        "paths": [rendition["path"]] * 2,
    }
    assert list(new.extra) == list(saved_to("s3://bucket/a").extra)
    reported = new.openlineage()
    assert reported is not None
    (dataset,) = reported.outputs
    assert (dataset.namespace, dataset.name) == ("s3://bucket", "a")
    statistics = dataset.outputFacets["outputStatistics"]
    assert (statistics.fileCount, statistics.size) == (2, 14)


def test_page_names_every_field_of_an_event():
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "assets.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]+) \|", page, flags=re.MULTILINE)))
    (manifest,) = saved_to("s3://bucket/a").manifests
    given = {**manifest, "name": "mug", "labels": {"campaign": "spring"}}
    batch = NewImages(manifests=[given], save_to="s3://bucket/a", batch_manifest="s3://bucket/a/b.jsonl")
    assert sorted(named) == sorted(batch.extra)


def test_event_of_a_partition_lists_nothing():
    (manifest,) = saved_to("s3://bucket/a").manifests
    images = NewImages(
        manifests=[{**manifest, "name": f"product {number}"} for number in range(2000)],
        save_to="s3://bucket/a",
        by_name=True,
        batch_manifest="s3://bucket/a/b.jsonl",
    )
    asset, alias = Asset("pictures"), AssetAlias("pictures")
    events = OutletEventAccessors()
    images.announce({"outlet_events": events}, [asset, alias], LOG)
    assert events[asset].extra == images.extra_of_partitions
    assert set(events[asset].extra) == {"generations", "images", "credits", "reused", "manifest"}
    # An alias has one event without a partition, so that one lists what every event lists.
    (told,) = events[alias].asset_alias_events
    assert len(told.extra["paths_by_name"]) == MAX_LISTED


def test_unknown_charge_is_not_taken_for_none():
    assert saved_to("s3://bucket/a", usage=None).extra["credits"] is None


def test_each_outlet_gets_one_event_and_what_the_user_put_there_stays():
    context = {"outlet_events": OutletEventAccessors()}
    asset, alias = Asset("campaign"), AssetAlias("new-images")
    context["outlet_events"][asset].extra["mine"] = 1
    new = saved_to("s3://shop@bucket/a")
    new.announce(context, [asset, alias], LOG)

    assert context["outlet_events"][asset].extra == {"mine": 1, **new.extra}
    (event,) = context["outlet_events"][alias].asset_alias_events
    assert event.dest_asset_key.uri == "s3://bucket/a"
    assert event.extra == new.extra
    assert context["outlet_events"][alias].extra == {}


def test_alias_gets_no_event_where_nothing_is_saved():
    context = {"outlet_events": OutletEventAccessors()}
    asset, alias = Asset("campaign"), AssetAlias("new-images")
    saved_to(None).announce(context, [asset, alias], LOG)
    assert context["outlet_events"][alias].asset_alias_events == []
    assert context["outlet_events"][asset].extra["images"] == 2
    assert context["outlet_events"][asset].extra["paths"] == []


def test_outlet_that_cannot_be_told_is_a_warning_and_the_next_one_is_told():
    context = {"outlet_events": OutletEventAccessors()}
    asset = Asset("campaign")
    # An asset's URI may have 1,500 characters.
    with capture_logs() as lines:
        saved_to(f"s3://bucket/{'a' * 2000}").announce(context, [AssetAlias("new"), asset, object()], LOG)
    assert [line["log_level"] for line in lines] == ["warning"]
    assert context["outlet_events"][asset].extra["images"] == 2


@pytest.mark.parametrize(
    "operator",
    [
        EvoImageGenerateOperator(task_id="draw", prompt="a red fox"),
        EvoImageSaveOperator(task_id="save", generation="a", save_to="file:///data"),
    ],
    ids=["generate", "save"],
)
def test_openlineage_is_told_nothing_before_anything_is_saved(operator: Any):
    assert operator.get_openlineage_facets_on_complete(None) is None


def test_nothing_of_openlineage_is_imported_until_it_asks():
    code = (
        "import sys; from airflow_provider_evoimage.lineage import NewImages;"
        "import airflow_provider_evoimage.operators.generate, airflow_provider_evoimage.operators.save;"
        "NewImages(manifests=[], save_to='s3://a/b').announce({}, [], None);"
        "print([name for name in sys.modules if name.startswith(('openlineage.', 'airflow.providers.openlineage.ex'))])"
    )
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip().splitlines()[-1] == "[]"


def test_manifest_of_unsaved_links_gives_no_dataset():
    assert NewImages(manifests=[a_manifest()], save_to=None).openlineage() is None
