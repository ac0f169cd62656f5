"""What may be given for a picture -> what an example holds of it."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from mmerank.errors import DataError
from mmerank.files import regular_bytes
from mmerank.inputs.layouts import at_home
from mmerank.inputs.pictures import Encoded, Pictures
from mmerank.inputs.remote import is_address, remote_bytes

# A folder, or the address of one.
Place = Path | str


def picture_source(value: object, within: Place | None = None) -> Path | Encoded | Image.Image | None:
    """A picture as an example holds it.

    Args:
        value: A path or an address; the content of a file; both as `datasets` keeps them, `{"bytes", "path"}`; or an
            opened picture.
        within: Where paths are relative to, and must not lead out of. Default: the current folder, and anywhere.

    Returns:
        The file, its content, or the picture; None of anything else.

    Raises:
        DataError: A path leads out, or cannot be one.
    """
    if isinstance(value, (Image.Image, Encoded)):
        return value
    if isinstance(value, (str, Path)) and str(value) not in ("", "."):
        return _file(value, within)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _in_memory(bytes(value))
    if isinstance(value, Mapping) and {"bytes", "path"} & {*value}:
        content, path = value.get("bytes"), value.get("path")
        return picture_source(path if content is None else content, within)
    return None


def picture_sources(value: object, within: Place | None = None) -> Pictures | None:
    """A picture as an example holds it, or several of them where a list is given; a list of one is a picture.

    Args:
        value: As for `picture_source`, or a list of such.
        within: As there.

    Returns:
        One, or several; None where one of them is anything else, or the list is empty.

    Raises:
        DataError: As of `picture_source`.
    """
    value = as_list(value)
    if not isinstance(value, (list, tuple)):
        return picture_source(value, within)
    found = [source for of in value if (source := picture_source(of, within)) is not None]
    if not found or len(found) < len(value):
        return None
    return found[0] if len(found) == 1 else tuple(found)


def as_list(value: object) -> object:
    """A list in a column of pandas, which is an array there, as a list; anything else as it is."""
    is_array = hasattr(value, "dtype") and getattr(value, "ndim", None) == 1
    return list(value) if is_array else value  # type: ignore[call-overload]


def picture_content(value: object, within: Place | None = None) -> bytes:
    """The content of a picture's file.

    Args:
        value: As for `picture_source`, but no opened picture.
        within: As there.

    Returns:
        All of it.

    Raises:
        DataError: There is none.
    """
    found = picture_source(value, within)
    if isinstance(found, Path):
        return regular_bytes(found)
    if not isinstance(found, Encoded):
        raise DataError("no image")
    return found.read()


def _in_memory(content: bytes) -> Encoded:
    known = hashlib.sha256(content).hexdigest()[:16]
    # By its name a run folder tells it from others.
    return Encoded(f"the picture of {len(content)} bytes, sha256 {known}", lambda: content, f"sha256 {known}")


def _file(value: Place, within: Place | None) -> Path | Encoded:
    if isinstance(value, str) and is_address(value):
        if isinstance(within, Path) or (within is not None and not _below(value, within)):
            raise DataError(f"image {value!r:.300} lies elsewhere than in {within}")
        return Encoded(value, partial(remote_bytes, value))
    if isinstance(within, str):
        address = posixpath.join(within, value)
        if not _below(address, within):
            raise DataError(_outside(value, within))
        return Encoded(address, partial(remote_bytes, address))
    if within is None:
        return at_home(str(value)) if str(value).startswith("~") else Path(value)
    return inside(within, str(value))


def _below(address: str, folder: str) -> bool:
    """Whether an address lies in a folder, also when its dots are followed."""
    scheme, _, rest = address.partition("://")
    of, _, there = folder.partition("://")
    return scheme == of and posixpath.normpath(rest).startswith(posixpath.normpath(there) + "/")


def inside(folder: Path, name: Any) -> Path:
    """The file `name` in `folder`, refused if it lies elsewhere.

    Args:
        folder: Any.
        name: As data have it.

    Returns:
        Its path.

    Raises:
        DataError: It leads out of the folder, or cannot be a path.
    """
    path: Path = folder / name
    try:
        within = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, names the file system cannot hold
        raise DataError(f"image {name!r:.300} is no usable path ({error})") from None
    if not within:
        raise DataError(_outside(name, folder))
    return path


def _outside(name: Any, folder: Place) -> str:
    above = (
        "; ?images=DIR behind its file, or &images=DIR behind other options, may name one above all of them"
        if str(name).startswith("/")
        else ""
    )
    return f"image {str(name)!r:.300} points outside the image folder ({folder}{above})"
