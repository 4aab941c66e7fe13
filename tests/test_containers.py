"""The image and the services, step by step, where there is no Docker to build and start them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def instructions():
    """The Dockerfile's instructions with their arguments, in order."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def arguments(name):
    return [argument for instruction, argument in instructions() if instruction == name]


def test_the_image_is_slim_of_a_python_that_goodnet_takes_and_not_roots():
    (base,) = arguments("FROM")
    version = re.fullmatch(r"python:(\d+)\.(\d+)-slim-\w+", base)
    assert (3, 11) <= tuple(map(int, version.groups())) < (3, 14)
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    names = [name for name, _ in instructions()]
    assert arguments("USER") == ["goodnet"]
    assert "RUN" not in names[names.index("USER") :]
    assert any("useradd" in run and " goodnet " in run for run in arguments("RUN"))


def test_it_installs_what_make_installs():
    installs = [re.findall(r"-m pip (install .*?)(?: &&|$)", run) for run in arguments("RUN")]
    of_image = [one.replace("--no-cache-dir ", "") for found in installs for one in found]
    of_make = re.findall(r"-m pip (install .*)", (ROOT / "Makefile").read_text())
    of_make = [one.replace("--quiet --disable-pip-version-check ", "") for one in of_make]
    # Who runs the image may not keep what Python compiles, so that it compiles all in advance.
    compiling = [one.replace("--no-compile ", "") for one in of_make]
    assert [one.strip() for one in of_image] == compiling


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The folder that the image works in."""
    place = tmp_path_factory.mktemp("image")
    for argument in arguments("COPY"):
        *sources, target = shlex.split(argument)
        for source in sources:
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, place / target, ignore=ignored)
            else:
                (place / target).mkdir(exist_ok=True)
                shutil.copy(ROOT / source, place / target)
    return place


def test_nothing_that_is_copied_is_ignored():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert kept == {source for one in arguments("COPY") for source in shlex.split(one)[:-1]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["goodnet", "--help"],
        *(["goodnet", name, "--help"] for name in ("repair", "audit", "serve")),
    ],
    ids=" ".join,
)
def test_what_is_copied_is_all_that_the_commands_need(copied, command):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=copied,
        env=os.environ | {"PYTHONPATH": str(copied)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


@pytest.mark.slow
def test_what_is_copied_has_every_module_and_template(copied):
    source = "import goodnet, flows.run, flows.repair, tasks.auditing as a; print(goodnet.__file__)"
    source += (
        "\nfrom goodnet.reports.report import page_environment as e; print(*e().list_templates())"
    )
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=copied,
        env=os.environ | {"PYTHONPATH": str(copied)},
        capture_output=True,
        text=True,
        check=True,
    )
    file, templates = done.stdout.splitlines()
    assert file == str(copied / "goodnet" / "__init__.py")
    assert {"report.html", "audit.html", "comparison.html"} <= set(templates.split())


def test_the_image_starts_a_command_that_is_installed():
    assert arguments("ENTRYPOINT") == ['["goodnet"]']
    assert "goodnet" in PROJECT["project"]["scripts"]
    (environment,) = arguments("ENV")
    assert "PATH=/goodnet/.venv/bin:" in environment
    assert arguments("WORKDIR") == ["/goodnet"]


def test_services_wait_for_each_other_and_only_this_machine_reaches_them():
    assert SERVICES["server"]["ports"] == ["127.0.0.1:4200:4200"]
    assert [name for name, one in SERVICES.items() if "ports" in one] == ["server"]
    for service in SERVICES.values():
        for other, wanted in service.get("depends_on", {}).items():
            healthy = wanted["condition"] == "service_healthy"
            assert not healthy or "healthcheck" in SERVICES[other]
    mounted = {
        volume.split(":")[0] for one in SERVICES.values() for volume in one.get("volumes", ())
    }
    assert mounted - {"./data"} == set(COMPOSE["volumes"])


def test_the_password_is_nobodys_default():
    text = (ROOT / "compose.yaml").read_text()
    assert "${GOODNET_PASSWORD:?" in text
    assert not re.findall(r"\$\{GOODNET_PASSWORD:-", text)


def test_services_set_what_prefect_and_goodnet_read():
    from prefect.settings import Settings

    def names(model, prefix=()):
        for field in model.model_fields.values():
            alias = field.validation_alias
            yield from getattr(alias, "choices", [alias] if alias else [])
            kind = field.annotation
            if hasattr(kind, "model_fields"):
                yield from names(kind)
                start = kind.model_config.get("env_prefix", "")
                yield from (f"{start}{name}" for name in kind.model_fields)

    known = {str(name).upper() for name in names(Settings)} | {"DO_NOT_TRACK"}
    known |= {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"}
    for name, service in SERVICES.items():
        assert set(service["environment"]) <= known, name


def commands():
    """Each of Prefect's commands that a service runs."""
    for name, service in SERVICES.items():
        words = [*service.get("entrypoint", ()), *service.get("command", ())]
        if words[:1] == ["sh"]:
            yield from (pytest.param(line.split(), id=name) for line in words[-1].splitlines())
        elif words:
            yield pytest.param(words, id=name)


