"""Answers of models to questions -> numbers of a benchmark, and one model's against another's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import methodcaller
from typing import Any

import numpy as np

from mmerank.analysis.sample import Floats, Sample
from mmerank.analysis.statistics.bootstrap import Bootstrap, bootstrap_limits
from mmerank.analysis.statistics.paired import (
    PERMUTATIONS,
    ComparisonResult,
    FalseDiscovery,
    chosen_quantities,
    paired,
)
from mmerank.analysis.statistics.proportion import share_interval

# What the sum of a choice's log-likelihoods is divided by.
WAYS = {"acc": "nothing", "acc_norm": "characters of the choice", "acc_token": "tokens of the choice"}
CIRCULAR = "acc_circular"
# Of benchmarks whose answers are Yes and No, Yes being what is looked for.
YES_NO = ("f1", "precision", "recall", "yes_rate")
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
        yes_no: Whether the choices are Yes and No, in this order.
        circle: The question that this is, its choices moved on; empty where they stand as the benchmark has them.
    """

    id: str
    right: int
    loglikelihoods: tuple[float, ...]
    tokens: tuple[int, ...]
    characters: tuple[int, ...]
    category: str = ""
    picture: str = ""
    yes_no: bool = False
    circle: str = ""

    @property
    def group(self) -> str:
        """What it is drawn and swapped together with: all about one picture."""
        return self.picture or self.id

    def chose(self, choice: int, way: str = "acc") -> float:
        """Whether a choice is the likeliest.

        Args:
            choice: Which, from 0.
            way: One of `WAYS`.

        Returns:
            1 or 0; where it is one of k equally likely ones, 1 / k.
        """
        sizes = {"acc_norm": self.characters, "acc_token": self.tokens}.get(way, (1,) * len(self.tokens))
        each = [total / size for total, size in zip(self.loglikelihoods, sizes, strict=True)]
        likeliest = [i for i, value in enumerate(each) if value == max(each)]
        return 1 / len(likeliest) if choice in likeliest else 0.0

    def correct(self, way: str = "acc") -> float:
        """Whether the right choice is the likeliest, as `chose`."""
        return self.chose(self.right, way)


@dataclass(frozen=True)
class Share:
    """A share of right answers, or another number made of them.

    Attributes:
        value: Between 0 and 1; NaN where it is undefined, as a precision where nothing was answered Yes.
        low: Lower limit of its 95 % interval; NaN where there is none.
        high: Upper limit.
        n: Number of questions.
    """

    value: float
    low: float
    high: float
    n: int


def as_asked(answers: Sequence[Answer]) -> list[Answer]:
    """Those whose choices stand as the benchmark has them."""
    return [answer for answer in answers if not answer.circle]


def numbers_of(answers: Sequence[Answer]) -> dict[str, Share]:
    """The numbers of a benchmark, the score first.

    `acc_circular`, where choices were moved on: the share of questions that are answered rightly in every order
    (CircularEval of MMBench, arXiv:2307.06281), of k equally likely choices the right one counting 1 / k. `f1`,
    `precision`, `recall` and `yes_rate`, of Yes and No: as in POPE (arXiv:2305.10355), Yes being what is looked for.

    Args:
        answers: At least one.

    Returns:
        Numbers by name; intervals of shares by Wilson's score over pictures, of F1 and precision by the bootstrap
        over pictures, none where all pictures are alike.
    """
    plain = as_asked(answers)
    found = {"acc": share(plain)}
    if circles := _circles(answers):
        right = [value for _, value in circles]
        found = {CIRCULAR: _share(right, [of for of, _ in circles]), **found}
    if all(answer.yes_no for answer in plain):
        found |= _of_yes(plain)
    return found | {way: share(plain, way) for way in WAYS if way != "acc"}


def share(answers: Sequence[Answer], way: str = "acc") -> Share:
    """The share of right answers.

    Args:
        answers: At least one.
        way: One of `WAYS`.

    Returns:
        It, with an interval over pictures.
    """
    return _share([of.correct(way) for of in answers], answers)


def chance(answers: Sequence[Answer]) -> float:
    """What answers at random score: of circles, every one of k orders rightly out of k choices."""
    if circles := _circles(answers):
        return float(np.mean([len(of.tokens) ** -float(len(of.tokens)) for of, _ in circles]))
    return float(np.mean([1 / len(of.tokens) for of in answers]))


def _of_yes(answers: Sequence[Answer]) -> dict[str, Share]:
    of = sample_of(answers)
    places = [of.quantities.index(name) for name in YES_NO]
    low, high = bootstrap_limits(of.columns, lambda means: of.of_means(means)[..., places], Bootstrap(LEVEL))
    found = {}
    for i, name in enumerate(YES_NO):
        limits = (float(low[i]), float(high[i])) if low[i] < high[i] else (math.nan, math.nan)
        found[name] = Share(float(of.estimates[places[i]]), *limits, len(answers))
    positive = [answer for answer in answers if answer.right == 0]
    for name, some in (("recall", positive), ("yes_rate", answers)):
        if some:
            found[name] = _share([answer.chose(0) for answer in some], some)
    return found


