"""What leaving rows of pictures out does on a data set, by every way to choose what is kept."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from mmerank.analysis.metrics import pruning
from mmerank.analysis.metrics.pruning import Interaction
from mmerank.analysis.results.numbered import NumberedResult
from mmerank.convention import PruneConvention


class PruningResult(NumberedResult[PruneConvention]):
    """What leaving rows of pictures out does on a data set.

    `records` are of each example those of all rows, and two for each choice of rows: behind the connector and at the
    LLM. `numbers` are by name and choice, as `loss_change/norm@0.25`; of all rows by name, as `loss_whole`; slopes by
    predictor and share, as `slope_erank_vision/0.25`.
    """

    _job = "prune-study"
    _metrics = (pruning.ALL, pruning.METRIC, pruning.ROWS, pruning.SLOPES)

    @cached_property
    def interactions(self) -> tuple[Interaction, ...]:
        """Whether the loss under `attention` less that under `diversity` goes with a picture's eRank."""
        return pruning.interactions(self._frame, self.bootstrap)

    def _values(self) -> dict[str, Any]:
        return {
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
        }

    def _of(self, choice: str) -> dict[str, float]:
        """The numbers of one choice of rows, by the names of the quantities alone."""
        ends = (name.partition("/") for name in self.numbers)
        return {front: self.numbers[f"{front}/{of}"].value for front, _, of in ends if of == choice}
