"""What `mmerank doctor` found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmerank.inputs.sequence import Kind

_NAMED = 3  # gates in a sentence


def said_of_gates(names: Sequence[str]) -> str:
    """What a reader must know of gates that start at zero.

    Args:
        names: Of the parameters, at least one.

    Returns:
        A sentence without a full stop.
    """
    listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return f"untrained, these gates are zero, and what they multiply has no part in the numbers: {listed}"


@dataclass(frozen=True)
class Stretch:
    """Neighbouring positions of the same role.

    Attributes:
        first: Position of the first.
        last: Position of the last.
        role: `bos`, `template`, `image` or `text`.
        counted: Whether they enter the covariance under the convention.
        text: What the tokens say; empty for an image.
    """

    first: int
    last: int
    role: str
    counted: bool
    text: str


@dataclass(frozen=True)
class Examination:
    """What `mmerank doctor` found.

    Attributes:
        model: Name of the model.
        source: What the model is known by, see `mmerank.models.identity.identity`.
        parameters: Number of parameters.
        places: Where they are: `dtype on device`, most parameters first.
        points: By name of hook point: module path, side, leading rows left out, and (n, d) of what counted.
        vision_points: Names for `--vision-point`, with module path and side.
        example: Id of the example that was run.
        layout: For each input kind, its stretches of positions.
        picture_rows: Numbers of rows of a small, a tall and a large picture, by hook point, or why the model does not
            take one; empty where all pictures have equally many.
        eranks: eRank1 to eRank5 of the example.
        warnings: What to be careful about.
        initialisation: What untrained twins of its language model are drawn with, see
            `mmerank.models.initialisation`.
        zero_gates: Parameters by name that start at zero and multiply, so that what they multiply has no part in an
            untrained twin, see `mmerank.models.gates`.
    """

    model: str
    source: dict[str, Any]
    parameters: int
    places: tuple[str, ...]
    points: dict[str, dict[str, Any]]
    vision_points: dict[str, str]
    example: str
    layout: dict[Kind, tuple[Stretch, ...]]
    picture_rows: dict[str, dict[str, int] | str]
    eranks: dict[str, float]
    warnings: tuple[str, ...]
    initialisation: dict[str, Any] = field(default_factory=dict)
    zero_gates: tuple[str, ...] = ()
