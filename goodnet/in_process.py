"""A repair in one call: the steps of the flow, in this process, with no server and no cache."""

from __future__ import annotations

import html
import operator
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goodnet.choices import ALL_REPAIRS, Choices, RepairName
from goodnet.digests import DigestMemory, FileDigest
from goodnet.errors import InputError
from goodnet.given import (
    Images,
    as_model_file,
    as_names_file,
    as_path,
    named_as_given,
    say_as_given,
)
from goodnet.images.preprocessing import (
    RAW,
    ChannelOrder,
    PreprocessingName,
    chosen_preprocessing,
)
from goodnet.inputs import (
    POISONED_SETS,
    CheckedInputs,
    Role,
    check_inputs,
    compare_images,
    require_different_data,
)
from goodnet.reports.results import Checkpoint, Results
from goodnet.storage.run_folder import PRUNING, RunFolder
from goodnet.tensorflow_start import import_tensorflow

if TYPE_CHECKING:
    import altair
    import keras
    import pandas
    import pyarrow as pa

    from goodnet.arrays import IntArray
    from goodnet.defenses.choice import Kept
    from goodnet.defenses.guard import Seen
    from goodnet.defenses.seam import Learnt
    from goodnet.images.image_sets import ImageSet
    from goodnet.pruning.activation_cache import ActivationCache
    from goodnet.pruning.counts import Counts
    from goodnet.pruning.frontier import Frontier
    from goodnet.reports.about import About
    from goodnet.reports.samples import Sample


def repair(
    model: keras.Model | str | Path,
    clean_valid: Images,
    *,
    clean_test: Images | None = None,
    poisoned_test: Images | None = None,
    poisoned_valid: Images | None = None,
    drops: Sequence[float] = (2, 4, 10),
    channels: Sequence[int] = (),
    repairs: Sequence[RepairName] = ALL_REPAIRS,
    false_alarms: float = 3,
    layer: str | None = None,
    rank_at: str | None = None,
    classes: Sequence[str] | Path | None = None,
    preprocessing: PreprocessingName | None = None,
    pixel_scale: float = 1,
    pixel_mean: float | Sequence[float] = (),
    pixel_std: float | Sequence[float] = (),
    channel_order: ChannelOrder = "rgb",
    pixel_range: tuple[float, float] = RAW,
    target: int | None = None,
    min_clean_accuracy: float | None = None,
    allow_same_data: bool = False,
    architecture: str | None = None,
) -> Repair:
    """Prune the channels that clean images leave quiet and measure what that is worth.

    It gives the numbers that `python -m flows.run` gives. Activations are in a temporary folder as
    long as somebody holds the result.

    Args:
        model: B: a Keras model of stock layers, or its file.
        clean_valid: clean validation images, all that the repair itself sees.
        clean_test: clean test images, for evaluation only.
        poisoned_test: poisoned test images under the attacker's label, or with `target` under
            their own, for evaluation only.
        poisoned_valid: more of them.
        drops: budgets of clean validation accuracy, in points: a checkpoint where each is spent.
        channels: numbers of channels, a checkpoint where so many are pruned.
        repairs: the methods that offer repaired nets; "finetuning", which takes a minute or more,
            also gives the calibrated G a score.
        false_alarms: most clean images that the calibrated G may flag, in percent.
        layer: whose channels are pruned; by default the last hidden one with spatial features that
            every path goes through.
        rank_at: the layer whose mean activation ranks the channels; by default the pooling behind.
        classes: the names of the net's classes in its order, or a file with one a line; by default
            those of the folders of clean validation, sorted, if they have names.
        preprocessing: what `keras.applications` do to pixels: "tf", "caffe" or "torch", in place
            of the five below.
        pixel_scale: divides the pixels: 255 for nets that take 0 to 1.
        pixel_mean: is subtracted then: one number, or one for each channel.
        pixel_std: divides then: one number, or one for each channel.
        channel_order: in which the net takes the channels of images, which are stored as RGB.
        pixel_range: what stored pixels lie in: (0, 1) or (-1, 1) for arrays that are prepared
            already.
        target: the attacker's label; by default the labels of the poisoned images are that.
        min_clean_accuracy: the least clean accuracy of B, 0 to 1; by default a fifth of the way
            from guessing to always right.
        allow_same_data: take the same images for validation and for evaluation.
        architecture: the network of a file with weights only: "deepid".

    Raises:
        InputError: something that was given cannot be used.
    """
    import_tensorflow()
    holder = _Holder()
    choices = Choices(
        classes=None if classes is None else as_names_file(classes, holder.folder),
        architecture=architecture,
        layer=layer,
        rank_at=rank_at,
        drops=tuple(map(float, drops)),
        channels=tuple(map(operator.index, channels)),
        repairs=_known_repairs(repairs),
        false_alarms=float(false_alarms),
        preprocessing=chosen_preprocessing(
            {
                "preprocessing": preprocessing,
                "pixel_scale": pixel_scale,
                "pixel_mean": pixel_mean,
                "pixel_std": pixel_std,
                "channel_order": channel_order,
                "pixel_range": pixel_range,
            }
        ),
        allow_same_data=allow_same_data,
        target=None if target is None else operator.index(target),
        min_clean_accuracy=min_clean_accuracy,
    )
    given: dict[Role, Images | None] = {
        "clean_valid": clean_valid,
        "clean_test": clean_test,
        "poisoned_test": poisoned_test,
        "poisoned_valid": poisoned_valid,
    }
    with named_as_given(holder.folder):
        passed = _first_passes(model, given, choices, holder)
        remarks = [*passed.checked.remarks, *_check_answers(passed)]
    return _measure(passed, [say_as_given(remark, holder.folder) for remark in remarks])


