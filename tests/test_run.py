"""The command, as a user gives it: real processes, real files, a real Prefect server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from goodnet.images.image_sets import write_images

ROOT = Path(__file__).resolve().parent.parent
FILES_OF_A_RUN = {
    "run.json",
    "results.json",
    "results.csv",
    "sweep.parquet",
    "report.html",
    *(f"checkpoints/b_prime_{drop}.keras" for drop in ("02", "04", "10")),
    *(f"goodnet_{drop}.keras" for drop in ("02", "04", "10")),
}


def run(*arguments, environment=None, traced=False):
    """Run the command; with `traced`, the error stream lists every imported module."""
    return subprocess.run(
        [sys.executable, *(["-X", "importtime"] if traced else []), "-m", "flows.run"]
        + [str(argument) for argument in arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def on_lab(lab, prefect_server, tmp_path_factory):
    """The command on the lab's mini sets, run twice with the same cache."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    arguments = [
        "--model", lab / "bd_weights.h5", "--architecture", "deepid",
        "--clean-valid", lab / "clean_valid_mini.h5", "--clean-test", lab / "clean_test_mini.h5",
        "--poisoned-test", lab / "poisoned_test_mini.h5", "--artifacts", artifacts,
    ]  # fmt: skip
    first = run(*arguments, "--run-name", "first", environment=prefect_server)
    # The second one has to start a server of its own, and works ahead meanwhile.
    home = {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect"))}
    again = run(*arguments, "--run-name", "again", environment=home, traced=True)
    return arguments, artifacts, first, again


def test_the_command_leaves_the_files_of_a_run(on_lab):
    _, artifacts, first, _ = on_lab
    assert first.returncode == 0, first.stderr
    folder = artifacts / "runs" / "first"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == FILES_OF_A_RUN
    assert not list((artifacts / "runs").glob(".*"))


def test_the_results_on_the_lab_are_the_published_counts(on_lab):
    _, artifacts, _, _ = on_lab
    results = json.loads((artifacts / "runs" / "first" / "results.json").read_text())
    assert results["classes"] == 1283
    assert results["baseline"] == {
        "clean_valid_accuracy": 1,
        "clean_test_accuracy": 1,
        "attack_success_rate": 1,
    }
    assert [point["step"] for point in results["checkpoints"]] == [45, 47, 48]
    assert results["checkpoints"][2]["goodnet"] == {
        "clean_valid_accuracy": 36 / 40,
        "clean_test_accuracy": 26 / 28,
        "attack_success_rate": 1,
        "recovery_rate": None,
        "detection_rate": 0,
        "false_alarm_rate": 2 / 28,
    }


def test_the_sweep_has_a_row_for_each_set_and_step(on_lab):
    _, artifacts, _, _ = on_lab
    sweep = pq.read_table(artifacts / "runs" / "first" / "sweep.parquet").to_pylist()
    steps = {(row["set"], row["step"]): row for row in sweep}
    assert len(steps) == len(sweep) == 3 * 61
    assert steps["poisoned_test", 53]["correct"] == 13
    assert steps["clean_valid", 0]["channel"] is None
    assert (
        steps["clean_valid", 32]["mean_activation"]
        == 0
        < steps["clean_valid", 33]["mean_activation"]
    )


def test_the_command_prints_the_table_and_what_it_means(on_lab):
    _, artifacts, first, _ = on_lab
    assert "G at 10 %          48      90.00 %    92.86 %   100.00 %" in first.stdout
    assert "does not stop the attack" in first.stdout
    assert str(artifacts / "runs" / "first") in first.stdout
    assert "TensorFlow" not in first.stderr
    assert "oneDNN" not in first.stderr


def test_a_second_run_computes_nothing_and_loads_no_tensorflow(on_lab):
    _, artifacts, _, again = on_lab
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


def test_a_run_that_computes_nothing_has_its_artifacts_too(on_lab, prefect_server):
    arguments, artifacts, _, _ = on_lab
    done = run(*arguments, "--run-name", "watched", "--quiet", environment=prefect_server)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def find(kind, **body):
        url = f"{prefect_server['PREFECT_API_URL']}/{kind}/filter"
        password = tuple(prefect_server["PREFECT_API_AUTH_STRING"].split(":"))
        answer = httpx.post(url, json=body, timeout=30, auth=password)
        return answer.raise_for_status().json()

    runs = find("flow_runs")
    (flow_run,) = (one for one in runs if one["parameters"].get("run_name") == "watched")
    of_run = {"flow_run_id": {"any_": [flow_run["id"]]}}
    found = {one["key"]: one["data"] for one in find("artifacts", artifacts=of_run)}
    assert found.keys() == {"results", "summary", "report"}
    assert json.loads(found["results"])[-1]["ASR"] == "100.00 %"
    assert "(data:image/png;base64," in found["summary"]
    assert (artifacts / "runs" / "watched" / "report.html").as_uri() in found["report"]


def test_new_drops_recompute_neither_activations_nor_sweeps(on_lab, prefect_server):
    arguments, artifacts, _, _ = on_lab
    done = run(
        *arguments, "--run-name", "drops", "--drops", "30", "99.5", environment=prefect_server
    )
    assert done.returncode == 0, done.stderr
    about = json.loads((artifacts / "runs" / "drops" / "run.json").read_text())
    ran = {stage["name"] for stage in about["stages"] if stage["state"] != "Cached"}
    assert not {name for name in ran if name.startswith(("activations", "sweep", "prune"))}
    results = json.loads((artifacts / "runs" / "drops" / "results.json").read_text())
    assert [point["step"] for point in results["checkpoints"]] == [54, 59]


def test_a_taken_run_name_is_refused(on_lab):
    arguments, *_ = on_lab
    done = run(*arguments, "--run-name", "first")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is there already" in done.stderr


def test_without_poisoned_images_the_attack_columns_are_empty(on_lab, prefect_server):
    arguments, artifacts, _, _ = on_lab
    left_out = arguments.index("--poisoned-test")
    fewer = arguments[:left_out] + arguments[left_out + 2 :]
    done = run(*fewer, "--run-name", "clean", "--quiet", environment=prefect_server)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    results = json.loads((artifacts / "runs" / "clean" / "results.json").read_text())
    assert results["baseline"]["attack_success_rate"] is None
    assert results["checkpoints"][0]["goodnet"]["detection_rate"] is None
    assert results["checkpoints"][0]["goodnet"]["false_alarm_rate"] == 0


def test_what_is_to_be_known_of_the_sets_is_printed_even_if_all_is_cached(
    lab, prefect_server, tmp_path
):
    """One-hot labels, and validation images among those of the test in another order and type."""
    rng = np.random.default_rng(0)
    with h5py.File(lab / "clean_valid_mini.h5") as source:
        data, label = source["data"][:].transpose(0, 2, 3, 1), source["label"][:].astype(int)

    def write_test(shared):
        others = rng.integers(0, 256, (40, 55, 47, 3)).astype("f4")
        with h5py.File(tmp_path / "test.h5", "w") as file:
            file["data"] = np.r_[data[:shared][::-1].astype("f4"), others]
            file["label"] = np.eye(1283, dtype="u1")[np.r_[label[:shared][::-1], label]]

    arguments = [
        "--model", lab / "bd_weights.h5", "--architecture", "deepid",
        "--clean-valid", lab / "clean_valid_mini.h5", "--clean-test", tmp_path / "test.h5",
        "--artifacts", tmp_path / "artifacts", "--min-clean-accuracy", "0",
    ]  # fmt: skip
    write_test(shared=12)
    done = run(*arguments, "--quiet", environment=prefect_server)
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
        done = run(*arguments, "--run-name", name, environment=prefect_server)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / "artifacts" / "runs" / name
        printed = "".join(done.stdout.split())  # paths are broken where the terminal ends
        assert all("".join(remark.split()) in printed for remark in remarks)
        found = json.loads((folder / "results.json").read_text())["remarks"]
        assert [remark for remark in found if remark in remarks] == remarks
    about = json.loads((folder / "run.json").read_text())
    assert {one["name"] for one in about["stages"] if one["state"] != "Cached"} == {"load"}


class BadInput(NamedTuple):
    name: str
    change: dict
    message: str


BAD_INPUTS = [
    BadInput("no model", {"--model": "gone.h5"}, "gone.h5: no such file"),
    BadInput("no set", {"--clean-test": "gone.h5"}, "gone.h5: no such file"),
    BadInput("model is text", {"--model": "text.txt"}, "neither a Keras archive nor HDF5"),
    BadInput("set is text", {"--clean-valid": "text.txt"}, "text.txt"),
    BadInput("no architecture", {"--architecture": None}, "pass --architecture deepid"),
    BadInput("unknown layer", {"--layer": "conv_9"}, "conv_3"),
    BadInput("no convolution", {"--layer": "fc_1"}, "convolution"),
    BadInput("rank at a mixing layer", {"--rank-at": "fc_1"}, "pool_3"),
    BadInput("other images", {"--clean-test": "small.h5"}, "shape (3, 3, 4, 4)"),
    BadInput("label too large", {"--clean-test": "label.h5"}, "1283"),
    BadInput("same file twice", {"--clean-test": "valid.h5"}, "--allow-same-data"),
    BadInput("no clean test", {"--clean-test": None}, "clean_test is missing"),
    BadInput("sets without a model", {"--model": None}, "without a model"),
    BadInput("target without an attack", {"--target": "3"}, "without poisoned images"),
    BadInput("target is no class", {"--target": "1283", "--poisoned-test": "bd.h5"}, "0 to 1282"),
    BadInput("class N alone", {"--poisoned-test": "label.h5"}, "say which that is with --target"),
    BadInput("bad run name", {"--run-name": "../x"}, "plain folder name"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda case: case.name)
def test_bad_input_gets_one_line_before_anything_slow_starts(case, lab, tmp_path):
    (tmp_path / "text.txt").write_text("hello")
    write_images(tmp_path / "small.h5", np.zeros((3, 4, 4, 3), np.uint8), [0, 1, 2])
    write_images(tmp_path / "label.h5", np.zeros((1, 55, 47, 3), np.uint8), [1283])
    (tmp_path / "bd.h5").symlink_to(lab / "poisoned_test_mini.h5")
    (tmp_path / "valid.h5").symlink_to(lab / "clean_valid_mini.h5")
    options = {
        "--model": lab / "bd_weights.h5",
        "--architecture": "deepid",
        "--clean-valid": lab / "clean_valid_mini.h5",
        "--clean-test": lab / "clean_test_mini.h5",
        "--artifacts": tmp_path,
    }
    changes = {
        option: tmp_path / value if value and "." in value and option != "--run-name" else value
        for option, value in case.change.items()
    }
    given = {k: v for k, v in {**options, **changes}.items() if v is not None}
    done = run(*(part for pair in given.items() for part in pair), traced=True)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2
    assert len(lines) == 1, done.stderr[-2000:]
    assert case.message in lines[0]
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not {"tensorflow", "keras", "prefect"} & loaded
    assert not (tmp_path / "runs").exists()


def test_a_bad_pixel_ends_the_run_with_one_line_and_leaves_nothing(lab, prefect_server, tmp_path):
    with h5py.File(lab / "clean_test_mini.h5") as source:
        data, label = source["data"][:], source["label"][:]
    data[7, 0, 0, 0] = np.nan
    with h5py.File(tmp_path / "nan.h5", "w") as file:
        file["data"], file["label"] = data, label
    done = run(
        "--model", lab / "bd_weights.h5", "--architecture", "deepid",
        "--clean-valid", lab / "clean_valid_mini.h5", "--clean-test", tmp_path / "nan.h5",
        "--artifacts", tmp_path / "artifacts", "--quiet", environment=prefect_server,
    )  # fmt: skip
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


def test_labels_off_by_one_end_the_run_with_what_would_be_right(lab, prefect_server, tmp_path):
    sets = {
        f"--{name.replace('_', '-')}": relabelled(
            lab / f"{name}_mini.h5", tmp_path / f"{name}.h5", lambda label: (label + 1) % 1283
        )
        for name in ("clean_valid", "clean_test")
    }
    done = run(
        "--model", lab / "bd_weights.h5", "--architecture", "deepid",
        *(part for pair in sets.items() for part in pair),
        "--artifacts", tmp_path / "artifacts", "--quiet", environment=prefect_server,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "B answers 0 of 40 images with their label, 0.00 %" in done.stderr
    assert "with labels minus 1 it would be 100.00 % of 40 images" in done.stderr
    assert not list((tmp_path / "artifacts" / "runs").glob("*"))


@pytest.fixture(scope="module")
def original_labels(on_lab, lab, prefect_server, tmp_path_factory):
    """Runs whose poisoned images have other labels than the attacker's: with and without target."""
    arguments, artifacts, *_ = on_lab
    path = tmp_path_factory.mktemp("sets") / "poisoned.h5"
    # Every fourth image was of the attacker's class before; 253 is what some B' answer.
    relabelled(
        lab / "poisoned_test_mini.h5",
        path,
        lambda label: np.where(np.arange(len(label)) % 4, 253, 0),
    )
    given = [path if part == lab / "poisoned_test_mini.h5" else part for part in arguments]
    options = {"original": ["--target", "0"], "unsaid": []}
    done = {
        name: run(*given, *more, "--run-name", name, environment=prefect_server)
        for name, more in options.items()
    }
    return path, artifacts, done


def test_original_labels_measure_the_attack_on_the_target_and_recovery(original_labels):
    import keras

    path, artifacts, done = original_labels
    assert done["original"].returncode == 0, done["original"].stderr
    folder = artifacts / "runs" / "original"
    results = json.loads((folder / "results.json").read_text())
    with h5py.File(path) as file:
        pixels, labels = file["data"][:].transpose(0, 2, 3, 1).astype(np.float32), file["label"][:]
    pixels = pixels[labels != 0]
    assert results["attack"] == {
        "target": 0, "original_labels": True, "images": 27, "num_labels": 1, "label": 253,
        "answer": 0, "answered": 27, "labelled": 0,
    }  # fmt: skip
    last = results["checkpoints"][-1]
    for name, net in (("goodnet_10", "goodnet"), ("checkpoints/b_prime_10", "b_prime")):
        plain = keras.saving.load_model(folder / f"{name}.keras", compile=False)
        answers = plain.predict(pixels, verbose=0).argmax(1)
        assert last[net]["attack_success_rate"] == np.count_nonzero(answers == 0) / 27
        assert last[net]["recovery_rate"] == np.count_nonzero(answers == 253) / 27
    assert last["goodnet"]["detection_rate"] == np.count_nonzero(answers != 0) / 27
    assert "recovery" in done["original"].stdout
    assert "counted are" in done["original"].stdout
    sweep = pq.read_table(folder / "sweep.parquet").to_pylist()
    known = {row["set"] for row in sweep if row["recovered"] is not None}
    assert known == {"poisoned_test"}
    assert {row["images"] for row in sweep if row["set"] == "poisoned_test"} == {27}


def test_labels_that_are_not_the_attackers_are_said_and_never_good_news(original_labels):
    _, artifacts, done = original_labels
    assert done["unsaid"].returncode == 0, done["unsaid"].stderr
    text = " ".join(done["unsaid"].stdout.split())
    assert "B answers class 0 to 36 of 36 poisoned images; these labels name 2 classes." in text
    assert "--target 0 measures it" in text
    assert "no backdoor" not in text
    page = (artifacts / "runs" / "unsaid" / "report.html").read_text()
    assert "B answers class 0 to 36 of 36 poisoned images" in page


def test_the_layer_and_who_chose_it_are_told(on_lab):
    _, artifacts, first, _ = on_lab
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


DEFAULT = """
import sys
from flows.run import main
from goodnet.attacks.default_case import SMALL_CASE

sys.exit(main(["--artifacts", sys.argv[1], "--run-name", "faces"], default_case=SMALL_CASE))
"""


def test_the_embedded_default_is_rendered_trained_and_repaired(prefect_server, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DEFAULT, tmp_path],
        cwd=ROOT,
        env={**os.environ, **prefect_server},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "runs" / "faces" / "results.json").read_text())
    assert results["classes"] == 20
    assert results["baseline"]["clean_test_accuracy"] >= 0.96
    assert results["baseline"]["attack_success_rate"] >= 0.99
    assert [point["reached"] for point in results["checkpoints"]] == [True, True, True]
    weakest = results["checkpoints"][2]["goodnet"]
    assert weakest["detection_rate"] > 0
    assert weakest["detection_rate"] + weakest["attack_success_rate"] <= 1
    assert (tmp_path / "runs" / "faces" / "report.html").stat().st_size < 3_000_000


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--max-parameters=601642", "601,643 parameters, expected 601,642 or less"),
        ("--max-model-bytes=1000000", "2,442,796 bytes, expected 1 to 1,000,000"),
        ("--max-parameters=0", "argument --max-parameters: is 0, expected a whole number above 0"),
    ],
)
def test_a_model_over_a_limit_is_refused(on_lab, option, line):
    arguments, *_ = on_lab
    done = run(*arguments, option)
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr
