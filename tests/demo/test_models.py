"""The models that come with mmerank: what was measured of every seed they were trained from, and no more."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from mmerank import Example, align, load
from mmerank.inputs.demo import MODELS, examples
from mmerank.inputs.demo.scenes import scene
from mmerank.jobs.demo.captions import CaptionScores, caption_scores
from mmerank.models.adapter import Adapter
from mmerank.models.identity import identity

NAMES = ("demo-llava", "demo-minigpt-v2")
# Under greedy decoding, the share of the slots that is named right.
ACCURACY = {"demo-llava": 0.95, "demo-minigpt-v2": 0.90}
every_model = pytest.mark.parametrize("name", NAMES)


@cache
def model(name: str) -> Adapter:
    return load(name, device="cpu")


@cache
def scores(name: str) -> CaptionScores:
    return caption_scores(model(name), [scene("held-out", i) for i in range(64)])


def test_they_are_small() -> None:
    folders = {MODELS[name] if MODELS[name].is_dir() else MODELS[name].parent for name in NAMES}
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 12e6
    assert sum(p.numel() for name in NAMES for p in model(name).model.parameters()) < 8e6


@every_model
def test_captions_of_held_out_pictures_are_right(name: str) -> None:
    for slot, accuracy in scores(name).accuracy.items():
        assert accuracy > ACCURACY[name], slot
    assert scores(name).invented < 0.1


@every_model
def test_the_picture_matters_to_the_loss(name: str) -> None:
    assert scores(name).loss_mismatched > 4 * scores(name).loss


@every_model
def test_weights_are_stored_in_half_precision_and_loaded_in_float32(name: str) -> None:
    assert model(name).source["dtype"] == "float32"
    for parameter in model(name).model.parameters():
        if "lora" not in name and parameter.ndim > 1:
            half = parameter.detach().half().float()
            exact = torch.equal(half, parameter)
            # MiniGPT-v2's q_proj and v_proj are sums of two stored matrices.
            assert exact or name == "demo-minigpt-v2"


def test_demo_is_short_for_the_llava() -> None:
    assert identity(load("demo", device="cpu"))["weights"] == identity(model("demo-llava"))["weights"]


@every_model
def test_training_narrowed_nothing_to_a_point(name: str) -> None:
    result = align(model(name), examples(16))
    assert min(result.erank1, result.erank2, result.erank3, result.erank4, result.erank5) > 1.5
    assert 0 < result.image_text_alignment <= 1


def test_pixels_of_a_scene_are_what_training_fed(tmp_path: Path) -> None:
    import runpy

    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "train_tiny.py"))
    for name, side in (("demo-llava", 168), ("demo-minigpt-v2", 168)):
        data = script["Data"](2, side)
        for i in range(2):
            picture = scene("train", i).picture()
            torch.testing.assert_close(data.pixels([i])[0], model(name).pixels(picture, "model"), atol=2e-6, rtol=0)


def test_examples_are_pairs_with_pictures() -> None:
    pairs = examples()
    assert len(pairs) == 64 and len({pair.id for pair in pairs}) == 64
    assert all(isinstance(pair, Example) and pair.image is not None for pair in pairs)
    tokens = [len(model("demo").tokenizer(pair.text)["input_ids"]) for pair in pairs]
    assert 40 <= min(tokens) and max(tokens) <= 120
