r"""Draw what the strengths of a transform do: differences to the untouched examples, with 95 % intervals.

    mmerank perturb MODEL --data DATA --transform blur:1,2,4,8 --transform noise:5,10,20,40 --out runs/doses
    python scripts/perturbation_figure.py runs/doses --out doses.png            # seconds

Takes a run folder of mmerank perturb, or what its --json wrote. Each transform with several strengths is a column;
a PDF is written beside the PNG.
"""

import argparse
import json
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmerank.__main__ import guarded
from mmerank.analysis.rerun import differences
from mmerank.errors import DataError
from mmerank.transforms import KNOWN

# Colours of Okabe and Ito, which the colour-blind see; markers and lines tell them apart in grey.
LOOKS: dict[str, dict[str, Any]] = {
    "erank1": {"label": "eRank1 (vision)", "color": "black", "marker": "o", "linestyle": "-"},
    "erank2": {"label": "eRank2 (connector)", "color": "#D55E00", "marker": "s", "linestyle": "--"},
    "erank3": {"label": "eRank3 (LLM, image)", "color": "#0072B2", "marker": "^", "linestyle": "-."},
    "erank4": {"label": "eRank4 (LLM, text)", "color": "#CC79A7", "marker": "v", "linestyle": ":"},
    "erank5": {
        "label": "eRank5 (LLM, pair)",
        "color": "#009E73",
        "marker": "D",
        "linestyle": (0, (5, 1, 1, 1, 1, 1)),
    },
    "image_reduction_ratio": {"label": "Image Reduction Ratio", "color": "black", "marker": "P", "linestyle": "-"},
    "image_text_alignment": {"label": "Image-Text Alignment", "color": "#E69F00", "marker": "X", "linestyle": "--"},
}


def read(source: Path) -> pd.DataFrame:
    """A row per transform and quantity, of one model."""
    if source.is_dir():
        frame = differences(source)
        if frame["model"].nunique() > 1:
            raise DataError(f"{source}: holds {frame['model'].nunique()} models; draw each from its own --json")
        return frame
    try:
        tests = {t["transform"]: t["tests"] for t in json.loads(source.read_text())["transforms"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{source}: not what mmerank perturb --json writes ({error!r})") from None
    rows = [
        {"transform": name, **row, "n": found["n"], "fixed": row["quantity"] in found["fixed"]}
        for name, found in tests.items()
        for row in found["differences"]
    ]
    return pd.DataFrame(rows)


def sweeps(names: list[str]) -> dict[str, dict[float, str]]:
    """Transforms that differ only in the number at their end: strength -> name, by what stands before it."""
    found: dict[str, dict[float, str]] = defaultdict(dict)
    for name in names:
        kind, _, strength = name.rpartition(":")
        with suppress(ValueError):
            found[kind][float(strength)] = name
    return {kind: dict(sorted(doses.items())) for kind, doses in found.items() if kind and len(doses) > 1}


def panel(axes: Axes, frame: pd.DataFrame, doses: dict[float, str], quantities: list[str]) -> None:
    """Lines of some quantities against strength, moved aside a little so that their intervals stay apart."""
    least, most = min(doses), max(doses)
    logarithmic = least > 0 and most / least > 3
    for i, quantity in enumerate(quantities):
        rows = frame[frame["quantity"] == quantity].set_index("transform")
        if rows["fixed"].any():
            continue
        rows = rows.loc[list(doses.values())]
        aside = 0.016 * (i - (len(quantities) - 1) / 2)
        at = [x * (most / least) ** aside if logarithmic else x + (most - least) * aside for x in doses]
        reach = [rows["difference"] - rows["low"], rows["high"] - rows["difference"]]
        axes.errorbar(at, rows["difference"], [side.clip(lower=0) for side in reach], capsize=2, **LOOKS[quantity])
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xticks(list(doses), [f"{x:g}" for x in doses])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)


def draw(frame: pd.DataFrame, found: dict[str, dict[float, str]]) -> Figure:
    """A column per sweep: eRanks above, ratios below."""
    figure = Figure(figsize=(max(2 * 2.7, 2.7 * len(found)), 4.9), layout="constrained")
    grid = figure.subplots(2, len(found), squeeze=False, sharex="col")
    names = list(LOOKS)
    for column, (kind, doses) in zip(grid.T, found.items(), strict=True):
        here = frame[frame["transform"].isin(doses.values())]
        panel(column[0], here, doses, names[:5])
        panel(column[1], here, doses, names[5:])
        column[0].set_title(kind)
        form = KNOWN[kind.rpartition("+")[2]].form.rpartition(":")[2]
        column[1].set_xlabel(form.strip("[]").lower())
    grid[0, 0].set_ylabel("difference of eRank")
    grid[1, 0].set_ylabel("difference of the ratio")
    handles = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, 1 + len(found)), frameon=False
    )
    figure.suptitle(f"Changed minus untouched, n = {frame['n'].iloc[0]}, 95 % bootstrap intervals", fontsize=9)
    return figure


def main() -> None:
    """Read, draw, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="RUN_OR_JSON")
    parser.add_argument("--out", type=Path, required=True, metavar="FIG.png")
    options = parser.parse_args()
    frame = read(options.source)
    found = sweeps(list(frame["transform"].unique()))
    if not found:
        raise DataError(f"{options.source}: no transform has several strengths, as blur:1,2,4 has")
    with rc_context({"font.size": 8, "lines.markersize": 4.5, "lines.linewidth": 1.1}):
        figure = draw(frame, found)
        for suffix in (".png", ".pdf"):
            figure.savefig(options.out.with_suffix(suffix), dpi=110)


if __name__ == "__main__":
    guarded(main)
