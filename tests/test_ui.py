import os
import socket
import subprocess
import sys
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


def test_the_page_shows_a_run_and_its_artifacts(deployed, ui_server, browser):
    """GOODNET_SCREENSHOT names a file to keep what the page looks like."""
    expected = [deployed.run["name"], "Completed", "repair", "results", "summary", "report"]
    browser.open(
        f"{ui_server.address}/v2/runs/flow-run/{deployed.run['id']}?tab=Artifacts",
        ready=f"{expected}.every(line => document.body.innerText.split('\\n').includes(line))",
        width=1280,
    )
    if "GOODNET_SCREENSHOT" in os.environ:
        browser.driver.save_screenshot(os.environ["GOODNET_SCREENSHOT"])


@pytest.mark.parametrize("page", ["", "/dashboard", "/v2/dashboard"])
def test_a_page_calls_nobody_but_its_server(page, ui_server, browser):
    browser.open(ui_server.address + page, ready="document.body.innerText.includes('Event Feed')")
    urls = browser.requests()
    assert any("/api/" in url for url in urls)
    inside = (ui_server.address, ui_server.address.replace("http", "ws"))
    assert [url for url in urls if not url.startswith(inside)] == []


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
