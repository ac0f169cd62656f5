"""Diff-eRank and reduced loss of one model on one set of texts, and what they stand on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from mmerank.analysis.intervals import intervals_by_point
from mmerank.analysis.metrics.diff_erank import LOSS, PointDiff, diff_sample, layers_in, point_diff
from mmerank.analysis.results.inside import inside_numbers
from mmerank.analysis.results.metrics import metric_numbers
from mmerank.analysis.results.nulls import no_nan
from mmerank.analysis.results.stored import stored
from mmerank.analysis.statistics.bootstrap import Bootstrap, Interval
from mmerank.convention import TextConvention, all_choices
from mmerank.eranks import FINAL
from mmerank.inputs.example import Skipped
from mmerank.inputs.selection import ALL, Selection
from mmerank.runs.folder import versions as installed
from mmerank.runs.record import Record, to_frame


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on one task.

    Attributes:
        value: Share of questions answered right, between 0 and 1.
        stderr: Its standard error.
        n: Number of questions.
    """

    value: float
    stderr: float
    n: int


@dataclass(frozen=True)
class DiffResult:
    """Diff-eRank and reduced loss of one model on one set of texts, and what they stand on.

    Attributes:
        model: Name of the model.
        data: Name of the data set.
        n: Number of texts that all numbers stand on.
        skipped: The others, each with the reason.
        convention: The choices in force.
        seeds: Of the untrained twins.
        points: eRanks and their differences at `final` and any other layers asked for.
        loss_untrained: Mean over twins and texts of the mean negative log-likelihood, nats per token; NaN for
            models that do not predict the next token.
        loss_trained: The same of the trained model.
        loss_untrained_per_token: The mean over all tokens, whatever text they belong to.
        loss_trained_per_token: The same of the trained model.
        tokens: Tokens of all texts.
        source: What the model is known by, see `mmerank.models.identity.identity`.
        records: Of the trained model and its twins.
        limit: How many texts were asked for; None for all.
        seed: Of their choice; None for the first ones.
        bootstrap: How `intervals` are made; `dataclasses.replace(result, bootstrap=...)` makes them anew.
        initialisation: What the twins' weights are drawn with, see `mmerank.models.initialisation`.
        accuracy: By task; empty where it was not asked for, see `mmerank.jobs.accuracy.accuracies`.
        name: What tables call the model; empty for what it is called by itself.
        versions: Of what the numbers depend on.
    """

    model: str
    data: str
    n: int
    skipped: tuple[Skipped, ...]
    convention: TextConvention
    seeds: tuple[int, ...]
    points: tuple[PointDiff, ...]
    loss_untrained: float
    loss_trained: float
    loss_untrained_per_token: float
    loss_trained_per_token: float
    tokens: int
    source: dict[str, Any]
    records: tuple[Record, ...]
    limit: int | None = None
    seed: int | None = None
    accuracy: Mapping[str, Accuracy] = field(default_factory=dict)
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    initialisation: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    versions: dict[str, str] = field(default_factory=installed)

    @classmethod
    def from_run(cls, folder: str | Path, model: str | None = None) -> Self:
        """The result that a finished run folder holds, without the models.

        Args:
            folder: What `--out` was given, or `hub:OWNER/NAME[/RUN][@REVISION]`.
            model: Which of its trained models; None where it has one.

        Returns:
            The numbers that were written.

        Raises:
            RunFolderError: It is no finished run of `diff`, or something is gone.
            UsageError: It holds several models, or not this one.
        """
        there = stored(folder, "diff", model)
        said = there.result
        seeds = tuple(said.get("seeds", (0,)))
        found = cls.of(
            there.records, there.skipped, convention=there.convention(TextConvention), seeds=seeds, **there.shared
        )
        right = {
            task: Accuracy(value, said.get("accuracy_stderr", {}).get(task), said.get("accuracy_n", {}).get(task, 0))
            for task, value in said.get("accuracy", {}).items()
        }
        return replace(found, accuracy=right, initialisation=said.get("initialisation", {}), **there.beside)

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        skipped: Sequence[Skipped],
        *,
        model: str,
        data: str,
        convention: TextConvention,
        seeds: tuple[int, ...],
        source: Mapping[str, Any],
        selection: Selection = ALL,
    ) -> Self:
        """The result that records give.

        Args:
            records: Of the trained model and its twins, of the same texts at the same points, in any order.
            skipped: The texts without.
            model: Name of the trained model.
            data: Name of the data set.
            convention: The choices in force.
            seeds: Of the twins.
            source: What the model is known by.
            selection: Which of the data were asked for.

        Returns:
            The numbers.

        Raises:
            ValueError: The models did not see the same texts at the same points.
        """
        given = list(records)
        frame = to_frame(given, spectrum=False)
        final = frame[(frame["point"] == FINAL) & (frame["model"] == model)]
        found = diff_sample(frame, aggregate=convention.aggregate)
        numbers = dict(zip(found.quantities, map(float, found.estimates), strict=True))
        losses: dict[str, Any] = {name: numbers.get(name, math.nan) for name in LOSS if name != "reduced_loss"}
        points = layers_in(frame[frame["model"] == model])
        return cls(
            model=model,
            data=data,
            n=len(final),
            skipped=tuple(skipped),
            convention=convention,
            seeds=seeds,
            points=tuple(point_diff(frame, str(point), convention.aggregate) for point in points),
            tokens=int(final["n"].sum()) + convention.skip_first * len(final),
            source=dict(source),
            records=tuple(sorted(given, key=lambda r: (r.example, r.model))),
            limit=selection.limit,
            seed=selection.seed,
            **losses,
        )

    @property
    def intervals(self) -> dict[str, Interval]:
        """Confidence interval of each number after the final norm, and of the losses, over the texts, (low, high).

        Empty with fewer than two texts. They hold for these untrained models, and do not cover how others differ.
        """
        return self.layer_intervals[FINAL]

    @cached_property
    def layer_intervals(self) -> dict[str, dict[str, Interval]]:
        """The same at every hook point."""
        records = to_frame(self.records, spectrum=False)
        return intervals_by_point(records, aggregate=self.convention.aggregate, bootstrap=self.bootstrap)

    @cached_property
    def metrics(self) -> dict[str, list[dict[str, Any]]] | None:
        """Each metric at each hook point, see `mmerank.analysis.results.metrics`; None if none was asked for."""
        frame = to_frame(self.records, spectrum=False)
        return metric_numbers(frame, aggregate=self.convention.aggregate, bootstrap=self.bootstrap) or None

    @cached_property
    def inside(self) -> list[dict[str, Any]] | None:
        """What blocks add to the residual stream, trained and untrained; None if not asked for.

        See `mmerank.analysis.results.inside`.
        """
        frame = to_frame(self.records, spectrum=False)
        return inside_numbers(frame, aggregate=self.convention.aggregate, bootstrap=self.bootstrap) or None

    @property
    def final(self) -> PointDiff:
        """What was measured after the final norm."""
        return next(point for point in self.points if point.point == FINAL)

    @property
    def diff_erank(self) -> float:
        """eRank(untrained) - eRank(trained) after the final norm, Def. 3.5."""
        return self.final.diff_erank

    @property
    def reduced_loss(self) -> float:
        """Loss(untrained) - loss(trained), nats, Sec. 4.1.2."""
        return self.loss_untrained - self.loss_trained

    @property
    def text_cut(self) -> int:
        """Number of texts that were cut."""
        return len(self.cut_examples)

    @property
    def cut_examples(self) -> tuple[str, ...]:
        """Their ids."""
        mine = (r for r in self.records if r.point == FINAL and r.model == self.model)
        return tuple(r.example for r in mine if r.text_cut > 0)

    def to_pandas(self) -> pd.DataFrame:
        """One row per model (trained or twin), text and hook point."""
        return to_frame(self.records)

    def to_dict(self) -> dict[str, Any]:
        """The result as `--json` prints it; numbers that do not exist are null."""
        final = asdict(self.final)
        del final["point"]
        numbers: dict[str, Any] = no_nan(
            {
                "model": self.model,
                **({"name": self.name} if self.name else {}),
                "data": self.data,
                "n": self.n,
                "limit": self.limit,
                "seed": self.seed,
                "skipped": [{"id": entry.id, "reason": entry.reason} for entry in self.skipped],
                "convention": all_choices(self.convention, self.source),
                "seeds": list(self.seeds),
                "initialisation": self.initialisation,
                **final,
                "loss_untrained": self.loss_untrained,
                "loss_trained": self.loss_trained,
                "reduced_loss": self.reduced_loss,
                "loss_untrained_per_token": self.loss_untrained_per_token,
                "loss_trained_per_token": self.loss_trained_per_token,
                "tokens": self.tokens,
                "text_cut": self.text_cut,
                "accuracy": {task: found.value for task, found in self.accuracy.items()},
                "accuracy_stderr": {task: found.stderr for task, found in self.accuracy.items()},
                "accuracy_n": {task: found.n for task, found in self.accuracy.items()},
                "intervals": _listed(self.intervals),
                "bootstrap": self.bootstrap.to_dict(),
                "layers": [
                    {**asdict(point), "intervals": _listed(self.layer_intervals[point.point])}
                    for point in self.points
                ],
                **({"inside": updates} if (updates := self.inside) is not None else {}),
                **({"metrics": found} if (found := self.metrics) is not None else {}),
                "source": self.source,
                "versions": self.versions,
            }
        )
        return numbers


def _listed(found: dict[str, Interval]) -> dict[str, list[float]]:
    return {label: list(limits) for label, limits in found.items()}
