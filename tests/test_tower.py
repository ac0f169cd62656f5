"""Layers of the vision encoder: each eRank is that of the hidden states which transformers itself returns."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mmerank import Alignment, Convention, Example, align, load, wrap
from mmerank.models.tower import Tower
from mmerank.states.reductions import orders
from tests import reference
from tests.adapters.cases import LLAVA, examples
from tests.adapters.tiny_models import built
from tests.conftest import GOLDEN

Floats = NDArray[np.float64]
SIZES = ((96, 64), (40, 120))


def noisy(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def of_clip(adapter: Any, example: Example) -> list[Floats]:
    """Patches at each layer of CLIP, from `output_hidden_states`, without CLS."""
    pixels = adapter.pixels(example.image, "model")
    with torch.inference_mode():
        out = adapter.model.model.vision_tower(pixels[None].double(), output_hidden_states=True)
    return [h[0, 1:].numpy() for h in out.hidden_states[1:]]


def test_every_layer_is_that_of_transformers_of_all_rows_and_of_equally_many(tmp_path: Path) -> None:
    adapter = load(GOLDEN / LLAVA.name / LLAVA.checkpoint, device="cpu", dtype="float64")
    asked = Convention(match_tokens=6, match_repeats=3, match_seed=2, patches=True, rows=True)
    result = align(adapter, examples(), layers="all", convention=asked, out=tmp_path / "run")
    expected = {example.id: of_clip(adapter, example) for example in examples()}
    depth = len(expected[examples()[0].id])
    found = [of for of in result.layer_records if of.point.startswith("vision layer")]
    assert len(found) == len(examples()) * depth and depth > 1
    for record in found:
        h = expected[record.example][int(record.point.removeprefix("vision layer ")) - 1]
        assert (record.n, record.d, record.input) == (*h.shape, "image")
        assert record.entropy == pytest.approx(reference.entropy(h), rel=1e-9)
        assert record.matched is not None
        for i, entropy in enumerate(record.matched):
            drawn = orders(f"2/{record.example}/{record.point}/image/{i}", record.n)[:6]
            assert entropy == pytest.approx(reference.entropy(h[drawn]), abs=1e-9)
    assert result.vision_layers is not None
    assert [at["point"] for at in result.vision_layers] == [f"vision layer {i + 1}" for i in range(depth)]
    for i, at in enumerate(result.vision_layers):
        entropies = [reference.entropy(expected[example.id][i]) for example in examples()]
        assert at["all"] == pytest.approx(np.exp(np.mean(entropies)), rel=1e-9)
        low, high = at["intervals"]["all"]
        assert low <= at["all"] <= high
    again = Alignment.from_run(tmp_path / "run")
    assert again.vision_layers == result.vision_layers and again.layers == result.layers
    # What the connector reads is one of them.
    assert any(at["all"] == pytest.approx(result.erank1, rel=1e-9) for at in result.vision_layers)


def put_out(into: list[torch.Tensor], block: torch.nn.Module, args: Any, h: torch.Tensor) -> None:
    into.append(h)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl"])
def test_rows_that_go_on_are_those_of_the_picture(name: str) -> None:
    """Of windows all, of tiles all but CLS."""
    adapter: Any = wrap(*built(name)[:2], name=name)
    tower = Tower(adapter)
    for size in SIZES:
        pixels = adapter.pixels(noisy(size), "model")
        inputs = pixels["inputs"]
        inner = adapter.model.get_submodule(tower.blocks[0].partition(".encoder")[0].partition(".blocks")[0])
        with torch.inference_mode():
            if name == "qwen2_5_vl":
                hidden: list[torch.Tensor] = []
                keep = partial(put_out, hidden)
                hooks = [block.register_forward_hook(keep) for block in inner.blocks]
                inner(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
                for hook in hooks:
                    hook.remove()
            else:
                out = inner(inputs["pixel_values"], output_hidden_states=True)
                hidden = [h[:, 1:].flatten(0, 1) for h in out.hidden_states[1:]]
        _, found = tower.read(pixels)
        assert len(found) == len(hidden) == len(tower.blocks)
        for one, other in zip(found, hidden, strict=True):
            assert one.shape == other.shape
            assert torch.allclose(one, other, atol=1e-5)


def test_what_is_not_known_is_told_and_the_rest_is_measured() -> None:
    adapter = wrap(*built("mllama")[:2], name="mllama")
    example = Example("a", noisy(SIZES[0]), "", "A red ball and two cats.")
    with pytest.warns(UserWarning, match="mllama: layers of its vision encoder are not measured .which of the"):
        result = align(adapter, [example], layers="all")
    assert result.vision_layers is None and result.layers is not None and result.n == 1
