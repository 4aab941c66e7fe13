"""A real browser."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait


class Browser:
    """A real browser, and what its page asked for."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(
        self, url: str, *, ready: str, width: int = 1100, height: int = 900, scheme: str = "light"
    ) -> None:
        """Open a page and wait until the expression `ready` holds in it."""
        self.show(width=width, height=height, scheme=scheme)
        # The page before, which may be the browser's own, loads no more once an empty one is there.
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(url)
        WebDriverWait(self.driver, 60, poll_frequency=0.1).until(lambda _: self.script(ready))

    def show(self, *, width: int = 1100, height: int = 900, scheme: str = "light") -> None:
        """Show the page that is open in another size or colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def script(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def requests(self) -> list[str]:
        """The addresses outside the browser that were asked for since the last call or page.

        What the page's own policy stopped before it left is not among them.
        """
        entries = [json.loads(entry["message"]) for entry in self.driver.get_log("performance")]
        events = [(entry["message"]["method"], entry["message"]["params"]) for entry in entries]
        stopped = {
            about["requestId"]
            for event, about in events
            if event == "Network.loadingFailed" and about.get("blockedReason") == "csp"
        }
        sent = [
            about["request"]["url"]
            for event, about in events
            if event == "Network.requestWillBeSent" and about["requestId"] not in stopped
        ]
        sent += [about["url"] for event, about in events if event == "Network.webSocketCreated"]
        outside = ("http:", "https:", "ws:", "wss:", "file:")
        return [url for url in sent if url.startswith(outside)]

    def errors(self) -> list[dict]:
        """What the page wrote to its console since the last call or page."""
        return self.driver.get_log("browser")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    binary, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and chromedriver):
        pytest.skip("chromium and chromedriver are not here")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    # Without isolation, a page is drawn by the process that has the scripts of the one before it.
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-site-isolation-trials",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "no-first-run",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(chromedriver)
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Browser]:
    """That browser, with no page left open for the tests of other files.

    A page that draws all the time, as some of Prefect's do, takes most of a core.
    """
    yield Browser(chromium)
    chromium.get("about:blank")
