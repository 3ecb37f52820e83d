"""A real browser for tests: headless Chromium, the system's own, driven by Playwright."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def browser(home: Path) -> Iterator[Any]:
    """A running browser, which leaves what it leaves in ``home``. Without one a test fails: a page that nobody opened
    is not tested."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, f"no browser is installed (one of {', '.join(BROWSERS)}): apt-get install chromium"
    with sync_playwright() as playwright:
        places = {"HOME": str(home), "TMPDIR": str(home)}
        running = playwright.chromium.launch(executable_path=found, env={**os.environ, **places})
        try:
            yield running
        finally:
            running.close()
