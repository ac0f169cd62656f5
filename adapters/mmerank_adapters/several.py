"""Several pictures in one example: how many rows each of them has, among the rows of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from PIL import Image
from torch import Tensor

from mmerank.errors import MmerankError
from mmerank.models.encoded import Encoded, Spans
from mmerank_adapters.feeding import noise
from mmerank_adapters.prints import found_in, prints

# Relative difference of rows that is rounding: of one picture beside others, and beside itself.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3}
_Size = tuple[int, int]


class Several:
    """Tells the rows of several pictures apart.

    Processors lay a picture out otherwise beside others than alone, and say nothing of its rows. So a generated
    picture of its size is encoded as often as there are pictures: all have equally many rows then. That rows stand in
    the order of the pictures, each picture's together, is looked at once, on two generated pictures; that what enters
    the LLM in the places of a picture are its rows, of each example.

    Args:
        encode: Pictures -> the rows of all, and prints of what enters the LLM at the image positions, in a list;
            nothing in it where that is not known.
    """

    def __init__(self, encode: Callable[[tuple[Image.Image, ...]], tuple[Encoded, list[Tensor]]]):
        self._encode = encode
        self._known: dict[tuple[int, _Size], tuple[int, ...]] = {}
        self._apart: str | None = None  # why they cannot be told apart; None before it was looked at

    def spans(self, encoded: Encoded, placed: Sequence[Tensor], sizes: Sequence[_Size]) -> Spans | str:
        """The rows of each picture of an example.

        Args:
            encoded: Of all its pictures.
            placed: See `encode`.
            sizes: Of the pictures, in their order.

        Returns:
            How many each has, or why that cannot be told.
        """
        try:
            if self._apart is None:
                self._apart = self._looked_at()
            found = self._apart or self._counted(encoded, placed, [self._rows(size, len(sizes)) for size in sizes])
        except MmerankError as error:
            found = str(error)
        if isinstance(found, str):
            return f"the rows of its {len(sizes)} pictures cannot be told apart: {found}"
        return found

    def _rows(self, size: _Size, count: int) -> tuple[int, ...]:
        """Of a picture of a size among so many: at the vision point, of the connector, image positions."""
        if (count, size) not in self._known:
            whole = _sizes(*self._encode((noise(0, *size),) * count))
            # What cannot be shared out evenly is no sum of such either.
            self._known[count, size] = tuple(of // count for of in whole)
        return self._known[count, size]

    def _looked_at(self) -> str:
        """Whether each picture's rows are those that it has beside itself; empty if so."""
        pictures = noise(1), noise(2, 112, 160)
        both, _ = self._encode(pictures)
        beside = [self._encode((picture, picture))[0] for picture in pictures]
        for point in ("vision", "connector"):
            rows: Tensor = getattr(both, point)
            parts: list[Tensor] = [getattr(of, point) for of in beside]
            if any(len(part) % 2 for part in parts) or 2 * len(rows) != sum(map(len, parts)):
                return f"at the {point} point, two pictures have other rows together than each beside itself"
            first, second = (len(part) // 2 for part in parts)
            expected = torch.cat([parts[0][:first], parts[1][second:]]).double()
            # Written so that NaN is refused, too.
            if not float((rows.double() - expected).norm() / expected.norm()) <= _ROUNDING.get(rows.dtype, 0.05):
                return f"at the {point} point, rows depend on the other pictures or are not in the pictures' order"
        return ""

    def _counted(self, encoded: Encoded, placed: Sequence[Tensor], each: Sequence[tuple[int, ...]]) -> Spans | str:
        vision, connector, places = zip(*each, strict=True)
        whole = _sizes(encoded, placed)
        if (sum(vision), sum(connector), sum(places)) != whole:
            return (
                f"{whole[0]} rows at the vision point, {whole[1]} of the connector and {whole[2]} image positions "
                "are not the sum of those of pictures of their sizes"
            )
        if not whole[2]:
            return "what enters the LLM in their places is not known"
        filled = torch.tensor([True] * whole[2] if encoded.filled is None else list(encoded.filled))
        held, entered = _parts(filled, places), _parts(placed[0], places)
        own = _parts(prints(encoded.connector), connector)
        for i in range(len(each)):
            rows = entered[i][held[i].to(entered[i].device)]
            if not len(rows) or not bool(found_in(rows, own[i], encoded.connector.dtype).all()):
                return f"what enters the LLM in the places of picture {i + 1} are not its rows"
        return Spans(vision, connector, tuple(int(of.sum()) for of in held))


def _parts(rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
    return [rows[end - count : end] for end, count in zip(accumulate(counts), counts, strict=True)]


def _sizes(encoded: Encoded, placed: Sequence[Tensor]) -> tuple[int, int, int]:
    return len(encoded.vision), len(encoded.connector), sum(map(len, placed))
