"""What needs no download: two small trained models, and the held-out pairs of the world they were trained on."""

from __future__ import annotations

from pathlib import Path

from mmerank.inputs.example import Example

# By MODEL name, what `mmerank.load` reads. `demo` is short for the first.
_FOLDER = Path(__file__).parent / "models"
MODELS = {
    "demo-llava": _FOLDER / "llava",
    "demo-minigpt-v2": _FOLDER / "minigpt_v2" / "minigpt_v2.yaml",
    "demo": _FOLDER / "llava",
}
PAIRS = 64
FINGERPRINT = "scenes-2"  # changes whenever the pictures or texts do


def examples(count: int = PAIRS) -> list[Example]:
    """The first held-out pairs, with pictures in memory.

    Args:
        count: How many.

    Returns:
        Examples, the same ones on every machine.
    """
    from mmerank.inputs.demo.scenes import scene

    return [scene("held-out", i).example() for i in range(count)]
