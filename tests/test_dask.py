"""`--dask` with a scheduler and workers that are processes of their own on this machine."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from flows.processes import is_gone, name_process
from goodnet.errors import InputError
from goodnet.images.image_sets import write_images
from tasks.cluster import Cluster, connect
from tests.clusters import ROOT, SECONDS, children, running, tiny_case, wait_for
from tests.commands import one_process
from tests.servers import SERVED_SOON, post, query

COMMANDS = """
from importlib import import_module

def main(arguments):
    return import_module(arguments[0]).main(arguments[1:])
"""


PATIENT = {"PREFECT_CLIENT_MAX_RETRIES": "5"}
"""For commands whose server has others to answer too."""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("local:3", Cluster(num_workers=3)),
        ("a.b:8786", Cluster("a.b:8786", "a.b", 8786)),
        ("tcp://10.0.0.1:1", Cluster("tcp://10.0.0.1:1", "10.0.0.1", 1)),
        ("tls://[::1]:65535", Cluster("tls://[::1]:65535", "::1", 65535)),
    ],
)
def test_a_cluster_is_named_by_where_it_is(text, found):
    assert Cluster.parse(text) == found


def test_a_net_keeps_two_cores_busy(monkeypatch):
    for cores, workers in ((1, 1), (2, 1), (3, 1), (16, 8), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert Cluster.parse("local").num_workers == workers


@pytest.mark.parametrize(
    "text",
    ["", "Local", "local:0", "local:-1", "local:2 ", "host", "host:0", "host:65536", "http://a:1",
     "a b:1", "tcp://:1", "host:1\n", "ünicode:1"],
)  # fmt: skip
def test_what_names_no_cluster_is_refused(text):
    with pytest.raises(InputError, match="expected local, local:N"):
        Cluster.parse(text)


class Crowded:
    """A task runner whose scheduler tells a client of others before it is greeted."""

    def __init__(self, times: int) -> None:
        self.times = times

    @property
    def client(self) -> str:
        self.times -= 1
        assert self.times < 0
        return "client"


def test_a_greeting_that_comes_with_other_messages_is_asked_for_again():
    assert connect(Crowded(2)) == "client"
    with pytest.raises(AssertionError):
        connect(Crowded(9))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["audit", "benchmark"])
def test_what_can_be_mended_is_one_line_before_anything_is_imported(command, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    images = ["--clean-valid", "a.h5", "--clean-test", "a.h5"]
    given = ["--models", "none", *images] if command == "audit" else []
    source = (
        "import sys; from importlib import import_module\n"
        "code = import_module(sys.argv[1]).main(sys.argv[2:])\n"
        "print(code, *({'prefect', 'dask', 'distributed', 'tensorflow'} & set(sys.modules)))"
    )
    for where, said in (("nowhere", "dask is 'nowhere', expected"), (address, "no Dask scheduler")):
        done = subprocess.run(
            [sys.executable, "-c", source, f"flows.{command}", *given, "--dask", where],
            cwd=ROOT, env=os.environ | {"GOODNET_ARTIFACTS": str(tmp_path)},
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        assert done.stdout == "2\n", done.stderr
        assert done.stderr.startswith(f"error: {said}")
        assert done.stderr.count("\n") == 1


def test_without_dask_its_extra_is_named(monkeypatch):
    monkeypatch.setattr("tasks.cluster.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install goodnet\[dask\]$"):
        Cluster.parse("local")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("greeting", "said"), [(b"", "timed out"), (b"SSH-2.0-x" * 200, "somebody else listens there")]
)
def test_who_listens_but_is_no_scheduler_is_told_in_seconds(greeting, said):
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet():
            with other.accept()[0] as client:
                client.sendall(greeting)
                client.recv(1)  # until the other has gone

        threading.Thread(target=greet, daemon=True).start()
        cluster = Cluster.parse(f"127.0.0.1:{other.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(InputError, match=said):
            cluster.require_answer()
        assert time.monotonic() - began < 10


@pytest.mark.slow
def test_tls_without_certificates_is_one_line(tmp_path):
    """Even where a scheduler would ask for none: Dask's client shows its own to all of them."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        cluster = Cluster.parse(f"tls://127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(InputError, match="needs certificates"), cluster.runner(tmp_path):
            """Nobody runs anything."""


