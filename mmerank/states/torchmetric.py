"""Effective rank as a metric of torchmetrics, which adds up over batches and over processes.

Needs the extra `torchmetrics`: pip install "mmerank[torchmetrics]".
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mmerank.convention import Centre, Precision
from mmerank.errors import NoValue
from mmerank.states.entropy import matrix_entropy

if find_spec("torchmetrics") is not None:
    from torchmetrics import Metric
else:

    class Metric:  # type: ignore[no-redef]
        """What stands here without torchmetrics."""

        def __init__(self, **_: Any):
            raise ImportError(
                "mmerank.states.torchmetric needs torchmetrics, which is not installed: "
                'pip install "mmerank[torchmetrics]"'
            )


class EffectiveRank(Metric):  # type: ignore[misc]
    """Effective rank of a data set: exp of the mean matrix entropy over samples.

    Diff-eRank (arXiv:2401.17139), Def. 3.2, aggregated as its published code does over a data set. `update` takes a
    batch, `compute` gives the number of all samples so far, in all processes, `reset` forgets them.

    Args:
        centre: See `mmerank.effective_rank`.
        precision: See `mmerank.effective_rank`.

    Attributes:
        entropy: Sum of the samples' entropies in nats, float64.
        samples: Their number.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    entropy: Tensor
    samples: Tensor

    def __init__(self, *, centre: Centre = "mean", precision: Precision = "float64"):
        super().__init__()
        self.centre: Centre = centre
        self.precision: Precision = precision
        self.add_state("entropy", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, h: Tensor, mask: Tensor | None = None) -> None:
        """Add samples; where one of them cannot be measured, an error names it and none is added.

        Args:
            h: Hidden states of one sample, (n, d), or of a batch, (b, n, d); floating point; n >= 2.
            mask: For a batch, (b, n), non-zero where the row is a token of the sample.
        """
        entropies = matrix_entropy(h, mask=mask, centre=self.centre, precision=self.precision)
        self.entropy += entropies.sum().to(self.entropy.device)
        self.samples += entropies.numel()

    def compute(self) -> Tensor:
        """The effective rank of all samples.

        Returns:
            exp of their mean entropy, 0-dim float64.

        Raises:
            NoValue: There is no sample yet.
        """
        if not self.samples:
            raise NoValue("no hidden states to take the effective rank of; call update(h) first")
        erank: Tensor = (self.entropy / self.samples).exp()
        return erank
