"""An approval in Airflow's Required Actions, answered with the mouse in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.evolink import running_simulator, simulator_connection
from tools.local_airflow.processes import poll

playwright = pytest.importorskip("playwright.sync_api", reason="make test-ui installs Playwright")
screen = pytest.importorskip("tests.ui.screen", reason="the window that all tests in a browser share")
Screen, settled, until = screen.Screen, screen.settled, screen.until

pytestmark = pytest.mark.timeout(1_800)

DAG = "ask"
RUN = "manual__2026-11-25T01:02:03+00:00"
WAITS = {"deferred", "awaiting_input"}
DAG_FILE = """
import os

from airflow.sdk import DAG, task

from airflow_provider_evoimage.operators.approval import EvoImageApprovalOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator

OUT = os.environ["PICTURES_OUT"]

with DAG("ask", schedule=None, params={"untyped": None}, default_args={"retries": 2}):
    draw = EvoImageGenerateOperator(
        task_id="draw", model="gpt-image-1.5", prompt="A bicycle", save_to=OUT, quality="low", n=4
    )
    cut = EvoImageRenditionsOperator(task_id="cut", images=draw.output, save_to=OUT, renditions=["meta.square"])

    @task
    def first(manifest, count):
        return {**manifest, "images": manifest["images"][:count]}

    @task
    def publish(manifest):
        return [image["path"] for image in manifest["images"]]

    publish(EvoImageApprovalOperator(task_id="many", images=cut.output, subject="Which bicycles go out?").output)
    EvoImageApprovalOperator(task_id="one", images=first(draw.output, 3), choose="one")
    EvoImageApprovalOperator(task_id="all", images=draw.output, choose="all")
    EvoImageApprovalOperator(
        task_id="hidden",
        images=EvoImageGenerateOperator(
            task_id="draw_hidden", prompt="x", save_to=OUT + "-other", quality="low"
        ).output,
    )
