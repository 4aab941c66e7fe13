"""What a run is called in Prefect, and its tags."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from goodnet.errors import printable


def name_run(*words: str) -> None:
    """Call the run of this flow by what it works on and the name of its folder."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=printable(" ".join(words)))


def tag_run(**tags: str) -> None:
    """Add tags `name:value` to those of the run of this flow."""
    added = [printable(f"{name}:{value}") for name, value in tags.items()]
    with get_client(sync_client=True) as client:
        known = client.read_flow_run(flow_run.id).tags
        client.update_flow_run(flow_run.id, tags=[*known, *added])
