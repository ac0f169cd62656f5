"""The page, served on this machine: what it may be asked for, how much may be sent, and nobody else's name for it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mmerank.errors import UsageError
from mmerank.jobs.explorer.measured import MAX_BYTES

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = MAX_BYTES * 4 // 3 + 200_000
PORTS = range(7860, 7880)
# gradio also uploads, reads and fetches files, tells of itself and takes part in editing; none of that is reachable.
_ASKED = (
    "/assets/",
    "/static/",
    "/theme.css",
    "/gradio_api/heartbeat/",
    "/gradio_api/queue/",
    "/gradio_api/theme.css",
)
_JOIN = "/gradio_api/queue/join"
_EXACTLY = ("/", "/config", "/favicon.ico", "/manifest.json", "/gradio_api/cancel", "/gradio_api/reset")

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]


class Guard:
    """What stands before gradio: few addresses, bodies of limited size and of plain values, and this host's names.

    Every input of the page is text or a number. gradio takes an object in their place for a file, which it would
    read or fetch, so that none is let through.

    Args:
        app: What is asked when all of that holds.
        hosts: Names in the Host header; another is that of a page elsewhere, pointed here. None for any.
    """

    def __init__(self, app: _App, hosts: tuple[str, ...] | None = LOOPBACK):
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        path, headers = scope["path"], dict(scope["headers"])
        if self._hosts is not None and _host(headers.get(b"host", b"").decode("latin1")) not in self._hosts:
            await _refuse(send, 421, "not a name of this page")
        elif not (path in _EXACTLY or path.startswith(_ASKED)):
            await _refuse(send, 404, "not on this page")
        elif scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif (body := await _body(receive)) is None:
            await _refuse(send, 413, "larger than may be sent")
        elif path == _JOIN and not _plain(body):
            await _refuse(send, 422, "expected text and numbers")
        else:
            await self._app(scope, _again(body, receive), send)


async def _body(receive: _Receive) -> bytes | None:
    """All of it; None where it is too large."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > MAX_BODY:
            return None
    return b"".join(parts)


def _again(body: bytes, receive: _Receive) -> _Receive:
    """What gives a body that was read already."""
    waiting = [body]

    async def given() -> _Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return given


def _plain(body: bytes) -> bool:
    try:
        values = json.loads(body)["data"]
        return isinstance(values, list) and not any(isinstance(value, (dict, list)) for value in values)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _host(header: str) -> str:
    name, colon, port = header.rpartition(":")
    return (name if colon and port.isdigit() else header).strip("[]").lower()


async def _refuse(send: _Send, status: int, why: str) -> None:
    body = why.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def bound(host: str, port: int | None) -> socket.socket:
    """A socket to serve on.

    Args:
        host: Name or address.
        port: None for the first free one of `PORTS`.

    Returns:
        Bound, not yet listening.

    Raises:
        UsageError: There is no such host, or the port is taken.
    """
    for candidate in PORTS if port is None else [port]:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
            found = socket.socket(family, kind)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            return found
        except OSError as error:
            reason = error.strerror or str(error)
    where = f"any port of {PORTS[0]} to {PORTS[-1]}" if port is None else f"port {port}"
    raise UsageError(f"--host {host}: cannot serve on {where} ({reason})")


def application(page: Any, host: str) -> _App:
    """Gradio's page behind the guard.

    Args:
        page: From `mmerank.jobs.explorer.page.blocks`.
        host: On which it is served.

    Returns:
        For uvicorn.
    """
    import gradio as gr
    from fastapi import FastAPI

    from mmerank.jobs.explorer.page import css, theme

    page.queue(max_size=32)
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=0,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=css(),
    )
    return Guard(app, LOOPBACK if host in LOOPBACK else None)


def server(page: Any, host: str) -> Any:
    """What serves the page.

    Args:
        page: As for `application`.
        host: Likewise.

    Returns:
        A `uvicorn.Server`; `run(sockets=[...])` serves until somebody interrupts or `should_exit` is set.
    """
    import uvicorn

    return uvicorn.Server(uvicorn.Config(application(page, host), log_level="error", access_log=False))


def without_telemetry() -> None:
    """Tell gradio before it is imported to send nothing."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
