"""The loop around a probe: what is done already, what is skipped, parts written, progress shown."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import ExitStack

from mmerank.computing import Computing
from mmerank.engine.batches import WINDOW
from mmerank.engine.measurement import Measured
from mmerank.engine.progress import Meter
from mmerank.errors import DataError, RunFolderError
from mmerank.inputs.contents import difference
from mmerank.inputs.example import Example, Skipped, unique
from mmerank.inputs.pictures import MAX_PIXELS
from mmerank.processes import rank
from mmerank.runs.folder import RunFolder
from mmerank.runs.record import Record

# What an interruption that nothing can catch may cost.
PART_SECONDS = 30.0
# Of processes that work together: enough that none waits long for the last share of another.
SHARES_PER_PROCESS = 8
# So many examples in a row that could not be read, or that the model makes nothing of, are no accident.
SUSPECT_IN_A_ROW = 8
# Nor are so many one after the other, wherever they stand in the data: batches take them in another order.
SUSPECT_ON_END = 32


def collect(
    measure: Callable[[Iterable[Example | Skipped]], Iterator[Measured | Skipped]],
    examples: Iterable[Example | Skipped],
    *,
    model: str,
    job: str,
    computing: Computing,
    folder: RunFolder | None = None,
) -> tuple[list[Record], list[Skipped]]:
    """All records of a model, those of an earlier run included, and the skipped examples in the data's order.

    Processes that were started together and have a run folder share the work: each takes what nobody else has,
    a share of consecutive examples at a time, and all of them return everything. What a process that died had taken
    is free again, so another one takes it.

    Args:
        measure: Examples -> one result for each.
        examples: The data.
        model: Name that the records carry.
        job: What is being done, for the progress bar.
        computing: Whether to raise at the first skip, and whether to show progress on stderr.
        folder: Where records are kept; examples that it has are not measured again. Those that were skipped are
            tried again.

    Returns:
        Records in no particular order, and skips.

    Raises:
        DataError: An example was skipped, and `computing` is strict; or so many in a row that the disk, the network
            or the model must be at fault.
        RunFolderError: Another process writes to the folder, it cannot be written, or it has records of other
            examples of these ids.
    """
    strict, shown = computing.strict, computing.progress and rank().leads
    total = len(examples) if isinstance(examples, Sized) else None
    if folder is None:
        with Meter(f"{job} {model}", total, shown=shown) as meter:
            work = _Work(measure, model, None, strict, meter)
            work.do(unique(examples))
            return work.records, work.skipped_in_order()
    entries: Iterable[Example | Skipped] = unique(examples)
    if total is not None or rank().count > 1:  # of a stream, which is held nowhere, processes cannot take shares
        entries = list(entries)
    with folder.writing(), Meter(f"{job} {model}", total, done=len(folder.done(model)), shown=shown) as meter:
        work = _Work(measure, model, folder, strict, meter)
        if isinstance(entries, list):
            _check_contents(folder, entries)
        if isinstance(entries, list) and rank().count > 1:
            work.do_with_others(entries)
        else:
            work.do(entries if isinstance(entries, list) else _checked(folder, entries))
        records = [record for record in folder.records(model) if record.example in work.order]
        return records, work.skipped_in_order()


def _check_contents(folder: RunFolder, examples: Iterable[Example | Skipped]) -> None:
    """Refuse examples that are not those that a folder has records of: numbers of both would stand side by side."""
    for _ in _checked(folder, examples):
        pass


def _checked(folder: RunFolder, examples: Iterable[Example | Skipped]) -> Iterator[Example | Skipped]:
    """The examples, each as it is come to; an error at the first that a folder has other records of."""
    known = folder.contents()
    most = folder.settings.get("max_pixels", MAX_PIXELS)
    for entry in examples:
        if isinstance(entry, Example) and entry.id in known:
            if unlike := difference(entry, known[entry.id], max_pixels=most):
                raise RunFolderError(
                    f"{folder.path}: example {entry.id!r} is not the one that was measured: {unlike}; name another "
                    "folder"
                )
        yield entry


class _Work:
    """What one process measures of a data set."""

    def __init__(
        self,
        measure: Callable[[Iterable[Example | Skipped]], Iterator[Measured | Skipped]],
        model: str,
        folder: RunFolder | None,
        strict: bool,
        meter: Meter,
    ):
        self._measure = measure
        self._model = model
        self._folder = folder
        self._strict = strict
        self._meter = meter
        self.order: dict[str, int] = {}
        self.records: list[Record] = []  # where no folder has them
        self._skipped: list[Skipped] = []
        self._suspects = _Suspects()

    def do(self, entries: Iterable[Example | Skipped]) -> None:
        """Measure what of `entries` is not done."""
        done = self._folder.done(self._model) if self._folder else set()

        def missing() -> Iterator[Example | Skipped]:
            for entry in entries:
                place = self.order.setdefault(entry.id, len(self.order))
                if isinstance(entry, Skipped) or entry.id not in done:
                    yield entry
                else:
                    self._suspects.done(place)

        results = self._measure(missing())
        with ExitStack() as stack, _Parts(self._folder) as parts:
            if isinstance(results, Generator):  # which gives the model back as it was, also after an error here
                stack.callback(results.close)
            for result in results:
                if isinstance(result, Skipped):
                    self._skip(result)
                    continue
                self._suspects.good(self.order[result.id])
                if self._folder is None:
                    self.records.extend(result.records)
                else:
                    parts.add(result.records)
                self._meter.advance(result.tokens)

    def _skip(self, entry: Skipped) -> None:
        if self._strict:
            raise DataError(f"example {entry.id!r}: {entry.reason} (strict: no example may be skipped)")
        if entry.suspect is None:
            self._suspects.passed_over(self.order[entry.id])
        elif many := self._suspects.add(self.order[entry.id]):
            what = {"model": "measured", "transform": "transformed"}.get(entry.suspect, "read")
            raise DataError(f"{many} examples in a row could not be {what}, the last, {entry.id!r}: {entry.reason}")
        self._skipped.append(entry)
        self._meter.advance(0)

    def do_with_others(self, entries: list[Example | Skipped]) -> None:
        """Measure, share by share, what nobody else has measured; wait for what others are measuring."""
        assert self._folder is not None
        for entry in entries:
            self.order.setdefault(entry.id, len(self.order))
        size = min(max(len(entries) // (SHARES_PER_PROCESS * rank().count), 1), WINDOW)
        starts = list(range(0, len(entries), size))
        # Each begins somewhere else.
        own = len(starts) * rank().index // rank().count
        waiting = starts[own:] + starts[:own]
        named = hashlib.sha256(self._model.encode()).hexdigest()[:8]
        for wait in (False, True):
            for start in list(waiting):
                with self._folder.share(f"{named}-{size}-{start}", wait=wait) as is_ours:
                    if is_ours:
                        self._meter.known(len(self._folder.done(self._model)))
                        self.do(entries[start : start + size])
                        waiting.remove(start)

    def skipped_in_order(self) -> list[Skipped]:
        """Skipped examples, in the data's order."""
        return sorted(self._skipped, key=lambda entry: self.order[entry.id])


