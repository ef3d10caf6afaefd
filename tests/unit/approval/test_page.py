"""The page of an approval: its options, its pictures, and what it is about."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_provider_evoimage.approval.page import (
    MOST_PICTURES,
    asks_about,
    body_of,
    escaped,
    gallery_url,
    options_of,
)
from airflow_provider_evoimage.approval.shown import fingerprint, shown_images
from airflow_provider_evoimage.exceptions import InvalidRequestError

MADE_BY = {
    "dag_id": "camp|aign",
    "run_id": "manual__2026-11-25T01:02:03+00:00",
    "task_id": "group.ask",
    "map_index": -1,
}


def manifest(images: int, renditions: int = 0, name: str = "a") -> dict[str, Any]:
    return {
        "evolink_task_id": f"task-{name}",
        "images": [
            {
                "index": index,
                "path": f"s3://c@shop/{name}-{index}.png",
                "sha256": f"{index:064x}",
                "width": 1024,
                "height": 1536,
                "renditions": [
                    {
                        "channel": f"own|{place}",
                        "path": f"s3://c@shop/{name}-{index}-{place}.jpg",
                        "sha256": f"{1000 * index + place:064x}",
                        "width": 1080,
                        "height": 1080,
                    }
                    for place in range(renditions)
                ],
            }
            for index in range(images)
        ],
    }


def body(*manifests: dict[str, Any], **arguments: Any) -> str:
    images = shown_images(manifests)
    fields: dict[str, Any] = {"choose": "many", "made_by": MADE_BY, "introduction": None} | arguments
    return body_of(images, fingerprint=fingerprint(images, fields["choose"]), **fields)


def pictures(text: str) -> list[str]:
    return re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)


@pytest.mark.parametrize(
    ("choose", "images", "hides_four", "options"),
    [
        ("all", 3, True, ["Approve", "Reject"]),
        ("many", 1, True, ["1", "All", "None"]),
        ("many", 2, True, ["1", "2", "All", "None"]),
        ("one", 1, True, ["1", "None"]),
        ("one", 2, True, ["1", "2", "None"]),
        ("one", 3, True, ["1", "2", "3", "None", "Reject"]),
        ("one", 3, False, ["1", "2", "3", "None"]),
        ("one", 4, True, ["1", "2", "3", "4", "None"]),
    ],
)
def test_options(choose: Any, images: int, hides_four: bool, options: list[str]):
    assert options_of(choose, images, hides_four=hides_four) == options


@pytest.mark.parametrize("images", range(1, 12))
def test_single_choice_never_has_four_options_where_they_are_hidden(images: int):
    assert len(options_of("one", images, hides_four=True)) != 4


def test_every_picture_is_found_by_the_task_instance_and_not_by_its_path():
    urls = pictures(body(manifest(2, renditions=1), {**MADE_BY, **manifest(1, name="b")}))
    assert len(urls) == 5
    for url in urls:
        assert url.startswith("evoimage/image?")
        assert "shop" not in url
        query = {name: value[0] for name, value in parse_qs(urlsplit(url).query).items()}
        assert {name: query[name] for name in ("dag_id", "run_id", "task_id", "map_index")} == {
            **MADE_BY,
            "map_index": "-1",
        }
    places = [parse_qs(urlsplit(url).query) for url in urls]
    assert [(each["index"], each.get("rendition")) for each in places] == [
        (["0"], None),
        (["0"], ["0"]),
        (["1"], None),
        (["1"], ["0"]),
        (["2"], None),
    ]


def test_rows_of_a_table_hold_what_their_heads_say():
    for images in (2, 3, 5):
        for line in body(manifest(images, renditions=2)).splitlines():
            if line.startswith("|"):
                assert len(re.findall(r"(?<!\\)\|", line)) == 3


def test_at_most_24_pictures_and_each_image_before_any_rendition():
    text = body(manifest(20, renditions=2))
    urls = pictures(text)
    assert len(urls) == MOST_PICTURES
    assert sum("rendition=" in url for url in urls) == 4
    assert (
        f"24 of 60 pictures are shown here. [See all of them with their numbers]({gallery_url(MADE_BY)})"
        in text
    )
    assert len(pictures(body(manifest(24)))) == 24


def test_link_to_the_tab_is_relative_and_encoded():
    assert gallery_url({**MADE_BY, "map_index": 3}) == (
        "dags/camp%7Caign/runs/manual__2026-11-25T01%3A02%3A03%2B00%3A00/tasks/group.ask/mapped/3/plugin/evoimage-task"
    )


def test_page_asks_about_its_own_images_alone():
    images = shown_images([manifest(2)])
    text = body(manifest(2), introduction="Asked about: `0000000000000000`")
    assert text.startswith("Asked about")
    assert asks_about(text, fingerprint(images, "many"))
    for other in (manifest(3), manifest(2, name="b"), manifest(2, renditions=1)):
        assert not asks_about(text, fingerprint(shown_images([other]), "many"))
    assert not asks_about(text, fingerprint(images, "one"))
    assert not asks_about(None, fingerprint(images, "many"))


def test_order_of_images_is_part_of_what_is_asked():
    swapped = manifest(2)
    swapped["images"].reverse()
    assert fingerprint(shown_images([manifest(2)]), "many") != fingerprint(shown_images([swapped]), "many")


def test_more_images_than_a_person_can_judge_are_refused():
    shown_images([manifest(100), manifest(100, name="b")])
    with pytest.raises(InvalidRequestError, match="201 images; a person can choose among 200"):
        shown_images([manifest(201)])


@pytest.mark.parametrize("broken", [{"sha256": None}, {"path": None}, {"renditions": ["x"]}])
def test_image_that_could_not_be_named_later_is_refused(broken: dict[str, Any]):
    given = manifest(1)
    given["images"][0] |= broken
    with pytest.raises(InvalidRequestError):
        shown_images([given])


def test_markdown_of_others_is_shown_as_text():
    assert escaped("a|b\n[x](y) <b>") == r"a\|b \[x\]\(y\) \<b\>"
