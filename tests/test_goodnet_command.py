"""The command on the PATH, and the wheel that a stranger installs."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from goodnet.__main__ import main
from goodnet.errors import printable
from goodnet.images.image_sets import write_images
from tests.clusters import tiny_case
from tests.test_boundaries import FLOWS_ALONE, imports_of

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
def test_a_net_is_repaired_and_audited_from_any_folder(server_home, prefect_server, tmp_path):
    """Also by the processes that the commands start: a server, and the repair of each net."""
    (tmp_path / "models").mkdir()
    net, images, labels = tiny_case(120)
    net.save(tmp_path / "models" / "net.keras")
    write_images(tmp_path / "valid.h5", images[:60], labels[:60])
    write_images(tmp_path / "test.h5", images[60:], labels[60:])
    sets = ["--clean-valid", "valid.h5", "--clean-test", "test.h5", "--repairs", "pruning"]
    environment = {k: v for k, v in os.environ.items() if k != "GOODNET_ARTIFACTS"}
    repair = ["repair", "--model", "models/net.keras"], {"PREFECT_HOME": str(server_home)}
    audit = ["audit", "--models", "models"], prefect_server
    for which, server in (repair, audit):
        found = run(GOODNET, *which, *sets, "--quiet", cwd=tmp_path, env=environment | server)
        assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert len(list((tmp_path / "artifacts" / "runs").glob("[!.]*"))) == 2
    assert len(list((tmp_path / "artifacts" / "audits").glob("[!.]*"))) == 1


def test_bad_input_is_one_line_there_too(tmp_path):
    found = run(GOODNET, "repair", "--model", "none.keras", "--clean-valid", "a.h5",
                "--clean-test", "b.h5", cwd=tmp_path)  # fmt: skip
    assert (found.returncode, found.stderr) == (2, "error: none.keras: no such file\n")
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "artifacts"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """What a stranger installs, built from the files that git knows."""
    place = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    names = run("git", "ls-files", "goodnet", "pyproject.toml", "README.md", "LICENSE", cwd=ROOT)
    for name in names.stdout.splitlines():
        (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "source" / name).write_bytes((ROOT / name).read_bytes())
    built = run(
        sys.executable, "-m", "pip", "wheel", *options, "-w", place, ".", cwd=place / "source"
    )
    assert built.returncode == 0, built.stderr
    (found,) = place.glob("*.whl")
    return found


def test_the_wheel_holds_the_library_and_its_command_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
        scripts = next(name for name in files if name.endswith("entry_points.txt"))
        assert b"goodnet = goodnet.__main__:main" in archive.read(scripts)
    assert {name.split("/")[0].partition("-")[0] for name in files} == {"goodnet"}
    assert {"goodnet/py.typed", "goodnet/reports/templates/report.html"} <= set(files)


def test_the_wheel_asks_for_what_the_library_imports(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        said = archive.read(metadata).decode()
    needed = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.*)$", said, re.M)]
    always = {one.name for one in needed if one.marker is None}
    flows = {one.name for one in needed if one.marker and one.marker.evaluate({"extra": "flows"})}
    assert flows == FLOWS_ALONE
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "goodnet").rglob("*.py")]
    found = {name for tree in trees for name in imports_of(ast.walk(tree))}
    packages = {
        package.lower().replace("_", "-")
        for name in found - set(sys.stdlib_module_names) - {"goodnet"}
        for package in packages_distributions()[name]
    }
    # Where it is installed, tables are its; only their types are imported.
    assert packages - {"pandas"} == always


@pytest.mark.slow
def test_the_library_alone_repairs_and_answers_its_commands_without_prefect(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    net, images, labels = tiny_case(120)
    net.save(tmp_path / "net.keras")
    write_images(tmp_path / "valid.h5", images[:60], labels[:60])
    write_images(tmp_path / "test.h5", images[60:], labels[60:])
    absent = sorted(FLOWS_ALONE - {"rich"})  # which Keras needs itself

    def alone(source, *arguments):
        start = f"import sys; sys.modules.update(dict.fromkeys({absent})); "
        start += "sys.path.insert(0, 'installed')\n"
        return run(sys.executable, "-c", start + source, *arguments, cwd=tmp_path)

    repaired = alone(
        "import goodnet\n"
        "sets = 'valid.h5', 'test.h5'\n"
        "found = goodnet.repair('net.keras', sets[0], clean_test=sets[1], repairs=['pruning'])\n"
        "found.save('monday'); found.save('tuesday')\n"
    )
    assert repaired.returncode == 0, repaired.stderr
    command = "from goodnet.__main__ import main; sys.exit(main(sys.argv[1:]))"
    for arguments, said in (
        (["--help"], "classify"),
        (["classify", "monday/goodnet.keras", "test.h5"], "threshold"),
        (["compare", "monday", "tuesday"], "tuesday"),
    ):
        found = alone(command, *arguments)
        assert found.returncode == 0, found.stderr
        assert said in found.stdout
    refused = alone(command, "repair")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: `goodnet repair` needs goodnet's checkout")
    assert "`pip install -e .[flows]`" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_without_prefect_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr("goodnet.__main__.find_spec", lambda name: None)
    assert main(["repair", "--help"]) == 2
    assert capsys.readouterr().err.endswith("needs Prefect: pip install goodnet[flows]\n")
