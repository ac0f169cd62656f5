"""Whether the image processor of a checkpoint makes the pixels that such models are trained with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

from mmerank.errors import ModelError

# Without one of these the pixels are in another range, or of another size.
_NEEDED = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
# Those of CLIP, which the published models have; others may have been trained with others.
_USUAL = {
    "image_mean": tuple(OPENAI_CLIP_MEAN),
    "image_std": tuple(OPENAI_CLIP_STD),
    "resample": PILImageResampling.BICUBIC,
}
_SIDE = 96  # of the picture that is tried
# Standardised values; a step of 8 bits is 0.014.
_ROUNDING = 1e-4


def check_processing(processor: Any, checkpoint: str | Path) -> None:
    """Refuse an image processor that does not scale, divide by 255 and standardise; warn of other values than CLIP's.

    Its settings are looked at, and then what it makes of a picture, for what they do not tell.

    Args:
        processor: As transformers loads it.
        checkpoint: Where it came from, for the message.

    Raises:
        ModelError: Its pixels would not be those that the model was trained with.
    """
    wrong = [
        f"{name} is {value!r}, expected {expected:.6g}"
        if name == "rescale_factor"
        else f"{name} is {value!r}, expected true"
        for name, expected in _NEEDED.items()
        if not _same(value := getattr(processor, name, None), expected)
    ]
    for name in ("image_mean", "image_std"):
        value = getattr(processor, name, None)
        if not _is_colour(value):
            wrong.append(f"{name} is {value!r}, expected three numbers between 0 and 1")
    if not wrong and (difference := _difference(processor)) > _ROUNDING:
        wrong = [f"a {type(processor).__name__} does more to pixels than its settings say, by up to {difference:.3g}"]
    if wrong:
        raise ModelError(
            f"{checkpoint}: its image processor makes other pixels than the model was trained with: "
            f"{'; '.join(wrong)}; correct preprocessor_config.json, or processor_config.json where it stands there"
        )
    others = [
        f"{name} {value!r}" for name, usual in _USUAL.items() if not _same(value := getattr(processor, name), usual)
    ]
    if others:
        warnings.warn(
            f"{checkpoint}: its image processor has {', '.join(others)}, and not the values of CLIP that the "
            "published models were trained with; they are followed",
            stacklevel=2,
        )


def _same(value: Any, expected: Any) -> bool:
    if isinstance(expected, tuple):
        return len(value) == len(expected) and all(map(_same, value, expected))
    if isinstance(expected, float):
        return isinstance(value, (int, float)) and math.isclose(value, expected, rel_tol=1e-4)
    return bool(value == expected)


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 3
        and all(isinstance(number, (int, float)) and 0 < number <= 1 for number in value)
    )


def _difference(processor: Any) -> float:
    """The largest difference between what a processor makes of a square picture and what its settings say."""
    noise = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    made = np.asarray(processor(Image.fromarray(noise), return_tensors="np")["pixel_values"][0], dtype=np.float64)
    height, width = made.shape[-2:]
    scaled = np.asarray(Image.fromarray(noise).resize((width, height), int(processor.resample)), dtype=np.float64)
    expected = (scaled / 255 - np.asarray(processor.image_mean)) / np.asarray(processor.image_std)
    return float(np.abs(made - expected.transpose(2, 0, 1)).max())
