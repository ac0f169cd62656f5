"""What moves before accuracy does when a model is compressed: page and figure of docs/compression.md.

    python -m scripts.compression collect runs/compression/study    # -> benchmarks/compression.csv, a minute
    python -m scripts.compression page                              # -> docs/compression.md and its figure, from that

The study is `studies/compression.yaml`, which says how it is run.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

import mmerank
from mmerank.analysis.statistics.proportion import share_interval
from mmerank.jobs.cells import read_cell
from mmerank.report.figures.style import bare, look, styled

TABLE, PROSE = Path("benchmarks/compression.csv"), Path(__file__).with_name("compression.md")
PAGE, FIGURE = Path("docs/compression.md"), Path("docs/figures/compression.png")
WAYS = {"pruned": "pruned, share of weights", "rounded": "rounded, bits", "skipped": "LLM blocks skipped"}
LABELS = {
    "erank1": "eRank1",
    "erank2": "eRank2",
    "erank3": "eRank3",
    "erank4": "eRank4",
    "erank5": "eRank5",
    "image_reduction_ratio": "Image Reduction Ratio",
    "image_text_alignment": "Image-Text Alignment",
    "match_margin/llm/pair": "match margin",
    "loss": "loss",
    "choice_margin": "choice margin",
}
ACCURACY = "accuracy"
SIGNIFICANT, LARGE = 0.05, 0.05


def collect(study: Path) -> pd.DataFrame:
    """Every number of every compressed model, and its difference from the model as it is, on the same examples.

    Args:
        study: Folder of the study.

    Returns:
        Rows of `model`, `way`, `strength`, `quantity`, `value`, `low`, `high`, `difference`, `difference_low`,
        `difference_high`, `p`, `n`; `q` after Benjamini and Hochberg over all of a model, accuracy left out.
    """
    cells = {file.stem: read_cell(file) for file in sorted((study / "cells").glob("*.yaml"))}
    runs: dict[tuple[str, str, str], Path] = {}
    for name, asked in cells.items():
        runs[asked["job"], asked["model"], asked["options"]["wrap"]] = study / name
    rows: list[dict[str, Any]] = []
    for (job, model, wrap), run in runs.items():
        way, strength = _named(wrap)
        of_job = _aligned if job == "align" else _scored
        for row in of_job(run, runs[job, model, ""], cells[run.name]["data"]):
            rows.append({"model": model, "way": way, "strength": strength, **row})
    found = pd.DataFrame(rows)
    tested = found["p"].notna() & (found["way"] != "") & (found["quantity"] != ACCURACY)
    for _, of in found[tested].groupby("model"):
        found.loc[of.index, "q"] = stats.false_discovery_control(of["p"])
    return found.sort_values(["model", "way", "strength", "quantity"], ignore_index=True)


def read() -> pd.DataFrame:
    """What `collect` gave, from the file that is kept."""
    return pd.read_csv(TABLE, dtype={"strength": str}).fillna({"way": "", "strength": ""})


def _named(wrap: str) -> tuple[str, str]:
    found = re.search(r":(\w+)\?\w+=(.+)", wrap)
    return (found[1], found[2]) if found else ("", "")


def _aligned(run: Path, whole: Path, _: str) -> Iterator[dict[str, Any]]:
    own, theirs = (mmerank.Alignment.from_run(folder) for folder in (run, whole))
    known = mmerank.estimates(run).set_index("quantity")
    for metric in ("", "match_margin"):
        tested = mmerank.compare(own, theirs, metric=metric, names=("own", "whole")).to_pandas().set_index("quantity")
        for quantity in map(str, tested.index):
            of, there = dict(tested.loc[quantity]), dict(known.loc[quantity])
            yield {
                "quantity": quantity,
                **{name: float(there[name]) for name in ("value", "low", "high")},
                "difference": float(of["difference"]),
                "difference_low": float(of["low"]),
                "difference_high": float(of["high"]),
                "p": float(of["p"]),
                "n": int(there["n"]),
            }


def _scored(run: Path, whole: Path, data: str) -> Iterator[dict[str, Any]]:
    own, theirs = (_answers(folder, Path(data.removeprefix("choices:"))) for folder in (run, whole))
    ids = list(own.index)
    right, before = own[ACCURACY].to_numpy(), theirs[ACCURACY].reindex(ids).to_numpy()
    low, high = share_interval(right, ids)
    lost, won = int((before > right).sum()), int((before < right).sum())
    exact = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0  # McNemar's
    yield _row(ACCURACY, float(right.mean()), (low, high), right - before, float(exact))
    for name in ("loss", "choice_margin"):
        values = own[name].to_numpy()
        change = values - theirs[name].reindex(ids).to_numpy()
        p = float(stats.wilcoxon(change).pvalue) if change.any() else 1.0
        yield _row(name, float(values.mean()), _interval(values), change, p)


def _row(quantity: str, value: float, bounds: tuple[float, float], change: Any, p: float) -> dict[str, Any]:
    low, high = _interval(change)
    between = {"difference": float(change.mean()), "difference_low": low, "difference_high": high}
    return {
        "quantity": quantity,
        "value": value,
        "low": bounds[0],
        "high": bounds[1],
        **between,
        "p": p,
        "n": len(change),
    }


def _interval(values: Any) -> tuple[float, float]:
    """Student's, 95 %."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def _answers(run: Path, questions: Path) -> pd.DataFrame:
    """By question: whether it is right, loss of the right description (nats a token), and by how much it leads."""
    right = {line["id"]: line["answer"] for line in map(json.loads, questions.read_text().splitlines())}
    found = {}
    for line in (
        line for file in sorted((run / "answers").glob("*.jsonl")) for line in file.read_text().splitlines()
    ):
        for name, of in json.loads(line).items():
            if name in right:
                nats, place = np.array(of["loglikelihoods"]), right[name]
                lead = nats[place] - np.delete(nats, place).max()
                found[name] = (float(lead > 0), -nats[place] / of["tokens"][place], lead)
    return pd.DataFrame.from_dict(found, orient="index", columns=[ACCURACY, "loss", "choice_margin"])


