"""What each row of one measurement adds to its entropy, over the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle

from mmerank.analysis.metrics.alignment import LABELS
from mmerank.analysis.row_map import TOO_MANY, RowMap
from mmerank.errors import UsageError
from mmerank.report.figures.style import INK

# As on the page: orange where the others spread over more without the row, blue where it adds.
_COLOURS = LinearSegmentedColormap.from_list("contributions", ("#d55e00", "#dddddd", "#0072b2"))
_SHARE = 98  # colours end where this share of the rows does


def draw_map(axes: Axes, of: RowMap, picture: Any = None, layer: int = 0) -> None:
    """Cells over the picture, with a colour bar beside them; the decisive row is framed.

    Args:
        axes: Where to.
        of: The rows.
        picture: An array or a picture of Pillow's; None for the cells alone, in a square.
        layer: Which of `of.layers`, as tiles and a thumbnail.

    Raises:
        UsageError: Nothing is known of what rows add or where they lie; or there is no such layer.
    """
    if not len(of.contributions):
        raise UsageError(f"{LABELS[of.label]}: no map, {TOO_MANY}")
    if not of.layers:
        raise UsageError(f"{LABELS[of.label]}: no map, {of.why}")
    if not 0 <= layer < len(of.layers):
        raise UsageError(f"layer: expected one of 0 to {len(of.layers) - 1}, got {layer!r}")
    assert of.places is not None
    width, height = (1.0, 1.0)
    if picture is not None:
        pixels = np.asarray(picture.convert("RGB") if hasattr(picture, "convert") else picture)
        height, width = pixels.shape[:2]
        axes.imshow(pixels, extent=(0, width, height, 0))
    rows = of.layers[layer]
    limit = float(np.nanpercentile(np.abs(of.contributions), _SHARE)) or 1.0
    for row in rows:
        left, top, right, bottom = of.places[np.searchsorted(of.pictured, row)] * (width, height, width, height)
        box: Any = ((left, top), right - left, bottom - top)
        share = float(np.clip(np.nan_to_num(of.contributions[row]) / limit, -1, 1))
        alpha = 1.0 if picture is None else 0.2 + 0.6 * abs(share)
        axes.add_patch(Rectangle(*box, facecolor=_COLOURS((share + 1) / 2), alpha=alpha, linewidth=0))
        if row == of.decisive:
            axes.add_patch(Rectangle(*box, fill=False, edgecolor="white", linewidth=3.5, zorder=3))
            axes.add_patch(Rectangle(*box, fill=False, edgecolor=INK, linewidth=1.5, zorder=3))
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
    axes.set_title(f"{LABELS[of.label]}, {len(rows)} of {of.n} rows")
    scale = ScalarMappable(Normalize(-limit, limit), _COLOURS)
    axes.figure.colorbar(scale, ax=axes, label="adds to the entropy, nats", fraction=0.046, pad=0.03)
