"""Diff-eRank and reduced loss of one model on one set of texts, and what they stand on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Self

from mmerank.analysis.intervals import intervals_by_point
from mmerank.analysis.metrics.diff_erank import LOSS, PointDiff, diff_sample, layers_in, point_diff
from mmerank.analysis.results.inside import inside_numbers
from mmerank.analysis.results.metrics import metric_numbers
from mmerank.analysis.results.of_model import ModelResult
from mmerank.analysis.results.stored import Stored
from mmerank.analysis.statistics.bootstrap import Interval
from mmerank.convention import TextConvention
from mmerank.eranks import FINAL
from mmerank.inputs.example import Skipped
from mmerank.inputs.selection import ALL, Selection
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


@dataclass(frozen=True, kw_only=True)
class DiffResult(ModelResult[TextConvention]):
    """Diff-eRank and reduced loss of one model on one set of texts, and what they stand on.

    Attributes:
        seeds: Of the untrained twins.
        points: eRanks and their differences at `final` and any other layers asked for.
        loss_untrained: Mean over twins and texts of the mean negative log-likelihood, nats per token; NaN for
            models that do not predict the next token.
        loss_trained: The same of the trained model.
        loss_untrained_per_token: The mean over all tokens, whatever text they belong to.
        loss_trained_per_token: The same of the trained model.
        tokens: Tokens of all texts.
        initialisation: What the twins' weights are drawn with, see `mmerank.models.initialisation`.
        accuracy: By task; empty where it was not asked for, see `mmerank.jobs.accuracy.accuracies`.
    """

    seeds: tuple[int, ...]
    points: tuple[PointDiff, ...]
    loss_untrained: float
    loss_trained: float
    loss_untrained_per_token: float
    loss_trained_per_token: float
    tokens: int
    accuracy: Mapping[str, Accuracy] = field(default_factory=dict)
    initialisation: dict[str, Any] = field(default_factory=dict)
    _job = "diff"

    @classmethod
    def _made_with(cls, there: Stored) -> dict[str, Any]:
        return {"seeds": tuple(there.result.get("seeds", (0,)))}

    @classmethod
    def _put_in(cls, there: Stored) -> dict[str, Any]:
        said = there.result
        right = {
            task: Accuracy(value, said.get("accuracy_stderr", {}).get(task), said.get("accuracy_n", {}).get(task, 0))
            for task, value in said.get("accuracy", {}).items()
        }
        return {"accuracy": right, "initialisation": said.get("initialisation", {})}

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
        return intervals_by_point(self._frame, aggregate=self.convention.aggregate, bootstrap=self.bootstrap)

    @cached_property
    def metrics(self) -> dict[str, list[dict[str, Any]]] | None:
        """Each metric at each hook point, see `mmerank.analysis.results.metrics`; None if none was asked for."""
        return metric_numbers(self._frame, aggregate=self.convention.aggregate, bootstrap=self.bootstrap) or None

    @cached_property
    def inside(self) -> list[dict[str, Any]] | None:
        """What blocks add to the residual stream, trained and untrained; None if not asked for.

        See `mmerank.analysis.results.inside`.
        """
        return inside_numbers(self._frame, aggregate=self.convention.aggregate, bootstrap=self.bootstrap) or None

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

    def _told(self) -> dict[str, Any]:
        final = asdict(self.final)
        del final["point"]
        return {
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
            "layers": [
                {**asdict(point), "intervals": _listed(self.layer_intervals[point.point])} for point in self.points
            ],
            **({"inside": updates} if (updates := self.inside) is not None else {}),
            **({"metrics": found} if (found := self.metrics) is not None else {}),
        }


def _listed(found: dict[str, Interval]) -> dict[str, list[float]]:
    return {label: list(limits) for label, limits in found.items()}
