"""The command, as a user gives it: real processes, real files, a real Prefect server."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from goodnet.images.image_sets import open_images, write_images
from goodnet.metrics import percent
from tasks.markdown import as_markdown
from tests.commands import IMPORTED, one_process
from tests.servers import query

ROOT = Path(__file__).resolve().parent.parent
FILES_OF_A_RUN = {
    "run.json",
    "results.json",
    "results.csv",
    "sweep.parquet",
    "scores.parquet",
    "goodnet.keras",
    "MODEL_CARD.md",
    "report.html",
    *(f"checkpoints/b_prime_{drop}.keras" for drop in ("02", "04", "10")),
    *(f"goodnet_{drop}.keras" for drop in ("02", "04", "10")),
    "repaired.keras",
    *(f"checkpoints/{method}_10.keras" for method in ("discriminant", "finetuning", "fallback")),
}
"""At least: the nets of smaller budgets depend on how the processor rounds in training."""


def files_of_a_run(artifacts, name):
    """Return those that a run says it leaves."""
    reached = {
        f"checkpoints/{point['method']}_{point['drop']:02g}.keras"
        for point in read_results(artifacts, name)["checkpoints"]
        if point["method"] != "pruning" and point["reached"]
    }
    return FILES_OF_A_RUN | reached


def run(*arguments, environment=None, traced=False):
    """Run the command as a user does; with `traced`, stderr lists every imported module."""
    return subprocess.run(
        [sys.executable, *(["-X", "importtime"] if traced else []), "-m", "flows.run"]
        + [str(argument) for argument in arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )


COMMAND = f"""
from functools import partial
{IMPORTED}
from flows.run import main
from goodnet.attacks.default_case import SMALL_CASE
from goodnet.defenses import fine_tuning

# Enough for the few images of most cases here; those of the default are not shown forty times.
fine_tuning.VISITS, fine_tuning.FEWEST_EPOCHS = 6400, 2
main = partial(main, default_case=SMALL_CASE)
"""


@pytest.fixture(scope="module")
def new_run(prefect_server):
    """Runs the command in a process of its own, with a smaller default and less fine-tuning."""
    with one_process(COMMAND, prefect_server, forks=True) as run:
        yield run


def options_of(case, *, trained=False, **changes):
    """The command's options for the files of a case; those changed to None are left out."""
    given = {"model": case.model, "architecture": "deepid", **case.sets, **changes}
    parts = [
        part
        for name, value in given.items()
        if value is not None
        for part in (f"--{name.replace('_', '-')}", value)
    ]
    return parts if trained else [*parts, "--quick"]


def read_results(artifacts, name):
    return json.loads((artifacts / "runs" / name / "results.json").read_text())


def pruned(results):
    """The checkpoints of pruning, which come first."""
    return [point for point in results["checkpoints"] if point["method"] == "pruning"]


