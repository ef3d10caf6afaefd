"""A Chromium of this machine, driven by Playwright: for the tests in a browser and for the pictures of the pages."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

#: Playwright's own download is not needed: Debian's and Ubuntu's package is enough.
HOW_TO_INSTALL = (
    "No Chromium was found. Debian and Ubuntu: apt-get install --no-install-recommends chromium fonts-dejavu"
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PLACES = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",)
# It asks nobody but the server under test. A container has no user namespaces for Chromium's sandbox.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
)


def find_chromium() -> Path | None:
    """Return the path of a Chromium or Chrome; None if there is none."""
    for name in _NAMES:
        if found := shutil.which(name):
            return Path(found)
    return next((Path(each) for each in _PLACES if Path(each).is_file()), None)


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Run a headless Chromium.

    :raises FileNotFoundError: saying how to install one.
    """
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only who looks at pages needs it

    chromium = find_chromium()
    if chromium is None:
        raise FileNotFoundError(HOW_TO_INSTALL)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()
