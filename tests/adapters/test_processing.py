"""An image processor that makes other pixels than the model was trained with is refused, or said."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmerank import load
from mmerank.errors import ModelError
from mmerank_adapters.processing import check_processing
from tests.adapters.test_llava import HF_MODEL

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 120, 3), dtype=np.uint8))
GONE = object()


def changed(folder: Path, **settings: Any) -> Path:
    """The golden checkpoint with other settings of its image processor."""
    shutil.copytree(HF_MODEL, folder)
    stated = json.loads((folder / "processor_config.json").read_text())
    stated["image_processor"] |= settings
    for name in [name for name, value in settings.items() if value is GONE]:
        del stated["image_processor"][name]
    (folder / "processor_config.json").write_text(json.dumps(stated))
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_rescale": False}, "do_rescale is False, expected true"),
        ({"do_normalize": False}, "do_normalize is False, expected true"),
        ({"do_resize": False}, "do_resize is False, expected true"),
        ({"do_rescale": False, "do_normalize": False}, "do_rescale is False, .*; do_normalize is False"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0, expected 0.00392157"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor is 0.00784.*, expected 0.00392157"),
        (
            {"image_mean": [122.77, 116.75, 104.09]},
            r"image_mean is .122.77, .*, expected three numbers between 0 and 1",
        ),
        ({"image_std": [0.0, 0.0, 0.0]}, "image_std is .*, expected three numbers between 0 and 1"),
    ],
    ids=str,
)
def test_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=f"its image processor makes other pixels .*{message}"):
        load(changed(tmp_path / "model", **settings), device="cpu")


def test_one_that_cannot_process_a_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its image processor fails on a white square"):
        load(changed(tmp_path / "model", image_mean=[0.5]), device="cpu")


@pytest.mark.parametrize("settings", [{"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, {"resample": 2}], ids=str)
def test_followed_and_said(tmp_path: Path, settings: dict[str, Any], llava_tiny: Any) -> None:
    with pytest.warns(UserWarning, match="its image processor has .*, and not the values of CLIP"):
        adapter = load(changed(tmp_path / "model", **settings), device="cpu")
    mean, std = (
        np.array(settings.get(k, getattr(llava_tiny._image_processor, k))) for k in ("image_mean", "image_std")
    )
    scaled = np.asarray(NOISE.resize((84, 84), settings.get("resample", Image.Resampling.BICUBIC)))
    expected = ((scaled / 255 - mean) / std).transpose(2, 0, 1)
    assert np.allclose(adapter.pixels(NOISE, "pad"), expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_convert_rgb": False},
        {"image_mean": GONE, "image_std": GONE},
        {"do_rescale": GONE, "rescale_factor": GONE},
    ],
    ids=str,
)
def test_what_changes_no_pixels(tmp_path: Path, settings: dict[str, Any], llava_tiny: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        adapter = load(changed(tmp_path / "model", **settings), device="cpu")
    assert np.array_equal(adapter.pixels(NOISE, "pad"), llava_tiny.pixels(NOISE, "pad"))


def test_the_centre_is_cut_out_where_that_is_asked_for(tmp_path: Path, llava_tiny: Any) -> None:
    adapter = load(changed(tmp_path / "model", do_center_crop=False), device="cpu")
    long = NOISE.resize((200, 90))
    for layout in ("crop", "pad"):
        assert np.array_equal(adapter.pixels(long, layout), llava_tiny.pixels(long, layout))


def test_what_the_settings_do_not_tell(llava_tiny: Any) -> None:
    """A processor that divides by 127.5 and takes 1 away, whatever it states."""

    class Other:
        def __init__(self, inner: Any):
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __call__(self, picture: Image.Image, **named: Any) -> Any:
            pixels = np.asarray(picture.resize((84, 84)), dtype=np.float32).transpose(2, 0, 1)
            return {"pixel_values": [pixels / 127.5 - 1]}

    check_processing(llava_tiny._image_processor, "model")
    with pytest.raises(
        ModelError, match="model: its image processor .* a Other does more to pixels than its settings say"
    ):
        check_processing(Other(llava_tiny._image_processor), "model")
