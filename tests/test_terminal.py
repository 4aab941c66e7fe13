"""Names that a terminal would obey, in all that the commands write to one."""

import json
import re
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

from goodnet.errors import printable
from tests.clusters import tiny_case
from tests.terminal import on_terminal

TEXT = "e\x1b]0;owned\x07\x1b[5m\x1b[2J\n\r\t\u202e\u2028\x9b7m\x7f:bug:[red]"
"""The title of the window, blinking, an empty screen, lines, text backwards, and markup."""
NAME = f"{TEXT}\udcff"
OF_BARS = re.compile(r"\x1b\[(?!5m)[0-9;]*m|\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r(?=\x1b)")
"""What Rich makes tables and bars of."""

# A command has no process of its own where it does not need one: a start takes its time.
COMMANDS = """
import json, sys
from importlib import import_module

for module, *arguments in json.load(open(sys.argv[1])):
    try:
        code = import_module(module).main(arguments)
    except SystemExit as stop:
        code = stop.code
    print(f"exit code {code}", flush=True)
"""


def shown(folder, commands, **environment):
    """What each command wrote, as lines, with its exit code at the end."""
    listed = [list(map(str, command)) for command in commands]
    (folder / "commands.json").write_text(json.dumps(listed))
    written = on_terminal(["-c", COMMANDS, folder / "commands.json"], **environment)
    said = re.split(r"(?<=exit code \d)\n", written.replace("\r\n", "\n"))[:-1]
    assert len(said) == len(commands), written
    return said


def require_harmless(written):
    for line in OF_BARS.sub("", written).split("\n"):
        assert line.isprintable(), repr(line)


REFUSED = {
    "classify": ["goodnet.__main__", "classify", NAME, NAME],
    "classify's option": ["goodnet.__main__", "classify", NAME, NAME, f"--{NAME}"],
    "classify's format": ["goodnet.__main__", "classify", NAME, NAME, "--format", NAME],
    "classify's scale": ["goodnet.__main__", "classify", NAME, NAME, "--pixel-scale", NAME],
    "compare": ["goodnet.__main__", "compare", NAME, f"other{NAME}"],
    "no command": ["goodnet.__main__", NAME],
    "eval": ["eval", NAME, NAME, NAME],
    "eval's option": ["eval", NAME, NAME, NAME, f"--{NAME}"],
    "repair": ["flows.run", "--model", NAME, "--clean-valid", NAME, "--clean-test", NAME],
    "repair's name": ["flows.run", "--run-name", TEXT],
    "repair's artifacts": ["flows.run", "--artifacts", NAME],
    "repair's target": ["flows.run", "--target", NAME],
    "repair's argument": ["flows.run", NAME],
    "audit": ["flows.audit", "--models", NAME, "--clean-valid", NAME, "--clean-test", NAME],
    "audit's allowance": ["flows.audit", "--max-minutes-per-model", NAME],
    "benchmark": ["flows.benchmark", "--suite", NAME],
    "benchmark's images": ["flows.benchmark", "--suite", "suites/cifar10.toml", "--images", NAME],
    "ui's argument": ["flows.ui", NAME],
    "ui's option": ["flows.ui", f"--{NAME}"],
    "ui's port": ["flows.ui", "--port", NAME],
    "ui through goodnet": ["goodnet.__main__", "ui", NAME],
    "serve": ["flows.serve", NAME],
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    said = shown(tmp_path_factory.mktemp("refused"), REFUSED.values())
    return dict(zip(REFUSED, said, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_a_complaint_is_harmless(refused, case):
    require_harmless(refused[case])
    assert refused[case].endswith("exit code 2")
    assert "\\x1b]0;owned" in refused[case]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a net, image sets in two forms and what is no net, all under bad names."""
    folder = tmp_path_factory.mktemp("place") / NAME
    (folder / "models").mkdir(parents=True)
    net, images, labels = tiny_case(60)
    net.save(folder.parent / "net.keras")
    (folder.parent / "net.keras").rename(folder / f"{NAME}.keras")
    (folder / "models" / f"{NAME}.keras").symlink_to("nowhere")
    with h5py.File(folder / f"{NAME}.h5", "w") as file:
        file["data"], file["label"] = images[:40], np.eye(4, dtype="u1")[labels[:40]]
    for number in range(40, 60):
        of_label = folder / "set" / f"{labels[number]}-{NAME}"
        of_label.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number]).save(of_label / f"{number}{NAME}.png")
    return folder


@pytest.fixture(scope="module")
def repaired(place, prefect_server):
    """What a repair and an audit wrote, and the folder of that run and of one with its files."""
    artifacts = place.parent / TEXT
    sets = ["--clean-valid", place / f"{NAME}.h5", "--clean-test", place / "set"]
    where = ["--artifacts", artifacts]
    repair = ["flows.run", "--model", place / f"{NAME}.keras", *sets, *where, "--quick"]
    repair += ["--run-name", ":bug:"]
    audit = ["flows.audit", "--models", place / "models", *sets, *where]
    said = shown(place.parent, [repair, audit], **prefect_server)
    shutil.copytree(artifacts / "runs" / ":bug:", artifacts / "runs" / TEXT)
    return said, [artifacts / "runs" / name for name in (":bug:", TEXT)]


@pytest.fixture(scope="module")
def read(place, repaired):
    """What was written by the commands that need no server."""
    _, runs = repaired
    net, pictures = place / f"{NAME}.keras", place / "set"
    classify = ["goodnet.__main__", "classify", net, pictures, "--format"]
    commands = {
        "compare": ["goodnet.__main__", "compare", *runs, "--plot", place / f"{NAME}.html"],
        "eval": ["eval", *[place / f"{NAME}.h5"] * 2, net],
        **{name: [*classify, name] for name in ("table", "csv", "json")},
    }
    return dict(zip(commands, shown(place.parent, commands.values()), strict=True))


def test_a_repair_is_harmless(repaired, place):
    (repair, _), (run, _) = repaired
    require_harmless(repair)
    assert repair.endswith("exit code 0")
    assert f"Repairing {printable(f'{place / NAME}.keras')}: checkpoints" in repair.replace(
        "\n", " "
    )
    assert f"\n{printable(str(run / 'report.html'))}\n" in repair
    # Remarks are broken into lines between words, of which such names have none.
    whole = repair.replace("\n", "")
    for remark in (f"{NAME}.h5: `label` has a row", "set: the number before the -"):
        assert printable(remark).replace(" ", "") in whole.replace(" ", "")


def test_an_audit_is_harmless(repaired):
    (_, audit), _ = repaired
    require_harmless(audit)
    assert audit.endswith("exit code 1")
    assert f"{printable(NAME)}.keras: failed\n" in audit
    assert f"{printable(NAME)}.keras: is a link to nothing " in audit.replace("\n", " ")


@pytest.mark.parametrize("command", ["compare", "eval", "table", "csv", "json"])
def test_what_a_command_prints_is_harmless(read, command):
    require_harmless(read[command])
    assert read[command].endswith("exit code 0")
    assert ("owned" in read[command]) == (command != "eval")
