"""What becomes of a picture on its way to the LLM, as an adapter hands it to the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmerank.models.hooks import Point, capture


@dataclass(frozen=True)
class Spans:
    """How many rows each of several pictures has, in their order.

    Attributes:
        vision: At the vision point.
        connector: Of the connector's output.
        llm: Of the image positions of a sequence that hold one of its rows.
    """

    vision: tuple[int, ...]
    connector: tuple[int, ...]
    llm: tuple[int, ...]

    def of(self, point: str, kind: str) -> tuple[int, ...]:
        """Those of what is measured of each picture: of the LLM the pair's; nothing of anything else."""
        if point == "llm":
            return self.llm if kind == "pair" else ()
        return {"vision": self.vision, "connector": self.connector}.get(point, ())


@dataclass
class Encoded:
    """The rows of one example's pictures, which may be of any number.

    Attributes:
        vision: Rows at the vision point, (n, d).
        connector: Rows of the connector's output, (m, d). A pass of the LLM may put others in their place, where the
            connector reads the text.
        filled: For each image position of a sequence, whether it holds one of them; None if all do.
        inputs: What else the adapter's `decode` needs.
        spans: Of several pictures, the rows of each, or why they cannot be told apart; None of one picture.
    """

    vision: Tensor
    connector: Tensor
    filled: Sequence[bool] | None = None
    inputs: Any = None
    spans: Spans | str | None = None


def encoded(model: nn.Module, points: Mapping[str, Point], run: Callable[[], Any]) -> list[Encoded]:
    """The rows of a batch of pictures that a model encodes in one pass, all pictures with equally many.

    Args:
        model: The module that the points are paths in.
        points: `vision` and `connector`.
        run: Encodes the batch; each point is passed once, with (b, n, d).

    Returns:
        One entry for each picture.
    """
    with capture(model, points, reduce=lambda h: list(h.clone())) as seen:
        run()
    return [Encoded(*rows) for rows in zip(seen["vision"], seen["connector"], strict=True)]
