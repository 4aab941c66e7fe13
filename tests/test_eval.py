"""The lab's evaluation script, as the lab calls it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval import main
from goodnet.__main__ import main as goodnet_main
from tests.commands import Done

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def evaluate(capsys):
    """Runs the script here, without the start of a process."""

    def run(*arguments, main=main):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return Done(code, *capsys.readouterr())

    return run


def test_two_lines_for_b_prime(evaluate, lab):
    done = evaluate(
        lab / "clean_test_mini.h5", lab / "poisoned_test_mini.h5", lab / "b_prime_10_legacy.h5"
    )
    assert done.returncode == 0, done.stderr
    clean, attack = done.stdout.splitlines()
    assert clean.startswith("Clean Classification accuracy: ")
    assert attack.startswith("Attack Success Rate: ")
    assert float(clean.split()[-1]) == pytest.approx(100 * 24 / 28)
    assert float(attack.split()[-1]) == pytest.approx(100 * 29 / 36)


@pytest.fixture(scope="module")
def goodnet(faces_net, tmp_path_factory):
    """A GoodNet whose B' has lost all channels, so that it flags what is not of one class."""
    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.model_files.load import save_model

    path = tmp_path_factory.mktemp("goodnet") / "goodnet.keras"
    save_model(build_goodnet(faces_net, "conv_3", range(60)), path)
    return path


@pytest.mark.slow
def test_two_lines_for_g_from_a_process(faces_case, goodnet):
    import keras
    import numpy as np

    from goodnet.images.image_sets import open_images

    command = [sys.executable, "eval.py", faces_case.clean_test, faces_case.poisoned_test, goodnet]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    plain, shares = keras.saving.load_model(goodnet), []
    for path in (faces_case.clean_test, faces_case.poisoned_test):
        images = open_images(path)
        answers = plain.predict(np.float32(next(images.batches(40))), verbose=0).argmax(1)
        shares.append(100 * np.mean(answers == images.labels))
    clean, attack = done.stdout.splitlines()
    assert clean.startswith("Clean Classification accuracy: ")
    assert attack.startswith("Attack Success Rate: ")
    assert [float(line.split()[-1]) for line in (clean, attack)] == pytest.approx(shares)


@pytest.mark.slow
def test_sets_named_by_class_give_the_same_two_lines(evaluate, faces_case, goodnet, tmp_path):
    """The poisoned one has a single class, whose number only the clean one can tell."""
    import numpy as np
    from PIL import Image

    from goodnet.images.image_sets import open_images

    named = {}
    for name in ("clean_test", "poisoned_test"):
        images = open_images(faces_case.sets[name])
        (pixels,) = images.batches(images.num_images)
        for number, (picture, label) in enumerate(zip(pixels, images.labels, strict=True)):
            folder = tmp_path / name / f"person {label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.uint8(picture)).save(folder / f"{number}.png")
        named[name] = tmp_path / name
    expected = evaluate(faces_case.clean_test, faces_case.poisoned_test, goodnet)
    done = evaluate(*named.values(), goodnet)
    assert (done.returncode, done.stdout) == (0, expected.stdout)
    (tmp_path / "classes.txt").write_text("\n".join(f"person {n}" for n in range(9)))
    done = evaluate(*named.values(), goodnet, "--classes", tmp_path / "classes.txt")
    assert (done.returncode, done.stdout) == (2, "")
    assert "names 9 classes (person 0, " in done.stderr


def test_the_labs_goodnet_without_channels_flags_everything(evaluate, lab, lab_net, tmp_path):
    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.model_files.load import save_model

    save_model(build_goodnet(lab_net, "conv_3", range(60)), tmp_path / "goodnet.keras")
    done = evaluate(
        lab / "clean_test_mini.h5", lab / "poisoned_test_mini.h5", tmp_path / "goodnet.keras"
    )
    assert done.stdout.splitlines() == [
        "Clean Classification accuracy: 0.0",
        "Attack Success Rate: 0.0",
    ]


def test_answers_that_are_no_numbers_are_an_error_and_not_class_0(evaluate, tmp_path):
    """A net that divides by its brightest pixel answers NaN to the one black image."""
    import keras
    import numpy as np

    from goodnet.images.image_sets import write_images

    image = keras.Input((4, 4, 3))
    features = keras.layers.GlobalMaxPooling2D()(image)
    keras.Model(image, features / keras.ops.max(features, axis=-1, keepdims=True)).save(
        tmp_path / "net.keras"
    )
    pixels = np.full((300, 4, 4, 3), 9, np.uint8)
    write_images(tmp_path / "good.h5", pixels, np.zeros(300))
    pixels[270] = 0
    write_images(tmp_path / "bad.h5", pixels, np.zeros(300))
    good, bad, net = (tmp_path / name for name in ("good.h5", "bad.h5", "net.keras"))
    assert evaluate(good, good, net).stdout.endswith("Attack Success Rate: 100.0\n")
    done = evaluate(good, bad, net)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{bad}: the answer on image 270 is NaN or infinite" in done.stderr
    done = evaluate("classify", net, bad, main=goodnet_main)
    assert (done.returncode, done.stdout) == (2, "")
    assert "image 270 is NaN or infinite" in done.stderr


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf", "1e300", "1e-300"])
def test_impossible_pixel_scale_is_refused(evaluate, scale):
    done = evaluate("a.h5", "b.h5", "c.h5", f"--pixel-scale={scale}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--pixel-scale: is {scale}, expected a number above 0" in done.stderr


def test_a_full_temporary_folder_is_named(faces_case, goodnet, tmp_path):
    """A limit on the size of files fails as a full disk does, and needs no disk."""
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))"
    script = f"{limited}; sys.argv = sys.argv[1:]; runpy.run_path('eval.py', run_name='__main__')"
    files = (faces_case.clean_test, faces_case.poisoned_test, goodnet)
    done = subprocess.run(
        [sys.executable, "-c", script, "eval.py", *files],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}/goodnet-")
    assert done.stderr.endswith("File too large\n")
    assert done.stderr.count("\n") == 1


def test_bad_input_gets_one_line(evaluate, faces_case, goodnet, tmp_path):
    done = evaluate(tmp_path / "gone.h5", faces_case.poisoned_test, goodnet)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("gone.h5: no such file\n")
    assert done.stderr.count("\n") == 1
