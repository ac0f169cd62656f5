"""What inspection finds at published sizes, and what it holds meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from mmerank_adapters.anatomy import blocks_of, check_encoder, language_model
from mmerank_adapters.calls import Call, calls_of
from mmerank_adapters.feeding import Feeder, noise, tensors
from mmerank_adapters.inspection import Inspector
from mmerank_adapters.passes import until
from tests.adapters.published import PUBLISHED


@dataclass(frozen=True)
class Found:
    """What is expected of a checkpoint, read by hand from transformers' modules.

    Attributes:
        llm: Path of the LLM.
        depth: Number of its blocks.
        connector: Path of the connector.
        vision: Path of the module at which the vision encoder is read.
        rows: At the vision point, of a picture of 160 x 112 pixels: patches of all tiles.
        megabytes: That prints of rows of a picture take at most; weights take 4500 to 17500 in half.
    """

    llm: str
    depth: int
    connector: str
    vision: str
    rows: int
    megabytes: int


PROJECTOR = "model.multi_modal_projector"
EXPECTED = {
    "Qwen2.5-VL-7B": Found("model.language_model", 28, "model.visual.merger", "model.visual.merger", 8 * 12, 2),
    "Qwen3-VL-8B": Found("model.language_model", 36, "model.visual.merger", "model.visual.merger", 14 * 20, 10),
    "InternVL3-8B": Found("model.language_model", 28, PROJECTOR, PROJECTOR, (3 * 2 + 1) * 1024, 15),
    "Gemma-3-4B": Found("model.language_model", 34, PROJECTOR, PROJECTOR, 4096, 10),
    "LLaVA-OneVision-7B": Found("model.language_model", 28, PROJECTOR, PROJECTOR, 2 * 729, 5),
    "SmolVLM2-2.2B": Found("model.text_model", 24, "model.connector", "model.connector", (4 * 3 + 1) * 729, 20),
}
# Of these few rows are read, so that it takes seconds. The others are for who changes inspection:
# `pytest -m published tests/adapters/test_published.py`.
SOON = ("Qwen2.5-VL-7B", "Qwen3-VL-8B")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parts_of_a_model_of_published_size(name: str) -> None:
    model, expected = PUBLISHED[name].whole(), EXPECTED[name]
    assert sum(of.numel() for of in model.parameters()) / 1e9 == pytest.approx(PUBLISHED[name].billions, abs=0.006)
    llm = language_model(model)
    assert llm is model.get_submodule(expected.llm)
    assert blocks_of(llm) is model.get_submodule(f"{expected.llm}.layers") and len(blocks_of(llm)) == expected.depth
    check_encoder(model)


@pytest.mark.parametrize(
    "name", [*SOON, *(pytest.param(name, marks=pytest.mark.published) for name in PUBLISHED if name not in SOON)]
)
def test_inspection_at_published_depth_and_rows(name: str) -> None:
    """On the same modules with few channels: how many rows there are does not depend on these."""
    expected, model, whole = EXPECTED[name], PUBLISHED[name].narrow(), PUBLISHED[name].whole()
    assert [path for path, _ in model.named_modules()] == [path for path, _ in whole.named_modules()]
    feeder = Feeder(PUBLISHED[name].processor(), None, name)
    pairs = [feeder.taken_apart("A cat.", noise(seed)) for seed in range(2)]

    def run(picture: int) -> None:
        sequence, inputs = pairs[picture]
        model(**tensors(sequence, torch.device("cpu")), **inputs, use_cache=False)

    inspector = Inspector(model, run, pairs[0][0].ids)
    found = inspector.anatomy()
    assert (found.llm, found.final) == (expected.llm, f"{expected.llm}.norm")
    assert found.blocks == tuple(f"{expected.llm}.layers.{i}" for i in range(expected.depth))
    assert (found.entry, found.connector, found.vision) == ("embeddings", expected.connector, expected.vision)
    assert found.matched == {"connector": 1, "vision": 1}
    assert whole.get_submodule(found.final).weight.shape == (whole.config.get_text_config().hidden_size,)
    read: list[int] = []
    point = model.get_submodule(found.vision)
    width = found.width or model.config.vision_config.hidden_size
    handle = point.register_forward_pre_hook(lambda of, args: read.append(args[0].numel() // width))
    with torch.inference_mode():
        run(0)
    handle.remove()
    assert sum(read) == expected.rows
    with calls_of({of: path for path, of in model.named_modules()}, inspector.blocks, inspector.encoder) as calls:
        with torch.inference_mode(), until(inspector.blocks[0], entered=True):
            run(0)
    assert 4 * sum(rows.numel() for rows in held_by(calls)) < expected.megabytes * 1e6


def held_by(calls: Sequence[Call]) -> Iterator[Tensor]:
    """All prints of rows that are kept of one picture."""
    for call in calls:
        for _, rows in [*call.inputs.values(), *call.outputs]:
            yield rows
        yield from [*call.channels.values(), *call.chunks.values()]
