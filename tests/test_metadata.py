"""Faults beside the pixels: the picture is what it is without them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from mmerank.errors import DataError
from mmerank.inputs.picture_metadata import without_metadata
from mmerank.inputs.pictures import Encoded, open_picture

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype=np.uint8))


def saved(kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    NOISE.save(content, kind, **options)
    return content.getvalue()


PNG, JPEG = saved("PNG"), saved("JPEG", quality=95)


def opened(content: bytes) -> Any:
    return np.asarray(open_picture(Encoded("picture", lambda: content)))


def chunk(name: bytes, data: bytes, checksum: int | None = None) -> bytes:
    found = zlib.crc32(name + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", found)


def png_with(name: bytes, data: bytes, checksum: int | None = None) -> bytes:
    return PNG[:33] + chunk(name, data, checksum) + PNG[33:]


def jpeg_with(marker: int, data: bytes) -> bytes:
    return JPEG[:2] + b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data + JPEG[2:]


def tiff_with(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """A TIFF with one more entry in its directory."""
    content = saved("TIFF")
    (start,) = struct.unpack("<I", content[4:8])
    (n,) = struct.unpack("<H", content[start : start + 2])
    entries = [content[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(n)]
    entries = sorted(
        [*entries, struct.pack("<HHI", tag, kind, count) + value], key=lambda e: struct.unpack("<H", e[:2])
    )
    content += b"\0" * (len(content) % 2)
    table = struct.pack("<H", len(entries)) + b"".join(entries) + b"\0" * 4
    return content[:4] + struct.pack("<I", len(content)) + content[8:] + table


def exif(
    tag: int = 0x0112, kind: int = 3, count: int = 1, value: bytes = b"\0\x06\0\0", *, at: int = 8, more: int = 0
) -> bytes:
    """One directory of one entry; the orientation 6 where nothing else is said."""
    return b"MM\0*" + struct.pack(">IHHHI", at, 1, tag, kind, count) + value + struct.pack(">I", more)


# What says nothing that can be followed: cut, of another kind, out of range, leading back to itself.
BROKEN = {
    "cut": exif()[:15],
    "header": b"XX\0*abcd",
    "nothing": b"",
    "outside": exif(at=0x7FFFFFFF),
    "itself": exif(0x8769, 4, 1, struct.pack(">I", 8)),
    "0": exif(value=b"\0\0\0\0"),
    "9": exif(value=b"\0\x09\0\0"),
    "99": exif(value=b"\0\x63\0\0"),
    "-1": exif(kind=8, value=b"\xff\xff\0\0"),
    "text": exif(kind=2, count=2, value=b"6\0\0\0"),
    "bytes": exif(kind=7, value=b"6\0\0\0"),
    "float": exif(kind=11, value=struct.pack(">f", 6.0)),
    "NaN": exif(kind=11, value=struct.pack(">f", float("nan"))),
    "rational": exif(kind=5, value=struct.pack(">I", 5000)),
    "kind": exif(kind=99),
    "none of it": exif(count=0),
    "count": exif(count=0xFFFFFFFF),
    "gps": exif(0x8825, 2, 4, b"abc\0"),
    "noise": np.random.default_rng(1).integers(0, 255, 200, dtype=np.uint8).tobytes(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_exif(name: str) -> None:
    data = BROKEN[name]
    expected = np.asarray(NOISE)
    assert np.array_equal(opened(png_with(b"eXIf", data)), expected)
    assert np.array_equal(opened(saved("WEBP", lossless=True, exif=b"Exif\0\0" + data)), expected)
    assert np.array_equal(opened(jpeg_with(0xE1, b"Exif\0\0" + data)), np.asarray(Image.open(io.BytesIO(JPEG))))


def test_an_orientation_that_can_be_read_counts_whatever_stands_beside_it() -> None:
    expected = np.asarray(NOISE.transpose(Image.Transpose.ROTATE_270))
    for data in (exif(), exif(more=8), exif() + b"noise"):
        assert np.array_equal(opened(png_with(b"eXIf", data)), expected)
    for value, method in enumerate(Image.Transpose, start=2):
        for kind in ("PNG", "TIFF"):
            written = Image.Exif()
            written[0x0112] = value
            # Of the file's own order: 2 is the first transposition, 8 the last.
            assert opened(saved(kind, exif=written)).shape == ((12, 8, 3) if value > 4 else (8, 12, 3)), method


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_picture_is_turned_once(kind: str) -> None:
    written = Image.Exif()
    written[0x0112] = 6
    content = saved(kind, exif=written)
    upright = open_picture(Encoded("picture", lambda: content))
    assert upright.size == (8, 12)
    assert np.array_equal(np.asarray(open_picture(upright)), np.asarray(upright))


def test_an_orientation_set_in_memory() -> None:
    for value in ([6], (6, 6), "6", 6.0, None, True):
        picture = NOISE.copy()
        picture.getexif()[0x0112] = value
        assert np.array_equal(np.asarray(open_picture(picture)), np.asarray(NOISE)), value


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"iCCP", b"x" * 100),
        (b"iCCP", b"x\0\x09abc"),
        (b"iCCP", b"x\0\0" + zlib.compress(b"\0" * (1 << 22))),
        (b"zTXt", b"k\0\x07abc"),
        (b"zTXt", b"k\0\0" + zlib.compress(b"a" * (1 << 22))),
        (b"iTXt", b"k\0\1\0\0\0" + zlib.compress(b"a" * (1 << 22))),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="9"/>\xff'),
        (b"tEXt", b"Raw profile type exif\0\nexif\n   4\nzzzz\n"),
        (b"pHYs", b"\0"),
        (b"gAMA", b"\0"),
        (b"cHRM", b"\0\0\0"),
        (b"sRGB", b""),
        (b"acTL", b"\0"),
        (b"fcTL", b"\0"),
        (b"fcTL", b"\0" * 26),
    ],
    ids=str,
)
def test_broken_chunks(name: bytes, data: bytes) -> None:
    expected = np.asarray(NOISE)
    assert np.array_equal(opened(png_with(name, data)), expected)
    assert np.array_equal(opened(PNG[:-12] + chunk(name, data) + PNG[-12:]), expected)  # behind the pixels


def test_checksums_and_lengths_of_metadata() -> None:
    expected = np.asarray(NOISE)
    assert np.array_equal(opened(png_with(b"tEXt", b"a\0b", checksum=1)), expected)
    assert np.array_equal(opened(PNG[:-12] + struct.pack(">I", 1 << 30) + b"tEXtabc"), expected)
    # Those of the pixels count.
    with pytest.raises(DataError, match="cannot be (read|decoded)|not an image"):
        opened(PNG[:50] + bytes([PNG[50] ^ 1]) + PNG[51:])
    with pytest.raises(DataError, match="picture: cannot be decoded"):
        opened(png_with(b"pHYs", b"\0")[:-200])


def test_transparency_is_no_metadata() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((1, 0), 1)
    content = io.BytesIO()
    picture.save(content, "PNG", transparency=1)
    whole = content.getvalue()
    assert opened(whole[:33] + chunk(b"pHYs", b"\0") + whole[33:])[0].tolist() == [[255, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(
    ("marker", "data"),
    [
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"ICC_PROFILE\0\x01\x05abc"),
        (0xE2, b"MPF\0MM\0*\0\0\0\x08\xff\xff"),
        (0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="9"'),
        (0xED, b"Photoshop 3.0\x008BIM\0\0"),
        (0xE0, b"JFIF\0"),
        (0xEE, b"Adobe"),
        (0xFE, b"\xff\xff"),
    ],
    ids=str,
)
def test_broken_segments(marker: int, data: bytes) -> None:
    assert np.array_equal(opened(jpeg_with(marker, data)), np.asarray(Image.open(io.BytesIO(JPEG))))


def test_colours_of_a_jpeg_stay() -> None:
    """Adobe's segment says that the four components are inverted CMYK: it is kept where another one is broken."""
    content = io.BytesIO()
    NOISE.convert("CMYK").save(content, "JPEG", quality=95)
    whole = content.getvalue()
    broken = whole[:2] + b"\xff\xed\x00\x16Photoshop 3.0\x008BIM\0\0" + whole[2:]
    assert np.array_equal(opened(broken), opened(whole))
    assert without_metadata(whole) is not None and b"Adobe" in (without_metadata(broken) or b"")


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [
        (274, 3, 1, b"\x09\0\0\0"),
        (274, 2, 2, b"6\0\0\0"),
        (274, 99, 1, b"\6\0\0\0"),
        pytest.param(
            *(274, 3, 0xFFFFFFFF, b"\0\0\0\0"),
            marks=pytest.mark.skipif(PIL.__version__ < "13", reason="Pillow before 13 does not open it"),
        ),
        (282, 2, 3, b"abc\0"),
        (700, 2, 4, b"abc\0"),
        (700, 3, 1, b"a\0\0\0"),
        (700, 1, 1000, struct.pack("<I", 1 << 30)),
        (34665, 2, 4, b"abc\0"),
        (34665, 4, 1, struct.pack("<I", 1 << 30)),
        (34675, 7, 1000, struct.pack("<I", 1 << 30)),
    ],
)
def test_broken_tags_of_a_tiff(tag: int, kind: int, count: int, value: bytes) -> None:
    assert np.array_equal(opened(tiff_with(tag, kind, count, value)), np.asarray(NOISE))
