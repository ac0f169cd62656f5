"""What an example is known by: hashes of its text and of its picture, as they were when it was measured."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import xxhash

from mmerank.errors import DataError, SourceError
from mmerank.inputs.example import Example
from mmerank.inputs.pictures import Encoded, Opened, Pictures, open_pictures


class Content(NamedTuple):
    """What a record knows its example by; empty where there is nothing, or it was not looked at.

    Attributes:
        text_digest: Of instruction and response.
        picture_digest: Of size and pixels, upright and in RGB, so that it does not matter how the picture is kept; of
            several, of their digests.
        picture_stamp: Bytes and time of modification (ns) of the picture's file; of one in a table of the hub,
            commit and row; of several, those of each. As long as they are the same, the picture is taken for the same
            without decoding it.
    """

    text_digest: str = ""
    picture_digest: str = ""
    picture_stamp: str = ""


def content_of(example: Example, picture: Opened | None = None, stamp: str = "") -> Content:
    """What an example is known by.

    Args:
        example: Any.
        picture: Its picture, as `mmerank.inputs.pictures.open_pictures` gives it, where it is measured.
        stamp: Of the picture's file, taken before it was opened.

    Returns:
        The hashes.
    """
    where = (example.places,) if example.places else ()
    text = xxhash.xxh3_64_hexdigest(repr((example.instruction, example.response, *where)).encode())
    return Content(text, "" if picture is None else picture_digest(picture), stamp)


def picture_digest(picture: Opened) -> str:
    """A hash of size and pixels, 16 hexadecimal digits; of several pictures, of their hashes in their order."""
    if isinstance(picture, tuple):
        return xxhash.xxh3_64_hexdigest(" ".join(map(picture_digest, picture)).encode())
    return xxhash.xxh3_64_hexdigest(f"{picture.mode} {picture.size} ".encode() + picture.tobytes())


def picture_stamp(source: Pictures | None) -> str:
    """What tells without reading a picture, or several, that it is the same; empty where nothing does."""
    if isinstance(source, tuple):
        stamps = [picture_stamp(of) for of in source]
        return ", ".join(stamps) if all(stamps) else ""
    if not isinstance(source, Path):
        return source.stamp if isinstance(source, Encoded) else ""
    try:
        found = source.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def difference(example: Example, known: Content, *, max_pixels: int) -> str | None:
    """In what an example is not the one that was measured.

    A picture that is gone, or cannot be read at the moment, tells nothing.

    Args:
        example: As it is now.
        known: By what a record knows it.
        max_pixels: Pictures with more are not decoded.

    Returns:
        In words, or None where it is the same.
    """
    if known.text_digest and known.text_digest != content_of(example).text_digest:
        return "its text is another"
    image, stamp = example.image, picture_stamp(example.image)
    if not known.picture_digest or image is None or stamp == known.picture_stamp != "":
        return None
    files = [of for of in example.pictures if isinstance(of, Path)]
    if not all(map(picture_stamp, files)):
        return None
    name = f" ({', '.join(map(str, files))})" if files else ""
    try:
        same = picture_digest(open_pictures(image, max_pixels=max_pixels)) == known.picture_digest
    except SourceError:
        return None
    except DataError as error:
        return f"its picture is another, which cannot be read ({error})"
    return None if same else f"its picture is another{name}"
