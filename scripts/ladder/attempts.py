"""What was tried to break what the page says: each attempt as numbers, from the records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mmerank.inputs.demo import scenes
from scripts.ladder.analysis import SIGNIFICANT
from scripts.ladder.following import PERMUTATIONS, Floats, partial, ranks, rhos
from scripts.ladder.records import SHAPES, Records
from scripts.ladder.rungs import Budget
from scripts.ladder.truth import TRUTH

SHUFFLES = 200
AXES = ("wrong", "steps", "parts")
LEAST = 3  # steps of a shape
HALF = 0.5  # of rho, that is left

Shapes = list[tuple[Floats, Floats]]


@dataclass(frozen=True)
class Bench:
    """A ladder and its table, as attempts take them.

    Attributes:
        records: Of the ladder.
        found: Their table.
    """

    records: Records
    found: pd.DataFrame

    def shapes(self, models: pd.Index[Any] | None = None) -> Shapes:
        """Of each shape numbers and truth by step, of some models, or of all."""
        chosen = self.records.models.index if models is None else models
        own = self.records.by_step(self.records.own.loc[chosen, self.found.index])
        known = self.records.by_step(self.records.models.loc[chosen, [TRUTH]].astype(float))[TRUTH]
        return [
            (own.loc[shape].to_numpy(dtype=np.float64), known.loc[shape].to_numpy())
            for shape in SHAPES
            if shape in known.index.get_level_values("shape") and len(known.loc[shape]) >= LEAST
        ]

    def rho(self, models: pd.Index[Any] | None = None) -> pd.Series[float]:
        """Mean over shapes of Spearman's rho with the truth, by number."""
        each = [rhos(*shape) for shape in self.shapes(models)]
        return self.numbers(np.mean(each, axis=0))

    def numbers(self, values: Floats) -> pd.Series[float]:
        """Values by number."""
        return pd.Series(values, self.found.index, dtype=float)

    def beside(self, column: str) -> list[Floats]:
        """Of each shape what was done to its steps."""
        done = self.records.by_step(self.records.models[[column]].astype(float))[column]
        return [done.loc[shape].to_numpy() for shape in SHAPES if shape in done.index.get_level_values("shape")]

    def kept(self, rho: pd.Series[float], of: pd.Index[Any]) -> pd.Series[bool]:
        """Which of some numbers go the way that they go over the whole ladder."""
        return rho[of] * self.found["rho"][of] > 0


def of_seeds(bench: Bench) -> dict[int, pd.Series[float]]:
    """Rho on each seed alone, over the steps that all seeds have."""
    models = bench.records.models
    seeds = sorted(models["seed"].unique())
    twice = models.groupby("step")["seed"].transform("nunique") == len(seeds)
    return {int(seed): bench.rho(models.index[twice & (models["seed"] == seed)]) for seed in seeds}


def without_axes(bench: Bench) -> dict[str, pd.DataFrame]:
    """`rho` and `q` without each side of the ladder in turn; `full` stays."""
    found = {}
    for axis in AXES:
        left = bench.shapes(bench.records.models.index[bench.records.models["axis"] != axis])
        rho = np.mean([rhos(*shape) for shape in left], axis=0)
        p = p_values(rho[None], np.sort(drawn(left, PERMUTATIONS, 0).round(9), axis=0))[0]
        found[axis] = pd.DataFrame({"rho": rho, "q": stats.false_discovery_control(p)}, bench.found.index)
    return found


def given_length(bench: Bench) -> pd.Series[float]:
    """Partial rho with the length of the training taken out."""
    both = zip(bench.shapes(), bench.beside("steps"), strict=True)
    return bench.numbers(np.nanmean([partial(*shape, length) for shape, length in both], axis=0))


def within_axes(bench: Bench) -> pd.Series[float]:
    """What becomes of q where truth is permuted only among the steps of one side and shape."""
    models = bench.records.models
    sides = models.replace({"axis": {"full": "steps"}}).groupby(["shape", "step"])["axis"].first()
    rng = np.random.default_rng(0)
    shapes = bench.shapes()
    names = [name for name in SHAPES if name in sides.index.get_level_values("shape")]
    draws = np.zeros((PERMUTATIONS, len(bench.found)))
    for (values, known), name in zip(shapes, names, strict=True):
        side = sides.loc[name].to_numpy()
        orders = np.tile(np.arange(len(known)), (PERMUTATIONS, 1))
        for axis in np.unique(side):
            places = np.flatnonzero(side == axis)
            orders[:, places] = rng.permuted(np.tile(places, (PERMUTATIONS, 1)), axis=1)
        draws += ranks(known[:, None])[orders, 0] @ ranks(values) / len(known) / len(shapes)
    p = p_values(bench.found["rho"].to_numpy()[None], np.sort(draws.round(9), axis=0))[0]
    return bench.numbers(stats.false_discovery_control(p))


