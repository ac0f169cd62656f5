"""What the records of a ladder say of each number: does it follow the truth, and does it see what it should see?

A *number* is a metric at a place of the model, on all rows or on equally many. The unit is the step of the ladder:
its seeds are averaged, so that neither one seed nor the number of seeds decides. Everything is taken within a shape
and then averaged over shapes, so that a level which is a shape's own says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from mmerank.analysis.statistics.effects import signed_rank_p
from mmerank.analysis.statistics.null import null_test
from scripts.ladder.measuring import MISMATCHED, STRENGTHS
from scripts.ladder.truth import TRUTH

Floats = NDArray[np.float64]
Number = tuple[str, str, str, str]
NUMBER = ["metric", "point", "input", "rows"]
PERMUTATIONS, RESAMPLES = 9999, 2000
ALIGNED = 0.5  # of the truth, above which a model counts as aligned
LEAST_STEPS = 5  # of a shape, below which it says nothing
SAME = 1e-5  # relative; records are in single precision
OTHER_TRUTHS = ("choice", "loss_gain")


@dataclass(frozen=True)
class Records:
    """A ladder as it was measured.

    Attributes:
        models: A row per model, by name: `shape`, `step`, `axis`, `seed`, and what is true of it.
        values: A row per model and condition, a column per number; single precision, NaN where there is none.
        nulls: p against shuffled pairs of the own pairs, a row per model.
        twins: Own pairs of untrained twins, a row per twin with `shape` in the index.
    """

    models: pd.DataFrame
    values: pd.DataFrame
    nulls: pd.DataFrame
    twins: pd.DataFrame

    @cached_property
    def own(self) -> pd.DataFrame:
        """Numbers of the own pairs, a row per model."""
        return self.under("own")

    @cached_property
    def mismatched(self) -> pd.DataFrame:
        """The same of mismatched pairs."""
        return self.under(MISMATCHED)

    @cached_property
    def gap(self) -> pd.DataFrame:
        """Own less mismatched; 0 where only the order of summation differs, as of what sees one modality alone."""
        gap = self.own - self.mismatched
        return gap.where(~(gap.abs() <= SAME * self.own.abs()), 0.0)

    def under(self, condition: str) -> pd.DataFrame:
        """Numbers under one condition, a row per model."""
        chosen = self.values[self.values.index.get_level_values("condition") == condition]
        return chosen.droplevel("condition").reindex(self.models.index)

    def by_step(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Means over seeds, a row per shape and step."""
        chosen = self.models.loc[frame.index]
        return frame.groupby([chosen["shape"], chosen["step"]]).mean()


def load(folder: Path) -> Records:
    """Read the records of a ladder.

    Args:
        folder: Holds a folder for each rung and twin.

    Returns:
        All that are finished.

    Raises:
        FileNotFoundError: None is.
    """
    models, wide, nulls, twins = {}, {}, {}, {}
    for file in sorted(folder.glob("*/rung.json")):
        stated, table = json.loads(file.read_text()), pd.read_parquet(file.parent / "metrics.parquet")
        table = table.astype({name: str for name in ("condition", *NUMBER)})
        if "twin" in stated:
            twins[stated["twin"]["shape"], file.parent.name] = table.set_index(NUMBER)["value"]
            continue
        name, rung = file.parent.name, stated["rung"]
        models[name] = {**rung, "step": stated["step"], "axis": axis(rung), **stated["truth"], **stated["seconds"]}
        for condition, rows in table.groupby("condition"):
            wide[name, condition] = rows.set_index(NUMBER)["value"]
        own = table[(table["condition"] == "own") & table["null_p"].notna()]
        nulls[name] = own.set_index(NUMBER)["null_p"]
    if not models:
        raise FileNotFoundError(f"{folder}: no records of a ladder; train one first")
    values = pd.DataFrame(wide).T.rename_axis(["model", "condition"])
    return Records(
        pd.DataFrame(models).T.infer_objects(),
        values,
        pd.DataFrame(nulls).T,
        pd.DataFrame(twins).T.rename_axis(["shape", "twin"]),
    )


def axis(rung: dict[str, object]) -> str:
    """Which side of the ladder a rung stands on: `wrong`, `steps`, `parts`, or `full`, which belongs to each."""
    if rung["wrong"]:
        return "wrong"
    if rung["steps"] != 1:
        return "steps"
    return "full" if (rung["connector"], rung["tower"]) == ("own", "frozen") else "parts"


