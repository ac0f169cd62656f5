"""What is explored has the numbers of `align` and `perturb` on the same picture, and what is too much is refused."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mmerank import Convention, Example, align, perturb
from mmerank.analysis.metrics.alignment import ALIGNMENT
from mmerank.errors import DataError, UsageError
from mmerank.jobs.explorer.measured import ID, LONGEST_TEXT, MAX_BYTES, MAX_PIXELS, Changes, Explorer, example_of
from mmerank.jobs.explorer.page import Exploring, decoded
from tests.adapters.cases import CASES, LLAVA, Case, examples

NUMBERS = [*ALIGNMENT]


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer(LLAVA.adapter)


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.name)
def test_numbers_are_those_of_align_on_the_picture_turned_by_hand(case: Case) -> None:
    example = examples()[0]
    assert isinstance(example.image, Image.Image)
    by_hand = example.image.transpose(Image.Transpose.ROTATE_270).filter(ImageFilter.GaussianBlur(2))
    found = Explorer(case.adapter).explored(example, Changes(rotate=90, blur=2))
    turned = Example(example.id, by_hand, example.instruction, example.response)
    expected = align(case.adapter, [turned], layers="all", convention=Convention(patches=True))
    assert [getattr(found.result, name) for name in NUMBERS] == [getattr(expected, name) for name in NUMBERS]
    assert found.result.layers == expected.layers
    assert np.array_equal(np.asarray(found.picture), np.asarray(by_hand))
    for label, rows in expected.patches(example.id).items():
        assert np.array_equal(found.result.patches(example.id)[label].contributions, rows.contributions)


def test_changes_are_those_of_perturb_also_where_they_are_random(explorer: Explorer) -> None:
    example, changes = examples()[1], Changes(rotate=30, crop=0.5, blur=1.5, noise=20)
    assert changes.written == "rotate:30+crop:0.5+blur:1.5+noise:20"
    found = explorer.explored(example, changes).result
    expected = perturb(LLAVA.adapter, [example], [changes.written]).transforms[0].result
    assert [getattr(found, name) for name in NUMBERS] == pytest.approx([getattr(expected, name) for name in NUMBERS])


def test_an_upload_is_what_align_makes_of_its_file(explorer: Explorer, tmp_path: object) -> None:
    example = examples()[2]
    assert isinstance(example.image, Image.Image)
    content = png(example.image)
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    found = explorer.explored(example_of(decoded(url), example.text)).result
    expected = align(LLAVA.adapter, [Example(ID, content, "", example.text)])
    assert [getattr(found, name) for name in NUMBERS] == [getattr(expected, name) for name in NUMBERS]


def test_threads_wait_for_each_other(explorer: Explorer) -> None:
    each = [Changes(rotate=45 * i, blur=i) for i in range(6)]
    alone = [explorer.explored(examples()[0], changes).result.erank5 for changes in each]
    with ThreadPoolExecutor(6) as pool:
        together = [*pool.map(lambda changes: explorer.explored(examples()[0], changes).result.erank5, each)]
    assert together == alone and len(set(alone)) == len(alone)


def test_nothing_changed_is_nothing_written() -> None:
    assert Changes().written == "" and Changes(noise=5).written == "noise:5"
    picture = examples()[0].image
    assert isinstance(picture, Image.Image)
    assert np.array_equal(np.asarray(Changes().applied(examples()[0]).image), np.asarray(picture))


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def test_too_much_is_refused(explorer: Explorer) -> None:
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(DataError, match="over the limit of 16 megapixels"):
        explorer.explored(example_of(bomb(side, side), "a cat"))
    with pytest.raises(DataError, match="over the limit of 10"):
        example_of(b"x" * (MAX_BYTES + 1), "a cat")
    with pytest.raises(DataError, match=f"{LONGEST_TEXT + 1} characters"):
        example_of(b"", "x" * (LONGEST_TEXT + 1))
    with pytest.raises(DataError, match="the text is empty"):
        example_of(b"", " \n")
    with pytest.raises(DataError, match="one picture, got 0"):
        explorer.explored(Example("a", None, "", "a cat"))
    with pytest.raises(UsageError, match="blur"):
        explorer.explored(examples()[0], Changes(blur=-1))
    with pytest.raises(DataError):
        explorer.explored(example_of(b"no picture", "a cat"))


@pytest.mark.parametrize(
    "upload",
    [
        "/etc/passwd",
        "http://127.0.0.1/x.png",
        "data:image/png,abc",
        "data:;base64,%%",
        {"path": "/etc/passwd"},
        None,
        3,
    ],
)
def test_an_upload_is_a_file_s_content_and_nothing_else(upload: object) -> None:
    with pytest.raises(DataError, match="no picture's file"):
        decoded(upload)


def test_an_upload_is_refused_by_its_length_before_it_is_decoded() -> None:
    with pytest.raises(DataError, match="over the limit of 10 MB"):
        decoded("data:image/png;base64," + "A" * (MAX_BYTES * 4 // 3 + 8))


def test_models_stand_side_by_side_before_and_after(explorer: Explorer) -> None:
    exploring = Exploring([explorer, Explorer(CASES[1].adapter)])
    chosen = exploring.chosen(examples()[0])
    picture, numbers = exploring.shown(chosen, Changes(rotate=90))
    assert "--transform rotate:90" in picture and "data:image/" in picture
    for of in exploring.measured(chosen.example, Changes(rotate=90)):
        assert f'<span class="value" data-label="erank5">{of.result.erank5:.2f}</span>' in numbers
    for before in chosen.before:
        assert f"before {before.result.erank1:.2f}" in numbers
    assert numbers.count('class="panel"') >= 4  # maps of both
    assert numbers.count("rank of the eigenvalue") == 2 and numbers.count("layer of the LLM") == 2
    assert "before" not in exploring.shown(chosen, Changes())[1]
