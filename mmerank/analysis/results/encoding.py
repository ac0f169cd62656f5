"""What an encoder, and its untrained twin, make of a data set of pictures and texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, Self

from mmerank.analysis.metric import Metric
from mmerank.analysis.metrics import embeddings, encoder_layers, matched_cosine, retrieval
from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.metrics.embedded import UNTRAINED, embedded
from mmerank.analysis.results.metrics import metric_numbers
from mmerank.analysis.results.of_model import ModelResult
from mmerank.analysis.results.stored import Stored
from mmerank.analysis.statistics.bootstrap import Interval, sample_intervals
from mmerank.convention import EncoderConvention
from mmerank.errors import DataError
from mmerank.inputs.example import Skipped, first_reason
from mmerank.inputs.selection import ALL, Selection
from mmerank.runs.record import Record

# In the order in which tables have them, without those of the twin.
NUMBERS = (*embeddings.EMBEDDINGS, matched_cosine.MATCHED_COSINE, *retrieval.RETRIEVAL)
SIDES = ("image", "text")


@dataclass(frozen=True)
class Number:
    """One number of a data set.

    Attributes:
        value: It; NaN where there is none.
        interval: Its limits, or None.
    """

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class LayerEranks:
    """eRank of the rows at one layer over a data set.

    Attributes:
        side: `image`, rows are patches; or `text`, rows are tokens.
        layer: Counted from 1.
        rows: Mean number of rows of an example.
        width: Of the rows.
        trained: The data-set eRank.
        untrained: That of the twin.
    """

    side: str
    layer: int
    rows: float
    width: int
    trained: Number
    untrained: Number


@dataclass(frozen=True, kw_only=True)
class EncodingResult(ModelResult[EncoderConvention]):
    """What an encoder and its untrained twin make of a data set, and what that stands on.

    Intervals of eRanks of embeddings, of the gap and of retrieval are by the jackknife, at the level of `bootstrap`.

    Attributes:
        undefined: What the model does not have, each with the reason.
        untrained_seed: Of the weights of the twin; None where none was measured.
    """

    undefined: dict[str, str]
    untrained_seed: int | None
    _job = "encode"

    @cached_property
    def numbers(self) -> dict[str, Number]:
        """Every number of the embeddings, by name; of the twin with `_untrained` behind it."""
        found: dict[str, Number] = {}
        for of in (embeddings.METRIC, matched_cosine.METRIC, retrieval.METRIC):
            for numbers in self._of(of).values():
                found |= numbers
        return found

    @cached_property
    def layers(self) -> tuple[LayerEranks, ...]:
        """The eRank by layer, those of pictures first."""
        found = self._of(encoder_layers.METRIC)
        trained = self._frame[self._frame["model"] == self.model]
        rows = []
        for side in SIDES:
            here = trained[trained["input"] == side]
            for point, numbers in found.items():
                at = here[here["point"] == point]
                if len(at):
                    both = (numbers.get(f"erank_{side}{end}", _NONE) for end in ("", UNTRAINED))
                    layer = int(point.removeprefix("layer "))
                    rows.append(LayerEranks(side, layer, fmean(at["n"]), int(at["d"].iloc[0]), *both))
        return tuple(rows)

    @cached_property
    def chance(self) -> dict[int, float]:
        """What retrieval is by chance, by k; nothing without texts."""
        found = embedded(self._frame)
        return retrieval.chance(found.pictures, found.texts) if found and "text" not in self.undefined else {}

    @property
    def text_cut(self) -> int:
        """Number of examples whose text was cut at the encoder's limit."""
        return len(self.cut_examples)

    @property
    def cut_examples(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(dict.fromkeys(r.example for r in self.records if r.text_cut and not r.model.startswith(TWIN)))

    @cached_property
    def metrics(self) -> dict[str, list[dict[str, Any]]] | None:
        """Each metric that has no place of its own, see `mmerank.analysis.results.metrics`; None without one."""
        return metric_numbers(self._frame, aggregate=self.convention.aggregate, bootstrap=self.bootstrap) or None

    def _of(self, metric: Metric) -> dict[str, dict[str, Number]]:
        """Its numbers by hook point and name."""
        found = {}
        for point, sample in metric.samples(self._frame, self.convention.aggregate):
            limits = sample_intervals(sample, self.bootstrap)
            found[point] = {
                name: Number(float(value), limits.get(name))
                for name, value in zip(sample.quantities, sample.estimates, strict=True)
            }
        return found

    def _told(self) -> dict[str, Any]:
        beside = self.untrained_seed is not None
        return {
            **self._numbers(""),
            "undefined": self.undefined,
            **({"untrained": {"seed": self.untrained_seed, **self._numbers(UNTRAINED)}} if beside else {}),
            "retrieval_by_chance": {f"at_{k}": share for k, share in self.chance.items()},
            "layers": [_layer(of) for of in self.layers],
            "text_cut": self.text_cut,
            **({"metrics": listed} if (listed := self.metrics) is not None else {}),
        }

    def _numbers(self, end: str) -> dict[str, Any]:
        numbers = {name: self.numbers.get(name + end, _NONE) for name in NUMBERS}
        return {
            **{name: number.value for name, number in numbers.items()},
            "intervals": {name: list(number.interval) for name, number in numbers.items() if number.interval},
        }

    @classmethod
    def _made_with(cls, there: Stored) -> dict[str, Any]:
        undefined, seed = there.result.get("undefined", {}), there.settings.get("untrained_seed", 0)
        return {"undefined": undefined, "untrained_seed": seed}

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        skipped: Sequence[Skipped],
        *,
        model: str,
        data: str,
        convention: EncoderConvention,
        source: Mapping[str, Any],
        undefined: Mapping[str, str] | None,
        untrained_seed: int | None = None,
        selection: Selection = ALL,
    ) -> Self:
        """The result that records give.

        Args:
            records: Of the trained model and its twin, of the same examples, in any order.
            skipped: The examples without.
            model: Name of the model.
            data: Name of the data set.
            convention: The choices in force.
            source: What the model is known by.
            undefined: What it does not have, each with the reason; None of an earlier version.
            untrained_seed: Of the twin; None without one.
            selection: Which of the data were asked for.

        Returns:
            The numbers.

        Raises:
            DataError: There are no records.
        """
        found = sorted(records, key=lambda r: (r.model.startswith(TWIN), r.example, r.input, len(r.point), r.point))
        if not found:
            raise DataError(f"{data}: no example could be measured, {len(skipped)} skipped{first_reason(skipped)}")
        return cls(
            model=model,
            data=data,
            n=len({record.example for record in found}),
            skipped=tuple(skipped),
            convention=convention,
            source=dict(source),
            undefined=dict(undefined or {}),
            untrained_seed=untrained_seed,
            records=tuple(found),
            limit=selection.limit,
            seed=selection.seed,
        )


_NONE = Number(math.nan, None)


def _layer(of: LayerEranks) -> dict[str, Any]:
    found: dict[str, Any] = {"side": of.side, "layer": of.layer, "rows": of.rows, "width": of.width}
    for name, number in (("erank", of.trained), ("erank_untrained", of.untrained)):
        found[name] = number.value
        found[f"{name}_interval"] = list(number.interval) if number.interval else None
    return found