def ranks(values: Floats) -> Floats:
    """Ranks of each column, standardised, so that a mean product is Spearman's rho: (n, q); 0 where all are equal."""
    ranked = np.asarray(stats.rankdata(values, axis=0))
    centred = ranked - ranked.mean(axis=0)
    length = np.sqrt((centred**2).mean(axis=0))
    return np.asarray(np.divide(centred, length, out=np.zeros_like(centred), where=length > 0))


def rhos(values: Floats, truth: Floats) -> Floats:
    """Spearman's rho of each column with the truth, (q,)."""
    return np.asarray((ranks(values) * ranks(truth[:, None])).mean(axis=0), np.float64)


@dataclass(frozen=True)
class Followed:
    """How numbers go with a truth over the steps of one or more shapes.

    Attributes:
        rho: Mean over shapes of Spearman's rho, (q,).
        low: Lower limit of its 95 % interval over steps.
        high: Upper limit.
        p: Two-sided, of permutations within shapes.
        each: rho by shape, (shapes, q).
    """

    rho: Floats
    low: Floats
    high: Floats
    p: Floats
    each: Floats


def followed(shapes: Sequence[tuple[Floats, Floats]], *, seed: int = 0) -> Followed:
    """Spearman's rho of numbers with the truth: permutation test and interval.

    Args:
        shapes: Of each shape the numbers, (n, q), and the truth, (n,), a row per step.
        seed: Of permutations and resamples.

    Returns:
        The mean over shapes; the truth is permuted within shapes; steps, all seeds of each together, are resampled
        within shapes.
    """
    rng = np.random.default_rng(seed)
    each = np.stack([rhos(values, truth) for values, truth in shapes])
    draws = np.zeros((PERMUTATIONS, each.shape[1]))
    again = np.zeros((RESAMPLES, each.shape[1]))
    for values, truth in shapes:
        n = len(truth)
        orders = rng.permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1)
        draws += ranks(truth[:, None])[orders, 0] @ ranks(values) / n / len(shapes)
        for row in again:
            some = rng.integers(n, size=n)
            row += rhos(values[some], truth[some]) / len(shapes)
    rho = each.mean(axis=0)
    # Rounding must not tell equal statistics apart.
    p = [null_test(value, null.tolist()).p for value, null in zip(rho.round(9), draws.T.round(9), strict=True)]
    low, high = np.quantile(again, [0.025, 0.975], axis=0)
    return Followed(rho, low, high, np.array(p), each)


def partial(values: Floats, truth: Floats, beside: Floats) -> Floats:
    """Spearman's partial rho of each column with the truth, what goes with `beside` taken out of both, (q,)."""
    r, of, to = rhos(values, truth), rhos(values, beside), rhos(truth[:, None], beside)[0]
    rest = np.sqrt(np.clip((1 - of**2) * (1 - to**2), 0, None))
    return np.asarray(np.divide(r - of * to, rest, out=np.full_like(r, np.nan), where=rest > 1e-6))


