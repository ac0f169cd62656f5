"""The best composite of numbers, chosen on one shape and tested on the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd

from mmerank.analysis.statistics.calibration import shuffled
from mmerank.analysis.statistics.null import null_test
from scripts.ladder.following import PERMUTATIONS, Floats, ranks, rhos
from scripts.ladder.measuring import MARGIN
from scripts.ladder.records import Number, Records
from scripts.ladder.truth import TRUTH

CHOSEN_ON, TESTED_ON = "llava", "minigpt-v2"
MOST = 3


@dataclass(frozen=True)
class HeldOut:
    """A composite and what came of it.

    Attributes:
        numbers: What is in it, with the sign that each is taken with.
        chosen: Its rho with the truth where it was chosen, which flatters it.
        tested: On the other shape.
        p: Of that, by permutation, one-sided: the sign was fixed before.
    """

    numbers: tuple[tuple[Number, int], ...]
    chosen: float
    tested: float
    p: float


def held_out(
    records: Records, most: int = MOST, *, chosen_on: str = CHOSEN_ON, tested_on: str = TESTED_ON
) -> HeldOut | None:
    """The composite that follows the truth best on one shape, tested on another.

    A composite is the mean of the ranks, with signs, of up to `most` numbers, each added while it raises rho. Margins
    of likelihood stay out: the question is whether one can do without.

    Args:
        records: Of `scripts.ladder.records.load`.
        most: Numbers at most.
        chosen_on: The shape that it is chosen on.
        tested_on: The other.

    Returns:
        It; None while a shape has fewer than five steps.
    """
    own = records.by_step(records.own)
    known = records.by_step(records.models[[TRUTH]].astype(float))[TRUTH]
    counts = known.groupby(level="shape").size()
    if min(counts.get(chosen_on, 0), counts.get(tested_on, 0)) < 5:
        return None
    own = own.loc[:, own.notna().all() & (own.columns.get_level_values("metric") != MARGIN)]
    here, there = (ranks(own.loc[shape].to_numpy(dtype=np.float64)) for shape in (chosen_on, tested_on))
    truth, other = (known.loc[shape].to_numpy() for shape in (chosen_on, tested_on))
    picked, signs, best = best_of(here, truth, most)
    made = there[:, picked] @ signs[picked]
    of, to = ranks(made[:, None]), ranks(other[:, None])
    value, null = shuffled(lambda order: float((of * to[order]).mean()), len(other), PERMUTATIONS, 0)
    test = null_test(round(value, 9), null.round(9).tolist(), alternative="greater")
    numbers = cast("list[Number]", own.columns.tolist())
    return HeldOut(tuple((numbers[i], int(signs[i])) for i in picked), best, value, test.p)


def best_of(here: Floats, truth: Floats, most: int = MOST) -> tuple[list[int], Floats, float]:
    """Numbers whose ranks, added with signs, follow a truth best.

    Args:
        here: Ranks, (n, q).
        truth: (n,).
        most: Numbers at most.

    Returns:
        Which, the signs of all, (q,), and the rho of the sum.
    """
    signs = np.sign(rhos(here, truth))
    picked: list[int] = []
    best = 0.0
    while len(picked) < most:
        sums = here[:, picked] @ signs[picked]
        scores = rhos(sums[:, None] + here * signs, truth)
        scores[picked] = -1
        if scores.max() <= best + 1e-9:
            break
        picked.append(int(scores.argmax()))
        best = float(scores.max())
    return picked, signs, best


def _rho(values: Floats, truth: Floats) -> float:
    return float(rhos(values[:, None], truth)[0])


def agreement(table: pd.DataFrame) -> float:
    """Over all numbers: how far their rho on one shape tells that on the other, by Spearman's rho."""
    both = table[[f"rho_{CHOSEN_ON}", f"rho_{TESTED_ON}"]].dropna()
    return _rho(both.iloc[:, 0].to_numpy(), both.iloc[:, 1].to_numpy())
