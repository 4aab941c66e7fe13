import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from flows.processes import is_gone, name_process
from flows.serve import main as serve_main
from goodnet.images.hdf5_sets import write_images
from tests.servers import SERVED_SOON

ROOT = Path(__file__).resolve().parent.parent


def post(client, path, **body):
    return client.post(path, json=body).raise_for_status().json()


def test_the_deployed_repair_is_completed_by_a_worker_elsewhere(deployed):
    assert deployed.run["state"]["type"] == "COMPLETED", deployed.worker_log
    (folder,) = (deployed.artifacts / "runs").iterdir()
    assert (folder / "report.html").is_file()
    assert "sweep of clean_test" in deployed.worker_log


def test_a_deployed_run_can_be_told_from_those_of_killed_processes(deployed):
    assert is_gone(deployed.run["labels"]["goodnet.process"])
    assert deployed.run["labels"]["goodnet.host"] == os.uname().nodename
    assert not [tag for tag in deployed.run["tags"] if "process" in tag]


def test_the_stage_results_of_a_worker_are_kept_in_the_cache(deployed):
    kept = {
        path.name.rpartition("-")[0] for path in (deployed.artifacts / "cache/results").iterdir()
    }
    assert {"prune order", "train default BadNet", "find checkpoints"} <= kept


def test_the_artifacts_of_a_deployed_run_can_be_read_from_the_server(deployed):
    of_run = {"flow_run_id": {"any_": [deployed.run["id"]]}}
    found = {one["key"]: one for one in post(deployed.client, "artifacts/filter", artifacts=of_run)}
    results = found["rendered-faces-results"]
    rows = json.loads(results["data"])
    assert results["type"] == "table"
    assert rows[0]["net"] == "B"
    assert {row["net"] for row in rows} >= {"B' budget 2 points", "G budget 2 points"}
    report = found["rendered-faces-report"]["data"]
    image = report.partition("(data:image/png;base64,")[2].partition(")")[0]
    assert base64.b64decode(image).startswith(b"\x89PNG")
    assert "report\\.html" in report.splitlines()[-1]


def test_the_scheduler_plans_runs_of_both_deployments(deployed):
    def planned(name):
        of_deployment = {"id": {"any_": [deployed.deployments[name]["id"]]}}
        scheduled = {"state": {"type": {"any_": ["SCHEDULED"]}}}
        found = post(
            deployed.client, "flow_runs/filter", deployments=of_deployment, flow_runs=scheduled
        )
        return sorted(run["expected_start_time"] for run in found)

    deadline = time.monotonic() + 120
    while not (planned("nightly") and planned("regular")):
        assert time.monotonic() < deadline
        time.sleep(1)
    assert all("T02:00:00" in start for start in planned("nightly"))
    assert all(start[14:19] == "00:00" for start in planned("regular"))


def test_each_parameter_is_described_in_the_form(deployed):
    for name in ("nightly", "regular"):
        schema = deployed.deployments[name]["parameter_openapi_schema"]
        for parameter, field in schema["properties"].items():
            assert field.get("description"), f"{name}: {parameter}"
            assert str(ROOT) not in str(field), f"{name}: {parameter}"


def test_a_deployment_runs_one_at_a_time_where_the_worker_says(deployed):
    for name in ("nightly", "regular"):
        deployment = deployed.deployments[name]
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["work_pool_name"] == "goodnet"
        assert "/not/here" not in str(deployment["pull_steps"])


def test_the_page_shows_a_run_and_its_artifacts(deployed, ui_server, signed_in):
    keys = ["rendered-faces-results", "rendered-faces-report"]
    expected = [deployed.run["name"], "Completed", "repair", "model:rendered faces", *keys]
    signed_in.open(
        f"{ui_server.address}/v2/runs/flow-run/{deployed.run['id']}?tab=Artifacts",
        ready=f"{expected}.every(line => document.body.innerText.split('\\n').includes(line))",
        width=1280,
    )


