"""Processes that begin at once: Python's fork server has imported for them what takes seconds to import.

`run` and `Started` do what `subprocess.run` and `subprocess.Popen` do with `[sys.executable, *arguments]`, for tests
that need a process of its own (its exit status, its signals, its limits) and not a fresh interpreter. What one does
when it starts is done once for all: a `PYTHONPATH` or a `sitecustomize` of a test comes too late.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "mmerank.commands.app",
        "mmerank.jobs.align",
        "mmerank.jobs.diff",
        "mmerank.report.write",
        "mmerank_adapters.llava",
        "mmerank_adapters.minigpt_v2",
        "mmerank_adapters.causal_lm",
        "mmerank_adapters.multimodal",
        "torchvision.transforms.v2",
    ]
)


class Started:
    """A process that was started.

    Attributes:
        args: What Python was given.
        stdout: What it writes, where it was not told where to.
        stderr: As well.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        limits: Mapping[int, tuple[int, int]] | None = None,
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
        """
        self.args = list(arguments)
        with ExitStack() as ends:
            given = [ends.enter_context(open(os.devnull, "rb")).fileno() if stdin is None else stdin]  # noqa: PTH123
            self.stdout, given[1:] = _pipe(stdout, ends)
            self.stderr, given[2:] = _pipe(stderr, ends)
            self._process = _SERVER.Process(
                target=_run,
                args=(
                    [*map(DupFd, given)],
                    self.args,
                    str(cwd or Path.cwd()),
                    dict(os.environ if env is None else env),
                    dict(limits or {}),
                ),
            )
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its status as of `subprocess.Popen`; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Its status, where it has ended."""
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Its status, when it has ended; one that takes longer is killed."""
        self._process.join(timeout)
        if (status := self.returncode) is None:
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.args, timeout)
        return status

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it writes until it ends."""
        with ThreadPoolExecutor(2) as reading:
            texts = [reading.submit(pipe.read) if pipe else None for pipe in (self.stdout, self.stderr)]
            self.wait(timeout)
            out, err = (text.result() if text else "" for text in texts)
        for pipe in filter(None, (self.stdout, self.stderr)):
            pipe.close()
        return out, err

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


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
    from tests.conftest import LONGEST_S

    _, _, module, _, *rest = command
    # It ends with the process that started it, which here is the one that forks.
    code = "import os, runpy, sys; sys.argv[1:1] = [str(os.getppid())]; "
    code += f"runpy.run_module({module!r}, run_name='__main__')"
    out = {"stdout": log.fileno(), "stderr": log.fileno()}
    return run(["-c", code, *rest], timeout=LONGEST_S, env=environment, **out).returncode


def _pipe(descriptor: int | None, ends: ExitStack) -> tuple[IO[str] | None, list[int]]:
    """What is read of it, if it is not read elsewhere, and where to it is written."""
    if descriptor is not None:
        return None, [descriptor]
    ours, theirs = os.pipe()
    ends.callback(os.close, theirs)
    return open(ours, encoding="utf-8", errors="replace"), [theirs]  # noqa: PTH123


def _run(
    streams: Sequence[Any], arguments: Sequence[str], cwd: str, env: Mapping[str, str], limits: Mapping[int, Any]
) -> None:
    """Do what `python ARGUMENTS` does."""
    for i, stream in enumerate(streams):
        descriptor = stream.detach()
        os.dup2(descriptor, i)
        os.close(descriptor)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, of in limits.items():
        import resource

        resource.setrlimit(number, of)
    kind, what, *rest = arguments
    sys.argv = [kind, *rest]
    sys.path[0] = cwd if kind == "-m" else ""
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    except KeyboardInterrupt:  # which ends Python as the signal does
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        atexit._run_exitfuncs()
        for written in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                written.flush()
