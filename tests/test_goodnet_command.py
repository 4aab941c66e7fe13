"""The command on the PATH, and the wheel that a stranger installs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from goodnet.errors import printable
from goodnet.images.image_sets import write_images
from tests.clusters import tiny_case

ROOT = Path(__file__).resolve().parent.parent
GOODNET = Path(sys.executable).with_name("goodnet")


def run(*arguments, cwd, **options):
    command = [str(argument) for argument in arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)


@pytest.mark.slow
def test_flows_are_commands_of_goodnet_from_any_folder(tmp_path):
    """The same but for the name that they were called by, and for where their files go."""
    environment = {**os.environ, "COLUMNS": "9999"}  # so that no line is folded
    environment.pop("GOODNET_ARTIFACTS", None)
    same = (("audit", "audit"), ("benchmark", "benchmark"), ("serve", "serve"), ("ui", "ui"))
    for name, module in (("repair", "run"), *same):
        found = run(GOODNET, name, "--help", cwd=tmp_path, env=environment)
        assert found.returncode == 0, found.stderr
        assert found.stdout.startswith(f"usage: goodnet {name} [-h] ")
        assert "flows." not in found.stdout
        assert (f"(default: {tmp_path / 'artifacts'})" in found.stdout) == (name != "ui")
        expected = run(sys.executable, "-m", f"flows.{module}", "--help", cwd=ROOT, env=environment)
        there = expected.stdout.replace(f"python -m flows.{module}", f"goodnet {name}")
        assert found.stdout == there.replace(f"{ROOT / 'artifacts'})", f"{tmp_path / 'artifacts'})")


def test_what_is_mistyped_is_sent_to_the_help_of_the_name_that_was_called(tmp_path):
    found = run(GOODNET, "repair", "--modle", "x", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.splitlines()[-1] == "See goodnet repair --help."


@pytest.mark.parametrize("name", ["a%(x)s", "a\x1b[31m"])
def test_the_help_shows_a_default_path_as_it_is_and_escaped(tmp_path, name):
    (tmp_path / name).mkdir()
    environment = {**os.environ, "COLUMNS": "9999"}
    environment.pop("GOODNET_ARTIFACTS", None)
    found = run(GOODNET, "audit", "--help", cwd=tmp_path / name, env=environment)
    assert found.returncode == 0, found.stderr
    assert f"(default: {printable(str(tmp_path / name / 'artifacts'))})" in found.stdout
    assert "\x1b" not in found.stdout


@pytest.mark.server
def test_a_net_is_repaired_and_audited_from_any_folder(server_home, tmp_path):
    """Also by the processes that the commands start: a server, and the repair of each net."""
    (tmp_path / "models").mkdir()
    net, images, labels = tiny_case(120)
    net.save(tmp_path / "models" / "net.keras")
    write_images(tmp_path / "valid.h5", images[:60], labels[:60])
    write_images(tmp_path / "test.h5", images[60:], labels[60:])
    sets = ["--clean-valid", "valid.h5", "--clean-test", "test.h5"]
    environment = {**os.environ, "PREFECT_HOME": str(server_home)}
    environment.pop("GOODNET_ARTIFACTS", None)
    for which in (["repair", "--model", "models/net.keras"], ["audit", "--models", "models"]):
        found = run(GOODNET, *which, *sets, "--quick", "--quiet", cwd=tmp_path, env=environment)
        assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert len(list((tmp_path / "artifacts" / "runs").glob("[!.]*"))) == 2
    assert len(list((tmp_path / "artifacts" / "audits").glob("[!.]*"))) == 1


def test_bad_input_is_one_line_there_too(tmp_path):
    found = run(GOODNET, "repair", "--model", "none.keras", "--clean-valid", "a.h5",
                "--clean-test", "b.h5", cwd=tmp_path)  # fmt: skip
    assert (found.returncode, found.stderr) == (2, "error: none.keras: no such file\n")
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "artifacts"])


def test_the_wheel_holds_the_library_and_its_command_alone(tmp_path):
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    copied = tmp_path / "source"
    names = run("git", "ls-files", "goodnet", "pyproject.toml", "README.md", "LICENSE", cwd=ROOT)
    for name in names.stdout.splitlines():
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        (copied / name).write_bytes((ROOT / name).read_bytes())
    built = run(sys.executable, "-m", "pip", "wheel", *options, "-w", tmp_path, ".", cwd=copied)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
        scripts = next(name for name in files if name.endswith("entry_points.txt"))
        assert b"goodnet = goodnet.__main__:main" in archive.read(scripts)
        archive.extractall(tmp_path / "installed")
    assert {name.split("/")[0].partition("-")[0] for name in files} == {"goodnet"}
    assert {"goodnet/py.typed", "goodnet/reports/templates/report.html"} <= set(files)
    alone = [sys.executable, "-c", "import sys; sys.path.insert(0, '.'); "
             "from goodnet.__main__ import main; sys.exit(main(sys.argv[1:]))"]  # fmt: skip
    found = run(*alone, "repair", cwd=tmp_path / "installed")
    assert found.returncode == 2
    assert "`goodnet repair` needs goodnet's checkout" in found.stderr
    assert run(*alone, "compare", "--help", cwd=tmp_path / "installed").returncode == 0
