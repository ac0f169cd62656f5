"""Examples -> results, in batches: some are looked at together, and run in batches of similar length."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from threading import Lock
from typing import Generic, Protocol, TypeVar

from mmerank.engine.batches import Budget, batches, free_memory, is_out_of_memory, windows
from mmerank.engine.measurement import Measured
from mmerank.engine.workers import Workers
from mmerank.errors import DataError
from mmerank.inputs.example import Example, Skipped


class Item(Protocol):
    """What a batch is made of."""

    @property
    def id(self) -> str:
        """Of the example."""
        ...


Prepared = TypeVar("Prepared", bound=Item)
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")
_NAMED = 3  # examples of a batch in a message
# The results of a batch that the model has been given.
Finish = Callable[[], Iterable[Measured | Skipped]]


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
            return [entry if isinstance(entry, Skipped) else one(entry) for entry in window]

    def one(example: Example) -> Prepared | Skipped:
        with _named([example]):
            return prepare(example)

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
        # Where the model refuses one of the batch, each waits alone, and that one is skipped.
        refused = ""
        try:
            with _named(batch):
                return work()
        except (RuntimeError, MemoryError, DataError) as error:
            if not is_out_of_memory(error.__cause__ or error):
                if not isinstance(error, DataError):
                    raise
                refused = str(error)
        # Behind the block: inside, the error's traceback still holds the tensors. Some are held by what the failed
        # attempt had asked for already.
        self._workers.drain()
        free_memory()
        if refused and len(batch) == 1:
            self._skipped.append(Skipped(batch[0].id, refused, suspect="model"))
        elif refused:
            self._waiting.extendleft([item] for item in reversed(batch))
        elif len(batch) == 1 and not alone:
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


@contextmanager
def _named(examples: Sequence[Item]) -> Iterator[None]:
    """Say of an error from any depth which examples were being measured."""
    try:
        yield
    except Exception as error:
        told = ", ".join(repr(example.id) for example in examples[:_NAMED])
        more = f" and {len(examples) - _NAMED} more" if len(examples) > _NAMED else ""
        error.add_note(f"while measuring example{'s' * (len(examples) > 1)} {told}{more}")
        raise


def _listed(finish: Finish) -> list[Measured | Skipped]:
    return list(finish())
