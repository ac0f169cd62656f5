"""A map of what each row adds, that can be drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmerank.analysis.row_map import RowMap
from mmerank.jobs.shown import drawn_into

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class PatchMap(RowMap):
    """The rows of one measurement, which can be drawn over the picture."""

    def plot(self, ax: Axes | None = None, *, picture: Any = None, layer: int = 0) -> Axes:
        """Draw what each row adds over the picture: blue where it adds, orange where the others spread over more.

        Args:
            ax: Where to. Default: new ones, of pyplot.
            picture: As the model was given it: a file, a picture of Pillow's or an array (h, w, 3). Default: the
                cells alone.
            layer: Which of `layers`, where rows lie over each other, as tiles and a thumbnail.

        Returns:
            The axes.

        Raises:
            DataError: The file cannot be read as a picture.
            TypeError: `ax` is something else, as a figure, or several.
            UsageError: Nothing is known of what rows add or where they lie; or there is no such layer.
        """
        from mmerank.inputs.pictures import open_picture
        from mmerank.report.figures.maps import draw_map

        if isinstance(picture, (str, Path)):
            picture = open_picture(Path(picture))
        return drawn_into(ax, lambda axes: draw_map(axes, self, picture, layer))
