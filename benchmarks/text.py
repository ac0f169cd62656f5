"""The text path: the published recipe, a plain script, bare forwards, and `mmerank.diff`."""

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
from benchmarks.recipe import published_passes, script_passes
from mmerank.engine.batches import batches, default_budget
from mmerank.inputs.sequence import Role, tokens_of
from mmerank.models.loading import TextAdapter, tokenizer_fingerprint
from mmerank.models.sequences import padded

# Equal work beside equal work: eRanks alone, and eRanks with losses.
PAIRS = (
    ("mmerank", "published"),
    ("mmerank", "bare"),
    ("published", "bare"),
    ("mmerank with losses", "script with losses"),
    ("mmerank with losses", "bare with losses"),
    ("script with losses", "bare with losses"),
)


def text(stage: Stage, size: str, examples: int, dtype: str, layers: str = "") -> Iterator[dict[str, Any]]:
    """Trained model and untrained twin on the same texts.

    Without losses: `published` is the published code's `AutoModel`, text by text, and an SVD of each; `mmerank` is
    `mmerank.diff(..., loss=False)`; `bare` the forwards of the same batches as `mmerank`, nothing measured. With
    losses: `script` is `AutoModelForCausalLM` with labels and all hidden states, text by text, and an SVD; `mmerank`
    is `mmerank.diff`; `bare` has the loss, too. Loading, and building the twin, count nowhere; tokenising counts in
    all but `bare`. What `mmerank` does once a run however many texts there are, hashing the tokenizer, is also timed
    by itself.

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
        alone = [example.text for example in texts]
        sequences = [tokens_of(adapter.token_ids(text), Role.TEXT) for text in alone]
        measured = len(adapter.layers) if layers == "all" else 1
        together = [padded(batch) for batch in batches(sequences, len, default_budget(stage.device, measured))]
        both = [adapter, twin]
        models = [one.model for one in both]
        # The module that AutoModel gives for this configuration.
        bodies = [model.base_model for model in models]
        every = {"all_layers": layers == "all"}
        works = {
            "published": lambda: published_passes(bodies, adapter.tokenizer, alone, **every),
            "bare": lambda: bare(both, together, loss=False),
            "mmerank": lambda: mmerank.diff(adapter, texts, layers=layers, loss=False),
            "script with losses": lambda: script_passes(models, adapter.tokenizer, alone, **every),
            "bare with losses": lambda: bare(both, together, loss=True),
            "mmerank with losses": lambda: mmerank.diff(adapter, texts, layers=layers),
            "once a run": lambda: tokenizer_fingerprint(adapter.tokenizer),
        }
        what = {"model": f"OPT {size}", "examples": examples, "layers": measured, "dtype": dtype}
        yield row(stage, what, works, PAIRS, memory=True)


@torch.inference_mode()
def bare(adapters: Sequence[TextAdapter], together: Sequence[tuple[Tensor, Tensor]], *, loss: bool) -> None:
    """Forwards alone, or forwards and loss."""
    for adapter in adapters:
        for ids, mask in together:
            h = adapter.forward(ids, mask)
            if not loss:
                continue
            for states, tokens, counts in zip(h, ids.to(h.device), mask.to(h.device), strict=True):
                n = int(counts.sum())
                logits = adapter.logits(states[None, : n - 1])[0].float()
                torch.nn.functional.cross_entropy(logits, tokens[1:n])
