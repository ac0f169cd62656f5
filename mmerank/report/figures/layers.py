"""Curves of eRank by layer: untrained and trained of texts, image rows and text rows of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
from matplotlib.axes import Axes

from mmerank.analysis.finished import Finished
from mmerank.analysis.intervals import layer_eranks
from mmerank.analysis.metrics.layers import EQUAL, LAYER, layer_names
from mmerank.report.figures.panels import Drawing
from mmerank.report.figures.style import bare, look

# Names of lines by what the numbers are of.
_OF_TEXTS = {"erank_untrained": "untrained", "erank_trained": "trained"}
_OF_ENCODERS = {
    "erank_image": "patches",
    "erank_image_untrained": "patches, untrained",
    "erank_text": "tokens",
    "erank_text_untrained": "tokens, untrained",
}
_OF_PAIRS = {"all": "all rows", "image": "image rows", "text": "text rows"}
_TICKS = 8  # at most so many, about


def has_layers(run: Finished, model: str) -> bool:
    """Whether a model was measured at further layers than the last."""
    return bool(layer_names(run.frames[model]["point"]))


def layer_curves(
    found: Sequence[tuple[Finished, str]], called: Mapping[tuple[str, str], str], name: str, of: str
) -> Drawing:
    """Curves of eRank by layer with their intervals, a panel per model.

    Args:
        found: Runs that have layers, of texts, of pairs or of encoders, and their models.
        called: Name by run and model.
        name: Of the figure.
        of: What the caption says that they are of.

    Returns:
        The figure.
    """
    each = {called[run.name, model]: partial(draw_layers, run=run, model=model) for run, model in found}
    return Drawing(name, f"eRank by layer {of}, with 95 % intervals.", each, label="eRank")


def draw_layers(axes: Axes, run: Finished, model: str) -> None:
    """Curves of eRank by layer of one model.

    Args:
        axes: Where to.
        run: One that has layers.
        model: Of it.
    """
    if run.job == "diff":
        rows = run.estimates[run.estimates["model"] == model]
        points = [*layer_names(rows["point"]), "final"]
        lines = {label: rows[rows["quantity"] == name] for name, label in _OF_TEXTS.items()}
    elif run.job == "encode":
        rows = run.estimates[(run.estimates["model"] == model) & (run.estimates["metric"] == "encoder_layers")]
        points = layer_names(rows["point"])
        lines = {label: rows[rows["quantity"] == name] for name, label in _OF_ENCODERS.items()}
        lines = {label: of for label, of in lines.items() if len(of)}
    else:
        frame = run.frames[model]
        rows = layer_eranks(frame[frame["transform"] == "none"], aggregate=run.convention["aggregate"])
        points = list(rows["point"].unique())
        shown = {**_OF_PAIRS, EQUAL: f"{run.match_tokens} rows"}
        lines = {label: of for name, label in shown.items() if len(of := rows[rows["rows"] == name])}
    _draw(axes, points, lines)


def _draw(axes: Axes, points: Sequence[str], lines: dict[str, pd.DataFrame]) -> None:
    for i, (label, of) in enumerate(lines.items()):
        of, style = of.set_index("point").reindex(list(points)), look(i)  # two encoders may have other layers
        axes.plot(range(len(points)), of["value"], label=label, **style)
        axes.fill_between(
            range(len(points)),
            of["low"].astype(float),
            of["high"].astype(float),
            color=style["color"],
            alpha=0.2,
            linewidth=0,
        )
    step = max(1, -(-len(points) // _TICKS))
    shown = [*range(0, len(points) - 1 - step // 2, step), len(points) - 1]
    axes.set_xticks(shown, [points[i].removeprefix(LAYER) for i in shown])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layer")
    bare(axes)
