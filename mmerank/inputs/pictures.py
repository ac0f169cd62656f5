"""A file or picture -> an upright RGB picture, or an error that says why there is none; padding to a square."""

from __future__ import annotations

import errno
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mmerank.errors import DataError, SourceError
from mmerank.files import opened
from mmerank.inputs.picture_metadata import loaded, turned, without_metadata

MAX_PIXELS = 100_000_000
# What data sets come in. Pillow knows some forty more: programs (EPS), containers that decode another picture while
# they are opened (ICO, ICNS), and formats whose decoders see few files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM")
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
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # of TIFF
_CHUNK = 1 << 20  # pixels
# Pillow's limit is a global, and several threads open pictures: those at it now, and what it was before them.
_limits: list[int] = []
_limit_before: list[int | None] = []
_limits_lock = threading.Lock()
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


# As an example holds them: one, or several in their order.
Picture = Path | Encoded | Image.Image
Pictures = Picture | tuple[Picture, ...]
Opened = Image.Image | tuple[Image.Image, ...]
_From = TypeVar("_From")
_To = TypeVar("_To")


def of_each(pictures: _From | tuple[_From, ...], make: Callable[[_From, int], _To]) -> _To | tuple[_To, ...]:
    """What is made of a picture, or of each of several.

    Args:
        pictures: One, or several.
        make: Gets a picture and its place, from 0.

    Returns:
        One, or as many.

    Raises:
        DataError: As raised for one of them; of several, it says which.
    """
    if not isinstance(pictures, tuple):
        return make(pictures, 0)
    made = []
    for i, picture in enumerate(pictures):
        try:
            made.append(make(picture, i))
        except DataError as error:
            raise type(error)(f"picture {i + 1} of {len(pictures)}: {error}") from error
    return tuple(made)


def open_pictures(source: Pictures, *, max_pixels: int = MAX_PIXELS) -> Opened:
    """One picture, or each of several, as `open_picture` opens it; of several, an error says which."""

    def opened_one(picture: Picture, place: int) -> Image.Image:
        return open_picture(picture, max_pixels=max_pixels)

    if not isinstance(source, tuple):
        return opened_one(source, 0)
    return of_each(source, opened_one)


