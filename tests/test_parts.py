"""Parts of an image set: the same whoever computes them, here or on workers of their own."""

import os
import pickle
import re
import shutil
import signal
import threading
from contextlib import contextmanager, suppress
from functools import reduce
from itertools import count
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from goodnet.choices import Choices
from goodnet.defenses.guard_files import read_seen
from goodnet.digests import digest_file
from goodnet.errors import InputError
from goodnet.images.image_sets import open_images, write_images
from goodnet.pruning.activation_cache import ActivationCache, part_rows
from goodnet.pruning.counts import Counts, add_counts, read_counts
from goodnet.pruning.ranking import block_means, mean_activations, prune_order
from tasks import activations as stage
from tasks.caching import activations_files
from tasks.cluster import Cluster
from tasks.guarding import fit_scores, score_images
from tasks.loading import load_inputs
from tasks.parts import map_parts, mapped_on, run_part
from tasks.records import CleanValidationActivations, FineTuned, PruneOrder, StoredFile
from tasks.sweeping import sweep_validation
from tests.clusters import ROOT, running, tiny_case, wait_for

IMAGES = 25_200  # four parts, the last of them small


@pytest.mark.parametrize("num_images", [1, 8191, 8192, 8193, 10_000_000])
def test_parts_hold_each_image_once_and_begin_where_any_block_does(num_images):
    rows = part_rows(num_images)
    assert [one.start for one in rows] == [0, *(one.stop for one in rows[:-1])]
    assert rows[-1].stop == num_images
    assert {len(one) for one in rows[:-1]} <= {8192}
    assert not any(one.start % size for one in rows for size in (1, 2, 64, 512))


COUNTS = st.integers(1, 4).flatmap(
    lambda steps: st.lists(
        st.tuples(
            st.integers(0, 9), *(arrays(np.int64, steps, elements=st.integers(0, 9)) for _ in "abc")
        ),
        min_size=1,
        max_size=6,
    )
)


