"""What the table of metrics says of each, and short ways to say it by kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Better = Literal["higher", "lower", "neither"]
Kind = Literal["spectral", "geometric", "between modalities", "paired states", "likelihood", "connector", "your own"]

SVD = "n d min(n, d)"
SQUARE = "n² d"
MOST = "min(n-1, d)"  # what an effective rank of n centred rows can be
LAYER_BY_LAYER = "Layer by Layer, arXiv:2502.02013"

# Of two layers, rows that a map is fitted to and others that it is measured on; of several, image rows and text rows.
FITTED = ("x", "y", "x_new", "y_new")
OF_LAYERS = ("layers",)
# Losses of responses, each under its own picture and under others.
OF_LOSSES = ("own", "others")
# Rows before a connector, and those behind it, whose number counts.
OF_CONNECTOR = ("vision", "connector")
POOLED = (FITTED, OF_LAYERS)
# Rows that are kept of an example and hook point where a pooled metric asks for them: of two modalities half of each.
SAMPLED = 32
KEPT = f"pooled rows, {SAMPLED} of an example and layer: {4 * SAMPLED} d bytes"


@dataclass(frozen=True)
class Entry:
    """A metric as the table has it.

    Attributes:
        name: Of `mmerank.metric`.
        label: For people.
        kind: What it is about.
        function: Arrays -> float.
        takes: The arrays, in their order: `h`, one cloud of rows; `image`, `text`, two in one space; `x`, `y`, paired
            rows, and `x_new`, `y_new`, others of the same; `layers`, of each an `image, text`; `views`; `own`,
            `others`, losses of responses; `vision`, `connector`, rows before and behind it.
        low: Smallest value, as a formula in the n rows and the width d; empty where there is none.
        high: Largest value.
        better: Which way is better, where that can be said.
        needs: What of the hidden states it is made of.
        follows_rows: Whether it grows or falls with the number of rows, so that models are to be compared on equally
            many.
        source: Who defined it.
        cost: Operations, up to a constant.
        averaged: Over examples: the value, or its logarithm, as of effective ranks, where a run asks for the mean
            entropy.
    """

    name: str
    label: str
    kind: Kind
    function: Callable[..., float]
    takes: tuple[str, ...]
    low: str
    high: str
    better: Better
    needs: str
    follows_rows: bool
    source: str
    cost: str
    averaged: Literal["value", "log"] = "value"

    @property
    def pooled(self) -> bool:
        """Whether a run takes it of rows that are sampled from each example and pooled over the data set."""
        return self.takes in POOLED

    @property
    def of_states(self) -> bool:
        """Whether a run takes it of the examples' mean states."""
        return self.takes[0] in ("x", "y") and not self.pooled

    def to_dict(self) -> dict[str, Any]:
        """JSON values: all but the function."""
        return {name: value for name, value in asdict(self).items() if name != "function"}


def of_spectrum(
    name: str,
    label: str,
    function: Callable[..., float],
    low: str,
    high: str,
    source: str,
    *,
    needs: str = "spectrum of centred unit rows",
    better: Better = "neither",
    cost: str = SVD,
) -> Entry:
    """A metric of the spectrum of one cloud of rows. Arguments as of `Entry`."""
    # Effective ranks are exp of an entropy, and the entropies are averaged.
    averaged: Literal["value", "log"] = "log" if name.startswith(("erank_", "rankme_")) else "value"
    return Entry(name, label, "spectral", function, ("h",), low, high, better, needs, True, source, cost, averaged)


def of_geometry(
    name: str,
    label: str,
    function: Callable[..., float],
    low: str,
    high: str,
    source: str,
    *,
    takes: tuple[str, ...] = ("h",),
    needs: str = "distances of sampled rows",
    better: Better = "neither",
    follows_rows: bool = False,
    cost: str = SQUARE,
) -> Entry:
    """A metric of how the rows of a cloud lie to each other. Arguments as of `Entry`."""
    return Entry(name, label, "geometric", function, takes, low, high, better, needs, follows_rows, source, cost)


def between_modalities(
    name: str,
    label: str,
    function: Callable[..., float],
    low: str,
    high: str,
    source: str,
    *,
    needs: str,
    takes: tuple[str, ...] = ("image", "text"),
    better: Better = "lower",
    follows_rows: bool = False,
    cost: str = "n d",
) -> Entry:
    """A metric of image rows and text rows in one space. Arguments as of `Entry`."""
    return Entry(
        name, label, "between modalities", function, takes, low, high, better, needs, follows_rows, source, cost
    )


def of_paired_states(
    name: str,
    label: str,
    function: Callable[..., float],
    low: str,
    high: str,
    source: str,
    *,
    takes: tuple[str, ...] = ("x", "y"),
    needs: str = "mean states of paired examples",
    better: Better = "higher",
    follows_rows: bool = True,
    cost: str = SQUARE,
) -> Entry:
    """A metric of states of the same examples in two places. Arguments as of `Entry`."""
    return Entry(name, label, "paired states", function, takes, low, high, better, needs, follows_rows, source, cost)
