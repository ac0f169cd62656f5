"""What a model answered to the questions of a benchmark, and the shares of right answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pandas as pd

from mmerank.analysis.results.answers import YES_NO, Answer, Share, as_asked, chance, numbers_of, share
from mmerank.inputs.example import Skipped


@dataclass(frozen=True)
class ScoreResult:
    """What a model scored on a benchmark.

    Attributes:
        model: Name of the model.
        data: The DATA argument.
        numbers: The score and what stands beside it, by name: of own questions as of `numbers_of`, of a task of
            lm-eval each of its metrics.
        skipped: Questions that were not asked, each with the reason.
        answers: What it answered; none of a task of lm-eval.
        chance: What answers at random score; NaN of a task of lm-eval.
        categories: `acc` by category, where the benchmark has several.
        convention: How questions were asked.
        name: What tables call the model; empty for its name.
        loaded: Its dtype, and how it was quantised.
    """

    model: str
    data: str
    numbers: Mapping[str, Share]
    skipped: tuple[Skipped, ...] = ()
    answers: tuple[Answer, ...] = ()
    chance: float = math.nan
    categories: Mapping[str, Share] = field(default_factory=dict)
    convention: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    loaded: str = ""

    @classmethod
    def of(
        cls,
        answers: Sequence[Answer],
        *,
        model: str,
        data: str,
        skipped: Sequence[Skipped],
        convention: Mapping[str, Any],
        loaded: str = "",
    ) -> Self:
        """The result of answers to a benchmark's questions.

        Args:
            answers: At least one.
            model: Name of the model.
            data: The DATA argument.
            skipped: What was not asked.
            convention: How they were asked.
            loaded: See above.

        Returns:
            Shares with intervals over pictures.
        """
        by_category: dict[str, list[Answer]] = {}
        for answer in as_asked(answers):
            by_category.setdefault(answer.category, []).append(answer)
        return cls(
            model=model,
            data=data,
            numbers=numbers_of(answers),
            skipped=tuple(skipped),
            answers=tuple(answers),
            chance=chance(answers),
            categories={name: share(of) for name, of in sorted(by_category.items())} if len(by_category) > 1 else {},
            convention=convention,
            loaded=loaded,
        )

    @property
    def n(self) -> int:
        """Number of questions behind the score."""
        return next(iter(self.numbers.values())).n

    @property
    def score(self) -> Share:
        """The first of the numbers."""
        return next(iter(self.numbers.values()))

    def summary(self) -> pd.DataFrame:
        """A row for each number.

        Returns:
            Columns as in `score_rows`.
        """
        return pd.DataFrame(score_rows(self.to_dict(), every=True))

    @property
    def constant(self) -> float:
        """The score of who always names the choice in one place; NaN of a task of lm-eval."""
        places = Counter(answer.right for answer in as_asked(self.answers))
        return max(places.values()) / places.total() if places else math.nan

    @property
    def benchmark(self) -> str:
        """What tables call the benchmark: the DATA argument without folders and options."""
        kind, colon, place = self.data.partition(":")
        return f"{kind}{colon}{place.partition('?')[0].rstrip('/').rsplit('/', 1)[-1]}"

    def to_dict(self) -> dict[str, Any]:
        """JSON values; a number that does not exist is null."""
        return {
            "model": self.model,
            **({"name": self.name} if self.name else {}),
            **({"loaded": self.loaded} if self.loaded else {}),
            "data": self.data,
            "benchmark": self.benchmark,
            "unit": "fraction" if self.answers else "",
            "n": self.n,
            "numbers": {name: _plain(of) for name, of in self.numbers.items()},
            "chance": _or_none(self.chance),
            "constant": _or_none(self.constant),
            "categories": {name: _plain(of) for name, of in self.categories.items()},
            "convention": dict(self.convention),
            "skipped": [{"id": of.id, "reason": of.reason} for of in self.skipped],
        }


def score_rows(result: Mapping[str, Any], *, every: bool = False) -> list[dict[str, Any]]:
    """What `scores.csv` says of a result, as `--scores` of `mmerank report` reads it.

    Args:
        result: From `to_dict`.
        every: All numbers of own questions, and not the score alone, and of Yes and No F1; of a task of lm-eval all
            are there.

    Returns:
        `model`, `benchmark`, `metric`, `value`, `n`, `unit`, `low`, `high`, `chance`, `loaded`.
    """
    numbers = result["numbers"].items()
    return [
        {
            "model": result.get("name") or result["model"],
            "benchmark": result["benchmark"],
            "metric": metric,
            "value": of["value"],
            "n": of["n"],
            "unit": result["unit"],
            "low": of["low"],
            "high": of["high"],
            "chance": result["chance"],
            "loaded": result.get("loaded", ""),
        }
        for i, (metric, of) in enumerate(numbers)
        if every or not result["unit"] or i == 0 or metric == YES_NO[0]
    ]


def _plain(of: Share) -> dict[str, Any]:
    return {"value": _or_none(of.value), "low": _or_none(of.low), "high": _or_none(of.high), "n": of.n}


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
