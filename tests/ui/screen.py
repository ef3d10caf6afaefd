"""A window of the browser on Airflow's UI, which notes every error of the console and every failed request."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Error, Frame, Page, Request, Response

from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import LocalAirflowError, free_ports, poll

DAG, OTHER_DAG, SAVED_LATER = "pictures", "secret_launch", "saved_later"
# With a plus and a colon, as scheduled runs have.
RUN = "manual__2026-11-25T01:02:03+00:00"
RUN_PATH = quote(RUN, safe="")
# Longer than any page needs, as the machine may be busy.
PATIENCE_MS = 60_000


class Screen:
    """One window.

    :param page: of Playwright.
    :param base: Airflow's address, with its URL prefix.
    """

    def __init__(self, page: Page, base: str) -> None:
        self.page, self.base = page, base
        self.problems: list[str] = []
        #: Statuses that a test expects of an address that holds this text.
        # Airflow 3.1 asks for its settings before it has logged in, and forgets then which page was asked for.
        self._forgets_the_first_page = version("apache-airflow").startswith("3.1.")
        asks_early = (
            ("/ui/config", "/ui/auth/menus", "/api/v2/plugins") if self._forgets_the_first_page else ()
        )
        self.expected: dict[str, int] = dict.fromkeys(asks_early, 401)
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._said)
        page.on("pageerror", self._raised)
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, browser: Browser, base: str, **options: Any) -> Iterator[Self]:
        """Open a window; at the end nothing may have gone wrong in it."""
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", "locale": "en-US"}
            | options
        )
        try:
            screen = cls(context.new_page(), base)
            yield screen
            assert not screen.problems, "\n".join(screen.problems)
        finally:
            context.close()

    def _said(self, message: ConsoleMessage) -> None:
        # The browser repeats a failed answer on the console; `_answered` knows whether it is expected. A picture alone
        # in a window is shown by a page of the browser's own, whose style its policy forbids.
        is_own_page = "evoimage/image" in self.page.url and "Applying inline style" in message.text
        if message.type == "error" and "Failed to load resource" not in message.text and not is_own_page:
            self.problems.append(f"console: {message.text[:300]}")

    def _raised(self, error: Error) -> None:
        # Airflow 3.2 tells of each request of its own that it aborts when a page is left. Our page aborts none.
        if "signal is aborted without reason" not in error.message:
            self.problems.append(f"script error: {error}")

    def _failed(self, request: Request) -> None:
        # Those under way when a page is left are aborted.
        if "ERR_ABORTED" not in str(request.failure):
            self.problems.append(f"no answer: {request.url} {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and not any(
            text in response.url and response.status == status for text, status in self.expected.items()
        ):
            self.problems.append(f"{response.status}: {response.url}")

    def open(self, path: str) -> None:
        """Go to a page of Airflow."""
        if self._forgets_the_first_page:
            self._forgets_the_first_page = False
            self.page.goto(self.base)
            self.page.get_by_role("link", name="Dags").first.wait_for()
        self.page.goto(f"{self.base}{path}")

    def open_frame(self, path: str) -> Frame:
        """Go to a page of Airflow that shows one of ours, and return ours once it has loaded its cards."""
        self.open(path)
        return self.our_frame()

    def our_frame(self, view: str = "") -> Frame:
        """Return our page within Airflow's.

        :param view: which of ours, where another may still be there.
        """
        element = self.page.wait_for_selector(f"iframe[src*='evoimage/page?view={view}']")
        frame = element.content_frame() if element else None
        assert frame is not None
        settled(frame)
        return frame

    def theme(self, name: str) -> None:
        """Change light and dark as a user of Airflow does, by what its button does."""
        self.page.evaluate(
            "name => { const root = document.documentElement; root.classList.remove('light', 'dark'); "
            "root.classList.add(name); root.style.colorScheme = name; }",
            name,
        )


@contextlib.contextmanager
def second_api_server(
    airflow: LocalAirflow,
    folder: Path,
    *,
    prefix: str = "",
    prepare: Callable[[LocalAirflow], None] | None = None,
    **settings: str,
) -> Iterator[str]:
    """Run a further api-server on the same database; gives its address.

    :param prefix: path of its addresses.
    :param prepare: what has to be done before it starts.
    :param settings: further environment variables.
    """
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}{prefix}"
    same = ("SQL_ALCHEMY_CONN", "SECRET_KEY", "JWT_SECRET")
    environment = {
        **{name: value for name, value in airflow.environment.items() if name.endswith(same)},
        "AIRFLOW__EVOIMAGE__IMAGE_ROOTS": airflow.environment["AIRFLOW__EVOIMAGE__IMAGE_ROOTS"],
        "AIRFLOW__API__BASE_URL": url,
        **settings,
    }
    other = LocalAirflow(folder / "second", dags=folder, env=environment, port=port)
    other.home.mkdir(parents=True)
    try:
        if prepare is not None:
            prepare(other)
        other.start_component("api-server", wait=False)
        server = other.components["api-server"]

        def is_up() -> bool:
            if server.exit_code is not None:
                raise LocalAirflowError(server.log_tail())
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{url}/api/v2/version", timeout=10, trust_env=False).is_success
            return False

        poll(is_up, seconds=120, what="the second api-server", interval=0.3)
        yield url
    finally:
        other.stop()


def task_path(task_id: str, map_index: int | None = None, *, dag_id: str = DAG) -> str:
    """Return the address of the tab of a task instance."""
    mapped = "" if map_index is None else f"/mapped/{map_index}"
    return f"/dags/{dag_id}/runs/{RUN_PATH}/tasks/{task_id}{mapped}/plugin/evoimage-task"


def page_path(**query: object) -> str:
    """Return the address of our page without Airflow's around it."""
    return "/evoimage/page?" + "&".join(f"{name}={quote(str(each), safe='')}" for name, each in query.items())


def until(page: Page | Frame, expression: str, argument: Any = None) -> Any:
    """Wait until JavaScript is true; Playwright's own waiting needs what our Content-Security-Policy forbids."""
    return poll(
        lambda: page.evaluate(expression, argument),
        seconds=PATIENCE_MS / 1000,
        what=expression,
        interval=0.05,
    )


def settled(page: Page | Frame) -> None:
    """Wait until our page has asked for its cards and all pictures in view are there."""
    until(
        page,
        """() => document.querySelector("#status") && document.querySelector("#status").textContent !== "Loading …"
          && [...document.querySelectorAll("#cards img, #items img")].filter(each => {
            const box = each.getBoundingClientRect(); return box.top < innerHeight && box.bottom > 0; })
          .every(each => each.complete && each.naturalWidth)""",
    )


def cards(page: Page | Frame) -> list[str]:
    """Return the text of each card."""
    return [each.inner_text() for each in page.locator("#cards > article").all()]


def mean_colour(page: Page | Frame, selector: str) -> tuple[int, ...]:
    """Return the mean colour of the pixels that a picture in the page shows."""
    pixels = page.eval_on_selector(
        selector,
        """image => { const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
          const drawing = canvas.getContext("2d"); drawing.imageSmoothingQuality = "high";
          drawing.drawImage(image, 0, 0, 1, 1); return [...drawing.getImageData(0, 0, 1, 1).data].slice(0, 3); }""",
    )
    return tuple(pixels)


def pixels_on_screen(page: Page | Frame, selector: str) -> Image.Image:
    """Return a picture as it is drawn on the screen, without what lies around it."""
    shot = Image.open(io.BytesIO(page.locator(selector).first.screenshot()))
    shot.load()
    return shot.convert("RGB")
