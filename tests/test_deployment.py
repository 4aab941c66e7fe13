import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from flows.processes import is_gone, name_process

ROOT = Path(__file__).resolve().parent.parent


def ask(client, method, path, **body):
    deadline = time.monotonic() + 60
    while (answer := client.request(method, path, **body)).status_code == 503:  # SQLite is busy
        assert time.monotonic() < deadline
        time.sleep(1)
    return answer.raise_for_status()


def post(client, path, **body):
    return ask(client, "POST", path, json=body).json()


def test_the_deployed_repair_is_completed_by_a_worker_elsewhere(deployed):
    assert deployed.run["state"]["type"] == "COMPLETED", deployed.worker_log
    (folder,) = (deployed.artifacts / "runs").iterdir()
    assert (folder / "report.html").is_file()
    assert "sweep of clean_test" in deployed.worker_log


def test_a_deployed_run_can_be_told_from_those_of_killed_processes(deployed):
    (process,) = (tag for tag in deployed.run["tags"] if tag.startswith("process:"))
    assert is_gone(process.removeprefix("process:"))
    assert f"host:{os.uname().nodename}" in deployed.run["tags"]


def test_the_stage_results_of_a_worker_are_kept_in_the_cache(deployed):
    kept = {
        path.name.rpartition("-")[0] for path in (deployed.artifacts / "cache/results").iterdir()
    }
    assert {"prune order", "train default BadNet", "find checkpoints"} <= kept


def test_the_artifacts_of_a_deployed_run_can_be_read_from_the_server(deployed):
    of_run = {"flow_run_id": {"any_": [deployed.run["id"]]}}
    found = {one["key"]: one for one in post(deployed.client, "artifacts/filter", artifacts=of_run)}
    rows = json.loads(found["results"]["data"])
    assert found["results"]["type"] == "table"
    assert rows[0]["net"] == "B"
    assert {row["net"] for row in rows} >= {"B' at 2 %", "G at 2 %"}
    summary = found["summary"]["data"]
    image = summary.partition("(data:image/png;base64,")[2].partition(")")[0]
    assert base64.b64decode(image).startswith(b"\x89PNG")
    link = found["report"]["data"].partition("](file://")[2].partition(")")[0]
    assert Path(link).read_text("utf-8").startswith("<!doctype html>")


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


@pytest.mark.slow
def test_serving_needs_a_server(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "flows.serve"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        | {"PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no Prefect server is up")


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
    ask(client, "PATCH", f"deployments/{deployment}", json=changes)
    said = client.get(f"deployments/{deployment}").json()
    assert {name: said[name] for name in changes} == changes
    run = post(client, f"deployments/{deployment}/create_flow_run")
    deadline = time.monotonic() + 120
    while run["state"]["type"] not in ("FAILED", "CRASHED", "COMPLETED"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
        run = client.get(f"flow_runs/{run['id']}").json()
    return run


def test_one_machine_serves_what_a_pool_would_run(deployed, ui_server, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    pid, start, namespace = name_process().split("-")
    killed = post(
        deployed.client,
        "flow_runs/",
        flow_id=deployed.run["flow_id"],
        state={"type": "RUNNING"},
        tags=[f"host:{os.uname().nodename}", f"process:{pid}-{int(start) - 1}-{namespace}"],
    )
    log = tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.serve"],
            cwd=ROOT,
            env=environment | {"PREFECT_HOME": str(ui_server.home)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 60
        while "serving regular-served" not in log.read_text():
            assert time.monotonic() < deadline
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        found = {one["name"]: one for one in post(deployed.client, "deployments/filter")}
        spoilt = spoil(deployed.client, found["regular-served"]["id"], tmp_path)
        killed = deployed.client.get(f"flow_runs/{killed['id']}").json()
    finally:
        server.send_signal(signal.SIGHUP)  # as a terminal does that is closed
        server.wait(60)
    assert server.returncode == 0
    ending = log.read_text().partition("Pausing all deployments")[2]
    assert ending.endswith("The schedules are paused until the next start.\n")
    assert "Traceback" not in ending
    assert killed["state"]["type"] == "CRASHED"
    # The audit itself has run, and nothing of what the server's database said.
    assert "data/clean_test.h5: no such file" in spoilt["state"]["message"], log.read_text()
    assert not list(tmp_path.glob("planted*"))
    for entry in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        pooled, served = found[entry["name"]], found[f"{entry['name']}-served"]
        assert served["work_pool_name"] is None
        assert not served["paused"]
        for same in ("entrypoint", "parameters", "description"):
            assert served[same] == pooled[same] or same == "entrypoint"
        assert [one["schedule"] for one in served["schedules"]] == [
            one["schedule"] for one in pooled["schedules"]
        ]
