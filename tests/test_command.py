"""What the environment can do to a command: one line and an exit code, never a traceback.

Bad files given to the commands are in test_hostile_input.py.
"""

import argparse
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from eval import main as eval_main
from flows.audit import main as audit_main
from flows.benchmark import main as benchmark_main
from flows.run import main as run_main
from flows.serve import main as serve_main
from flows.ui import main as ui_main
from goodnet.__main__ import main as goodnet_main
from goodnet.command import exit_code, fraction, positive, whole
from goodnet.errors import InputError
from goodnet.images.hdf5_sets import write_images
from goodnet.storage.files import atomic_path
from goodnet.storage.run_folder import clean_up, new_run_folder, reserve_run_folder

ROOT = Path(__file__).resolve().parent.parent


SETS = ["--clean-valid={text}", "--clean-test={text}"]
COMMANDS = {
    "classify": [goodnet_main, "classify", "{bad}", "{text}"],
    "compare": [goodnet_main, "compare", "{bad}", "{empty}"],
    "attack": [
        *(goodnet_main, "attack", "{bad}", "{empty}/bad.h5"),
        *("--trigger=corner-patch", "--target=0"),
    ],
    "eval's set": [eval_main, "{bad}", "{text}", "{text}"],
    "eval's net": [eval_main, "{text}", "{text}", "{bad}"],
    "run": [run_main, "--model={bad}", *SETS],
    "audit": [audit_main, "--models={bad}", *SETS],
    "benchmark": [benchmark_main, "--suite={bad}"],
    "benchmark's artifacts": [benchmark_main, "--artifacts={file}"],
    "run's artifacts": [run_main, "--artifacts={file}"],
    "audit's artifacts": [audit_main, "--artifacts={file}", "--models={empty}", *SETS],
}
ODD = "odd\x1b[31m\u202e\u200b\n"
PATHS = ["missing", "empty", "text", "broken", "locked", "x" * 300, ODD, "/dev/null", "/dev/zero"]


@pytest.fixture
def places(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "locked").write_text("secret")
    (tmp_path / "locked").chmod(0)
    (tmp_path / ODD).write_text("hello")
    return tmp_path


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=options.pop("cwd", ROOT),
        env={**os.environ, **options.pop("environment", {})},
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def require_one_line(code, output, errors):
    assert (code, output) == (2, ""), errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert errors.rstrip("\n").isprintable()


@pytest.mark.parametrize("bad", PATHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_path_is_given_it_is_refused_in_one_line(command, bad, places, capsys):
    files = {"text": places / "text", "empty": places / "empty", "bad": places / bad}
    files["file"] = files["bad"] if bad in ("text", "broken") else places / "text" / bad
    main, *arguments = COMMANDS[command]
    code = main([part.format(**files) for part in arguments])
    require_one_line(code, *capsys.readouterr())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("command", COMMANDS)
def test_what_may_not_be_read_or_written_is_refused_in_one_line(command, capsys):
    places = Path(tempfile.mkdtemp())
    for name in ("text", "locked"):
        (places / name).write_text("hello")
    (places / "locked").chmod(0)
    (places / "empty").mkdir()
    (places / "file").mkdir(mode=0o555)
    places.chmod(0o755)
    files = {name: places / name for name in ("text", "empty", "file")} | {"bad": places / "locked"}
    main, *arguments = COMMANDS[command]
    os.seteuid(65534)
    try:
        code = main([part.format(**files) for part in arguments])
    finally:
        os.seteuid(0)
        shutil.rmtree(places)
    require_one_line(code, *capsys.readouterr())


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a\nb"), 2, "error: a\\nb"),
        (OSError(errno.EISDIR, "Is a directory", "a\x1b[31mb"), 2, "error: a\\x1b[31mb: Is a dire"),
        (OSError(errno.EIO, "Input/output error", b"\xff"), 2, "error: \\udcff: Input/output err"),
        (OSError(errno.EBADF, "Bad file descriptor", 7), 2, "error: Bad file descriptor"),
        (OSError("no number"), 2, "error: no number"),
        (OSError(errno.ENOSPC, "No space left", "/a"), 2, "error: /a: No space left; without what"),
        (MemoryError(), 2, "error: there is not enough memory"),
        (KeyboardInterrupt(), 130, "stopped"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0, ""),
    ],
)
def test_an_error_becomes_a_line_and_an_exit_code(capsys, error, code, line):
    assert exit_code(raising(error)) == code
    assert capsys.readouterr().err.startswith(line)


