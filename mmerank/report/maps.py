"""Where the rank lies: maps of what each row adds, over the pictures of the examples at both ends."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.alignment import LABELS
from mmerank.analysis.row_map import TOO_MANY, RowMap, row_maps
from mmerank.inputs.example import Example
from mmerank.report.examples import cut, id_shown, picture_of

# What the examples at both ends are by, one each.
ENDS = ("image_text_alignment", "erank5")
_PLACES = {"erank1": "vision encoder", "erank2": "connector", "erank5": "LLM, the pair"}
_SIDE = 1000  # of a picture's longer side, in units of its map
_ACROSS = 24  # cells of a strip side by side
_LARGEST = 10  # rows that are listed
# Colours end where this share of the rows does.
_SHARE = 98


@dataclass(frozen=True)
class Cell:
    """One row: a box, its colour and what is told of it.

    Attributes:
        box: Left, top, width and height.
        sign: `more` where the row adds, `less` where the others spread over more without it.
        strength: Between 0 and 1.
        told: Name, contribution and ratio.
        decisive: Whether it is the decisive row.
    """

    box: tuple[int, int, int, int]
    sign: str
    strength: float
    told: str
    decisive: bool


@dataclass(frozen=True)
class Panel:
    """Cells over a picture, or in a strip.

    Attributes:
        title: What they are.
        alt: The same for who does not see it.
        size: Width and height.
        cells: The rows.
        over: Whether they lie over the picture.
    """

    title: str
    alt: str
    size: tuple[int, int]
    cells: tuple[Cell, ...]
    over: bool


@dataclass(frozen=True)
class Token:
    """A row that is no picture's, as it is read."""

    text: str
    sign: str
    strength: float
    told: str
    decisive: bool


@dataclass(frozen=True)
class Mapped:
    """The rows of one measurement, drawn.

    Attributes:
        title: What is measured, and of how many rows.
        limit: Where colours end, nats, as it is shown.
        note: What is to be known: why there is no map, the decisive row.
        panels: Maps and strips.
        tokens: Of the text and the template.
        largest: Name and contribution of the rows that add or take most.
    """

    title: str
    limit: str
    note: str
    panels: tuple[Panel, ...]
    tokens: tuple[Token, ...]
    largest: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class AtEnd:
    """An example at an end.

    Attributes:
        title: Of what it is the highest or lowest, and the number.
        id: Of the example.
        picture: As a data URL; empty where there is none, or it was not found.
        size: Of the map's picture.
        models: Name, and what is drawn of each measurement.
    """

    title: str
    id: str
    picture: str
    size: tuple[int, int]
    models: tuple[tuple[str, tuple[Mapped, ...]], ...]


def maps(run: Finished, table: pd.DataFrame, found: Mapping[str, Example], called: Mapping[str, str]) -> list[AtEnd]:
    """The maps of the examples with the highest and the lowest Image-Text Alignment and eRank5.

    Args:
        run: Any.
        table: Every example's numbers, from `mmerank.report.examples.by_example`.
        found: Examples by id; of others neither picture nor tokens are shown.
        called: What tables call models.

    Returns:
        Maps; none where the run was not asked for patches.
    """
    if not run.convention.get("patches") or run.job != "align":
        return []
    ends: dict[str, list[str]] = {}
    for quantity in ENDS:
        if quantity in table:
            means = table.groupby("id")[quantity].mean().dropna().sort_values(kind="stable")
            for word, places in (("highest", means.index[::-1]), ("lowest", means.index)):
                if len(means) > 1 or word == "highest":
                    head = f"{word} {LABELS[quantity]}, {means[places[0]]:.{4 if 'alignment' in quantity else 2}f}"
                    ends.setdefault(str(places[0]), []).append(head)
    at_ends = []
    for name, heads in ends.items():
        of_models = [(called.get(model, model), row_maps(run.of(model), name)) for model in run.frames]
        at_ends.append(maps_of(of_models, found.get(name), name, "; ".join(heads)))
    return at_ends


def maps_of(
    of_models: Iterable[tuple[str, Mapping[str, RowMap]]], example: Example | None, name: str, heads: str = ""
) -> AtEnd:
    """The maps of one example.

    Args:
        of_models: Names of models as they are shown, each with what `mmerank.analysis.row_map.row_maps` gives.
        example: None where it was not found: neither picture nor tokens are shown.
        name: Its id.
        heads: Of what it is an end.

    Returns:
        Maps of the models that have some.
    """
    picture, (width, height) = picture_of(example)
    scale = _SIDE / max(width, height)
    size = round(width * scale), round(height * scale)
    models = []
    for model, of in of_models:
        drawn = tuple(_drawn(each, size, shown=example is not None, over=bool(picture)) for each in of.values())
        if drawn:
            models.append((model, drawn))
    return AtEnd(heads[:1].upper() + heads[1:], id_shown(name), picture, size, tuple(models))


