"""Where in a picture each row lies, found out from the model itself: what changes the row when it changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mmerank.convention import MOST_MAPPED, ImageLayout
from mmerank.errors import MmerankError, first_line
from mmerank.inputs.example import Example
from mmerank.inputs.sequence import Role
from mmerank.models.adapter import Adapter
from mmerank.models.grids import Grids, parted
from mmerank.models.passed_on import passed_on, states_in

Floats = NDArray[np.float64]
# Strips of a picture for each row along it, and the fewest and most of them.
_STRIPS, _FEWEST, _MOST = 4, 16, 128
# What a row changes by, against the others, that is more than rounding.
_RESPONDS = 1e-4
# Share of a row's change that lies in its place, and of the rows that have such a place, or a point has no map.
_INSIDE, _LEAST = 0.8, 0.95
# How often rows may cover the picture: tiles, a thumbnail, and what tiles overlap.
_LAYERS = 2.5
# Share that two intervals have in common where they are the same column, or row, of patches: a tile's and the
# thumbnail's may have two thirds. Less for a single row beside a column of several, as noise widens and narrows it.
# And how often rows are shared out among columns anew.
_SAME, _LONE, _ROUNDS = 0.75, 0.5, 3
# Where a picture is cut to see the grid of its rows, and what share of the largest change a row's must be: one that
# lies beside the cut changes as scaling spreads it.
_CUTS, _FOLLOWS = (0.5, 0.4, 0.6), 0.03
# How near their ends are, in the smaller one's width, where one begins at the other's end.
_MEET = 0.3
# A row at the border that has less than this of others' width or height is of padding, into which scaling a picture
# smears what stands beside it.
_SLIVER = 0.4
_NONE = "none of its rows is the picture's"


@dataclass(frozen=True)
class Places:
    """Where the rows of one picture lie.

    Of each point the places of its rows, (n, 4): left, top, right and bottom edge, as shares of the picture's width
    and height, NaN of a row that is of no place, as CLS, a newline or padding; or the reason why they are not known.

    Attributes:
        vision: Rows at the vision point.
        connector: Rows of the connector's output.
        llm: Image positions of a sequence.
    """

    vision: Floats | str
    connector: Floats | str
    llm: Floats | str

    @classmethod
    def unknown(cls, why: str) -> Places:
        """Nothing is known of any point, for one reason."""
        return cls(why, why, why)


@dataclass
class Whereabouts:
    """Finds out where rows lie, once for each size of picture.

    A picture of noise is made of that size, and strip by strip of it becomes other noise, from the left and from the
    top; meanwhile the encoder's blocks pass their rows on unchanged (`mmerank.models.passed_on`). The strips that
    change a row are where it lies. So no family's layout need be known: whatever a processor or a model does with
    tiles, windows, merges or padding has been done when the rows are looked at. Where a row does not follow one
    place, as the queries of a Q-Former, that is seen.

    An adapter that knows better has a method `places(size, layout, vision_point)`, which gives a `Places`.

    Attributes:
        adapter: The model, in eval mode when it is asked.
        layout: Of pictures.
        vision_point: By name.
    """

    adapter: Adapter
    layout: ImageLayout = "model"
    vision_point: str = "default"
    _known: dict[tuple[int, int], Places] = field(default_factory=dict)
    _grids: dict[tuple[int, int], Grids] = field(default_factory=dict)

    def of(self, size: tuple[int, int]) -> Places:
        """The places of the rows of a picture.

        Args:
            size: Its width and height, in pixels.

        Returns:
            As `Places` says.
        """
        if size not in self._known:
            own = getattr(self.adapter, "places", None)
            try:
                found = self._looked_for(size) if own is None else own(size, self.layout, self.vision_point)
            except MmerankError as error:
                found = Places.unknown(f"the model does not read a generated picture ({first_line(error)})")
            self._known[size] = found
        return self._known[size]

    def grids(self, size: tuple[int, int]) -> Grids:
        """The grids that the image positions of a sequence lie on, one of a grid's lines after the other.

        It takes a few passes of the encoder, where places take some for each row along a side: of a picture of noise
        the left part is changed, and the upper one.

        Args:
            size: Of the picture, in pixels.

        Returns:
            Of the positions that hold a row of the picture: lines and columns of each, or columns and lines where
            one column comes after the other; padding at its sides counts. One grid, or a thumbnail and a picture in
            detail, or tiles that are laid out alike with a thumbnail before or behind them; none where it is none of
            these, or cannot be told.
        """
        if size not in self._grids:
            try:
                self._grids[size] = self._cut(size)
            except MmerankError:  # it does not read a generated picture
                self._grids[size] = ()
        return self._grids[size]

    @torch.inference_mode()
    def _cut(self, size: tuple[int, int]) -> Grids:
        blank, other = _noise(0, size), _noise(1, size)
        llm = self.adapter.model.get_submodule(str(self.adapter.layers[0].module).rpartition(".")[0])
        with passed_on(self.adapter.model, lambda: self._rows(blank), besides=llm):
            if (before := self._rows(blank).get("llm")) is None:
                return ()
            (encoded,) = self.adapter.encode_images([self.adapter.pixels(Image.fromarray(blank), self.layout)])
            filled = slice(None) if encoded.filled is None else list(encoded.filled)
            for share in _CUTS:
                sides = []
                for part in ((slice(None), slice(int(share * size[0]))), (slice(int(share * size[1])),)):
                    picture = blank.copy()
                    picture[part] = other[part]
                    changed = _squares((self._rows(picture)["llm"] - before)[filled])
                    sides.append(changed > _FOLLOWS * changed.max())
                if found := parted(*sides):
                    return found
        return ()

    @torch.inference_mode()
    def _looked_for(self, size: tuple[int, int]) -> Places:
        blank = _noise(0, size)
        llm = self.adapter.model.get_submodule(str(self.adapter.layers[0].module).rpartition(".")[0])
        with passed_on(self.adapter.model, lambda: self._rows(blank), besides=llm):
            seen = self._rows(blank)
            counts = {name: len(rows) for name, rows in seen.items()}
            # Where the connector's rows enter the LLM as they are, they need not be followed into it.
            as_they_are = "llm" in seen and torch.equal(*(seen[name].cpu().double() for name in ("connector", "llm")))
            most = max((count for count in counts.values() if count <= MOST_MAPPED), default=0)
            sides = (math.sqrt(most * size[0] / size[1]), math.sqrt(most * size[1] / size[0]))
            axes = [
                self._along(axis, size, math.ceil(_STRIPS * side), llm=not as_they_are)
                for axis, side in enumerate(sides)
                if most
            ]
        found: dict[str, Floats | str] = dict.fromkeys(("vision", "connector", "llm"), _NONE)
        for name, count in counts.items():
            if count > MOST_MAPPED:
                found[name] = f"it is not looked for where more than {MOST_MAPPED} rows lie"
            else:
                of = "connector" if name == "llm" and as_they_are else name
                found[name] = _boxes([(edges, changed[of]) for edges, changed in axes])
        return Places(**found)

    def _rows(self, picture: NDArray[np.uint8], *, llm: bool = True) -> dict[str, Tensor]:
        """Rows at each point: at the LLM, if it is asked for, what enters its first block in the image positions."""
        image = Image.fromarray(picture)
        (encoded,) = self.adapter.encode_images([self.adapter.pixels(image, self.layout)], self.vision_point)
        found = {"vision": encoded.vision, "connector": encoded.connector}
        if not llm:
            return found
        sequence = self.adapter.sequence(Example("", image, "", ""), "image", "bare")
        places = [i for i, role in enumerate(sequence.roles) if role is Role.IMAGE]
        if places:
            entered = list[Tensor]()
            handle = _first_block(self.adapter).register_forward_pre_hook(
                lambda block, args, kwargs: _stop(entered, args, kwargs), with_kwargs=True
            )
            try:
                self.adapter.decode([sequence], [encoded])
            except _Entered:
                pass
            finally:
                handle.remove()
            found["llm"] = entered[0].reshape(-1, entered[0].shape[-1])[places]
        return found

    def _along(
        self, axis: int, size: tuple[int, int], strips: int, *, llm: bool
    ) -> tuple[Floats, Mapping[str, Floats]]:
        """How much each strip along an axis changes each row: edges of the strips, and squares by point, (n, k)."""
        picture, other = _noise(0, size), _noise(1, size)
        length = size[axis]
        count = min(max(strips, _FEWEST), _MOST, length)
        edges = np.linspace(0, length, count + 1).round().astype(int)
        changes: list[dict[str, Floats]] = []
        before = self._rows(picture, llm=llm)
        for start, end in pairwise(edges):
            strip = (slice(None), slice(start, end)) if axis == 0 else (slice(start, end),)
            picture[strip] = other[strip]
            now = self._rows(picture, llm=llm)
            changes.append({name: _squares(now[name] - before[name]) for name in now})
            before = now
        return edges / length, {name: np.stack([of[name] for of in changes], axis=1) for name in changes[0]}


class _Entered(BaseException):
    """Ends a pass where the LLM begins; no adapter takes it for an error of the model."""


def _stop(entered: list[Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    entered += states_in([*args, *kwargs.values()])[:1]
    raise _Entered


def _first_block(adapter: Adapter) -> nn.Module:
    return adapter.model.get_submodule(str(adapter.layers[0].module))


def _squares(change: Tensor) -> Floats:
    squares: Floats = change.cpu().double().square().sum(dim=1).numpy()
    return squares


def _noise(seed: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Noise that is coarse enough to be still there when a processor has made the picture smaller."""
    fine = tuple(min(side, 4 * _MOST) for side in size)
    drawn = np.random.default_rng(seed).integers(0, 256, (fine[1], fine[0], 3), dtype=np.uint8)
    return np.array(Image.fromarray(drawn).resize(size, Image.Resampling.NEAREST))


