"""The browser in which pages are tried: headless Chromium, the system's own."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@contextlib.contextmanager
def running(home: Path) -> Iterator[Any]:
    """Without one this fails: a page that nobody opened is not tested. home: where it leaves what it leaves lying."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, f"no browser is installed (one of {', '.join(BROWSERS)}): apt-get install chromium"
    with sync_playwright() as playwright:
        places = {"HOME": str(home), "TMPDIR": str(home)}
        browser = playwright.chromium.launch(executable_path=found, env={**os.environ, **places})
        try:
            yield browser
        finally:
            browser.close()
