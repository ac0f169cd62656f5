"""What a model answered to the questions of a benchmark, and the shares of right answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mmerank.analysis.sample import Floats
from mmerank.analysis.statistics.proportion import share_interval
from mmerank.inputs.example import Skipped

# The numbers, the first of which is the score, and what the sum of a choice's log-likelihoods is divided by.
WAYS = {"acc": "nothing", "acc_norm": "characters of the choice", "acc_token": "tokens of the choice"}
LEVEL = 0.95


@dataclass(frozen=True)
class Answer:
    """What a model makes of one question.

    Attributes:
        id: Of the question.
        right: Which choice is right, from 0.
        loglikelihoods: Of each choice, the sum over its tokens, nats.
        tokens: Number of tokens of each.
        characters: Number of characters of each.
        category: Of the question; empty where the benchmark has none.
        picture: What the question's picture is known by.
    """

    id: str
    right: int
    loglikelihoods: tuple[float, ...]
    tokens: tuple[int, ...]
    characters: tuple[int, ...]
    category: str = ""
    picture: str = ""

    def correct(self, way: str = "acc") -> float:
        """Whether the right choice is the likeliest.

        Args:
            way: One of `WAYS`.

        Returns:
            1 or 0; where it is one of k equally likely ones, 1 / k.
        """
        sizes = {"acc_norm": self.characters, "acc_token": self.tokens}.get(way, (1,) * len(self.tokens))
        each = [total / size for total, size in zip(self.loglikelihoods, sizes, strict=True)]
        likeliest = [i for i, value in enumerate(each) if value == max(each)]
        return 1 / len(likeliest) if self.right in likeliest else 0.0


@dataclass(frozen=True)
class Share:
    """A share of right answers.

    Attributes:
        value: Between 0 and 1.
        low: Lower limit of its 95 % interval; NaN where there is none.
        high: Upper limit.
        n: Number of questions.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class ScoreResult:
    """What a model scored on a benchmark.

    Attributes:
        model: Name of the model.
        data: The DATA argument.
        numbers: The score and what stands beside it, by name: of own questions those of `WAYS`, of a task of lm-eval
            each of its metrics.
        skipped: Questions that were not asked, each with the reason.
        answers: What it answered; none of a task of lm-eval.
        chance: What answers at random score, the mean of 1 / number of choices; NaN of a task of lm-eval.
        categories: The score by category, where the benchmark has several.
        convention: How questions were asked.
        name: What tables call the model; empty for its name.
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
        places = Counter(answer.right for answer in self.answers)
        return max(places.values()) / len(self.answers) if places else math.nan

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
        every: All numbers of own questions, and not the score alone; of a task of lm-eval all are there.

    Returns:
        `model`, `benchmark`, `metric`, `value`, `n`, `unit`, `low`, `high`, `chance`.
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
        }
        for metric, of in (numbers if every or not result["unit"] else [*numbers][:1])
    ]


def scored(
    answers: Sequence[Answer], *, model: str, data: str, skipped: Sequence[Skipped], convention: Mapping[str, Any]
) -> ScoreResult:
    """The result of answers to a benchmark's questions.

    Args:
        answers: At least one.
        model: Name of the model.
        data: The DATA argument.
        skipped: What was not asked.
        convention: How they were asked.

    Returns:
        Shares with intervals over pictures.
    """
    by_category: dict[str, list[Answer]] = {}
    for answer in answers:
        by_category.setdefault(answer.category, []).append(answer)
    return ScoreResult(
        model=model,
        data=data,
        numbers={way: share(answers, way) for way in WAYS},
        skipped=tuple(skipped),
        answers=tuple(answers),
        chance=float(np.mean([1 / len(answer.tokens) for answer in answers])),
        categories={name: share(of) for name, of in sorted(by_category.items())} if len(by_category) > 1 else {},
        convention=convention,
    )


def share(answers: Sequence[Answer], way: str = "acc") -> Share:
    """The share of right answers.

    Args:
        answers: At least one.
        way: One of `WAYS`.

    Returns:
        It, with an interval over pictures.
    """
    right: Floats = np.array([answer.correct(way) for answer in answers])
    low, high = share_interval(right, [answer.picture or answer.id for answer in answers], LEVEL)
    return Share(float(right.mean()), low, high, len(answers))


def _plain(of: Share) -> dict[str, Any]:
    return {"value": _or_none(of.value), "low": _or_none(of.low), "high": _or_none(of.high), "n": of.n}


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
