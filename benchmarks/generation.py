"""What measuring adds to `generate` of transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import shapes
from benchmarks.clock import Stage, row
from mmerank.convention import GenerationConvention
from mmerank.engine.measurement import Measured
from mmerank.engine.plans.generation import Generations, Loaded
from mmerank.engine.probe import Probe

TOKENS = {"tiny": 8, "small": 128, "full": 128}


def generate(stage: Stage, size: str, examples: int, dtype: str) -> Iterator[dict[str, Any]]:
    """LLaVA that writes behind pictures, of the same prompts: as transformers runs it, and measured.

    Args:
        stage: Where.
        size: See `benchmarks.shapes`.
        examples: How many pictures.
        dtype: Of the weights.

    Yields:
        One line.
    """
    with tempfile.TemporaryDirectory() as folder:
        adapter: Any
        adapter, _ = shapes.llava(size, stage.device, getattr(torch, dtype))
        # Random weights would end some responses at once.
        adapter.model.generation_config.eos_token_id = adapter.tokenizer.eos_token = None
        convention = GenerationConvention(sequence="bare", max_new_tokens=TOKENS[size])
        plan = Generations(adapter, convention)
        probe = Probe(plan)
        pairs = shapes.pairs(examples, size, Path(folder))
        loaded = [plan.load(probe.prepare(pair)) for pair in pairs]  # type: ignore[arg-type]

        @torch.inference_mode()
        def bare() -> None:
            for of in loaded:
                _write(adapter, of, convention)

        def measured() -> None:
            for found in probe.measure(pairs):
                assert isinstance(found, Measured), found

        what = {"model": f"llava {size}", "examples": examples, "new tokens": TOKENS[size], "dtype": dtype}
        yield row(stage, what, {"generate": bare, "mmerank": measured}, [("mmerank", "generate")], memory=True)


def _write(adapter: Any, of: Loaded, convention: GenerationConvention) -> None:
    (image,) = adapter.encode_images([of.pixels])
    adapter.generate(of.item.prompt, image, convention, lambda logits: None)
