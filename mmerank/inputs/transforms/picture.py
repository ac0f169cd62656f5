"""Picture -> picture, each with a strength; what is random is given its generator.

A picture is upright, 8-bit RGB, before any preprocessing of a model.
"""

from __future__ import annotations

import io
import math

import numpy as np
from einops import rearrange
from PIL import Image, ImageColor, ImageEnhance, ImageFilter, ImageOps

from mmerank.errors import DataError
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
    return Image.new("RGB", picture.size, rgb(colour))


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a grey level, or of a colour as Pillow reads it; ValueError if it is none."""
    if colour.isdecimal():
        if int(colour) > 255:
            raise ValueError
        return (int(colour),) * 3
    red, green, blue, *_ = ImageColor.getrgb(colour)
    return red, green, blue
