"""eRank1 to eRank5 and the two ratios of one model on one data set, and what they stand on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd

from mmerank.analysis.intervals import intervals, layer_eranks
from mmerank.analysis.metrics import pictures
from mmerank.analysis.metrics.alignment import ALIGNMENT, alignment
from mmerank.analysis.metrics.clip_score import ClipEmbeddings, clip_score
from mmerank.analysis.metrics.companions import companions
from mmerank.analysis.metrics.layers import layer_names
from mmerank.analysis.metrics.matched import matched_alignment, matched_rows
from mmerank.analysis.metrics.rows import row_eranks
from mmerank.analysis.metrics.token_curve import token_curve
from mmerank.analysis.results.inside import inside_numbers
from mmerank.analysis.results.metrics import metric_numbers
from mmerank.analysis.results.of_model import ModelResult
from mmerank.analysis.results.stored import Stored
from mmerank.analysis.row_map import RowMap, mapped, row_maps
from mmerank.analysis.statistics.bootstrap import Interval, sample_intervals
from mmerank.convention import Convention
from mmerank.eranks import ERANKS, vision_layer
from mmerank.errors import DataError, UsageError
from mmerank.inputs.example import Skipped, first_reason
from mmerank.inputs.selection import ALL, Selection
from mmerank.runs.record import Record, to_frame

# What a result has beside eRank1 to eRank5, by its name in Python and in the JSON, where it was asked for.
ASIDE = (
    "matched",
    "token_curve",
    "rows",
    "companions",
    "layers",
    "vision_layers",
    "inside",
    "metrics",
    "pictures",
    "picture_eranks",
    "leave_one_out",
)


@dataclass(frozen=True, kw_only=True)
class AlignmentResult(ModelResult[Convention]):
    """The five data-set eRanks of one model on one data set, the two ratios, and what they stand on.

    Attributes:
        erank1: After the vision encoder, image input.
        erank2: After the connector, image input.
        erank3: LLM, image input.
        erank4: LLM, text input.
        erank5: LLM, image and text input.
        image_reduction_ratio: (eRank1 - eRank2) / eRank1.
        image_text_alignment: mean(eRank3, eRank4, eRank5) / max(eRank3, eRank4, eRank5).
        layer_records: One per example and further layer, and per update of a block, of the pair input, and per layer
            of the vision encoder, of the image input; none where they were not asked for.
        clip: CLIP's embeddings of the examples, where asked for.
        undefined: What the model does not have, by name, each with the reason; these numbers are NaN.
    """

    erank1: float
    erank2: float
    erank3: float
    erank4: float
    erank5: float
    image_reduction_ratio: float
    image_text_alignment: float
    clip: ClipEmbeddings | None = None
    layer_records: tuple[Record, ...] = ()
    undefined: dict[str, str] = field(default_factory=dict)
    _job = "align"

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Confidence interval of each number over the examples, (low, high); empty with fewer than two examples."""
        return intervals(self._frame, aggregate=self.convention.aggregate, bootstrap=self.bootstrap)

    @cached_property
    def matched(self) -> dict[str, Any] | None:
        """The same on equally many rows everywhere, see `mmerank.analysis.metrics.matched`; None if not asked for.

        `intervals` are those over the examples that could be matched.
        """
        asked = self.convention
        if asked.match_tokens is None:
            return None
        found = matched_alignment(
            self.records, tokens=asked.match_tokens, repeats=asked.match_repeats, aggregate=asked.aggregate
        )
        rows = matched_rows(self._frame)
        limits = intervals(rows, aggregate=asked.aggregate, bootstrap=self.bootstrap) if found["n"] else {}
        return {**found, "intervals": {label: list(interval) for label, interval in limits.items()}}

    @cached_property
    def token_curve(self) -> dict[str, Any] | None:
        """Each eRank by number of rows, see `mmerank.analysis.metrics.token_curve`; None if not asked for."""
        asked = self.convention
        if not asked.token_curve:
            return None
        return token_curve(
            self.records, tokens=asked.token_curve, repeats=asked.match_repeats, aggregate=asked.aggregate
        )

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]] | None:
        """Each eRank by rows, and without one, see `mmerank.analysis.metrics.rows`; None if not asked for."""
        return row_eranks(self.records, aggregate=self.convention.aggregate) if self.convention.rows else None

    @cached_property
    def companions(self) -> dict[str, Any] | None:
        """Measures that react to the pairing, see `mmerank.analysis.metrics.companions`; None if not asked for."""
        found = companions(self.records, aggregate=self.convention.aggregate) if self.convention.companions else {}
        if self.clip is not None:
            scored = clip_score(self.clip.images, self.clip.texts)
            found["clip_score"] = {"model": self.clip.model, "texts_cut": self.clip.texts_cut, **scored}
        return found or None

    @cached_property
    def layers(self) -> list[dict[str, Any]] | None:
        """The pair's eRank by layer and rows, see `mmerank.analysis.metrics.layers`; None if not asked for."""
        if not layer_names(pd.Series([record.point for record in self.layer_records], dtype=str)):
            return None
        return self._by_layer(of_vision=False)

    @cached_property
    def vision_layers(self) -> list[dict[str, Any]] | None:
        """The picture's eRank by layer of the vision encoder, see `mmerank.analysis.metrics.vision_layers`.

        None where layers were not asked for, or those of the vision encoder are not known.
        """
        if not any(vision_layer(record.point) for record in self.layer_records):
            return None
        return self._by_layer(of_vision=True)

    def _by_layer(self, *, of_vision: bool) -> list[dict[str, Any]]:
        by, frame = self.convention.aggregate, to_frame(self._all_records, spectrum=False)
        table = layer_eranks(frame, aggregate=by, bootstrap=self.bootstrap, of_vision=of_vision)
        found: dict[str, dict[str, Any]] = {}
        for row in table.to_dict("records"):
            at = found.setdefault(row["point"], {"point": row["point"], "intervals": {}})
            at[row["rows"]] = row["value"] if row["n"] else None
            if math.isfinite(row["low"]):
                at["intervals"][row["rows"]] = [row["low"], row["high"]]
        return list(found.values())

    @cached_property
    def inside(self) -> list[dict[str, Any]] | None:
        """What blocks add to the residual stream, see `mmerank.analysis.results.inside`; None if not asked for."""
        if not self.layer_records:
            return None
        frame = to_frame(self._all_records, spectrum=False)
        return inside_numbers(frame, aggregate=self.convention.aggregate, bootstrap=self.bootstrap) or None

    @cached_property
    def metrics(self) -> dict[str, list[dict[str, Any]]] | None:
        """Each metric at each place, see `mmerank.analysis.results.metrics`; None if none was asked for."""
        frame = to_frame(self._all_records, spectrum=False)
        return metric_numbers(frame, aggregate=self.convention.aggregate, bootstrap=self.bootstrap) or None

    @cached_property
    def pictures(self) -> dict[str, dict[str, list[float]]] | None:
        """Effective rank of each picture's rows, by example, of those that have several; None where none has.

        Of each example `erank1`, `erank2` and `erank5`: a number for each picture in its order, NaN where its rows
        have none. Those of `erank5` are of its rows at the LLM in the pass of the pair, where a causal LLM has read
        the pictures before it.
        """
        found: dict[str, dict[str, list[float]]] = {}
        for record in self.records:
            if record.entropy_pictures is not None:
                label = next(name for name, where in ERANKS.items() if where == (record.point, record.input))
                found.setdefault(record.example, {})[label] = np.exp(record.entropy_pictures).tolist()
        return found or None

    @cached_property
    def leave_one_out(self) -> dict[str, dict[str, Any]] | None:
        """Of how many examples there are maps, see `mmerank.analysis.row_map.mapped`; None if not asked for."""
        return mapped(self.records) or None

    def patches(self, example: str | int) -> Mapping[str, RowMap]:
        """What each row of an example adds to its entropies, and where it lies in the picture.

        Args:
            example: Its id.

        Returns:
            Of `erank1`, `erank2` and `erank5`.

        Raises:
            UsageError: Patches were not asked for, or there is no such example.
        """
        if not self.convention.patches:
            raise UsageError(
                "what each row adds was not measured; `Convention(patches=True)`, or --patches, asks for it"
            )
        if not (found := row_maps(self.records, str(example))):
            raise UsageError(f"no example {str(example)!r:.100} in this result")
        return found

    @cached_property
    def picture_eranks(self) -> list[dict[str, Any]] | None:
        """Data-set eRank of the first pictures, the second, ..., and of all of them; None where none has several.

        Of the examples that have several, each with its place (`picture`, from 1 on; 0 for all pictures), `n`
        examples, `erank1`, `erank2` and `erank5`, and `intervals` over examples.
        """
        found: dict[str, dict[str, Any]] = {}
        for _, sample in pictures.METRIC.samples(self._frame, self.convention.aggregate):
            limits = sample_intervals(sample, self.bootstrap)
            for name, value, n in zip(sample.quantities, sample.estimates, sample.counts or (), strict=True):
                which, _, label = name.rpartition("/")
                place = 0 if which == pictures.EACH else int(which.removeprefix(pictures.PICTURE))
                at = found.setdefault(which, {"picture": place, "n": n, "intervals": {}})
                at[label] = float(value)
                if name in limits:
                    at["intervals"][label] = list(limits[name])
        return list(found.values()) or None

    @property
    def _all_records(self) -> tuple[Record, ...]:
        return self.records + self.layer_records

    @property
    def text_cut(self) -> int:
        """Number of examples whose text was cut to fit the model's limit."""
        return len(self.cut_examples)

    @property
    def cut_examples(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(record.example for record in self.records if record.input == "text" and record.text_cut > 0)

    def mean_tokens(self, label: str) -> float:
        """Mean number of tokens behind one of the eRanks, which none of them can exceed.

        Args:
            label: `erank1` .. `erank5`.

        Returns:
            The mean of n over examples; NaN where the model has none.
        """
        counts = [r.n for r in self.records if (r.point, r.input) == ERANKS[label]]
        return sum(counts) / len(counts) if counts else math.nan

    def to_pandas(self) -> pd.DataFrame:
        """One row per example and measurement, in the order of the examples' ids; columns: `mmerank.runs.record`."""
        return to_frame(self._all_records)

    def _told(self) -> dict[str, Any]:
        return {
            **{label: getattr(self, label) for label in ALIGNMENT},
            **({"undefined": self.undefined} if self.undefined else {}),
            "intervals": {label: list(limits) for label, limits in self.intervals.items()},
            "mean_tokens": {label: self.mean_tokens(label) for label in ERANKS},
            "text_cut": self.text_cut,
            **{name: block for name in ASIDE if (block := getattr(self, name)) is not None},
        }

    @classmethod
    def _made_with(cls, there: Stored) -> dict[str, Any]:
        return {"undefined": there.result.get("undefined")}

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        skipped: Sequence[Skipped],
        *,
        model: str,
        data: str,
        convention: Convention,
        source: Mapping[str, Any],
        selection: Selection = ALL,
        undefined: Mapping[str, str] | None = None,
    ) -> Self:
        """The result that records give.

        Args:
            records: Five per example, in any order, and those of further layers and updates.
            skipped: The examples without.
            model: Name of the model.
            data: Name of the data set.
            convention: The choices in force.
            source: What the model is known by.
            selection: Which of the data were asked for.
            undefined: Which eRanks the model does not have, each with the reason.

        Returns:
            The numbers.

        Raises:
            DataError: There are no records.
            ValueError: A measurement is missing.
        """
        order = list(ERANKS.values())
        rows = sorted(records, key=lambda r: r.example)
        five = sorted(
            (r for r in rows if (r.point, r.input) in order),
            key=lambda r: (r.example, order.index((r.point, r.input))),
        )
        if not five:
            raise DataError(f"{data}: no example could be measured, {len(skipped)} skipped{first_reason(skipped)}")
        lacking = dict(undefined or {})
        if lacking.keys() & {"erank3", "erank4", "erank5"}:
            lacking["image_text_alignment"] = next(iter(lacking.values()))
        numbers: dict[str, Any] = {**alignment(five, aggregate=convention.aggregate)}
        return cls(
            model=model,
            data=data,
            n=len({record.example for record in five}),
            skipped=tuple(skipped),
            convention=convention,
            source=dict(source),
            records=tuple(five),
            limit=selection.limit,
            seed=selection.seed,
            undefined=lacking,
            layer_records=tuple(r for r in rows if (r.point, r.input) not in order),
            **numbers,
        )
