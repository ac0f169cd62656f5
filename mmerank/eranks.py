"""The one table that says which measurement the paper calls eRank1 to eRank5 (Sec. 5.2)."""

from __future__ import annotations

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
