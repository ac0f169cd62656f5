"""Ways to compress a model, for `--wrap`: `studies/compression.py:pruned?amount=0.5`.

What they do to weights is exact. They make nothing faster or smaller here: a pruned weight is a zero that is still
multiplied, and a rounded one is kept in the model's own dtype, as weight-only quantisation computes with it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import prune


def pruned(model: nn.Module, *, amount: float, part: str = "all") -> None:
    """Set the smallest weights of each linear layer to zero (magnitude pruning, by layer).

    Args:
        model: Of a MODEL argument.
        amount: Share of a layer's weights.
        part: `vision`, `connector`, `llm`, or `all` of them.
    """
    for layer in linear_layers(model, part):
        prune.l1_unstructured(layer, "weight", amount=amount)
        prune.remove(layer, "weight")  # zeros for good, in place of a mask and a hook


def rounded(model: nn.Module, *, bits: int, part: str = "all") -> None:
    """Round the weights of each linear layer to `bits` bits, symmetric, a scale for each output (round to nearest).

    The grid has 2^bits - 1 steps from -max to max of a row of weights. Activations stay as they are.

    Args:
        model: Of a MODEL argument.
        bits: From 2 on.
        part: As in `pruned`.
    """
    most = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for layer in linear_layers(model, part):
            scale = layer.weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / most
            layer.weight.copy_((layer.weight / scale).round().clamp(-most, most) * scale)


def skipped(model: nn.Module, *, layers: str) -> None:
    """Have blocks of the LLM pass on what they read: a shallower sibling, not trained again.

    Args:
        model: Of a MODEL argument.
        layers: Which blocks, from 0, joined by dots, as in `1.2`.

    Raises:
        ValueError: There is no such block.
    """
    blocks = next(
        of for name, of in model.named_modules() if name.endswith("layers") and _part(name) == "llm" and len(list(of))
    )
    assert isinstance(blocks, nn.ModuleList)
    for i in map(int, str(layers).split(".")):
        if not 0 <= i < len(blocks):
            raise ValueError(f"layers={layers}; the LLM has blocks 0 to {len(blocks) - 1}")
        blocks[i] = PassedOn()


class PassedOn(nn.Module):
    """A block that does nothing."""

    def forward(self, h: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """What it is given first."""
        return h


def linear_layers(model: nn.Module, part: str) -> Iterator[nn.Linear]:
    """The linear layers of a part of a multimodal model, the LM head left out, which is tied to embeddings in some.

    Args:
        model: Of a MODEL argument.
        part: `vision`, `connector`, `llm` or `all`.

    Yields:
        Each once.

    Raises:
        ValueError: Another part is asked for, or it has none.
    """
    if part not in ("vision", "connector", "llm", "all"):
        raise ValueError(f"part={part}; known: vision, connector, llm, all")
    found = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not name.endswith("lm_head") and part in (_part(name), "all")
    ]
    if not found:
        raise ValueError(f"part={part}: no linear layer of that part is found by its name")
    yield from found


def _part(name: str) -> str:
    if any(word in name for word in ("multi_modal_projector", "llama_proj", "connector", "merger")):
        return "connector"
    return "vision" if any(word in name for word in ("vision", "visual")) else "llm"
