"""What leaving rows of pictures out does on a data set, by every way to choose what is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from mmerank.analysis.metrics import pruning
from mmerank.analysis.metrics.pruning import Interaction
from mmerank.analysis.results.generation import Grown
from mmerank.analysis.results.nulls import no_nan
from mmerank.analysis.results.stored import stored
from mmerank.analysis.statistics.bootstrap import Bootstrap, sample_intervals
from mmerank.convention import PruneConvention, all_choices
from mmerank.errors import DataError
from mmerank.inputs.example import Skipped, first_reason
from mmerank.inputs.selection import ALL, Selection
from mmerank.runs.folder import versions as installed
from mmerank.runs.record import Record, to_frame


@dataclass(frozen=True)
class PruningResult:
    """What leaving rows of pictures out does on a data set.

    Attributes:
        model: Name of the model.
        data: Name of the data set.
        n: Number of examples.
        skipped: The others, each with the reason.
        convention: The choices in force.
        source: What the model is known by, see `mmerank.models.identity.identity`.
        records: Of each example those of all rows, and two for each choice of rows: behind the connector and at the
            LLM.
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
    convention: PruneConvention
    source: dict[str, Any]
    records: tuple[Record, ...]
    limit: int | None = None
    seed: int | None = None
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    name: str = ""
    versions: dict[str, str] = field(default_factory=installed)

    @cached_property
    def numbers(self) -> dict[str, Grown]:
        """Every number of the data set by name, as `loss_change/norm@0.25`; of all rows as `loss_whole`."""
        found: dict[str, Grown] = {}
        for of in (pruning.ALL, pruning.METRIC, pruning.ROWS):
            for _, sample in of.samples(self._frame, self.convention.aggregate):
                limits = sample_intervals(sample, self.bootstrap)
                counts = sample.counts or (sample.n,) * len(sample.quantities)
                for name, value, n in zip(sample.quantities, sample.estimates, counts, strict=True):
                    found[name] = Grown(float(value), limits.get(name), n)
        return found

    @cached_property
    def interactions(self) -> tuple[Interaction, ...]:
        """Whether the loss under `attention` less that under `diversity` goes with a picture's eRank."""
        return pruning.interactions(self._frame, self.bootstrap)

    @property
    def compared_by(self) -> tuple[str, ...]:
        """The numbers by which models are held against each other on the same examples."""
        return tuple(name for name in self.numbers if name.startswith("loss_change/"))

    @cached_property
    def _frame(self) -> pd.DataFrame:
        return to_frame(self.records, spectrum=False)

    def to_pandas(self) -> pd.DataFrame:
        """One row per example and measurement; columns: `mmerank.runs.record`."""
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
                **{name: number.value for name, number in self.numbers.items() if "/" not in name},
                "kept": [
                    {"by": by, "keep": keep, **self._of(pruning.choice(by, keep))}
                    for keep in self.convention.keep
                    for by in self.convention.by
                ],
                "interactions": [
                    {
                        "predictor": of.predictor,
                        "keep": of.keep,
                        "slope": of.found.slope,
                        "interval": list(of.found.interval) if of.found.interval else None,
                        "r": of.found.r,
                        "p": of.found.p,
                        "q": of.q,
                        "n": of.found.n,
                    }
                    for of in self.interactions
                ],
                "intervals": {name: list(of.interval) for name, of in self.numbers.items() if of.interval},
                "counts": {name: of.n for name, of in self.numbers.items()},
                "bootstrap": self.bootstrap.to_dict(),
                "source": self.source,
                "versions": self.versions,
            }
        )
        return found

    def _of(self, choice: str) -> dict[str, float]:
        """The numbers of one choice of rows, by the names of the quantities alone."""
        ends = (name.partition("/") for name in self.numbers)
        return {front: self.numbers[f"{front}/{of}"].value for front, _, of in ends if of == choice}

    @classmethod
    def from_run(cls, folder: str | Path, model: str | None = None) -> Self:
        """The result that a finished run folder holds, without the model.

        Args:
            folder: What `--out` was given, or `hub:OWNER/NAME[/RUN][@REVISION]`.
            model: Which of its models; None where it has one.

        Returns:
            The numbers that were written.

        Raises:
            RunFolderError: It is no finished run of `prune-study`, or something is gone.
            UsageError: It holds several models, or not this one.
        """
        there = stored(folder, "prune-study", model)
        found = cls.of(there.records, there.skipped, convention=there.convention(PruneConvention), **there.shared)
        return replace(found, **there.beside)

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        skipped: Sequence[Skipped],
        *,
        model: str,
        data: str,
        convention: PruneConvention,
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
        found = sorted(records, key=lambda r: (r.example, r.point, r.input))
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
