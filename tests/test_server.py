import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from contextlib import closing, suppress
from pathlib import Path

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_HOME,
    get_current_settings,
    temporary_settings,
)
from prefect.states import AwaitingRetry, Completed, Failed, Pending, Running

from flows.processes import is_gone, name_process
from flows.server import (
    announced,
    find_announced,
    find_server,
    mark_crashed,
    mark_crashed_runs,
)
from flows.server_child import end_leftovers
from flows.temporary_server import Server
from goodnet.errors import InputError
from tests.clusters import wait_for
from tests.servers import post

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parent.parent
HERE = os.uname().nodename
STUCK_RUN = """
from flows.server import connected, label_process
from prefect import flow, task

@task
def finish():
    pass

@task
def hang():
    print("started", flush=True)
    input()

@flow(on_running=[label_process])
def stuck():
    finish()
    hang()

with connected():
    stuck()
"""


def start(source, **options):
    return subprocess.Popen(
        [sys.executable, "-c", source],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def server_of(environment):
    """The server of this environment, as if this process were it."""
    url, password = environment["PREFECT_API_URL"], environment["PREFECT_API_AUTH_STRING"]
    return Server(url, password, name_process())


@pytest.fixture(scope="module")
def ended_process():
    """The name of a process that is no more."""
    source = "from flows.processes import name_process; print(name_process()); input()"
    process = start(source)
    name = process.stdout.readline().strip()
    assert not is_gone(name)
    process.kill()
    process.communicate()
    return name


@pytest.fixture
def own_home(tmp_path):
    with temporary_settings({PREFECT_HOME: tmp_path}):
        yield tmp_path


def test_a_process_is_not_taken_for_a_later_one_with_its_id(ended_process):
    pid, start_time, namespace = name_process().split("-")
    assert not is_gone(name_process())
    assert is_gone(f"{pid}-{int(start_time) - 1}-{namespace}")
    assert is_gone(ended_process)


def test_a_killed_process_that_nobody_waited_for_is_gone():
    process = start("from flows.processes import name_process; print(name_process()); input()")
    name = process.stdout.readline().strip()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(name)
    process.communicate()


def test_a_process_of_another_container_is_never_called_gone(ended_process):
    pid, start_time, _ = ended_process.split("-")
    assert not is_gone(f"{pid}-{start_time}-1")


def test_a_server_is_found_while_it_answers(own_home, prefect_server):
    server = server_of(prefect_server)
    assert find_announced() is None
    with announced(server):
        (file,) = own_home.glob("*.json")
        assert file.stat().st_mode & 0o777 == 0o600  # the password is in it
        assert find_announced() == server
        with find_server() as found:
            assert found == server
    assert find_announced() is None


def test_a_server_that_was_killed_is_not_used(own_home, prefect_server, ended_process):
    with announced(server_of(prefect_server)):
        (file,) = own_home.glob("*.json")
        file.write_text(file.read_text().replace(name_process(), ended_process))
        assert find_announced() is None


def test_a_server_that_does_not_answer_is_not_used(own_home):
    with announced(Server("http://127.0.0.1:9/api", "any")):
        assert find_announced() is None


def test_a_server_of_another_machine_is_not_used(own_home, prefect_server):
    with announced(server_of(prefect_server)):
        (file,) = own_home.glob("*.json")
        file.write_text(file.read_text().replace(os.uname().nodename, "elsewhere"))
        assert find_announced() is None


def test_a_damaged_announcement_is_not_used(own_home):
    (own_home / "goodnet-server.json").write_text("{")
    assert find_announced() is None


def test_the_configured_server_comes_first(own_home, ui_server, prefect_server):
    with (
        announced(server_of(prefect_server)),
        temporary_settings({PREFECT_API_URL: f"{ui_server.address}/api"}),
        find_server() as server,
    ):
        assert server.url == f"{ui_server.address}/api"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/api", "http://configured.invalid/api", "nonsense"]
)
def test_a_configured_server_that_does_not_answer_is_named(own_home, url):
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(InputError, match=rf"no Prefect server answers at {re.escape(url)}"),
        find_server(),
    ):
        pass


