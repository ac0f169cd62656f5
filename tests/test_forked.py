"""What is forked does what a fresh interpreter does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONGEST_S
from tests.forked import Started, run

CODES = [
    "import os, sys; print(sys.argv, os.getcwd(), os.environ['GIVEN'], 'HOME' in os.environ, __name__, sys.path[0])",
    "import sys; sys.exit(3)",
    "import sys; sys.exit('a word')",
    "import sys; sys.exit(None)",
    "import os; os.kill(os.getpid(), 9)",
    "import os; os._exit(7)",
    "import atexit, sys; atexit.register(print, 'at the end'); sys.stdout.write('no end of line'); sys.exit(1)",
    "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('later'))).start()",
    "import sys; print(sys.stdin.read() == '', sys.stdout.isatty()); print('é', file=sys.stderr)",
    "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])",
    "import signal; print(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))",
]


@pytest.mark.parametrize("code", CODES)
def test_as_a_fresh_one(code: str, tmp_path: Path) -> None:
    given = {"GIVEN": "é", "PYTHONIOENCODING": "utf-8"}
    arguments = ["-c", code, "one", "two words"]
    fresh = subprocess.run(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=given,
    )
    done = run(arguments, timeout=LONGEST_S, cwd=tmp_path, env=given)
    assert (done.returncode, done.stdout, done.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)


def test_a_module_and_an_error() -> None:
    done = run(["-m", "json.tool", "--help"], timeout=LONGEST_S)
    assert done.returncode == 0 and "usage: " in done.stdout
    done = run(["-c", "1 / 0"], timeout=LONGEST_S)
    assert done.returncode == 1 and done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_it_runs_beside_others_and_has_signals() -> None:
    waits = ["-c", "import time; print('here', flush=True); time.sleep(1000)"]
    several = [Started(waits) for _ in range(3)]
    for started in several:
        assert started.stdout is not None and started.stdout.readline() == "here\n" and started.poll() is None
    assert len({started.pid for started in several} | {os.getpid()}) == 4
    for started, number in zip(several, (signal.SIGINT, signal.SIGTERM, signal.SIGKILL), strict=True):
        started.send_signal(number)
        assert started.wait(LONGEST_S) == -number
        started.send_signal(number)  # to nobody else
    with pytest.raises(subprocess.TimeoutExpired):
        run(waits, timeout=0.1)


def test_it_finds_modules_imported_and_limits_set() -> None:
    resource = pytest.importorskip("resource")
    code = "import resource, sys; print('torch' in sys.modules, resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    limits = {resource.RLIMIT_NOFILE: (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1])}
    assert run(["-c", code], timeout=LONGEST_S, limits=limits).stdout == "True 100\n"
