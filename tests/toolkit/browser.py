"""The browser in which pages are tried: headless Chromium, the system's own."""

import contextlib
import os
import shutil
import tempfile
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
    # A short name: the browser has a socket in there, whose path may have 107 bytes.
    with sync_playwright() as playwright, tempfile.TemporaryDirectory(prefix="thinwalls-test-") as short:
        places = {"HOME": str(home), "TMPDIR": short}
        browser = playwright.chromium.launch(executable_path=found, env={**os.environ, **places})
        try:
            yield browser
        finally:
            browser.close()
