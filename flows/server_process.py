"""The process of a temporary Prefect server; `flows.temporary_server` starts it."""

from __future__ import annotations

import os
import sys

from flows.processes import end_with_parent


def _serve(descriptor: int) -> None:
    import socket

    from goodnet.heavy_imports import importing

    os.umask(0o077)  # The database holds what was given to runs; it is for its owner alone.
    with importing():
        import uvicorn
        from prefect.server.api.server import create_app

        from flows.gate import guarded

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print("ready", flush=True)  # noqa: T201
                os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads on

    ours = socket.socket(fileno=descriptor)
    host, port = ours.getsockname()
    app = guarded(create_app(ephemeral=True, final=True), f"http://{host}:{port}")
    Server(uvicorn.Config(app, log_level="error", lifespan="on")).run(sockets=[ours])


if __name__ == "__main__":
    end_with_parent()
    _serve(int(sys.argv[1]))