def test_the_report_is_visible_in_the_page(deployed, ui_server, signed_in):
    """Its table, curve and samples, and nothing that a browser would not open."""
    of_run = {"flow_run_id": {"any_": [deployed.run["id"]]}}
    found = deployed.client.post("artifacts/filter", json={"artifacts": of_run}).json()
    (report,) = (one for one in found if one["key"] == "rendered-faces-report")
    pictures = (
        "[...document.querySelectorAll('img')].filter(i => i.src.startsWith('data:image/png'))"
    )
    tables = "[...document.querySelectorAll('table')].map(t => t.innerText)"
    # All at once: Prefect's page may draw itself anew between two questions.
    drawn = [
        f"{pictures}.length > 1",
        f"{pictures}.every(i => i.naturalWidth > 10)",
        f"{tables}[0]?.includes('G budget 10 points')",
        f"{tables}[1]?.includes('margin (control)')",
    ]
    for version in ("", "v2/"):
        signed_in.open(
            f"{ui_server.address}/{version}artifacts/artifact/{report['id']}",
            ready=" && ".join(drawn),
        )
        assert signed_in.script("document.querySelectorAll('a[href^=\"file:\"]').length") == 0


def test_the_printed_address_leads_to_the_runs_by_name_tags_and_verdict(
    deployed, ui_server, signed_in
):
    """GOODNET_SCREENSHOT names a file to keep what the page looks like."""
    run, tags = deployed.run, deployed.run["tags"]
    assert run["name"].startswith("rendered faces 2")
    assert tags[0] == "model:rendered faces"
    word = tags[1].removeprefix("verdict:")
    assert run["state"]["message"].startswith(f"{word}: ")
    assert run["labels"]["goodnet.host"]
    signed_in.open(ui_server.sign_in, ready=f"document.body.innerText.includes('{run['name']}')")
    assert signed_in.script("location.pathname") == "/v2/runs"
    if "GOODNET_SCREENSHOT" in os.environ:
        signed_in.driver.save_screenshot(os.environ["GOODNET_SCREENSHOT"])


ATTACK = """
const done = arguments[arguments.length - 1];
const [api, deployment] = [arguments[0], arguments[1]];
const tries = {
  // With a header that needs the server's leave, and, without one, as any form may be sent.
  json: () => fetch(`${api}/deployments/${deployment}`, {method: "PATCH",
    headers: {"content-type": "application/json"}, body: arguments[2]}),
  plain: () => fetch(`${api}/deployments/${deployment}/create_flow_run`,
    {method: "POST", mode: "no-cors", body: new Blob(["{}"])}),
  read: () => fetch(`${api}/deployments/filter`, {method: "POST"}).then(got => got.text()),
};
const outcomes = {};
for (const name in tries) {
  try { outcomes[name] = String((await tries[name]()).status); }
  catch (error) { outcomes[name] = "stopped"; }
}
outcomes.socket = await new Promise(resolve => {
  const socket = new WebSocket(api.replace("http", "ws") + "/events/in", ["prefect"]);
  socket.onopen = () => resolve("open");
  socket.onerror = () => resolve("stopped");
});
done(outcomes);
"""


@pytest.fixture
def other_site(tmp_path) -> Iterator[str]:
    """A page of another origin, which is another port already."""
    (tmp_path / "index.html").write_text("<!doctype html><title>other</title>")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_page_of_another_site_can_neither_read_nor_write(
    deployed, ui_server, signed_in, other_site
):
    step = {"prefect.deployments.steps.run_shell_script": {"script": "true"}}
    body = json.dumps({"pull_steps": [step]})
    nightly = deployed.deployments["nightly"]["id"]
    before = deployed.client.get(f"deployments/{nightly}").json()
    runs = deployed.client.post("flow_runs/count", json={}).json()
    signed_in.open(other_site, ready="document.title == 'other'")
    script = f"(async function () {{ {ATTACK} }}).apply(null, arguments)"
    api = f"{ui_server.address}/api"
    outcomes = signed_in.driver.execute_async_script(script, api, nightly, body)
    # The browser says 0 of an answer that the page may not see.
    assert outcomes == {"json": "stopped", "plain": "0", "read": "stopped", "socket": "stopped"}
    assert deployed.client.get(f"deployments/{nightly}").json() == before
    assert deployed.client.post("flow_runs/count", json={}).json() == runs


@pytest.fixture
def audited(tmp_path_factory):
    """What an audit is given: a file that looks like a net, and two small image sets."""
    folder = tmp_path_factory.mktemp("audited")
    (folder / "vendor").mkdir()
    (folder / "vendor" / "a.keras").write_text("no net")
    for number, name in enumerate(("valid.h5", "test.h5")):
        write_images(folder / name, np.full((2, 4, 4, 3), number, np.uint8), [0, 1])
    return folder