def _known_repairs(names: Sequence[str]) -> tuple[RepairName, ...]:
    for name in names:
        if name not in ALL_REPAIRS:
            raise InputError(f"repairs has {name!r}, expected some of {', '.join(ALL_REPAIRS)}")
    return tuple(name for name in ALL_REPAIRS if name in names)


@dataclass(frozen=True, eq=False, repr=False)
class Repair:
    """What a repair found, and the nets that it offers.

    Attributes:
        results: the rates of B and of each checkpoint.
        order: all channels in prune order.
        sweep: the counts of each set at each step, the rows of sweep.parquet.
        scores: of every image of every set, the rows of scores.parquet.
    """

    results: Results
    order: Sequence[int]
    sweep: pa.Table
    scores: pa.Table
    _learnt: Learnt
    _kept: Sequence[Kept]
    _seen: Mapping[Role, Seen]
    _passed: _Passed

    @property
    def layer(self) -> str:
        """The layer whose channels are pruned."""
        return self._passed.checked.layer

    @property
    def rank_at(self) -> str:
        """The layer whose mean activation ranks them."""
        return self._passed.checked.rank_at

    @property
    def verdict(self) -> str:
        """One sentence on what the repair is worth."""
        from goodnet.reports.verdict import verdict

        return verdict(self.results)

    @property
    def remarks(self) -> list[str]:
        """What whoever reads the rates should know, a sentence each."""
        from goodnet.reports.verdict import remarks

        return remarks(self.results)

    @property
    def table(self) -> pandas.DataFrame | pa.Table:
        """A row for B and for each B' and G, rates as fractions: a DataFrame, or Arrow's table."""
        import pyarrow as pa

        from goodnet.reports.results_table import plain_rows

        return _as_frame(pa.Table.from_pylist(plain_rows(self.results)))

    @property
    def curve(self) -> pandas.DataFrame | pa.Table:
        """The rows of `sweep`: a DataFrame where pandas is installed, or Arrow's table."""
        return _as_frame(self.sweep)

    def plot(self) -> altair.LayerChart:
        """Draw clean accuracy and attack success of B' and G against the channels pruned."""
        import altair

        from goodnet.reports.plots import curve_chart
        from goodnet.reports.vega_lite import PAPER

        spec = curve_chart(self.sweep, self.results.reached, palette=PAPER)
        chart = altair.LayerChart.from_dict(spec)
        # Charts too, which `from_dict` does not make of layers: methods of the whole call theirs.
        chart.layer = [altair.Chart.from_dict(layer) for layer in spec["layer"]]
        return chart

    def b_prime(self, drop: float | None = None, *, channels: int | None = None) -> keras.Model:
        """Return B' of the checkpoint at a budget of `drop` points, or with any channels pruned.

        Args:
            drop: the budget.
            channels: in its place, how many channels are pruned, whether it was asked for or not.

        Raises:
            InputError: there is no such net.
        """
        from goodnet.pruning.channels import prune_channels

        pruned = self._pruned(drop, channels)
        return prune_channels(self._passed.frontier.model, self.layer, pruned)

    def repaired(self) -> keras.Model:
        """Return the repaired net to use.

        Raises:
            InputError: there is none.
        """
        from goodnet.defenses.choice import find_candidate

        for kept in self._kept:
            if kept.recommended and self.results.recommends_repaired:
                return find_candidate(self._learnt, kept).build()
        raise InputError("there is no repaired net to use: see `verdict`")

    def goodnet(self, drop: float | None = None, *, channels: int | None = None) -> keras.Model:
        """Return the calibrated G, or one of B and the net that `b_prime` returns.

        Args:
            drop: the budget of a checkpoint in points.
            channels: in its place, how many channels are pruned.

        Raises:
            InputError: there is no such net.
        """
        from goodnet.defenses.goodnet import build_goodnet
        from goodnet.defenses.guard_nets import build_guarded

        if drop is None and channels is None:
            learnt = self._learnt
            frontier = self._passed.frontier
            return build_guarded(frontier, learnt.guard, learnt.calibration, learnt.tuned)
        pruned = self._pruned(drop, channels)
        return build_goodnet(self._passed.frontier.model, self.layer, pruned)

    def save(self, folder: str | Path) -> Path:
        """Write the files of a run into a new folder, the nets among them checked; return it.

        Raises:
            InputError: the folder is there already.
            RuntimeError: a saved net answers otherwise than was counted.
        """
        from goodnet.reports.charts import draw_charts
        from goodnet.reports.run_files import write_run_files

        folder = Path(folder)
        if folder.exists():
            raise InputError(f"{folder}: is there already, expected the name of a new folder")
        write_run_files(
            folder.absolute(),
            results=self.results,
            about=_about(self._passed, folder.name),
            sweep=self.sweep,
            scores=self.scores,
            charts=draw_charts(self.results, sweep=self.sweep, scores=self.scores),
            samples=list(_pick_samples(self)),
            write_nets=self._write_nets,
        )
        return folder

    def __repr__(self) -> str:
        """Return the verdict: fields are for looking into, not for reading."""
        return f"Repair({self.verdict!r})"

    def _repr_html_(self) -> str:
        """Show the verdict and the table in a notebook."""
        from goodnet.reports.results_table import detector_rows, printed_rows

        texts = [self.verdict, *self.remarks]
        said = "".join(f"<p>{html.escape(text)}</p>" for text in texts)
        tables = printed_rows(self.results), detector_rows(self.results)
        return said + "".join(map(_html_table, tables))

    def _pruned(self, drop: float | None, channels: int | None) -> Sequence[int]:
        """Return the channels that a net of this pruning has lost."""
        from goodnet.pruning.stop_rule import describe_budget, require_channels

        if channels is not None:
            require_channels([channels], channels=len(self.order), layer=self.layer)
            return self.order[:channels]
        if drop is None:
            raise InputError("neither a budget nor a number of channels is given, expected one")
        for point in self.results.reached:
            if point.drop == drop:
                return point.channels
        reached = ", ".join(point.asked for point in self.results.reached) or "none"
        raise InputError(f"there is no checkpoint at {describe_budget(drop)}, reached: {reached}")

    def _write_nets(self, folder: RunFolder) -> None:
        from goodnet.defenses.choice import find_candidate
        from goodnet.model_files.load import save_model

        for point in self.results.reached:
            b_prime = folder.b_prime(PRUNING, point.drop, channels=point.step)
            goodnet = folder.goodnet(point.drop, channels=point.step)
            save_model(self.b_prime(channels=point.step), b_prime)
            save_model(self.goodnet(channels=point.step), goodnet)
            _verify(self, point, b_prime, goodnet)
        save_model(self.goodnet(), folder.calibrated)
        saved = [folder.calibrated]
        for kept in self._kept:
            paths = [folder.b_prime(kept.method, drop) for drop in kept.drops]
            if kept.recommended and self.results.recommends_repaired:
                paths.append(folder.repaired)
            net = find_candidate(self._learnt, kept).build()
            for path in paths:
                save_model(net, path)
            saved.append(paths[0])
        _verify_learnt(self, saved)


