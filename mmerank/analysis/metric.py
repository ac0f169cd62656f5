"""What a metric is: from the records of a data set to numbers that statistics, tables and figures can all take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from mmerank.analysis.sample import Sample
from mmerank.convention import Aggregate


@dataclass(frozen=True)
class Quantity:
    """One number of a data set, and how it is written.

    Attributes:
        name: In Python, JSON and CSV.
        label: In tables and figures.
        short: Where columns are narrow; the label where nothing is given.
        decimals: How many are printed.
        better: Whether a higher or a lower value is what one wants; empty for neither.
        differs: How two values of an example are held against each other: by their difference (`value`), or by that
            of their logarithms (`log`), whose differences are more symmetric for effective ranks.
        sees: What of an example can move it: its `image`, its `text`, or which goes with which (`pair`).
    """

    name: str
    label: str
    short: str = ""
    decimals: int = 2
    better: Literal["higher", "lower", ""] = ""
    differs: Literal["value", "log"] = "value"
    sees: Literal["image", "text", "pair"] = "pair"

    @property
    def head(self) -> str:
        """What stands above a narrow column."""
        return self.short or self.label


@dataclass(frozen=True)
class Metric:
    """Numbers of a data set that are taken of its records in one way.

    Attributes:
        name: By which it is asked for.
        title: Above a table of it.
        quantities: Its numbers, but for those whose names depend on the data.
        samples: Records of one model (of texts: with its untrained twins) under one transform, as from
            `mmerank.runs.record.to_frame`, and the aggregate (see `mmerank.analysis.metrics.alignment.dataset_erank`)
            -> for each hook point (of texts; else empty) what is averaged, and what is made of the means. Nothing
            where the records do not hold what it needs; a ValueError where a measurement is missing or there twice.
        prefix: Stands before the names of its quantities where those of several metrics are listed.
        follows_rows: Whether its numbers follow how many rows a model makes of an example, so that models with
            different numbers of rows cannot be held against each other.
        own_place: Whether results and terminals have a place of their own for its numbers; those of others stand
            among the metrics that were asked for.
        named: Of numbers whose names depend on the data: name -> what is known of it, None for another name.
        compared: How the names of those numbers begin by which two models are held against each other, where none are
            asked for; all by default.
    """

    name: str
    title: str
    quantities: tuple[Quantity, ...]
    samples: Callable[[pd.DataFrame, Aggregate], Iterator[tuple[str, Sample]]]
    prefix: str = ""
    follows_rows: bool = False
    own_place: bool = False
    named: Callable[[str], Quantity | None] = lambda name: None
    compared: str = ""

    def quantity(self, name: str) -> Quantity | None:
        """What is known of one of its numbers.

        Args:
            name: Without the prefix.

        Returns:
            None where it is not one of its numbers.
        """
        return next((quantity for quantity in self.quantities if quantity.name == name), None) or self.named(name)
