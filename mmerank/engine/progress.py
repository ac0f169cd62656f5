"""How far a run is, on stderr: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmerank.errors import printable
from mmerank.processes import PACE

LINE_EVERY_S = 30.0


class Meter:
    """Counts samples and tokens, and shows samples/s, tokens/s and the time left.

    Args:
        title: What is being done.
        total: Number of samples, if known.
        done: How many of them an earlier run has done.
        shown: Whether to show anything.
    """

    def __init__(self, title: str, total: int | None, *, done: int = 0, shown: bool = True):
        self._title = title = printable(title)
        self._total = total
        self._done = self._began_with = done
        self._samples = self._tokens = 0
        self._console = Console(stderr=True)
        self._lines = shown and not self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),  # names may hold brackets
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not shown or self._lines,
        )
        # In a terminal of 80 columns the numbers matter more than the whole of a long name.
        shown_title = title if len(title) <= 24 else f"{title[:6]}…{title[-17:]}"
        self._task = self._bar.add_task(shown_title, total=total, completed=done, speed="")

    def __enter__(self) -> Meter:
        self._start = self._last_line = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        self._note_pace()
        if self._lines and self._last_line > self._start:
            self._print_line()

    def advance(self, tokens: int) -> None:
        """Count one sample.

        Args:
            tokens: LLM positions computed for it.
        """
        self._samples += 1
        self._tokens += tokens
        self._bar.update(self._task, completed=self._done + self._samples, speed=self._speed())
        if self._lines and time.monotonic() - self._last_line > LINE_EVERY_S:
            self._print_line()

    def known(self, done: int) -> None:
        """Take over how many samples are done by now, whoever did them.

        Args:
            done: Their number.
        """
        self._done = max(self._done, done - self._samples)

    def _note_pace(self) -> None:
        if (file := os.environ.get(PACE)) and self._samples:
            seconds = round(time.monotonic() - self._start, 3)
            line = {"title": self._title, "samples": self._samples, "total": self._total, "seconds": seconds}
            with suppress(OSError), Path(file).open("a", encoding="utf-8") as pace:
                pace.write(json.dumps(line) + "\n")

    def _speed(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        return f"{self._samples / seconds:.3g} samples/s, {self._tokens / seconds:,.0f} tokens/s"

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        left = ""
        if self._total and self._samples:
            remaining = self._total - self._done - self._samples
            since_start = self._done + self._samples - self._began_with
            seconds = (self._last_line - self._start) / since_start * remaining
            left = f", about {seconds / 60:.1f} min left"
        of = f"/{self._total}" if self._total else ""
        line = f"{self._title}: {self._done + self._samples}{of}, {self._speed()}{left}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
