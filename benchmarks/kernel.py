"""The entropy of one set of hidden states beside the published recipe, by shape and precision; eigenvalues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import mmerank
from benchmarks.clock import Stage, row
from benchmarks.recipe import recipe_entropy
from mmerank.engine.workers import Workers, default_workers
from mmerank.states import eigenvalues as route
from mmerank.states.eigenvalues import shares, shares_of

SPECTRA = {"tiny": (16, 70), "small": (128, 256, 512, 768, 1024), "full": (128, 256, 512, 768, 1024)}
MATRICES = {"tiny": 3, "small": 16, "full": 64}
WIDTHS = {"tiny": (64,), "small": (768, 2048, 4096, 5120), "full": (768, 2048, 4096, 5120)}
COUNTS = {"tiny": (16, 100), "small": (32, 100, 300, 600, 2048), "full": (32, 100, 300, 600, 2048)}


def kernel(stage: Stage, size: str, longest: float) -> Iterator[dict[str, Any]]:
    """Random float32 states of many shapes.

    Args:
        stage: Where and how often.
        size: See `benchmarks.shapes`.
        longest: Seconds; the recipe, whose time is cubic in the width, is left out where it would take longer.

    Yields:
        A line per width and number of tokens.
    """
    torch.manual_seed(0)
    stage = replace(stage, long_s=1.0)  # the recipe's widths from 2048 on
    taken = 0.0  # by the recipe at the last width
    width = 0
    for d in WIDTHS[size]:
        with_recipe = not width or taken * (d / width) ** 3 < longest
        for n in COUNTS[size]:
            h = torch.randn(n, d, device=stage.device)
            works = {
                "recipe": partial(recipe_entropy, h),
                "float64": partial(mmerank.matrix_entropy, h),
                "mixed": partial(mmerank.matrix_entropy, h, precision="mixed"),
            }
            if not with_recipe:
                del works["recipe"]
            pairs = (("recipe", "float64"), ("recipe", "mixed"), ("float64", "mixed"))
            line = row(stage, {"d": d, "n": n}, works, pairs, memory=False)
            yield line
            if with_recipe:
                taken, width = line["seconds"]["recipe"], d


def eigenvalues(stage: Stage, size: str) -> Iterator[dict[str, Any]]:
    """Gram matrices that are on the device, of the size that is named and a little less: where they are decomposed.

    `copied` is mmerank's way: each goes to the CPU and is decomposed there, by as many threads as beside a model on a
    GPU. `together` is that of `mmerank.states.eigenvalues.ON_DEVICE`. Wall time.

    Args:
        stage: Where and how often.
        size: See `benchmarks.shapes`.

    Yields:
        A line per size of the matrices.
    """
    torch.manual_seed(0)
    stage = replace(stage, waits=True)
    for k in SPECTRA[size]:
        rows = [torch.randn(k - i % 8, 4096, dtype=torch.float64, device=stage.device) for i in range(MATRICES[size])]
        grams = [of @ of.mT / of.shape[1] for of in rows]
        threads = Workers(default_workers(torch.device("cuda")))
        with threads:
            works = {"copied": partial(_copied, grams, threads), "together": partial(_together, grams)}
            what = {"rows": k, "matrices": len(grams), "threads": threads.count}
            yield row(stage, what, works, [("copied", "together")], memory=False)


def _copied(grams: Sequence[Tensor], threads: Workers) -> list[Tensor]:
    return [of.result() for of in [threads.submit(partial(shares, gram.cpu())) for gram in grams]]


def _together(grams: Sequence[Tensor]) -> list[Tensor]:
    before, route.ON_DEVICE = route.ON_DEVICE, {grams[0].device.type: range(1 << 30)}
    try:
        return shares_of(grams)
    finally:
        route.ON_DEVICE = before
