"""How responses change as they grow: their eRank, and how sure the model is of each token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.generation import growth, logit_entropies
from mmerank.analysis.statistics.bootstrap import sample_intervals
from mmerank.report.figures.panels import Drawing
from mmerank.report.figures.style import bare, look

_ENOUGH = 0.5  # share of the examples that must still have a row, or what is left is another data set


def growths(found: Sequence[tuple[Finished, str]], called: Mapping[tuple[str, str], str]) -> Drawing:
    """ERank of the response by its rows, and entropy of the logits by token.

    Args:
        found: Runs of what models wrote, and their models.
        called: Name by run and model.

    Returns:
        The figure.
    """
    caption = (
        "Responses as they grow: eRank of their first rows, with 95 % intervals over the examples that have as many, "
        "and mean entropy of the logits of each token, both as far as half of the examples go."
    )
    each: dict[str, Callable[[Axes], None]] = {"eRank": partial(draw_growth, found=found, called=called)}
    each["entropy"] = partial(_draw_entropies, found=found, called=called)
    return Drawing("generation", caption, each, size=(4.2, 2.8), titled=False)


def _draw_entropies(axes: Axes, found: Sequence[tuple[Finished, str]], called: Mapping[tuple[str, str], str]) -> None:
    for i, (run, model) in enumerate(found):
        each = logit_entropies(run.frames[model])
        shown = each[:, np.isfinite(each).mean(axis=0) >= _ENOUGH]
        style = look(i) | {"marker": "none"}
        means = np.nanmean(shown, axis=0)
        axes.plot(np.arange(1, shown.shape[1] + 1), means, label=called[run.name, model], **style)
    axes.set(xlabel="token", ylabel="entropy of the logits, nats")
    axes.set_ylim(bottom=0)
    bare(axes)


def draw_growth(axes: Axes, found: Sequence[tuple[Finished, str]], called: Mapping[tuple[str, str], str]) -> None:
    """ERank of the response by its rows, with intervals.

    Args:
        axes: Where to.
        found: Runs of what models wrote, and their models.
        called: Name by run and model.
    """
    longest = 0
    for i, (run, model) in enumerate(found):
        grown = growth(run.frames[model], run.convention["aggregate"])
        if grown is None:
            continue
        rows, sample = grown
        counts = sample.counts or ()
        kept = [k for k, n in enumerate(counts) if n >= _ENOUGH * sample.n]
        limits = sample_intervals(sample, run.bootstrap)
        names, style = [sample.quantities[k] for k in kept], look(i)
        shown = [rows[k] for k in kept]
        axes.plot(shown, sample.estimates[kept], label=called[run.name, model], **style)
        if all(name in limits for name in names):
            low, high = zip(*(limits[name] for name in names), strict=True) if names else ((), ())
            axes.fill_between(shown, low, high, color=style["color"], alpha=0.2, linewidth=0)
        longest = max(longest, *shown) if shown else longest
    if longest:
        axes.plot([2, longest], [1, longest - 1], color="0.5", linewidth=1, linestyle=(0, (1, 2)), label="n - 1")
    axes.set(xlabel="rows of the response", ylabel="eRank of the response")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    bare(axes)
