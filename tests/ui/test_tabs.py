"""The tab Images of task instances and DAG runs, in a real browser within Airflow's own UI."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from airflow_provider_evoimage.plugins import cards as sentences
from tests.ui.screen import (
    DAG,
    RUN,
    RUN_PATH,
    Screen,
    cards,
    mean_colour,
    page_path,
    pixels_on_screen,
    settled,
    task_path,
    until,
)
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import poll


def test_tab_is_reached_by_a_click_and_shows_the_images_of_a_task(screen: Screen):
    screen.open(f"/dags/{DAG}/runs/{RUN_PATH}/tasks/hero")
    screen.page.get_by_role("link", name="Images").last.click()
    frame = screen.our_frame()
    (card,) = cards(frame)
    assert card.startswith("made")
    # A prompt is text, whatever it holds.
    assert "A <b>red</b> bicycle" in card
    assert frame.locator("#cards img").count() == 2
    assert "gpt-image-1.5" in card
    assert re.search(r"[\d.]+\xa0credits\xa0\([\d.]+\xa0USD\)", card)
    assert card.count("file:///") == 2


def test_mapped_instances_each_have_their_own(screen: Screen):
    for index, prompt in enumerate(["A pot of tea", "A slice of cake"]):
        frame = screen.open_frame(task_path("mapped", index))
        (card,) = cards(frame)
        assert prompt in card
        assert frame.locator("#cards img").count() == 1


def test_mapped_task_without_an_index_lists_all_instances(screen: Screen):
    # Airflow's own head has nothing to say of such an address.
    screen.expected["/taskInstances/mapped"] = 404
    frame = screen.open_frame(task_path("mapped"))
    assert ["tea" in each for each in cards(frame)] == [True, False]


@pytest.mark.parametrize(
    ("task_id", "sentences_shown"),
    [
        ("foreign", [sentences.NOT_OURS]),
        ("waits", ["waiting", "The image is on its way.", "credits\u00a0reserved", "EvoLink task "]),
        ("refused", ["failed", "content_policy_violation", "Billed: no."]),
        ("links", ["only EvoLink's links lead to them until"]),
        ("hidden", ["An administrator can add it to [evoimage] image_roots", "elsewhere"]),
    ],
)
def test_every_kind_of_nothing_has_its_own_sentence(screen: Screen, task_id: str, sentences_shown: list[str]):
    frame = screen.open_frame(task_path(task_id))
    (card,) = cards(frame)
    assert [each for each in sentences_shown if each not in card] == []
    assert frame.locator("#cards img").count() == 0


def test_batch_shows_a_card_for_each_item(screen: Screen):
    frame = screen.open_frame(task_path("batch"))
    frame.wait_for_selector("#items article >> nth=2")
    settled(frame)
    items = [each.inner_text() for each in frame.locator("#items article").all()]
    assert [each.split()[-1] for each in items] == ["one", "two", "three"]
    assert frame.locator("#items img").count() == 2
    assert "content_policy_violation" in items[2]


def test_run_lists_all_tasks_with_totals(screen: Screen):
    screen.open(f"/dags/{DAG}/runs/{RUN_PATH}")
    screen.page.get_by_role("link", name="Images").last.click()
    frame = screen.our_frame()
    shown = frame.locator("#cards .where").all_inner_texts()
    names = Counter(each.split(" · ")[1].split(" ")[0] for each in shown)
    assert names["mapped"] == 2
    assert {"again", "batch", "edited", "hero", "hidden", "links", "refused", "waits"} < set(names)
    totals = dict(
        zip(
            frame.locator("#totals dt").all_inner_texts(),
            frame.locator("#totals dd").all_inner_texts(),
            strict=True,
        )
    )
    assert (totals["waiting"], totals["failed"], totals["tasks"]) == ("1", "1", "10")
    assert float(totals["credits"].replace(",", "")) > 0


def test_link_of_a_card_changes_airflows_page_without_a_reload(screen: Screen):
    frame = screen.open_frame(f"/dags/{DAG}/runs/{RUN_PATH}/plugin/evoimage-run")
    screen.page.evaluate("window.isTheSamePage = true")
    frame.get_by_role("link", name=f"{DAG} · edited").click()
    screen.page.wait_for_url(re.compile("/tasks/edited/plugin/evoimage-task"))
    assert screen.page.evaluate("window.isTheSamePage")


def test_whole_picture_opens_with_everything_known_of_it(screen: Screen, images_folder: Path):
    frame = screen.open_frame(task_path("edited"))
    frame.locator("#cards .pictures button").click()
    frame.wait_for_selector("#facts pre")
    until(frame, "() => document.querySelector('#full').naturalWidth > 0")
    facts = frame.locator("#facts").inner_text()
    (path,) = frame.locator("#facts .path code").all_inner_texts()
    assert path.startswith(f"file://{images_folder}")
    assert Path(path.removeprefix("file://")).is_file()
    assert [each for each in ("the same at night", "References", "quality low") if each not in facts] == []
    assert "EvoImageGenerateOperator(" in frame.locator("#facts pre").inner_text()
    until(frame, "() => document.querySelector('.references img')?.naturalWidth > 0")


def test_cleared_task_shows_the_pixels_of_its_new_image(screen: Screen, airflow: LocalAirflow):
    """Its file has the same name, so nothing may show the old one from a cache."""
    frame = screen.open_frame(task_path("again"))
    before = mean_colour(frame, "#cards img"), pixels_on_screen(frame, "#cards img").tobytes()
    path = Path(frame.locator("#cards .path code").inner_text().removeprefix("file://"))
    content = path.read_bytes()
    pushed = airflow.xcom(DAG, RUN, "again", key="evoimage_images")["at"]

    airflow.clear(DAG, RUN, ["again"])
    poll(
        lambda: (
            airflow.task_instance(DAG, RUN, "again")["state"] == "success"
            and airflow.xcom(DAG, RUN, "again", key="evoimage_images")["at"] != pushed
        ),
        seconds=120,
        what="the new image",
    )

    assert path.read_bytes() != content
    frame = screen.open_frame(task_path("again"))
    after = mean_colour(frame, "#cards img"), pixels_on_screen(frame, "#cards img").tobytes()
    assert after != before
    assert after[1] != before[1]


def test_page_refreshes_itself_while_a_task_waits(screen: Screen, airflow: LocalAirflow):
    screen.open(page_path(view="task", dag_id=DAG, run_id=RUN, task_id="waits", map_index=-1))
    settled(screen.page)
    with screen.page.expect_response(re.compile("/evoimage/api/task")):
        pass
    assert cards(screen.page)[0].startswith("The image is on its way.")
