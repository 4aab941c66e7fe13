"""The repair of one net, as a flow of cached stages."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field, NonNegativeInt, PositiveInt

from flows.checks import given_sets
from flows.paths import AnyPath
from flows.run_names import name_run, tag_run
from flows.server import label_process
from flows.settings import DEFAULT_ARTIFACTS, DEFAULT_DASK
from goodnet.attacks.default_case import DefaultCase
from goodnet.choices import ALL_REPAIRS, MOST_FALSE_ALARMS, Choices, RepairName
from goodnet.command import FLOAT32
from goodnet.images.preprocessing import (
    RAW,
    ChannelOrder,
    PreprocessingName,
)
from goodnet.inputs import POISONED_SETS, require_complete
from goodnet.model_files.limits import DEFAULT_LIMITS
from goodnet.pruning.stop_rule import describe_checkpoint
from goodnet.reports.about import net_name
from goodnet.storage.run_folder import clean_up, reserve_run_folder
from tasks.activations import compute_evaluation_activations, compute_validation_activations
from tasks.answers import check_clean_answers, check_sets, compare_sets
from tasks.caching import read_records_alone
from tasks.checkpoints import find_checkpoints, save_checkpoint, verify_checkpoint
from tasks.default_case import render_default, train_default
from tasks.guarding import (
    answer_by_repaired,
    fine_tune,
    fit_scores,
    save_guarded,
    save_repaired,
    score_images,
    verify_nets,
)
from tasks.loading import load_inputs
from tasks.measuring import measure_results
from tasks.parts import mapped_on
from tasks.publishing import publish_artifacts, write_run
from tasks.ranking import rank_channels
from tasks.records import ActivationsRecord, FineTuned, PublishedRun
from tasks.sampling import choose_samples
from tasks.stages import logged_stages
from tasks.sweeping import sweep_evaluation, sweep_validation

Drops = list[Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]]
Means = list[Annotated[float, Field(ge=-FLOAT32[1], le=FLOAT32[1], allow_inf_nan=False)]]
PixelScale = Annotated[float, Field(ge=FLOAT32[0], le=FLOAT32[1], allow_inf_nan=False)]
Range = Annotated[Means, Field(min_length=2, max_length=2)]
FalseAlarms = Annotated[float, Field(gt=0, le=MOST_FALSE_ALARMS, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Verify = Literal["sample", "full"]


@flow(name="repair", persist_result=False, on_running=[label_process])
def repair(
    model: AnyPath | None = None,
    clean_valid: AnyPath | None = None,
    clean_test: AnyPath | None = None,
    poisoned_test: AnyPath | None = None,
    poisoned_valid: AnyPath | None = None,
    classes: AnyPath | None = None,
    architecture: str | None = None,
    layer: str | None = None,
    rank_at: str | None = None,
    drops: Drops = [2, 4, 10],  # noqa: B006
    channels: list[PositiveInt] = [],  # noqa: B006
    repairs: list[RepairName] = [*ALL_REPAIRS],  # noqa: B006
    false_alarms: FalseAlarms = 3,
    preprocessing: PreprocessingName | None = None,
    pixel_scale: PixelScale = 1,
    pixel_mean: Means = [],  # noqa: B006
    pixel_std: list[PixelScale] = [],  # noqa: B006
    channel_order: ChannelOrder = "rgb",
    pixel_range: Range = [*RAW],  # noqa: B006
    allow_same_data: bool = False,
    target: NonNegativeInt | None = None,
    min_clean_accuracy: Share | None = None,
    verify: Verify = "sample",
    max_model_bytes: PositiveInt = DEFAULT_LIMITS.max_file_bytes,
    max_parameters: PositiveInt = DEFAULT_LIMITS.max_parameters,
    refresh: bool = False,
    dask: str | None = None,
    artifacts: AnyPath | None = None,
    run_name: str | None = None,
    default_case: DefaultCase = DefaultCase(),  # noqa: B008
) -> State[PublishedRun]:
    """Prune the channels that clean images leave quiet and measure what that is worth.

    Prefect shows these descriptions in the form for a new run.

    Args:
        model: Net to repair: .keras, .h5, or weights with an architecture. Without one the
            embedded default is rendered, trained and repaired.
        clean_valid: Clean validation images, all that the repair itself sees: HDF5, .npz, or a
            folder or zip file of CLASS/IMAGE.png, a class being a number or a name.
        clean_test: Clean test images, for evaluation only.
        poisoned_test: Poisoned test images under the attacker's label, or with `target` under
            their own, if there are any.
        poisoned_valid: Poisoned validation images, if there are any; for evaluation only.
        classes: File with the names of the net's classes in their order, one a line or a JSON
            list; else those of the folders of clean validation, sorted, if they have names.
        architecture: Network of a file with weights only: deepid.
        layer: Layer whose channels are pruned; else the last hidden one with spatial features
            that all paths go through.
        rank_at: Layer whose mean ranks the channels; else the pooling behind `layer`.
        drops: Budgets of clean validation accuracy, in points: a checkpoint where each is spent.
        channels: Numbers of channels: a checkpoint where so many are pruned.
        repairs: Methods that offer repaired nets; finetuning, which takes a minute or more, also
            gives the calibrated GoodNet a score.
        false_alarms: Most clean images that the calibrated GoodNet may flag, in percent; its
            threshold holds that with 95 % confidence.
        preprocessing: What keras.applications' preprocess_input does to pixels in this mode: tf,
            caffe or torch; in place of the five below.
        pixel_scale: Divides the pixels: 255 for nets that take 0 to 1.
        pixel_mean: Is subtracted then: one number, or one for each channel.
        pixel_std: Divides then: one number, or one for each channel.
        channel_order: Order in which the net takes the channels of images, stored as rgb.
        pixel_range: What stored pixels lie in: 0 or -1 and 1 for arrays that are prepared already.
        allow_same_data: Take the same images for validation and for evaluation.
        target: The attacker's label; else the labels of the poisoned images are that.
        min_clean_accuracy: Least clean accuracy of the net as given, 0 to 1; else a fifth of the
            way from guessing to always right: 0.6 of 2 classes, 0.28 of 10, 0.2 of 1,283.
        verify: Check the saved nets on a sample of every set or on all images.
        max_model_bytes: Largest file of a model that is opened, in bytes.
        max_parameters: Most parameters of a model that is loaded.
        refresh: Compute again what is cached.
        dask: Workers that take the parts of large image sets: local or local:N on this machine, or
            the address of a Dask scheduler, tcp://HOST:PORT; else GOODNET_DASK, or one part at a
            time, here.
        artifacts: Folder for runs and cache; else GOODNET_ARTIFACTS, or artifacts/ of the project.
        run_name: Name of the run's folder; else the time.
        default_case: Size of the embedded default.
    """
    given = dict(locals())  # which here are the parameters and nothing else
    choices, sets = Choices.of(given), given_sets(given)
    read_records_alone()
    artifacts = (artifacts or DEFAULT_ARTIFACTS).resolve()
    folder = reserve_run_folder(artifacts, run_name)
    net = net_name(model)
    name_run(net, folder.name)
    tag_run(model=net)
    clean_up(artifacts)
    require_complete(model, sets)
    with (
        mapped_on(dask or DEFAULT_DASK, artifacts=artifacts),
        logged_stages(refresh=refresh) as stage_log,
    ):
        if model is None:
            faces = render_default(default_case, artifacts=artifacts)
            badnet = train_default(faces, default_case, artifacts=artifacts)
            model, sets = badnet.file.path, faces.sets()
            # Nothing about what was made here can be misread, however short the training was.
            choices = replace(choices, min_clean_accuracy=choices.min_clean_accuracy or 0.0)
        inputs = load_inputs(model, sets, choices, refresh=refresh, artifacts=artifacts)
        network, floor = inputs.network, choices.min_clean_accuracy
        full = choices.verify == "full"
        valid = compute_validation_activations(network, inputs.clean_valid, artifacts=artifacts)
        poisoned = tuple(images for images in inputs.evaluation if images.role in POISONED_SETS)
        check = check_clean_answers(network, valid, poisoned, floor, artifacts=artifacts)
        order = rank_channels(valid)
        valid_sweep = sweep_validation(network, valid, order, artifacts=artifacts)
        steps = find_checkpoints(valid_sweep, choices.pruning_drops, choices.pruning_channels)
        evaluation = tuple(
            compute_evaluation_activations(network, images, artifacts=artifacts)
            for images in inputs.evaluation
        )
        compared = compare_sets(valid, evaluation, allow_same_data=choices.allow_same_data)
        clean = tuple(one for one in evaluation if one.images.role not in POISONED_SETS)
        attacked = tuple(one for one in evaluation if one.images.role in POISONED_SETS)
        checks = (
            check,
            *(
                check_clean_answers(network, one, poisoned, floor, artifacts=artifacts)
                for one in clean
            ),
            check_sets((valid, *clean), attacked),
        )
        sweeps = tuple(
            sweep_evaluation(
                network,
                activations,
                order,
                target=choices.target if activations in attacked else None,
                artifacts=artifacts,
            )
            for activations in evaluation
        )
        every: tuple[ActivationsRecord, ...] = (valid, *evaluation)
        reached = {step: drop for drop, step in steps.steps if step is not None}
        saved = {}
        remarks = [*inputs.remarks, *compared.remarks]
        remarks += [remark for check in checks for remark in check.remarks]
        for step in reached:
            pruned = order.channels[:step]
            saved[step] = save_checkpoint(network, pruned, artifacts=artifacts)
            verified = verify_checkpoint(
                network, every, saved[step], order, full=full, artifacts=artifacts
            )
            remarks.extend(verified.remarks)
        budget = choices.false_alarm_budget
        tuned = FineTuned(net=None, held=None)
        if "finetuning" in choices.repairs:
            tuned = fine_tune(network, valid, artifacts=artifacts)
        fitted = fit_scores(
            network, valid, order=order, sweep=valid_sweep, tuned=tuned, artifacts=artifacts
        )
        scores = tuple(score_images(network, one, fitted, artifacts=artifacts) for one in every)
        guarded = save_guarded(network, fitted, budget, artifacts=artifacts)
        repaired = save_repaired(
            network,
            fitted,
            budget=budget,
            drops=choices.drops,
            methods=choices.repairs,
            artifacts=artifacts,
        )
        answers = tuple(
            answer_by_repaired(
                network,
                one,
                scores=scored,
                fitted=fitted,
                repaired=repaired,
                budget=budget,
                artifacts=artifacts,
            )
            for one, scored in zip(every, scores, strict=True)
        )
        checked = verify_nets(
            network,
            every,
            scores=scores,
            answers=answers,
            fitted=fitted,
            guarded=guarded,
            repaired=repaired,
            budget=budget,
            full=full,
            artifacts=artifacts,
        )
        remarks.extend(checked.remarks)
        samples = None
        if reached:
            step = max(reached)
            samples = choose_samples(
                network,
                evaluation,
                order=order,
                step=step,
                checkpoint=describe_checkpoint(reached[step], step),
                target=choices.target,
                artifacts=artifacts,
            )
        measured = measure_results(
            valid,
            evaluation,
            order=order,
            sweeps=(valid_sweep, *sweeps),
            steps=steps,
            fitted=fitted,
            scores=scores,
            repaired=repaired,
            answers=answers,
            target=choices.target,
            budget=budget,
            drops=choices.drops,
            remarks=tuple(remarks),
            class_names=inputs.classes or (),
            artifacts=artifacts,
        )
        run = write_run(
            folder,
            parameters=flow_run.parameters,
            inputs=inputs,
            stage_log=stage_log,
            measured=measured,
            steps=steps,
            saved=saved,
            guarded=guarded,
            repaired=repaired,
            samples=samples,
        )
        publish_artifacts(run, net, measured, samples)
        tag_run(verdict=run.word)
        return Completed(data=run, message=f"{run.word}: {run.why}")
