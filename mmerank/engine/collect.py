"""The loop around a probe: what is done already, what is skipped, parts written, progress shown."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from threading import Lock
from typing import Generic, Protocol, TypeVar

from mmerank.engine.batches import WINDOW, Budget, batches, free_memory, is_out_of_memory, windows
from mmerank.engine.progress import Meter
from mmerank.engine.workers import Workers
from mmerank.errors import DataError, RunFolderError
from mmerank.inputs.contents import difference
from mmerank.inputs.example import Example, Skipped, unique
from mmerank.inputs.pictures import MAX_PIXELS
from mmerank.processes import rank
from mmerank.runs.folder import RunFolder
from mmerank.runs.record import Record


class Item(Protocol):
    """What a batch is made of."""

    @property
    def id(self) -> str:
        """Of the example."""
        ...


Prepared = TypeVar("Prepared", bound=Item)
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")
# The results of a batch that the model has been given.
Finish = Callable[[], "Iterable[Measured | Skipped]"]

# What an interruption that nothing can catch may cost.
PART_SECONDS = 30.0
# Of processes that work together: enough that none waits long for the last share of another.
SHARES_PER_PROCESS = 8
# So many examples in a row that could not be read, or that the model makes nothing of, are no accident.
SUSPECT_IN_A_ROW = 8
# Nor are so many one after the other, wherever they stand in the data: batches take them in another order.
SUSPECT_ON_END = 32


@dataclass(frozen=True)
class Measured:
    """One example's records, and how many positions the LLM computed for them."""

    id: str
    records: tuple[Record, ...]
    tokens: int


def in_batches(
    examples: Iterable[Example | Skipped],
    *,
    prepare: Callable[[Example], Prepared | Skipped],
    length: Callable[[Prepared], int],
    load: Callable[[Prepared], Loaded | Skipped],
    start: Callable[[list[Loaded]], Finish],
    budget: Budget,
    workers: Workers,
) -> Iterator[Measured | Skipped]:
    """Results of a probe that prepares its examples one by one and runs them in batches of similar length.

    With workers, examples are prepared and loaded ahead of the model, and the results of a batch are made while the
    model runs the next one. A batch that does not fit in memory is run again in halves, and later ones are made no
    larger; an example that does not fit alone is skipped.

    Args:
        examples: Any number; those already skipped are passed on.
        prepare: Example -> what is known of it before its picture is opened, or why it is skipped.
        length: Tokens of what is prepared.
        load: What is prepared -> what the model is fed, or why it is skipped.
        start: Runs the model on a batch, and returns what gives a result for each of its items. When either raises
            for lack of memory, it has left nothing behind.
        budget: Most tokens in a batch.
        workers: Who prepares, loads and makes results beside the model.

    Yields:
        One result for each of `examples`, in the order in which batches finish.
    """
    one_at_a_time = Lock()  # tokenizers do not bear two threads

    def prepared(window: list[Example | Skipped]) -> list[Prepared | Skipped]:
        with one_at_a_time:
            return [entry if isinstance(entry, Skipped) else prepare(entry) for entry in window]

    for window in workers.ahead(prepared, windows(examples), depth=1):
        yield from (entry for entry in window if isinstance(entry, Skipped))
        items = [entry for entry in window if not isinstance(entry, Skipped)]
        yield from _Window(items, length, load, start, budget, workers).results()