def of_clusters(bench: Bench) -> pd.DataFrame:
    """Mean, `low` and `high` of rho over clusters of one shape and seed, which share what they begin with."""
    models = bench.records.models
    each = np.stack([bench.rho(of.index) for _, of in models.groupby(["shape", "seed"]) if len(of) >= LEAST])
    mean, n = each.mean(axis=0), len(each)
    reach = stats.t.ppf(0.975, n - 1) * each.std(axis=0, ddof=1) / np.sqrt(n)
    return pd.DataFrame({"rho": mean, "low": mean - reach, "high": mean + reach}, bench.found.index)


def survivors(bench: Bench, follow: pd.Index[Any]) -> pd.Index[Any]:
    """Which of some numbers nothing here broke; what mismatched pairs do to them follows the truth as well."""
    found, clusters = bench.found, of_clusters(bench)
    stricter = bench.numbers(stats.false_discovery_control(found["p"], method="by"))
    without = without_axes(bench).values()
    sure = [found["gap_q"], found["wrong_q"], stricter, within_axes(bench), *(of["q"] for of in without)]
    kept = [*of_seeds(bench).values(), *(of["rho"] for of in without)]
    left = np.all([of[follow] < SIGNIFICANT for of in sure] + [bench.kept(of, follow) for of in kept], axis=0)
    left &= (clusters["low"] * clusters["high"] > 0)[follow].to_numpy()
    left &= (found["pooled_rho"] * np.sign(found["rho"]) > HALF)[follow].to_numpy()
    return follow[left]


def drawn(shapes: Shapes, draws: int, seed: int) -> Floats:
    """Rho of all numbers with a truth that is shuffled within shapes, (draws, q)."""
    rng = np.random.default_rng(seed)
    found = np.zeros((draws, shapes[0][0].shape[1]))
    for values, known in shapes:
        orders = rng.permuted(np.tile(np.arange(len(known)), (draws, 1)), axis=1)
        found += ranks(known[:, None])[orders, 0] @ ranks(values) / len(known) / len(shapes)
    return found


def p_values(rho: Floats, null: Floats) -> Floats:
    """Two-sided p of rho, (m, q), by draws that are sorted in each column, (n, q)."""
    found = np.empty_like(rho)
    for i, (column, of) in enumerate(zip(null.T, rho.T.round(9), strict=True)):
        above = len(column) - np.searchsorted(column, of, side="left")
        below = np.searchsorted(column, of, side="right")
        found[:, i] = np.minimum(1, 2 * (np.minimum(above, below) + 1) / (len(column) + 1))
    return found


@dataclass(frozen=True)
class Chance:
    """What a truth that is shuffled gives.

    Attributes:
        alone: rho beyond which one number has p < 0.05 by itself: the median over numbers.
        largest: What the largest rho of all numbers exceeds in 5 % of shuffled ladders.
        followers: How many numbers would be said to follow, in each of `SHUFFLES` shuffled ladders.
    """

    alone: float
    largest: float
    followers: Floats


def chance(bench: Bench) -> Chance:
    """The whole way from records to followers, of ladders whose truth is shuffled."""
    shapes, models = bench.shapes(), bench.records.models
    null = drawn(shapes, PERMUTATIONS, 0)
    largest = float(np.quantile(np.abs(null).max(axis=1), 0.95))
    alone = float(np.median(np.quantile(np.abs(null), 0.95, axis=0)))
    null = np.sort(null.round(9), axis=0)
    sides = models.groupby(["shape", "step"])["axis"].first()
    known = [sides.loc[name].to_numpy() for name in SHAPES if name in sides.index.get_level_values("shape")]
    rng = np.random.default_rng(1)
    counts = []
    for _ in range(SHUFFLES):
        shuffled = [(values, rng.permutation(truth)) for values, truth in shapes]
        each = [rhos(*shape) for shape in shuffled]
        rho = np.mean(each, axis=0)
        signs = [rho, *each]
        for axis in ("wrong", "steps"):
            places = [np.isin(side, [axis, "full"]) for side in known]
            parts = [rhos(v[at], t[at]) for (v, t), at in zip(shuffled, places, strict=True) if at.sum() >= LEAST]
            signs.append(np.mean(parts, axis=0))
        same = np.abs(np.sign(signs).sum(axis=0)) == len(signs)
        q = stats.false_discovery_control(p_values(rho[None], null)[0])
        counts.append(float(((q < SIGNIFICANT) & same).sum()))
    return Chance(alone, largest, np.array(counts))


def shared_scenes(budget: Budget) -> tuple[int, int]:
    """Descriptions that scenes of metrics share with those of the truth, and all of these with training."""

    def told(split: Any, places: Sequence[int] | range) -> Iterator[str]:
        return (scenes.scene(split, i).description for i in places)

    measured = set(told("held-out", range(budget.pairs)))
    asked = set(told("held-out", range(budget.pairs, budget.pairs + budget.truth)))
    return len(measured & asked), len((measured | asked) & set(told("train", range(budget.scenes))))
