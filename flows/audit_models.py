"""The audit: every net in a folder repaired against the same image sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field, NonNegativeInt, PositiveInt

from flows.many_nets import Promise, submitting
from flows.paths import AnyPath
from flows.repair import Drops, FalseAlarms, Means, PixelScale, Range, Share, Verify
from flows.repair_apart import repair_and_remember
from flows.run_names import name_run
from flows.server import label_process
from flows.settings import DEFAULT_ARTIFACTS
from goodnet.attacks.targets import require_target
from goodnet.choices import ALL_REPAIRS, CHOICE_PARAMETERS, LIMIT_PARAMETERS, RepairName
from goodnet.errors import InputError, printable
from goodnet.images.preprocessing import RAW, ChannelOrder, PreprocessingName
from goodnet.model_files import limits as model_limits
from goodnet.reports.audits import (
    DEFAULT_ALLOWANCE,
    DEFAULT_LIMITS,
    MOST_ALLOWED,
    Allowance,
    AuditedModel,
    Limits,
    find_models,
    find_problems,
    require_inside,
    require_measurable,
)
from goodnet.reports.results import Results
from goodnet.storage.run_folder import RunFolder, reserve_run_folder
from tasks.auditing import FinishedRepairs, publish_audit
from tasks.caching import read_records_alone
from tasks.progress import tell_began
from tasks.versions import stage_versions

Amount = Annotated[float, Field(gt=0, le=MOST_ALLOWED, allow_inf_nan=False)]


@flow(name="audit", persist_result=False, on_running=[label_process])
def audit(
    models: AnyPath,
    clean_valid: AnyPath,
    clean_test: AnyPath,
    poisoned_test: AnyPath | None = None,
    poisoned_valid: AnyPath | None = None,
    max_false_alarm_rate: Share | None = DEFAULT_LIMITS.false_alarm_rate,
    max_clean_accuracy_loss: Share | None = DEFAULT_LIMITS.clean_accuracy_loss,
    max_attack_success_rate: Share | None = None,
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
    max_model_bytes: PositiveInt = model_limits.DEFAULT_LIMITS.max_file_bytes,
    max_parameters: PositiveInt = model_limits.DEFAULT_LIMITS.max_parameters,
    max_minutes_per_model: Amount = DEFAULT_ALLOWANCE.minutes,
    max_gigabytes_per_model: Amount = DEFAULT_ALLOWANCE.gigabytes,
    refresh: bool = False,
    dask: str | None = None,
    artifacts: AnyPath | None = None,
    audit_name: str | None = None,
) -> State[None]:
    """Repair every net in a folder and fail if one cannot be repaired or is over a limit.

    A net that was repaired before with the same images and parameters is not repaired again.
    Failed has also one that is hardly right on clean images, or that gives poisoned images another
    class than their labels name: its rates would keep any limit.
    Limits apply to the GoodNet that its run recommends.

    Args:
        models: Folder with the nets: .keras, .h5 or .hdf5 files directly in it.
        clean_valid: Clean validation images, all that the repairs themselves see: HDF5, .npz, or a
            folder or zip file of CLASS/IMAGE.png, a class being a number or a name.
        clean_test: Clean test images, for evaluation only.
        poisoned_test: Poisoned test images under the attacker's label, or with `target` under
            their own, if there are any.
        poisoned_valid: Poisoned validation images, if there are any; for evaluation only.
        classes: File with the names of the net's classes in their order, one a line or a JSON
            list; else those of the folders of clean validation, sorted, if they have names.
        max_false_alarm_rate: Most false alarms of a GoodNet on clean test images, 0 to 1; the
            audit fails if there are more.
        max_clean_accuracy_loss: Most clean accuracy that a GoodNet may cost, 0 to 1; the audit
            fails if it costs more.
        max_attack_success_rate: Most poisoned test images that may get past a GoodNet, 0 to 1;
            the audit fails if there are more.
        architecture: Network of files with weights only: deepid.
        layer: Layer whose channels are pruned; else the last hidden one with spatial features
            that all paths go through.
        rank_at: Layer whose mean ranks the channels; else the pooling behind `layer`.
        drops: Budgets of clean validation accuracy, in points: a checkpoint where each is spent.
        channels: Numbers of channels: a checkpoint where so many are pruned.
        repairs: Methods that offer repaired nets; finetuning, which takes a minute or more for
            each net, also gives the calibrated GoodNet a score.
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
        min_clean_accuracy: Least clean accuracy of a net as given, 0 to 1; else a fifth of the
            way from guessing to always right: 0.6 of 2 classes, 0.28 of 10, 0.2 of 1,283.
        verify: Check the saved nets on a sample of every set or on all images.
        max_model_bytes: Largest file of a model that is opened, in bytes.
        max_parameters: Most parameters of a model that is loaded.
        max_minutes_per_model: Longest repair of one net; then it is ended, the net has failed, and
            the next audit goes on from its last stage.
        max_gigabytes_per_model: Most memory of the repair of one net, in 1,000,000,000 bytes.
        refresh: Compute again what is cached, and repair unchanged nets too.
        dask: Workers that take the nets: local or local:N on this machine, or the address of a
            Dask scheduler, tcp://HOST:PORT; else GOODNET_DASK, or one net at a time, here.
        artifacts: Folder for runs and cache; else GOODNET_ARTIFACTS, or artifacts/ of the project.
        audit_name: Name of the audit's folder; else the time.
    """
    given = dict(locals())  # which here are the parameters and nothing else
    chosen = {name: given[name] for name in CHOICE_PARAMETERS}
    read_records_alone()
    artifacts = (artifacts or DEFAULT_ARTIFACTS).resolve()
    folder = reserve_run_folder(artifacts, audit_name, kind="audits")
    name_run(models.resolve().name, folder.name)
    limits = Limits(max_false_alarm_rate, max_clean_accuracy_loss, max_attack_success_rate)
    require_measurable(max_attack_success_rate, poisoned_test)
    require_target(target, num_classes=None, poisoned=poisoned_test is not None)
    sets = {
        "clean_valid": clean_valid,
        "clean_test": clean_test,
        "poisoned_test": poisoned_test,
        "poisoned_valid": poisoned_valid,
    }
    files = sets | {"classes": classes}
    # A repair is known by the content of its files and by every choice that can change its results.
    known_otherwise = {"classes", *LIMIT_PARAMETERS}
    parameters = {name: chosen[name] for name in chosen.keys() - known_otherwise} | stage_versions()
    finished = FinishedRepairs(artifacts, files=files, parameters=parameters, refresh=refresh)
    options = sets | chosen | {"refresh": refresh, "artifacts": artifacts}
    allowance = Allowance(max_minutes_per_model, max_gigabytes_per_model)
    with submitting(dask, artifacts=artifacts) as submit:

        def begin(model: Path) -> Promise:
            """Have a net repaired, and remembered as soon as that is done."""
            work = {"model": model, **options}, allowance, finished.record(model)
            return submit(f"repair {model.name}", repair_and_remember, *work)

        every = find_models(models)
        begun = _begin_repairs(every, finished, begin)
        audited = [_audit_model(model, finished, begun, begin, limits) for model in every]
    publish_audit(folder, models.resolve().name, audited, limits)
    problems = find_problems(audited)
    if problems:
        return Failed(message=" ".join(problems))
    return Completed(message=f"{len(audited)} models, none failed or over a limit.")


def _begin_repairs(
    models: Sequence[Path], finished: FinishedRepairs, begin: Callable[[Path], Promise]
) -> dict[Path, Promise]:
    """Begin the repair of each net that needs one; of copies of a net, that of the first."""
    begun: dict[Path, Promise] = {}
    for model in models:
        with suppress(InputError):  # told when it is that net's turn
            require_inside(model)
            if finished.find(model) is None and finished.record(model) not in begun:
                begun[finished.record(model)] = begin(model)
    return begun


def _audit_model(
    model: Path,
    finished: FinishedRepairs,
    begun: dict[Path, Promise],
    begin: Callable[[Path], Promise],
    limits: Limits,
) -> AuditedModel:
    """Return what came of a net: its repair that was begun, a finished one, or one from now on."""
    state: Literal["unchanged", "repaired"] = "unchanged"
    try:
        require_inside(model)
        repair = begun.pop(finished.record(model), None)
        run = finished.find(model) if repair is None else None
        if run is None:
            state = "repaired"
            tell_began(printable(f"repair of {model.name}"))
            run = (repair or begin(model))()
    except InputError as error:
        return AuditedModel(model=model.name, state="failed", error=str(error))
    results = Results.read(RunFolder(run))
    return AuditedModel.of(model, state, run=run, results=results, limits=limits)
