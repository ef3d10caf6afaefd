"""The gallery in the menu Browse, in a real browser: filters, themes, keyboard, phone, accessibility, URL prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Frame, Page

from tests.ui.screen import (
    DAG,
    RUN,
    RUN_PATH,
    SAVED_LATER,
    Screen,
    cards,
    mean_colour,
    page_path,
    second_api_server,
    settled,
    task_path,
    until,
)
from tools.local_airflow.airflow import LocalAirflow

GALLERY = "/plugin/evoimage-images"
SERIOUS = {"serious", "critical"}


def serious_findings(page: Page | Frame) -> list[str]:
    """Return what axe calls serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['help']} {[node['target'] for node in each['nodes']][:5]}"
        for each in found
        if each["impact"] in SERIOUS
    ]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours as CSS computes them (WCAG 2)."""

    def luminance(colour: str) -> float:
        parts = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
        linear = [each / 12.92 if each <= 0.03928 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_menu_leads_to_the_gallery_newest_first(screen: Screen):
    screen.open("/")
    screen.page.get_by_role("button", name="Browse").click()
    screen.page.get_by_role("menuitem", name="Images").click()
    frame = screen.our_frame()
    times = frame.eval_on_selector_all("#cards time", "all => all.map(each => each.dateTime)")
    assert len(times) >= 11
    assert times == sorted(times, reverse=True)


def test_filters_narrow_what_is_shown(screen: Screen):
    frame = screen.open_frame(GALLERY)

    def filtered(**values: str) -> list[str]:
        with screen.page.expect_response(re.compile("/evoimage/api/list")):
            for name, value in values.items():
                field = frame.locator(f"[name={name}]")
                field.select_option(value) if name in {"state", "hours"} else field.fill(value)
        frame.wait_for_timeout(300)  # The answer is drawn.
        return cards(frame)

    assert all("bicycle" in each for each in filtered(text="RED bicycle"))
    assert len(filtered(text="red bicycle")) == 1
    assert filtered(text="no such words") == []
    assert "No images match" in frame.locator("#status").inner_text()
    (failed,) = filtered(text="", state="failed")
    assert "content_policy_violation" in failed
    assert len(filtered(state="", dag_id="secret_launch")) == 1


def test_generation_that_is_saved_later_counts_once(screen: Screen):
    frame = screen.open_frame(GALLERY)
    with screen.page.expect_response(re.compile("/evoimage/api/list")):
        frame.locator("[name=dag_id]").fill(SAVED_LATER)
    frame.wait_for_timeout(300)  # The answer is drawn.
    assert len(cards(frame)) == 2
    totals = dict(
        zip(
            frame.locator("#totals dt").all_inner_texts(),
            frame.locator("#totals dd").all_inner_texts(),
            strict=True,
        )
    )
    assert (totals["tasks shown"], totals["images"]) == ("2", "1")
    (charged,) = {re.search(r"([0-9.]+)\s+credits", each)[1] for each in cards(frame)}
    assert totals["credits"] == charged


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_follows_the_theme_of_airflow_live(screen: Screen, theme: str):
    frame = screen.open_frame(GALLERY)
    other = {"light": "dark", "dark": "light"}[theme]
    for name in (other, theme):
        screen.theme(name)
        until(frame, "dark => document.documentElement.classList.contains('dark') === dark", name == "dark")
        ground, ink, soft = frame.evaluate(
            "(() => { const of = (one, name) => getComputedStyle(document.querySelector(one))[name]; return ["
            "of('body', 'backgroundColor'), of('h1', 'color'), of('.facts', 'color')]; })()"
        )
        around = screen.page.evaluate(
            "[document.body, document.documentElement].map(each => getComputedStyle(each).backgroundColor)"
            ".find(each => !each.endsWith(', 0)'))"
        )
        assert ground == around
        assert contrast(ground, ink) >= 7
        assert contrast(ground, soft) >= 4.5


def test_theme_that_was_chosen_holds_outside_a_frame(screen: Screen):
    screen.page.add_init_script("localStorage.setItem('theme', 'dark')")
    screen.open(page_path(view="list"))
    settled(screen.page)
    assert screen.page.evaluate("document.documentElement.classList.contains('dark')")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("place", ["gallery", "run", "task", "waiting", "failed", "viewer"])
def test_axe_finds_nothing_serious(screen: Screen, theme: str, place: str):
    named = {"task": "hero", "waiting": "waits", "failed": "refused", "viewer": "edited"}
    screen.page.add_init_script(f"localStorage.setItem('theme', '{theme}')")
    if place == "gallery":
        screen.open(page_path(view="list"))
    elif place == "run":
        screen.open(page_path(view="run", dag_id=DAG, run_id=RUN))
    else:
        screen.open(page_path(view="task", dag_id=DAG, run_id=RUN, task_id=named[place], map_index=-1))
    settled(screen.page)
    if place == "viewer":
        screen.page.locator("#cards .pictures button").first.click()
        screen.page.wait_for_selector("#facts pre")
    assert serious_findings(screen.page) == []


def test_keyboard_opens_steps_and_closes(screen: Screen):
    screen.open(page_path(view="task", dag_id=DAG, run_id=RUN, task_id="hero", map_index=-1))
    settled(screen.page)
    keyboard = screen.page.keyboard

    def shown() -> str:
        until(screen.page, "() => document.querySelector('#full').naturalWidth > 0")
        return str(screen.page.get_attribute("#full", "src"))

    keyboard.press("Tab")
    focused = screen.page.evaluate("document.activeElement.closest('.pictures') !== null")
    assert focused
    keyboard.press("Enter")
    first = shown()
    assert "index=0" in first
    keyboard.press("ArrowRight")
    assert "index=1" in shown()
    keyboard.press("ArrowRight")  # The last one stays.
    assert "index=1" in shown()
    keyboard.press("ArrowLeft")
    assert shown() == first
    keyboard.press("Escape")
    assert not screen.page.locator("#viewer").is_visible()
    assert screen.page.evaluate("document.activeElement.closest('.pictures') !== null")


@pytest.mark.parametrize("place", ["gallery", "run", "task"])
def test_phone_needs_no_sideways_scrolling(browser: Browser, airflow: LocalAirflow, place: str):
    query = {
        "gallery": {"view": "list"},
        "run": {"view": "run", "dag_id": DAG, "run_id": RUN},
        "task": {"view": "task", "dag_id": DAG, "run_id": RUN, "task_id": "hero", "map_index": -1},
    }[place]
    phone = {"width": 360, "height": 740}
    with Screen.opened(browser, airflow.url, viewport=phone, has_touch=True, is_mobile=True) as screen:
        screen.open(page_path(**query))
        settled(screen.page)
        width = "() => [document.documentElement.scrollWidth, innerWidth]"
        scrolled, shown = screen.page.evaluate(width)
        assert scrolled <= shown == phone["width"]
        screen.page.locator("#cards .pictures button").first.click()
        screen.page.wait_for_selector("#facts pre")
        scrolled, shown = screen.page.evaluate(width)
        assert scrolled <= shown
        for each in ("#close", "#next"):
            box = screen.page.locator(each).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= phone["width"]
            assert box["y"] + box["height"] <= phone["height"]


@pytest.fixture
def below_a_prefix(airflow: LocalAirflow, tmp_path: Path) -> Iterator[str]:
    """A second api-server of the same Airflow, whose addresses have a path."""
    with second_api_server(airflow, tmp_path, prefix="/air") as url:
        yield url


def test_url_prefix_stays_on_every_way(browser: Browser, below_a_prefix: str):
    with Screen.opened(browser, below_a_prefix) as screen:
        frame = screen.open_frame(GALLERY)
        assert frame.url.startswith(f"{below_a_prefix}/evoimage/page")
        assert frame.locator("#cards img").count() >= 4
        frame.get_by_role("link", name=f"{DAG} · edited").click()
        screen.page.wait_for_url(
            f"{below_a_prefix}/dags/{DAG}/runs/{RUN_PATH}/tasks/edited/plugin/evoimage-task"
        )
        frame = screen.our_frame("task")
        frame.locator("#cards .pictures button").click()
        until(frame, "() => document.querySelector('#full').naturalWidth > 0")
        frame = screen.open_frame(task_path("mapped", 1))
        assert "A slice of cake" in cards(frame)[0]


def test_pixels_on_the_screen_are_those_of_the_file(screen: Screen):
    screen.open(page_path(view="task", dag_id=DAG, run_id=RUN, task_id="edited", map_index=-1))
    settled(screen.page)
    path = screen.page.locator("#cards .path code").inner_text().removeprefix("file://")
    with Image.open(path) as image:
        expected = image.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert isinstance(expected, tuple)
    shown = mean_colour(screen.page, "#cards img")
    assert all(abs(one - other) <= 12 for one, other in zip(shown, expected, strict=True))
