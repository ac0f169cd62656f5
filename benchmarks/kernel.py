"""The entropy of one set of hidden states: mmerank beside the published recipe, by shape and precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import mmerank
from benchmarks.clock import Stage, row
from benchmarks.recipe import recipe_entropy

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
