"""What a model wrote for a data set, and how its rows and its certainty changed as it wrote."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from mmerank.analysis.metrics import generation
from mmerank.analysis.results.nulls import no_nan
from mmerank.analysis.results.stored import stored
from mmerank.analysis.statistics.bootstrap import Bootstrap, Interval, sample_intervals
from mmerank.convention import GenerationConvention, all_choices
from mmerank.errors import DataError
from mmerank.inputs.example import Skipped, first_reason
from mmerank.inputs.selection import ALL, Selection
from mmerank.runs.folder import versions as installed
from mmerank.runs.record import Record, to_frame

NUMBERS = tuple(quantity.name for quantity in generation.QUANTITIES)


@dataclass(frozen=True)
class Grown:
    """A number of a data set of responses.

    Attributes:
        value: It; NaN where there is none.
        interval: Its limits, or None.
        n: Number of examples behind it.
    """

    value: float
    interval: Interval | None
    n: int


@dataclass(frozen=True)
class Response:
    """What a model wrote for one example.

    Attributes:
        example: Its id.
        text: The response.
        erank_prompt: Of the prompt's rows.
        rows: Of the response: 8, 16, ... where the stride is 8.
        eranks: Of its first so many rows.
        logit_entropies: Of the distribution that each token was chosen from, nats.
    """

    example: str
    text: str
    erank_prompt: float
    rows: tuple[int, ...]
    eranks: tuple[float, ...]
    logit_entropies: tuple[float, ...]


@dataclass(frozen=True)
class GenerationResult:
    """What a model wrote for a data set.

    Attributes:
        model: Name of the model.
        data: Name of the data set.
        n: Number of examples.
        skipped: The others, each with the reason.
        convention: The choices in force.
        source: What the model is known by, see `mmerank.models.identity.identity`.
        records: Two an example: its prompt and its response.
        limit: How many examples were asked for; None for all.
        seed: Of their choice; None for the first ones.
        bootstrap: How intervals are made.
        name: What tables call the model; empty for what it is called by itself.
        versions: Of what the numbers depend on.
    """

    model: str
    data: str
    n: int
    skipped: tuple[Skipped, ...]
    convention: GenerationConvention
    source: dict[str, Any]
    records: tuple[Record, ...]
    limit: int | None = None
    seed: int | None = None
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    name: str = ""
    versions: dict[str, str] = field(default_factory=installed)

    @cached_property
    def numbers(self) -> dict[str, Grown]:
        """Every number of the data set, by name; `erank_response_at_K` of the first K rows of responses."""
        found: dict[str, Grown] = {}
        for of in (generation.METRIC, generation.AT_ROWS):
            for _, sample in of.samples(self._frame, self.convention.aggregate):
                limits = sample_intervals(sample, self.bootstrap)
                counts = sample.counts or (sample.n,) * len(sample.quantities)
                for name, value, n in zip(sample.quantities, sample.estimates, counts, strict=True):
                    found[name] = Grown(float(value), limits.get(name), n)
        return found

    @cached_property
    def responses(self) -> tuple[Response, ...]:
        """What was written, in the order of the ids."""
        prompts = {record.example: math.exp(record.entropy) for record in self.records if record.input == "prompt"}
        found = []
        for record in self.records:
            if record.input == "response":
                assert record.trajectory is not None and record.logit_entropies is not None
                rows = tuple(record.stride * (i + 1) for i in range(len(record.trajectory)))
                eranks = tuple(map(float, np.exp(record.trajectory)))
                unsure = tuple(map(float, record.logit_entropies))
                found.append(Response(record.example, record.written, prompts[record.example], rows, eranks, unsure))
        return tuple(found)

    @property
    def compared_by(self) -> tuple[str, ...]:
        """The numbers by which models are held against each other on the same examples."""
        return NUMBERS

    @cached_property
    def _frame(self) -> pd.DataFrame:
        return to_frame(self.records, spectrum=False)

    def to_pandas(self) -> pd.DataFrame:
        """One row per example and prompt or response; columns: `mmerank.runs.record`."""
        return to_frame(self.records)

    def to_dict(self) -> dict[str, Any]:
        """The result as `--json` prints it; what is undefined is null."""
        found: dict[str, Any] = no_nan(
            {
                "model": self.model,
                **({"name": self.name} if self.name else {}),
                "data": self.data,
                "n": self.n,
                "limit": self.limit,
                "seed": self.seed,
                "skipped": [{"id": entry.id, "reason": entry.reason} for entry in self.skipped],
                "convention": all_choices(self.convention, self.source),
                **{name: number.value for name, number in self.numbers.items()},
                "intervals": {name: list(of.interval) for name, of in self.numbers.items() if of.interval},
                "counts": {name: of.n for name, of in self.numbers.items()},
                "bootstrap": self.bootstrap.to_dict(),
                "source": self.source,
                "versions": self.versions,
            }
        )
        return found

    @classmethod
    def from_run(cls, folder: str | Path, model: str | None = None) -> Self:
        """The result that a finished run folder holds, without the model.

        Args:
            folder: What `--out` was given, or `hub:OWNER/NAME[/RUN][@REVISION]`.
            model: Which of its models; None where it has one.

        Returns:
            The numbers that were written.

        Raises:
            RunFolderError: It is no finished run of `generate`, or something is gone.
            UsageError: It holds several models, or not this one.
        """
        there = stored(folder, "generate", model)
        found = cls.of(
            there.records, there.skipped, convention=there.convention(GenerationConvention), **there.shared
        )
        return replace(found, **there.beside)

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        skipped: Sequence[Skipped],
        *,
        model: str,
        data: str,
        convention: GenerationConvention,
        source: Mapping[str, Any],
        selection: Selection = ALL,
    ) -> Self:
        """The result that records give.

        Args:
            records: In any order.
            skipped: The examples without.
            model: Name of the model.
            data: Name of the data set.
            convention: The choices in force.
            source: What the model is known by.
            selection: Which of the data were asked for.

        Returns:
            The numbers.

        Raises:
            DataError: There are no records.
        """
        found = sorted(records, key=lambda r: (r.example, r.input))
        if not found:
            raise DataError(f"{data}: no example could be measured, {len(skipped)} skipped{first_reason(skipped)}")
        return cls(
            model=model,
            data=data,
            n=len({record.example for record in found}),
            skipped=tuple(skipped),
            convention=convention,
            source=dict(source),
            records=tuple(found),
            limit=selection.limit,
            seed=selection.seed,
        )
