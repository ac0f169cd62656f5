"""Ctrl-C and SIGTERM: at once before a run, as an exception within."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmerank.commands.interrupts import end_at_once, interrupts
from mmerank.commands.results import continued_from
from mmerank.errors import Interrupted
from tests.conftest import LONGEST_S

SIGNALS = [signal.SIGINT, signal.SIGTERM]
# A library that lets no exception through, as some do while they are imported.
SWALLOWS = """
import os, signal, sys
from mmerank import __main__

class Library:
    def app(self, *arguments, **keywords):
        try:
            os.kill(os.getpid(), signal.{name})
            sum(range(10**7))
        except BaseException:
            print("swallowed")

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.modules["mmerank.commands.app"] = Library()
__main__.main([])
"""


@pytest.mark.parametrize("sent", SIGNALS)
def test_before_a_run_the_process_ends_with_a_word(sent: signal.Signals) -> None:
    code = SWALLOWS.format(name=sent.name)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LONGEST_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize("sent", SIGNALS)
def test_within_a_run_it_is_an_exception_that_says_how_to_go_on(sent: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with interrupts(end_at_once):
        assert signal.getsignal(sent) is end_at_once
        with (
            pytest.raises(Interrupted, match="the same command continues from runs/x"),
            continued_from(Path("runs/x")),
        ):
            os.kill(os.getpid(), sent)
            sum(range(10**6))
        assert signal.getsignal(sent) is end_at_once
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interrupts(end_at_once):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
