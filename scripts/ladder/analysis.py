"""What the records of a ladder say of each number: does it follow the truth, and does it see what it should see?

A *number* is a metric at a place of the model, on all rows or on equally many. The unit is the step of the ladder:
its seeds are averaged, so that neither one seed nor the number of seeds decides.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mmerank.analysis.statistics.effects import signed_rank_p
from scripts.ladder.following import Floats, followed, partial, rhos
from scripts.ladder.measuring import MARGIN, STRENGTHS
from scripts.ladder.records import SEEN, SHAPES, Number, Records
from scripts.ladder.truth import TRUTH

ALIGNED = 0.5  # of the truth, above which a model counts as aligned
SIGNIFICANT = 0.05
LEAST_STEPS = 5  # of a shape, below which it says nothing
OTHER_TRUTHS = (SEEN, "choice", "loss_gain")


def table(records: Records) -> pd.DataFrame:
    """Everything that is asked of each number.

    Args:
        records: Of `load`.

    Returns:
        A row per number (index: metric, point, input, rows). `n` steps; `rho`, `low`, `high`, `p`, and `q` over
        everything that has a p; `rho_SHAPE`; the same with `gap_`, of the number less that of mismatched pairs, and
        with `wrong_`, over the steps that differ in wrong captions alone; `steps_rho`, over those that differ in
        length; `pooled_rho`, over both shapes as if they were one; `partial_text`, on the loss of the text alone;
        `rho_TRUTH` with the other truths; `least` and `most`: rho without each step in turn;
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

    sides = records.models.groupby(["shape", "step"])["axis"].first()
    side = {name: shapes(own, TRUTH, sides.isin([name, "full"])) for name in ("wrong", "steps")}
    seen = (gap.notna().all() & (gap.nunique() > 1)).to_numpy()
    asked = {
        "": (shapes(own, TRUTH), np.ones(len(complete), bool)),
        "gap_": ([(values[:, seen], truth) for values, truth in shapes(gap, TRUTH)], seen),
        **({"wrong_": (side["wrong"], np.ones(len(complete), bool))} if side["wrong"] else {}),
    }
    found = pd.DataFrame({"n": len(known)}, index=complete)
    ps = []
    for seed, (front, (given, places)) in enumerate(asked.items()):
        of = followed(given, seed=seed)
        for column in ("rho", "low", "high", "p"):
            found.loc[places, front + column] = getattr(of, column)
        if not front:
            for name, each in zip(names, of.each, strict=True):
                found[f"rho_{name}"] = each
        ps.append(of.p)
    together = iter(np.split(stats.false_discovery_control(np.concatenate(ps)), np.cumsum([len(p) for p in ps])[:-1]))
    for front, (_, places) in asked.items():
        found.loc[places, f"{front}q"] = next(together)
    whole = (own.to_numpy(dtype=np.float64), known[TRUTH].to_numpy())
    found["pooled_rho"] = rhos(*whole)
    found["steps_rho"] = np.mean([rhos(*both) for both in side["steps"]], axis=0) if side["steps"] else np.nan
    beside = [known.loc[known.index.get_level_values("shape") == name, "loss_text"].to_numpy() for name in names]
    found["partial_text"] = np.mean(
        [partial(*both, text) for both, text in zip(shapes(own, TRUTH), beside, strict=True)], axis=0
    )
    for other in OTHER_TRUTHS:
        found[f"rho_{other}"] = np.mean([rhos(*both) for both in shapes(own, other)], axis=0)
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


def consistent(found: pd.DataFrame) -> pd.Series[bool]:
    """Whether rho has one sign on both sides of the ladder and for both shapes."""
    shapes = [found[column] for shape in SHAPES if (column := f"rho_{shape}") in found]
    return _same(found["rho"], found["wrong_rho"], found["steps_rho"], *shapes)


def followers(found: pd.DataFrame) -> pd.Index[Any]:
    """The numbers without likelihood that followed the truth: q, and one sign everywhere."""
    rest = found.drop(MARGIN, level="metric")
    return rest.index[(rest["q"] < SIGNIFICANT) & consistent(rest)]


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


def _same(*columns: pd.Series[float]) -> pd.Series[bool]:
    """Whether all have one sign."""
    signs = np.stack([np.sign(column.to_numpy(dtype=np.float64)) for column in columns])
    return pd.Series(abs(signs.sum(axis=0)) == len(columns), columns[0].index)
