"""A figure as its panels, each of which can be drawn into axes of a person's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmerank.errors import UsageError, did_you_mean
from mmerank.report.figures.style import legend, panels


@dataclass(frozen=True)
class Drawing:
    """What is drawn, and how.

    Attributes:
        name: Of its file, without ending.
        caption: Below it.
        panels: What draws each panel, by what it is of.
        label: Of the y axes of all panels; empty where each has its own.
        columns: Most panels side by side.
        size: Of one, inches.
        titled: Whether what a panel is of stands above it.
        composed: What makes the whole figure; None where panels stand in a grid above one legend.
    """

    name: str
    caption: str
    panels: Mapping[str, Callable[[Axes], None]]
    label: str = ""
    columns: int = 3
    size: tuple[float, float] = (3.1, 2.6)
    titled: bool = True
    composed: Callable[[], Figure] | None = None

    def figure(self) -> Figure:
        """The whole figure, in the style in force."""
        if self.composed is not None:
            return self.composed()
        figure, grid = panels(len(self.panels), columns=self.columns, size=self.size)
        for axes, (of, draw) in zip(grid, self.panels.items(), strict=True):
            draw(axes)
            if self.titled:
                axes.set_title(of)
        if len(grid) == 1 and self.label:
            grid[0].set_ylabel(self.label)
        elif self.label:
            figure.supylabel(self.label)
        legend(figure, grid)
        return figure

    def draw(self, axes: Axes, of: str = "") -> None:
        """One panel, with what stands beside and above all of them in the whole figure.

        Args:
            axes: Where to.
            of: Which. Default: the only one.

        Raises:
            UsageError: There are several and none is named, or none of that name.
        """
        known = ", ".join(map(repr, self.panels))
        if not of and len(self.panels) > 1:
            raise UsageError(f"{self.name} has several panels; name one with of=: {known}")
        if of and of not in self.panels:
            raise UsageError(f"{self.name} has no panel {of!r}{did_you_mean(of, list(self.panels))}; it has {known}")
        name = of or next(iter(self.panels))
        self.panels[name](axes)
        if self.titled:
            axes.set_title(name)
        if self.label:
            axes.set_ylabel(self.label)
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            axes.legend(handles, labels, frameon=False)


def chosen(drawings: Mapping[str, Drawing], name: str) -> Drawing:
    """The figure of a name; of several that are numbered, as `flow-1` and `flow-2`, the first for `flow`.

    Args:
        drawings: By name.
        name: Of one.

    Returns:
        The drawing.

    Raises:
        UsageError: There is none.
    """
    found = drawings.get(name) or drawings.get(f"{name}-1")
    if found is None:
        raise UsageError(f"no figure {name!r}{did_you_mean(name, list(drawings))}; there are {', '.join(drawings)}")
    return found