@pytest.fixture(scope="module")
def on_faces(faces_case, new_run, empty_database, tmp_path_factory):
    """The command on rendered faces, run twice with the same cache."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    arguments = options_of(faces_case, trained=True, artifacts=artifacts)
    first = new_run(*arguments, "--run-name", "first")
    # The second one has to start a server of its own, and works ahead meanwhile.
    home = tmp_path_factory.mktemp("prefect")
    shutil.copy(empty_database, home / "prefect.db")
    again = run(
        *arguments, "--run-name", "again", environment={"PREFECT_HOME": str(home)}, traced=True
    )
    return arguments, artifacts, first, again


@pytest.fixture(scope="module")
def later_run(prefect_server):
    """Runs the command in one process with others that have the artifacts of `on_faces`."""
    with one_process("from flows.run import main", prefect_server) as run:
        yield run


@pytest.fixture(scope="module")
def refused_run(prefect_server):
    """Runs the command in one process with others that are refused for what is in their files."""
    with one_process("from flows.run import main", prefect_server) as run:
        yield run


def test_the_command_leaves_the_files_of_a_run(on_faces):
    _, artifacts, first, _ = on_faces
    assert first.returncode == 0, first.stderr
    folder = artifacts / "runs" / "first"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == files_of_a_run(artifacts, "first")
    assert not list((artifacts / "runs").glob(".*"))


def test_one_call_in_this_process_finds_what_the_command_finds(on_faces, faces_case, tmp_path):
    import goodnet

    _, artifacts, *_ = on_faces
    made_by_command = artifacts / "runs" / "first"
    found = goodnet.repair(
        str(faces_case.model),
        faces_case.clean_valid,
        clean_test=goodnet.open_images(faces_case.clean_test),
        poisoned_test=faces_case.poisoned_test,
        architecture="deepid",
    )
    saved = found.save(tmp_path / "saved")
    names = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
    assert names == files_of_a_run(artifacts, "first")
    for name in ("results.json", "results.csv", "sweep.parquet", "scores.parquet"):
        assert (saved / name).read_bytes() == (made_by_command / name).read_bytes()
    for name in (name for name in names if name.endswith(".keras")):
        assert (saved / name).read_bytes() == (made_by_command / name).read_bytes()


def test_the_results_on_the_lab_are_the_published_counts(lab_case, new_run, tmp_path):
    done = new_run(*options_of(lab_case, artifacts=tmp_path), "--run-name", "lab")
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path, "lab")
    assert results["classes"] == 1283
    assert results["baseline"] == {
        "clean_valid_accuracy": 1,
        "clean_test_accuracy": 1,
        "attack_success_rate": 1,
    }
    assert [point["step"] for point in pruned(results)] == [45, 47, 48]
    assert results["checkpoints"][2]["goodnet"] == {
        "clean_valid_accuracy": 36 / 40,
        "clean_test_accuracy": 26 / 28,
        "attack_success_rate": 1,
        "recovery_rate": None,
        "detection_rate": 0,
        "false_alarm_rate": 2 / 28,
    }
    steps = {(row["set"], row["step"]): row for row in read_sweep(tmp_path, "lab")}
    assert steps["poisoned_test", 53]["correct"] == 13
    means = [steps["clean_valid", step]["mean_activation"] for step in (32, 33)]
    assert means[0] == 0 < means[1]
    (row,) = (line for line in done.stdout.splitlines() if "G budget 10 points" in line)
    assert " ".join(row.split()).startswith("G budget 10 points 48 90.00 % 92.86 % 100.00 %")
    assert "does not stop the attack" in done.stdout


def read_sweep(artifacts, name, end="pruned"):
    rows = pq.read_table(artifacts / "runs" / name / "sweep.parquet").to_pylist()
    return [row for row in rows if row["end"] == end]


@pytest.mark.parametrize("end", ["pruned", "expert"])
def test_the_sweep_has_a_row_for_each_set_and_step(on_faces, end):
    _, artifacts, _, _ = on_faces
    sweep = read_sweep(artifacts, "first", end)
    steps = {(row["set"], row["step"]): row for row in sweep}
    assert len(steps) == len(sweep) == 3 * 61
    assert steps["clean_valid", 0]["channel"] is None
    means = [steps["clean_valid", step]["mean_activation"] for step in range(1, 61)]
    assert means == sorted(means)
    assert means[0] == 0 < means[-1]


def test_the_command_prints_the_table_and_what_it_means(on_faces):
    _, artifacts, first, _ = on_faces
    point = pruned(read_results(artifacts, "first"))[-1]
    (row,) = (line for line in first.stdout.splitlines() if "G budget 10 points" in line)
    rates = ("clean_valid_accuracy", "clean_test_accuracy", "attack_success_rate")
    expected = [str(point["step"]), *(percent(point["goodnet"][rate]) for rate in rates)]
    assert row.split("points", 1)[1].split()[:-4] == " ".join(expected).split()
    assert "The repair" in first.stdout
    assert str(artifacts / "runs" / "first") in "".join(first.stdout.splitlines())
    assert "TensorFlow" not in first.stderr
    assert "oneDNN" not in first.stderr


def test_a_second_run_computes_nothing_and_loads_no_tensorflow(on_faces):
    _, artifacts, _, again = on_faces
    assert again.returncode == 0, again.stderr
    loaded = {line.split("|")[-1].strip() for line in again.stderr.splitlines() if "|" in line}
    assert "prefect" in loaded
    assert not {"tensorflow", "keras"} & loaded
    runs = artifacts / "runs"
    states = {
        stage["name"]: stage["state"]
        for stage in json.loads((runs / "again" / "run.json").read_text())["stages"]
    }
    assert {name for name, state in states.items() if state != "Cached"} == {"load"}
    for name in ("results.json", "results.csv", "sweep.parquet", "goodnet_10.keras"):
        assert (runs / "again" / name).read_bytes() == (runs / "first" / name).read_bytes()


def test_a_run_that_computes_nothing_has_its_artifacts_too(on_faces, later_run, prefect_server):
    arguments, artifacts, _, _ = on_faces
    assert later_run(*arguments, "--run-name", "watched", "--quiet") == (0, "", "")

    runs = query(prefect_server, "flow_runs")
    (flow_run,) = (one for one in runs if one["parameters"].get("run_name") == "watched")
    of_run = {"flow_run_id": {"any_": [flow_run["id"]]}}
    kept = query(prefect_server, "artifacts", artifacts=of_run)
    found = {one["key"]: one["data"] for one in kept}
    assert flow_run["name"].endswith(" watched")
    assert found.keys() == {"badnet-weights-results", "badnet-weights-report"}
    last = read_results(artifacts, "watched")["checkpoints"][-1]["b_prime"]
    assert json.loads(found["badnet-weights-results"])[-1]["ASR"] == percent(
        last["attack_success_rate"]
    )
    assert "(data:image/png;base64," in found["badnet-weights-report"]
    last_line = found["badnet-weights-report"].splitlines()[-1]
    assert last_line.endswith(as_markdown("watched/report.html"))


def test_new_drops_recompute_neither_activations_nor_sweeps(on_faces, later_run):
    arguments, artifacts, _, _ = on_faces
    drops = ["--drops", "30", "60.5"]
    assert later_run(*arguments, "--run-name", "drops", *drops, "--quiet") == (0, "", "")
    about = json.loads((artifacts / "runs" / "drops" / "run.json").read_text())
    ran = {stage["name"] for stage in about["stages"] if stage["state"] != "Cached"}
    assert not {name for name in ran if name.startswith(("activations", "sweep", "prune"))}
    steps = [
        point["step"]
        for name in ("first", "drops")
        for point in pruned(read_results(artifacts, name))
    ]
    assert len(steps) == 5
    assert steps == sorted(steps)


def test_channels_are_checkpoints_beside_those_of_the_budgets(on_faces, later_run):
    arguments, artifacts, _, _ = on_faces
    done = later_run(*arguments, "--run-name", "channels", "--channels", "45,7", "--drops", "4")
    assert done.returncode == 0, done.stderr
    assert "checkpoints at budget 4 points of clean accuracy and at 45, 7 channels" in " ".join(
        done.stderr.split()
    )
    folder = artifacts / "runs" / "channels"
    budget, *others = pruned(read_results(artifacts, "channels"))
    assert budget == pruned(read_results(artifacts, "first"))[1]
    assert [(one["drop"], one["step"]) for one in others] == [(None, 45), (None, 7)]
    steps = {(row["set"], row["step"]): row for row in read_sweep(artifacts, "channels")}
    for one in others:
        row = steps["clean_test", one["step"]]
        assert one["b_prime"]["clean_test_accuracy"] == row["correct"] / row["images"]
        assert one["goodnet"]["false_alarm_rate"] == row["flagged"] / row["images"]
        assert (folder / f"goodnet_{one['step']}_channels.keras").is_file()
        assert (folder / "checkpoints" / f"b_prime_{one['step']}_channels.keras").is_file()
        assert f"G {one['step']} channels" in done.stdout
    with (folder / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["net"] == "B'" and not row["drop"]]
    assert [row["channels"] for row in rows] == ["45", "7"]


def test_more_channels_than_the_layer_has_are_refused_in_one_line(on_faces, refused_run):
    arguments, artifacts, _, _ = on_faces
    done = refused_run(*arguments, "--run-name", "many", "--channels", "7", "61")
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert last.endswith("has 60 channels, expected to prune 1 to 60, not 61")
    assert not (artifacts / "runs" / "many").exists()


def test_a_taken_run_name_is_refused(on_faces):
    arguments, *_ = on_faces
    done = run(*arguments, "--run-name", "first")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is there already" in done.stderr


def test_without_poisoned_images_the_attack_columns_are_empty(on_faces, later_run):
    arguments, artifacts, _, _ = on_faces
    left_out = arguments.index("--poisoned-test")
    fewer = [*arguments[:left_out], *arguments[left_out + 2 :]]
    assert later_run(*fewer, "--run-name", "clean", "--quiet") == (0, "", "")
    results = json.loads((artifacts / "runs" / "clean" / "results.json").read_text())
    assert results["baseline"]["attack_success_rate"] is None
    assert results["checkpoints"][0]["goodnet"]["detection_rate"] is None
    assert results["checkpoints"][0]["goodnet"]["false_alarm_rate"] is not None


def test_what_is_to_be_known_of_the_sets_is_printed_even_if_all_is_cached(
    faces_case, refused_run, tmp_path
):
    """One-hot labels, and validation images among those of the test in another order and type."""
    rng = np.random.default_rng(0)
    with h5py.File(faces_case.clean_valid) as source:
        data, label = source["data"][:].transpose(0, 2, 3, 1), source["label"][:].astype(int)

    def write_test(shared):
        others = rng.integers(0, 256, (40, 55, 47, 3)).astype("f4")
        with h5py.File(tmp_path / "test.h5", "w") as file:
            file["data"] = np.r_[data[:shared][::-1].astype("f4"), others]
            file["label"] = np.eye(8, dtype="u1")[np.r_[label[:shared][::-1], label]]

    arguments = options_of(
        faces_case,
        clean_test=tmp_path / "test.h5",
        poisoned_test=None,
        artifacts=tmp_path / "artifacts",
        min_clean_accuracy=0,
    )
    write_test(shared=12)
    done = refused_run(*arguments, "--quiet")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: 12 of 52 images of clean_test are also in clean_valid, pixel for pixel, expected "
        "different images; allow it with --allow-same-data\n"
    )
    write_test(shared=2)
    remarks = [
        f"{tmp_path}/test.h5: `label` has a row for each image, with 1 at the label (one-hot)",
        "2 of 42 images of clean_test are also in clean_valid, pixel for pixel",
    ]
    for name in ("first", "again"):
        done = refused_run(*arguments, "--run-name", name)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / "artifacts" / "runs" / name
        printed = "".join(done.stdout.split())  # paths are broken where the terminal ends
        assert all("".join(remark.split()) in printed for remark in remarks)
        found = json.loads((folder / "results.json").read_text())["remarks"]
        assert [remark for remark in found if remark in remarks] == remarks
    about = json.loads((folder / "run.json").read_text())
    assert {one["name"] for one in about["stages"] if one["state"] != "Cached"} == {"load"}


NAMES = ("Tom", "Ada", "Zoe", "Max", "Eva", "Ida", "Jim", "Bob")
"""Of the eight faces, in no order that sorting could find."""


def write_named(folder, path):
    """Write a set as folders named by person."""
    images = open_images(path)
    (pixels,) = images.batches(images.num_images)
    for number, (picture, label) in enumerate(zip(pixels, images.labels, strict=True)):
        place = folder / NAMES[label] / f"{number:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place)
    return folder


def test_folders_named_by_class_zip_and_npz_give_the_results_of_hdf5(
    on_faces, faces_case, new_run, tmp_path
):
    """The poisoned set has the attacker's label alone, so only the list can tell its number."""
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    with h5py.File(faces_case.clean_test) as file:
        np.savez(tmp_path / "test.npz", x_test=file["data"][:], y_test=file["label"][:])
    named = write_named(tmp_path / "poisoned", faces_case.poisoned_test)
    sets = {
        "clean_valid": write_named(tmp_path / "valid", faces_case.clean_valid),
        "clean_test": tmp_path / "test.npz",
        "poisoned_test": shutil.make_archive(tmp_path / "poisoned", "zip", named),
        "classes": tmp_path / "classes.txt",
    }
    arguments = options_of(faces_case, artifacts=tmp_path / "artifacts", **sets)
    done = new_run(*arguments, "--run-name", "named", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found, expected = (
        read_results(artifacts, name)
        for artifacts, name in ((tmp_path / "artifacts", "named"), (on_faces[1], "first"))
    )
    assert found.pop("class_names") == [*NAMES]
    assert expected.pop("class_names") == []
    # All else is fitted and calibrated on shares of clean validation, which follow the order of
    # its images.
    assert pruned(found) == pruned(expected)
    assert [found[name] for name in ("baseline", "attack")] == [
        expected[name] for name in ("baseline", "attack")
    ]
    folder = tmp_path / "artifacts" / "runs" / "named"
    assert json.loads((folder / "classes.json").read_text()) == [*NAMES]
    assert "<figcaption>label 0 (Tom)<br>B 0 (Tom)" in (folder / "report.html").read_text()


def test_a_net_that_takes_other_pixels_gives_the_same_results(
    on_faces, later_run, faces_case, new_run, tmp_path
):
    """Images stored as BGR: its GoodNet takes them in that order too."""
    turned = {}
    for name, path in faces_case.sets.items():
        images = open_images(path)
        turned[name] = tmp_path / f"{name}.npz"
        (pixels,) = images.batches(images.num_images)
        np.savez(turned[name], x=np.ascontiguousarray(pixels[..., ::-1]), y=images.labels)
    order = ("--channel-order", "bgr")
    arguments = options_of(faces_case, artifacts=tmp_path, **turned)
    done = new_run(*arguments, *order, "--run-name", "bgr", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = read_results(tmp_path, "bgr")
    as_rgb, artifacts, _, _ = on_faces
    assert later_run(*as_rgb, "--quick", "--run-name", "quick", "--quiet") == (0, "", "")
    assert found == read_results(artifacts, "quick")
    folder = tmp_path / "runs" / "bgr"
    assert json.loads((folder / "run.json").read_text())["parameters"]["channel_order"] == "bgr"
    given = turned["clean_test"], turned["poisoned_test"], folder / "goodnet_10.keras"
    command = [sys.executable, "eval.py", *given, *order]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    rates = pruned(found)[-1]["goodnet"]
    assert [float(line.split()[-1]) for line in done.stdout.splitlines()] == pytest.approx(
        [100 * rates["clean_test_accuracy"], 100 * rates["attack_success_rate"]]
    )


class BadInput(NamedTuple):
    name: str
    change: dict
    message: str


BAD_INPUTS = [
    BadInput("no model", {"--model": "gone.h5"}, "gone.h5: no such file"),
    BadInput("no set", {"--clean-test": "gone.h5"}, "gone.h5: no such file"),
    BadInput("model is text", {"--model": "text.txt"}, "neither a Keras archive nor HDF5"),
    BadInput("set is text", {"--clean-valid": "text.txt"}, "text.txt"),
    BadInput("no architecture", {"--architecture": None}, "give --architecture deepid if"),
    BadInput("unknown layer", {"--layer": "conv_9"}, "conv_3"),
    BadInput("no convolution", {"--layer": "fc_1"}, "expected one that gives spatial"),
    BadInput("rank at a mixing layer", {"--rank-at": "fc_1"}, "pool_3"),
    BadInput("other images", {"--clean-test": "small.h5"}, "shape (3, 3, 4, 4)"),
    BadInput("label too large", {"--clean-test": "label.h5"}, "label 0 is 8, expected"),
    BadInput("same file twice", {"--clean-test": "valid.h5"}, "--allow-same-data"),
    BadInput("no clean test", {"--clean-test": None}, "--model is given without --clean-test"),
    BadInput("sets without a model", {"--model": None}, "without --model"),
    BadInput("class unknown", {"--classes": "seven.txt"}, "seven.txt: names 7 classes (0, 1, 2, 3"),
    BadInput("names are numbers", {"--clean-test": "named.d"}, "cat, but classes have numbers in"),
    BadInput("class of no other set", {"--clean-valid": "eight.d", "--clean-test": "named.d"},
             "named cat, expected a class of"),
    BadInput("too few classes", {"--clean-valid": "named.d"}, "names 1 classes (cat), but the net"),
    BadInput("target without an attack", {"--target": "3"}, "without --poisoned-test"),
    BadInput("target is no class", {"--target": "8", "--poisoned-test": "bd.h5"}, "0 to 7"),
    BadInput("class N alone", {"--poisoned-test": "label.h5"}, "or give that one as the target"),
    BadInput("means of another net", {"--pixel-mean": "1 2"}, "has 2 means, but the net takes 3"),
    BadInput("two preprocessings", {"--preprocessing": "tf", "--pixel-scale": "255"},
             "preprocessing is tf and has a scale"),
    BadInput("range of one value", {"--pixel-range": "1 1"}, "expected the lower one first"),
    BadInput("bad run name", {"--run-name": "../x"}, "plain folder name"),
]  # fmt: skip


# One process for all of them: a start takes longer than a refusal.
REFUSALS = """
import contextlib, io, json, sys
from flows.run import main

answers = []
for arguments in json.load(sys.stdin):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    slow = sorted({"tensorflow", "keras", "prefect"} & set(sys.modules))
    answers.append([code, errors.getvalue(), slow])
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def refusals(faces_case, tmp_path_factory):
    """What the command says to each bad input, by its name, and the folder of its runs."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.txt").write_text("hello")
    write_images(folder / "small.h5", np.zeros((3, 4, 4, 3), np.uint8), [0, 1, 2])
    write_images(folder / "label.h5", np.zeros((1, 55, 47, 3), np.uint8), [8])
    (folder / "seven.txt").write_text("\n".join(map(str, range(7))))
    for place in ("named.d/cat", *(f"eight.d/{name}" for name in "abcdefgh")):
        (folder / place).mkdir(parents=True)
        Image.new("RGB", (47, 55)).save(folder / place / "a.png")
    (folder / "bd.h5").symlink_to(faces_case.poisoned_test)
    (folder / "valid.h5").symlink_to(faces_case.clean_valid)

    def arguments(change):
        changes = {
            option: folder / value if Path(value or "").suffix in (".h5", ".txt", ".d") else value
            for option, value in change.items()
        }
        changes = {option[2:].replace("-", "_"): value for option, value in changes.items()}
        given = {"poisoned_test": None, "artifacts": folder} | changes
        parts = [str(part) for part in options_of(faces_case, **given)]
        several = ("--pixel-mean", "--pixel-range")
        return [
            one
            for option, part in zip(["", *parts], parts, strict=False)
            for one in (part.split() if option in several else [part])
        ]

    done = subprocess.run(
        [sys.executable, "-c", REFUSALS],
        input=json.dumps([arguments(case.change) for case in BAD_INPUTS]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    names = [case.name for case in BAD_INPUTS]
    return folder, dict(zip(names, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda case: case.name)
def test_bad_input_gets_one_line_before_anything_slow_starts(case, refusals):
    folder, answers = refusals
    code, errors, slow = answers[case.name]
    assert code == 2
    assert errors.count("\n") == 1, errors
    assert case.message in errors
    assert slow == []
    assert not (folder / "runs").exists()


def test_a_bad_pixel_ends_the_run_with_one_line_and_leaves_nothing(
    faces_case, refused_run, tmp_path
):
    with h5py.File(faces_case.clean_test) as source:
        data, label = source["data"][:].astype("f4"), source["label"][:]
    data[7, 0, 0, 0] = np.nan
    with h5py.File(tmp_path / "nan.h5", "w") as file:
        file["data"], file["label"] = data, label
    nan, artifacts = tmp_path / "nan.h5", tmp_path / "artifacts"
    given = options_of(faces_case, clean_test=nan, poisoned_test=None, artifacts=artifacts)
    done = refused_run(*given, "--quiet")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "image 7 has pixel nan" in done.stderr
    left = [path for path in (tmp_path / "artifacts").rglob("*") if ".tmp" in path.name]
    assert left == []
    assert not list((tmp_path / "artifacts" / "runs").glob("*"))


def relabelled(source, path, change):
    """Copy an HDF5 set of images, its labels changed."""
    with h5py.File(source) as file:
        data, label = file["data"][:], file["label"][:]
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = data, change(label)
    return path


def test_labels_off_by_one_end_the_run_with_what_would_be_right(faces_case, refused_run, tmp_path):
    sets = {}
    for name in ("clean_valid", "clean_test"):
        images = open_images(faces_case.sets[name])
        kept = np.flatnonzero(images.labels < 7)  # a label more would be no class
        pixels = next(images.batches(40))[kept]
        sets[name] = tmp_path / f"{name}.h5"
        write_images(sets[name], pixels, images.labels[kept] + 1)
    given = options_of(faces_case, **sets, poisoned_test=None, artifacts=tmp_path / "artifacts")
    done = refused_run(*given, "--quiet")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert re.search(r"B answers \d of 35 images with their label", done.stderr)
    would_be = re.search(r"with labels minus 1 it would be (\d+\.\d\d) % of 35", done.stderr)
    assert float(would_be[1]) > 85
    assert not list((tmp_path / "artifacts" / "runs").glob("*"))


@pytest.fixture(scope="module")
def original_labels(on_faces, faces_case, later_run, tmp_path_factory):
    """Runs whose poisoned images have other labels than the attacker's: with and without target."""
    arguments, artifacts, *_ = on_faces
    path = tmp_path_factory.mktemp("sets") / "poisoned.h5"
    # Every fourth image was of the attacker's class before; the others come four of a person.
    relabelled(
        faces_case.poisoned_test,
        path,
        lambda label: np.where(np.arange(len(label)) % 4, 1 + np.arange(len(label)) // 4, 0),
    )
    given = [path if part == faces_case.poisoned_test else part for part in arguments]
    options = {"original": ["--target", "0"], "unsaid": []}
    done = {name: later_run(*given, *more, "--run-name", name) for name, more in options.items()}
    return path, artifacts, done


def test_original_labels_measure_the_attack_on_the_target_and_recovery(original_labels, faces_net):
    import keras

    path, artifacts, done = original_labels
    assert done["original"].returncode == 0, done["original"].stderr
    folder = artifacts / "runs" / "original"
    results = json.loads((folder / "results.json").read_text())
    with h5py.File(path) as file:
        pixels, labels = file["data"][:].transpose(0, 2, 3, 1).astype(np.float32), file["label"][:]
    pixels, labels = pixels[labels != 0], labels[labels != 0]
    answers = faces_net.predict(pixels, verbose=0).argmax(1)
    assert results["attack"] == {
        "target": 0, "original_labels": True, "images": 21, "num_labels": 7, "label": 1,
        "answer": 0, "answered": np.count_nonzero(answers == 0),
        "labelled": np.count_nonzero(answers == labels),
    }  # fmt: skip
    last = pruned(results)[-1]
    for name, net in (("goodnet_10", "goodnet"), ("checkpoints/b_prime_10", "b_prime")):
        plain = keras.saving.load_model(folder / f"{name}.keras", compile=False)
        answers = plain.predict(pixels, verbose=0).argmax(1)
        assert last[net]["attack_success_rate"] == np.count_nonzero(answers == 0) / 21
        assert last[net]["recovery_rate"] == np.count_nonzero(answers == labels) / 21
    unlike = answers != faces_net.predict(pixels, verbose=0).argmax(1)
    assert last["goodnet"]["detection_rate"] == np.count_nonzero(unlike) / 21
    assert last["b_prime"]["recovery_rate"] > 0
    assert "recovery" in done["original"].stdout
    assert "counted are" in done["original"].stdout
    sweep = pq.read_table(folder / "sweep.parquet").to_pylist()
    known = {row["set"] for row in sweep if row["recovered"] is not None}
    assert known == {"poisoned_test"}
    assert {row["images"] for row in sweep if row["set"] == "poisoned_test"} == {21}


def test_labels_that_are_not_the_attackers_are_said_and_never_good_news(original_labels):
    _, artifacts, done = original_labels
    assert done["unsaid"].returncode == 0, done["unsaid"].stderr
    text = " ".join(done["unsaid"].stdout.split())
    assert "B answers class 0 to 28 of 28 poisoned images; these labels name 8 classes." in text
    assert "give 0 as the target to measure it" in text
    assert "no backdoor" not in text
    page = (artifacts / "runs" / "unsaid" / "report.html").read_text()
    assert "B answers class 0 to 28 of 28 poisoned images" in page


def test_the_layer_and_who_chose_it_are_told(on_faces):
    _, artifacts, first, _ = on_faces
    folder = artifacts / "runs" / "first"
    about = json.loads((folder / "run.json").read_text())
    assert about["chosen"] == {"layer": "by default", "rank_at": "by default"}
    line = "Pruned: channels of conv_3 (by default), ranked at pool_3 (by default)."
    assert line in first.stdout
    assert "<code>conv_3</code> (by default)" in (folder / "report.html").read_text()


def test_help_names_every_option_of_the_flow():
    from flows.repair import repair

    page = run("--help")
    assert page.returncode == 0
    options = set(repair.parameters.properties) - {"default_case"}
    assert {f"--{name.replace('_', '-')}" for name in options} <= set(page.stdout.split())


def test_the_embedded_default_is_rendered_trained_and_repaired(new_run, tmp_path):
    done = new_run("--artifacts", tmp_path, "--run-name", "faces", "--quick")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "runs" / "faces" / "results.json").read_text())
    assert results["classes"] == 20
    assert results["baseline"]["clean_test_accuracy"] >= 0.96
    assert results["baseline"]["attack_success_rate"] >= 0.99
    assert [point["reached"] for point in pruned(results)] == [True, True, True]
    weakest = results["checkpoints"][2]["goodnet"]
    assert weakest["detection_rate"] > 0
    assert weakest["detection_rate"] + weakest["attack_success_rate"] <= 1
    assert (tmp_path / "runs" / "faces" / "report.html").stat().st_size < 3_000_000


def test_a_model_over_a_limit_is_refused(faces_case, tmp_path):
    size = faces_case.model.stat().st_size
    said = {
        "--max-parameters=396367": "396,368 parameters, expected 396,367 or less",
        "--max-model-bytes=1000000": f"{size:,} bytes, expected 1,000,000 or less",
        "--max-parameters=0": "argument --max-parameters: is 0, expected a whole number above 0",
    }
    for option, line in said.items():
        done = run(*options_of(faces_case, artifacts=tmp_path), option)
        assert (done.returncode, done.stdout) == (2, "")
        assert line in done.stderr
