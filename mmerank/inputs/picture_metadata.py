"""What stands in a picture's file beside its pixels: no fault of it costs the picture."""

from __future__ import annotations

from contextlib import suppress

from PIL import Image

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow keeps what it reads an orientation from.
_SAYS_IT = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
# JPEG: what tells which colours the components are (JFIF and Adobe), with the bytes that a whole one has.
_COLOURS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
_SCAN = 0xDA


def loaded(picture: Image.Image) -> Image.Image:
    """The picture itself, decoded.

    Args:
        picture: Any.

    Returns:
        `picture`.
    """
    if picture.format == "TIFF":
        # Behind the pixels Pillow asks for this itself. What the parsers raise they raise the first time only.
        with suppress(Exception):
            picture.getexif()
    picture.load()
    return picture


def turned(picture: Image.Image) -> Image.Image:
    """The picture as its EXIF orientation says; as it is where that says nothing, nonsense, or cannot be read.

    Args:
        picture: Loaded.

    Returns:
        A picture of its own, or the same one.
    """
    try:
        orientation = picture.getexif().get(_ORIENTATION)
    except Exception:  # Pillow's parsers of EXIF and XMP raise anything
        return picture
    # A list would not be found in a dictionary, and 6.0 would.
    if type(orientation) is not int or orientation not in _UPRIGHT:
        return picture
    upright = picture.transpose(_UPRIGHT[orientation])
    for name in _SAYS_IT:  # once more would turn it once more
        upright.info.pop(name, None)
    return upright


def without_metadata(content: bytes) -> bytes | None:
    """The same file with nothing but what its pixels are made of.

    Args:
        content: Of a file.

    Returns:
        A PNG of its critical chunks and its transparency, or a JPEG without comments and application data; None for
        other files, and for those that are cut up in another way.
    """
    if content.startswith(_PNG):
        return _png(content)
    return _jpeg(content) if content.startswith(_JPEG) else None


def _png(content: bytes) -> bytes | None:
    kept, at = [_PNG], len(_PNG)
    while at < len(content):
        length, name = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if len(name) < 4 or not name.isalpha():
            return None
        # The first letter of what a decoder may pass over is small.
        is_needed, at = name[:1].isupper() or name == b"tRNS", at + 12 + length
        if is_needed:
            kept.append(content[at - 12 - length : at])
        if name == b"IEND":
            return b"".join(kept)
    # The last chunk says that it is longer than the file. Pixels that are cut stay so.
    return b"".join([*kept, b"\0\0\0\0IEND\xae\x42\x60\x82"]) if not is_needed else None


def _jpeg(content: bytes) -> bytes | None:
    kept, at = [_JPEG], len(_JPEG)
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # any number of them may stand before a marker
            at += 1
            continue
        if marker == _SCAN:
            return b"".join([*kept, content[at:]])
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        name, length = _COLOURS.get(marker, (b"", 0))
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not is_metadata or (name and content[at + 4 :].startswith(name) and end - at - 4 >= length):
            kept.append(content[at:end])
        at = end
    return None
