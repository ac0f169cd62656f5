"""What measuring adds to passes of the LLM with rows of a picture left out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import shapes
from benchmarks.clock import Stage, row
from mmerank.convention import PruneConvention
from mmerank.engine.measurement import Measured
from mmerank.engine.plans.pruning import Loaded, Prunings
from mmerank.engine.probe import Probe
from mmerank.inputs.sequence import Role
from mmerank.inputs.variants import ORIGINAL


def prune(stage: Stage, size: str, examples: int, dtype: str) -> Iterator[dict[str, Any]]:
    """LLaVA with rows left out, of the same pairs: bare passes with their logits, one with all rows, and measured.

    Args:
        stage: Where.
        size: See `benchmarks.shapes`.
        examples: How many pairs.
        dtype: Of the weights.

    Yields:
        One line.
    """
    with tempfile.TemporaryDirectory() as folder:
        adapter: Any
        adapter, _ = shapes.llava(size, stage.device, getattr(torch, dtype))
        convention = PruneConvention(keep=(0.5, 0.25) if size == "tiny" else (0.5, 0.25, 0.1))
        plan = Prunings(adapter, convention)
        probe = Probe(plan)
        pairs = shapes.pairs(examples, size, Path(folder))
        loaded = [plan.load(probe.prepare(pair)) for pair in pairs]  # type: ignore[arg-type]

        @torch.inference_mode()
        def bare() -> None:
            for of in loaded:
                _passes(adapter, of, [1.0, *(kept.keep for kept in convention.choices)])

        @torch.inference_mode()
        def single() -> None:
            for of in loaded:
                _passes(adapter, of, [1.0])

        def measured() -> None:
            for found in probe.measure(pairs):
                assert isinstance(found, Measured), found

        measured()  # where the rows of such a picture lie is looked for once
        passes = 1 + len(convention.choices)
        what = {"model": f"llava {size}", "examples": examples, "passes": passes, "dtype": dtype}
        works = {"one pass": single, "bare passes": bare, "mmerank": measured}
        ratios = [("mmerank", "bare passes"), ("mmerank", "one pass")]
        yield row(stage, what, works, ratios, memory=True)


def _passes(adapter: Any, of: Loaded, keeps: list[float]) -> None:
    """The vision encoder once, and the LLM with its head on the response for each share of rows."""
    (image,) = adapter.encode_images([of.pixels.to(adapter.model.device)])
    pair = of.item.reading(ORIGINAL, ORIGINAL).sequences["pair"]
    own = [i for i, role in enumerate(pair.roles) if role is Role.IMAGE]
    last = len(of.item.responses[ORIGINAL])
    core = adapter.model.model
    ids = torch.tensor([[max(i, 0) for i in pair.ids]], device=adapter.model.device)
    embeddings = core.get_input_embeddings()(ids).clone()
    embeddings[0, own] = image.connector.to(embeddings)
    for keep in keeps:
        gone = set(own[int(keep * len(own)) :])
        left = torch.tensor([i for i in range(len(pair)) if i not in gone], device=embeddings.device)
        mask = torch.ones((1, len(left)), dtype=torch.long, device=embeddings.device)
        given = {"inputs_embeds": embeddings[:, left], "position_ids": left[None], "attention_mask": mask}
        states = core.language_model(**given, use_cache=False).last_hidden_state
        adapter.logits(states[:, -last:])