@pytest.mark.parametrize(("chosen", "retries"), [({}, 2), ({PREFECT_CLIENT_MAX_RETRIES: 7}, 7)])
def test_calls_of_a_configured_server_are_soon_given_up_unless_somebody_chose(
    own_home, ui_server, chosen, retries
):
    url = {PREFECT_API_URL: f"{ui_server.address}/api"}
    with temporary_settings(url | chosen), find_server():
        assert get_current_settings().client.max_retries == retries


BEGUN = """
from pathlib import Path
from flows.server_child import begun_server

with begun_server(Path("artifacts").resolve()) as begun:
    from flows.processes import is_gone
    from flows.server import find_server
    from prefect.settings import get_current_settings

    with find_server(begun=begun) as found:
        used = get_current_settings().api.url
        print(found.url == used, used == begun.url, is_gone(begun.process))
print(used, is_gone(begun.process))
"""


@pytest.mark.parametrize("named", ["nothing", "url", "home"])
def test_a_server_that_was_begun_is_used_unless_settings_name_another(
    server_home, prefect_server, named
):
    """Settings of a file, which Prefect alone knows to read."""
    settings = {
        "nothing": "",
        "url": f'[api]\nurl = "{prefect_server["PREFECT_API_URL"]}"\n',
        "home": f'home = "{server_home}"\n',
    }
    (server_home / "prefect.toml").write_text(settings[named])
    own = {"HOME": str(server_home / "user"), "PYTHONPATH": str(ROOT)}
    if named != "home":
        own["PREFECT_HOME"] = str(server_home)
    given = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", BEGUN],
        cwd=server_home, env=given | own, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    first, last = done.stdout.splitlines()
    is_other = named != "nothing"
    assert first == f"True {not is_other} {is_other}", done.stderr
    used, gone = last.split()
    assert gone == "True"
    assert (used == prefect_server["PREFECT_API_URL"]) is (named == "url")


BEATING = """
from flows.server import connected
from flows.settings import chosen_heartbeats
import time
from prefect import flow

@flow(name="beating")
def beating():
    time.sleep(1)  # The thread that sends them may come to it late.

with connected(), chosen_heartbeats():
    print(beating(return_state=True).state_details.flow_run_id)
"""


@pytest.mark.parametrize("chosen", [{}, {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}], ids=str)
def test_runs_send_heartbeats_where_somebody_chose_how_often(prefect_server, chosen):
    """Else an automation that waits for them would take a run for dead that sends few."""
    process = start(BEATING, env=os.environ | prefect_server | chosen)
    run = process.communicate(timeout=60)[0].strip()
    of_run = {"id": [f"prefect.flow-run.{run}"]}

    def names():
        found = post(prefect_server, "events/filter", filter={"resource": of_run})
        return {one["event"].rpartition(".")[2] for one in found["events"]}

    expected = {"Completed", "heartbeat"} if chosen else {"Completed"}
    wait_for(lambda: expected <= names())
    assert ("heartbeat" in names()) is bool(chosen)


@flow
def anything():
    """A flow for runs that exist on the server only."""


def test_only_unfinished_runs_of_gone_processes_of_this_machine_are_marked(
    server_settings, ended_process
):
    gone, alive = ended_process, name_process()
    with (
        temporary_settings(server_settings),
        get_client(sync_client=True) as client,
    ):

        def create(state, **labels):
            run = client.create_flow_run(anything, state=state).id
            client.update_flow_run_labels(run, {f"goodnet.{k}": v for k, v in labels.items()})
            return run

        flow_id = client.create_flow_run(anything).flow_id
        deployment = client.create_deployment(flow_id, f"name-{uuid.uuid4()}")
        of_worker = client.create_flow_run_from_deployment(deployment, state=Running()).id
        client.update_flow_run_labels(of_worker, {"goodnet.host": HERE, "goodnet.process": gone})
        runs = {
            "stale": create(Running(), host=HERE, process=gone),
            "live": create(Running(), host=HERE, process=alive),
            "elsewhere": create(Running(), host="elsewhere", process=gone),
            "finished": create(Completed(), host=HERE, process=gone),
            "unlabelled": create(Running()),
            "of a worker": of_worker,
        }
        mark_crashed_runs()
        states = {name: client.read_flow_run(run).state_name for name, run in runs.items()}
    assert states == {
        "stale": "Crashed",
        "live": "Running",
        "elsewhere": "Running",
        "finished": "Completed",
        "unlabelled": "Running",
        "of a worker": "Crashed",
    }


