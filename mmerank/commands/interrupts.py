"""What Ctrl-C, and the SIGTERM that a scheduler sends before it kills, do to a command.

While libraries are imported and a model is looked for there is nothing to save, and a KeyboardInterrupt may vanish
in a library or come out as another error: there the process ends at once. In a run it is raised, so that what is
measured is written.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmerank.processes import INTERRUPTED

Handler = Callable[[int, Any], Any]


def end_at_once(number: int, frame: Any) -> None:
    """Say so and end the process, with exit status 130, as a handler of signals."""
    os.write(2, b"error: interrupted\n")
    os._exit(INTERRUPTED)


@contextmanager
def interrupts(handler: Handler) -> Iterator[None]:
    """Have both signals handled in this way while the block runs, unless they are ignored, as `nohup` has it.

    Args:
        handler: `end_at_once`, or `signal.default_int_handler`, which raises KeyboardInterrupt.

    Yields:
        For the block.
    """
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handler
        known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: kept for number, kept in known.items() if kept not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, kept in before.items():
            signal.signal(number, kept)
