"""The table of transforms: how each is written, what its strength may be, and what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmerank.inputs.transforms.picture import (
    blank,
    blur,
    brightness,
    contrast,
    crop,
    flip,
    grey,
    identity,
    jpeg,
    noise,
    occlude,
    rgb,
    rotate,
    shuffle,
    zoom,
)
from mmerank.inputs.transforms.text import shuffle_words


@dataclass(frozen=True)
class Known:
    """A transform: how it is written, what its strength may be, whether it is random, and of what it is."""

    form: str
    apply: Callable[..., Any] | None  # None where another example stands in
    strength: Callable[[str], Any] | None = None
    optional: bool = False
    random: bool = False
    of: str = "picture"
    source: str = ""  # of one's own, a hash


def _number(low: float, high: float, *, above: bool = False, whole: bool = False) -> Callable[[str], float]:
    """A reader of numbers between `low` and `high`, without `low` itself if `above`."""

    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high or (above and value == low) or (whole and value != int(value)):
            raise ValueError
        return int(value) if whole else value + 0.0  # -0.0 becomes 0.0

    kind = "a whole number" if whole else "a number"
    read.__doc__ = f"{kind} {'above' if above else 'from'} {low:g} to {high:g}"
    return read


def _direction(text: str) -> str:
    """Horizontal or vertical."""
    if text not in ("horizontal", "vertical"):
        raise ValueError
    return text


def _degrees(text: str) -> float:
    """A number from -360 to 360."""
    return _number(-360, 360)(text) % 360 % 360  # of -1e-20 the first leaves 360


def _colour(text: str) -> str:
    """A grey level from 0 to 255, or a colour by name or as #rrggbb."""
    rgb(text)
    return text


KNOWN = {
    "identity": Known("identity", identity),
    "rotate": Known("rotate:DEGREES", rotate, _degrees),
    "flip": Known("flip:horizontal|vertical", flip, _direction),
    "crop": Known("crop:FRACTION", crop, _number(0, 1, above=True)),
    "zoom": Known("zoom:FACTOR", zoom, _number(1, 100)),
    "blur": Known("blur:RADIUS", blur, _number(0, 1000)),
    "noise": Known("noise:SIGMA", noise, _number(0, 255), random=True),
    "jpeg": Known("jpeg:QUALITY", jpeg, _number(1, 100, whole=True)),
    "brightness": Known("brightness:FACTOR", brightness, _number(0, 100)),
    "contrast": Known("contrast:FACTOR", contrast, _number(0, 100)),
    "grey": Known("grey", grey),
    "occlude": Known("occlude:FRACTION", occlude, _number(0, 1), random=True),
    "shuffle": Known("shuffle:GRID", shuffle, _number(1, 1000, whole=True), random=True),
    "blank": Known("blank[:COLOUR]", blank, _colour, optional=True),
    "other": Known("other", None),
    "shuffle-words": Known("shuffle-words", shuffle_words, random=True, of="text"),
    "other-text": Known("other-text", None, of="text"),
}
FORMS = tuple(known.form for known in KNOWN.values())