def test_a_killed_run_and_its_task_runs_are_marked_by_the_next_start(
    prefect_server, server_settings
):
    stuck = FlowFilter(name=FlowFilterName(any_=["stuck"]))

    def states():
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(flow_filter=stuck)
            tasks = client.read_task_runs(flow_filter=stuck)
        named = [("stuck", run) for run in runs] + [
            (run.name.partition("-")[0], run) for run in tasks
        ]
        return {name: run.state_name for name, run in named}

    with temporary_settings(server_settings):
        process = start(STUCK_RUN, env=os.environ | prefect_server)
        assert "started" in process.stdout.readline()
        before = {"stuck": "Running", "finish": "Completed", "hang": "Running"}
        deadline = time.monotonic() + 150
        while states() != before:  # Prefect tells its server of task runs in the background.
            assert time.monotonic() < deadline, states()
            time.sleep(0.2)
        process.kill()
        process.communicate()
        mark_crashed_runs()
        assert states() == {"stuck": "Crashed", "finish": "Completed", "hang": "Crashed"}


@pytest.mark.parametrize(
    ("known", "final"),
    [
        (Pending(), "Crashed"),
        (Running(), "Crashed"),
        (AwaitingRetry(), "Crashed"),
        (Failed(), "Failed"),
        (Completed(), "Completed"),
    ],
    ids=lambda state: getattr(state, "name", state),
)
def test_only_what_is_unfinished_of_a_run_is_marked(server_settings, known, final):
    @task
    def stage():
        """A task for runs that exist on the server only."""

    with temporary_settings(server_settings), get_client(sync_client=True) as client:
        above = client.create_flow_run(anything)
        stands_for = client.create_task_run(stage, above.id, "stands for it")
        run = client.create_flow_run(anything, state=known, parent_task_run_id=stands_for.id)
        of_run = client.create_task_run(stage, run.id, "of it", state=known)
        mark_crashed(run, "It is gone.")
        states = [
            client.read_flow_run(run.id).state_name,
            *(client.read_task_run(one.id).state_name for one in (of_run, stands_for)),
        ]
    assert states == [final] * 3


FAILING_RUN = """
import sys
from pathlib import Path

from flows.settings import configure
configure(Path(sys.argv[1]))

from flows.server import connected
from prefect import flow, get_run_logger, task

@task
def fail():
    get_run_logger().info("about to fail")
    raise ValueError("bad")

@flow
def failing():
    fail()

try:
    with connected():
        failing()
except ValueError:
    print("failed")
"""


