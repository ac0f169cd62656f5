"""Curves of eRank by layer: untrained and trained of texts, image rows and text rows of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
from matplotlib.axes import Axes

from mmerank.analysis.finished import Finished
from mmerank.analysis.intervals import layer_eranks
from mmerank.analysis.metrics.layers import EQUAL, LAYER, layer_names
from mmerank.eranks import vision_layer
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


def has_vision_layers(run: Finished, model: str) -> bool:
    """Whether layers of a multimodal model's vision encoder were measured."""
    return any(vision_layer(str(point)) for point in run.frames[model]["point"].unique())


def layer_curves(
    found: Sequence[tuple[Finished, str]],
    called: Mapping[tuple[str, str], str],
    name: str,
    of: str,
    *,
    of_vision: bool = False,
) -> Drawing:
    """Curves of eRank by layer with their intervals, a panel per model.

    Args:
        found: Runs that have layers, of texts, of pairs or of encoders, and their models.
        called: Name by run and model.
        name: Of the figure.
        of: What the caption says that they are of.
        of_vision: Whether they are those of the vision encoders of pairs.

    Returns:
        The figure.
    """
    draw = draw_vision_layers if of_vision else draw_layers
    each = {called[run.name, model]: partial(draw, run=run, model=model) for run, model in found}
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


def draw_vision_layers(axes: Axes, run: Finished, model: str) -> None:
    """Curves of the picture's eRank by layer of one model's vision encoder.

    Args:
        axes: Where to.
        run: One that has such layers.
        model: Of it.
    """
    frame = run.frames[model]
    rows = layer_eranks(frame[frame["transform"] == "none"], aggregate=run.convention["aggregate"], of_vision=True)
    shown = {"all": "all rows", EQUAL: f"{run.match_tokens} rows"}
    lines = {label: of for name, label in shown.items() if len(of := rows[rows["rows"] == name])}
    _draw(axes, list(rows["point"].unique()), lines)


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
    axes.set_xticks(shown, [points[i].rpartition(LAYER)[2] for i in shown])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layer")
    bare(axes)
