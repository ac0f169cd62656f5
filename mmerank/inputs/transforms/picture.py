"""Picture -> picture and text -> text, each with a name and a strength.

A picture is upright, 8-bit RGB, before any preprocessing of a model. What is random depends on a seed, the name of
the transform and the example's id alone: neither order nor batching changes it, and the strengths of a sweep share
their randomness (the same pattern of noise, scaled; the same place for the square).
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from einops import rearrange
from PIL import Image, ImageColor, ImageEnhance, ImageFilter, ImageOps

from mmerank.errors import DataError, UsageError
from mmerank.inputs.pictures import check_area

MID_GREY = (128, 128, 128)
_QUARTERS = {
    90: Image.Transpose.ROTATE_270,  # Pillow counts the other way round
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


def identity(picture: Image.Image) -> Image.Image:
    """The picture itself, measured like any other transform: what differs from the base is an error."""
    return picture


def rotate(picture: Image.Image, degrees: float) -> Image.Image:
    """The picture turned clockwise.

    By 90, 180 and 270 pixels change places and nothing else happens; 90 and 270 exchange width and height. By any
    other angle the picture becomes as large as it must be to show all of it, resampled bicubically, the corners mid
    grey (128).

    Args:
        picture: The picture.
        degrees: Clockwise.

    Returns:
        The turned picture.

    Raises:
        DataError: It would become larger than any picture may be.
    """
    degrees %= 360
    if degrees == 0:
        return picture
    if degrees in _QUARTERS:
        return picture.transpose(_QUARTERS[int(degrees)])
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    width, height = picture.size
    check_area(width * cosine + height * sine, width * sine + height * cosine, f"turned by {degrees:g} degrees")
    return picture.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=MID_GREY)


def flip(picture: Image.Image, direction: str) -> Image.Image:
    """The picture mirrored: `horizontal` exchanges left and right, `vertical` top and bottom."""
    return ImageOps.mirror(picture) if direction == "horizontal" else ImageOps.flip(picture)


def crop(picture: Image.Image, fraction: float) -> Image.Image:
    """The centre of the picture, `fraction` of each side, rounded to whole pixels: a smaller picture."""
    width, height = (max(round(side * fraction), 1) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def zoom(picture: Image.Image, factor: float) -> Image.Image:
    """The centre of the picture, 1 / `factor` of each side, enlarged bicubically to the size the picture had."""
    width, height = picture.size
    x, y = width * (1 - 1 / factor) / 2, height * (1 - 1 / factor) / 2
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=(x, y, width - x, height - y))


def blur(picture: Image.Image, radius: float) -> Image.Image:
    """The picture under Pillow's GaussianBlur, `radius` being the standard deviation in pixels of the picture."""
    return picture.filter(ImageFilter.GaussianBlur(radius))


