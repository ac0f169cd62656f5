"""The tables of the page, in Markdown: a row per step of the ladder, or per number."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mmerank.formulas.table import METRICS
from scripts.ladder.analysis import by_number
from scripts.ladder.records import SEEN, SHAPES, Number, Records
from scripts.ladder.truth import TRUTH

NONE = "-"
HIGHER = ("image_text_alignment",)


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


def follow_table(found: pd.DataFrame, chosen: Iterable[Number]) -> str:
    """A row per number: how it follows the truth."""
    lines = [
        "| number | better | rho | 95 % | q | LLaVA | MiniGPT-v2 | pooled | wrong captions | q | steps |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = by_number(found)
    for number in chosen:
        row = rows[number]
        cells = [
            named(number),
            better(number[0]),
            signed(row["rho"]),
            interval(row["low"], row["high"]),
            p_value(row["q"]),
        ]
        cells += [signed(row[name]) for name in (*(f"rho_{shape}" for shape in SHAPES), "pooled_rho", "wrong_rho")]
        lines.append(f"| {' | '.join([*cells, p_value(row['wrong_q']), signed(row['steps_rho'])])} |")
    return "\n".join(lines)


def beside_table(found: pd.DataFrame, chosen: Iterable[Number]) -> str:
    """A row per number: other truths, what is taken out, and mismatched pairs."""
    lines = [
        "| number | above guessing | choice | loss gained | given text loss | without a step | gap: rho | 95 % | q |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = by_number(found)
    for number in chosen:
        row = rows[number]
        cells = [signed(row[name]) for name in (f"rho_{SEEN}", "rho_choice", "rho_loss_gain", "partial_text")]
        cells += [interval(row["least"], row["most"]), signed(row["gap_rho"])]
        cells += [interval(row["gap_low"], row["gap_high"]), p_value(row["gap_q"])]
        lines.append(f"| {' | '.join([named(number), *cells])} |")
    return "\n".join(lines)


def checks_table(found: pd.DataFrame, chosen: Iterable[Number]) -> str:
    """A row per number: what it does in aligned models."""
    lines = [
        "| number | mismatched: p | out of its null, aligned | others | beyond the twin | noise | rotation |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = by_number(found)
    for number in chosen:
        row = rows[number]
        shares = ("null_share", "null_share_not", "beats_twin", "order_noise", "order_rotate")
        cells = [named(number), p_value(row["mismatch_p"]), *(share(row[name]) for name in shares)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def better(metric: str) -> str:
    """Which way its paper has it."""
    known = METRICS.get(metric)
    said = "higher" if metric in HIGHER else known.better if known else ""
    return said if said in ("higher", "lower") else ""


def named(number: Number) -> str:
    """A number in words."""
    metric, point, kind, rows = number
    place = " ".join(filter(None, (point, kind if kind != "pair" else "")))
    equal = "equal rows" if rows == "matched" else ""
    beside = ", ".join(filter(None, (place, equal)))
    return f"`{metric}`" + (f" ({beside})" if beside else "")


def interval(low: float, high: float) -> str:
    """Two limits."""
    return f"{low:+.2f} to {high:+.2f}" if np.isfinite([low, high]).all() else NONE


def p_value(value: float) -> str:
    """A p or q."""
    if not np.isfinite(value):
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def signed(value: float | None) -> str:
    """A correlation."""
    return NONE if value is None or not np.isfinite(value) else f"{value:+.2f}"


def share(value: float) -> str:
    """Of models."""
    return f"{value:.0%}" if np.isfinite(value) else NONE