class _Window(Generic[Prepared, Loaded]):
    """Examples that are looked at together, on their way through the model."""

    def __init__(
        self,
        items: list[Prepared],
        length: Callable[[Prepared], int],
        load: Callable[[Prepared], Loaded | Skipped],
        start: Callable[[list[Loaded]], Finish],
        budget: Budget,
        workers: Workers,
    ):
        self._length = length
        self._load = load
        self._start = start
        self._budget = budget
        self._workers = workers
        self._waiting = deque(batches(items, length, budget.tokens))
        self._loading: dict[str, Future[Loaded | Skipped]] = {}
        self._skipped: list[Skipped] = []

    def results(self) -> Iterator[Measured | Skipped]:
        before: _Begun[Prepared] | None = None
        while self._waiting or before:
            now = self._started(alone=before is None) if self._waiting else None
            if self._workers.count:
                before, now = now, before
            if now is not None:
                found = self._fitting(now.batch, partial(_listed, now.finish), before is None)
                if found is not None and self._budget.ran(self._tokens(now.batch)):
                    self._batch_anew([])
                told = now.skipped | {result.id: result for result in found or ()}
                order = now.order
                del now  # what it holds is not to lie beside the next batch
                # In this order: in a row are those that the source did not give one after the other.
                yield from (told[name] for name in order if name in told)
            yield from self._skipped
            self._skipped = []

    def _started(self, *, alone: bool) -> _Begun[Prepared] | None:
        """The next batch, without what cannot be loaded; `alone` where no other batch is in memory."""
        batch = self._waiting.popleft()
        self._ask_for(batch)
        if self._workers.count and self._waiting:
            self._ask_for(self._waiting[0])
        entries = self._fitting(batch, lambda: [self._loading.pop(item.id).result() for item in batch], alone)
        if entries is None:
            return None
        order = [item.id for item in batch]
        skipped: dict[str, Measured | Skipped] = {entry.id: entry for entry in entries if isinstance(entry, Skipped)}
        batch = [item for item, entry in zip(batch, entries, strict=True) if not isinstance(entry, Skipped)]
        loaded = [entry for entry in entries if not isinstance(entry, Skipped)]
        finish = self._fitting(batch, partial(self._start, loaded), alone) if batch else list
        if finish is None:
            self._skipped += [entry for entry in entries if isinstance(entry, Skipped)]
            return None
        return _Begun(batch, finish, order, skipped)

    def _ask_for(self, batch: list[Prepared]) -> None:
        for item in batch:
            if item.id not in self._loading:
                self._loading[item.id] = self._workers.submit(partial(self._load, item))

    def _fitting(self, batch: list[Prepared], work: Callable[[], Result], alone: bool = True) -> Result | None:
        """What `work` gives; None for lack of memory, and then the batch waits again in smaller ones."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Behind the block: inside, the error's traceback still holds the tensors. Some are held by what the failed
        # attempt had asked for already.
        self._workers.drain()
        free_memory()
        if len(batch) == 1 and not alone:
            self._waiting.appendleft(batch)  # it may fit when nothing else is in memory
        elif len(batch) == 1:
            reason = f"out of memory with its {self._length(batch[0])} tokens alone in a batch"
            self._skipped.append(Skipped(batch[0].id, reason))
        else:
            self._budget.halve(self._tokens(batch))
            self._batch_anew(batch)
        return None

    def _tokens(self, batch: list[Prepared]) -> int:
        """Padding included."""
        return len(batch) * max(map(self._length, batch), default=0)

    def _batch_anew(self, again: list[Prepared]) -> None:
        """What waits, and `again`, in batches of the budget as it is now."""
        left = [*again, *chain.from_iterable(self._waiting)]
        self._waiting = deque(batches(left, self._length, self._budget.tokens))


@dataclass(frozen=True)
class _Begun(Generic[Prepared]):
    """A batch that the model has been given.

    Attributes:
        batch: What the model was given.
        finish: Gives the results.
        order: Ids of all that belonged to the batch.
        skipped: Those of them that could not be loaded, by id.
    """

    batch: list[Prepared]
    finish: Finish
    order: list[str]
    skipped: dict[str, Measured | Skipped]


def _listed(finish: Finish) -> list[Measured | Skipped]:
    return list(finish())


def collect(
    measure: Callable[[Iterable[Example | Skipped]], Iterator[Measured | Skipped]],
    examples: Iterable[Example | Skipped],
    *,
    model: str,
    job: str,
    folder: RunFolder | None = None,
    strict: bool = False,
    progress: bool = False,
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
        folder: Where records are kept; examples that it has are not measured again. Those that were skipped are
            tried again.
        strict: Raise at the first skip.
        progress: Show progress on stderr.

    Returns:
        Records in no particular order, and skips.

    Raises:
        DataError: An example was skipped, and `strict` is set; or so many in a row that the disk, the network or the
            model must be at fault.
        RunFolderError: Another process writes to the folder, it cannot be written, or it has records of other
            examples of these ids.
    """
    shown = progress and rank().leads
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
