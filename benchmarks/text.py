"""The text path: the published recipe, bare forwards, and `mmerank.diff` end to end, final norm or all layers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mmerank
from benchmarks import shapes
from benchmarks.clock import Stage, row
from benchmarks.recipe import text_passes
from mmerank.batches import batches, default_budget
from mmerank.sequences import Role, padded, tokens_of
from mmerank.text_adapter import TextAdapter, tokenizer_fingerprint

PAIRS = (("mmerank", "bare"), ("recipe", "bare"), ("recipe", "mmerank"))


def text(stage: Stage, size: str, examples: int, dtype: str, layers: str = "") -> Iterator[dict[str, Any]]:
    """Trained model and untrained twin on the same texts.

    `recipe` runs all hidden states, logits of every position and an SVD per text; `bare` the forwards of the same
    batches as `mmerank`, and the loss, nothing measured. Loading, and building the twin, count nowhere. What
    `mmerank` does once a run however many texts there are, hashing the tokenizer, is also timed by itself.

    Args:
        stage: Where and how often.
        size: See `benchmarks.shapes`.
        examples: How many texts.
        dtype: Of the weights.
        layers: As for `mmerank.diff`, empty or `all`.

    Yields:
        One line.
    """
    with tempfile.TemporaryDirectory() as name:
        shapes.opt_checkpoint(Path(name), size)
        adapter: Any = mmerank.load_text(name, device=str(stage.device), dtype=dtype)
        twin = adapter.untrained(0)
        adapter.untrained = lambda seed: twin  # what mmerank.diff finds is built already
        texts = shapes.texts(examples, size)
        sequences = [tokens_of(adapter.token_ids(example.text), Role.TEXT) for example in texts]
        alone = [torch.tensor([sequence.ids]).to(stage.device) for sequence in sequences]
        measured = range(len(adapter.layers)) if layers == "all" else [-1]
        budget = default_budget(stage.device, len(measured))
        together = [padded(batch) for batch in batches(sequences, len, budget)]
        works = {
            "recipe": lambda: text_passes([adapter, twin], alone, measured),
            "bare": lambda: bare([adapter, twin], together),
            "mmerank": lambda: mmerank.diff(adapter, texts, layers=layers),
            "once a run": lambda: tokenizer_fingerprint(adapter.tokenizer),
        }
        what = {"model": f"OPT {size}", "examples": examples, "layers": len(measured), "dtype": dtype}
        yield row(stage, what, works, PAIRS, memory=True)


@torch.inference_mode()
def bare(adapters: Sequence[TextAdapter], together: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Forwards and loss alone."""
    for adapter in adapters:
        for ids, mask in together:
            h = adapter.forward(ids, mask)
            for states, tokens, counts in zip(h, ids.to(h.device), mask.to(h.device), strict=True):
                n = int(counts.sum())
                logits = adapter.logits(states[None, : n - 1])[0].float()
                torch.nn.functional.cross_entropy(logits, tokens[1:n])