def first_moved(found: pd.DataFrame, model: str, way: str, quantity: str, least: float = 0.0) -> str | None:
    """The mildest strength from which on a number differs from that of the model as it is.

    Args:
        found: The table.
        model: Of the study.
        way: Of compressing.
        quantity: The number.
        least: Also by this share of its value at least.

    Returns:
        None where even the strongest does not.
    """
    of = found[(found["model"] == model) & (found["way"] == way) & (found["quantity"] == quantity)]
    whole = _whole(found, model, quantity)
    p = of["p"] if quantity == ACCURACY else of["q"]
    moved = (p < SIGNIFICANT) & (of["difference"].abs() >= least * abs(whole))
    ordered = sorted(zip(of["strength"], moved, strict=True), key=lambda one: _severity(way, one[0]), reverse=True)
    mildest = None
    for strength, has in ordered:  # from the strongest on
        if not has:
            break
        mildest = strength
    return mildest


def _severity(way: str, strength: str) -> float:
    return -float(strength) if way == "rounded" else float(strength)


def _whole(found: pd.DataFrame, model: str, quantity: str) -> float:
    of = found[(found["model"] == model) & (found["way"] == "") & (found["quantity"] == quantity)]
    return float(of["value"].iloc[0])


def figure(found: pd.DataFrame) -> Figure:
    """Each number as a share of what it is in the model as it is, along pruning and rounding."""
    models = list(dict.fromkeys(found["model"]))
    with styled():
        drawn = Figure(figsize=(9, 3.1 * len(models)), layout="constrained")
        panels = drawn.subplots(len(models), 2, sharey=True, squeeze=False)
        for row, model in zip(panels, models, strict=True):
            for axes, way in zip(row, ("pruned", "rounded"), strict=True):
                _panel(axes, found, model, way)
        handles, labels = panels[0][0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return drawn


def _panel(axes: Any, found: pd.DataFrame, model: str, way: str) -> None:
    shown = [name for name in LABELS if name not in ("loss", "choice_margin")]
    of_way = found[(found["model"] == model) & (found["way"] == way)]
    strengths = sorted(dict.fromkeys(of_way["strength"]), key=lambda one: _severity(way, one))
    for i, name in enumerate([*shown, ACCURACY]):
        of = of_way[of_way["quantity"] == name].set_index("strength").loc[strengths]
        whole = _whole(found, model, name)
        style: dict[str, Any] = (
            {"color": "black", "linewidth": 2.4, "marker": "s"} if name == ACCURACY else {**look(i), "alpha": 0.9}
        )
        values = [1.0, *(of["value"] / whole)]
        axes.plot(range(len(values)), values, label=LABELS.get(name, ACCURACY), **style)
    axes.set_xticks(range(len(strengths) + 1), ["as it is", *strengths])
    axes.set_ylim(0, 1.6)
    axes.set_title(f"{model}, {WAYS[way]}", loc="left")
    axes.set_ylabel("share of the model as it is")
    bare(axes)


def page(found: pd.DataFrame) -> str:
    """The page: its prose, and the tables."""
    models = list(dict.fromkeys(found["model"]))
    moved = ["| | | accuracy | " + " | ".join(LABELS.values()) + " |", "|---|---|" + "---|" * (len(LABELS) + 1)]
    for model in models:
        for way in ("pruned", "rounded"):
            cells = [first_moved(found, model, way, name) for name in (ACCURACY, *LABELS)]
            large = [first_moved(found, model, way, name, LARGE) for name in (ACCURACY, *LABELS)]
            both = [f"{a or '-'} / {b or '-'}" if a != b else a or "-" for a, b in zip(cells, large, strict=True)]
            moved.append(f"| {model} | {way} | " + " | ".join(both) + " |")
    return Template(PROSE.read_text()).substitute(moved="\n".join(moved), values=values_table(found), **_facts(found))


def values_table(found: pd.DataFrame) -> str:
    """Every number with its interval, a row per compressed model; where it differs from that as it is, in bold."""
    names = (ACCURACY, *LABELS)
    lines = ["| model | " + " | ".join(["accuracy", *LABELS.values()]) + " |", "|---|" + "---:|" * len(names)]
    for (model, way), of_way in found.groupby(["model", "way"]):
        for strength in sorted(
            dict.fromkeys(of_way["strength"]), key=lambda one: _severity(str(way), one) if way else 0
        ):
            of = of_way[of_way["strength"] == strength].set_index("quantity")
            cells = [_cell(of.loc[name], name) for name in names]
            lines.append(f"| {model}{f', {way} {strength}' if way else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(of: Any, name: str) -> str:
    digits = (
        0 if name == ACCURACY else 1 if name == "choice_margin" else 3 if "image" in name or name == "loss" else 2
    )
    scale, unit = (100, "%") if name == ACCURACY else (1, "")
    value, low, high = (f"{scale * of[key]:.{digits}f}" for key in ("value", "low", "high"))
    p = of["p"] if name == ACCURACY else of.get("q", np.nan)
    shown = f"**{value}{unit}**" if p < SIGNIFICANT else f"{value}{unit}"
    return f"{shown} [{low}, {high}]"


def _facts(found: pd.DataFrame) -> dict[str, str]:
    """What the prose counts."""
    accuracy = found[(found["quantity"] == ACCURACY) & (found["way"] != "")]
    untouched = accuracy[accuracy["p"] >= SIGNIFICANT][["model", "way", "strength"]]
    facts = {_key(of): _cell(of, str(of["quantity"])).partition(" ")[0].strip("*") for _, of in found.iterrows()}
    facts |= {
        "n": str(found.loc[found["quantity"] == "erank1", "n"].iloc[0]),
        "questions": str(accuracy["n"].iloc[0]),
        "compressed": str(len(accuracy)),
        "untouched": str(len(untouched)),
    }
    beside = found.merge(untouched, on=["model", "way", "strength"])
    for name in LABELS:
        of, key = beside[beside["quantity"] == name], _plain(name)
        whole = of["model"].map({model: _whole(found, model, name) for model in set(of["model"])})
        change = (of["difference"] / whole.abs()).abs()
        facts[f"{key}_seen"] = str(int((of["q"] < SIGNIFICANT).sum()))
        facts[f"{key}_most"] = f"{100 * change.max():.1f} %"
        rest = found[(found["quantity"] == name) & (found["way"] != "")].merge(
            accuracy[["model", "way", "strength", "difference"]],
            on=["model", "way", "strength"],
            suffixes=("", "_acc"),
        )
        for model, mine in rest.groupby("model"):
            rho = stats.spearmanr(mine["difference"].abs(), -mine["difference_acc"]).statistic
            facts[f"{key}_rho_{_short(str(model))}"] = f"{rho:+.2f}"
    return facts


def _key(of: Any) -> str:
    """What the prose calls a number of a compressed model, as in `llava_pruned_07_accuracy`."""
    parts = [_short(of["model"]), of["way"], str(of["strength"]).replace(".", ""), _plain(of["quantity"])]
    return "_".join(part for part in parts if part)


def _short(model: str) -> str:
    return model.removeprefix("demo-").partition("-")[0]


def _plain(quantity: str) -> str:
    return re.sub(r"\W.*", "", quantity)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says; of these words, or of this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("collect", "page"))
    parser.add_argument("study", nargs="?", type=Path)
    return parser.parse_args(words)


def main() -> None:
    """See the top of this file."""
    asked = parsed()
    if asked.what == "collect":
        collect(asked.study).to_csv(TABLE, index=False, float_format="%.6g")
        return
    found = read()
    PAGE.write_text(page(found))
    figure(found).savefig(FIGURE, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
