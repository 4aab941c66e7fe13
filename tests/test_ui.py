import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent


def start_ui(home, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "flows.ui", *arguments],
        cwd=ROOT,
        env=os.environ | {"PREFECT_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def browser() -> Iterator:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium and chromedriver are not here")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-background-networking",
        "disable-component-update", "disable-sync", "no-first-run", "window-size=1280,900",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        yield browser


def test_the_page_shows_a_run_and_its_artifacts(deployed, ui_server, browser):
    """GOODNET_SCREENSHOT names a file to keep what the page looks like."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    expected = {deployed.run["name"], "Completed", "repair", "results", "summary", "report"}

    def lines(page):
        return set(page.find_element(By.TAG_NAME, "body").text.split("\n"))

    browser.get(f"{ui_server.address}/v2/runs/flow-run/{deployed.run['id']}?tab=Artifacts")
    WebDriverWait(browser, 60).until(lambda page: expected <= lines(page))
    if "GOODNET_SCREENSHOT" in os.environ:
        browser.save_screenshot(os.environ["GOODNET_SCREENSHOT"])


@pytest.mark.parametrize("page", ["", "/dashboard", "/v2/dashboard"])
def test_a_page_calls_nobody_but_its_server(page, ui_server, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get_log("performance")
    browser.get(ui_server.address + page)
    WebDriverWait(browser, 60).until(
        lambda page: "Event Feed" in page.find_element(By.TAG_NAME, "body").text
    )
    entries = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    events = [(entry["method"], entry["params"]) for entry in entries]
    sent = {
        about["requestId"]: about["request"]["url"]
        for event, about in events
        if event == "Network.requestWillBeSent"
    }
    stopped = {
        about["requestId"]
        for event, about in events
        if event == "Network.loadingFailed" and about.get("blockedReason") == "csp"
    }
    inside = (ui_server.address, "data:", "blob:")
    assert any("/api/" in url for url in sent.values())
    assert [
        url
        for request, url in sent.items()
        if request not in stopped and not url.startswith(inside)
    ] == []


def test_the_page_finds_its_api_and_only_this_machine_does(ui_server):
    settings = httpx.get(f"{ui_server.address}/ui-settings").json()
    assert settings["api_url"] == f"{ui_server.address}/api"
    with socket.socket() as elsewhere, pytest.raises(OSError, match="refused"):
        elsewhere.connect(("127.0.0.2", httpx.URL(ui_server.address).port))


def test_a_second_server_on_the_same_database_is_not_started(ui_server):
    done = start_ui(ui_server.home)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"The Prefect UI is up at {ui_server.address} already.\n"


def test_a_port_that_is_taken_is_refused_in_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = start_ui(tmp_path, "--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: port {port} cannot be had:")
    assert done.stderr.count("\n") == 1
    assert start_ui(tmp_path, "--port", "70000").returncode == 2
