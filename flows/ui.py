"""The command `python -m flows.ui`: a Prefect server with its UI, for this machine alone."""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import quote

from flows.gate import SIGN_IN_PATH, guarded
from flows.password import kept_password
from flows.settings import DEFAULT_ARTIFACTS, configure, prefect_home
from goodnet.command import Parser, exit_code
from goodnet.errors import InputError

_HOST = "127.0.0.1"
_DEFAULT_PORT = 4200
_GOODBYE_SECONDS = 3


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m flows.ui") -> int:
    """Serve until Ctrl-C; return 0, or 2 for what the user can mend."""
    port = vars(_parser(prog).parse_args(arguments))["port"]
    return exit_code(lambda: _run(port))


def _run(port: int | None) -> int:
    os.umask(0o077)  # The database holds what was given to runs; it is for its owner alone.
    with socket.socket() as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            _bind(ours, port)
        except (OSError, OverflowError) as error:
            raise InputError(f"port {port} cannot be had: {error}") from error
        _serve(ours, _configure(ours.getsockname()[1]))
    return 0


def _bind(ours: socket.socket, port: int | None) -> None:
    try:
        ours.bind((_HOST, _DEFAULT_PORT if port is None else port))
    except OSError:
        if port is not None:
            raise
        ours.bind((_HOST, 0))
    ours.listen()  # now: until then, another user of the machine could take the port as well


def _configure(port: int) -> str:
    """Set what the server reads from the environment; return its password.

    Among it is where its page finds its API. A password that the user has set stays.
    """
    address = f"http://{_HOST}:{port}"
    given = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    password = given or kept_password(prefect_home())
    settings = {
        "PREFECT_SERVER_API_HOST": _HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address,
        "PREFECT_SERVER_UI_API_URL": f"{address}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    os.environ.update(settings)
    configure(DEFAULT_ARTIFACTS.resolve())
    return password


def _serve(ours: socket.socket, password: str) -> None:
    from flows.server import announced, find_announced
    from flows.temporary_server import Server

    already = find_announced()
    if already:
        address = already.url.removesuffix("/api")
        _say(f"The Prefect UI is up already: {_sign_in(address, already.password or '')}")
        return

    import uvicorn
    from prefect.server.api.server import create_app

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            _say(f"Prefect UI: {_sign_in(address, password)}\nCtrl-C ends it.")

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Services of Prefect's that end before they have begun complain of it at length.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    # A signal may come when the server is made and does not run yet, which ends it in order too.
    warnings.filterwarnings("ignore", "coroutine 'Server.serve' was never awaited", RuntimeWarning)
    address = f"http://{_HOST}:{ours.getsockname()[1]}"
    config = uvicorn.Config(
        guarded(create_app(final=True), address),
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=_GOODBYE_SECONDS,
    )
    with announced(Server(f"{address}/api", password)), suppress(KeyboardInterrupt):
        Announcing(config).run(sockets=[ours])
    _say("The server has ended.")


def _sign_in(address: str, password: str) -> str:
    """Return an address that gives the password to the page; browsers send no part behind #."""
    return f"{address}{SIGN_IN_PATH}#{quote(password, safe='')}"


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
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
