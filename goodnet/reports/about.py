"""What tells one run from another: run.json."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import inf
from pathlib import Path

from goodnet.reports.reading import (
    as_list,
    as_mapping,
    as_number,
    as_text,
    as_texts,
    as_whole,
    optional,
    reading,
)
from goodnet.storage.files import read_json, write_json
from goodnet.storage.run_folder import RunFolder, git_commit, software_versions


@dataclass(frozen=True)
class Input:
    """A file that was given.

    Attributes:
        path: where it was.
        sha256: of its content.
        size: in bytes.
        images: how many it holds; None for a net, and in runs that did not say.
    """

    path: str
    sha256: str
    size: int
    images: int | None = None


@dataclass(frozen=True)
class StageRun:
    """One time that a stage ran.

    Attributes:
        name: of the stage.
        seconds: wall time.
        state: how it ended.
        megabytes: the most memory that its process had used by then; None in runs that did not say.
    """

    name: str
    seconds: float
    state: str
    megabytes: float | None = None


@dataclass(frozen=True)
class StageTime:
    """How long a stage took, all times that it ran together.

    Attributes:
        name: of the stage.
        seconds: wall time.
        megabytes: the most memory that its process had used by the last time's end, if known.
        states: how it ended, with the number of times where it ran more than once.
    """

    name: str
    seconds: float
    megabytes: float | None
    states: str


@dataclass(frozen=True, kw_only=True)
class About:
    """What a run was given, with what it ran, and how long it took.

    Attributes:
        run: its name.
        parameters: of the flow.
        layer: whose channels were pruned; None in runs that did not say.
        rank_at: where the channels were ranked; None in runs that did not say.
        chosen: who chose these two, in words; None in runs that did not say.
        inputs: the files by role, the net's first.
        versions: of the software.
        git_commit: of the source tree that ran, if it was one.
        stages: each time that a stage ran, in this order.
    """

    run: str
    parameters: Mapping[str, object]
    layer: str | None
    rank_at: str | None
    chosen: Mapping[str, str] | None
    inputs: Mapping[str, Input]
    versions: Mapping[str, str]
    git_commit: str | None
    stages: Sequence[StageRun]

    @property
    def net(self) -> str:
        """The name of B; that of the run where it is not known."""
        if self.parameters.get("model", "") is None:  # B is then a file of the cache
            return net_name(None)
        given = self.inputs.get("model")
        return self.run if given is None else net_name(Path(given.path))

    @classmethod
    def of(
        cls,
        run: str,
        *,
        parameters: Mapping[str, object],
        layer: str,
        rank_at: str,
        inputs: Mapping[str, Input],
        stages: Sequence[StageRun],
    ) -> About:
        """Describe a run of this software; the arguments are the attributes of that name."""
        asked = {name: parameters.get(name) is not None for name in ("layer", "rank_at")}
        return cls(
            run=run,
            parameters=parameters,
            layer=layer,
            rank_at=rank_at,
            chosen={name: "as asked" if one else "by default" for name, one in asked.items()},
            inputs=inputs,
            versions=software_versions(),
            git_commit=git_commit(),
            stages=stages,
        )

    @classmethod
    def read(cls, folder: RunFolder) -> About:
        """Read run.json.

        Raises:
            InputError: it is damaged or of another kind.
        """
        with reading(folder.about) as path:
            found = as_mapping(read_json(path))
            return cls(
                run=as_text(found.get("run", folder.path.resolve().name)),
                parameters=as_mapping(found["parameters"]),
                layer=optional(found.get("layer"), as_text),
                rank_at=optional(found.get("rank_at"), as_text),
                chosen=optional(found.get("chosen"), as_texts),
                inputs={
                    role: _read_input(given)
                    for role, given in as_mapping(found["inputs"]).items()
                    if given is not None
                },
                versions=as_texts(found["versions"]),
                git_commit=optional(found.get("git_commit"), as_text),
                stages=as_list(found.get("stages", ()), _read_stage),
            )

    def write(self, folder: RunFolder) -> None:
        """Write run.json."""
        seconds = round(sum(stage.seconds for stage in self.stages), 3)
        write_json(
            folder.about,
            {
                "run": self.run,
                "seconds": seconds,
                "parameters": self.parameters,
                "layer": self.layer,
                "rank_at": self.rank_at,
                "chosen": self.chosen,
                "inputs": {role: asdict(given) for role, given in self.inputs.items()},
                "versions": self.versions,
                "git_commit": self.git_commit,
                "stages": [asdict(stage) for stage in self.stages],
            },
        )


def net_name(model: Path | None) -> str:
    """Return what people call the net of a run: its file's stem; that of the default has none."""
    return "rendered faces" if model is None else model.stem


def stage_times(stages: Sequence[StageRun]) -> list[StageTime]:
    """Return the time of each stage in the order in which they first ran."""
    runs: dict[str, list[StageRun]] = defaultdict(list)
    for stage in stages:
        runs[stage.name].append(stage)
    return [
        StageTime(name, sum(one.seconds for one in times), times[-1].megabytes, _states(times))
        for name, times in runs.items()
    ]


def _states(times: Sequence[StageRun]) -> str:
    if len(times) == 1:
        return times[0].state
    numbers = Counter(stage.state for stage in times)
    return ", ".join(f"{number} × {state}" for state, number in numbers.items())  # noqa: RUF001


def _read_input(value: object) -> Input:
    found = as_mapping(value)
    return Input(
        path=as_text(found["path"]),
        sha256=as_text(found["sha256"]),
        size=as_whole(found["size"]),
        images=optional(found.get("images"), as_whole),
    )


def _read_stage(value: object) -> StageRun:
    found = as_mapping(value)
    seconds = as_number(found["seconds"], most=inf)
    megabytes = optional(found.get("megabytes"), partial(as_number, most=inf))
    return StageRun(as_text(found["name"]), seconds, as_text(found["state"]), megabytes)
