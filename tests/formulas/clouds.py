"""Rows for tests of formulas: clouds of any shape and spectrum, and degenerate ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROUGH = (
    "ties",
    "scale",
    "offset",
    "repeated",
    "line",
    "column",
    "constant",
    "but one",
    "lengths",
    "extreme",
    "plain",
)


def plain(n: int, d: int, seed: int = 0, decay: float = 0.5) -> Floats:
    """Correlated columns with a falling spectrum and an offset."""
    generator = np.random.default_rng(seed)
    rows: Floats = generator.normal(size=(n, d)) * np.arange(1.0, d + 1) ** -decay
    return rows @ generator.normal(size=(d, d)) + generator.normal(size=d)


@st.composite
def clouds(draw: st.DrawFn, least: int = 24, most: int = 40, widths: tuple[int, int] = (22, 30)) -> Floats:
    """Enough rows and columns for every metric."""
    return plain(
        draw(st.integers(least, most)),
        draw(st.integers(*widths)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.floats(0, 1.5)),
    )


@st.composite
def rough(draw: st.DrawFn, n: int, d: int) -> Floats:
    """What is likely to break a formula."""
    kind = draw(st.sampled_from(ROUGH))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows: Floats = generator.normal(size=(n, d))
    exponent = draw(st.integers(-300, 300))
    where = draw(st.integers(0, n - 1)) if n else 0
    made: dict[str, Any] = {
        "ties": lambda: generator.integers(-1, 2, size=(n, d)).astype(np.float64),
        "scale": lambda: rows * 10.0**exponent,
        "offset": lambda: rows + 10.0 ** (abs(exponent) % 16),
        "repeated": lambda: np.where(np.arange(n)[:, None] >= where, rows[:1], rows),
        "line": lambda: np.outer(rows[:, 0], rows[0]) if n else rows,
        "column": lambda: np.where(np.arange(d) == 0, 1e17, rows),
        "constant": lambda: np.full((n, d), draw(st.sampled_from([0.0, 1.0, 1e300, -1e-300, 0.1]))),
        "but one": lambda: np.where(
            np.arange(n)[:, None] == where, 1 + 10.0 ** -(abs(exponent) % 16), np.ones((n, d))
        ),
        "lengths": lambda: rows * 10.0 ** generator.integers(-200, 200, size=(n, 1)),
        "extreme": lambda: generator.choice([1.7e308, -1.7e308, 5e-324, 1e-310], size=(n, d)),
        "plain": lambda: rows,
    }
    return np.asarray(made[kind](), dtype=np.float64)
