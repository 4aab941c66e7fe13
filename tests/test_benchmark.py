"""The command `flows.benchmark`, from the suite to the leaderboard and once more from the cache."""

import base64
import io
import json
import re
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from goodnet.images.image_sets import open_images
from goodnet.reports.results import Results
from goodnet.storage.run_folder import RunFolder
from tests.commands import one_process
from tests.servers import query

SUITE = """
[images]
people = 4
train = 20
valid = 12
test = 6
[training]
epochs = 2
batch_size = 16
[networks]
deepid = {}
[attacks]
patch = {}
outside = { like = "patch", target = 4 }
[repair]
repairs = ["pruning", "discriminant", "fallback"]
"""


@pytest.fixture(scope="module")
def run(prefect_server):
    with one_process("from flows.benchmark import main", prefect_server) as command:
        yield command


@pytest.fixture(scope="module")
def first(run, tmp_path_factory):
    """The folder of the artifacts, and what the command said; one of the cells cannot be made."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "tiny.toml").write_text(SUITE)
    return folder, run(*options(folder, "first"))


def options(folder, name):
    return [
        "--suite", folder / "tiny.toml", "--artifacts", folder / "artifacts",
        "--benchmark-name", name,
    ]  # fmt: skip


def board(folder, name):
    text = (folder / "artifacts" / "benchmarks" / name / "leaderboard.json").read_text()
    return json.loads(text)


def test_a_cell_that_fails_is_a_row_and_the_others_go_on(first):
    folder, done = first
    assert done.returncode == 1, done.stderr
    reason = "target is 4, expected a class of the images, 0 to 3"
    assert f"error: 1 of 3 cells failed: deepid-outside-1 ({reason})." in done.stderr
    found = board(folder, "first")
    assert list(dict.fromkeys(row["cell"] for row in found["rows"])) == [
        "deepid-clean-1", "deepid-patch-1", "deepid-outside-1",
    ]  # fmt: skip
    assert (found["rows"][-1]["kind"], found["rows"][-1]["error"]) == ("failed", reason)
    assert done.stdout.rstrip().endswith("benchmarks/first/leaderboard.html")
    assert "deepid-patch-1" in done.stdout


def test_rows_are_what_the_runs_of_the_cells_found(first):
    folder, _ = first
    place = folder / "artifacts" / "benchmarks" / "first"
    rows = [one for one in board(folder, "first")["rows"] if one["cell"] == "deepid-patch-1"]
    results = Results.read(RunFolder((place / rows[0]["report"]).parent))
    assert (place / rows[0]["report"]).is_file()
    base, joined = rows[0], rows[-1]
    assert base["clean_accuracy_rate"] == results.baseline.clean_test_accuracy
    assert base["attack_success_rate"] == results.baseline.attack_success_rate
    assert (base["clean_accuracy_total"], base["attack_success_total"]) == (24, 18)
    assert joined["detection_rate"] == results.detectors[-1].detection_rate
    scores = pq.read_table((place / rows[0]["report"]).with_name("scores.parquet")).to_pandas()
    poisoned = scores[scores["set"] == "poisoned_test"]
    flagged = poisoned["joined"] > np.float32(results.detectors[-1].threshold)
    fooled = poisoned["label"] == poisoned["prediction"]
    assert joined["detection_count"] == flagged.sum()
    counted = ((flagged & fooled).sum(), fooled.sum()) if fooled.any() else (None, None)
    assert (joined["caught_count"], joined["caught_total"]) == counted
    assert joined["control_detection"] == results.detectors[0].detection_rate
    assert joined["false_alarms_low"] <= joined["false_alarms_rate"] <= joined["false_alarms_high"]
    assert len([one for one in rows if one["kind"] == "detector"]) == len(results.detectors)
    assert pq.read_table(place / "leaderboard.parquet").num_rows == len(
        board(folder, "first")["rows"]
    )


def test_the_page_shows_the_images_of_each_attack(first):
    folder, _ = first
    page = (folder / "artifacts/benchmarks/first/leaderboard.html").read_text()
    shown = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="[^"]*patch">', page)
    sets = [open_images(path) for path in (folder / "artifacts/cache/benchmark").glob("*.h5")]
    (poisoned,) = [one for one in sets if one.num_images == 18]
    first_image = next(poisoned.batches(1))[0]
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[0]))))
    np.testing.assert_array_equal(found, first_image)
    assert len(shown) == 6


def test_learning_is_timed_by_the_stages_that_do_it(first):
    folder, _ = first
    rows = [one for one in board(folder, "first")["rows"] if one["cell"] == "deepid-patch-1"]
    cost = {one["method"]: (one["seconds"], one["megabytes"]) for one in rows}
    for method in ("pruning", "discriminant", "joined"):
        seconds, megabytes = cost[method]
        assert 0 < seconds < 60
        assert 100 < megabytes < 8000
    assert cost["margin"] == (None, None)


def test_the_net_of_a_cell_answers_what_its_row_says(first, plain_keras):
    folder, _ = first
    (net,) = (folder / "artifacts" / "cache" / "nets").glob("deepid-patch-1-*.keras")
    sets = [open_images(path) for path in (folder / "artifacts/cache/benchmark").glob("*.h5")]
    (test,) = [one for one in sets if one.num_images == 24]
    pixels = np.concatenate([*test.batches(24)]).astype("float32")
    right = plain_keras(net, pixels).argmax(1) == test.labels
    row = next(one for one in board(folder, "first")["rows"] if one["cell"] == "deepid-patch-1")
    assert row["clean_accuracy_count"] == right.sum()


def test_the_second_time_all_comes_from_the_cache(first, run):
    folder, _ = first
    start = time.monotonic()
    done = run(*options(folder, "again"))
    assert time.monotonic() - start < 30
    assert done.returncode == 1
    assert "repair of" not in done.stderr
    assert board(folder, "again")["rows"] == board(folder, "first")["rows"]
    assert board(folder, "again")["suite"] == board(folder, "first")["suite"]


def test_the_leaderboard_is_an_artifact_in_prefect(first, prefect_server):
    latest = query(prefect_server, "artifacts/latest")
    found = {one["key"]: one["data"] for one in latest}
    cells = [row["cell"] for row in json.loads(found["tiny-leaderboard"])]
    assert cells == ["deepid-clean-1", "deepid-patch-1", "deepid-outside-1"]
    assert "BackdoorBench" in found["tiny-benchmark"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "none.toml"], "none.toml: no such file"),
        (["--images", "."], "renders faces, expected no folder of images"),
        (["--benchmark-name", "../x"], "expected a plain folder name"),
        (["--suite", "suites/cifar10.toml", "--images", "none"], "none/train.zip: no such file"),
    ],
)
def test_what_can_be_mended_is_said_in_a_line(arguments, said, capsys, tmp_path):
    from flows.benchmark import main

    assert main([*arguments, "--artifacts", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
