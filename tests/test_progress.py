import time

from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.settings import temporary_settings

from tasks.progress import listeners, listening, progress, tell_began


class Listening:
    def __init__(self):
        self.heard = []

    def advanced(self, stage, done, total):
        self.heard.append((stage, done, total))

    def finished(self, stage):
        self.heard.append((stage, "finished"))

    def began(self, stage):
        self.heard.append((stage, "began"))

    def ended(self):
        self.heard.append("ended")


def test_a_long_stage_shows_its_progress_and_a_short_one_does_not(server_settings, monkeypatch):
    listening = Listening()
    monkeypatch.setattr("tasks.progress.listeners", [*listeners, listening])

    @task
    def work(stage, pause):
        with progress(stage) as advance:
            advance(1, 3)
            time.sleep(pause)
            advance(2, 3)
            advance(3, 3)

    @flow
    def working():
        work("short stage", 0)
        work("long stage", 2.1)

    keys = ArtifactFilterKey(any_=["short-stage", "long-stage"])
    with temporary_settings(server_settings):
        working()
        with get_client(sync_client=True) as client:
            (artifact,) = client.read_artifacts(artifact_filter=ArtifactFilter(key=keys))
    assert (artifact.key, artifact.type, artifact.data) == ("long-stage", "progress", 100)
    assert listening.heard[4:] == [
        ("long stage", 1, 3), ("long stage", 2, 3), ("long stage", 3, 3), ("long stage", "finished")
    ]  # fmt: skip


def test_whoever_listens_is_told_of_each_stage(server_settings, monkeypatch):
    from tasks.caching import always_run

    listening = Listening()
    monkeypatch.setattr("tasks.progress.listeners", [listening])

    @task(name="one", **always_run())
    def one():
        return 1

    @task(name="two", task_run_name="two of {what}", **always_run())
    def two(what):
        return 2

    @flow
    def staged():
        one()
        two("these")

    with temporary_settings(server_settings):
        staged()
    assert listening.heard == [("one", "began"), "ended", ("two of these", "began"), "ended"]


def test_a_listener_is_told_of_its_own_block_alone():
    listener = Listening()
    with listening(None), listening(listener):
        tell_began("inside")
    tell_began("outside")
    assert listener.heard == [("inside", "began"), "ended"]
    assert listener not in listeners
