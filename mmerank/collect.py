"""The loop around a probe: what is done already, what is skipped, parts written, progress shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

from mmerank.batches import batches, windows
from mmerank.errors import DataError
from mmerank.inputs import Example, Skipped, unique
from mmerank.progress import Meter
from mmerank.records import Record
from mmerank.runs import RunFolder

Prepared = TypeVar("Prepared")

# What an interruption that nothing can catch may cost.
PART_SECONDS = 30.0


@dataclass(frozen=True)
class Measured:
    """One example's records, and how many positions the LLM computed for them."""

    id: str
    records: tuple[Record, ...]
    tokens: int


def in_batches(
    examples: Iterable[Example | Skipped],
    prepare: Callable[[Example], Prepared | Skipped],
    length: Callable[[Prepared], int],
    budget: int,
    run: Callable[[list[Prepared]], Iterable[Measured | Skipped]],
) -> Iterator[Measured | Skipped]:
    """Results of a probe that prepares its examples one by one and runs them in batches of similar length.

    Args:
        examples: Any number; those already skipped are passed on.
        prepare: Example -> what a batch is made of, or why it is skipped.
        length: Tokens of what is prepared.
        budget: Most tokens in a batch.
        run: Batch -> a result for each of its items.

    Yields:
        One result for each of `examples`, in the order in which batches finish.
    """
    for window in windows(examples):
        prepared: list[Prepared] = []
        for entry in window:
            result = entry if isinstance(entry, Skipped) else prepare(entry)
            if isinstance(result, Skipped):
                yield result
            else:
                prepared.append(result)
        for batch in batches(prepared, length, budget):
            yield from run(batch)


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

    Args:
        measure: Examples -> one result for each.
        examples: The data.
        model: Name that the records carry.
        job: What is being done, for the progress bar.
        folder: Where records are kept; examples that it has are not measured again.
        strict: Raise at the first skip.
        progress: Show progress on stderr.

    Returns:
        Records in no particular order, and skips.

    Raises:
        DataError: An example was skipped, and `strict` is set.
        RunFolderError: Another process writes to the folder.
    """
    with folder.writing() if folder else nullcontext():
        return _collect(measure, examples, model, job, folder, strict, progress)


def _collect(
    measure: Callable[[Iterable[Example | Skipped]], Iterator[Measured | Skipped]],
    examples: Iterable[Example | Skipped],
    model: str,
    job: str,
    folder: RunFolder | None,
    strict: bool,
    progress: bool,
) -> tuple[list[Record], list[Skipped]]:
    records = [record for record in folder.records() if record.model == model] if folder else []
    done = {record.example for record in records}
    order: dict[str, int] = {}

    def missing() -> Iterator[Example | Skipped]:
        for entry in unique(examples):
            order.setdefault(entry.id, len(order))
            if isinstance(entry, Skipped) or entry.id not in done:
                yield entry

    skipped: list[Skipped] = []
    total = len(examples) if isinstance(examples, Sized) else None
    with Meter(f"{job} {model}", total, done=len(done), shown=progress) as meter, _Parts(folder) as parts:
        for result in measure(missing()):
            if isinstance(result, Measured):
                records.extend(result.records)
                parts.add(result.records)
                meter.advance(result.tokens)
                continue
            if strict:
                raise DataError(f"example {result.id!r}: {result.reason} (strict: no example may be skipped)")
            skipped.append(result)
            meter.advance(0)
    records = [record for record in records if record.example in order]
    return records, sorted(skipped, key=lambda entry: order[entry.id])


class _Parts:
    """Collects finished records and writes them to the run folder now and then, and whenever the loop ends."""

    def __init__(self, folder: RunFolder | None):
        self._folder = folder
        self._waiting: list[Record] = []
        self._written = time.monotonic()

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *error: object) -> None:
        self._write()

    def add(self, records: Iterable[Record]) -> None:
        self._waiting.extend(records)
        if time.monotonic() - self._written > PART_SECONDS:
            self._write()

    def _write(self) -> None:
        if self._folder is not None:
            self._folder.write(self._waiting)
        self._waiting = []
        self._written = time.monotonic()