@pytest.mark.slow
@pytest.mark.parametrize("words", list(commands()))
def test_prefect_has_the_commands_and_options_that_services_run(words, tmp_path):
    prefect, *rest = words
    assert prefect == "prefect"
    done = subprocess.run(
        [Path(sys.executable).with_name(prefect), *rest, "--help"],
        env=os.environ | {"PREFECT_HOME": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {word for word in rest if word.startswith("--")} <= set(
        re.findall(r"--[a-z-]+", done.stdout)
    )


def test_the_worker_has_the_files_that_the_deployments_name():
    (data,) = (volume for volume in SERVICES["worker"]["volumes"] if "data" in volume)
    assert data == "./data:/goodnet/data:ro"
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    paths = [value for one in deployments for value in one["parameters"].values()]
    assert paths
    assert all(path.startswith("data/") for path in paths)


def manifest():
    """What docs/kubernetes.yaml describes, by kind and name."""
    found = yaml.safe_load_all((ROOT / "docs" / "kubernetes.yaml").read_text())
    named = {}
    for one in found:
        metadata = one["metadata"]
        named[one["kind"], metadata.get("name", metadata.get("generateName"))] = one
    return named


def test_pods_of_the_manifest_find_each_other_and_the_same_files():
    found = manifest()
    pods = {name: one["spec"]["template"] for (_, name), one in found.items()
            if "template" in one["spec"]}  # fmt: skip
    service = found["Service", "goodnet-dask"]["spec"]
    assert service["selector"] == pods["goodnet-scheduler"]["metadata"]["labels"]
    address = f"tcp://goodnet-dask:{service['ports'][0]['port']}"
    containers = {name: pod["spec"]["containers"][0] for name, pod in pods.items()}
    assert address in containers["goodnet-worker"]["args"]
    assert f"--dask={address}" in containers["goodnet-audit-"]["args"]
    places = [containers[name]["volumeMounts"] for name in ("goodnet-worker", "goodnet-audit-")]
    assert places[0] == places[1]
    for (kind, _), one in found.items():
        if kind == "Deployment":
            labels = one["spec"]["template"]["metadata"]["labels"]
            assert one["spec"]["selector"]["matchLabels"] == labels
    (policy,) = [one["spec"] for (kind, _), one in found.items() if kind == "NetworkPolicy"]
    (allowed,) = policy["ingress"][0]["from"]
    assert policy["podSelector"] == allowed["podSelector"]
    assert all(pod["metadata"]["labels"]["app"] == "goodnet" for pod in pods.values())


def test_commands_of_the_manifest_take_what_they_are_given():
    from flows.audit import _parser
    from tasks.cluster import Cluster

    containers = [
        one["spec"]["template"]["spec"]["containers"][0]
        for (kind, _), one in manifest().items()
        if kind in ("Deployment", "Job")
    ]
    (audit,) = [one["args"] for one in containers if one["name"] == "audit"]
    assert Cluster.parse(_parser("goodnet").parse_args(audit[1:]).dask).host == "goodnet-dask"
    for one in containers:
        if "command" in one:
            command, *given = [*one["command"][2:], *one.get("args", [])]
            help_page = subprocess.run(
                [sys.executable, "-m", command, "--help"], capture_output=True, text=True
            ).stdout
            options = [argument for argument in given if argument.startswith("--")]
            assert all(option in help_page for option in options)
