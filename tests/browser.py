"""Headless Chromium for tests of pages; they are skipped where there is none."""

import os
import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1300",
    # Whatever is not this machine has no address, so a page that needed it would not work.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def find_chromium() -> tuple[str, str]:
    """Chromium and its driver; without them, the test is skipped."""
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if binary and driver:
        return binary, driver
    reason = "there is no Chromium or no chromedriver; on Debian: apt-get install chromium chromium-driver"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def start_chromium(profile: Path, downloads: Path, javascript: bool = True) -> webdriver.Chrome:
    """A browser with a profile of its own.

    Args:
        profile: An empty folder.
        downloads: Where it saves files.
        javascript: Whether pages may run scripts.
    """
    binary, driver = find_chromium()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    scripts = {} if javascript else {"profile.managed_default_content_settings.javascript": 2}
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads), **scripts})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))
