"""Gram matrices -> their eigenvalues as shares of the sum: on the CPU one by one, or together on a device."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import torch
from torch import Tensor

# Sizes of the matrices that a device decomposes itself, by its kind. None: on no device was it measured to win.
ON_DEVICE: dict[str, range] = {}
# What is decomposed together is padded to a multiple of this.
STEP = 64


def shares(gram: Tensor) -> Tensor:
    """Eigenvalues of Gram matrices, (..., k, k), in descending order and divided by their sum, (..., k)."""
    eigenvalues = torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0)
    normalised: Tensor = eigenvalues / eigenvalues.sum(dim=-1, keepdim=True)
    return normalised


def shares_of(grams: Iterable[Tensor]) -> list[Tensor]:
    """The same of many Gram matrices of any sizes, in float64; `ON_DEVICE` says where.

    A matrix that goes to the CPU is decomposed at once and alone, so that its eigenvalues are those of `shares` to
    the last bit. What stays on a device is held until all are there, padded with zeros to a few sizes, and decomposed
    together. Zeros add eigenvalues of 0, and those of a Gram matrix are not below: the k largest are its own.

    Args:
        grams: (k, k) each, floating point, positive semi-definite; of one device where some stay on it.

    Returns:
        For each its shares, (k,), float64, on the CPU.
    """
    found: dict[int, Tensor] = {}
    staying: dict[int, Tensor] = {}
    for i, gram in enumerate(grams):
        if len(gram) in ON_DEVICE.get(gram.device.type, ()):
            staying[i] = gram
        else:
            found[i] = shares(gram.double().cpu())
    order = sorted(staying, key=lambda i: _padded_size(staying[i]))
    for size, group in groupby(order, key=lambda i: _padded_size(staying[i])):
        places = list(group)
        stack = staying[places[0]].new_zeros((len(places), size, size), dtype=torch.float64)
        for together, i in zip(stack, places, strict=True):
            k = len(staying[i])
            together[:k, :k] = staying[i]
        for i, values in zip(places, shares(stack).cpu(), strict=True):
            found[i] = values[: len(staying[i])]
    return [found[i] for i in range(len(found))]


def _padded_size(gram: Tensor) -> int:
    return -(-len(gram) // STEP) * STEP
