import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from prefect import flow, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.settings import temporary_settings

from flows.processes import is_gone, name_process
from flows.repair_apart import repair_apart
from goodnet.errors import InputError
from goodnet.images.image_sets import write_images
from goodnet.metrics import percent
from goodnet.reports.audit_files import read_audit, write_audit
from goodnet.reports.audits import (
    DEFAULT_ALLOWANCE,
    DEFAULT_LIMITS,
    AuditedModel,
    Limits,
    audit_contents,
    audit_rows,
    crossed_limits,
    find_models,
    find_problems,
)
from goodnet.reports.results import (
    DetectorRates,
    GoodNetRates,
    Rates,
    Recommendation,
    Results,
)
from goodnet.storage.run_folder import RunFolder
from tasks.auditing import FinishedRepairs, remember_repair
from tests.commands import one_process

ROOT = Path(__file__).resolve().parent.parent
NONE = percent(None)
RATES = {"clean_valid_accuracy": 0.9, "clean_test_accuracy": 0.9, "attack_success_rate": 0.2}
BASELINE = Rates(clean_valid_accuracy=1.0, clean_test_accuracy=0.95, attack_success_rate=None)
GOODNET = GoodNetRates(**RATES, detection_rate=None, false_alarm_rate=0.05)


def test_models_are_the_visible_model_files_of_a_folder(tmp_path):
    for name in ("b.h5", "a.keras", "c.hdf5", ".hidden.keras", "notes.txt", "deeper/d.keras"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.keras").mkdir()
    assert [path.name for path in find_models(tmp_path)] == ["a.keras", "b.h5", "c.hdf5"]


def test_a_folder_without_models_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no model"):
        find_models(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_models(tmp_path / "gone")


@pytest.mark.parametrize(
    ("limits", "crossed"),
    [
        (Limits(0.05, 0.051, 0.2), []),
        (Limits(0.049, None, None), ["false alarms 5.00 %, at most 4.90 % allowed"]),
        (Limits(None, 0.049, None), ["loss of clean accuracy 5.00 %, at most 4.90 % allowed"]),
        (Limits(None, None, 0), ["ASR 20.00 %, at most 0.00 % allowed"]),
        (Limits(None, None, None), []),
        (DEFAULT_LIMITS, []),
    ],
)
def test_a_limit_is_crossed_above_it_and_not_at_it(limits, crossed):
    assert crossed_limits(BASELINE, GOODNET, limits) == crossed


def test_a_goodnet_that_flags_one_in_eight_or_costs_as_much_crosses_the_defaults():
    costly = replace(GOODNET, clean_test_accuracy=0.83, false_alarm_rate=0.125)
    assert crossed_limits(BASELINE, costly, DEFAULT_LIMITS) == [
        "false alarms 12.50 %, at most 10.00 % allowed",
        "loss of clean accuracy 12.00 %, at most 10.00 % allowed",
    ]


def test_without_a_goodnet_no_limit_is_kept():
    assert crossed_limits(BASELINE, None, DEFAULT_LIMITS) == [
        "no GoodNet, since no step drops that far"
    ]
    assert crossed_limits(BASELINE, None, Limits(None, None, None)) == []


def test_problems_name_what_failed_and_what_is_over_a_limit():
    audited = [
        AuditedModel("a", "repaired"),
        AuditedModel("b", "failed", error="damaged\x1b"),
        AuditedModel("c", "unchanged", crossed=["ASR too high"]),
    ]
    assert find_problems(audited) == [
        "1 of 3 models failed: b (damaged\\x1b).",
        "1 of 3 models over a limit: c (ASR too high).",
    ]
    assert find_problems(audited[:1]) == []


AUDITED = [
    AuditedModel(
        "a", "repaired", run="runs/x", verdict="weakened", why="It is.", baseline=BASELINE,
        file="goodnet.keras", goodnet=GOODNET,
    ),
    AuditedModel("b", "failed", error="damaged"),
    AuditedModel("=c\x1b", "unchanged", baseline=BASELINE, goodnet=GOODNET, crossed=["too <many"]),
]  # fmt: skip


def test_a_row_shows_first_what_matters_then_the_rates_or_why_there_are_none():
    repaired, failed, over = audit_rows(AUDITED)
    assert list(repaired.values()) == [
        "a", "yes", "weakened", "", "95.00 % → 90.00 %", f"{NONE} → 20.00 %", NONE, "5.00 %",
        "repaired",
    ]  # fmt: skip
    assert [list(row.values())[:4] for row in (failed, over)] == [
        ["b", "NO", "", "damaged"],
        ["=c\\x1b", "NO", "", "too <many"],
    ]
    assert failed["detection"] == NONE
    assert repaired.keys() == failed.keys()


def test_the_files_of_an_audit_say_the_same_to_programs_and_pipelines(tmp_path):
    folder = tmp_path / "audits" / "name"
    write_audit(folder, AUDITED, DEFAULT_LIMITS)
    found = json.loads((folder / "audit.json").read_text())
    assert [one["passed"] for one in found["models"]] == [True, False, False]
    assert found["limits"]["clean_accuracy_loss"] == 0.1
    rows = list(csv.DictReader((folder / "audit.csv").read_text().splitlines()))
    assert [(row["model"], row["passed"], row["remark"]) for row in rows] == [
        ("a", "yes", ""), ("b", "no", "damaged"), ("'=c\\x1b", "no", "too <many"),
    ]  # fmt: skip
    assert (rows[0]["b_clean_test_accuracy"], rows[0]["goodnet_false_alarm_rate"]) == (
        "0.95", "0.05",
    )  # fmt: skip
    suite = ElementTree.parse(folder / "junit.xml").getroot()  # noqa: S314
    assert [suite.get(name) for name in ("tests", "errors", "failures")] == ["3", "1", "1"]
    cases = {case.get("name"): [one.tag for one in case] for case in suite}
    assert cases == {
        "a": ["system-out"], "b": ["error", "system-out"], "=c\\x1b": ["failure", "system-out"],
    }  # fmt: skip
    assert suite[2][0].get("message") == "too <many"


def test_what_is_read_of_an_audit_is_what_was_written(tmp_path):
    folder = tmp_path / "audits" / "name"
    write_audit(folder, AUDITED, DEFAULT_LIMITS)
    assert read_audit(folder) == tuple(replace(one, crossed=(*one.crossed,)) for one in AUDITED)
    contents = json.loads((folder / "audit.json").read_text())
    for name, value in (("state", "fine"), ("why", 1), ("crossed", "text"), ("goodnet", {})):
        damaged = [{**contents["models"][0], name: value}]
        (folder / "audit.json").write_text(json.dumps({**contents, "models": damaged}))
        with pytest.raises(InputError, match=r"audit\.json: is damaged or of another kind"):
            read_audit(folder)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_of_an_audit_fits_and_links_reports(tmp_path, browser, width, scheme):
    folder = tmp_path / "audits" / "name"
    write_audit(folder, [replace(AUDITED[0], run=str(tmp_path / "runs" / "x")), *AUDITED[1:]],
                DEFAULT_LIMITS)  # fmt: skip
    url = (folder / "audit.html").as_uri()
    browser.open(url, ready="document.querySelector('h1')", width=width, scheme=scheme)
    if "GOODNET_SCREENSHOT" in os.environ:
        browser.driver.save_screenshot(f"{os.environ['GOODNET_SCREENSHOT']}-{width}-{scheme}.png")
    assert browser.script("document.querySelector('h1').innerText") == "✗ 1 of 3 nets pass"
    assert browser.script("document.documentElement.scrollWidth") <= width
    heads = browser.script("[...document.querySelectorAll('h3')].map(h => h.innerText)")
    assert heads == ["✓ a: weakened", "✗ b", "✗ =c\\x1b"]
    link = browser.script("document.querySelector('.net a').href")
    assert link == (tmp_path / "runs" / "x" / "report.html").as_uri()
    assert browser.requests() == [url]
    assert browser.errors() == []


def test_an_audit_judges_the_goodnet_that_the_run_recommends():
    detector = DetectorRates(
        name="joined", control=False, false_alarm_budget=0.03, held_budget=0.03, images=100,
        threshold=1.0, auc=None, detection_rate=None, false_alarm_rate=0.02,
        goodnet=replace(GOODNET, false_alarm_rate=0.02),
    )  # fmt: skip
    recommended = Recommendation(
        goodnet="goodnet.keras", repaired=None, verdict="not measured", why="Nothing to measure."
    )
    results = Results(
        classes=4, baseline=BASELINE, checkpoints=(), detectors=(detector,), recommended=recommended
    )
    one = AuditedModel.of(
        Path("a.h5"), "repaired", run=Path("run"), results=results, limits=DEFAULT_LIMITS
    )
    assert (one.verdict, one.why) == ("not measured", "Nothing to measure.")
    assert (one.file, one.goodnet.false_alarm_rate) == ("goodnet.keras", 0.02)
    assert one.passed


def test_a_finished_run_of_format_1_is_judged():
    old = ROOT / "tests" / "reports" / "format_1"
    results = Results.read(RunFolder(old))
    limits = Limits(false_alarm_rate=0.01)
    one = AuditedModel.of(Path("a.h5"), "unchanged", run=old, results=results, limits=limits)
    assert one.crossed[0] == "false alarms 5.00 %, at most 1.00 % allowed"
    assert one.why.startswith("The repair does not stop the attack")
    (judged,) = audit_contents("name", limits, [one])["models"]
    assert judged["baseline"] == asdict(results.baseline)
    assert judged["goodnet"]["detection_rate"] == 0.025
    assert not judged["passed"]
    json.dumps(judged)


@pytest.fixture
def finished(tmp_path):
    """Makes the memory of finished repairs anew, with one repair in it."""
    for name in ("model.keras", "clean_valid.h5"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("{}")

    def remember(*, refresh=False, **parameters):
        sets = {"clean_valid": tmp_path / "clean_valid.h5", "poisoned_test": None}
        parameters = {"drops": [2], **parameters}
        return FinishedRepairs(tmp_path, files=sets, parameters=parameters, refresh=refresh)

    remember_repair(remember().record(tmp_path / "model.keras"), tmp_path / "run")
    return remember


def test_a_finished_repair_is_found_again_by_content(finished, tmp_path):
    assert finished().find(tmp_path / "model.keras") == tmp_path / "run"
    shutil.copy(tmp_path / "model.keras", tmp_path / "copy.keras")
    assert finished().find(tmp_path / "copy.keras") == tmp_path / "run"


@pytest.mark.parametrize("changed", ["model.keras", "clean_valid.h5", "run/results.json"])
def test_a_changed_byte_makes_a_repair_unfinished(changed, finished, tmp_path):
    content = (tmp_path / changed).read_bytes()
    (tmp_path / changed).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert finished().find(tmp_path / "model.keras") is None


def test_other_parameters_or_a_deleted_run_make_a_repair_unfinished(finished, tmp_path):
    assert finished(layer="conv").find(tmp_path / "model.keras") is None
    assert finished(refresh=True).find(tmp_path / "model.keras") is None
    (tmp_path / "run" / "results.json").unlink()
    assert finished().find(tmp_path / "model.keras") is None


def run_audit(*arguments, environment=None):
    return subprocess.run(
        [sys.executable, "-m", "flows.audit", *(str(argument) for argument in arguments)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with two nets, almost the same, and a damaged one; and images to go with them."""
    from goodnet.tensorflow_start import import_tensorflow

    import_tensorflow()
    import keras

    folder = tmp_path_factory.mktemp("audit")
    keras.utils.set_random_seed(1)
    net = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(6, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    images = np.random.default_rng(1).integers(0, 256, (120, 8, 8, 3), np.uint8)
    images = (images // (1 + np.arange(120) % 5)[:, None, None, None]).astype(np.uint8)
    labels = net.predict(images.astype("float32"), verbose=0).argmax(1)
    write_images(folder / "clean_valid.h5", images[:60], labels[:60])
    write_images(folder / "clean_test.h5", images[60:], labels[60:])
    write_images(folder / "shifted.h5", images[:60], (labels[:60] + 1) % 4)
    (folder / "models").mkdir()
    net.save(folder / "models" / "a.keras")
    net.layers[-1].bias.assign([1e-6, 0, 0, 0])
    net.save(folder / "models" / "b.keras")
    (folder / "models" / "broken.keras").write_text("no model")
    # Images that all nets answer with one class, under the label of another.
    alike = images[labels == np.bincount(labels).argmax()]
    other = (np.bincount(labels).argmax() + 1) % 4
    write_images(folder / "poisoned_test.h5", alike, np.full(len(alike), other))
    return folder


def options(folder, **changes):
    given = {
        "models": folder / "models",
        "clean_valid": folder / "clean_valid.h5",
        "clean_test": folder / "clean_test.h5",
        "artifacts": folder / "artifacts",
        "drops": "10",
        "channels": "3",
        "repairs": "pruning",
        **changes,
    }
    named = [part for name, path in given.items() for part in (f"--{name.replace('_', '-')}", path)]
    return named


AUDIT = """
from goodnet.heavy_imports import importing
with importing():
    import prefect
from flows.audit import main
"""


@pytest.fixture(scope="module")
def new_audit(ui_server):
    """Runs an audit in a process that has imported Prefect already; its repairs have their own."""
    with one_process(AUDIT, {"PREFECT_HOME": str(ui_server.home)}, forks=True) as run:
        yield run


@pytest.fixture(scope="module")
def audits(given, new_audit):
    """Three audits: with a damaged model, without it, and with a limit that nothing keeps."""
    first = new_audit(*options(given), "--audit-name", "first")
    (given / "models" / "broken.keras").unlink()
    unchanged = ["--max-minutes-per-model", "0.0001", "--audit-name", "again"]  # starts no process
    again = new_audit(*options(given), *unchanged)
    limit = ["--max-false-alarm-rate", "0", "--audit-name", "limit", "--quiet"]
    return first, again, new_audit(*options(given), *limit)


@pytest.fixture(scope="module")
def one_model(given):
    folder = given / "one"
    folder.mkdir()
    shutil.copy(given / "models" / "a.keras", folder)
    return folder


def test_labels_that_are_not_what_b_answers_fail_the_audit(given, one_model, new_audit):
    done = new_audit(
        *options(given, models=one_model), "--poisoned-test", given / "poisoned_test.h5",
        "--max-attack-success-rate", "1", "--audit-name", "labels", "--verify", "sample",
        "--allow-same-data",
    )  # fmt: skip
    assert done.returncode == 1
    assert "1 of 1 models failed: a.keras (B answers class" in done.stderr
    (one,) = contents(given, "labels")["models"]
    assert (one["state"], one["verdict"]) == ("failed", None)
    assert "these labels name class" in one["error"]
    assert Path(one["run"]).is_dir()


def test_a_net_that_is_hardly_right_fails_the_audit(given, one_model, new_audit):
    shifted = options(given, models=one_model, clean_valid=given / "shifted.h5")
    done = new_audit(*shifted, "--audit-name", "shifted")
    assert done.returncode == 1
    assert "1 of 1 models failed: a.keras (" in done.stderr
    assert "B answers 0 of 60 images with their label, 0.00 %" in done.stderr


def contents(folder, name):
    return json.loads((folder / "artifacts" / "audits" / name / "audit.json").read_text())


def query(server, kind, **body):
    with server.client() as client:
        return client.post(f"{kind}/filter", json=body).raise_for_status().json()


def test_an_audit_goes_on_past_a_model_that_fails_and_lists_it(given, audits):
    first, *_ = audits
    assert first.returncode == 1
    assert "1 of 3 models failed: broken.keras (" in first.stderr
    assert "Traceback" not in first.stderr
    models = {one["model"]: one for one in contents(given, "first")["models"]}
    assert {name: one["state"] for name, one in models.items()} == {
        "a.keras": "repaired",
        "b.keras": "repaired",
        "broken.keras": "failed",
    }
    assert (Path(models["b.keras"]["run"]) / "goodnet_10.keras").is_file()
    assert (Path(models["b.keras"]["run"]) / "goodnet_3_channels.keras").is_file()
    assert models["a.keras"]["baseline"]["clean_test_accuracy"] == 1


def test_an_audit_does_not_repair_again_what_has_not_changed(given, audits):
    _, again, _ = audits
    assert again.returncode == 0, again.stderr
    assert {one["state"] for one in contents(given, "again")["models"]} == {"unchanged"}
    runs, unchanged = (
        {one["model"]: one["run"] for one in contents(given, name)["models"] if one["run"]}
        for name in ("first", "again")
    )
    assert unchanged == runs
    assert "a.keras: unchanged\n" in again.stdout
    found = contents(given, "first")["models"]
    assert [one["goodnet"] for one in contents(given, "again")["models"]] == [
        one["goodnet"] for one in found if one["state"] != "failed"
    ]


def test_a_goodnet_over_a_limit_fails_the_audit(given, audits):
    *_, limit = audits
    assert (limit.returncode, limit.stdout) == (1, "")
    assert "2 of 2 models over a limit: a.keras (false alarms" in limit.stderr
    assert contents(given, "limit")["limits"]["false_alarm_rate"] == 0


def test_the_server_that_is_up_has_the_audits_and_their_table(audits, ui_server):
    found = query(ui_server, "flow_runs", flows={"name": {"any_": ["audit"]}})
    runs = {run["parameters"].get("audit_name"): run for run in found}  # others may be scheduled
    assert runs["first"]["state"]["type"] == "FAILED"
    assert "broken.keras" in runs["first"]["state"]["message"]
    assert runs["again"]["state"]["type"] == "COMPLETED"
    assert runs["limit"]["state"]["type"] == "FAILED"
    assert "over a limit" in runs["limit"]["state"]["message"]
    of_run = {"flow_run_id": {"any_": [runs["first"]["id"]]}, "type": {"any_": ["table"]}}
    (table,) = query(ui_server, "artifacts", artifacts=of_run)
    assert (table["key"], table["type"]) == ("models-audit", "table")
    rows = json.loads(table["data"])
    assert [(row["model"], row["state"]) for row in rows] == [
        ("a.keras", "repaired"),
        ("b.keras", "repaired"),
        ("broken.keras", "failed"),
    ]
    repairs = query(ui_server, "flow_runs", flows={"name": {"any_": ["repair"]}})
    assert {"a", "broken"} <= {run["name"].partition(" ")[0] for run in repairs}


def wait_for_children(pid, number, *, seconds=3):
    """The names of what a process has started, the latest first, once there are so many.

    After some seconds more they are in the midst of their work, and at first they only import.
    """
    deadline = time.monotonic() + 120
    while True:
        found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
        if len(found.split()) >= number:
            time.sleep(seconds)
            return [name_process(int(child)) for child in sorted(found.split(), key=int)[::-1]]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_names_are_any_bytes_and_odd_entries_are_models_that_fail(given, tmp_path, ui_server):
    name, place = os.fsdecode(b"a\xff\x1b.keras"), tmp_path / os.fsdecode(b"d\xfe")
    (place / "models").mkdir(parents=True)
    shutil.copy(given / "models" / "a.keras", place / "models" / name)
    for images in given.glob("clean_*.h5"):
        shutil.copy(images, place)
    os.mkfifo(place / "models" / "pipe.keras")
    for link, target in (
        ("out.keras", given / "models" / "a.keras"),
        ("endless.keras", "endless.keras"),
        ("device.h5", "/dev/zero"),
    ):
        (place / "models" / link).symlink_to(target)
    environment = {"PREFECT_HOME": str(ui_server.home)}
    done = run_audit(
        *options(place, artifacts=tmp_path / "artifacts"), "--audit-name", "odd",
        environment=environment,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "a\\udcff\\x1b.keras: repaired\n" in done.stdout
    models = {one["model"]: one for one in contents(tmp_path, "odd")["models"]}
    assert models[name]["state"] == "repaired"
    errors = {
        model: one["error"].rpartition(": ")[2] for model, one in models.items() if one["error"]
    }
    assert errors == {
        "pipe.keras": "is a folder or a device, expected a file",
        "out.keras": "is a link that leads out of the folder",
        "endless.keras": "is a link to nothing",
        "device.h5": "is a link that leads out of the folder",
    }
    run = json.loads((Path(models[name]["run"]) / "run.json").read_text())
    assert run["inputs"]["model"]["path"] == str(place / "models" / name)
    assert run["inputs"]["clean_test"]["path"] == str(place / "clean_test.h5")


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("minutes-per-model=0.001", "its repair took more than 0.001 minutes"),
        ("gigabytes-per-model=0.25", "its repair takes more memory than it may"),
    ],
)
def test_a_net_that_takes_too_much_fails_and_the_audit_goes_on(
    given, tmp_path, ui_server, new_audit, limit, told
):
    (tmp_path / "models").mkdir()
    for name in ("c.keras", "d.keras"):
        shutil.copy(given / "models" / "a.keras", tmp_path / "models" / name)
    for images in given.glob("clean_*.h5"):
        shutil.copy(images, tmp_path)
    name = limit.partition("-")[0]
    done = new_audit(*options(tmp_path), f"--max-{limit}", "--audit-name", name)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "2 of 2 models failed: c.keras (its repair" in done.stderr
    models = contents(tmp_path, name)["models"]
    assert [one["model"] for one in models if told in one["error"]] == ["c.keras", "d.keras"]
    runs = [
        run
        for run in query(ui_server, "flow_runs", flows={"name": {"any_": ["repair"]}})
        if run["parameters"].get("model") == str(tmp_path / "models" / "c.keras")
    ]
    assert runs[0]["state"]["type"] == "CRASHED"
    parent = query(
        ui_server, "task_runs", task_runs={"id": {"any_": [runs[0]["parent_task_run_id"]]}}
    )
    assert parent[0]["state"]["type"] == runs[0]["state"]["type"]


def test_a_repair_that_could_not_tell_the_server_of_its_error_is_unfinished_no_more(
    server_settings, tmp_path, monkeypatch
):
    @flow
    def auditing():
        # Where this process has read its settings, the repair's stumbles over them.
        monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "many")
        with pytest.raises(InputError, match="max_retries"):
            repair_apart({"model": tmp_path / "a.keras"}, DEFAULT_ALLOWANCE)
        return runtime.flow_run.id

    with temporary_settings(server_settings), get_client(sync_client=True) as client:
        above = FlowRunFilterParentFlowRunId(any_=[auditing()])
        (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=above))
        stands_for = client.read_task_run(run.parent_task_run_id)
    assert (run.name, run.state_name, stands_for.state_name) == (
        "repair a.keras", "Crashed", "Crashed",
    )  # fmt: skip
    assert "max_retries" in run.state.message


@pytest.mark.server
@pytest.mark.parametrize(
    ("number", "line", "seconds"),
    [(signal.SIGINT, 130, 3), (signal.SIGTERM, 143, 0)],
)
def test_a_signal_ends_an_audit_and_its_repair_in_one_line(
    given, server_home, number, line, seconds
):
    audit = subprocess.Popen(
        [
            sys.executable, "-m", "flows.audit", *options(given, artifacts=server_home),
            "--refresh", "--quiet",
        ],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        | {"PREFECT_HOME": str(server_home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Shells let what they start in the background ignore Ctrl-C, the tests among it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    repair, server = wait_for_children(audit.pid, 2, seconds=seconds)
    os.killpg(audit.pid, number)  # as a terminal does
    output, errors = audit.communicate(timeout=60)
    assert (audit.returncode, output) == (line, "")
    assert errors == "stopped; the same command goes on from the last stage\n"
    assert is_gone(repair)
    assert is_gone(server)
    with closing(sqlite3.connect(server_home / "prefect.db")) as database:
        states = [state for (state,) in database.execute("select state_type from flow_run")]
    assert states == ["CRASHED", "CRASHED"]


@pytest.mark.server
def test_a_repair_ends_with_its_audit_however_that_was_killed(given, server_home):
    audit = subprocess.Popen(
        [
            sys.executable, "-m", "flows.audit", *options(given, artifacts=server_home),
            "--refresh", "--quiet",
        ],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        | {"PREFECT_HOME": str(server_home)},
    )  # fmt: skip
    children = wait_for_children(audit.pid, 2)
    audit.kill()
    audit.wait()
    deadline = time.monotonic() + 10
    while not all(map(is_gone, children)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--models", "gone"], "gone: no such folder"),
        (["--clean-test", "gone.h5"], "gone.h5: no such file"),
        (
            ["--max-attack-success-rate", "0.1"],
            "--max-attack-success-rate is given without --poisoned-test",
        ),
        (["--target", "1"], "without --poisoned-test"),
        (["--audit-name", "a/b"], "plain folder name"),
        (
            ["--artifacts", os.fsdecode(b"a\xff")],
            "is no UTF-8, expected a folder with another",
        ),
    ],
)
def test_what_can_be_mended_gets_one_line(changes, message, given):
    done = run_audit(*options(given), *changes)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_names_every_option_of_the_flow():
    from flows.audit_models import audit

    page = run_audit("--help")
    assert page.returncode == 0
    names = {f"--{name.replace('_', '-')}" for name in audit.parameters.properties}
    assert names <= set(page.stdout.replace(",", " ").split())
