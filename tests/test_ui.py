import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.settings import temporary_settings
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from flows.password import kept_password
from flows.temporary_server import Server
from goodnet.errors import printable
from goodnet.reports.audits import DEFAULT_LIMITS, AuditedModel
from goodnet.reports.leaderboard import Cell, MeasuredCell, make_leaderboard
from goodnet.reports.tables import format_markdown
from tasks.auditing import publish_audit
from tasks.benchmarking import publish_leaderboard
from tasks.markdown import as_markdown

pytestmark = pytest.mark.server

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


@pytest.mark.parametrize("page", ["", "/dashboard", "/v2/dashboard"])
def test_a_page_calls_nobody_but_its_server(page, ui_server, signed_in):
    signed_in.open(ui_server.address + page, ready="document.body.innerText.includes('Event Feed')")
    urls = signed_in.requests()
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
    assert done.stdout == f"The Prefect UI is up already: {ui_server.sign_in}\n"


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


@pytest.mark.parametrize("path", ["/", "/api/health", "/api/admin/version", "/goodnet-sign-in"])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:{port}"},
        {"host": "localhost:{port}"},
        {"host": "127.0.0.1"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1"},
        {"origin": "http://localhost:{port}"},
        {"origin": "null"},
    ],
    ids=str,
)
def test_calls_under_another_name_get_no_answer_even_with_the_password(ui_server, headers, path):
    port = str(httpx.URL(ui_server.address).port)
    forged = {name: value.replace("{port}", port) for name, value in headers.items()}
    with ui_server.client() as client:
        answer = client.get(ui_server.address + path, headers=forged)
    assert (answer.status_code, answer.text) == (
        403,
        f"This server answers at {ui_server.address} alone.\n",
    )


@pytest.mark.parametrize("password", [None, "goodnet:wrong", ":", "goodnet:"])
def test_nothing_is_told_without_the_password(ui_server, password):
    auth = tuple(password.split(":")) if password else None
    for call in ("flows/count", "deployments/filter", "logs/filter"):
        answer = httpx.post(f"{ui_server.address}/api/{call}", json={}, auth=auth)
        assert answer.status_code == 401


def ask(url, first, **options):
    with connect(url, proxy=None, **options) as opened:
        opened.send(json.dumps(first))
        opened.recv(timeout=10)


@pytest.mark.parametrize(
    "place", ["events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"]
)
def test_no_web_socket_opens_without_the_password(ui_server, place):
    url = f"{ui_server.address.replace('http', 'ws')}/api/{place}"
    for protocols, first in (
        (None, {"type": "filter"}),
        (["prefect"], {"type": "auth", "token": "goodnet:wrong"}),
        (["prefect"], {"type": "filter", "filter": {}}),
    ):
        with pytest.raises((ConnectionClosed, InvalidStatus)):
            ask(url, first, subprotocols=protocols)
    with pytest.raises(InvalidStatus):
        ask(url, {}, subprotocols=["prefect"], origin="http://evil.example")


def test_another_user_of_the_machine_gets_neither_password_nor_answer(ui_server):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    source = f"""
import json, urllib.error, urllib.request
from pathlib import Path

def attempt(action):
    try:
        return str(action())
    except OSError as error:
        return str(getattr(error, "code", type(error).__name__))

home = Path({str(ui_server.home)!r})
call = urllib.request.Request("{ui_server.address}/api/flows/count", b"{{}}", method="POST",
                              headers={{"content-type": "application/json"}})
print(json.dumps([
    attempt(lambda: urllib.request.urlopen(call).read()),
    attempt((home / "goodnet-password").read_text),
    attempt((home / "goodnet-server.json").read_text),
    attempt((home / "prefect.db").read_bytes),
    [attempt(Path(f"/proc/{{pid}}/environ").read_bytes) for pid in {processes_of(ui_server)}],
]))
"""
    # Not the folders above them but the files themselves keep others out.
    folders = [ui_server.home, *ui_server.home.parents]
    modes = {one: one.stat().st_mode for one in folders if not one.stat().st_mode & 0o001}
    try:
        for folder in modes:
            folder.chmod(0o755)
        done = subprocess.run(
            ["/usr/bin/env", "python3", "-c", source],
            user="nobody", group="nogroup", extra_groups=[], cwd="/",
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode)
    assert done.stderr == ""
    refused = "PermissionError"
    assert json.loads(done.stdout) == ["401", refused, refused, refused, [refused]]


def processes_of(ui_server):
    known = json.loads((ui_server.home / "goodnet-server.json").read_text())
    return [int(known["process"].partition("-")[0])]


def test_a_password_that_others_can_read_is_refused(tmp_path):
    (tmp_path / "goodnet-password").write_text("goodnet:known")
    (tmp_path / "goodnet-password").chmod(0o644)
    done = start_ui(tmp_path, "--port", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}/goodnet-password: holds the password")
    assert done.stderr.count("\n") == 1


def test_one_password_is_kept_for_good_and_by_all(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(kept_password, [tmp_path / "home"] * 8))
    assert found == {kept_password(tmp_path / "home")}
    assert len(found.pop()) > 40
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["goodnet-password"]


HOSTILE = (
    "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"
    "[click](javascript:window.hacked=1) ![i](http://evil.example/i.png) `code` *bold* \x1b[31m"
).replace("/", "\\")  # file names hold everything but this
EVIDENCE = """
[...document.querySelectorAll('a')].filter(a => /^javascript:|evil/i.test(a.href)).length
+ [...document.querySelectorAll('img')].filter(i => /evil|x$/.test(i.src)).length
+ (window.hacked ? 1 : 0)
"""


def test_names_from_files_are_text_on_every_page(ui_server, signed_in, tmp_path):
    folder = tmp_path / HOSTILE

    @flow(name="hostile", flow_run_name=printable(f"repair {HOSTILE}"))
    def hostile():
        publish_audit(
            folder,
            HOSTILE,
            [AuditedModel(model=HOSTILE, state="failed", error=HOSTILE)],
            DEFAULT_LIMITS,
        )
        cell = Cell(network=HOSTILE, attack=HOSTILE, seed=1)
        board = make_leaderboard([MeasuredCell(cell=cell, error=HOSTILE)])
        suite = {"name": HOSTILE, "sha256": HOSTILE}
        publish_leaderboard(tmp_path / f"board {HOSTILE}", board, suite)
        table = format_markdown([{HOSTILE: HOSTILE, "number": "1"}], escape=as_markdown)
        create_markdown_artifact(f"# {as_markdown(folder.name)}\n\n{table}", key="report")

    password = (ui_server.home / "goodnet-password").read_text()
    server = Server(f"{ui_server.address}/api", password)
    with temporary_settings(server.settings()):
        hostile()
    with ui_server.client() as client:
        flows = {"name": {"any_": ["hostile"]}}
        (run,) = client.post("flow_runs/filter", json={"flows": flows}).json()
        of_run = {"flow_run_id": {"any_": [run["id"]]}}
        found = client.post("artifacts/filter", json={"artifacts": of_run}).json()
    assert len(found) == 4
    pages = [f"artifacts/artifact/{one['id']}" for one in found]
    pages += ["runs", f"runs/flow-run/{run['id']}", f"runs/flow-run/{run['id']}?tab=Artifacts"]
    for page in (f"{version}{page}" for version in ("", "v2/") for page in pages):
        url = f"{ui_server.address}/{page}"
        signed_in.open(url, ready="document.body.innerText.includes('onerror=window.hacked=1')")
        assert signed_in.script(EVIDENCE.replace("\n", " ").strip()) == 0, page
        assert not [url for url in signed_in.requests() if "evil" in url], page