@given(COUNTS, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_counts_of_parts_add_up_however_they_are_put_together(found, random):
    """In any order, and in any parts of parts."""
    parts = [{"pruned": Counts(*one), "expert": Counts(*one)} for one in found]
    whole = add_counts(parts)
    random.shuffle(parts)
    cut = random.randint(1, len(parts))
    halves = [add_counts(half) for half in (parts[:cut], parts[cut:]) if half]
    for again in (add_counts(halves), reduce(lambda one, other: add_counts([one, other]), parts)):
        for end, counts in again.items():
            assert counts.images == sum(images for images, *_ in found) == whole[end].images
            for name in ("correct", "flagged", "goodnet_correct"):
                expected = getattr(whole[end], name)
                np.testing.assert_array_equal(getattr(counts, name), expected)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A net and many images for it."""
    folder = tmp_path_factory.mktemp("files")
    net, images, labels = tiny_case(IMAGES, hidden=8)
    write_images(folder / "valid.h5", images, labels)
    write_images(folder / "test.h5", images[:60] // 2, labels[:60])
    net.save(folder / "net.keras")
    return folder


@pytest.fixture(scope="module")
def inputs(files):
    return load(files, files / "artifacts")


def load(files, artifacts):
    sets = {
        "clean_valid": files / "valid.h5",
        "clean_test": files / "test.h5",
        "poisoned_test": None,
        "poisoned_valid": None,
    }
    return load_inputs.fn(files / "net.keras", sets, Choices(), refresh=False, artifacts=artifacts)


def first_pass(inputs, artifacts) -> CleanValidationActivations:
    return stage.compute_validation_activations.fn(
        inputs.network, inputs.clean_valid, artifacts=artifacts
    )


def sweep_and_score(inputs, found, artifacts) -> list[StoredFile]:
    means = mean_activations(block_means(found.cache()))
    order = PruneOrder(channels=tuple(prune_order(means)))
    net, none = inputs.network, FineTuned(net=None, held=None)
    swept = sweep_validation.fn(net, found, order, artifacts=artifacts)
    fitted = fit_scores.fn(net, found, order=order, sweep=swept, tuned=none, artifacts=artifacts)
    scores = score_images.fn(net, found, fitted, artifacts=artifacts)
    return [swept.file, fitted.file, scores.file]


@pytest.fixture(scope="module")
def here(files, inputs):
    """What this process made of all parts."""
    found = first_pass(inputs, files / "artifacts")
    return found, sweep_and_score(inputs, found, files / "artifacts")


def test_parts_are_to_everything_after_them_what_one_file_is(files, inputs, here, tmp_path):
    from goodnet.pruning.first_pass import write_activations

    parts = here[0].cache()
    assert [part.size for part in here[0].parts] == [one.stat().st_size for one in parts.parts]
    whole = write_activations(
        tmp_path / "whole.parquet",
        frontier=stage.open_frontier(inputs.network),
        images=open_images(files / "valid.h5"),
        provenance=parts.provenance,
    )
    assert (parts.num_images, parts.num_blocks) == (whole.num_images, whole.num_blocks)
    assert (len(parts.parts), parts.num_depths) == (4, whole.num_depths)
    np.testing.assert_array_equal(parts.image_digests(), whole.image_digests())
    np.testing.assert_array_equal(parts.answers(), whole.answers())
    np.testing.assert_array_equal(block_means(parts), block_means(whole))
    last = parts.num_blocks - 1
    for one, other in zip(parts.blocks([last, 0, 16]), whole.blocks([last, 0, 16]), strict=True):
        assert one.first == other.first
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.ranking, other.ranking)
    for one, other in zip(parts.features(0), whole.features(0), strict=True):
        np.testing.assert_array_equal(one, other)
    rows = pq.read_table(parts.parts[1], columns=["image"])["image"].to_numpy()
    np.testing.assert_array_equal(rows, np.arange(8192, 16_384))
    assert [len(blocks) for blocks in parts.blocks_by_part()] == [16, 16, 16, 2]


def test_a_set_of_one_part_has_one_file_as_before(inputs, tmp_path):
    (clean_test,) = inputs.evaluation
    (rows,) = activations_files(tmp_path, inputs.network, clean_test)
    assert rows == range(60)


def test_parts_of_another_net_are_no_parts_of_a_set(here, tmp_path):
    (part, *_) = here[0].cache().parts
    table = pq.read_table(part)
    metadata = {b"goodnet": table.schema.metadata[b"goodnet"].replace(b'"conv"', b'"conw"')}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="is of another net or set than"):
        _ = ActivationCache(part, tmp_path / "other.parquet").provenance


def inodes(found):
    return [part.path.stat().st_ino for part in found.parts]


def test_parts_that_are_there_and_whole_are_not_computed_again(files, inputs, here):
    """As after a kill: what a stage left, without the record of the stage."""
    found, _ = here
    before = inodes(found)
    damaged = found.parts[0].path
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    found.parts[2].path.unlink()
    assert first_pass(inputs, files / "artifacts") == found
    after = inodes(found)
    assert after[1] == before[1]
    assert after[0] != before[0]
    assert [digest_file(one.path).sha256 for one in found.parts] == [
        one.sha256 for one in found.parts
    ]


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    with running(tmp_path_factory.mktemp("dask"), workers=2) as found:
        yield found


def check_same(inputs, here, machines, artifacts):
    """Let workers do all parts, and check that they leave what one process does."""
    with mapped_on(machines.address, artifacts=artifacts):
        found = first_pass(inputs, artifacts)
        later = sweep_and_score(inputs, found, artifacts)
    assert [part.sha256 for part in found.parts] == [part.sha256 for part in here[0].parts]
    assert {part.path.parent for part in found.parts} == {artifacts / "cache" / "activations"}
    assert [file.sha256 for file in later] == [file.sha256 for file in here[1]]
    assert read_counts(later[0].path).images == len(read_seen(later[2].path).scores["margin"])
    assert [path.name for path in later[2].path.parent.iterdir()] == [later[2].path.name]


@pytest.mark.slow
def test_two_workers_make_of_all_parts_what_one_process_does_without_prefect(
    inputs, here, machines, tmp_path
):
    wait_for(lambda: len(machines.workers()) == 2)
    check_same(inputs, here, machines, tmp_path)
    with Cluster.parse(machines.address).runner(tmp_path) as runner:
        found = runner.client.run(lambda: {*__import__("sys").modules})
    assert len(found) == 2
    for modules in found.values():
        assert modules & {"goodnet.parts", "tensorflow", "prefect", "flows"} == {
            "goodnet.parts",
            "tensorflow",
        }
    # Nothing else needs it than the fit of class statistics.
    assert any("scipy.linalg" in modules for modules in found.values())


KILLED_ONCE = "GOODNET_TEST_KILLED_ONCE"
"""What says to a worker where to leave word that it was killed."""


def run_and_be_killed(function, part, environment, source):
    """Work on a part in a worker as `run_part` does; the first in each function is killed there."""
    killed = Path(environment[KILLED_ONCE]) / function.__name__
    with suppress(FileExistsError):
        killed.open("x").close()
        read, done = ActivationCache._rows, count()

        def read_once(self, *what):
            for rows in read(self, *what):
                if next(done):
                    killed.write_text(str(os.getpid()))
                    os.kill(os.getpid(), signal.SIGKILL)
                yield rows

        ActivationCache._rows = read_once
    return run_part(function, part, environment, source)


@pytest.mark.slow
def test_workers_that_are_killed_or_late_change_nothing(
    inputs, here, machines, tmp_path, monkeypatch
):
    """One as it writes a first pass, three once they have read some images, and one that joins."""
    artifacts, killed, writing = tmp_path / "artifacts", tmp_path / "killed", []

    def disturb():
        (part, *_) = wait_for(lambda: list((artifacts / "cache").glob("activations/.*.tmp*")))
        writing.append(int(re.search(r"\.(\d+)-[0-9a-f]{16}\.tmp", part.name)[1]))
        os.kill(writing[0], signal.SIGKILL)
        machines.add_worker()

    killed.mkdir()
    (killed / "pass_over").touch()  # its worker is killed from outside
    monkeypatch.setenv(KILLED_ONCE, str(killed))
    monkeypatch.setattr("tasks.parts._COMPUTING", (KILLED_ONCE,))
    monkeypatch.setattr("tasks.parts.run_part", run_and_be_killed)
    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    check_same(inputs, here, machines, artifacts)
    disturbing.join()
    (killed / "pass_over").unlink()
    found = {one.name: int(one.read_text()) for one in killed.iterdir()}
    assert found.keys() == {"sweep_part", "fit_at_depth", "score_part"}
    assert not any(map(psutil.pid_exists, (*writing, *found.values())))


@pytest.mark.slow
def test_four_workers_make_of_all_parts_what_one_process_does(inputs, here, machines, tmp_path):
    """Some that were there, one perhaps in place of a killed one, and others that came late."""
    for _ in range(4 - len(machines.nannies)):
        machines.add_worker()
    with Cluster.parse(machines.address).runner(tmp_path) as runner:
        runner.client.wait_for_workers(4, timeout=60)
    check_same(inputs, here, machines, tmp_path)


@pytest.mark.slow
def test_workers_refuse_images_that_are_not_those_digested(files, machines, tmp_path):
    for name in ("net.keras", "valid.h5", "test.h5"):
        shutil.copy(files / name, tmp_path)
    artifacts = tmp_path / "artifacts"
    inputs = load(tmp_path, artifacts)
    opened = stage.open_set(inputs.network, inputs.clean_valid, artifacts=artifacts)
    parts = [Sized(opened), Sized(opened)]
    with mapped_on(machines.address, artifacts=artifacts):
        assert list(map_parts(images_of, parts, lambda done, total: None)) == [IMAGES, IMAGES]
        (tmp_path / "valid.h5").touch()
        # Whoever has opened it before sees it when it reads, others when they open it.
        with pytest.raises(InputError, match=r"valid\.h5: (has changed since|is not as it was)"):
            list(map_parts(images_of, parts, lambda done, total: None))


def length_of(part, advance):
    return len(part)


def test_a_part_that_changes_on_its_way_to_a_worker_is_refused(here, tmp_path):
    copied = Path(shutil.copy(here[0].parts[3].path, tmp_path))
    sent = pickle.dumps(ActivationCache(copied))
    assert pickle.loads(sent).num_images == IMAGES - 3 * 8192  # noqa: S301
    copied.touch()
    with pytest.raises(InputError, match="has changed since it was opened"):
        pickle.loads(sent)  # noqa: S301


class Sized:
    """Something that travels to a worker, as long as it has images."""

    def __init__(self, what):
        self.what = what

    def __len__(self):
        return self.what.num_images


def images_of(part, advance):
    return sum(len(batch) for batch in part.what.batches(1000))


@pytest.fixture(scope="module")
def deserted(tmp_path_factory):
    """A scheduler without any worker."""
    with running(tmp_path_factory.mktemp("deserted"), workers=0) as found:
        yield found


@contextmanager
def joined(machines, **where):
    """Let a worker without a nanny join, which would start it again."""
    worker = machines.start_worker("--no-nanny", **where)
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


@pytest.mark.slow
def test_a_worker_outside_the_checkout_is_one_line(deserted, tmp_path):
    def refused():
        try:
            with Cluster.parse(deserted.address).runner(tmp_path):
                return None  # it has not joined yet
        except InputError as error:
            return str(error)

    said = "does not find goodnet's flows, expected one that was started"
    with joined(deserted, checkout=tmp_path):
        assert said in wait_for(refused)


@pytest.mark.slow
def test_workers_with_another_goodnet_are_refused(deserted, tmp_path):
    for package in ("flows", "goodnet", "tasks", "tests"):
        shutil.copytree(ROOT / package, tmp_path / package)
    with (tmp_path / "goodnet" / "metrics.py").open("a") as file:
        file.write("# another version\n")
    with (
        joined(deserted, checkout=tmp_path),
        mapped_on(deserted.address, artifacts=tmp_path),
        pytest.raises(InputError, match="has another goodnet, expected the same checkout"),
    ):
        list(map_parts(length_of, [[1], [2]], lambda done, total: None))


@pytest.mark.slow
def test_a_scheduler_that_ends_is_one_line(deserted, tmp_path):
    """The last of these tests: the scheduler is gone after it."""
    threading.Timer(1, deserted.scheduler.kill).start()
    said = r"^the Dask scheduler at tcp://127\.0\.0\.1:\d+ is gone; what was computed is kept"
    with (
        pytest.raises(ConnectionError, match=said),
        mapped_on(deserted.address, artifacts=tmp_path),
    ):
        list(map_parts(length_of, [range(1)] * 2, lambda done, total: None))
