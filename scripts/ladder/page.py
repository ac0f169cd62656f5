"""The page on the ladder: its prose is `page.md` beside this, and every number in it comes from the records."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from string import Template

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from mmerank.eranks import ERANKS
from mmerank.formulas.on_ladder import OnLadder
from mmerank.formulas.table import METRICS
from scripts.ladder.analysis import ALIGNED, by_number
from scripts.ladder.composite import agreement, held_out
from scripts.ladder.following import PERMUTATIONS
from scripts.ladder.measuring import LEFT_OUT, MARGIN
from scripts.ladder.records import Number, Records
from scripts.ladder.truth import TRUTH

PROSE = Path(__file__).with_name("page.md")
FIGURE = Path("docs/figures/alignment-ladder.png")
PAGE = Path("docs/alignment-ladder.md")
PAPER = ("image_text_alignment", "image_reduction_ratio", *ERANKS)
SHAPES = {"llava": "LLaVA", "minigpt-v2": "MiniGPT-v2"}
SIGNIFICANT = 0.05
NONE = "-"


def page(records: Records, found: pd.DataFrame) -> str:
    """The page, in Markdown.

    Args:
        records: Of the ladder.
        found: Their table.

    Returns:
        The prose with every number in its place.
    """
    return Template(PROSE.read_text()).substitute(
        **counts(records, found),
        truth_table=truth_table(records),
        paper_table=number_table(found, [(name, "", "", rows) for name in PAPER for rows in ("all", "matched")]),
        best_table=number_table(found, best_places(found)),
        checks_table=checks_table(found, [(MARGIN, "", "", "all"), (PAPER[0], "", "", "all"), *best_places(found)]),
        **composite(records, found),
    )


def counts(records: Records, found: pd.DataFrame) -> dict[str, str]:
    """What the prose counts."""
    models = records.models
    rows = by_number(found)
    margin, ita = rows[MARGIN, "", "", "all"], rows[PAPER[0], "", "", "all"]
    rest = found.drop(MARGIN, level="metric")
    twice = rest[(rest["q"] < SIGNIFICANT) & consistent(rest)]
    gaps = rest[rest["gap_q"] < SIGNIFICANT]
    hours = models["all"].astype(float).groupby(models["shape"]).sum() / 3600
    low, high = models[TRUTH].astype(float).min(), models[TRUTH].astype(float).max()
    return {
        "models": str(len(models)),
        "steps": str(models["step"].nunique()),
        "second": str(int((models.groupby("step").size() > 1).sum())),
        **{f"models_{shape.replace('-', '_')}": str(int((models["shape"] == shape).sum())) for shape in SHAPES},
        "hours": f"{hours.sum():.1f}",
        "minutes": f"{60 * hours.sum() / len(models):.1f}",
        "aligned": str(int((models[TRUTH].astype(float) >= ALIGNED).sum())),
        "aligned_from": f"{ALIGNED:.0%}",
        "truth_low": f"{low:.0%}",
        "truth_high": f"{high:.0%}",
        "numbers": str(len(found)),
        "metrics": str(found.index.get_level_values("metric").nunique() - len(PAPER) - 1),
        "left_out": ", ".join(f"`{name}`" for name in LEFT_OUT),
        "permutations": str(PERMUTATIONS),
        "margin_rho": f"{margin['rho']:.2f}",
        "margin_interval": _interval(margin["low"], margin["high"]),
        "margin_wrong": f"{margin['wrong_rho']:.2f}",
        "margin_steps": f"{margin['steps_rho']:.2f}",
        "found": str(int((rest["q"] < SIGNIFICANT).sum())),
        "found_twice": str(len(twice)),
        "found_gap": str(len(gaps)),
        "metrics_gap": str(gaps.index.get_level_values("metric").nunique()),
        "metrics_found": str(rest[rest["q"] < SIGNIFICANT].index.get_level_values("metric").nunique()),
        "metrics_twice": str(twice.index.get_level_values("metric").nunique()),
        "opposed": str(int((np.sign(rest["wrong_rho"]) * np.sign(rest["steps_rho"]) < 0).sum())),
        "agreement": f"{agreement(found):.2f}",
        **{f"ita_{key}": f"{ita[key]:+.2f}" for key in ("rho", "wrong_rho", "steps_rho", "gap_rho")},
        "ita_q": _p(ita["q"]),
        "ita_interval": _interval(ita["low"], ita["high"]),
    }


def best_places(found: pd.DataFrame) -> list[Number]:
    """Of each metric of the table the place whose weaker side of the ladder follows the truth best."""
    rest = found[found.index.get_level_values("metric").isin(METRICS)]
    same = consistent(rest)
    weaker = rest[["rho", "wrong_rho", "steps_rho"]].abs().min(axis=1).where(same, -rest["p"])
    best = weaker.groupby(level="metric").idxmax()
    chosen: list[Number] = sorted(best, key=lambda number: -weaker[number])
    return chosen


def truth_table(records: Records) -> str:
    """A row per step."""
    lines = [
        "| step | seeds | caption accuracy | choice of eight | loss, own | another's | text alone |",
        "|---|---|---|---|---|---|---|",
    ]
    models = records.models
    for (_, step), of in models.groupby([models["shape"], models["step"]], sort=False):
        accuracy = " / ".join(f"{value:.0%}" for value in of[TRUTH].astype(float))
        mean = of[["choice", "loss", "loss_mismatched", "loss_text"]].astype(float).mean()
        losses = " | ".join(f"{mean[name]:.2f}" for name in ("loss", "loss_mismatched", "loss_text"))
        lines.append(f"| {step} | {len(of)} | {accuracy} | {mean['choice']:.0%} | {losses} |")
    return "\n".join(lines)


def number_table(found: pd.DataFrame, chosen: Iterable[Number]) -> str:
    """A row per number: how it follows the truth."""
    lines = [
        "| number | rho | 95 % | q | wrong captions | steps | LLaVA | MiniGPT-v2 | given text loss | gap: rho | q |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = by_number(found)
    for number in chosen:
        if (row := rows.get(number)) is None:
            continue
        sides = [f"{row[name]:+.2f}" for name in ("wrong_rho", "steps_rho")]
        sides += [_signed(row.get(f"rho_{shape}")) for shape in SHAPES]
        cells = [_name(number), f"{row['rho']:+.2f}", _interval(row["low"], row["high"]), _p(row["q"]), *sides]
        cells += [_signed(row["partial_text"]), _signed(row["gap_rho"]), _p(row["gap_q"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def checks_table(found: pd.DataFrame, chosen: Iterable[Number]) -> str:
    """A row per number: what it does in aligned models."""
    lines = [
        "| number | mismatched: p | out of its null, aligned | others | beyond the twin | noise | rotation |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = by_number(found)
    for number in chosen:
        if (row := rows.get(number)) is not None:
            shares = ("null_share", "null_share_not", "beats_twin", "order_noise", "order_rotate")
            cells = [_name(number), _p(row["mismatch_p"]), *(_share(row[name]) for name in shares)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def composite(records: Records, found: pd.DataFrame) -> dict[str, str]:
    """What the composite is, and what came of it."""
    of = held_out(records)
    if of is None:
        return dict.fromkeys(("composite", "composite_chosen", "composite_tested", "composite_p"), NONE)
    names = "; ".join(f"{'+' if sign > 0 else '-'} {_name(number)}" for number, sign in of.numbers)
    return {
        "composite": names,
        "composite_chosen": f"{of.chosen:.2f}",
        "composite_tested": f"{of.tested:+.2f}",
        "composite_p": _p(of.p),
    }


def figure(found: pd.DataFrame, file: Path) -> None:
    """Every number of every metric: rho with the truth, a row per metric, a mark per place.

    Args:
        found: The table.
        file: PNG.
    """
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    metrics = found["rho"].abs().groupby(level="metric").max().sort_values()
    drawn, (left, right) = plt.subplots(1, 2, figsize=(9, 0.2 * len(metrics) + 1.2), sharey=True)
    for axis, column, q in ((left, "rho", "q"), (right, "gap_rho", "gap_q")):
        for y, name in enumerate(metrics.index):
            of = found.loc[[name]]
            sure = of[q] < SIGNIFICANT
            axis.plot(
                of.loc[~sure, column], [y] * int((~sure).sum()), "o", color="0.6", markersize=3, fillstyle="none"
            )
            axis.plot(of.loc[sure, column], [y] * int(sure.sum()), "o", color="C0", markersize=3.5)
        axis.axvline(0, color="0.8", linewidth=0.8)
        axis.set_xlim(-1.05, 1.05)
    left.set_yticks(range(len(metrics)), list(metrics.index))
    left.set_ylim(-0.7, len(metrics) - 0.3)
    left.set_xlabel("rho of the number with caption accuracy")
    right.set_xlabel("rho of own less mismatched pairs")
    drawn.tight_layout()
    drawn.savefig(file, dpi=120, metadata={"Software": None})
    plt.close(drawn)


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


def consistent(found: pd.DataFrame) -> pd.Series[bool]:
    """Whether rho has one sign on both sides of the ladder and for both shapes."""
    shapes = [found[column] for shape in SHAPES if (column := f"rho_{shape}") in found]
    return _same(found["rho"], found["wrong_rho"], found["steps_rho"], *shapes)


def csv(found: pd.DataFrame) -> str:
    """The whole table, four digits."""
    return found.reset_index().to_csv(index=False, float_format="%.4g")


def _same(*columns: pd.Series[float]) -> pd.Series[bool]:
    """Whether all have one sign."""
    signs = np.stack([np.sign(column.to_numpy(dtype=np.float64)) for column in columns])
    return pd.Series(abs(signs.sum(axis=0)) == len(columns), columns[0].index)


def _name(number: Number) -> str:
    metric, point, kind, rows = number
    place = " ".join(filter(None, (point, kind if kind != "pair" else "")))
    equal = "equal rows" if rows == "matched" else ""
    beside = ", ".join(filter(None, (place, equal)))
    return f"`{metric}`" + (f" ({beside})" if beside else "")


def _interval(low: float, high: float) -> str:
    return f"{low:+.2f} to {high:+.2f}"


def _p(value: float) -> str:
    if not np.isfinite(value):
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return NONE if value is None or not np.isfinite(value) else f"{value:+.2f}"


def _share(value: float) -> str:
    return f"{value:.0%}" if np.isfinite(value) else NONE