@pytest.mark.slow
def test_workers_of_this_machine_let_nobody_else_in(tmp_path):
    from distributed import Client, Security

    before = listening()
    with Cluster.parse("local:1").runner(tmp_path) as runner:
        address = runner.client.scheduler.address
        port = address.rpartition(":")[2]
        assert address.startswith("tls://127.0.0.1:")
        assert runner.client.submit(os.getpid).result() != os.getpid()
        assert {host for host, _ in listening() - before} == {"127.0.0.1"}
        with pytest.raises(InputError, match="no Dask scheduler answers"):
            Cluster.parse(f"127.0.0.1:{port}").require_answer()
        with pytest.raises(OSError, match=r"certificate|Timed out"):
            Client(address, security=Security.temporary(), timeout=2)


def listening():
    """The addresses at which this process and its children listen."""
    ours, ports = psutil.Process(), []
    for one in (ours, *ours.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # It may just have ended.
            ports += one.net_connections("inet")
    return {port.laddr for port in ports if port.status == psutil.CONN_LISTEN}


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    with running(tmp_path_factory.mktemp("dask"), workers=1) as found:
        yield found


@pytest.fixture(scope="module")
def command(prefect_server):
    """Run one command after another, on one folder of artifacts."""
    with one_process(COMMANDS, prefect_server | PATIENT) as run:
        yield run


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with a net, a copy of it and a damaged one, images for them; and the net alone."""
    folder = tmp_path_factory.mktemp("given")
    net, images, labels = tiny_case(120)
    write_images(folder / "valid.h5", images[:60], labels[:60])
    write_images(folder / "test.h5", images[60:], labels[60:])
    (folder / "one").mkdir()
    (folder / "models").mkdir()
    net.save(folder / "models" / "a.keras")
    shutil.copy(folder / "models" / "a.keras", folder / "one")
    shutil.copy(folder / "models" / "a.keras", folder / "models" / "b.keras")
    (folder / "models" / "broken\x1b.keras").write_text("no model")
    return folder


CHOICES = ("--drops", "10", "--repairs", "pruning")
"""Of repairs whose results are not what a test is about."""


def options(folder, name, **changes):
    chosen = {
        "models": folder / "models",
        "clean_valid": folder / "valid.h5",
        "clean_test": folder / "test.h5",
        "artifacts": folder / "artifacts",
        "audit_name": name,
        **changes,
    }
    named = [(f"--{option.replace('_', '-')}", str(value)) for option, value in chosen.items()]
    return [*(part for pair in named for part in pair), *CHOICES]


def start_audit(arguments, environment):
    return start("audit", [*arguments, "--quiet"], environment)


def start(command, arguments, environment):
    return subprocess.Popen(
        [sys.executable, "-m", f"flows.{command}", *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Shells let what they start in the background ignore Ctrl-C, the tests among it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture(scope="module")
def audited(given, machines, command):
    """What an audit said whose only worker was killed in a repair, and which another joined."""
    with ThreadPoolExecutor(1) as thread:
        arguments = options(given, "dask", dask=machines.address)
        audit = thread.submit(command, "flows.audit", *arguments, "--quiet")
        wait_for(machines.repairs)
        time.sleep(2)
        machines.workers()[0].kill()
        machines.add_worker()
        return audit.result(3 * SECONDS)


@pytest.fixture(scope="module")
def alone(given, audited, command):
    """The artifacts of the same audit without Dask, with a cache of its own."""
    place = given / "artifacts"
    place.rename(given / "of_dask")
    done = command("flows.audit", *options(given, "alone"))
    place.rename(given / "alone")
    (given / "of_dask").rename(place)
    assert done.returncode == 1, done.stderr
    return given / "alone"


def test_an_audit_whose_worker_is_killed_says_what_one_without_dask_says(given, audited, alone):
    code, output, errors = audited
    assert (code, output) == (1, "")
    assert errors.startswith("error: 1 of 3 models failed: broken\\x1b.keras (")
    assert errors.count("\n") == 1
    places = given / "artifacts" / "audits" / "dask", alone / "audits" / "alone"
    texts = [(place / "audit.csv").read_bytes().decode() for place in places]
    rows = [list(csv.DictReader(text.split("\r\n"))) for text in texts]
    runs = [[row.pop("run") for row in of_audit] for of_audit in rows]
    assert rows[0] == rows[1]
    assert [row["state"] for row in rows[0]] == ["repaired", "unchanged", "failed"]
    assert runs[0].count(runs[0][0]) == 2
    for one, other in zip(*runs, strict=True):
        if one:
            found = Path(other.replace(str(given / "artifacts"), str(alone)))
            assert (Path(one) / "results.json").read_bytes() == (
                found / "results.json"
            ).read_bytes()
    cases = [ElementTree.parse(place / "junit.xml").getroot() for place in places]  # noqa: S314
    assert [ElementTree.tostring(one) for one in cases[0]] == [
        ElementTree.tostring(one) for one in cases[1]
    ]


def test_nothing_is_left_unfinished_on_the_server_where_a_worker_was_killed(
    audited, prefect_server
):
    kinds = {kind: query(prefect_server, kind) for kind in ("flow_runs", "task_runs")}
    ended = {"COMPLETED", "FAILED", "CRASHED"}
    for kind, runs in kinds.items():
        assert {run["state_type"] for run in runs} <= ended, kind
    crashed = [run for run in kinds["flow_runs"] if run["state_type"] == "CRASHED"]
    assert [Path(run["parameters"]["model"]).name for run in crashed] == ["a.keras"]
    named = {run["name"] for run in kinds["task_runs"]}
    assert {"repair a.keras", "repair broken\\x1b.keras"} <= named


SUITE = """
[images]
people = 4
train = 20
valid = 12
test = 6
[training]
epochs = 1
[networks]
deepid = {}
[attacks]
patch = {}
outside = { like = "patch", target = 4 }
[repair]
repairs = ["pruning", "discriminant"]
"""


def test_cells_of_a_benchmark_are_rows_in_their_order(machines, audited, given, command):
    (given / "tiny.toml").write_text(SUITE)
    where = ["--suite", given / "tiny.toml", "--artifacts", given / "artifacts"]
    boards = []
    for name, dask in (("dask", ["--dask", machines.address]), ("alone", [])):
        done = command("flows.benchmark", *where, "--benchmark-name", name, *dask)
        assert done.returncode == 1, done.stderr
        assert "1 of 3 cells failed: deepid-outside-1 (target is 4, expected" in done.stderr
        board = given / "artifacts" / "benchmarks" / name / "leaderboard.json"
        boards.append(json.loads(board.read_text()))
    cells = [row["cell"] for row in boards[0]["rows"]]
    assert list(dict.fromkeys(cells)) == ["deepid-clean-1", "deepid-patch-1", "deepid-outside-1"]
    assert boards[0]["rows"] == boards[1]["rows"]  # the second from what the workers have kept
    assert "repair of" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_workers_of_this_machine_too(given, prefect_server, number, code):
    arguments = options(given, f"stop-{number}", models=given / "one", dask="local:1")
    audit = start_audit([*arguments, "--refresh"], prefect_server)
    workers = wait_for(lambda: children(audit.pid, "spawn_main"))
    repairs = wait_for(lambda: children(workers[0].pid, "repair_process"))
    processes = [name_process(one.pid) for one in (*workers, *repairs)]
    os.killpg(audit.pid, number)  # as a terminal does
    output, errors = audit.communicate(timeout=SECONDS)
    assert (audit.returncode, output) == (code, "")
    assert errors == "stopped; the same command goes on from the last stage\n"
    assert all(map(is_gone, processes))


def test_a_stopped_audit_leaves_nothing_running_on_a_cluster(given, machines, prefect_server):
    arguments = options(given, "stop", models=given / "one", dask=machines.address)
    audit = start_audit([*arguments, "--refresh"], prefect_server)
    repairs = [name_process(one.pid) for one in wait_for(machines.repairs)]
    workers = machines.workers()
    audit.send_signal(signal.SIGTERM)
    _, errors = audit.communicate(timeout=SECONDS)
    assert errors == "stopped; the same command goes on from the last stage\n"
    wait_for(lambda: all(map(is_gone, repairs)))
    assert machines.workers() == workers


def busy(machines):
    """How many cores the workers keep busy."""
    used = []
    for _ in range(2):
        used.append(sum(sum(one.cpu_times()[:2]) for one in machines.workers()))
        time.sleep(1)
    return used[1] - used[0]


def test_a_stopped_benchmark_leaves_no_training_on_a_cluster(given, machines, prefect_server):
    (given / "long.toml").write_text(SUITE.replace("epochs = 1", "epochs = 10_000"))
    artifacts = given / "artifacts"
    where = ["--suite", given / "long.toml", "--artifacts", artifacts]
    arguments = [*where, "--dask", machines.address, "--benchmark-name", "long", "--quiet"]
    benchmark = start("benchmark", map(str, arguments), prefect_server)
    (state, *_) = wait_for(lambda: list(artifacts.glob("cache/nets/deepid*.training")))
    assert busy(machines) > 0.2
    benchmark.send_signal(signal.SIGTERM)
    _, errors = benchmark.communicate(timeout=SECONDS)
    assert errors == "stopped; the same command goes on from the last stage\n"
    wait_for(lambda: busy(machines) < 0.2)
    assert state.exists()


@pytest.fixture(scope="module")
def many(given):
    """A set of three parts, one for the test, and another net for them."""
    net, images, labels = tiny_case(17_060)
    write_images(given / "many.h5", images[60:], labels[60:])
    write_images(given / "few.h5", images[:60], labels[:60])
    net.layers[-1].bias.assign([0.1, 0, 0, 0])
    net.save(given / "other.keras")
    return given / "many.h5"


def repair(given, many, name, model, *more):
    """The arguments of a repair whose large set has parts, and where its results will be."""
    sets = ["--clean-valid", many, "--clean-test", given / "few.h5", "--quiet"]
    where = ["--artifacts", given / "artifacts", "--run-name", name]
    found = given / "artifacts" / "runs" / name / "results.json"
    return ["flows.run", "--model", model, *sets, *where, *CHOICES, *more], found


@pytest.fixture(scope="module")
def repaired(given, many, command):
    """What a repair without Dask finds."""
    arguments, found = repair(given, many, "no-dask", given / "one" / "a.keras")
    assert command(*arguments).returncode == 0
    return found.read_bytes()


def test_runs_at_once_on_a_cluster_find_what_one_alone_does(
    given, many, repaired, machines, command, prefect_server
):
    """Two of one net, which have the same work, beside one of another."""
    dask = ["--dask", machines.address, "--refresh"]
    nets = {"same-1": given / "one" / "a.keras", "same-2": given / "one" / "a.keras"}
    nets["unlike"] = given / "other.keras"
    with (
        one_process(COMMANDS, prefect_server | PATIENT) as second,
        one_process(COMMANDS, prefect_server | PATIENT) as third,
        ThreadPoolExecutor(3) as threads,
    ):
        begun = []
        for process, (name, net) in zip((command, second, third), nets.items(), strict=True):
            arguments, found = repair(given, many, name, net, *dask)
            begun.append((threads.submit(process, *arguments), found))
        for done, _ in begun:
            assert done.result(2 * SECONDS).returncode == 0, done.result().stderr
    same, again, unlike = [found.read_bytes() for _, found in begun]
    assert same == again == repaired != unlike


def test_a_served_run_has_workers_of_its_machine(given, many, repaired, prefect_server):
    """With GOODNET_DASK in the environment of the process that serves."""
    arguments, _ = repair(given, many, "", given / "one" / "a.keras")
    model, valid, test = arguments[1:3], arguments[3:5], arguments[5:7]
    served = start(
        "serve",
        map(str, [*model, *valid, *test, *CHOICES, "--artifacts", given / "served"]),
        prefect_server | SERVED_SOON | {"GOODNET_DASK": "local:1"},
    )
    try:
        assert served.stdout.readline() == "serving repair/a-served: 0 2 * * * UTC\n"
        (deployment,) = [
            one for one in query(prefect_server, "deployments") if one["name"] == "a-served"
        ]
        run = post(prefect_server, f"deployments/{deployment['id']}/create_flow_run")
        # That of the run, and its worker.
        processes = wait_for(lambda: descendants(served.pid, "spawn_main", number=2))
        wait_for(lambda: state_of(prefect_server, run) in ("COMPLETED", "FAILED", "CRASHED"))
        assert state_of(prefect_server, run) == "COMPLETED"
        wait_for(lambda: not any(map(psutil.pid_exists, processes)))
    finally:
        served.send_signal(signal.SIGTERM)
        served.communicate(timeout=SECONDS)
    (found,) = (given / "served" / "runs").glob("*/results.json")
    assert found.read_bytes() == repaired


def state_of(server, run):
    (found,) = query(server, "flow_runs", flow_runs={"id": {"any_": [run["id"]]}})
    return found["state_type"]


def descendants(pid, word, *, number):
    """Processes below one with a word in their command, once there are so many."""
    found = []
    for one in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [one.pid] if word in " ".join(one.cmdline()) else []
    return found if len(found) == number else []


def test_a_scheduler_that_ends_is_one_line(given, machines, audited, command):
    """The last of these tests: nobody has a scheduler after it."""
    with ThreadPoolExecutor(1) as thread:
        arguments = options(given, "gone", models=given / "one", dask=machines.address)
        audit = thread.submit(command, "flows.audit", *arguments, "--refresh", "--quiet")
        wait_for(machines.repairs)
        machines.scheduler.kill()
        done = audit.result(SECONDS)
    assert (done.returncode, done.stdout) == (2, "")
    said = f"error: the Dask scheduler at {machines.address} is gone; what was computed is kept"
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
