"""The command `python -m flows.ui`: a Prefect server with its UI, for this machine alone."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from flows.settings import DEFAULT_ARTIFACTS, configure

_HOST = "127.0.0.1"
_DEFAULT_PORT = 4200
_GOODBYE_SECONDS = 3
# Prefect's page asks a tracker for its settings, even where analytics are off.
_POLICY = b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data:"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; return 0, or 2 for a port that cannot be had."""
    port = vars(_parser().parse_args(arguments))["port"]
    with socket.socket() as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            _bind(ours, port)
        except (OSError, OverflowError) as error:
            print(f"error: port {port} cannot be had: {error}", file=sys.stderr)  # noqa: T201
            return 2
        _configure(ours.getsockname()[1])
        _serve(ours)
    return 0


def _bind(ours: socket.socket, port: int | None) -> None:
    try:
        ours.bind((_HOST, _DEFAULT_PORT if port is None else port))
    except OSError:
        if port is not None:
            raise
        ours.bind((_HOST, 0))


def _configure(port: int) -> None:
    """Set what the server reads from the environment, among it where its page finds its API."""
    address = {
        "PREFECT_SERVER_API_HOST": _HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_API_URL": f"http://{_HOST}:{port}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    os.environ.update(address)
    configure(DEFAULT_ARTIFACTS.resolve())


def _serve(ours: socket.socket) -> None:
    from flows.server import announced, find_announced

    already = find_announced()
    if already:
        _say(f"The Prefect UI is up at {already.removesuffix('/api')} already.")
        return

    import uvicorn
    from prefect.server.api.server import create_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            _say(f"Prefect UI: {address}   (Ctrl-C ends it)")

    address = f"http://{_HOST}:{ours.getsockname()[1]}"
    config = uvicorn.Config(
        _confined(create_app(final=True)),
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=_GOODBYE_SECONDS,
    )
    # Else uvicorn would end the process by the signal itself, before the announcement is gone.
    signal.signal(signal.SIGTERM, _interrupt)
    with announced(f"{address}/api"), suppress(KeyboardInterrupt):
        Server(config).run(sockets=[ours])
    _say("The server has ended.")


def _confined(app: Any) -> Any:
    """Return an ASGI application that tells browsers to call nobody but this server."""

    async def confined(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", _POLICY),
                ]
            await send(message)

        await app(scope, receive, send_with_policy)

    return confined


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.ui",
        description="Start a Prefect server with its UI on this machine's loopback address. Runs "
        "that start while it is up use it.",
    )
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"port (default: {_DEFAULT_PORT}, or any other where that is taken)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