class _Holder:
    """A folder of its own in the temporary one, which is deleted with this.

    Nobody has to close it: `tempfile.TemporaryDirectory` warns where that was not done.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="goodnet-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class _Passed:
    """What there is once B has run over every set.

    Attributes:
        choices: what the user chose.
        checked: what was found in the files.
        file: B's file.
        model: its digest.
        digests: of each set.
        frontier: of B.
        caches: the activations of each set.
        holder: the folder that they are in, which is deleted with this.
    """

    choices: Choices
    checked: CheckedInputs
    file: Path
    model: FileDigest
    digests: Mapping[Role, FileDigest]
    frontier: Frontier
    caches: Mapping[Role, ActivationCache]
    holder: _Holder

    @property
    def num_classes(self) -> int:
        return int(self.frontier.model.output_shape[-1])

    def target_of(self, role: Role) -> int | None:
        """Return the attacker's label for a poisoned set."""
        return self.choices.target if role in POISONED_SETS else None


def _first_passes(
    model: keras.Model | str | Path,
    given: Mapping[Role, Images | None],
    choices: Choices,
    holder: _Holder,
) -> _Passed:
    """Check what was given, and let B run over every set once."""
    from goodnet.opening import NetFile, open_frontier
    from goodnet.pruning.activation_cache import Provenance
    from goodnet.pruning.first_pass import write_activations

    folder = holder.folder
    file = as_model_file(model, folder)
    sets = {role: as_path(role, one, folder) for role, one in given.items() if one is not None}
    checked = check_inputs(file, sets, choices)
    memory = DigestMemory(folder / "digests.json")
    digests = {role: memory.digest_opened(images) for role, images in checked.sets.items()}
    if not choices.allow_same_data:
        require_different_data({role: digest.sha256 for role, digest in digests.items()})
    b = memory.digest(file)
    layers = checked.layer, checked.rank_at
    frontier = open_frontier(NetFile(file, b.sha256, *layers, choices.architecture, choices.limits))
    caches = {
        role: write_activations(
            folder / f"{role}.parquet",
            frontier=frontier,
            images=images,
            provenance=Provenance(
                model=b.sha256,
                images=digests[role].sha256,
                layer=checked.layer,
                rank_at=checked.rank_at,
                preprocessing=choices.preprocessing,
                num_classes=frontier.model.output_shape[-1],
            ),
        )
        for role, images in checked.sets.items()
    }
    return _Passed(choices, checked, file, b, digests, frontier, caches, holder)


