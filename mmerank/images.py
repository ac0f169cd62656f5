"""A file or picture -> an upright RGB picture, or an error that says why there is none; padding to a square."""

from __future__ import annotations

import errno
import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmerank.errors import DataError, SourceError
from mmerank.metadata import loaded, turned, without_metadata

MAX_PIXELS = 100_000_000
# Pauses before a picture is read again that a disk or a network share failed to give.
RETRY_AFTER_S = (0.2, 1.0, 4.0)
_MAY_PASS = {
    getattr(errno, name)
    for name in (
        "EIO ESTALE ETIMEDOUT EAGAIN EBUSY EINTR EREMOTEIO ENOTCONN ECONNRESET ECONNREFUSED ECONNABORTED "
        "EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ENETRESET ENOLINK ECOMM EPROTO"
    ).split()
    if hasattr(errno, name)
}
# What Pillow may open with room for 32 bits though the format has 16 at most.
_16_BITS = ("PNG", "PPM")
_pillow_limit = threading.Lock()
# A picture in memory may stand in several examples, and Pillow reads it, and its EXIF, when it is first asked.
_in_memory = threading.Lock()


@dataclass(frozen=True)
class Encoded:
    """A picture that lies in a table in place of a file of its own.

    Attributes:
        name: For messages.
        read: Gives the content of the picture's file; called when the picture is needed.
        stamp: Differs where the content does, as a commit and a row; empty where only reading tells.
    """

    name: str
    read: Callable[[], bytes]
    stamp: str = ""


def open_picture(source: Path | Encoded | Image.Image, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decoded picture: EXIF orientation applied, 8-bit RGB, transparent parts on white, first frame.

    16-bit grey is scaled to 8 bits (Pillow alone would clip it).

    Args:
        source: A file, the content of one, or a picture already opened.
        max_pixels: Width times height above which the picture is refused before it is decoded.

    Returns:
        A picture of mode RGB.

    Raises:
        DataError: The file is missing, empty, not an image, cut short, too large, or in floating point or
            32-bit whole numbers; or it could not be read, several times, which is a `SourceError`.
    """
    for pause in RETRY_AFTER_S:
        try:
            return _picture(source, max_pixels)
        except SourceError:
            time.sleep(pause)
    return _picture(source, max_pixels)


def _picture(source: Path | Encoded | Image.Image, max_pixels: int) -> Image.Image:
    name = "the picture" if isinstance(source, Image.Image) else source.name
    try:
        if not isinstance(source, Image.Image):
            return _decoded(source, max_pixels)
        with _in_memory:
            return _upright(source, name, max_pixels)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{name}: no such file in {_folder(source)}") from None
    except UnidentifiedImageError:
        raise DataError(f"{name}: not an image that Pillow can read") from None
    except Exception as error:  # decoders raise anything on damaged files
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        if _may_pass(error):
            raise SourceError(f"{name}: cannot be read ({reason})") from error
        raise DataError(f"{name}: cannot be decoded ({reason})") from error


def _decoded(source: Path | Encoded, max_pixels: int) -> Image.Image:
    """The picture of a file; where that cannot be read, that of its pixels alone."""
    try:
        return _upright(_open(source), source.name, max_pixels)
    except Exception as error:
        # What the system says, with a number, is of the source, and asking again would be of no use.
        if isinstance(error, DataError) or getattr(error, "errno", None) is not None or _may_pass(error):
            raise
        content = without_metadata(source.read_bytes() if isinstance(source, Path) else source.read())
        if content is None:
            raise
        try:
            return _upright(_open(Encoded(source.name, lambda: content)), source.name, max_pixels)
        except DataError:
            raise
        except Exception:  # then it was not the metadata
            raise error from None


def _upright(picture: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = picture.size
    if width * height > max_pixels:
        raise DataError(f"{name}: {width} x {height} px is over the limit of {max_pixels / 1e6:g} megapixels")
    return _rgb(turned(loaded(picture)), name)


def _may_pass(error: Exception) -> bool:
    """Whether an error is the disk's or the network's, and not the file's."""
    # Pillow's own OSErrors, for damaged files, have no number.
    return isinstance(error, (ConnectionError, TimeoutError)) or getattr(error, "errno", None) in _MAY_PASS


def check_area(width: float, height: float, what: str) -> None:
    """Refuse a picture that preprocessing would blow up, as it does with very long and thin ones.

    Args:
        width: What it would have, px.
        height: What it would have, px.
        what: What is done to it.

    Raises:
        DataError: It would have more than `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        size = f"{width:.0f} x {height:.0f} px"
        raise DataError(f"the picture: {what}, it has {size}, over the limit of {MAX_PIXELS / 1e6:g} megapixels")


def square(picture: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """The picture in the middle of a square of its longer side, the rest filled with `colour`.

    Args:
        picture: Any picture.
        colour: One value per channel.

    Returns:
        The square.

    Raises:
        DataError: It would have more than `MAX_PIXELS`.
    """
    width, height = picture.size
    side = max(width, height)
    check_area(side, side, "padded to a square")
    filled = Image.new("RGB", (side, side), colour)
    filled.paste(picture, ((side - width) // 2, (side - height) // 2))
    return filled


def _open(source: Path | Encoded) -> Image.Image:
    content = source.read() if isinstance(source, Encoded) else None
    if content == b"" or (isinstance(source, Path) and source.is_file() and source.stat().st_size == 0):
        raise DataError(f"{source.name}: empty file (0 bytes)")
    # Pillow has a limit of its own, in a global; it is checked while the header is read.
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(source if isinstance(source, Path) else io.BytesIO(content or b""), formats=_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = before


@cache
def _formats() -> tuple[str, ...]:
    """All that Pillow reads but PostScript, which is a program that it has Ghostscript run."""
    Image.init()
    return tuple(name for name in Image.OPEN if name != "EPS")


def _rgb(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode == "F":
        raise DataError(f"{name}: floating-point pixels have no defined white; convert it to 8 or 16 bits")
    if picture.mode == "I" and picture.format not in _16_BITS:
        raise DataError(f"{name}: 32-bit whole numbers have no defined white; convert it to 8 or 16 bits")
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray((values.clip(0, 65535) / 257).round().astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _folder(source: Path | Encoded | Image.Image) -> str:
    return str(source.parent) if isinstance(source, Path) else "memory"