def test_a_fault_of_goodnet_keeps_its_traceback():
    with pytest.raises(RuntimeError):
        exit_code(raising(RuntimeError()))


def test_a_full_disk_is_named_with_its_file_and_fine_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("goodnet.storage.disk._free_bytes", lambda path: 12_345)
    path = tmp_path / "a.json"

    def command():
        with atomic_path(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    assert exit_code(command) == 2
    expected = f"error: {path}: No space left on device; without what was begun, its disk has"
    assert capsys.readouterr().err == f"{expected} 12.345 kB free\n"


TALKATIVE = """
import sys
from goodnet.command import exit_code

def command():
    open(sys.argv[1], "w").write("data")  # takes the lowest free number
    import os
    os.write(2, b"native code")
    print("ä" * 100_000)
    return 0

sys.exit(exit_code(command))
"""


@pytest.mark.parametrize(
    ("shell", "code", "line"),
    [
        ("| head -0", 0, ""),
        (">&-", 0, ""),
        ("<&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("> /dev/full", 2, "error: No space left on device\n"),
        ("2> /dev/full > /dev/full", 2, ""),
    ],
)
def test_streams_may_be_closed_full_or_cut_off(tmp_path, shell, code, line):
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    command = f"'{sys.executable}' talkative.py data {shell}"
    if "|" in shell:
        command = f"set -o pipefail; {command}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code
    assert done.stderr.replace("native code", "") == line
    assert (tmp_path / "data").read_text() == "data"


def test_a_terminal_without_unicode_gets_escapes(tmp_path):
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = run("talkative.py", "data", cwd=tmp_path, environment=ascii_only)
    assert (done.returncode, done.stdout) == (0, "\\xe4" * 100_000 + "\n")


def test_a_current_folder_that_is_gone_is_said(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"rmdir '{gone}'; '{sys.executable}' -m goodnet compare a b"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=gone,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    require_one_line(done.returncode, done.stdout, done.stderr)
    assert "the current folder is gone" in done.stderr


def test_a_umask_does_not_take_a_commands_own_rights(tmp_path):
    before = os.umask(0o777)

    def command():
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "file").write_text("x")
        return 0

    try:
        assert exit_code(command) == 0
    finally:
        os.umask(before)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "made" / "file").stat().st_mode & 0o777 == 0o600


def without_rights(*command):
    """A command under which root, too, may only do what the modes of files say."""
    if os.geteuid() != 0:
        return command
    if shutil.which("setpriv") is None:
        pytest.skip("root needs setpriv to have no more rights than others")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *command)


SURROUNDINGS = {
    "HOME is a file": ("HOME={file}", "Not a directory"),
    "HOME may not be written": ("HOME={locked}", "Permission denied"),
    "PREFECT_HOME is a file": ("PREFECT_HOME={file}", "File exists"),
    "PREFECT_HOME may not be written": ("PREFECT_HOME={locked}", "Permission denied"),
    "PREFECT_HOME cannot be": ("PREFECT_HOME=/proc/x", "No such file"),
    "the current folder is gone": ("PREFECT_HOME={home}; rmdir {gone}", "folder is gone"),
    "no streams": ("PREFECT_HOME={home}; exec <&- >&-", ""),
    "no place for temporaries": ("PREFECT_HOME={home}; export TMPDIR={file}", ""),
    "a umask of 777": ("PREFECT_HOME={home}; umask 777", ""),
}


def served(folder):
    """What there is to serve: its options, as a shell takes them."""
    (folder / "models").mkdir()
    (folder / "models" / "a.keras").touch()
    for number, name in enumerate(("valid.h5", "test.h5")):
        write_images(folder / name, np.full((2, 4, 4, 3), number, np.uint8), [0, 1])
    sets = f"--clean-valid '{folder}/valid.h5' --clean-test '{folder}/test.h5'"
    return f"--models '{folder}/models' {sets}"


