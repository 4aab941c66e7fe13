"""The repair of one net, as a flow of cached stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.settings import DEFAULT_ARTIFACTS
from goodnet.default_case import DefaultCase
from goodnet.files import remove_leftovers
from goodnet.inputs import SetName, require_complete
from goodnet.runs import new_run_folder
from tasks.activations import compute_evaluation_activations, compute_validation_activations
from tasks.checkpoints import find_checkpoints, save_checkpoint, verify_checkpoint
from tasks.default_case import render_default, train_default
from tasks.loading import load_inputs
from tasks.publishing import publish_artifacts, write_run
from tasks.ranking import rank_channels
from tasks.records import ActivationsRecord, PublishedRun
from tasks.sampling import choose_samples
from tasks.stages import Stages
from tasks.sweeping import sweep_evaluation, sweep_validation


@flow(name="repair", persist_result=False)
def repair(
    model: Annotated[
        Path | None,
        Field(
            description="Net to repair: .keras, .h5, or weights with an architecture. Without one "
            "the embedded default is rendered, trained and repaired."
        ),
    ] = None,
    clean_valid: Annotated[
        Path | None,
        Field(
            description="Clean validation images, all that the repair itself sees: HDF5 or a "
            "folder <label>/<image>.png."
        ),
    ] = None,
    clean_test: Annotated[
        Path | None, Field(description="Clean test images, for evaluation only.")
    ] = None,
    poisoned_test: Annotated[
        Path | None,
        Field(description="Poisoned test images under the attacker's label, if there are any."),
    ] = None,
    poisoned_valid: Annotated[
        Path | None,
        Field(description="Poisoned validation images, if there are any; for evaluation only."),
    ] = None,
    architecture: Annotated[
        str | None, Field(description="Network of a file with weights only: deepid.")
    ] = None,
    layer: Annotated[
        str | None,
        Field(description="Convolution to prune; else the last one that all paths go through."),
    ] = None,
    rank_at: Annotated[
        str | None,
        Field(description="Layer whose mean ranks the channels; else the pooling behind `layer`."),
    ] = None,
    drops: Annotated[
        list[Annotated[float, Field(gt=0, le=100)]],
        Field(description="Drops of clean validation accuracy to stop at, in points."),
    ] = [2, 4, 10],  # noqa: B006
    pixel_scale: Annotated[
        float, Field(description="Divides the pixels: 255 for nets that take 0 to 1.", gt=0)
    ] = 1,
    allow_same_data: Annotated[
        bool, Field(description="Take the same images for validation and for evaluation.")
    ] = False,
    verify: Annotated[
        Literal["sample", "full"],
        Field(description="Check the saved nets on a sample of every set or on all images."),
    ] = "sample",
    refresh: Annotated[bool, Field(description="Compute again what is cached.")] = False,
    artifacts: Annotated[Path, Field(description="Folder for runs and cache.")] = DEFAULT_ARTIFACTS,
    run_name: Annotated[
        str | None, Field(description="Name of the run's folder; else the time.")
    ] = None,
    default_case: Annotated[
        DefaultCase, Field(description="Size of the embedded default.")
    ] = DefaultCase(),  # noqa: B008
) -> PublishedRun:
    """Prune the channels that clean images leave quiet and measure what that is worth."""
    artifacts = artifacts.resolve()
    folder = new_run_folder(artifacts, run_name)
    remove_leftovers(folder.parent)
    stages = Stages(refresh)
    sets: dict[SetName, Path | None] = {
        "clean_valid": clean_valid,
        "clean_test": clean_test,
        "poisoned_test": poisoned_test,
        "poisoned_valid": poisoned_valid,
    }
    require_complete(model, sets)
    if model is None:
        faces = stages.run(render_default, default_case, artifacts=artifacts)
        badnet = stages.run(train_default, faces, default_case, artifacts=artifacts)
        model, sets = badnet.file.path, faces.sets()
    inputs = stages.run(
        load_inputs,
        model,
        sets,
        architecture=architecture,
        layer=layer,
        rank_at=rank_at,
        pixel_scale=pixel_scale,
        allow_same_data=allow_same_data,
        artifacts=artifacts,
    )
    network = inputs.network
    valid = stages.run(
        compute_validation_activations, network, inputs.clean_valid, artifacts=artifacts
    )
    order = stages.run(rank_channels, valid)
    valid_sweep = stages.run(sweep_validation, network, valid, order, artifacts=artifacts)
    steps = stages.run(find_checkpoints, valid_sweep, tuple(drops))
    evaluation = tuple(
        stages.run(compute_evaluation_activations, network, images, artifacts=artifacts)
        for images in inputs.evaluation
    )
    sweeps = tuple(
        stages.run(sweep_evaluation, network, activations, order, artifacts=artifacts)
        for activations in evaluation
    )
    every: tuple[ActivationsRecord, ...] = (valid, *evaluation)
    reached = {step: drop for drop, step in steps.steps if step is not None}
    saved = {}
    for step in reached:
        channels = order.channels[:step]
        saved[step] = stages.run(save_checkpoint, network, channels, artifacts=artifacts)
        for activations in every:
            full = verify == "full"
            stages.run(verify_checkpoint, network, activations, saved[step], channels, full=full)
    samples = None
    if reached:
        step, drop = max(reached.items())
        samples = stages.run(
            choose_samples, network, evaluation, order.channels[:step], drop, artifacts=artifacts
        )
    run = stages.run(
        write_run,
        folder,
        parameters=flow_run.parameters,
        inputs=inputs,
        stage_log=stages.log,
        activations=valid,
        order=order,
        sweeps=(valid_sweep, *sweeps),
        steps=steps,
        saved=saved,
        samples=samples,
    )
    stages.run(publish_artifacts, run)
    return run
