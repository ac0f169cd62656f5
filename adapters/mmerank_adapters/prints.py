"""Rows of hidden states, and what they are known by."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

PROJECTIONS = 8
# Largest difference of projections of one direction, by dtype: what rounding makes of it, several times over.
_SAME = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}
# Rows that are looked for first: most are among none of what they are compared with.
_SAMPLE = 64


def rows_of(h: Tensor, *, channels_first: bool = False, width: int | None = None) -> Tensor:
    """Hidden states as one matrix, (n, d).

    Args:
        h: (..., n, d), or (b, d, ...) if `channels_first`.
        channels_first: Whether the width is the second axis.
        width: Cut longer rows, which are neighbours side by side, into rows of this width.

    Returns:
        A view where that is possible.
    """
    if channels_first:
        h = h.flatten(2).mT if h.ndim > 2 else h
    rows: Tensor = h.reshape(-1, width or h.shape[-1])
    return rows


@cache
def _directions(width: int) -> Tensor:
    return torch.randn(width, PROJECTIONS, generator=torch.Generator().manual_seed(width))


@torch.no_grad()
def prints(rows: Tensor) -> Tensor:
    """What rows are known by: projections of their directions, (n, 8) float32 on the CPU; NaN of a row of zeros."""
    rows = rows.detach().float()
    found: Tensor = (rows @ _directions(rows.shape[-1]).to(rows.device) / rows.norm(dim=-1, keepdim=True)).cpu()
    return found


def found_in(some: Tensor, others: Tensor, dtype: torch.dtype) -> Tensor:
    """Which rows have their direction among others, by their prints.

    Args:
        some: (n, 8).
        others: (m, 8).
        dtype: Of the states that they are prints of.

    Returns:
        (n,), boolean.
    """
    near = torch.zeros(len(some), dtype=torch.bool)
    others = others[others.isfinite().all(dim=1)]  # a row of zeros has no direction
    some = some.nan_to_num(nan=math.inf)
    if len(others):
        for start in range(0, len(some), 1024):
            apart = torch.cdist(some[start : start + 1024], others, p=float("inf"))
            near[start : start + 1024] = (apart < _SAME.get(dtype, 1e-3)).any(dim=1)
    return near


def share_in(some: Tensor, others: Tensor, dtype: torch.dtype) -> float:
    """The share of rows that have their direction among others, as `found_in` says.

    Args:
        some: (n, 8), n at least 1.
        others: (m, 8).
        dtype: Of the states that they are prints of.

    Returns:
        Between 0 and 1; where few of a sample are found, the share of that.
    """
    sample = some[:: max(len(some) // _SAMPLE, 1)]
    rough = float(found_in(sample, others, dtype).float().mean())
    return rough if rough < 0.5 or len(sample) == len(some) else float(found_in(some, others, dtype).float().mean())
