from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmerank.errors import DataError
from mmerank.inputs.pictures import Encoded, open_picture, pillow_limit
from tests.bombs import bombs, gif, opened_apart, png

RED = np.zeros((4, 6, 3), dtype=np.uint8) + np.array([200, 30, 30], dtype=np.uint8)


def saved(tmp_path: Path, name: str, picture: Image.Image, **options: Any) -> Path:
    path = tmp_path / name
    picture.save(path, **options)
    return path


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    picture = open_picture(saved(tmp_path, "grey.png", Image.fromarray(values)))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    picture = open_picture(saved(tmp_path, "alpha.png", Image.fromarray(rgba)))
    assert np.asarray(picture)[0].tolist() == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]


def test_transparent_palette(tmp_path: Path) -> None:
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([255, 0, 0, 0, 255, 0])
    indexed.putpixel((1, 0), 1)
    picture = open_picture(saved(tmp_path, "palette.png", indexed, transparency=1))
    assert np.asarray(picture)[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    assert open_picture(saved(tmp_path, "turned.jpg", Image.fromarray(RED), exif=exif)).size == (4, 6)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_picture_of_several_examples_is_opened_by_several_threads(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, f"noise.{kind}", Image.fromarray(noise), exif=exif)
    expected = np.asarray(open_picture(path))
    assert expected.shape == (400, 300, 3)
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            shared = Image.open(path)  # only now will Pillow read it
            for found in threads.map(open_picture, [shared] * 4):
                assert np.array_equal(np.asarray(found), expected)


def test_warnings_of_other_threads_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `warnings.catch_warnings` puts back at its end is what it found, whatever others have set since."""
    path = saved(tmp_path, "red.png", Image.fromarray(RED))
    original = Image.open

    def opened(*arguments: Any, **named: Any) -> Image.Image:
        warnings.simplefilter("error", ImportWarning)  # as another thread might
        return original(*arguments, **named)

    monkeypatch.setattr(Image, "open", opened)
    with warnings.catch_warnings():
        open_picture(path)
        assert ("error", None, ImportWarning, None, 0) in warnings.filters


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "YCbCr", "RGB"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    if mode == "YCbCr" and PIL.__version__ < "13":
        pytest.skip("Pillow before 13 does not decode what it has written")
    path = saved(tmp_path, "picture.tiff", Image.fromarray(RED).convert(mode))
    assert open_picture(path).mode == "RGB"


def test_animation_shows_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    assert open_picture(path).getpixel((0, 0)) == (255, 0, 0)


def test_pictures_in_memory_are_taken_too() -> None:
    assert open_picture(Image.fromarray(RED).convert("RGBA")).mode == "RGB"


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 10)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data, b"IEND")
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jpg", b"", r"empty.jpg: empty file \(0 bytes\)"),
        ("text.jpg", b"this is no picture", "text.jpg: not an image"),
        ("huge.png", png_header(60000, 60000), "huge.png: .*over the limit of 100 megapixels"),
        ("short.png", png_header(500, 500), "short.png: cannot be decoded"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_picture(tmp_path / name)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.jpg: no such file in "):
        open_picture(tmp_path / "gone.jpg")


def test_truncated_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, "cut.jpg", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cut.jpg: cannot be decoded"):
        open_picture(path)


def test_floating_point_pixels(tmp_path: Path) -> None:
    path = saved(tmp_path, "float.tiff", Image.fromarray(np.ones((2, 2), dtype=np.float32)))
    with pytest.raises(DataError, match="floating-point"):
        open_picture(path)


def test_limit_can_be_set_in_both_directions(tmp_path: Path) -> None:
    path = saved(tmp_path, "picture.png", Image.fromarray(RED))
    with pytest.raises(DataError, match="over the limit"):
        open_picture(path, max_pixels=23)
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = 5  # Pillow's own limit is not what decides, and is left as it was
    try:
        assert open_picture(path, max_pixels=24).size == (6, 4)
        assert Image.MAX_IMAGE_PIXELS == 5
    finally:
        Image.MAX_IMAGE_PIXELS = before


def test_the_limit_of_several_threads_is_the_largest_and_goes_when_the_last_has_ended() -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert before is not None
    large, larger = 2 * before, 3 * before
    with pillow_limit(large):
        with pillow_limit(5):
            assert Image.MAX_IMAGE_PIXELS == large
        with pytest.raises(ZeroDivisionError), pillow_limit(larger):
            assert Image.MAX_IMAGE_PIXELS == larger
            _ = 1 / 0
        assert Image.MAX_IMAGE_PIXELS == large
    assert Image.MAX_IMAGE_PIXELS == before
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(_limited, range(2000)))
    assert Image.MAX_IMAGE_PIXELS == before


def _limited(number: int) -> None:
    limit = 200_000_000 + number
    with pillow_limit(limit):
        assert Image.MAX_IMAGE_PIXELS is not None and Image.MAX_IMAGE_PIXELS >= limit


def test_a_program_without_a_limit_gets_ours_while_a_picture_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    frame = tmp_path / "frame.gif"
    frame.write_bytes(gif((1, 1), (65_535, 65_535), 2))
    with pytest.raises(DataError, match="over the limit of 100 megapixels"):
        open_picture(frame)
    assert Image.MAX_IMAGE_PIXELS is None


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited")
def test_pictures_that_unpack_to_much_take_little(tmp_path: Path) -> None:
    contents = bombs()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    # What is refused takes what a small picture takes; these two are no larger than allowed.
    large = ["jump.bmp", "wide-strip.tiff"]
    small = [name for name in contents if name not in large]
    for name, (taken, answer) in opened_apart(tmp_path, small, 4_000_000_000).items():
        assert answer == "picture 2 x 2" or answer.startswith("DataError"), (name, answer)
        assert taken < 100, (name, taken, answer)
    found = opened_apart(tmp_path, large, 4_000_000_000)
    assert [answer for _, answer in found.values()] == ["picture 9000 x 9000", "picture 90000000 x 1"]


def test_deep_grey_takes_no_gigabytes(tmp_path: Path) -> None:
    (tmp_path / "deep.png").write_bytes(png(9_000, 9_000, bits=16))
    taken, answer = opened_apart(tmp_path, ["deep.png"], 4_000_000_000)["deep.png"]
    assert answer == "picture 9000 x 9000" and taken < 1000


@pytest.mark.parametrize("kind", ["ICO", "PCX", "TGA", "PSD", "ICNS"])
def test_other_formats_are_not_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    if kind == "PSD":
        path.write_bytes(b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\2\0\0\0\2\0\x08\0\3" + bytes(30))
    else:
        Image.new("RGB", (64, 64)).save(path, kind)
    with Image.open(path) as opened:
        assert opened.format == kind, "Pillow would"
    with pytest.raises(DataError, match="x.png: not an image in a format that is read: JPEG, PNG"):
        open_picture(path)


@pytest.mark.parametrize(
    "head", [b"\0\0\0 ftypisom", b"\x1aE\xdf\xa3\x9fB\x86\x81", b"RIFF\0\x10\0\0AVI LIST"], ids=["mp4", "webm", "avi"]
)
def test_a_video_is_told_as_one(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(head + bytes(range(256)))
    with pytest.raises(DataError, match=r"x\.png: a video; give its frames as several pictures"):
        open_picture(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "MPO"])
def test_formats_of_data_sets_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"  # the name does not count
    Image.fromarray(RED).save(path, kind)
    assert np.abs(np.asarray(open_picture(path)).astype(int) - RED).max() < 12


@settings(max_examples=200)
@given(st.binary(max_size=400), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM"]))
def test_any_bytes_give_a_picture_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, head: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(head + tail)
    try:
        assert open_picture(path).mode == "RGB"
    except DataError as error:
        assert "fuzz" in str(error)


def test_content_of_a_file() -> None:
    content = io.BytesIO()
    Image.fromarray(RED).save(content, "PNG")
    red = Encoded("row 3", content.getvalue)
    assert open_picture(red).tobytes() == Image.fromarray(RED).tobytes()
    with pytest.raises(DataError, match="row 3: empty file"):
        open_picture(Encoded("row 3", lambda: b""))
    with pytest.raises(DataError, match="row 3: not an image"):
        open_picture(Encoded("row 3", lambda: b"text"))
    with pytest.raises(DataError, match="over the limit"):
        open_picture(red, max_pixels=1)


def test_integers_of_32_bits(tmp_path: Path) -> None:
    """They have no defined white, as floating point has none: 0 to 255 would be nearly black, read as 16 bits."""
    values = np.array([[0, 100, 255]], dtype=np.int32)
    for picture in (saved(tmp_path, "whole.tiff", Image.fromarray(values)), Image.fromarray(values)):
        with pytest.raises(
            DataError, match=r"32-bit whole numbers have no defined white; convert it to 8 or 16 bits"
        ):
            open_picture(picture)
    (tmp_path / "grey.pgm").write_bytes(b"P5 3 1 65535\n" + np.array([0, 257, 65535], dtype=">u2").tobytes())
    assert np.asarray(open_picture(tmp_path / "grey.pgm"))[0, :, 0].tolist() == [0, 1, 255]
