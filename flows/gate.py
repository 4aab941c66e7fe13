"""What stands before our Prefect servers: they answer nobody but this machine's own addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Prefect's page asks a tracker for its settings, even where analytics are off.
_POLICY = b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data:"
SIGN_IN_PATH = "/goodnet-sign-in"
# Prefect's page keeps the password under this name. What follows # in an address stays in the
# browser, so that no log of requests has it.
_SIGN_IN = b"""<!doctype html><title>goodnet</title><script>
localStorage.setItem("prefect-password", btoa(decodeURIComponent(location.hash.slice(1))));
location.replace("/v2/runs");
</script>"""


def guarded(app: Callable[..., Any], address: str) -> Callable[..., Any]:
    """Return an ASGI application that asks who calls before `app` does.

    A page of another site can make a browser call this server. Such a call has the site's name as
    its Origin, or, if the site lets its name point to this machine, as its Host. Neither gets an
    answer. Prefect itself asks for the password.

    Args:
        app: the Prefect server.
        address: the one that it answers to, as `http://127.0.0.1:4200`.
    """
    host = address.removeprefix("http://").encode()

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
        elif not _is_ours(scope["headers"], host, address.encode()):
            await _refuse(scope, send, f"This server answers at {address} alone.\n".encode())
        elif scope["type"] == "http" and scope["path"] == SIGN_IN_PATH:
            await _answer(_confined(send), 200, b"text/html", _SIGN_IN)
        else:
            await app(scope, receive, _confined(send))

    return guard


def _is_ours(headers: list[tuple[bytes, bytes]], host: bytes, origin: bytes) -> bool:
    hosts = [value for name, value in headers if name == b"host"]
    origins = [value for name, value in headers if name == b"origin"]
    return hosts == [host] and origins in ([], [origin])


async def _refuse(scope: Any, send: Any, reason: bytes) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await _answer(send, 403, b"text/plain", reason)


async def _answer(send: Any, status: int, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _confined(send: Any) -> Any:
    """Return a `send` that tells browsers to call nobody but this server."""

    async def send_with_policy(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            policies = [(b"content-security-policy", _POLICY), (b"x-frame-options", b"DENY")]
            message["headers"] = [*message["headers"], *policies]
        await send(message)

    return send_with_policy
