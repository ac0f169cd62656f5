"""The page on the ladder: its prose is `page.md` beside this, and every number in it comes from the records."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import cast

import numpy as np
import pandas as pd

from mmerank.eranks import ERANKS
from mmerank.formulas.on_ladder import OnLadder
from mmerank.formulas.table import METRICS
from scripts.ladder.analysis import ALIGNED, SIGNIFICANT, by_number, consistent, followers
from scripts.ladder.attempts import Bench, without_axes
from scripts.ladder.composite import agreement, held_out
from scripts.ladder.following import PERMUTATIONS
from scripts.ladder.measuring import LEFT_OUT, MARGIN
from scripts.ladder.records import SHAPES, Number, Records
from scripts.ladder.tables import (
    NONE,
    beside_table,
    checks_table,
    follow_table,
    interval,
    named,
    p_value,
    signed,
    truth_table,
)
from scripts.ladder.tried import ITA, tried
from scripts.ladder.truth import TRUTH

PROSE = Path(__file__).with_name("page.md")
FIGURE = Path("docs/figures/alignment-ladder.png")
PAGE = Path("docs/alignment-ladder.md")
PAPER = ("image_text_alignment", "image_reduction_ratio", *ERANKS)
# What the prose calls some.
SHORT = {"margin": MARGIN, "ita": PAPER[0], "irr": PAPER[1], "erank2": "erank2", "erank5": "erank5"}
# And others, at their best place, or at the LLM.
BEST = {"mir": "mir_fid_one_layer_nuclear_identity"}
AT_LLM = {"dime": "dime_10_perms_linear", "cka": "cka_linear_unbiased"}
# What every table begins with.
FIRST: tuple[Number, ...] = (
    (MARGIN, "", "", "all"),
    *((name, "", "", rows) for name in PAPER[:2] for rows in ("all", "matched")),
    *((name, "", "", "all") for name in PAPER[2:]),
)


def page(records: Records, found: pd.DataFrame) -> str:
    """The page, in Markdown.

    Args:
        records: Of the ladder.
        found: Their table.

    Returns:
        The prose with every number in its place.
    """
    best = [number for number in best_places(found) if number not in FIRST]
    chosen = [number for number in (*FIRST, *best) if number in found.index]
    return Template(PROSE.read_text()).substitute(
        **counts(records, found),
        truth_table=truth_table(records),
        follow_table=follow_table(found, chosen),
        beside_table=beside_table(found, chosen),
        checks_table=checks_table(found, chosen),
        **composite(records, found),
        **tried(records, found),
    )


def counts(records: Records, found: pd.DataFrame) -> dict[str, str]:
    """What the prose counts."""
    models, rows = records.models, by_number(found)
    known = models[TRUTH].astype(float)
    rest = found.drop(MARGIN, level="metric")
    follow = found.loc[followers(found)]
    surely = follow[follow["wrong_q"] < SIGNIFICANT]
    gaps = rest[rest["gap_q"] < SIGNIFICANT]
    place = follow.index.get_level_values("point")
    hours = models["all"].astype(float).sum() / 3600
    full, quarter = (
        models[chosen].astype({TRUTH: float, "loss_gain": float})
        for chosen in (models["axis"] == "full", models["wrong"] == 0.25)
    )
    best = best_places(found)
    across = cast("Number", (follow if len(follow) else rest)["pooled_rho"].abs().idxmax())
    called: dict[str, Number] = {
        **{short: (name, "", "", "all") for short, name in SHORT.items()},
        **{short: next(number for number in best if number[0] == name) for short, name in BEST.items()},
        **{short: (name, "llm", "pair", "all") for short, name in AT_LLM.items()},
        "first": best[0],
        "across": across,
    }
    text = models["loss_text"].astype(float)
    return {
        "models": str(len(models)),
        "steps": str(models["step"].nunique()),
        "one_seed": str(int((models.groupby("step").size() == 1).sum())),
        "second": str(int((models.groupby("step").size() > 1).sum())),
        "hours": f"{hours:.1f}",
        "minutes": f"{60 * hours / len(models):.1f}",
        "aligned": str(int((known >= ALIGNED).sum())),
        "aligned_from": f"{ALIGNED:.0%}",
        "truth_low": f"{known.min():.0%}",
        "truth_high": f"{known.max():.0%}",
        "guessed": f"{models.loc[models['wrong'] == 1, TRUTH].astype(float).mean():.0%}",
        "text_low": f"{text.min():.2f}",
        "text_high": f"{text.max():.2f}",
        "numbers": str(len(found)),
        "others": str(len(rest)),
        "metrics": str(len(summary(found))),
        "left_out": ", ".join(f"`{name}`" for name in LEFT_OUT),
        "permutations": str(PERMUTATIONS),
        "found": str(int((rest["q"] < SIGNIFICANT).sum())),
        "follow": str(len(follow)),
        "surely": str(len(surely)),
        "follow_metrics": str(follow.index.get_level_values("metric").nunique()),
        "follow_connector": str(int(place.isin(["connector", "layer 0"]).sum())),
        "opposed": str(int((np.sign(rest["wrong_rho"]) * np.sign(rest["steps_rho"]) < 0).sum())),
        "gaps": str(len(gaps)),
        "gaps_asked": str(int(rest["gap_q"].notna().sum())),
        "gaps_metrics": str(gaps.index.get_level_values("metric").nunique()),
        "agreement": f"{agreement(found):.2f}",
        **{f"ita_{name}": _values(records, ITA, step) for name, step in {"drawn": "steps 0", "full": "full"}.items()},
        "first": named(best[0]),
        "across": named(across),
        "across_count": str(int((follow["pooled_rho"] * np.sign(follow["rho"]) > 0.7).sum())),
        "quarter_accuracy": f"{quarter[TRUTH].mean():.0%}",
        "quarter_gain": f"{quarter['loss_gain'].mean():.2f}",
        "full_gain": f"{full['loss_gain'].mean():.2f}",
        **{f"{short}_{key}": value for short, number in called.items() for key, value in _said(rows[number]).items()},
    }


def _values(records: Records, number: Number, step: str) -> str:
    """A number at one step of each shape."""
    at = records.by_step(records.own[[number]])[number]
    return " and ".join(f"{at[shape, f'{shape}, {step}']:.2f}" for shape in SHAPES)


def _said(row: dict[str, float]) -> dict[str, str]:
    """What the prose says of one number."""
    rhos = ("rho", "wrong_rho", "steps_rho", "pooled_rho", "gap_rho", "rho_loss_gain", "rho_above_guessing")
    return {
        **{name: signed(row[name]) for name in rhos},
        "interval": interval(row["low"], row["high"]),
        "q": _is(row["q"]),
        "gap_q": _is(row["gap_q"]),
    }


def _is(p: float) -> str:
    said = p_value(p)
    return said if said.startswith("<") else f"= {said}"


def best_places(found: pd.DataFrame) -> list[Number]:
    """Of each metric of hidden states the place whose weaker side of the ladder follows the truth best."""
    rest = found[found.index.get_level_values("metric").isin([name for name in METRICS if name != MARGIN])]
    same = consistent(rest)
    weaker = rest[["rho", "wrong_rho", "steps_rho"]].abs().min(axis=1).where(same, -rest["p"])
    best = weaker.groupby(level="metric").idxmax()
    chosen: list[Number] = sorted(best, key=lambda number: -weaker[number])
    return chosen


def composite(records: Records, found: pd.DataFrame) -> dict[str, str]:
    """What the composite is, and what came of it."""
    of = held_out(records)
    if of is None:
        return dict.fromkeys(("composite", "composite_chosen", "composite_tested", "composite_p"), NONE)
    names = "; ".join(f"{'+' if sign > 0 else '-'} {named(number)}" for number, sign in of.numbers)
    return {
        "composite": names,
        "composite_chosen": f"{of.chosen:.2f}",
        "composite_tested": f"{of.tested:+.2f}",
        "composite_p": _is(of.p),
    }


def readme(records: Records, found: pd.DataFrame) -> str:
    """What the README says of the ladder.

    Args:
        records: Of the ladder.
        found: Their table.

    Returns:
        One paragraph.
    """
    sentence = (
        "**Which number sees alignment?** Of $models small models [of known alignment](docs/alignment-ladder.md) the "
        "Image-Text Alignment did not follow caption accuracy (rank correlation $ita_rho; of those that were trained "
        "equally long $no_steps_ita); the loss of a text under its own picture less that under others did "
        "($margin_rho, less is better), and $follow of $others other numbers. It is one small world."
    )
    length = without_axes(Bench(records, found))["steps"]["rho"]
    return Template(sentence).substitute(counts(records, found), no_steps_ita=signed(length[ITA]))


def summary(found: pd.DataFrame) -> dict[str, OnLadder]:
    """What `mmerank metrics` says of each metric of the table.

    Args:
        found: Of `scripts.ladder.analysis.table`.

    Returns:
        By name, in the order of the table.
    """
    follows = (found["q"] < SIGNIFICANT) & consistent(found)
    names = found.index.get_level_values("metric")
    said = {}
    for name in METRICS:
        of = found[names == name]
        if of.empty:
            continue
        there = of[follows[of.index]] if follows[of.index].any() else of
        rho = float(there["rho"].iloc[there["rho"].abs().argmax()])
        gaps = int((of["gap_q"] < SIGNIFICANT).sum())
        said[name] = OnLadder(len(of), int(follows[of.index].sum()), gaps, round(rho, 3))
    return said


def csv(found: pd.DataFrame) -> str:
    """The whole table, four digits."""
    return found.reset_index().to_csv(index=False, float_format="%.4g")
