"""What hook points are called: the table of eRank1 to eRank5 (the paper's Sec. 5.2), and what blocks add."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol, TypeVar

# What the hook point of texts after the final norm is called.
FINAL = "final"
# label -> (hook point, input)
ERANKS = {
    "erank1": ("vision", "image"),
    "erank2": ("connector", "image"),
    "erank3": ("llm", "image"),
    "erank4": ("llm", "text"),
    "erank5": ("llm", "pair"),
}
# What is added to the residual stream by the part of a block in which positions see each other, and by the rest.
ATTENTION, MLP = UPDATES = ("attention", "mlp")
_UPDATE = re.compile(r"(attention|mlp) ([1-9]\d{0,3})", re.ASCII)
_VISION = "vision layer "
_VISION_LAYER = re.compile(_VISION + r"([1-9]\d{0,3})", re.ASCII)


class _Measured(Protocol):
    @property
    def point(self) -> str: ...

    @property
    def input(self) -> str: ...


_Record = TypeVar("_Record", bound=_Measured)


def by_label(records: Iterable[_Record]) -> dict[str, list[_Record]]:
    """Measurements by what the paper calls them.

    Args:
        records: Any; those of further layers are passed over.

    Returns:
        A list for each of `erank1` .. `erank5`.
    """
    found: dict[str, list[_Record]] = {label: [] for label in ERANKS}
    labels = {where: label for label, where in ERANKS.items()}
    for record in records:
        if label := labels.get((record.point, record.input)):
            found[label].append(record)
    return found


def vision_layers(numbers: Iterable[int]) -> list[str]:
    """Names of the hook points behind blocks of a vision encoder within a multimodal model.

    Args:
        numbers: Of blocks, from 1 on.

    Returns:
        One for each.

    Example:
        >>> vision_layers([1, 2])
        ['vision layer 1', 'vision layer 2']
    """
    return [f"{_VISION}{number}" for number in numbers]


def vision_layer(point: str) -> int | None:
    """The number of such a layer; None of another hook point."""
    found = _VISION_LAYER.fullmatch(point)
    return int(found[1]) if found else None


def update_points(numbers: Iterable[int]) -> list[str]:
    """Names of the hook points at what blocks add to the residual stream.

    Args:
        numbers: Of blocks.

    Returns:
        Two for each.

    Example:
        >>> update_points([1, 3])
        ['attention 1', 'mlp 1', 'attention 3', 'mlp 3']
    """
    return [f"{part} {number}" for number in numbers for part in UPDATES]


def update_at(point: str) -> tuple[str, int] | None:
    """Which update a hook point is at.

    Args:
        point: Its name.

    Returns:
        Part and number of the block; None where it is at none.

    Example:
        >>> update_at("mlp 12"), update_at("layer 12")
        (('mlp', 12), None)
    """
    found = _UPDATE.fullmatch(point)
    return None if found is None else (found[1], int(found[2]))