def _check_answers(passed: _Passed) -> Iterator[str]:
    """Yield what is to be said of B's answers and of images that two sets share.

    Raises:
        InputError: B is hardly right, or two sets are not what they are given for.
    """
    from goodnet.networks.readings import (
        Answered,
        Opened,
        require_clean_accuracy,
        require_not_exchanged,
    )

    answers: dict[str, tuple[IntArray, IntArray]] = {
        role: cache.answers() for role, cache in passed.caches.items()
    }
    sets = passed.checked.sets.items()
    clean = {role: images for role, images in sets if role not in POISONED_SETS}
    poisoned: dict[str, ImageSet] = {role: images for role, images in sets if role in POISONED_SETS}
    for role, images in clean.items():
        opened = Opened(passed.frontier.model, images, poisoned)
        remark = require_clean_accuracy(
            Answered(
                role,
                images.path,
                *answers[role],
                passed.choices.preprocessing,
                images.classes is not None,
            ),
            reopen=lambda opened=opened: opened,  # type: ignore[misc]
            num_classes=passed.num_classes,
            floor=passed.choices.min_clean_accuracy,
        )
        if remark is not None:
            yield remark
    require_not_exchanged(
        {role: answers[role] for role in clean},
        {role: answers[role] for role in poisoned},
        num_classes=passed.num_classes,
    )
    yield from compare_images(
        {role: cache.image_digests() for role, cache in passed.caches.items()},
        allow_same_data=passed.choices.allow_same_data,
    )


