"""What came of each metric on the ladder of small models whose alignment is known (docs/alignment-ladder.md)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("on_ladder.json")  # written by scripts/alignment_ladder.py


@dataclass(frozen=True)
class OnLadder:
    """A metric on the ladder.

    Attributes:
        places: At how many places it was taken: hook points and layers, all rows and equally many.
        followed: At how many of them it followed caption accuracy: q < 0.05 over everything asked, and the same sign
            for both shapes of model, for wrong captions alone and for length of training alone.
        gaps: At how many the number less that of mismatched pairs did, by q alone.
        rho: Spearman's with caption accuracy where it followed it best; of all places, where it followed at none.
    """

    places: int
    followed: int
    gaps: int
    rho: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.followed} of {self.places}, {self.rho:+.2f}"


@cache
def on_ladder() -> dict[str, OnLadder]:
    """By name of the metric; without those that no run takes."""
    stored: dict[str, dict[str, Any]] = json.loads(FILE.read_text())
    return {name: OnLadder(**numbers) for name, numbers in stored.items()}