"""


@pytest.fixture(scope="module")
def asking(browser: playwright.Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    """An Airflow in which a run waits for answers; the browser first, as without one all is skipped."""
    folder = tmp_path_factory.mktemp("asking")
    (folder / "dags").mkdir()
    (folder / "dags" / "ask.py").write_text(DAG_FILE)
    images = folder / "images"
    environment = {
        "AIRFLOW__EVOIMAGE__IMAGE_ROOTS": json.dumps([f"file://{images}"]),
        "PICTURES_OUT": f"file://{images}",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        "TMPDIR": str(tmp_path_factory.mktemp("tmp")),
    }
    with (
        running_simulator(folder, "--speed", "30") as evolink,
        LocalAirflow(
            folder / "home", dags=folder / "dags", connections=simulator_connection(evolink), env=environment
        ) as running,
    ):
        running.unpause(DAG)
        # The machine may be busy.
        assert running._http is not None
        running._http.timeout = 120
        running.trigger(DAG, run_id=RUN)
        poll(lambda: waits(running), seconds=600, what="all approvals to wait")
        yield running


def waits(airflow: LocalAirflow) -> bool:
    states = {each["task_id"]: each["state"] for each in airflow.task_instances(DAG, RUN)}
    return all(states.get(each) in WAITS for each in ("many", "one", "all", "hidden"))


@pytest.fixture
def window(browser: playwright.Browser, asking: LocalAirflow) -> Iterator[Screen]:
    with Screen.opened(browser, asking.url, viewport={"width": 1280, "height": 1600}) as found:
        yield found


def task_address(task_id: str) -> str:
    return f"/dags/{DAG}/runs/{quote(RUN, safe='')}/tasks/{task_id}"


def shown_pictures(window: Screen) -> list[dict[str, object]]:
    """Wait until every picture of the page is there; return their alt texts and pixels."""
    until(
        window.page,
        """() => { const found = [...document.querySelectorAll("img[src*='evoimage/image']")];
          return found.length && found.every(each => each.complete && each.naturalWidth > 0); }""",
    )
    return window.page.eval_on_selector_all(
        "img[src*='evoimage/image']",
        "all => all.map(each => ({alt: each.alt, width: each.naturalWidth, height: each.naturalHeight}))",
    )


def take_picture(window: Screen, name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.getbasetemp() / f"approval-{name}.png"
    window.page.screenshot(path=path, full_page=True)
    return path


def test_pictures_load_and_two_of_four_are_chosen(
    window: Screen, asking: LocalAirflow, tmp_path_factory: pytest.TempPathFactory
):
    window.open(f"{task_address('many')}/required_actions")
    window.page.get_by_text("Which bicycles go out?").first.wait_for()
    pictures = shown_pictures(window)
    assert [each["alt"] for each in pictures] == [
        text for number in range(1, 5) for text in (f"Picture {number}", f"Picture {number} · meta.square")
    ]
    assert {each["width"] for each in pictures} == {384}
    # The fields of the form: the options and a comment, nothing of the DAG's own params.
    assert window.page.get_by_text("untyped").count() == 0
    take_picture(window, "asks", tmp_path_factory)

    choose(window, "2")
    choose(window, "4")
    window.page.locator("textarea").last.fill("calm")
    respond(window)
    asking.wait_for_state(DAG, RUN, "publish", "success", seconds=400)
    drawn = [image["path"] for image in asking.xcom(DAG, RUN, "draw")["images"]]
    assert asking.xcom(DAG, RUN, "publish") == [drawn[1], drawn[3]]
    assert asking.xcom(DAG, RUN, "many")["approval"]["comment"] == "calm"


def choose(window: Screen, option: str) -> None:
    """Take one option of a field that offers several."""
    field = window.page.get_by_role("combobox").first
    if field.evaluate("element => element.tagName") == "BUTTON":
        # A single choice on Airflow 3.1.
        field.click()
        window.page.get_by_role("option", name=option, exact=True).click()
        return
    field.fill(option)
    field.press("Enter")


def respond(window: Screen) -> None:
    window.page.get_by_role("button", name=re.compile("^(Respond|OK)$")).click()


def test_answered_page_and_tab_show_what_was_chosen(
    window: Screen, asking: LocalAirflow, tmp_path_factory: pytest.TempPathFactory
):
    asking.wait_for_state(DAG, RUN, "many", "success", seconds=400)
    window.open(f"{task_address('many')}/required_actions")
    assert len(shown_pictures(window)) == 8
    frame = window.open_frame(f"{task_address('many')}/plugin/evoimage-task")
    settled(frame)
    captions = [each.inner_text() for each in frame.locator(".captioned span").all()]
    assert captions[::2] == ["1 · not approved", "2 · approved", "3 · not approved", "4 · approved"]
    assert captions[1] == "1 · meta.square · 1080×1080"
    assert "2 of 4 approved by " in frame.locator("#cards").inner_text()
    take_picture(window, "tab", tmp_path_factory)


def test_single_choice_of_three_shows_its_options(
    window: Screen, asking: LocalAirflow, tmp_path_factory: pytest.TempPathFactory
):
    window.open(f"{task_address('one')}/required_actions")
    assert len(shown_pictures(window)) == 3
    take_picture(window, "one", tmp_path_factory)
    if window.page.get_by_role("button", name="3", exact=True).count():
        window.page.get_by_role("button", name="3", exact=True).click()
    else:
        choose(window, "3")
        respond(window)
    asking.wait_for_state(DAG, RUN, "one", "success", seconds=400)
    assert asking.xcom(DAG, RUN, "one")["approval"]["chosen"] == [3]


def test_all_or_none_are_two_buttons(window: Screen, asking: LocalAirflow):
    window.open(f"{task_address('all')}/required_actions")
    assert len(shown_pictures(window)) == 4
    window.page.get_by_role("button", name="Reject", exact=True).click()
    asking.wait_for_state(DAG, RUN, "all", "skipped", seconds=400)


def test_page_shows_a_sign_where_the_folder_is_not_listed(
    window: Screen, tmp_path_factory: pytest.TempPathFactory
):
    window.expected["evoimage/image"] = 403
    window.open(f"{task_address('hidden')}/required_actions")
    assert [each["width"] for each in shown_pictures(window)] == [300]
    take_picture(window, "hidden", tmp_path_factory)


def test_click_on_a_picture_opens_it_whole(window: Screen):
    window.open(f"{task_address('one')}/required_actions")
    shown_pictures(window)
    link = window.page.locator("a[href*='size=full']").first
    if link.get_attribute("target") == "_blank":
        with window.page.context.expect_page(timeout=screen.PATIENCE_MS) as opened:
            link.click()
        picture = opened.value
    else:
        # Airflow 3.1 stays in the window.
        link.click()
        window.page.wait_for_url("**size=full**")
        picture = window.page
    until(picture, "() => document.images.length === 1 && document.images[0].naturalWidth === 1024")
