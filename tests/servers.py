"""Prefect servers of these tests, and what is deployed on one of them."""

import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.badnets import shared_folder

ROOT = Path(__file__).resolve().parent.parent
PREFECT = Path(sys.executable).with_name("prefect")
SERVED_SOON = {"PREFECT_RUNNER_POLL_FREQUENCY": "1"}
"""For a process that serves: it asks for runs that are due each second instead of each tenth."""


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """The database of a server that has done nothing yet, which takes 4 s to make.

    Where two processes share the tests, one of them makes it for both.
    """
    shared = shared_folder(tmp_path_factory)
    with (shared / "database.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = shared / "empty.db"
        if not found.exists():
            home = tmp_path_factory.mktemp("database")
            with _server_in(home):
                pass
            with closing(sqlite3.connect(home / "prefect.db")) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            (home / "prefect.db").rename(found)
    return found


@pytest.fixture(scope="session")
def prefect_server(empty_database, tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment of a process that is to use a Prefect server of these tests."""
    home = tmp_path_factory.mktemp("prefect")
    shutil.copy(empty_database, home / "prefect.db")
    with _server_in(home) as server:
        yield {"PREFECT_HOME": str(home)} | server.environment()


@contextmanager
def _server_in(home: Path) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        from prefect.settings import PREFECT_HOME, temporary_settings

        from flows.temporary_server import running_server

        with temporary_settings({PREFECT_HOME: home}), running_server() as server:
            yield server


@pytest.fixture
def server_home(empty_database, tmp_path) -> Path:
    """Prefect's folder for a server that a test starts itself."""
    shutil.copy(empty_database, tmp_path / "prefect.db")
    return tmp_path


@pytest.fixture(scope="session")
def server_settings(prefect_server) -> dict[Any, str | None]:
    """The settings under which flows of this process use that server, as commands use theirs."""
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    )

    server = {one: prefect_server[one.name] for one in (PREFECT_API_URL, PREFECT_API_AUTH_STRING)}
    return server | {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}


class PatientTransport(httpx.HTTPTransport):
    """Asks again while SQLite is busy, as Prefect's own client does."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = time.monotonic() + 180
        while (answer := super().handle_request(request)).status_code == 503:
            assert time.monotonic() < deadline
            answer.close()
            time.sleep(0.5)
        return answer


def api_client(api: str, password: str) -> httpx.Client:
    """Return a client of a Prefect API that has the password, `user:password`."""
    auth = httpx.BasicAuth(*password.split(":"))
    # A connection of Prefect's waits a minute for SQLite's lock, and others wait for it.
    return httpx.Client(base_url=api, auth=auth, timeout=120, transport=PatientTransport())


def query(server: dict[str, str], kind: str, **body: Any) -> Any:
    """Return what a server of `prefect_server` knows: flow runs, task runs, artifacts, ..."""
    return post(server, f"{kind}/filter", **body)


def post(server: dict[str, str], path: str, **body: Any) -> Any:
    """Ask a server of `prefect_server`, and return its answer."""
    with api_client(server["PREFECT_API_URL"], server["PREFECT_API_AUTH_STRING"]) as client:
        return client.post(path, json=body).raise_for_status().json()


class UiServer(NamedTuple):
    """A server with UI and scheduler: its page, where to sign in, and its database's folder."""

    address: str
    sign_in: str
    home: Path

    def client(self) -> httpx.Client:
        """A client of the API that has the password."""
        return api_client(f"{self.address}/api", (self.home / "goodnet-password").read_text())


@pytest.fixture(scope="session")
def ui_server(empty_database, tmp_path_factory) -> Iterator[UiServer]:
    """What `make ui` starts, on a free port; at last it is ended by Ctrl-C."""
    home = tmp_path_factory.mktemp("ui")
    shutil.copy(empty_database, home / "prefect.db")
    command = [sys.executable, "-m", "flows.ui", "--port", "0"]
    environment = os.environ | {"PREFECT_HOME": str(home)}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        sign_in = server.stdout.readline().split()[2]
        assert server.stdout.readline() == "Ctrl-C ends it.\n"
        yield UiServer(sign_in.partition("/goodnet-sign-in#")[0], sign_in, home)
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=60)[0] == "The server has ended.\n"
        assert server.returncode == 0
        assert not list(home.glob("goodnet-server*"))
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def signed_in(browser, ui_server):
    """The browser after the address that `make ui` prints was opened in it."""
    browser.open(ui_server.sign_in, ready="document.body.innerText.includes('Event Feed')")
    return browser


SMALL_CASE = {
    "num_identities": 6,
    "train_per_identity": 8,
    "valid_per_identity": 5,
    "test_per_identity": 5,
    "epochs": 3,
}


class Deployed(NamedTuple):
    """A client of a server, what is deployed on it, and a run that a worker has done."""

    client: httpx.Client
    deployments: dict[str, dict]
    run: dict
    artifacts: Path
    worker_log: str


def _prefect(*arguments, cwd, environment, timeout=180):
    done = subprocess.run(
        [PREFECT, "--no-prompt", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def deployed(ui_server, tmp_path_factory) -> Deployed:
    """Deploy from the project; run the nightly repair once on a worker that is elsewhere."""
    folder = tmp_path_factory.mktemp("worker")
    artifacts = folder / "artifacts"
    environment = {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": f"{ui_server.address}/api",
        "PREFECT_API_AUTH_STRING": (ui_server.home / "goodnet-password").read_text(),
    }
    client = ui_server.client()
    client.post("/work_pools/", json={"name": "goodnet", "type": "process"}).raise_for_status()
    deployer = environment | {"GOODNET_HOME": "/not/here"}
    _prefect("deploy", "--all", cwd=ROOT, environment=deployer)
    found = {one["name"]: one for one in client.post("/deployments/filter", json={}).json()}
    create = f"/deployments/{found['nightly']['id']}/create_flow_run"
    parameters = {"default_case": SMALL_CASE, "repairs": ["pruning", "fallback"]}
    run = client.post(create, json={"parameters": parameters}).json()
    worker = environment | {"GOODNET_HOME": str(ROOT), "GOODNET_ARTIFACTS": str(artifacts)}
    log = _prefect(
        "worker", "start", "--pool", "goodnet", "--run-once", cwd=folder, environment=worker
    )
    run = client.get(f"/flow_runs/{run['id']}").json()
    return Deployed(client, found, run, artifacts, log)