def _boxes(axes: list[tuple[Floats, Floats]]) -> Floats | str:
    """Places of rows by what each strip changed in them, or why there are none."""
    totals = np.minimum(*(changed.sum(axis=1) for _, changed in axes))
    responds = totals > _RESPONDS * (np.median(totals[totals > 0]) if (totals > 0).any() else math.inf)
    count = int(responds.sum())
    if count < 2:
        return "no row follows a place in the picture: each is made of all of it"
    found = np.full((len(totals), 4), math.nan)
    inside = np.ones(count, bool)
    for axis, (edges, changed) in enumerate(axes):
        shares = changed[responds] / changed[responds].sum(axis=1, keepdims=True)
        sides = _sides(edges, shares)
        found[responds, axis], found[responds, axis + 2] = sides.T
        middles, slack = (edges[1:] + edges[:-1]) / 2, np.diff(edges).max()
        within = (middles >= sides[:, :1] - slack) & (middles <= sides[:, 1:] + slack)
        inside &= (shares * within).sum(axis=1) >= _INSIDE
    for axis in range(2):
        found[_smeared(found, axis)] = math.nan
    sizes = found[responds, 2:] - found[responds, :2]
    sizes, inside = sizes[np.isfinite(sizes[:, 0])], inside[np.isfinite(sizes[:, 0])]
    covered = float(sizes.prod(axis=1).sum())
    if covered > min(_LAYERS, count / 2) or inside.mean() < _LEAST:
        return "its rows do not follow one place each: something beside the encoder's blocks mixes them"
    return found


