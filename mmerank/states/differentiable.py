"""Matrix entropy that keeps its gradient, for a loss that effective rank is a part of."""

from __future__ import annotations

import torch
from torch import Tensor

from mmerank.convention import Centre
from mmerank.states.spectrum import check_arguments, directions, middle


def entropy_with_gradient(h: Tensor, *, mask: Tensor | None = None, centre: Centre = "mean") -> Tensor:
    """Matrix entropy of the covariance of a set of tokens, through which a gradient flows back to them.

    Diff-eRank (arXiv:2401.17139), Def. 3.3, by torch's derivative of eigenvalues, which does not mind equal ones. An
    eigenvalue that is 0 up to rounding stays out: -λ ln λ has no slope there, and the rows can move it in second
    order only.

    Args:
        h: Hidden states, (n, d), or (b, n, d) for a batch; floating point; n >= 2.
        mask: For a batch, (b, n), non-zero where the row is a token of the sample.
        centre: See `mmerank.states.spectrum.spectrum`; the gradient of `median` is that of the rows it picks.

    Returns:
        Entropy in nats, float64, on the device of `h` (the CPU for `mps`), 0-dim, or (b,) for a batch.
    """
    check_arguments(h, mask, centre, "float64")
    if h.ndim == 2:
        return _entropy(h, centre, sample="")
    rows = [sample if mask is None else sample[mask[i].bool()] for i, sample in enumerate(h)]
    return torch.stack([_entropy(sample, centre, f" in sample {i} of the batch") for i, sample in enumerate(rows)])


def _entropy(h: Tensor, centre: Centre, sample: str) -> Tensor:
    directions(h.detach(), centre, sample)  # raises what has none
    h = h.cpu().double() if h.device.type == "mps" else h.double()
    if centre != "none":
        h = h - h[:1].detach()  # a common offset, however large, costs no digits then, and has no gradient
    moved = h - middle(h, centre)
    # By its largest number first, or squares overflow or vanish.
    moved = moved / moved.detach().abs().amax(dim=1, keepdim=True)
    u = moved / torch.linalg.vector_norm(moved, dim=1, keepdim=True)
    n, d = u.shape
    eigenvalues = torch.linalg.eigvalsh(u @ u.mT if n <= d else u.mT @ u) / n
    rounding = max(n, d) * torch.finfo(torch.float64).eps
    # In the place of those that are rounding a 1, whose entropy is 0.
    entropy: Tensor = torch.special.entr(torch.where(eigenvalues > rounding, eigenvalues, 1.0)).sum()
    return entropy
