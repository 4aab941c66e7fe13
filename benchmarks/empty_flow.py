"""A flow whose tasks do nothing, started as the commands start theirs: what Prefect alone takes."""

from __future__ import annotations

import sys
from pathlib import Path

from flows.server_child import begun_server
from flows.settings import chosen_heartbeats


def main() -> None:
    """Run as many tasks as the second argument says, with Prefect's records in the first."""
    artifacts, number = Path(sys.argv[1]), int(sys.argv[2])
    with begun_server(artifacts) as begun:
        from prefect import flow, task

        from flows.server import connected

        @task
        def nothing() -> None:
            """Do nothing."""

        @flow
        def empty() -> None:
            for _ in range(number):
                nothing()

        with connected(begun=begun), chosen_heartbeats():
            empty()


if __name__ == "__main__":
    main()
