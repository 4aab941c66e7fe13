"""What a user's environment may hold without a command going wrong."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from goodnet.errors import InputError
from goodnet.tensorflow_start import import_tensorflow

ROOT = Path(__file__).resolve().parent.parent
PROXY = "http://127.0.0.1:9"
FLOW = """
import sys
from pathlib import Path

from flows.settings import configure
configure(Path(sys.argv[1]))

from goodnet.command import exit_code

def command():
    from flows.server import connected
    from prefect import flow

    @flow
    def anything():
        return "done"

    with connected():
        print(anything())
    return 0

sys.exit(exit_code(command))
"""


def python(source, *arguments, environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [sys.executable, "-c", source, *arguments],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "proxies",
    [
        {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY},
        {"http_proxy": PROXY, "all_proxy": PROXY, "no_proxy": "example.org"},
        {"ALL_PROXY": "socks5://127.0.0.1:9"},
    ],
    ids=str,
)
def test_a_server_on_this_machine_is_called_without_a_proxy(prefect_server, tmp_path, proxies):
    done = python(FLOW, tmp_path, environment=prefect_server | proxies)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "no Prefect server answers at http://127"),
        ({"PREFECT_API_URL": "http://[/api"}, "PREFECT_… in the environment"),
        ({"PREFECT_CLIENT_MAX_RETRIES": "many\x1b"}, "input_value='many\\x1b'"),
        ({"PREFECT_API_AUTH_STRING": "other:password"}, "401 Unauthorized, PREFECT_API_AUTH"),
    ],
    ids=str,
)
def test_a_server_that_cannot_be_used_is_one_line(prefect_server, tmp_path, settings, said):
    began = time.monotonic()
    done = python(FLOW, tmp_path, environment=prefect_server | settings)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.rstrip("\n").isprintable()
    assert time.monotonic() - began < 30


def test_a_folder_for_temporaries_that_tensorflow_cannot_name_is_one_line(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/\udcff")  # noqa: S108
    with pytest.raises(InputError, match=r"^/tmp/\\udcff: is no UTF-8, .* in TMPDIR$"):
        import_tensorflow()


@pytest.mark.slow
def test_keras_runs_on_tensorflow_whatever_the_environment_says():
    source = """
import goodnet
goodnet.import_tensorflow()
import keras
print(keras.config.backend())
"""
    done = python(source, environment={"KERAS_BACKEND": "jax"})
    assert (done.returncode, done.stdout) == (0, "tensorflow\n"), done.stderr


@pytest.mark.slow
def test_keras_that_runs_on_something_else_already_is_one_line():
    # As after an import with KERAS_BACKEND=jax: no other backend is installed for the tests.
    source = """
import goodnet, keras
from keras.src.backend import config
config._BACKEND = "jax"
try:
    goodnet.import_tensorflow()
except goodnet.InputError as error:
    print(error)
"""
    done = python(source, environment={"KERAS_BACKEND": "tensorflow"})
    assert done.stdout.startswith("Keras runs on jax in this process, expected tensorflow: set")


LISTED_ONCE = """
from goodnet.tensorflow_start import import_tensorflow

import_tensorflow()
from keras.src.backend.common.global_state import set_global_attribute
from keras.src.saving.saving_lib import get_attr_skipset

for kind in ("Operation", "Layer", "Functional", "Sequential"):
    remembered = get_attr_skipset(kind)
    assert get_attr_skipset(kind) is remembered
    set_global_attribute(f"saving_attr_skiplist_{kind}", None)
    assert get_attr_skipset(kind) == remembered
"""


@pytest.mark.slow
def test_keras_lists_the_attributes_that_hold_no_weights_once():
    """Where it lists them anew for each layer, loading and saving take a fifth longer.

    In a process of its own: what other tests do to Keras' classes adds attributes to them.
    """
    done = subprocess.run(
        [sys.executable, "-c", LISTED_ONCE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


STOPPED = """
import os, signal

os.write(2, b"a notice")
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt as stop:
    raise ImportError("initialization failed") from stop
"""
COMMAND = """
import sys
from goodnet.command import exit_code
from goodnet.tensorflow_start import import_tensorflow

sys.path.insert(0, sys.argv[1])
sys.exit(exit_code(import_tensorflow, stopped="stopped"))
"""


def test_ctrl_c_while_native_code_is_imported_is_one_line(tmp_path):
    """As modules of C do that are stopped while they import others."""
    (tmp_path / "tensorflow.py").write_text(STOPPED)
    done = python(COMMAND, str(tmp_path), environment={})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")