def _measure(passed: _Passed, remarks: Sequence[str]) -> Repair:
    """Rank and sweep the channels, learn from clean validation, and measure what came of it."""
    import pyarrow as pa

    from goodnet.defenses.choice import choose_repaired, find_candidate
    from goodnet.pruning.counts import curves_table
    from goodnet.pruning.poisoned import attack_counter, describe_attack
    from goodnet.pruning.ranking import block_means, mean_activations, prune_order
    from goodnet.pruning.stop_rule import find_checkpoints
    from goodnet.pruning.sweep import sweep_both_ends
    from goodnet.reports.counted_results import make_results
    from goodnet.reports.detection import (
        ScoredSet,
        calibrate_all,
        measure_depths,
        measure_detectors,
        measure_repaired,
        scores_table,
    )

    order = prune_order(mean_activations(block_means(passed.caches["clean_valid"])))
    swept = {
        role: sweep_both_ends(
            cache,
            frontier=passed.frontier,
            order=order,
            count=attack_counter(cache, passed.target_of(role)),
        )
        for role, cache in passed.caches.items()
    }
    valid, attacked = swept["clean_valid"].counts["pruned"], passed.caches.get("poisoned_test")
    checkpoints = find_checkpoints(
        valid.correct.tolist(),
        images=valid.images,
        drops=passed.choices.pruning_drops,
        channels=passed.choices.pruning_channels,
    )
    learnt = _learn(passed, order, swept["clean_valid"].counts["expert"])
    calibrations = calibrate_all(learnt.held.scores, budget=passed.choices.false_alarm_budget)
    seen: dict[Role, Seen] = {role: _look(passed, role, learnt) for role in passed.caches}
    scored: dict[str, ScoredSet] = {
        role: ScoredSet(cache, seen[role], passed.target_of(role))
        for role, cache in passed.caches.items()
    }
    kept = choose_repaired(learnt, passed.choices.repairs, passed.choices.drops)
    candidates = [find_candidate(learnt, one) for one in kept]
    answers: dict[str, list[IntArray]] = {
        role: [one.answers(cache, seen[role]) for one in candidates]
        for role, cache in passed.caches.items()
    }
    results = make_results(
        {role: one.counts["pruned"] for role, one in swept.items()},
        checkpoints,
        order=order,
        num_classes=passed.num_classes,
        attack=None if attacked is None else describe_attack(attacked, passed.choices.target),
        detectors=measure_detectors(scored, calibrations),
        depths=measure_depths(scored),
        repaired=measure_repaired(scored, answers, kept, passed.choices.drops),
        recommended_method=next((one.method for one in kept if one.recommended), None),
        remarks=remarks,
        class_names=() if passed.checked.classes is None else passed.checked.classes.names,
    )
    curve = pa.concat_tables(
        curves_table(role, one.counts, order=order, means=mean_activations(one.shares))
        for role, one in swept.items()
    )
    scores = scores_table(scored, calibrations)
    return Repair(results, order, curve, scores, learnt, kept, seen, passed)