def noise(picture: Image.Image, sigma: float, rng: np.random.Generator) -> Image.Image:
    """The picture plus Gaussian noise, independent for each pixel and channel, rounded and clipped to 0..255.

    Args:
        picture: The picture.
        sigma: Standard deviation in 8-bit steps.
        rng: Where the noise comes from.

    Returns:
        A picture of the same size.
    """
    values = np.asarray(picture) + sigma * rng.standard_normal((picture.height, picture.width, 3))
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    """The picture written and read as JPEG by Pillow, colour at half resolution (4:2:0)."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as read:
        return read.convert("RGB")


def brightness(picture: Image.Image, factor: float) -> Image.Image:
    """Every value times `factor`, clipped to 0..255: 0 is black, 1 the picture itself."""
    return ImageEnhance.Brightness(picture).enhance(factor)


def contrast(picture: Image.Image, factor: float) -> Image.Image:
    """Every value's distance to the picture's mean grey times `factor`, clipped: 0 is grey, 1 the picture itself."""
    return ImageEnhance.Contrast(picture).enhance(factor)


def grey(picture: Image.Image) -> Image.Image:
    """The picture without colour: luma (ITU-R 601-2) in all three channels."""
    return picture.convert("L").convert("RGB")


def occlude(picture: Image.Image, fraction: float, rng: np.random.Generator) -> Image.Image:
    """The picture with a mid-grey (128) square over `fraction` of its area, wholly inside, at a random place.

    A square that is longer than the shorter side becomes a strip across it, of the same area.

    Args:
        picture: The picture.
        fraction: Of its area, up to the rounding of sides to whole pixels.
        rng: Where the place comes from.

    Returns:
        A picture of the same size.
    """
    area = fraction * picture.width * picture.height
    side = math.sqrt(area)
    width, height = side, side
    if side > picture.height:
        width, height = area / picture.height, picture.height
    elif side > picture.width:
        width, height = picture.width, area / picture.width
    width, height = round(width), round(height)
    x, y = rng.random(2)
    covered = picture.copy()
    place = (int(x * (picture.width - width + 1)), int(y * (picture.height - height + 1)))
    covered.paste(Image.new("RGB", (width, height), MID_GREY), place)
    return covered


def shuffle(picture: Image.Image, grid: int, rng: np.random.Generator) -> Image.Image:
    """The picture with `grid` x `grid` patches of equal size in a random order.

    Rows and columns of pixels that `grid` leaves over, at the bottom and at the right, stay where they are.

    Args:
        picture: The picture.
        grid: Patches along each side.
        rng: Where the order comes from.

    Returns:
        A picture of the same size.

    Raises:
        DataError: The picture has fewer pixels than patches along a side.
    """
    if grid > min(picture.size):
        raise DataError(f"{picture.width} x {picture.height} px cannot be cut into {grid} x {grid} patches")
    values = np.array(picture)
    rows, columns = picture.height // grid * grid, picture.width // grid * grid
    patches = rearrange(values[:rows, :columns], "(i h) (j w) c -> (i j) h w c", i=grid, j=grid)
    patches = patches[rng.permutation(grid * grid)]
    values[:rows, :columns] = rearrange(patches, "(i j) h w c -> (i h) (j w) c", i=grid, j=grid)
    return Image.fromarray(values)


def blank(picture: Image.Image, colour: str = "128") -> Image.Image:
    """A picture of the same size in one colour: a grey level (0 to 255), a name or #rrggbb as Pillow reads them."""
    return Image.new("RGB", picture.size, _rgb(colour))


def shuffle_words(response: str, rng: np.random.Generator) -> str:
    """The words of the response in a random order, joined by single spaces; the instruction stays.

    A word is what stands between white space, with its punctuation.

    Args:
        response: The response.
        rng: Where the order comes from.

    Returns:
        The words in another order.
    """
    words = response.split()
    return " ".join(words[i] for i in rng.permutation(len(words)))


@dataclass(frozen=True)
class _Known:
    """A row of the table of transforms: how it is written, what its strength may be, and whether it is random."""

    form: str
    apply: Callable[..., Any] | None  # None where another example stands in
    strength: Callable[[str], Any] | None = None
    optional: bool = False
    random: bool = False
    of: str = "picture"


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
    _rgb(text)
    return text


def _rgb(colour: str) -> tuple[int, int, int]:
    if colour.isdecimal():
        if int(colour) > 255:
            raise ValueError
        return (int(colour),) * 3
    red, green, blue, *_ = ImageColor.getrgb(colour)
    return red, green, blue


KNOWN = {
    "identity": _Known("identity", identity),
    "rotate": _Known("rotate:DEGREES", rotate, _degrees),
    "flip": _Known("flip:horizontal|vertical", flip, _direction),
    "crop": _Known("crop:FRACTION", crop, _number(0, 1, above=True)),
    "zoom": _Known("zoom:FACTOR", zoom, _number(1, 100)),
    "blur": _Known("blur:RADIUS", blur, _number(0, 1000)),
    "noise": _Known("noise:SIGMA", noise, _number(0, 255), random=True),
    "jpeg": _Known("jpeg:QUALITY", jpeg, _number(1, 100, whole=True)),
    "brightness": _Known("brightness:FACTOR", brightness, _number(0, 100)),
    "contrast": _Known("contrast:FACTOR", contrast, _number(0, 100)),
    "grey": _Known("grey", grey),
    "occlude": _Known("occlude:FRACTION", occlude, _number(0, 1), random=True),
    "shuffle": _Known("shuffle:GRID", shuffle, _number(1, 1000, whole=True), random=True),
    "blank": _Known("blank[:COLOUR]", blank, _colour, optional=True),
    "other": _Known("other", None),
    "shuffle-words": _Known("shuffle-words", shuffle_words, random=True, of="text"),
    "other-text": _Known("other-text", None, of="text"),
}
FORMS = tuple(known.form for known in KNOWN.values())


@dataclass(frozen=True)
class Step:
    """One transform with its strength.

    Attributes:
        kind: Key of `KNOWN`.
        strength: As its function takes it; None where none is given.
    """

    kind: str
    strength: Any = None

    @property
    def name(self) -> str:
        """As it is written, `NAME` or `NAME:STRENGTH`."""
        shown = f"{self.strength:.12g}" if isinstance(self.strength, float) else str(self.strength)
        return self.kind if self.strength is None else f"{self.kind}:{shown}"


