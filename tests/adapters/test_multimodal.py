"""The adapter for whatever transformers knows, held against the models' own forward on tiny models of many families."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mmerank import Example, align, wrap
from mmerank.eranks import ERANKS
from mmerank.models.adapter import Adapter
from tests import reference
from tests.adapters.tiny_models import FAMILIES, built, names

every_family = pytest.mark.parametrize("name", names())
PLACEHOLDERS = {"width": (96, 64), "height": (33, 77)}


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    drawn = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(drawn)


EXAMPLES = [
    Example("wide", noise(1, (96, 64)), "What is it?", "A red ball on a table."),
    Example("tall", noise(2, (33, 77)), "", "Two dogs run."),
    Example("large", noise(3, (200, 133)), "Tell me.", "A long street, with many cars, and nobody in it."),
]


@cache
def adapter(name: str) -> Adapter:
    model, processor, _ = built(name)
    return wrap(model, processor, name=name)


def flat(states: Any) -> Tensor:
    if not isinstance(states, Tensor):
        states = torch.cat([flat(of) for of in states])
    return states.flatten(0, -2)  # type: ignore[no-any-return]


@torch.inference_mode()
def expected(name: str, example: Example) -> dict[str, Any]:
    """Entropies by eRank, from what the model itself returns on what its processor gives."""
    model, processor, placeholder = built(name)
    states: dict[str, Tensor] = {}
    text = f"{placeholder}{example.text}"
    for label, fed in (
        ("erank3", {"text": placeholder, "images": example.image}),
        ("erank4", {"text": example.text}),
        ("erank5", {"text": text, "images": example.image}),
    ):
        try:
            inputs = processor(**fed, return_tensors="pt")
        except Exception:
            inputs = processor.tokenizer(fed["text"], return_tensors="pt")
        inputs.pop("labels", None)
        try:
            output = model(**inputs, output_hidden_states=True)
        except Exception:  # text alone
            output = model.get_decoder()(**inputs, output_hidden_states=True)
        hidden = getattr(output, "hidden_states", None) or output.language_model_outputs.hidden_states
        states[label] = hidden[-1]
        if label == "erank3":
            pictured = dict(inputs)
    features = None
    inner = model if hasattr(model, "get_image_features") else getattr(model, "model", model)
    if hasattr(inner, "get_image_features") and "aspect_ratio_ids" not in pictured:
        own = {
            key: of for key, of in pictured.items() if key not in ("input_ids", "attention_mask", "token_type_ids")
        }
        own.pop("mm_token_type_ids", None)
        features = inner.get_image_features(**own)
    family = FAMILIES[name]
    states["erank1"] = family.vision(model, pictured, features)
    states["erank2"] = family.connector(model, pictured, features)
    return {label: (len(h := flat(of)), reference.entropy(h.numpy())) for label, of in states.items()}


@every_family
def test_the_models_own_states(name: str) -> None:
    of = adapter(name)
    result = align(of, EXAMPLES)
    assert not result.skipped
    found = {(r.example, r.point, r.input): r for r in result.records}
    for example in EXAMPLES:
        for label, (n, entropy) in expected(name, example).items():
            if label in of.undefined:
                continue
            record = found[(example.id, *ERANKS[label])]
            assert record.n == n, label
            assert record.entropy == pytest.approx(entropy, abs=1e-5), label
