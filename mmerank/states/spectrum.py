"""Hidden states (n, d) -> eigenvalues. The only place that centres and normalises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor

from mmerank.convention import Centre, Precision
from mmerank.errors import NonFiniteTokens, TokenAtCentre, TooFewTokens
from mmerank.states.eigenvalues import shares_of
from mmerank.transfer import Arriving

# Magnitudes whose squares, and the squares of what is 1e16 times smaller, neither overflow nor vanish in float64.
_SQUARABLE = (1e-100, 1e100)


def spectrum(
    h: Tensor,
    *,
    mask: Tensor | None = None,
    centre: Centre = "mean",
    precision: Precision = "float64",
) -> Tensor:
    """Eigenvalues of the trace-normalised covariance of a set of tokens, in descending order.

    Each token is centred and scaled to unit length, u_i = (z_i - z̄) / ‖z_i - z̄‖, and the covariance is
    Σ = (1/n) Σ_i u_i u_iᵀ: Diff-eRank (arXiv:2401.17139), Def. 3.1. The non-zero eigenvalues of the (d, d)
    covariance are those of the (n, n) Gram matrix, so the smaller of the two is decomposed. Half precision is
    widened before centring. Negative eigenvalues, which are rounding, count as 0.

    Departs from the published code, which decomposes the (d, d) matrix in float32 by an SVD: the eigenvalues
    that should be 0 are rounding there, and moved the effective rank of 24 golden matrices by up to 6e-5.

    Args:
        h: Hidden states, (n, d), or (b, n, d) for a batch; floating point; n >= 2.
        mask: For a batch, (b, n), non-zero where the row is a token of the sample. Default: every row.
        centre: What is subtracted from each token: the `mean` of the tokens (the paper), their coordinate-wise
            `median` (not moved by a few massive activations), or nothing (`none`).
        precision: `float64` (1e-13 of the definition), or `mixed`: centring and eigenvalues in float64 but the
            matrix product in float32 (2e-5), for devices where float64 is slow.

    Returns:
        Eigenvalues that sum to 1, float64, on the CPU, without gradient: (min(n, d),), or (b, min(n, d)) with
        zeros behind those of shorter samples.

    Raises:
        TypeError: `h` is not a floating-point tensor.
        ValueError: The shape of `h` or `mask` is not as above, or `centre` or `precision` is unknown.
        TooFewTokens: A sample has fewer than 2 tokens.
        TokenAtCentre: A token equals the centre.
        NonFiniteTokens: `h` holds NaN or infinity in a row that counts.

    Example:
        >>> spectrum(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    check_arguments(h, mask, centre, precision)
    h = h.detach()
    if h.ndim == 2:
        return shares_of([_gram(h, centre, precision, sample="")])[0]
    rows = (sample if mask is None else sample[mask[i].bool()] for i, sample in enumerate(h))
    grams = (_gram(sample, centre, precision, f" in sample {i} of the batch") for i, sample in enumerate(rows))
    spectra = h.new_zeros((h.shape[0], min(h.shape[1:])), dtype=torch.float64, device="cpu")
    for of_sample, eigenvalues in zip(spectra, shares_of(grams), strict=True):
        of_sample[: len(eigenvalues)] = eigenvalues
    return spectra


def check_arguments(h: Tensor, mask: Tensor | None, centre: str, precision: str) -> None:
    """Refuse what is not as `spectrum` says.

    Args:
        h: See `spectrum`.
        mask: See `spectrum`.
        centre: See `spectrum`.
        precision: See `spectrum`.

    Raises:
        TypeError: `h` is not a floating-point tensor.
        ValueError: The shape of `h` or `mask` is not as there, or `centre` or `precision` is unknown.
    """
    if not isinstance(h, Tensor) or not h.is_floating_point():
        kind = str(h.dtype) if isinstance(h, Tensor) else type(h).__name__
        raise TypeError(f"expected hidden states as a floating-point torch.Tensor, got {kind}")
    if h.ndim not in (2, 3):
        raise ValueError(f"expected hidden states of shape (n, d) or (b, n, d), got {tuple(h.shape)}")
    if mask is not None and (h.ndim == 2 or mask.shape != h.shape[:2]):
        raise ValueError(
            f"expected a mask of shape (b, n) with hidden states of shape (b, n, d), "
            f"got a mask {tuple(mask.shape)} with hidden states {tuple(h.shape)}"
        )
    if centre not in get_args(Centre):
        raise ValueError(f"unknown centre {centre!r}; known: {', '.join(get_args(Centre))}")
    if precision not in get_args(Precision):
        raise ValueError(f"unknown precision {precision!r}; known: {', '.join(get_args(Precision))}")


def _gram(h: Tensor, centre: Centre, precision: Precision, sample: str) -> Tensor:
    unit, _ = directions(h, centre, sample)
    return smaller_gram(unit, precision)


class PendingGram:
    """Inner products of one set of tokens, of which so far only the device's share of the work has been asked for.

    Nothing in the constructor waits for a GPU: it computes the Gram matrix behind what it has to do already, and
    copies it to the CPU. `arrived` waits for that, in any thread, while the GPU goes on with the model.

    Args:
        h: Hidden states, (n, d), floating point, n >= 2; held until `arrived` is called.
        centre: See `spectrum`.
        precision: See `spectrum`.

    Raises:
        ValueError: d = 0.
        TooFewTokens: n < 2.
    """

    def __init__(self, h: Tensor, *, centre: Centre = "mean", precision: Precision = "float64"):
        _check_shape(h, sample="")
        self._asked = h.detach(), centre
        unit, lengths, is_plain = _plain_directions(h.detach(), centre)
        self._arriving = Arriving(smaller_gram(unit, precision), lengths, is_plain)

    def arrived(self) -> tuple[Tensor, Tensor]:
        """Gram matrix and lengths; to be called once.

        Returns:
            Inner products of the unit rows, (n, n), or of their columns, (d, d), whichever are fewer, and the rows'
            distances from the centre, up to one factor for all, (n, 1); both float64, on the CPU.

        Raises:
            TokenAtCentre: A token equals the centre.
            NonFiniteTokens: The hidden states hold NaN or infinity.
        """
        gram, lengths, is_plain = self._arriving.wait()
        h, centre = self._asked
        del self._asked, self._arriving
        if is_plain:
            return gram.double(), lengths
        unit, lengths = directions(h, centre)
        # In float64 in any case: what keeps TF32 out of a product in float32 is a switch for all threads.
        return smaller_gram(unit, "float64").cpu(), lengths.cpu()


def smaller_gram(u: Tensor, precision: Precision) -> Tensor:
    """Inner products of unit rows or of their columns, whichever are fewer.

    Args:
        u: (n, d), float64.
        precision: As of `spectrum`.

    Returns:
        (n, n) or (d, d), float64, or float32 for `mixed`.
    """
    n, d = u.shape
    if precision == "mixed":
        u = u.float()
    # Without the guards an enclosing autocast region would turn the float32 product into bfloat16, and a GPU on which
    # TF32 is allowed would keep 10 bits of it.
    with torch.autocast(u.device.type, enabled=False), _no_tf32(u):
        rows = u if n <= d else u.mT
        # The block above the diagonal is the one below it: a quarter of the work.
        half = len(rows) // 2
        gram = rows.new_empty(len(rows), len(rows))
        torch.mm(rows[half:], rows.mT, out=gram[half:])
        torch.mm(rows[:half], rows[:half].mT, out=gram[:half, :half])
        gram[:half, half:] = gram[half:, :half].mT
    return gram


@contextmanager
def _no_tf32(u: Tensor) -> Iterator[None]:
    if u.device.type != "cuda" or u.dtype != torch.float32:
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def directions(h: Tensor, centre: Centre, sample: str = "") -> tuple[Tensor, Tensor]:
    """Tokens centred and scaled to unit length, and the lengths they had, up to one factor for all.

    Args:
        h: Hidden states, (n, d), floating point.
        centre: See `spectrum`.
        sample: Which sample it is, for errors.

    Returns:
        Rows, (n, d), and lengths, (n, 1), both float64 and on the device of `h` (the CPU for `mps`).

    Raises:
        ValueError: d = 0.
        TooFewTokens: n < 2.
        TokenAtCentre: A token equals the centre.
        NonFiniteTokens: `h` holds NaN or infinity.
    """
    _check_shape(h, sample)
    unit, lengths, is_plain = _plain_directions(h, centre)
    if is_plain:
        return unit, lengths
    _check_finite(h, sample)
    h = _with_float64(h).double()
    if (largest := _peak(h)) > _SQUARABLE[1]:
        h = h / largest  # or differences overflow
    if centre != "none":
        h = h - h[:1]
    if largest := _peak(h):
        h = h / largest  # or squares overflow or vanish
    unit, lengths, _ = _plain_directions(h, centre)
    longest = torch.linalg.vector_norm(h - middle(h, centre), dim=1).amax()
    at_centre = ~(lengths * longest > _rounding(len(h), centre) * h.abs().mean(dim=0).norm()).flatten()
    _check_apart(at_centre, centre, sample)
    return unit, lengths


def _plain_directions(h: Tensor, centre: Centre) -> tuple[Tensor, Tensor, Tensor]:
    """Directions and lengths without a look at any value, which would make the CPU wait for a GPU.

    Returns:
        Rows, (n, d), and lengths, (n, 1), as `directions` gives them, and whether they can be used, 0-dim bool: not
        where a number is not finite, squares overflow or vanish, or a token may be at the centre.
    """
    # One copy, changed in place: in the sizes of hidden states every pass over fresh memory shows.
    h = _with_float64(h).to(torch.float64, copy=True)
    if centre != "none":
        h -= h[0].clone()  # a common offset, however large, costs no digits then
        h -= middle(h, centre)
    lengths = torch.linalg.vector_norm(h, dim=1, keepdim=True)
    shortest, longest = lengths.aminmax()  # NaN where there is one anywhere
    # What rounding may leave of a token at the centre, of which no token is farther from any other than this.
    limit = _rounding(len(h), centre) * 2 * longest
    is_plain = (longest > _SQUARABLE[0]) & (longest < _SQUARABLE[1]) & (shortest > limit)
    h /= lengths
    return h, lengths / longest, is_plain


def _check_shape(h: Tensor, sample: str) -> None:
    n, d = h.shape
    if n < 2:
        raise TooFewTokens(
            f"expected hidden states of shape (n, d) with n >= 2, got ({n}, {d}){sample}; "
            "fewer than two tokens have no spread"
        )
    if d == 0:
        raise ValueError(f"expected hidden states of width d >= 1, got ({n}, 0){sample}")


def _rounding(n: int, centre: Centre) -> float:
    """The most that rounding in the mean can leave of a token that equals it, as a share of its magnitude."""
    return n * torch.finfo(torch.float64).eps if centre == "mean" else 0.0


def _with_float64(h: Tensor) -> Tensor:
    """The same on a device that has float64, which Apple's GPUs have not."""
    return h.cpu() if h.device.type == "mps" else h


def _peak(h: Tensor) -> float:
    """Largest magnitude in it; NaN where it holds NaN."""
    low, high = torch.stack(h.aminmax()).tolist()
    peak: float = max(-low, high)
    return peak


def _check_finite(h: Tensor, sample: str) -> None:
    finite = h.isfinite().all(dim=1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise NonFiniteTokens(
            f"hidden states{sample} hold NaN or infinity in {len(bad)} of {len(h)} tokens (first: token {bad[0]}); "
            "check the model's dtype and weights"
        )


def _check_apart(at_centre: Tensor, centre: Centre, sample: str) -> None:
    if at_centre.any():
        n, bad = len(at_centre), at_centre.nonzero().flatten().tolist()
        which = f"all {n} tokens are" if len(bad) == n else f"token {bad[0]} ({len(bad)} of {n}) is"
        name = "zero" if centre == "none" else f"equal to the {centre} of the tokens"
        raise TokenAtCentre(f"{which} {name}{sample}, which leaves no direction to scale to unit length")


def middle(h: Tensor, centre: Centre) -> Tensor:
    """What is subtracted from each token.

    Args:
        h: (n, d).
        centre: See `spectrum`.

    Returns:
        (d,).
    """
    return h.mean(dim=0) if centre == "mean" else _median(h) if centre == "median" else h.new_zeros(h.shape[1])


def _median(h: Tensor) -> Tensor:
    """Coordinate-wise median over tokens, the mean of the middle two when n is even: (n, d) -> (d,)."""
    ordered = h.sort(dim=0).values
    n = h.shape[0]
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