def open_picture(source: Path | Encoded | Image.Image, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decoded picture: EXIF orientation applied, 8-bit RGB, transparent parts on white, first frame.

    16-bit grey is scaled to 8 bits (Pillow alone would clip it).

    Args:
        source: A regular file in one of `FORMATS`, the content of one, or a picture already opened.
        max_pixels: Width times height above which the picture is refused before it is decoded.

    Returns:
        A picture of mode RGB.

    Raises:
        DataError: The file is missing, empty, no regular file, not an image, cut short, too large, or in floating
            point or 32-bit whole numbers; or it could not be read, several times, which is a `SourceError`.
    """
    for pause in RETRY_AFTER_S:
        try:
            return _picture(source, max_pixels)
        except SourceError:
            time.sleep(pause)
    return _picture(source, max_pixels)


def _unidentified(file: BinaryIO) -> str:
    """Why a file is no picture."""
    file.seek(0)
    head = file.read(12)
    # MP4 and QuickTime, Matroska and WebM, AVI.
    if head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or (head[:4] == b"RIFF" and head[8:] == b"AVI "):
        return "a video; give its frames as several pictures"
    return f"not an image in a format that is read: {', '.join(FORMATS)}"


def _picture(source: Path | Encoded | Image.Image, max_pixels: int) -> Image.Image:
    name = "the picture" if isinstance(source, Image.Image) else source.name
    try:
        with pillow_limit(max_pixels):
            if isinstance(source, Image.Image):
                with _in_memory:
                    return _upright(source, name, max_pixels)
            with opened(source) if isinstance(source, Path) else io.BytesIO(source.read()) as file:
                try:
                    return _decoded(file, name, max_pixels)
                except UnidentifiedImageError:
                    raise DataError(f"{name}: {_unidentified(file)}") from None
    except DataError:
        raise
    except FileNotFoundError:
        folder = f" in {source.parent}" if isinstance(source, Path) else ""
        raise DataError(f"{name}: no such file{folder}") from None
    except Image.DecompressionBombError:
        raise DataError(
            f"{name}: it, or a part of it, is over the limit of {max_pixels / 1e6:g} megapixels (--max-megapixels)"
        ) from None
    except Exception as error:  # decoders raise anything on damaged files
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        if _may_pass(error):
            raise SourceError(f"{name}: cannot be read ({reason})") from error
        raise DataError(f"{name}: cannot be decoded ({reason})") from error


def _decoded(file: BinaryIO | io.BytesIO, name: str, max_pixels: int) -> Image.Image:
    """The picture in a file; where that cannot be read, that of its pixels alone."""
    try:
        return _opened(file, name, max_pixels)
    except Exception as error:
        # What the system says, with a number, is of the source, and asking again would be of no use.
        if isinstance(error, (DataError, Image.DecompressionBombError)) or getattr(error, "errno", None) is not None:
            raise
        if _may_pass(error):
            raise
        file.seek(0)
        content = without_metadata(file.read())
        if content is None:
            raise
        try:
            return _opened(io.BytesIO(content), name, max_pixels)
        except (DataError, Image.DecompressionBombError):
            raise
        except Exception:  # then it was not the metadata
            raise error from None


def _opened(file: BinaryIO | io.BytesIO, name: str, max_pixels: int) -> Image.Image:
    if not file.seek(0, os.SEEK_END):
        raise DataError(f"{name}: empty file (0 bytes)")
    with Image.open(file, formats=FORMATS) as picture:
        tags = getattr(picture, "tag_v2", {})
        width, length = tags.get(_TILE_WIDTH), tags.get(_TILE_LENGTH)
        # A tile is unpacked whole, however small the picture that it is cut to.
        if isinstance(width, int) and isinstance(length, int):
            _check_limit(width, length, f"{name}: a tile of", max_pixels)
        return _upright(picture, name, max_pixels)


def _upright(picture: Image.Image, name: str, max_pixels: int) -> Image.Image:
    _check_limit(*picture.size, f"{name}:", max_pixels)
    picture = loaded(picture)
    _check_limit(*picture.size, f"{name}:", max_pixels)
    return _rgb(turned(picture), name)


def _check_limit(width: int, height: int, what: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DataError(
            f"{what} {width} x {height} px is over the limit of {max_pixels / 1e6:g} megapixels (--max-megapixels)"
        )


@contextmanager
def pillow_limit(max_pixels: int) -> Iterator[None]:
    """Have Pillow refuse, while the block runs, what is more than twice as large, wherever it first sees the size.

    Some formats name sizes of their own for frames and tiles, for which memory is taken while a file is opened or
    decoded. Of several threads the largest limit holds. Pillow's own holds where it is larger, so that it warns of
    nothing that it did not warn of before; what it lets pass is refused by its size.

    Args:
        max_pixels: Width times height.

    Yields:
        Nothing.
    """
    with _limits_lock:
        if not _limits:
            _limit_before[:] = [Image.MAX_IMAGE_PIXELS]
        _limits.append(max_pixels)
        Image.MAX_IMAGE_PIXELS = max(*_limits, _limit_before[0] or 0)
    try:
        yield
    finally:
        with _limits_lock:
            _limits.remove(max_pixels)
            Image.MAX_IMAGE_PIXELS = max(*_limits, _limit_before[0] or 0) if _limits else _limit_before[0]


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


def _rgb(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode == "F":
        raise DataError(f"{name}: floating-point pixels have no defined white; convert it to 8 or 16 bits")
    if picture.mode == "I" and picture.format not in _16_BITS:
        raise DataError(f"{name}: 32-bit whole numbers have no defined white; convert it to 8 or 16 bits")
    if picture.mode.startswith("I"):
        picture = Image.fromarray(_eight_bits(np.asarray(picture)))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _eight_bits(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Whole numbers from 0 to 65535 as 0 to 255; in pieces, or a large picture would take gigabytes."""
    found = np.empty(values.size, np.uint8)
    flat = values.reshape(-1)
    for start in range(0, values.size, _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.int64)
        found[start : start + _CHUNK] = (part.clip(0, 65535) / 257).round()
    return found.reshape(values.shape)