def _learn(passed: _Passed, order: Sequence[int], experts: Counts) -> Learnt:
    """Fine-tune B, if that is asked for, and fit and calibrate the scores."""
    from goodnet.defenses.calibration import calibrate
    from goodnet.defenses.fine_tuning import fine_tune
    from goodnet.defenses.guard import fit_guard
    from goodnet.defenses.seam import CleanPass, Learnt

    images, cache = passed.checked.sets["clean_valid"], passed.caches["clean_valid"]
    clean = CleanPass(passed.frontier, images, cache)
    tuned = fine_tune(clean) if "finetuning" in passed.choices.repairs else None
    guard, held = fit_guard(clean, order, experts, None if tuned is None else tuned.held)
    calibration = calibrate(held.scores, budget=passed.choices.false_alarm_budget)
    return Learnt(clean, guard, held, calibration, None if tuned is None else tuned.model)


def _verify(found: Repair, point: Checkpoint, b_prime: Path, goodnet: Path) -> None:
    from goodnet.pruning.verification import check_saved, load_saved

    nets = load_saved(b_prime), load_saved(goodnet)
    for role, images in found._passed.checked.sets.items():
        agreement = check_saved(
            *nets,
            cache=found._passed.caches[role],
            images=images,
            frontier=found._passed.frontier,
            order=found.order,
            step=point.step,
            full=False,
        )
        agreement.remark(role, step=point.step)  # raises if they disagree


def _look(passed: _Passed, role: Role, learnt: Learnt) -> Seen:
    """Score the images of a set."""
    from goodnet.defenses.fine_tuning import answer_images

    cache, by_tuned = passed.caches[role], None
    if learnt.tuned is not None:
        images, preprocessing = passed.checked.sets[role], passed.choices.preprocessing
        by_tuned = answer_images(learnt.tuned, images, preprocessing, cache.answers()[1])
    return learnt.guard.look(cache, passed.frontier, by_tuned)


def _verify_learnt(found: Repair, paths: Sequence[Path]) -> None:
    """Check the calibrated G and the repaired nets, in this order."""
    from goodnet.defenses.answer_check import check_answers, expected_answers
    from goodnet.defenses.choice import find_candidate
    from goodnet.pruning.verification import load_saved

    passed, learnt = found._passed, found._learnt
    candidates = [find_candidate(learnt, kept) for kept in found._kept]
    nets = [load_saved(path) for path in paths]
    for role, images in passed.checked.sets.items():
        cache, seen = passed.caches[role], found._seen[role]
        answers = [(one.method, one.answers(cache, seen)) for one in candidates]
        expected = expected_answers(cache, seen, learnt.calibration, answers)
        for net, one in zip(nets, expected, strict=True):
            preprocessing = passed.choices.preprocessing
            check_answers(net, one, images=images, preprocessing=preprocessing, full=False)


def _pick_samples(found: Repair) -> Iterator[Sample]:
    """Yield images of the checkpoint that prunes most."""
    from goodnet.pruning.poisoned import describe_attack
    from goodnet.reports.samples import pick_samples

    passed = found._passed
    for point in sorted(found.results.reached, key=lambda point: point.step)[-1:]:
        for role in ("clean_test", "poisoned_test"):
            if role in passed.caches:
                cache, target = passed.caches[role], passed.choices.target
                yield from pick_samples(
                    cache,
                    passed.checked.sets[role],
                    frontier=passed.frontier,
                    order=found.order,
                    step=point.step,
                    checkpoint=point.asked,
                    attack=describe_attack(cache, target) if role in POISONED_SETS else None,
                )


def _about(passed: _Passed, name: str) -> About:
    from goodnet.reports.about import About, Input

    choices, sets = passed.choices, passed.checked.sets
    return About.of(
        name,
        parameters=choices.parameters() | {"classes": choices.classes and str(choices.classes)},
        layer=passed.checked.layer,
        rank_at=passed.checked.rank_at,
        inputs={
            "model": Input(str(passed.file), sha256=passed.model.sha256, size=passed.model.size),
            **{
                role: Input(
                    str(sets[role].path),
                    sha256=digest.sha256,
                    size=digest.size,
                    images=sets[role].num_images,
                )
                for role, digest in passed.digests.items()
            },
        },
        stages=(),
    )


def _html_table(rows: Sequence[Mapping[str, str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row.values()) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _as_frame(table: pa.Table) -> Any:
    return table.to_pandas() if find_spec("pandas") else table
