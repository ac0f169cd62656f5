"""What every formula begins with: arrays of rows, checked, in float64, and what becomes of them.

The only module here that reaches for torch, and only when a function is called.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmerank.convention import Centre
from mmerank.errors import NonFiniteTokens, NoValue, TokenAtCentre, TooFewTokens

if TYPE_CHECKING:
    from torch import Tensor

Floats: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = "NDArray[np.floating[Any]] | Tensor"

EPS = float(np.finfo(np.float64).eps)
# Powers of two up to this are numbers of float64, and so are their reciprocals.
_FACTOR = 1000


def as_floats(h: Rows, name: str, *, ndim: int = 2) -> Floats:
    """An array in float64, on the CPU, without gradient; its numbers are those of the input.

    Args:
        h: Floating point, numpy or torch, on any device.
        name: What the caller calls it, for errors.
        ndim: Number of dimensions that it must have.

    Returns:
        The same numbers.

    Raises:
        TypeError: It is neither a numpy array nor a torch tensor, or not of floating point.
        ValueError: It has another number of dimensions, or no width.
        NonFiniteTokens: It holds NaN or infinity.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(h, torch.Tensor):
        floating, dtype = h.is_floating_point(), h.dtype
        values = h.detach().cpu().double().numpy() if floating else h
    elif isinstance(h, np.ndarray) and not isinstance(h, np.ma.MaskedArray):
        floating, dtype = np.issubdtype(h.dtype, np.floating), h.dtype
        values = np.asarray(h).astype(np.float64, copy=False) if floating else h
    else:
        raise TypeError(f"{name}: expected a numpy array or a torch tensor, got {type(h).__name__}")
    if not floating:
        raise TypeError(f"{name}: expected floating point, got {dtype}; convert it if these are measured numbers")
    shape = {1: "(n,)", 2: "(n, d)"}.get(ndim, "(n, q, d)")
    if values.ndim != ndim:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(values.shape)}")
    if values.shape[-1] < 1:
        raise ValueError(f"{name}: expected width d >= 1, got shape {tuple(values.shape)}")
    finite = np.isfinite(values).all(axis=tuple(range(1, ndim)))
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise NonFiniteTokens(
            f"{name}: NaN or infinity in {len(bad)} of {len(values)} rows (first: row {bad[0]}); "
            "check the model's dtype and weights"
        )
    return np.asarray(values)


def as_rows(h: Rows, name: str = "h", *, least: int = 2) -> Floats:
    """Rows in float64, divided by the power of two that makes the largest magnitude 1 at most.

    A power of two costs no digit, and no square overflows afterwards: for measures that do not change with scale.

    Args:
        h: (n, d), floating point, numpy or torch, on any device.
        name: What the caller calls it, for errors.
        least: Fewest rows.

    Returns:
        Rows, (n, d).

    Raises:
        TooFewTokens: There are fewer rows.
    """
    values = as_floats(h, name)
    if len(values) < least:
        rows = "row" if least == 1 else "rows"
        raise TooFewTokens(f"{name}: expected at least {least} {rows}, got shape {values.shape}")
    return scaled(values)[0]


def as_clouds(a: Rows, b: Rows, names: tuple[str, str], *, least: int = 2) -> tuple[Floats, Floats]:
    """Rows of two clouds in one space, as `as_rows` gives them, but divided by one power of two for both.

    Args:
        a: (n, d), floating point.
        b: (m, d), floating point.
        names: What the caller calls them.
        least: Fewest rows of each.

    Returns:
        Both.
    """
    check_widths(as_rows(a, names[0], least=least), as_rows(b, names[1], least=least), names)
    first, second = scaled(as_floats(a, names[0]), as_floats(b, names[1]))
    return first, second