@pytest.mark.server
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("command", ["ui", "serve"])
def test_servers_start_or_say_in_one_line_what_surrounds_them(
    server_home, tmp_path, command, surroundings
):
    shell, line = SURROUNDINGS[surroundings]
    places = {name: tmp_path / name for name in ("file", "locked", "gone")} | {"home": server_home}
    places["file"].touch()
    places["locked"].mkdir(mode=0o555)
    places["gone"].mkdir()
    unset = {"PREFECT_HOME", "PREFECT_API_URL"}
    given = served(tmp_path) if command == "serve" else ""
    script = f"export {shell.format(**places)}; exec '{sys.executable}' -m flows.{command} {given}"
    process = subprocess.Popen(
        without_rights("bash", "-c", script),
        cwd=places["gone"],
        env={k: v for k, v in os.environ.items() if k not in unset} | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if command == "ui" and not line:
        announcement = places["home"] / "goodnet-server.json"
        deadline = time.monotonic() + 60
        while not announcement.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) in ((0, ""), (143, "stopped\n"))
        return
    output, errors = process.communicate(timeout=60)
    require_one_line(process.returncode, output, errors)
    if command == "ui" or "gone" in line:
        assert line in errors
    else:
        assert "no Prefect server is up" in errors


@pytest.mark.slow
def test_a_cache_that_may_not_be_written_is_said(lab, tmp_path):
    (tmp_path / "artifacts" / "cache").mkdir(parents=True)
    (tmp_path / "artifacts" / "cache").chmod(0o555)
    images = [f"--clean-{name}={lab}/clean_{name}_mini.h5" for name in ("valid", "test")]
    net = [f"--model={lab}/bd_weights.h5", "--architecture=deepid"]
    place = [f"--artifacts={tmp_path}/artifacts", "--quiet"]
    done = subprocess.run(
        without_rights(sys.executable, "-m", "flows.run", *net, *images, *place),
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        | {"PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    require_one_line(done.returncode, done.stdout, done.stderr)
    assert "Permission denied" in done.stderr


def test_names_among_unknown_options_are_escaped():
    done = run("-m", "goodnet", "classify", "a", "b", "--\x1b[31m\u202e")
    assert done.returncode == 2
    assert "--\\x1b[31m\\u202e" in done.stderr
    assert "".join(done.stderr.splitlines()).isprintable()


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e-300", "1e300", "x", ""])
def test_numbers_that_nets_cannot_divide_by_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number above 0"):
        positive(text)


@pytest.mark.parametrize(("kind", "text"), [(whole, "0"), (whole, "1.5"), (fraction, "nan")])
def test_other_numbers_out_of_range_are_refused(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"is {text}, expected"):
        kind(text)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 1e300])
def test_a_deployment_takes_no_impossible_numbers_either(value):
    from pydantic import TypeAdapter, ValidationError

    from flows.repair import Drops, PixelScale, Share

    for kind, number in ((PixelScale, value), (Drops, [value]), (Share, value or -1)):
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(number)


RESERVE = """
import sys, time
from pathlib import Path
from goodnet.storage.run_folder import reserve_run_folder

print(reserve_run_folder(Path(sys.argv[1]), "name"), flush=True)
time.sleep(60)
"""