class _Suspects:
    """Examples that failed for a reason that may be everybody's, by their place in the data.

    What an earlier run has done counts as good, so that a run that came to its end can be run again: in it, no more
    of them stood in a row. Examples that were skipped for a reason of their own say nothing.
    """

    def __init__(self) -> None:
        self._good: dict[int, bool | None] = {}  # by place; None says nothing, no entry: not known yet
        self._before: set[int] = set()  # done by others, or in an earlier run
        self._on_end = 0
        self._last = 0

    def done(self, place: int) -> None:
        self._good[place] = True
        self._before.add(place)

    def good(self, place: int) -> None:
        self._good[place] = True
        self._on_end = 0

    def passed_over(self, place: int) -> None:
        self._good.setdefault(place, None)

    def add(self, place: int) -> int:
        """How many are in a row with this one, where that is too many; else 0."""
        self._good[place] = False
        row = 1 + self._beside(place, 1) + self._beside(place, -1)
        between = range(min(place, self._last), max(place, self._last))
        self._on_end = 1 + (0 if any(i in self._before for i in between) else self._on_end)
        self._last = place
        if row >= SUSPECT_IN_A_ROW:
            return row
        return self._on_end if self._on_end >= SUSPECT_ON_END else 0

    def _beside(self, place: int, step: int) -> int:
        """How many stand beside a place in one direction, as far as it is known."""
        count, at = 0, place + step
        while self._good.get(at, True) is not True and count < SUSPECT_IN_A_ROW:
            count += self._good[at] is False
            at += step
        return count


class _Parts:
    """Collects finished records and writes them to the run folder now and then, and whenever the loop ends."""

    def __init__(self, folder: RunFolder | None):
        self._folder = folder
        self._waiting: list[Record] = []
        self._written = time.monotonic()

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._write()
        except KeyboardInterrupt:
            # The first interruption lets the part be finished, the second does not.
            if kind is not KeyboardInterrupt:
                self._write()
            raise

    def add(self, records: Iterable[Record]) -> None:
        self._waiting.extend(records)
        if time.monotonic() - self._written > PART_SECONDS:
            self._write()

    def _write(self) -> None:
        try:
            if self._folder is not None:
                self._folder.write(self._waiting)
        except RunFolderError:
            self._waiting = []  # not once more on the way out
            raise
        # Only now: an interruption in the middle of writing must not lose them. Written twice, they count once.
        self._waiting = []
        self._written = time.monotonic()