def _share(right: Sequence[float], of: Sequence[Answer]) -> Share:
    values: Floats = np.array(right)
    return Share(float(values.mean()), *share_interval(values, [answer.group for answer in of], LEVEL), len(values))


def _circles(answers: Sequence[Answer]) -> list[tuple[Answer, float]]:
    """Each question of which every order was answered, and whether all of these are right."""
    moved: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.circle:
            moved.setdefault(answer.circle, []).append(answer)
    return [
        (of, math.prod(each.correct() for each in (of, *moved[of.id])))
        for of in as_asked(answers)
        if len(moved.get(of.id, ())) == len(of.tokens) - 1
    ]


def sample_of(answers: Sequence[Answer]) -> Sample:
    """Answers by picture, so that those about one picture are drawn and swapped together.

    Args:
        answers: At least one.

    Returns:
        Sums over the questions of each picture; the numbers are functions of their means.
    """
    plain = as_asked(answers)
    circles = {of.id: value for of, value in _circles(answers)}
    parts: dict[str, Callable[[Answer], float]] = {"n": lambda of: 1.0}
    parts |= {way: methodcaller("correct", way) for way in WAYS}
    if circles:
        parts |= {CIRCULAR: lambda of: circles.get(of.id, 0.0), "circles": lambda of: float(of.id in circles)}
    yes_no = all(of.yes_no for of in plain)
    if yes_no:
        parts["yes"] = lambda of: of.chose(0)
        parts["positive"] = lambda of: float(of.right == 0)
        parts["hit"] = lambda of: of.chose(0) * (of.right == 0)
    pictures: dict[str, list[Answer]] = {}
    for of in plain:
        pictures.setdefault(of.group, []).append(of)
    ordered = sorted(pictures)
    columns = [[sum(map(part, pictures[name])) for part in parts.values()] for name in ordered]
    names = [*([CIRCULAR] if circles else []), "acc", *(YES_NO if yes_no else ()), "acc_norm", "acc_token"]

    def of_means(means: Floats) -> Floats:
        at = {name: means[..., i] for i, name in enumerate(parts)}
        over: dict[str, tuple[Any, Any]] = {way: (at[way], at["n"]) for way in WAYS}
        if circles:
            over[CIRCULAR] = (at[CIRCULAR], at["circles"])
        if yes_no:
            over["f1"] = (2 * at["hit"], at["yes"] + at["positive"])
            over["precision"], over["recall"] = (at["hit"], at["yes"]), (at["hit"], at["positive"])
            over["yes_rate"] = (at["yes"], at["n"])
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample without any Yes
            return np.stack([np.divide(*over[name]) for name in names], axis=-1)

    return Sample(tuple(names), tuple(ordered), np.array(columns), of_means)


def compared_answers(
    a: Sequence[Answer],
    b: Sequence[Answer],
    *,
    names: tuple[str, str],
    quantities: Sequence[str] | None = None,
    bootstrap: Bootstrap | None = None,
    permutations: int = PERMUTATIONS,
    false_discovery: FalseDiscovery = "bh",
) -> ComparisonResult:
    """A - B on the questions that both answered; all answers about a picture are drawn and swapped together.

    Args:
        a: Answers of one model.
        b: Of the other.
        names: What A and B are called.
        quantities: Those to test; by default the first, and of questions with yes and no F1 and yes-rate.
        bootstrap: Level, resamples, seed and method.
        permutations: Most swaps to try.
        false_discovery: `bh` or `by`.

    Returns:
        The differences; n is the number of questions.

    Raises:
        ValueError: They have no question in common, another right answer to one, or there is no such quantity.
    """
    one, other = ({answer.id: answer for answer in side} for side in (a, b))
    common = one.keys() & other.keys()
    if not common:
        raise ValueError(
            f"expected questions in common, got none: {len(one)} on one side and {len(other)} on the other"
        )
    told = [(one[name], other[name]) for name in sorted(common)]
    if unlike := [of for of, beside in told if _asked(of) != _asked(beside)]:
        raise ValueError(
            f"expected the same questions on both sides, got others under {len(unlike)} of the ids they share, "
            f"{unlike[0].id!r} among them"
        )
    left, right = (sample_of([side[name] for name in sorted(common)]) for side in (one, other))
    plain = [len(as_asked([*side.values()])) for side in (one, other)]
    n = len(as_asked([of for of, _ in told]))
    if quantities is None:
        quantities = [name for i, name in enumerate(left.quantities) if i == 0 or name in (YES_NO[0], YES_NO[-1])]
    found = paired(
        left,
        right,
        chosen_quantities(left, right, quantities),
        names=names,
        unpaired=sum(plain) - 2 * n,
        logs=(),
        bootstrap=bootstrap or Bootstrap(),
        permutations=permutations,
        false_discovery=false_discovery,
        matched=False,
    )
    return replace(found, n=n, groups=found.n if found.n < n else 0)


def _asked(of: Answer) -> Mapping[str, Any]:
    return {name: getattr(of, name) for name in ("right", "characters", "picture", "yes_no", "circle")}
