"""An example is known by its text and its picture as they were when it was measured."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmerank import Example, align, compare, diff, load_data, perturb
from mmerank.analysis.estimates import run_records
from mmerank.analysis.finished import read_runs
from mmerank.errors import RunFolderError
from mmerank.inputs.contents import content_of, picture_digest
from mmerank.inputs.example import DataSet, fingerprint
from mmerank.inputs.pictures import Encoded, open_picture
from mmerank.report.cautions import cautions
from tests.adapters.cases import LLAVA, MINIGPT_V2, at_the_encoder, examples
from tests.adapters.text_cases import OPT
from tests.conftest import GOLDEN
from tests.test_diff_erank import texts
from tests.test_texts import piped

ADAPTER = LLAVA.adapter


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "images", tmp_path / "images"))


def on_disk(pictures: Path) -> DataSet:
    """A data set whose manifest does not change when its pictures do."""
    files = sorted(pictures.iterdir())
    entries = [replace(one, image=file) for one, file in zip(examples(), files, strict=True)]
    return DataSet("pairs", "0123456789abcdef", tuple(entries))


def painted_over(pictures: Path) -> None:
    for file in pictures.iterdir():
        size = Image.open(file).size
        Image.effect_noise(size, 90).convert("RGB").save(file)


def pictures_seen(work: Callable[[], Any]) -> int:
    seen: list[int] = []
    handle = at_the_encoder(lambda output: seen.append(len(output[0])))
    try:
        work()
    finally:
        handle.remove()
    return sum(seen)


# Run folders.


def test_other_pictures_on_the_disk_are_refused(pictures: Path, tmp_path: Path) -> None:
    align(ADAPTER, on_disk(pictures), limit=2, out=tmp_path / "align")
    perturb(ADAPTER, on_disk(pictures), ["flip:horizontal"], out=tmp_path / "perturb")
    painted_over(pictures)
    message = (
        r"example '0' is not the one that was measured: its picture is another \(.*images.*\); name another folder"
    )
    with pytest.raises(RunFolderError, match=message):
        align(ADAPTER, on_disk(pictures), limit=2, out=tmp_path / "align")
    with pytest.raises(RunFolderError, match=message):
        perturb(ADAPTER, on_disk(pictures), ["flip:horizontal"], out=tmp_path / "perturb")
    with pytest.raises(RunFolderError, match=message):  # also for another model: the two would be compared
        align(MINIGPT_V2.adapter, on_disk(pictures), limit=2, out=tmp_path / "align")


def test_one_changed_pixel_is_another_picture(pictures: Path, tmp_path: Path) -> None:
    align(ADAPTER, on_disk(pictures), out=tmp_path / "run")
    last = sorted(pictures.iterdir())[-1]
    picture = Image.open(last).convert("RGB")
    picture.putpixel((3, 3), (1, 2, 3))
    picture.save(last, "PNG")
    with pytest.raises(RunFolderError, match="example '2' is not the one"):
        align(ADAPTER, on_disk(pictures), out=tmp_path / "run")


@pytest.mark.parametrize("how", ["touched", "copied", "kept in another format"])
def test_the_same_pictures_in_other_files_are_the_same(how: str, pictures: Path, tmp_path: Path) -> None:
    first = align(ADAPTER, on_disk(pictures), out=tmp_path / "run")
    for file in list(pictures.iterdir()):
        content = file.read_bytes()
        if how == "kept in another format":
            picture = open_picture(file)
            file.unlink()
            picture.save(file.with_suffix(".png"))
        else:
            file.unlink()
            file.write_bytes(content)
            os.utime(file, (1, 1))
    again: list[Any] = []
    assert pictures_seen(lambda: again.append(align(ADAPTER, on_disk(pictures), out=tmp_path / "run"))) == 0
    assert again[0].erank5 == first.erank5


def test_pictures_that_are_gone_or_not_measured_do_not_matter(pictures: Path, tmp_path: Path) -> None:
    data = on_disk(pictures)
    first, second, third = sorted(pictures.iterdir())
    content = second.read_bytes()
    second.write_bytes(content[:100])
    assert align(ADAPTER, data, out=tmp_path / "run").n == 2
    first.unlink()
    second.write_bytes(content)
    assert pictures_seen(lambda: align(ADAPTER, data, out=tmp_path / "run")) == 1
    align(ADAPTER, data, limit=2, out=tmp_path / "two")
    third.write_bytes(b"of no interest")
    assert align(ADAPTER, data, limit=2, out=tmp_path / "two").n == 1  # the first one is gone, its records stay away


def test_pictures_in_a_table_are_known_by_stamp_or_pixels(pictures: Path, tmp_path: Path) -> None:
    files = sorted(pictures.iterdir())

    def table(*, stamp: str = "", order: int = 1) -> list[Example]:
        found = zip(examples(), files[::order], strict=True)
        return [replace(one, image=Encoded("row", file.read_bytes, stamp)) for one, file in found]

    align(ADAPTER, table(), out=tmp_path / "plain")
    assert pictures_seen(lambda: align(ADAPTER, table(), out=tmp_path / "plain")) == 0
    with pytest.raises(RunFolderError, match="example '0' is not the one that was measured: its picture is another"):
        align(ADAPTER, table(order=-1), out=tmp_path / "plain")
    align(ADAPTER, table(stamp="commit 1"), out=tmp_path / "stamped")
    painted_over(pictures)
    assert align(ADAPTER, table(stamp="commit 1"), out=tmp_path / "stamped").n == 3
    with pytest.raises(RunFolderError, match="its picture is another"):
        align(ADAPTER, table(stamp="commit 2"), out=tmp_path / "stamped")


def test_other_texts_under_an_old_fingerprint_are_refused(tmp_path: Path) -> None:
    data = DataSet("texts", "f", tuple(texts()))
    diff(OPT.adapter, data, out=tmp_path / "run")
    other = replace(data, entries=(replace(texts()[0], response="Something else it is."), *texts()[1:]))
    with pytest.raises(RunFolderError, match="example '0' is not the one that was measured: its text is another"):
        diff(OPT.adapter, other, out=tmp_path / "run")


def test_texts_of_another_pipe_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    diff(OPT.adapter, load_data(piped(pipe, b"A cat sat on the mat.\nA dog did not.\n")), out=tmp_path / "run")
    pipe.unlink()
    other = load_data(piped(pipe, b"Quite another text.\nAnd one more of them.\n"))
    with pytest.raises(RunFolderError, match=r"data\.fingerprint"):
        diff(OPT.adapter, other, out=tmp_path / "run")


# In memory.


def paletted(*colours: int) -> Image.Image:
    picture = Image.new("P", (8, 8))
    picture.putpalette(colours)
    return picture


def test_the_fingerprint_of_examples_in_memory_sees_their_pictures() -> None:
    grey = Image.new("L", (8, 8))
    clear = grey.copy()
    clear.info["transparency"] = 0
    lying = grey.copy()
    lying.getexif()[0x0112] = 6
    pictures: list[Any] = [
        paletted(0, 0, 0),
        paletted(9, 9, 9),
        grey,
        clear,
        lying,
        Image.new("L", (4, 16)),
        Image.new("RGB", (8, 8)),
        Encoded("x", bytes),
        Path("y"),
        None,
    ]
    found = [fingerprint([Example("1", picture, "a", "b")]) for picture in pictures]
    assert len(set(found)) == len(found)


def test_pixels_count_and_not_how_they_are_kept(tmp_path: Path) -> None:
    picture = Image.effect_noise((20, 30), 80).convert("RGB")
    picture.save(tmp_path / "a.png")
    assert picture_digest(open_picture(tmp_path / "a.png")) == picture_digest(picture)
    assert picture_digest(picture) != picture_digest(picture.resize((30, 20)))
    assert picture_digest(Image.new("RGB", (2, 3))) != picture_digest(Image.new("RGB", (3, 2)))


def test_what_is_asked_and_what_is_answered_are_told_apart() -> None:
    assert content_of(Example("1", None, "a b", "c")) != content_of(Example("1", None, "a", "b c"))


# Compared.


def other_texts() -> list[Example]:
    return [replace(one, response=f"{one.response} Indeed.") for one in examples()]


def other_pictures() -> list[Example]:
    return [replace(one, image=one.image.rotate(180)) for one in examples()]  # type: ignore[union-attr]


@pytest.mark.parametrize(("other", "what"), [(other_texts, "text"), (other_pictures, "picture")])
def test_other_examples_of_the_same_ids_are_not_compared(
    other: Callable[[], list[Example]], what: str, tmp_path: Path
) -> None:
    message = f"expected the same examples on both sides, got another {what} for 3 of the ids .*'0' among them"
    a, b = align(ADAPTER, examples(), out=tmp_path / "a"), align(ADAPTER, other(), out=tmp_path / "b")
    with pytest.raises(ValueError, match=message):
        compare(a, b)
    with pytest.raises(ValueError, match=message):
        compare(a.to_pandas(), b.to_pandas())
    (one,), (two,) = (run_records(tmp_path / name).values() for name in "ab")
    with pytest.raises(ValueError, match=message):
        compare(one, two)
    turned = perturb(ADAPTER, other(), ["rotate:90"])
    with pytest.raises(ValueError, match=message):
        compare(a, turned.base)
    with pytest.raises(ValueError, match=message):
        compare(turned.transforms[0], a)


def test_the_same_examples_are_compared_however_they_are_kept(pictures: Path) -> None:
    files = list(on_disk(pictures).entries)
    lossless = [replace(one, image=open_picture(one.image)) for one in files if isinstance(one, Example)]  # type: ignore[arg-type]
    a, b = align(ADAPTER, files), align(MINIGPT_V2.adapter, lossless)
    assert compare(a, b).n == 3
    changed = perturb(ADAPTER, lossless, ["rotate:90", "shuffle-words", "other"])
    assert all(compare(one, a).n == 3 for one in changed.transforms)
    assert compare(changed.base, a)["erank5"].difference == pytest.approx(0, abs=1e-9)


def test_a_sign_for_a_picture_makes_no_other_text() -> None:
    signed = [replace(one, instruction=f"<image>\n{one.instruction}") for one in examples()]
    a, b, c = align(ADAPTER, examples()), align(ADAPTER, signed), perturb(ADAPTER, signed, ["rotate:90"])
    assert compare(a, b)["erank5"].difference == 0 and compare(a, c.base).n == 3


def test_other_texts_of_language_models_are_not_compared() -> None:
    a = diff(OPT.adapter, texts())
    b = diff(OPT.adapter, [replace(one, response=one.response[::-1]) for one in texts()])
    with pytest.raises(ValueError, match="another text for 3 of the ids"):
        compare(a, b)
    assert compare(a, diff(OPT.adapter, texts())).n == 3


def test_a_report_says_that_pictures_were_others(pictures: Path, tmp_path: Path) -> None:
    align(ADAPTER, on_disk(pictures), out=tmp_path / "before")
    align(MINIGPT_V2.adapter, on_disk(pictures), out=tmp_path / "same")
    painted_over(pictures)
    align(MINIGPT_V2.adapter, on_disk(pictures), out=tmp_path / "after")

    def said(*names: str) -> bool:
        return any("had other content" in line for line in cautions(read_runs([tmp_path / name for name in names])))

    assert said("before", "after") and not said("before", "same")