def check_widths(a: Floats, b: Floats, names: tuple[str, str]) -> None:
    """Refuse rows that do not lie in one space.

    Args:
        a: (n, d).
        b: (m, e).
        names: What the caller calls them.

    Raises:
        ValueError: The widths differ.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{names[0]} and {names[1]}: expected one width, got shapes {a.shape} and {b.shape}; "
            "both must be read where they have one space, as behind the connector"
        )


def as_pairs(x: Rows, y: Rows, *, least: int = 2) -> tuple[Floats, Floats]:
    """Rows of two arrays that belong together, each as `as_rows` gives them.

    Args:
        x: (n, d), floating point.
        y: (n, e), floating point; row i belongs to row i of x.
        least: Fewest rows.

    Returns:
        Both.
    """
    a, b = as_rows(x, "x", least=least), as_rows(y, "y", least=least)
    check_paired(a, b)
    return a, b


def check_paired(x: Floats, y: Floats, names: tuple[str, str] = ("x", "y")) -> None:
    """Refuse arrays of which not every row has a partner.

    Args:
        x: (n, d).
        y: (m, e).
        names: What the caller calls them.

    Raises:
        ValueError: n and m differ.
    """
    if len(x) != len(y):
        raise ValueError(
            f"{names[0]} and {names[1]}: expected row i of one to belong to row i of the other, "
            f"got shapes {x.shape} and {y.shape}"
        )


def scaled(*arrays: Floats) -> tuple[Floats, ...]:
    """Arrays divided by one power of two for all, so that the largest magnitude lies between 1/2 and 1.

    Args:
        arrays: Any shapes, finite; zeros stay.

    Returns:
        As many.
    """
    exponent = -int(np.frexp(max((np.abs(a).max(initial=0.0) for a in arrays), default=0.0))[1])
    if abs(exponent) > _FACTOR:
        return tuple(np.ldexp(a, exponent) for a in arrays)
    factor = 2.0**exponent  # the same numbers in a tenth of the time
    return tuple(a * factor for a in arrays)


def centred(h: Floats, name: str = "h") -> Floats:
    """Rows minus their mean, up to a power of two; an offset that all rows share costs no digits.

    Args:
        h: (n, d).
        name: What the caller calls it, for errors.

    Returns:
        Rows, (n, d), not all zero.

    Raises:
        NoValue: All rows are equal.
    """
    moved = h - h[:1]
    if not moved.any():
        raise NoValue(f"{name}: all {len(h)} rows are equal, which leaves no spread to measure")
    moved = scaled(moved)[0]
    return scaled(moved - moved.mean(axis=0))[0]


def unit_rows(x: Floats, name: str) -> Floats:
    """Rows scaled to unit length, not centred.

    Args:
        x: (n, d).
        name: What the caller calls it, for errors.

    Returns:
        Rows, (n, d).

    Raises:
        TokenAtCentre: A row is zero.
    """
    largest = np.abs(x).max(axis=1, keepdims=True)
    zero = np.flatnonzero(largest == 0)
    if len(zero):
        which = f"all {len(x)} rows are" if len(zero) == len(x) else f"row {zero[0]} ({len(zero)} of {len(x)}) is"
        raise TokenAtCentre(f"{name}: {which} zero, which leaves no direction to scale to unit length")
    x = x / largest
    unit: Floats = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def centred_unit_rows(h: Floats, centre: Centre = "mean") -> Floats:
    """Rows centred and scaled to unit length, as `mmerank.states.spectrum` does it.

    Args:
        h: (n, d), n >= 2.
        centre: See `mmerank.states.spectrum.spectrum`.

    Returns:
        Rows, (n, d).
    """
    import torch

    from mmerank.states.spectrum import directions

    unit: Floats = directions(torch.from_numpy(h), centre)[0].numpy()
    return unit


def unit_spectrum(h: Floats) -> Floats:
    """Eigenvalues of the covariance of centred unit rows, as `mmerank.states.spectrum.spectrum` gives them.

    Args:
        h: (n, d), n >= 2.

    Returns:
        Sum 1, descending, (min(n, d),); those that should be 0 are so up to 1e-16.
    """
    import torch

    from mmerank.states.spectrum import spectrum

    eigenvalues: Floats = spectrum(torch.from_numpy(h)).numpy()
    return eigenvalues


def singular_values(h: Floats) -> Floats:
    """Singular values, descending; those that are rounding are 0, so that no power of them counts.

    By the decomposition of the rows themselves: the roots of a Gram matrix's eigenvalues would turn 1e-16 into 1e-8,
    which sums over singular values see.

    Args:
        h: (n, d).

    Returns:
        (min(n, d),).
    """
    values = np.linalg.svd(h, compute_uv=False)
    above: Floats = np.where(values > values[0] * max(h.shape) * EPS, values, 0.0)
    return above


def shares(weights: Floats, name: str = "h") -> Floats:
    """Weights divided by their sum.

    Args:
        weights: Not negative, (k,).
        name: What they are of, for errors.

    Returns:
        Sum 1, (k,).

    Raises:
        NoValue: All are zero.
    """
    total = weights.sum()
    if not total > 0:
        raise NoValue(f"{name}: all rows are zero, which leaves no spectrum")
    normalised: Floats = weights / total
    return normalised


def entropy(p: Floats) -> float:
    """Shannon entropy of shares in nats, by `mmerank.states.entropy.spectral_entropy`.

    Args:
        p: Not negative, sum 1, (k,).

    Returns:
        Between 0 and ln k.
    """
    import torch

    from mmerank.states.entropy import spectral_entropy

    return float(spectral_entropy(torch.from_numpy(np.ascontiguousarray(p))))