def table(records: Records) -> pd.DataFrame:
    """Everything that is asked of each number.

    Args:
        records: Of `load`.

    Returns:
        A row per number (index: metric, point, input, rows). `n` steps; `rho`, `low`, `high`, `p`, and `q` over all
        numbers and both families together; `rho_SHAPE`; `gap_rho`, `gap_p`, `gap_q`: the same of the number less that
        of mismatched pairs; `partial_text`, on the loss of the text alone; `rho_TRUTH` with the other truths;
        `rho_wrong` and `rho_steps`: on one side of the ladder; `least` and `most`: rho without each step in turn;
        `mismatch_p`: Wilcoxon, own against mismatched over aligned steps; `null_share`: aligned models whose number
        stands out of shuffled pairs (p < 0.05), where it has such a null, and `null_share_not` of the others;
        `beats_twin`: aligned models that are further on than the untrained twin, in the direction of rho;
        `order_NAME`: aligned models in which rising strength moves it in order against that direction.
    """
    own = records.by_step(records.own)
    complete = own.columns[own.notna().all() & (own.nunique() > 1)]
    own, gap = own[complete], records.by_step(records.gap)[complete]
    known = records.by_step(records.models[[TRUTH, "loss_text", *OTHER_TRUTHS]].astype(float))
    names = [name for name, steps in known.groupby(level="shape") if len(steps) >= LEAST_STEPS]

    def shapes(frame: pd.DataFrame, truth: str, only: pd.Series[bool] | None = None) -> list[tuple[Floats, Floats]]:
        chosen = known.index if only is None else known.index[only.reindex(known.index).to_numpy(dtype=bool)]
        return [
            (frame.loc[rows].to_numpy(dtype=np.float64), known.loc[rows, truth].to_numpy())
            for name in names
            if len(rows := chosen[chosen.get_level_values("shape") == name]) > 2
        ]

    of = followed(shapes(own, TRUTH))
    seen = (gap.notna().all() & (gap.nunique() > 1)).to_numpy()
    of_gap = followed([(values[:, seen], truth) for values, truth in shapes(gap, TRUTH)], seed=1)
    found = pd.DataFrame({"n": len(known), "rho": of.rho, "low": of.low, "high": of.high, "p": of.p}, index=complete)
    for name, each in zip(names, of.each, strict=True):
        found[f"rho_{name}"] = each
    for column, values in (
        ("gap_rho", of_gap.rho),
        ("gap_low", of_gap.low),
        ("gap_high", of_gap.high),
        ("gap_p", of_gap.p),
    ):
        found.loc[seen, column] = values
    together = stats.false_discovery_control(np.concatenate([of.p, of_gap.p]))
    found["q"] = together[: len(of.p)]
    found.loc[seen, "gap_q"] = together[len(of.p) :]
    beside = [known.loc[known.index.get_level_values("shape") == name, "loss_text"].to_numpy() for name in names]
    found["partial_text"] = np.mean(
        [partial(*both, text) for both, text in zip(shapes(own, TRUTH), beside, strict=True)], axis=0
    )
    for other in OTHER_TRUTHS:
        found[f"rho_{other}"] = np.mean([rhos(*both) for both in shapes(own, other)], axis=0)
    sides = records.models.groupby(["shape", "step"])["axis"].first()
    for side in ("wrong", "steps"):
        part = shapes(own, TRUTH, sides.isin([side, "full"]))
        found[f"rho_{side}"] = np.mean([rhos(*both) for both in part], axis=0) if part else np.nan
    without = [
        np.mean([rhos(*both) for both in shapes(own, TRUTH, pd.Series(known.index != step, known.index))], axis=0)
        for step in known.index
    ]
    found["least"], found["most"] = np.min(without, axis=0), np.max(without, axis=0)
    return found.join(_seen(records, found["rho"]))


def by_number(found: pd.DataFrame) -> dict[Number, dict[str, Any]]:
    """The rows of `table`, by number."""
    rows: dict[Any, dict[str, Any]] = found.to_dict("index")  # type: ignore[assignment]
    return rows


def _seen(records: Records, rho: pd.Series[float]) -> pd.DataFrame:
    """What of `table` is asked of aligned models."""
    aligned = records.models[TRUTH].astype(float) >= ALIGNED
    up, own, columns = np.sign(rho), records.own[rho.index], rho.index
    found = pd.DataFrame(index=columns)
    if aligned.any():
        gap = records.by_step(records.gap.loc[aligned, columns])
        found["mismatch_p"] = [
            signed_rank_p(gap[name].dropna().to_numpy()) if gap[name].any() else 1.0 for name in columns
        ]
    out = (records.nulls < 0.05).where(records.nulls.notna()).astype(float)
    found["null_share"] = out[aligned.reindex(out.index)].mean().reindex(columns)
    found["null_share_not"] = out[~aligned.reindex(out.index)].mean().reindex(columns)
    twins = records.twins.groupby(level="shape").mean().reindex(columns=columns)
    known = records.models.loc[aligned & records.models["shape"].isin(twins.index), "shape"]
    against = twins.loc[known].set_index(known.index)
    found["beats_twin"] = ((own.loc[known.index] - against) * up > 0).where(against.notna()).astype(float).mean()
    for kind, strengths in STRENGTHS.items():
        line = [own, *(records.under(f"{kind}:{strength}")[columns] for strength in strengths)]
        falls = [((a - b) * up > 0).where(b.notna()) for a, b in pairwise(line)]
        ordered = pd.concat(falls).astype(float).groupby(level=0).min()
        found[f"order_{kind}"] = ordered[aligned.reindex(ordered.index)].mean()
    return found
