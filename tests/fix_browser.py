"""A headless Chromium, and pages in it that note what they asked for and what they complained of."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from playwright.sync_api import Page, sync_playwright

WITHIN_MS = 60_000.0
"""How long a test waits for what must come; only a failing test waits that long."""


class Window:
    """One page: ``asked`` are the addresses it requested, ``complaints`` its console's and its uncaught errors."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(WITHIN_MS)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def text(self, selector: str) -> str:
        """What an element shows."""
        return self.page.locator(selector).inner_text()


class Browser:
    """The program at ``path``. Blocking; each page is used in the thread that opened it."""

    def __init__(self, path: str) -> None:
        self._path = path

    @contextmanager
    def window(self, *, width: int = 1200, height: int = 900, **options: Any) -> Iterator[Window]:
        """A window of its own program, closed at the end."""
        # trio-asyncio's policy makes loops that cannot be nested as playwright nests them
        with patch("asyncio.new_event_loop", asyncio.SelectorEventLoop):
            driver = sync_playwright().start()
        try:
            # no sandbox: root has none, and what is shown is ours
            program = driver.chromium.launch(executable_path=self._path, args=["--no-sandbox"])
            context = program.new_context(viewport={"width": width, "height": height}, **options)
            yield Window(context.new_page())
            program.close()
        finally:
            driver.stop()


@pytest.fixture(scope="session")
def browser() -> Browser:
    """Debian's package chromium, or another build of it."""
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("chromium is not installed")
    return Browser(found[0])
