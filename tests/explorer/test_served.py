"""What stands before the page lets little through: no other address, no large body, no object, no other name."""

from __future__ import annotations

import asyncio
import json
import socket
from importlib.util import find_spec
from typing import Any

import pytest

from mmerank.__main__ import main
from mmerank.commands import explore as command
from mmerank.errors import UsageError
from mmerank.jobs.explorer.served import LOOPBACK, MAX_BODY, Guard, bound

JOIN = "/gradio_api/queue/join"
FILE = {"path": "http://127.0.0.1:9/x", "meta": {"_type": "gradio.FileData"}}


def asked(method: str, path: str, body: bytes = b"", *, host: str = "127.0.0.1:7860", any_host: bool = False) -> Any:
    """The status, and the body that arrived behind the guard."""
    arrived: list[bytes] = []
    parts = [body[i : i + 4_000_000] for i in range(0, len(body), 4_000_000)] or [b""]
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        arrived.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [(b"host", host.encode())]}
    asyncio.run(Guard(app, None if any_host else LOOPBACK)(scope, receive, send))
    return sent[0]["status"], b"".join(arrived)


def test_the_page_is_let_through_and_its_body_arrives_whole() -> None:
    body = json.dumps({"data": ["a" * 9_000_000, 1.5, None], "fn_index": 0}).encode()
    assert asked("POST", JOIN, body) == (200, body)
    for path in ("/", "/config", "/assets/index.js", "/gradio_api/queue/data"):
        assert asked("GET", path)[0] == 200
    for host in ("localhost:7860", "[::1]:7860", "127.0.0.1"):
        assert asked("GET", "/", host=host)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload",
        "/gradio_api/file=/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/gradio_api/vibe-edit/",
        "/gradio_api/run/predict",
        "/gradio_api/call/x",
        "/gradio_api/component_server",
        "/monitoring",
        "/gradio_api/info",
        "/login",
    ],
)
def test_what_reads_fetches_or_tells_is_not_there(path: str) -> None:
    assert [asked(method, path)[0] for method in ("GET", "POST")] == [404, 404]


def test_bodies_are_limited_and_plain() -> None:
    assert asked("POST", JOIN, b"x" * (MAX_BODY + 1)) == (413, b"")
    for data in ([FILE], [[FILE]], [1, {}], {"a": 1}, None):
        assert asked("POST", JOIN, json.dumps({"data": data}).encode()) == (422, b"")
    for body in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000):
        assert asked("POST", JOIN, body) == (422, b"")


def test_another_name_is_refused_on_loopback_alone() -> None:
    for host in ("evil.example:7860", "127.0.0.1.evil.example", ""):
        assert asked("GET", "/", host=host)[0] == 421
        assert asked("GET", "/", host=host, any_host=True)[0] == 200


def test_a_port_is_free_taken_or_refused() -> None:
    with bound("127.0.0.1", None) as one:
        assert one.getsockname()[0] == "127.0.0.1"
        one.listen()
        with pytest.raises(UsageError, match=f"cannot serve on port {one.getsockname()[1]}"):
            bound("127.0.0.1", one.getsockname()[1])
        with bound("127.0.0.1", None) as another:
            assert another.getsockname()[1] != one.getsockname()[1]


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit:
        main(["explore", *arguments])
    assert isinstance(exit.value.code, int)
    return exit.value.code, capsys.readouterr().err


def test_the_command_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "gradio" else find_spec(name))
    status, told = failed(capsys)
    assert status == 2 and "pip install 'mmerank[explore]'" in told
    status, told = failed(capsys, "a", "b", "c")
    assert status == 2 and "at most 2 models" in told


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_the_command_warns_of_other_hosts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, host: str, warned: bool
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: True)
    told = []

    def stop(host: str, port: int | None) -> socket.socket:
        told.append(host)
        raise UsageError("stopped here")

    monkeypatch.setattr("mmerank.jobs.explorer.served.bound", stop)
    status, printed = failed(capsys, "--host", host)
    assert status == 2 and "stopped here" in printed and told == [host]
    assert ("warning: --host 0.0.0.0" in printed) is warned