def _drawn(of: RowMap, size: tuple[int, int], *, shown: bool, over: bool) -> Mapped:
    title = f"{LABELS[of.label]}, {_PLACES[of.label]}: {of.n} rows"
    if not len(of.contributions):
        return Mapped(title, "", TOO_MANY, (), (), ())
    sizes = np.abs(of.contributions)
    limit = float(np.nanpercentile(sizes, _SHARE)) if np.isfinite(sizes).any() else 0.0
    rows = _Rows(of, limit or 1.0, shown)
    notes = [f"Decisive: {rows.told(of.decisive)}." if of.decisive is not None else ""]
    notes += [f"No map: {of.why}." if of.why else ""]
    panels = list(_maps(of, rows, size, over=over))
    if len(of.elsewhere):
        placed = f"of no place (padding, CLS, newlines): {len(of.elsewhere)}"
        panels.append(_strip(of.elsewhere, rows, placed if of.layers else f"{len(of.elsewhere)} rows in their order"))
    order = np.argsort(-np.nan_to_num(sizes), kind="stable")[:_LARGEST]
    largest = tuple((rows.named(i), _nats(of.contributions[i]), f"{of.erank_ratios[i]:.4f}") for i in map(int, order))
    tokens = tuple(rows.token(i) for i, token in enumerate(of.tokens) if token)
    return Mapped(title, _plain(limit), " ".join(filter(None, notes)), tuple(panels), tokens, largest)


def _maps(of: RowMap, rows: _Rows, size: tuple[int, int], *, over: bool) -> Iterator[Panel]:
    for i, layer in enumerate(of.layers):
        assert of.places is not None
        boxes = of.places[np.searchsorted(of.pictured, layer)] * np.array([*size, *size])
        corners = boxes.round().astype(int)
        cells = [
            rows.cell(int(row), (left, top, right - left, bottom - top))
            for row, (left, top, right, bottom) in zip(layer, corners.tolist(), strict=True)
        ]
        which = "" if len(of.layers) == 1 else f", layer {i + 1} of {len(of.layers)}"
        title = f"{len(layer)} rows over the picture{which}"
        values = of.contributions[layer]
        alt = f"Heat map, {title}: from {_nats(np.nanmin(values))} to {_nats(np.nanmax(values))} nats"
        yield Panel(title, alt, size, tuple(cells), over)


def _strip(which: NDArray[np.int64], rows: _Rows, title: str) -> Panel:
    side = _SIDE // _ACROSS
    cells = [
        rows.cell(row, (i % _ACROSS * side, i // _ACROSS * side, side, side)) for i, row in enumerate(which.tolist())
    ]
    size = side * _ACROSS, side * -(-len(cells) // _ACROSS)
    return Panel(title, f"Strip of cells, {title}", size, tuple(cells), over=False)


@dataclass(frozen=True)
class _Rows:
    """Colours and words of the rows of a measurement; tokens are named by their place where they are not `shown`."""

    of: RowMap
    limit: float
    shown: bool

    def named(self, row: int) -> str:
        name = self.of.named(row)
        return name if self.shown or not self.of.tokens[row] else f"{name.partition(' ')[0]} token {row}"

    def told(self, row: int) -> str:
        return f"{cut(self.named(row))}, {_nats(self.of.contributions[row])} nats"

    def look(self, row: int) -> tuple[str, float, str, bool]:
        """Sign, strength, what is told, and whether it is the decisive row."""
        value = float(np.nan_to_num(self.of.contributions[row]))
        strength = round(min(abs(value) / self.limit, 1.0), 2)
        told = f"{self.told(row)}, eRank x {self.of.erank_ratios[row]:.4f}"
        return "more" if value >= 0 else "less", strength, told, row == self.of.decisive

    def cell(self, row: int, box: tuple[int, int, int, int]) -> Cell:
        return Cell(box, *self.look(row))

    def token(self, row: int) -> Token:
        name = self.named(row)
        quoted = name.partition(" ")[2]
        text = str(ast.literal_eval(quoted)) if quoted[:1] in ("'", '"') else "▢"
        return Token(text.replace("\n", "↵"), *self.look(row))


def _nats(value: float) -> str:
    return f"{value:+.5f}" if np.isfinite(value) else "undefined"


def _plain(value: float) -> str:
    return f"{value:.2g}"
