"""What a terminal and a pipe are sent."""

from __future__ import annotations

import os
import re

import pytest

from tests import forked
from tests.conftest import LONGEST_S

ALIGN = ["-m", "mmerank", "align", "demo", "--data", "demo", "--limit", "3"]
# Foreground and background colours; bold and dim are not colours.
COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m")


def in_terminal(*, no_color: bool) -> str:
    pty = pytest.importorskip("pty")  # not on Windows
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "100"} | ({"NO_COLOR": "1"} if no_color else {})
    child = forked.Started(ALIGN, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(ours)
    assert child.wait(timeout=LONGEST_S) == 0
    return shown.decode()


def test_a_terminal_sees_speed_and_time_left_and_no_colour_if_it_wants_none() -> None:
    coloured, plain = in_terminal(no_color=False), in_terminal(no_color=True)
    assert COLOUR.search(coloured) and not COLOUR.search(plain)
    for shown in (coloured, plain):
        assert "samples/s" in shown and "tokens/s" in shown and re.search(r"0:00:0\d", shown)


def test_a_pipe_gets_plain_text() -> None:
    done = forked.run(ALIGN, timeout=LONGEST_S)
    assert done.returncode == 0 and "\x1b" not in done.stdout + done.stderr and "eRank5" in done.stdout
