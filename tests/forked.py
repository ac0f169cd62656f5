"""Processes that begin at once: forks of one that has imported what takes seconds to import.

`run` and `Started` do what `subprocess.run` and `subprocess.Popen` do with `[sys.executable, *arguments]`, for tests
that need a process of its own (its exit status, its signals, its limits) and not a fresh interpreter. What one does
when it starts is done once for all: a `PYTHONPATH` or a `sitecustomize` of a test comes too late.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

# What commands import before they do anything.
COMMANDS = (
    "mmerank.commands.app",
    "mmerank.jobs.align",
    "mmerank.jobs.diff",
    "mmerank.report.write",
    "mmerank_adapters.llava",
    "mmerank_adapters.minigpt_v2",
    "mmerank_adapters.causal_lm",
    "mmerank_adapters.multimodal",
    "torchvision.transforms.v2",
)
_HEAD = 8  # bytes of a request that say how long the rest is


class Started:
    """A process that was started.

    Attributes:
        pid: Its number.
        returncode: As of `subprocess.Popen`; None while it runs, as far as was looked.
        stdout: What it writes, where it was not told where to.
        stderr: As well.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdin: int = -1,
        stdout: int = -1,
        stderr: int = -1,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        limits: Mapping[int, tuple[int, int]] | None = None,
        imported: tuple[str, ...] = COMMANDS,
    ) -> None:
        """Start it.

        Args:
            arguments: What Python is given: `-m MODULE` or `-c CODE`, and its arguments.
            stdin: A descriptor; by default it reads nothing.
            stdout: As well; by default a pipe.
            stderr: As well.
            cwd: Where it runs.
            env: Its environment.
            limits: By resource.
            imported: Modules that it finds imported.
        """
        self._status, theirs = os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        given, opened = [nothing if stdin < 0 else stdin], [nothing, theirs]
        pipes: list[IO[str] | None] = []
        for descriptor in (stdout, stderr):
            if descriptor < 0:
                ours, descriptor = os.pipe()
                opened.append(descriptor)
                pipes.append(open(ours, encoding="utf-8", errors="replace"))  # noqa: PTH123
            else:
                pipes.append(None)
            given.append(descriptor)
        self.stdout, self.stderr = pipes
        self.args = list(arguments)
        asked = {
            "arguments": self.args,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "limits": [[number, *of] for number, of in (limits or {}).items()],
        }
        content = json.dumps(asked).encode()
        server = _server(imported)
        socket.send_fds(server, [len(content).to_bytes(_HEAD, "big")], [*given, theirs])
        server.sendall(content)
        for descriptor in opened:
            os.close(descriptor)
        self.pid = int.from_bytes(_read(self._status, _HEAD), "big")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its status, where it has ended."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = self._ended()
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Its status, when it has ended; one that takes longer is killed."""
        if self.returncode is None:
            late = not select.select([self._status], [], [], timeout)[0]
            if late:
                self.kill()
            self.returncode = self._ended()
            if late:
                raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it writes until it ends."""
        with ThreadPoolExecutor(2) as reading:
            texts = [reading.submit(_all, pipe) if pipe else None for pipe in (self.stdout, self.stderr)]
            self.wait(timeout)
            out, err = (text.result() if text else "" for text in texts)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def _ended(self) -> int:
        status = os.waitstatus_to_exitcode(int.from_bytes(_read(self._status, _HEAD), "big"))
        os.close(self._status)
        return status


def run(arguments: Sequence[str], *, timeout: float, **how: Any) -> subprocess.CompletedProcess[str]:
    """Start a process, and wait until it ends.

    Args:
        arguments: As of `Started`.
        timeout: Seconds after which it is killed.
        **how: As of `Started`.

    Returns:
        What `subprocess.run` gives.
    """
    started = Started(arguments, **how)
    out, err = started.communicate(timeout)
    return subprocess.CompletedProcess(started.args, started.wait(timeout), out, err)


def cell(command: Sequence[str], log: IO[bytes], environment: Mapping[str, str]) -> int:
    """The process of a cell of a study, in place of `mmerank.jobs.cells._status`; its status.

    Args:
        command: Python, and what it is given.
        log: Where to it writes.
        environment: Its own.

    Returns:
        As `_status` has it.
    """
    from tests.conftest import LONGEST_S  # which has things done that the process that forks must not do

    _, _, module, _, *rest = command
    # It ends with the process that started it, which here is the one that forks.
    code = "import os, runpy, sys; sys.argv[1:1] = [str(os.getppid())]; "
    code += f"runpy.run_module({module!r}, run_name='__main__')"
    out = {"stdout": log.fileno(), "stderr": log.fileno()}
    return run(["-c", code, *rest], timeout=LONGEST_S, env=environment, **out).returncode


@cache
def _server(imported: tuple[str, ...]) -> socket.socket:
    """The process that forks; it ends when nobody can ask it any more."""
    ours, its = socket.socketpair()
    with its:
        subprocess.Popen(
            [sys.executable, "-m", "tests.forked", str(its.fileno()), *imported],
            pass_fds=[its.fileno()],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # a fork has one thread, and would wait for the others
        )
    return ours


def _all(pipe: IO[str]) -> str:
    with pipe:
        return pipe.read()


def _read(descriptor: int, count: int) -> bytes:
    content = b""
    while len(content) < count:
        if not (more := os.read(descriptor, count - len(content))):
            raise EOFError("the process that forks is gone")
        content += more
    return content


def _serve(asking: socket.socket) -> dict[str, Any]:
    """Fork for whoever asks; returns in the forks alone, with what they are to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        head, descriptors, *_ = socket.recv_fds(asking, _HEAD, 4)
        if not head:
            os._exit(0)
        asked: dict[str, Any] = json.loads(_read(asking.fileno(), int.from_bytes(head, "big")))
        if os.fork() == 0:
            asking.close()
            if _forked(descriptors):
                return asked
        for descriptor in descriptors:
            os.close(descriptor)


def _forked(descriptors: Sequence[int]) -> bool:
    """Fork once more: true in the process that is wanted; the other one says what became of it, and ends."""
    *streams, status = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if child := os.fork():
        for descriptor in streams:
            os.close(descriptor)
        os.write(status, child.to_bytes(_HEAD, "big"))
        os.write(status, os.waitpid(child, 0)[1].to_bytes(_HEAD, "big"))
        os._exit(0)
    os.close(status)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for i, descriptor in enumerate(streams):
        os.dup2(descriptor, i)
        os.close(descriptor)
    return True


def _run(asked: dict[str, Any]) -> int:
    """Do what `python ARGUMENTS` does; its status."""
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    if asked["limits"]:
        import resource

        for number, *of in asked["limits"]:
            resource.setrlimit(number, tuple(of))
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), line_buffering=os.isatty(1))
    sys.stderr = io.TextIOWrapper(open(2, "wb", closefd=False), errors="backslashreplace", line_buffering=True)
    kind, what, *rest = asked["arguments"]
    sys.argv = [kind, *rest]
    sys.path[0] = asked["cwd"] if kind == "-m" else ""
    status: Any = 0
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    except SystemExit as ended:
        status = ended.code
        if not isinstance(status, int | None):
            print(status, file=sys.stderr)
            status = 1
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return status or 0


def _end(status: int) -> None:
    """What an interpreter does at its end, but for the second that it takes all modules apart."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    for _name in sys.argv[2:]:
        importlib.import_module(_name)
    gc.freeze()
    _end(_run(_serve(socket.socket(fileno=int(sys.argv[1])))))