def test_a_failed_run_is_known_to_its_own_server_before_that_ends(server_home):
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    done = subprocess.run(
        [sys.executable, "-c", FAILING_RUN, server_home],
        cwd=ROOT,
        env=environment | {"PREFECT_HOME": str(server_home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "failed\n", "")
    with closing(sqlite3.connect(server_home / "prefect.db")) as database:
        (state,) = database.execute("select state_name from task_run").fetchone()
        logged = [line for (line,) in database.execute("select message from log")]
    assert state == "Failed"
    assert "about to fail" in logged


SERVED = """
from flows.temporary_server import running_server
with running_server() as server:
    print("up", flush=True)
    input()
"""


def server_process(home):
    """The name of the process that serves in this folder, as soon as there is one."""
    deadline = time.monotonic() + 60
    while not (notes := list(home.glob("goodnet-servers/*"))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return notes[0].name.split("_")[1]


def wait_until_gone(process):
    deadline = time.monotonic() + 10
    while not is_gone(process):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("after", [0, 0.3, 1.5, "up"])
def test_the_server_of_a_killed_run_ends_too(server_home, after):
    process = start(SERVED, env=os.environ | {"PREFECT_HOME": str(server_home)})
    server = server_process(server_home)
    assert not is_gone(server)
    if after == "up":
        assert process.stdout.readline() == "up\n"
    else:
        time.sleep(after)
    process.kill()
    process.communicate()
    wait_until_gone(server)


def test_the_next_start_ends_a_server_that_could_not_end_by_itself(tmp_path, ended_process):
    hanging = start("import time; time.sleep(600)")
    live = start("import time; time.sleep(600)")
    os.kill(hanging.pid, signal.SIGSTOP)
    names = {one: name_process(one.pid) for one in (hanging, live)}
    notes = tmp_path / "goodnet-servers"
    notes.mkdir()
    host = os.uname().nodename
    (notes / f"{ended_process}_{names[hanging]}_{host}").touch()
    (notes / f"{name_process()}_{names[live]}_{host}").touch()
    (notes / f"{ended_process}_{names[live]}_elsewhere").touch()
    try:
        end_leftovers(tmp_path)
        wait_until_gone(names[hanging])
        assert not is_gone(names[live])
        assert len(list(notes.iterdir())) == 2
    finally:
        for one in (hanging, live):
            one.kill()
            one.communicate()


def test_a_server_that_dies_is_replaced_and_the_run_completes(server_home):
    source = """
import os, signal
from flows.server import connected
from prefect import flow, task
from prefect.artifacts import create_link_artifact
from prefect.settings import get_current_settings

@task
def work(server):
    os.kill(server, signal.SIGKILL)

@flow
def surviving(server):
    work(server)
    create_link_artifact("http://example.org", key="after")
    return "done"

with connected():
    (note,) = get_current_settings().home.glob("goodnet-servers/*")
    print(surviving(int(note.name.split("_")[1].partition("-")[0])), flush=True)
"""
    quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
    environment = os.environ | {"PREFECT_HOME": str(server_home)} | quiet
    process = start(source, env=environment, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output, errors) == (0, "done\n", "")
    with closing(sqlite3.connect(server_home / "prefect.db")) as database:
        (state,) = database.execute("select state_name from flow_run").fetchone()
        (key,) = database.execute("select key from artifact").fetchone()
    assert (state, key) == ("Completed", "after")
    assert not list((server_home / "goodnet-servers").iterdir())


@pytest.mark.parametrize(
    ("number", "own_server"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, False)],
)
def test_a_signal_ends_a_run_and_its_server_soon_and_in_one_line(
    server_home, prefect_server, number, own_server
):
    source = f"""
import sys
from goodnet.command import exit_code

def command():
    exec({STUCK_RUN!r}, {{}})

sys.exit(exit_code(command, stopped="stopped at once"))
"""
    environment = {"PREFECT_HOME": str(server_home)} if own_server else prefect_server
    quiet = environment | {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
    process = start(source, env=os.environ | quiet, stderr=subprocess.PIPE, start_new_session=True)
    assert "started" in process.stdout.readline()
    server = server_process(server_home) if own_server else None
    os.killpg(process.pid, number)  # as a terminal does: whatever the command has started
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + number, "stopped at once\n")
    assert server is None or is_gone(server)


ON_A_FULL_DISK = """
import shutil, sys
from pathlib import Path
from flows.settings import configure
configure(Path(sys.argv[1]))
from goodnet.command import exit_code

def command():
    from flows.server import connected
    from prefect import flow, task
    from prefect.settings import get_current_settings

    @task
    def work():
        home = get_current_settings().home
        with open(home / "filling", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        Path(sys.argv[1], "computed").touch()

    @flow
    def filling():
        work()

    with connected():
        filling()
    return 0

sys.exit(exit_code(command))
"""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user cannot mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("full", ["at the start", "in the middle"])
def test_a_full_disk_under_prefect_ends_in_a_line_or_not_at_all(tmp_path, small_disk, full):
    if full == "at the start":
        with suppress(OSError), (small_disk / "full").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, tmp_path],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        | {"PREFECT_HOME": str(small_disk)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert time.monotonic() - began < 60  # starting, and what has to end within half a minute
    assert "Traceback" not in done.stderr
    assert (tmp_path / "computed").exists() == (full == "in the middle")
    if full == "at the start" or done.returncode:
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert "full" in done.stderr
