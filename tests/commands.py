"""Processes that do one thing after another: their start takes longer than most of it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
# Whatever a command writes goes to files, that of native code and of its children too.
_PROCESS = """
import json, os, sys, tempfile, traceback

answers = os.fdopen(os.dup(1), "w")
{source}

def run(arguments):
    said = [tempfile.TemporaryFile() for _ in range(2)]
    for number, file in zip((1, 2), said):
        os.dup2(file.fileno(), number)
    if {forks}:
        child = os.fork()
        if not child:
            sys.exit(main(arguments))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    else:
        code = call(arguments)
    for file in said:
        file.seek(0)
    return [code, *(file.read().decode() for file in said)]

def call(arguments):
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code

for line in sys.stdin:
    print(json.dumps(run(json.loads(line))), file=answers, flush=True)
"""
_PLAIN_KERAS = """
import keras
import numpy as np

def main(arguments):
    model, images, answers = arguments
    net = keras.saving.load_model(model)
    np.save(answers, net.predict(np.load(images), verbose=0))
    return 1 if "goodnet" in sys.modules else 0
"""


class Done(NamedTuple):
    """What came of a command."""

    returncode: int
    stdout: str
    stderr: str


IMPORTED = """
from goodnet.heavy_imports import importing
with importing():
    from goodnet.tensorflow_start import import_tensorflow
    import_tensorflow()
    import prefect, scipy.stats
"""
"""Start of a source whose commands fork: what takes long, and holds no state of theirs."""


@contextmanager
def one_process(
    source: str, environment: dict[str, str], *, forks: bool = False
) -> Iterator[Callable[..., Done]]:
    """Yield a function that runs a command with its arguments in one process.

    Only where it is nothing to the test that another command was there before, and for one folder
    of artifacts: Prefect's records of stages go into that of the first.

    Args:
        source: defines `main`, which takes the arguments.
        environment: its settings of Prefect, and whatever is to be another in it than here.
        forks: each command is a process of its own after all, which begins with what the source
            imported; then neither restriction holds.
    """
    whole = _PROCESS.replace("{source}", source).replace("{forks}", str(forks))
    process = subprocess.Popen(
        [sys.executable, "-c", whole],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(*arguments: object) -> Done:
        process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        process.stdin.flush()
        return Done(*json.loads(process.stdout.readline()))

    with process:
        yield run
        process.stdin.close()
        assert process.wait(timeout=60) == 0


Predict = Callable[[Path, np.ndarray], np.ndarray]
"""What the net in a file answers."""


@contextmanager
def _keras(folder: Path, environment: dict[str, str]) -> Iterator[Predict]:
    with one_process(_PLAIN_KERAS, environment) as run:

        def predict(model: Path, images: np.ndarray) -> np.ndarray:
            np.save(folder / "images.npy", images)
            done = run(model, folder / "images.npy", folder / "answers.npy")
            assert done.returncode == 0, done.stderr
            return np.load(folder / "answers.npy")

        yield predict


@pytest.fixture(scope="session")
def plain_keras(tmp_path_factory) -> Iterator[Predict]:
    """Keras in a process that knows nothing of goodnet."""
    with _keras(tmp_path_factory.mktemp("keras"), {}) as predict:
        yield predict


@pytest.fixture(scope="session")
def channels_first_keras(tmp_path_factory) -> Iterator[Predict]:
    """The same of a user whose settings say that channels come first."""
    folder = tmp_path_factory.mktemp("keras")
    settings = {"backend": "tensorflow", "image_data_format": "channels_first"}
    (folder / "keras.json").write_text(json.dumps(settings))
    with _keras(folder, {"KERAS_HOME": str(folder)}) as predict:
        yield predict
