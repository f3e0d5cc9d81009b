"""Debian's Chromium without a window."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver


@contextmanager
def chromium(width: int, height: int) -> Iterator[webdriver.Chrome]:
    """It writes down what pages log and what they ask the network for, and leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="chromium.") as folder:  # short: a socket's path has 107 characters at most
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", f"window-size={width},{height}"):
            options.add_argument(f"--{argument}")
        options.add_argument(f"--user-data-dir={folder}/profile")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = webdriver.ChromeService("/usr/bin/chromedriver", env=os.environ | {"TMPDIR": folder})
        driver = webdriver.Chrome(options, service)
        try:
            yield driver
        finally:
            driver.quit()
            give_up = time.monotonic() + 60
            while subprocess.run(["pgrep", "-f", folder], stdout=subprocess.DEVNULL).returncode == 0:
                assert time.monotonic() < give_up, f"Chromium's processes in {folder} do not end"
                time.sleep(0.1)