@dataclass(frozen=True)
class Transform:
    """What happens to a picture, a text or both, step by step.

    Attributes:
        steps: In order.

    Raises:
        UsageError: Another example's picture or text comes after a step that it would undo.
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        for steps in (self.picture_steps, self.text_steps):
            for step in steps[1:]:
                if KNOWN[step.kind].apply is None:
                    raise UsageError(f"{self.name}: {step.kind!r} undoes what stands before it; let it come first")

    @property
    def name(self) -> str:
        """As it is written: the steps joined by `+`."""
        return "+".join(step.name for step in self.steps)

    @property
    def picture_steps(self) -> tuple[Step, ...]:
        """The steps that concern the picture."""
        return tuple(step for step in self.steps if KNOWN[step.kind].of == "picture")

    @property
    def text_steps(self) -> tuple[Step, ...]:
        """The steps that concern the text."""
        return tuple(step for step in self.steps if KNOWN[step.kind].of == "text")

    def picture(self, picture: Image.Image, *, example: str, seed: int = 0) -> Image.Image:
        """The picture after all steps that concern it, from the example that `other` may have chosen.

        Args:
            picture: Upright, RGB.
            example: Id of the example.
            seed: Of what is random.

        Returns:
            A picture of mode RGB.

        Raises:
            DataError: The picture is too small or would become too large.
        """
        return _through(self.picture_steps, picture, example, seed)  # type: ignore[no-any-return]

    def response(self, response: str, *, example: str, seed: int = 0) -> str:
        """The response after all steps that concern the text, of the example that `other-text` may have chosen.

        Args:
            response: As it stands.
            example: Id of the example.
            seed: Of what is random.

        Returns:
            The changed response.
        """
        return _through(self.text_steps, response, example, seed)  # type: ignore[no-any-return]


def parse(text: str) -> tuple[Transform, ...]:
    """The transforms that an argument names.

    Args:
        text: `NAME[:STRENGTH]`, several joined by `+` to be done one after the other (`rotate:90+blur:2`). Several
            strengths joined by commas make a sweep: a transform for each (`blur:1,2,4`).

    Returns:
        One transform, or those of the sweep in its order.

    Raises:
        UsageError: A name is unknown, or a strength missing, out of range, or too much.

    Example:
        >>> [transform.name for transform in parse("rotate:-90+blur:1,2")]
        ['rotate:270+blur:1', 'rotate:270+blur:2']
    """
    return tuple(Transform(steps) for steps in product(*(tuple(_steps(part, text)) for part in text.split("+"))))


def _steps(part: str, whole: str) -> Iterable[Step]:
    kind, colon, strengths = part.partition(":")
    where = f"transform {whole!r}: " if part != whole else "transform "
    if kind not in KNOWN:
        raise UsageError(f"unknown {where}{part!r}; known: {', '.join(FORMS)}")
    known = KNOWN[kind]
    if known.strength is None:
        if colon:
            raise UsageError(f"{where}{part!r}: {kind} has no strength; write {known.form}")
        return [Step(kind)]
    if not colon:
        if known.optional:
            return [Step(kind)]
        raise UsageError(f"{where}{part!r}: the strength is missing; write {known.form}")
    return [_step(kind, known, strength, where) for strength in strengths.split(",")]


def _step(kind: str, known: _Known, strength: str, where: str) -> Step:
    assert known.strength is not None
    try:
        return Step(kind, known.strength(strength))
    except (ValueError, OverflowError):
        expected = (known.strength.__doc__ or "").rstrip(".")
        expected = expected[:1].lower() + expected[1:]
        raise UsageError(f"{where}'{kind}:{strength}': expected {expected} ({known.form})") from None


def _through(steps: Iterable[Step], value: Any, example: str, seed: int) -> Any:
    seen: dict[str, int] = {}
    for step in steps:
        known = KNOWN[step.kind]
        count = seen[step.kind] = seen.get(step.kind, -1) + 1
        if known.apply is None:
            continue
        strength = () if step.strength is None else (step.strength,)
        # Not of the strength, so that a sweep shares it; of the count, so that noise twice is not noise doubled.
        drawn = (generator(seed, step.kind, count, example),) if known.random else ()
        value = known.apply(value, *strength, *drawn)
    return value


def generator(*key: object) -> np.random.Generator:
    """Random numbers that belong to a key and to nothing else."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(key).encode()).digest(), "big"))
