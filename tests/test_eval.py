"""The lab's evaluation script, as the lab calls it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def evaluate(*arguments):
    command = [sys.executable, "eval.py", *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_two_lines_for_b_prime(lab):
    done = evaluate(
        lab / "clean_test_mini.h5", lab / "poisoned_test_mini.h5", lab / "b_prime_10_legacy.h5"
    )
    assert done.returncode == 0, done.stderr
    clean, attack = done.stdout.splitlines()
    assert clean.startswith("Clean Classification accuracy: ")
    assert attack.startswith("Attack Success Rate: ")
    assert float(clean.split()[-1]) == pytest.approx(100 * 24 / 28)
    assert float(attack.split()[-1]) == pytest.approx(100 * 29 / 36)


def test_two_lines_for_g(lab, lab_net, tmp_path):
    from goodnet.detector import build_goodnet
    from goodnet.models import save_model

    save_model(build_goodnet(lab_net, "conv_3", range(60)), tmp_path / "goodnet.keras")
    done = evaluate(
        lab / "clean_test_mini.h5", lab / "poisoned_test_mini.h5", tmp_path / "goodnet.keras"
    )
    assert done.stdout.splitlines() == [
        "Clean Classification accuracy: 0.0",
        "Attack Success Rate: 0.0",
    ]


def test_bad_input_gets_one_line(lab):
    done = evaluate(lab / "gone.h5", lab / "poisoned_test_mini.h5", lab / "b_prime_10_legacy.h5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("gone.h5: no such file\n")
    assert done.stderr.count("\n") == 1