def test_a_run_name_belongs_to_one_process_until_it_ends_or_is_killed(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", RESERVE, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    folder = tmp_path / "runs" / "name"
    assert other.stdout.readline() == f"{folder}\n"
    with pytest.raises(InputError, match="another run is about to write it"):
        reserve_run_folder(tmp_path, "name")
    assert reserve_run_folder(tmp_path, "name", kind="audits") == tmp_path / "audits" / "name"
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    assert reserve_run_folder(tmp_path, "name") == folder
    assert reserve_run_folder(tmp_path, "name") == folder  # a process's own name


def test_a_name_is_free_again_after_its_process(tmp_path):
    script = RESERVE.replace("time.sleep(60)", "")
    done = run("-c", script, tmp_path)
    assert done.stdout == f"{tmp_path / 'runs' / 'name'}\n"
    assert list((tmp_path / "runs").iterdir()) == []


def test_locks_of_killed_runs_are_cleaned_up_and_others_stay(tmp_path):
    (tmp_path / "runs").mkdir()
    old, held, new = (tmp_path / "runs" / f".{name}.lock" for name in ("old", "held", "new"))
    for lock in (old, held, new):
        lock.touch()
    for lock in (old, held):
        os.utime(lock, (0, 0))
    with held.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        clean_up(tmp_path)
    assert sorted((tmp_path / "runs").iterdir()) == sorted((held, new))


def test_names_made_of_the_time_need_no_locks(tmp_path):
    folders = {reserve_run_folder(tmp_path, None) for _ in range(20)}
    assert len(folders) == 20
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_name_that_is_too_long_for_its_temporaries_is_refused(tmp_path):
    with pytest.raises(InputError, match="has 202 bytes, expected at most 150"):
        new_run_folder(tmp_path, "ä" * 101)


def test_an_artifacts_folder_that_is_no_utf8_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no UTF-8"):
        new_run_folder(tmp_path / "\udcff", None)


def test_what_the_library_advises_is_an_option_of_the_command():
    from goodnet.command import as_options

    said = "give pixel_scale=255: or allow it with allow_same_data=True"
    assert as_options(said) == "give --pixel-scale 255: or allow it with --allow-same-data"
    said = 'give pixel_scale=0.5, pixel_mean=(1, -2.5, 3e-05), channel_order="bgr"; give classes=F'
    assert as_options(said) == (
        "give --pixel-scale 0.5 --pixel-mean 1 -2.5 3e-05 --channel-order bgr; give --classes F"
    )
    assert as_options("layer target=3 of pixel_scale=2.h5") == "layer target=3 of pixel_scale=2.h5"


def complaint(capsys, main, *arguments):
    with pytest.raises(SystemExit, match="2"):
        main(list(arguments))
    output, errors = capsys.readouterr()
    first, where = errors.splitlines()
    assert output == ""
    assert where.endswith(" --help.")
    return first


@pytest.mark.parametrize(
    ("main", "arguments", "meant"),
    [
        (run_main, ["--modle", "x"], "--model"),
        (run_main, ["--clean_valid=x"], "--clean-valid"),
        (audit_main, ["--modles", "x"], "--models"),
        (benchmark_main, ["--siute", "x"], "--suite"),
        (goodnet_main, ["classify", "a", "b", "--fromat", "csv"], "--format"),
        (goodnet_main, ["compare", "--polt", "x"], "--plot"),
        (goodnet_main, ["repiar"], "repair"),
        (goodnet_main, ["comapre", "a", "b"], "compare"),
        (ui_main, ["--prot", "1"], "--port"),
        (eval_main, ["--pixel-scael", "1"], "--pixel-scale"),
    ],
)
def test_a_mistyped_word_gets_a_guess(main, arguments, meant, capsys):
    assert complaint(capsys, main, *arguments).endswith(f"; did you mean {meant}?")


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (run_main, ["--completely-different"]),
        (serve_main, ["--completely-different"]),
        (run_main, ["--verify", "no"]),  # is known, its value is not
        (run_main, ["--mod"]),  # is enough of --model
    ],
)
def test_there_is_no_guess_without_something_alike(main, arguments, capsys):
    assert "did you mean" not in complaint(capsys, main, *arguments)


def test_all_that_is_missing_is_named_at_once(capsys, tmp_path):
    required = "--models, --clean-valid, --clean-test"
    assert complaint(capsys, audit_main).endswith(f"required: {required}")
    assert run_main(["--model", "x", "--artifacts", str(tmp_path)]) == 2
    said = "error: --model is given without --clean-valid and --clean-test, which it needs\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("channels", [["40", "45"], ["40,45"], ["40,", "45"]])
def test_channels_have_spaces_or_commas_between_them(channels):
    from flows.run import _parser

    assert _parser("goodnet").parse_args([]).channels == []
    assert _parser("goodnet").parse_args(["--channels", *channels]).channels == [40, 45]


@pytest.mark.parametrize("channels", ["0", "-1", "4.5", "x"])
def test_channels_are_whole_numbers_above_zero(channels, capsys):
    said = complaint(capsys, run_main, f"--channels={channels}")
    assert f"--channels: is {channels}, expected a whole number above 0" in said


@pytest.mark.parametrize("drops", [["2", "4", "10"], ["2,4,10"], ["2,", "4,10"], ["2, 4, 10"]])
def test_drops_have_spaces_or_commas_between_them(drops):
    from flows.run import _parser

    assert _parser("goodnet").parse_args(["--drops", *drops]).drops == [2.0, 4.0, 10.0]


@pytest.mark.parametrize(
    ("drops", "said"),
    [
        ("2,x", "--drops: is x, expected a number above 0"),
        ("2,101", "is 101, expected at most"),
        (",", "--drops: expected at least one number"),
    ],
)
def test_drops_that_are_none_are_refused(drops, said, capsys):
    assert said in complaint(capsys, run_main, "--drops", drops)