def _smeared(places: Floats, axis: int) -> NDArray[np.bool_]:
    """Which rows are slivers at the border, against those that lie beside them along this axis."""
    low, high = places[:, axis], places[:, axis + 2]
    begin, end = places[:, 1 - axis], places[:, 3 - axis]
    beside = (begin <= (begin + end)[:, None] / 2) & ((begin + end)[:, None] / 2 <= end)
    usual = np.array([np.median((high - low)[of]) if of.any() else 0.0 for of in beside])
    sliver: NDArray[np.bool_] = ((low <= 0) | (high >= 1)) & (high - low < _SLIVER * usual)
    return sliver


def _sides(edges: Floats, shares: Floats) -> Floats:
    """Where each row begins and ends along an axis, (n, 2): that of all rows in the same column together."""
    own = _ends(edges, shares)
    columns = _apart(own, np.ones(len(own), int))
    for _ in range(_ROUNDS):
        nearest = _in_common(own, columns).argmax(axis=1)
        which, members = np.unique(nearest, return_counts=True)
        of_all = np.concatenate([_ends(edges, shares[nearest == i].mean(axis=0, keepdims=True)) for i in which])
        columns = _apart(of_all, members)
    sides: Floats = _meeting(columns)[_in_common(own, columns).argmax(axis=1)]
    return sides


def _apart(columns: Floats, members: NDArray[np.int_]) -> Floats:
    """Those of some intervals, (m, 2), that are columns of their own, the ones with most rows first."""
    found = columns[:0]
    for i in np.argsort(-members, kind="stable"):
        most = _SAME if members[i] > 1 or members.max() == 1 else _LONE
        if not (_in_common(columns[i : i + 1], found) > most).any():
            found = np.concatenate([found, columns[i : i + 1]])
    return found


def _in_common(intervals: Floats, others: Floats) -> Floats:
    """What intervals, (n, 2), share with others, (m, 2), against what both cover together, (n, m)."""
    low, high = np.maximum(intervals[:, :1], others[:, 0]), np.minimum(intervals[:, 1:], others[:, 1])
    covered = np.maximum(intervals[:, 1:], others[:, 1]) - np.minimum(intervals[:, :1], others[:, 0])
    shared: Floats = np.clip(high - low, 0, None) / covered
    return shared


def _meeting(columns: Floats) -> Floats:
    """The same intervals, (m, 2), where one ends and another begins nearly there, at one place; so at the border."""
    found, widths = columns.copy(), np.diff(columns)[:, 0]
    for i, j in np.argwhere(np.abs(columns[:, 1:] - columns[:, 0]) < _MEET * np.minimum(widths[:, None], widths)):
        found[i, 1] = found[j, 0] = (columns[i, 1] + columns[j, 0]) / 2
    found[columns[:, 0] < _MEET * widths, 0] = 0
    found[columns[:, 1] > 1 - _MEET * widths, 1] = 1
    return found


def _ends(edges: Floats, shares: Floats) -> Floats:
    """Ends of the interval over which each row's shares are spread evenly, (n, 2), by their deciles."""
    cumulative = np.concatenate([np.zeros((len(shares), 1)), np.cumsum(shares, axis=1)], axis=1)
    low, high = (np.array([np.interp(share, row, edges) for row in cumulative]) for share in (0.1, 0.9))
    beyond = (high - low) / 8
    ends: Floats = np.clip(np.stack([low - beyond, high + beyond], axis=1), 0, 1)
    return ends
