"""Takes the pictures of the docs: the pages in a real Airflow that ran the example DAGs: `make screenshots`.

Each becomes a WebP of `docs/pictures/`, at most 150 kB.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from PIL import Image

from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.browser import running_browser
from tools.local_airflow.evolink import running_simulator, simulator_connection
from tools.local_airflow.processes import poll
from tools.local_airflow.ui import EXAMPLE_IMAGES

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Frame, Page

MAX_BYTES = 150_000
DAGS = ("evoimage_quick_start", "evoimage_daily_campaign", "evoimage_batch_campaign", "evoimage_edit_chain")
RUN = "manual__2026-11-25T08:00:00+00:00"
GALLERY = "/plugin/evoimage-images"


class Camera:
    """Opens Airflow's pages in a browser and keeps pictures of them.

    :param folder: where the pictures are kept.
    """

    def __init__(self, browser: Browser, url: str, folder: Path, *, theme: str = "light") -> None:
        context = browser.new_context(
            viewport={"width": 1280, "height": 800}, color_scheme=theme, locale="en-US"
        )
        context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
        self.page: Page = context.new_page()
        self.page.set_default_timeout(60_000)
        self._url, self._folder = url, folder

    def open(self, path: str) -> Frame:
        """Open a page of Airflow with one of ours in it; returns ours, with its pictures loaded."""
        self.page.goto(f"{self._url}{path}")
        element = self.page.wait_for_selector("iframe[src*='evoimage/page']")
        frame = element.content_frame() if element else None
        if frame is None:
            raise TimeoutError(f"{path} has no frame.")
        self.settle(frame)
        return frame

    def settle(self, frame: Frame) -> None:
        """Wait for the cards and for each picture in view."""
        poll(lambda: frame.evaluate(_IS_SETTLED), seconds=60, what="the pictures of the page", interval=0.1)

    def take(self, name: str) -> None:
        """Keep what the window shows as NAME.webp, in the best quality that is small enough."""
        shown = Image.open(io.BytesIO(self.page.screenshot()))
        for quality in (90, 80, 70, 60, 50):
            content = io.BytesIO()
            shown.convert("RGB").save(content, "WEBP", quality=quality, method=6)
            if content.tell() <= MAX_BYTES:
                break
        else:
            raise ValueError(f"{name} is larger than {MAX_BYTES} bytes.")
        (self._folder / f"{name}.webp").write_bytes(content.getvalue())
        print(f"{name}.webp  {content.tell() / 1000:.0f} kB")


_IS_SETTLED = """() => (document.querySelector("#status")?.textContent ?? "Loading …") !== "Loading …"
  && [...document.querySelectorAll("#cards img, #items img")].filter(each => {
    const box = each.getBoundingClientRect(); return box.top < innerHeight && box.bottom > 0; })
  .every(each => each.complete && each.naturalWidth)"""


def task_path(dag_id: str, task_id: str, map_index: int | None = None) -> str:
    """Return the address of the tab of a task instance."""
    mapped = "" if map_index is None else f"/mapped/{map_index}"
    return f"{run_path(dag_id)}/tasks/{task_id}{mapped}/plugin/evoimage-task"


def run_path(dag_id: str) -> str:
    """Return the address of a DAG run."""
    return f"/dags/{dag_id}/runs/{quote(RUN, safe='')}"


def take_all(browser: Browser, url: str, folder: Path) -> None:
    """Take every picture that the docs show."""
    camera = Camera(browser, url, folder)
    camera.open(GALLERY)
    camera.take("gallery")
    camera.open(f"{run_path('evoimage_quick_start')}/plugin/evoimage-run")
    camera.take("quick-start")
    camera.open(f"{run_path('evoimage_daily_campaign')}/plugin/evoimage-run")
    camera.take("run")
    camera.open(task_path("evoimage_daily_campaign", "draw", 2))
    camera.take("task")
    frame = camera.open(task_path("evoimage_edit_chain", "edit", 0))
    frame.locator("#cards .pictures button").first.click()
    frame.wait_for_selector("#facts .references img")
    poll(
        lambda: frame.evaluate(
            "() => [...document.querySelectorAll('#full, .references img')].every(each => each.naturalWidth)"
        ),
        seconds=60,
        what="the whole picture",
    )
    camera.take("details")
    frame = camera.open(task_path("evoimage_batch_campaign", "draw"))
    frame.wait_for_selector("#items article img")
    camera.settle(frame)
    camera.take("batch")
    camera.page.goto(f"{url}/connections")
    camera.page.get_by_role("button", name="Edit Connection").first.click()
    camera.page.get_by_text("Base URL").first.wait_for()
    camera.take("connection")
    dark = Camera(browser, url, folder, theme="dark")
    dark.open(GALLERY)
    dark.take("gallery-dark")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example DAGs, take the pictures, stop everything; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.local_airflow.screenshots", description=__doc__)
    parser.add_argument("--dags", type=Path, default=Path("example_dags"), help="folder of the example DAGs")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="default docs/pictures")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="evoimage-screenshots-") as name:
        folder = Path(name)
        images = f"file://{folder}/images"
        # One of the DAGs has a schedule: its own run saves where the examples do by default.
        roots = {"AIRFLOW__EVOIMAGE__IMAGE_ROOTS": json.dumps([images, EXAMPLE_IMAGES])}
        with (
            running_browser() as browser,
            running_simulator(folder, "--speed", "20") as evolink,
            LocalAirflow(folder / "home", dags=chosen.dags, env=roots) as airflow,
        ):
            for conn_id, fields in simulator_connection(evolink).items():
                airflow.keep_connection(conn_id, fields)
            for dag_id in DAGS:
                airflow.unpause(dag_id)
                airflow.trigger(dag_id, {"save_to": images}, run_id=RUN)
            for dag_id in DAGS:
                airflow.wait_for_success(dag_id, RUN, deadline=600)
            take_all(browser, airflow.url, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
