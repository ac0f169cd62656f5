"""Diff-eRank and reduced loss against the number of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pandas as pd
from matplotlib.axes import Axes

from mmerank.report.figures.panels import Drawing
from mmerank.report.figures.style import bare, distances, log_axes, look, shortened
from mmerank.report.paper.printed import named_size

_LABELS = {"diff_erank": "Diff-eRank", "reduced_loss": "reduced loss (nats)"}
_UNITS = {"M": 1e6, "B": 1e9}


def sized(numbers: pd.DataFrame) -> pd.DataFrame | None:
    """Numbers of language models whose names state a size, where there are two sizes of one family.

    Args:
        numbers: From `mmerank.report.numbers.all_numbers`.

    Returns:
        Rows of the quantities that are drawn, with `family`, `size` and `parameters`; None where there are none.
    """
    here = numbers[(numbers["job"] == "diff") & (numbers["point"] == "final") & numbers["quantity"].isin(_LABELS)]
    known = {model for model in here["model"] if named_size(model)}
    here = here[here["value"].notna() & here["model"].isin(known)]
    stated = [named_size(model) or ("", "") for model in here["model"]]
    here = here.assign(family=[family for family, _ in stated], size=[size for _, size in stated])
    if here.empty or here.groupby("family")["size"].nunique().max() < 2:
        return None
    return here.assign(parameters=[float(size[:-1]) * _UNITS[size[-1]] for size in here["size"]])


def against_size(of: pd.DataFrame, called: Mapping[str, str]) -> Drawing:
    """Diff-eRank and reduced loss against the number of parameters, as in the paper's Figure 1.

    Args:
        of: From `sized`.
        called: Name by DATA argument.

    Returns:
        The figure.
    """
    caption = "Diff-eRank and reduced loss against the size that names state, with 95 % intervals; grey: the paper."
    there = {quantity: label for quantity, label in _LABELS.items() if (of["quantity"] == quantity).any()}
    each = {
        label: partial(_draw, of=of[of["quantity"] == quantity], label=label, called=called)
        for quantity, label in there.items()
    }
    return Drawing("size", caption, each, columns=2, titled=False)


def _draw(axes: Axes, of: pd.DataFrame, label: str, called: Mapping[str, str]) -> None:
    several = of.groupby(["family", "data"])["run"].nunique().to_dict()
    for i, ((family, data, run), rows) in enumerate(of.groupby(["family", "data", "run"], sort=False)):
        line, name = rows.sort_values("parameters"), f"{shortened(str(family))}, {called[str(data)]}"
        if several[family, data] > 1:
            name += f" ({shortened(str(run))})"
        x = line["parameters"]
        axes.errorbar(x, line["value"], yerr=distances(line), capsize=2.5, label=name, **look(i))
        if line["paper"].notna().any():
            axes.plot(x, line["paper"], label=f"{name} (paper)", **look(i) | {"color": "0.55", "linewidth": 1})
    ticks = of.drop_duplicates("parameters").sort_values("parameters")
    log_axes(axes, "x")
    axes.set_xticks(ticks["parameters"], ticks["size"], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel("parameters")
    axes.set_ylabel(label)
    bare(axes)
