"""A stand-in for the hub's HTTP API on this machine: repositories in memory, as much of it as is asked for."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_standin"


class Hub:
    """Data sets by name: whether they are private, and the files of each commit, the newest last."""

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.asked: list[str] = []

    def files(self, name: str) -> dict[str, bytes]:
        return list(self.commits[name].values())[-1]

    def add(self, name: str, files: dict[str, bytes], *, private: bool = False) -> None:
        self.private[name] = private
        known = self.commits.setdefault(name, {})
        known[hashlib.sha1(f"{name} {len(known)}".encode()).hexdigest()] = files

    def of(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        known = self.commits[name]
        commit = list(known)[-1] if revision == "main" else revision
        return (commit, known[commit]) if commit in known else None


@contextmanager
def hub_standin(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """The hub that huggingface_hub talks to while the block runs, with a token for it."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    root = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", root)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", root + template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_HEAD = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.hub.asked.append(f"{self.command} {'/'.join(path)}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "no token"})
        if path == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            private = asked.get("visibility") == "private" or bool(asked.get("private"))  # of different versions
            self.hub.add(name, {".gitattributes": b""}, private=private)
            return self._send(200, {"url": f"{self._root}/datasets/{name}"})
        if path == ["api", "validate-yaml"]:
            return self._send(200, {"errors": [], "warnings": []})
        path = path if path[0] in ("api", "datasets") else ["models", *path]  # which stand at the root
        name = "/".join(path[2:4] if path[0] == "api" else path[1:3])
        if name not in self.hub.commits:
            return self._send(404, {"error": "no such repository"}, {"X-Error-Code": "RepoNotFound"})
        match path[4:] if path[0] == "api" else path[3:]:
            case ["preupload", "main"]:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                return self._send(200, {"files": files})
            case ["commit", "main"]:
                return self._commit(name, [json.loads(line) for line in body.splitlines()])
            case ["tree" | "revision" as kind, *revision]:
                return self._list(name, kind, "/".join(revision))
            case []:
                return self._list(name, "revision", "main")
            case ["resolve", revision, *file]:
                return self._file(name, revision, "/".join(file))
        return self._send(404, {"error": f"not of the stand-in: {self.path}"})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.hub.files(name))
        for line in lines:
            if line["key"] == "deletedFile":
                del files[line["value"]["path"]]
            elif line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.hub.add(name, files, private=self.hub.private[name])
        commit = list(self.hub.commits[name])[-1]
        self._send(200, {"commitUrl": f"{self._root}/datasets/{name}/commit/{commit}", "commitOid": commit})

    def _list(self, name: str, kind: str, revision: str) -> None:
        found = self.hub.of(name, revision)
        if found is None:
            return self._send(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        commit, files = found
        if kind == "tree":
            return self._send(
                200, [{"type": "file", "path": path, "size": len(of), "oid": _oid(of)} for path, of in files.items()]
            )
        listed = [{"rfilename": path} for path in files]
        return self._send(
            200, {"id": name, "sha": commit, "private": self.hub.private[name], "tags": [], "siblings": listed}
        )

    def _file(self, name: str, revision: str, file: str) -> None:
        found = self.hub.of(name, revision)
        if found is None or file not in found[1]:
            return self._send(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
        content = found[1][file]
        self._send(200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": found[0]})

    @property
    def _root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