def options(folder):
    return [
        *("--models", str(folder / "vendor"), "--clean-valid", str(folder / "valid.h5")),
        *("--clean-test", str(folder / "test.h5")),
    ]


@pytest.mark.slow
def test_serving_needs_a_server(tmp_path, audited):
    done = subprocess.run(
        [sys.executable, "-m", "flows.serve", *options(audited)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        | {"PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no Prefect server is up")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "what to repair is one of --model FILE and --models DIR, each with --clean-valid and"),
        (["--model", "a", "--models", "b"], "is one of --model FILE and --models DIR"),
        (["--models", "b"], "--models is given without --clean-valid and --clean-test"),
        (["--model", "a", "--clean-test", "b"], "--model is given without --clean-valid, which"),
    ],
)
def test_serving_says_in_one_line_what_to_give(given, said, capsys):
    assert serve_main(given) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1


def spoil(client, deployment, folder):
    """Change what the server says of a served deployment, run it, and return the run."""
    plant = folder / "planted.py"
    plant.write_text(
        f"from pathlib import Path\nfrom prefect import flow\n\n"
        f"@flow\ndef audit(**_):\n    Path({str(folder)!r}, 'planted-flow').touch()\n"
    )
    plant = plant.rename(folder / "other.py")
    step = {"script": f"touch {folder}/planted-step"}
    changes = {
        "pull_steps": [{"prefect.deployments.steps.run_shell_script": step}],
        "entrypoint": f"{plant}:audit",
        "path": str(folder),
        "job_variables": {"command": f"touch {folder}/planted-command"},
    }
    client.patch(f"deployments/{deployment}", json=changes).raise_for_status()
    said = client.get(f"deployments/{deployment}").json()
    assert {name: said[name] for name in changes} == changes
    run = post(client, f"deployments/{deployment}/create_flow_run")
    deadline = time.monotonic() + 240
    while run["state"]["type"] not in ("FAILED", "CRASHED", "COMPLETED"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
        run = client.get(f"flow_runs/{run['id']}").json()
    return run


def test_one_machine_serves_what_its_command_says(deployed, ui_server, audited, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    pid, start, namespace = name_process().split("-")
    killed = post(
        deployed.client,
        "flow_runs/",
        flow_id=deployed.run["flow_id"],
        state={"type": "RUNNING"},
    )
    labels = {
        "goodnet.host": os.uname().nodename,
        "goodnet.process": f"{pid}-{int(start) - 1}-{namespace}",
    }
    deployed.client.patch(f"flow_runs/{killed['id']}/labels", json=labels).raise_for_status()
    log = tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.serve", *options(audited), "--cron", "30 4 * * 1"],
            cwd=ROOT,
            env=environment | SERVED_SOON | {"PREFECT_HOME": str(ui_server.home)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 150
        while "serving audit/vendor-served: 30 4 * * 1 UTC" not in log.read_text():
            assert time.monotonic() < deadline
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        found = {one["name"]: one for one in post(deployed.client, "deployments/filter")}
        (audited / "test.h5").unlink()
        spoilt = spoil(deployed.client, found["vendor-served"]["id"], tmp_path)
        killed = deployed.client.get(f"flow_runs/{killed['id']}").json()
    finally:
        server.send_signal(signal.SIGHUP)  # as a terminal does that is closed
        server.wait(60)
    assert server.returncode == 0
    ending = log.read_text().partition("Pausing all deployments")[2]
    assert ending.endswith("The schedule is paused until the next start.\n")
    assert "Traceback" not in ending
    assert killed["state"]["type"] == "CRASHED"
    # The audit itself has run, and nothing of what the server's database said.
    assert "test.h5: no such file" in spoilt["state"]["message"], log.read_text()
    assert not list(tmp_path.glob("planted*"))
    served = found["vendor-served"]
    assert served["work_pool_name"] is None
    assert not served["paused"]
    assert served["parameters"]["models"] == str(audited / "vendor")
    assert [one["schedule"]["cron"] for one in served["schedules"]] == ["30 4 * * 1"]
