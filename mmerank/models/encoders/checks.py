"""One look at a loaded encoder: which layers can be measured, and whether its rows are what they are taken for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mmerank.errors import ModelError, first_line

if TYPE_CHECKING:
    from mmerank.models.encoders.encoder import Features, Side

TEXT = "A cat sat on the mat."


def check_features(encoder: Any) -> tuple[dict[Side, Sequence[int]], dict[str, str], dict[Side, Features]]:
    """Run an encoder once on `picture()` and `TEXT`.

    Args:
        encoder: One that has all of an `Encoder` but `layers`; `undefined` may name `text` already.

    Returns:
        The layers that can be measured, by side; what is undefined, with the reasons; what the encoder gave, by side.

    Raises:
        ModelError: It cannot be run, gives no rows at any layer, or no embedding.
    """
    found: dict[Side, Sequence[int]] = {}
    undefined: dict[str, str] = dict(encoder.undefined)
    given: dict[Side, Features] = {}
    looks: dict[Side, Any] = {"image": lambda: encoder.images([encoder.pixels(picture())])}
    if "text" not in undefined:
        looks["text"] = lambda: encoder.texts([encoder.tokens(TEXT)])
    for side, look in looks.items():
        try:
            features: Features = look()
        except Exception as error:  # each of the libraries below has errors of its own
            raise ModelError(f"{encoder.name}: its {side} encoder cannot be run ({first_line(error)})") from error
        given[side] = features
        if features.embeddings.ndim != 2:
            shape = tuple(features.embeddings.shape)
            raise ModelError(f"{encoder.name}: its {side} embedding has shape {shape}, expected one vector")
        rows = {layer: h.shape for layer, h in features.layers[0].items()}
        found[side] = [layer for layer, shape in rows.items() if len(shape) == 2 and shape[0] > 1]
        if few := _few(rows):
            undefined[f"{side} layers {', '.join(map(str, few))}" if len(few) > 1 else f"{side} layer {few[0]}"] = (
                "fewer than 2 rows, which have no spread"
            )
        if not found[side]:
            raise ModelError(f"{encoder.name}: its {side} encoder has no layer with 2 or more rows")
    return found, undefined, given


def _few(rows: Mapping[int, Sequence[int]]) -> list[int]:
    return [layer for layer, shape in rows.items() if len(shape) != 2 or shape[0] < 2]


def picture() -> Image.Image:
    """A picture with edges, that is no square."""
    y, x = np.mgrid[:96, :128]
    return Image.fromarray(np.stack([(x * y // 7) % 256, (x + 3 * y) % 256, x ^ y], -1).astype(np.uint8))


def nearest(word: str, known: Iterable[str]) -> str:
    """The names that are nearest to an unknown one.

    Args:
        word: The name.
        known: Those there are.

    Returns:
        `nearest: A, B, C`, or nothing where none is close.
    """
    close = get_close_matches(word, list(known), n=5, cutoff=0.6)
    return f"nearest: {', '.join(close)}" if close else ""
