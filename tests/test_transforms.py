from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mmerank.errors import DataError, UsageError
from mmerank.inputs.transforms.known import FORMS, KNOWN
from mmerank.inputs.transforms.transform import parse
from mmerank.inputs.variants import derangement

WIDTH, HEIGHT = 61, 42


def picture(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def changed(transform: str, image: Image.Image | None = None, *, example: str = "a", seed: int = 0) -> NDArray[Any]:
    (parsed,) = parse(transform)
    result = parsed.picture(image or picture(), example=example, seed=seed)
    assert result.mode == "RGB"
    return np.asarray(result).astype(int)


BEFORE = np.asarray(picture()).astype(int)

ONE_OF_EACH = {
    "identity": "identity",
    "rotate": "rotate:33",
    "flip": "flip:vertical",
    "crop": "crop:0.5",
    "zoom": "zoom:2",
    "blur": "blur:1.5",
    "noise": "noise:12.5",
    "jpeg": "jpeg:40",
    "brightness": "brightness:0.7",
    "contrast": "contrast:1.5",
    "grey": "grey",
    "occlude": "occlude:0.2",
    "shuffle": "shuffle:4",
    "blank": "blank:#102030",
}


def test_every_picture_transform_is_tried_here() -> None:
    assert set(ONE_OF_EACH) == {name for name, known in KNOWN.items() if known.of == "picture" and known.apply}


@pytest.mark.parametrize("transform", ONE_OF_EACH.values())
def test_the_original_is_left_alone_and_the_name_means_the_same(transform: str) -> None:
    original = picture()
    first = changed(transform, original)
    assert np.array_equal(np.asarray(original), BEFORE)
    (parsed,) = parse(transform)
    assert parsed.name == transform and parse(parsed.name) == (parsed,)
    assert np.array_equal(first, changed(transform))
    assert np.array_equal(first, BEFORE) == (transform == "identity")


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (270, 3), (-90, 3), (0, 0), (360, 0)])
def test_quarter_turns_are_exact_and_clockwise(degrees: int, turns: int) -> None:
    assert np.array_equal(changed(f"rotate:{degrees}"), np.rot90(BEFORE, -turns))


@pytest.mark.parametrize(
    "composition",
    [
        "rotate:90+rotate:90+rotate:90+rotate:90",
        "rotate:90+rotate:270",
        "flip:horizontal+flip:horizontal",
        "flip:vertical+flip:vertical",
        "flip:horizontal+flip:vertical+rotate:180",
        "crop:1",
        "zoom:1",
        "blur:0",
        "noise:0",
        "brightness:1",
        "contrast:1",
        "occlude:0",
        "shuffle:1",
    ],
)
def test_what_comes_back_to_the_picture(composition: str) -> None:
    assert np.array_equal(changed(composition), BEFORE)


def test_other_angles_show_everything_on_grey() -> None:
    white = Image.new("RGB", (100, 60), "white")
    values = changed("rotate:30", white)
    height, width, _ = values.shape
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    assert abs(width - (100 * c + 60 * s)) <= 2 and abs(height - (100 * s + 60 * c)) <= 2
    assert (values[0, 0] == 128).all() and (values[-1, -1] == 128).all()
    assert (values == 255).all(axis=2).sum() == pytest.approx(6000, rel=0.05)
    # Clockwise: a mark in the top middle goes to the right.
    white.paste((255, 0, 0), (45, 0, 55, 10))
    rows, columns = np.nonzero((changed("rotate:30", white) == (255, 0, 0)).all(axis=2))
    assert columns.mean() > width / 2 + 5 and rows.mean() < height / 2


def test_flip() -> None:
    assert np.array_equal(changed("flip:horizontal"), BEFORE[:, ::-1])
    assert np.array_equal(changed("flip:vertical"), BEFORE[::-1])


def test_crop_and_zoom_show_the_centre() -> None:
    assert np.array_equal(changed("crop:0.5", picture(60, 40)), np.asarray(picture(60, 40))[10:30, 15:45])
    assert changed("crop:0.001").shape == (1, 1, 3)
    centre = picture(60, 40).crop((15, 10, 45, 30)).resize((60, 40), Image.Resampling.BICUBIC)
    # At the cut Pillow looks at the pixels beyond, which a crop has lost.
    assert np.array_equal(changed("zoom:2", picture(60, 40))[8:-8, 8:-8], np.asarray(centre)[8:-8, 8:-8])


def test_blur_spreads_an_edge_over_its_radius() -> None:
    wide = Image.new("RGB", (101, 101))
    wide.paste((255, 255, 255), (0, 0, 51, 101))  # an edge: its derivative is the kernel
    edge = changed("blur:4", wide)[50, :, 0]
    kernel = -np.diff(edge) / 255
    x = np.arange(len(kernel))
    mean = (kernel * x).sum()
    assert np.sqrt((kernel * (x - mean) ** 2).sum()) == pytest.approx(4, rel=0.05)
    assert np.array_equal(changed("blur:4", wide), np.asarray(wide.filter(ImageFilter.GaussianBlur(4))))


def test_noise_has_the_mean_and_deviation_it_says() -> None:
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    added = changed("noise:20", grey) - 128
    assert abs(added.mean()) < 4 * 20 / np.sqrt(added.size)
    assert added.std() == pytest.approx(np.sqrt(400 + 1 / 12), rel=0.01)
    assert abs(np.corrcoef(added[..., 0].ravel(), added[..., 1].ravel())[0, 1]) < 0.03
    half = changed("noise:10", grey) - 128
    assert np.corrcoef(added.ravel(), half.ravel())[0, 1] > 0.99, "a sweep scales one pattern"
    twice = changed("noise:20+noise:20", grey) - 128
    assert twice.std() == pytest.approx(20 * np.sqrt(2), rel=0.02), "two patterns, not one doubled"


def test_jpeg_changes_values_but_not_the_size() -> None:
    file = io.BytesIO()
    picture().save(file, "JPEG", quality=40)
    assert np.array_equal(changed("jpeg:40"), np.asarray(Image.open(file)))
    errors = [np.abs(changed(f"jpeg:{quality}") - BEFORE).mean() for quality in (5, 50, 95)]
    assert errors == sorted(errors, reverse=True) and errors[-1] > 0


def test_brightness_contrast_and_grey() -> None:
    assert np.abs(changed("brightness:0.5") - BEFORE / 2).max() <= 1
    assert np.array_equal(changed("brightness:100"), np.where(BEFORE > 2, 255, np.minimum(BEFORE * 100, 255)))
    luma = np.rint(BEFORE @ [0.299, 0.587, 0.114])
    assert np.abs(changed("grey") - luma[..., None]).max() <= 1 and np.ptp(changed("grey"), axis=2).max() == 0
    assert np.abs(changed("contrast:0.5") - (luma.mean() + (BEFORE - luma.mean()) / 2)).max() <= 1.5
    assert np.ptp(changed("contrast:0")) == 0


@pytest.mark.parametrize("size", [(100, 80), (80, 100), (300, 20), (20, 300)])
@pytest.mark.parametrize("fraction", [0.04, 0.25, 0.5, 1])
def test_the_square_covers_its_share_wholly_inside(size: tuple[int, int], fraction: float) -> None:
    places = set()
    for example in "abcdefgh":
        covered = (changed(f"occlude:{fraction}", Image.new("RGB", size), example=example) == 128).all(axis=2)
        rows, columns = np.nonzero(covered)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert abs(covered.sum() - fraction * covered.size) <= (height + width) / 2 + 1, "sides are whole pixels"
        assert height * width == covered.sum(), "one rectangle"
        assert height == width or min(size) in (height, width)
        places.add((rows.min(), columns.min()))
    assert len(places) > 1 or fraction == 1


def test_shuffle_moves_whole_patches() -> None:
    values = changed("shuffle:4")  # of 15 x 10 px; 1 column and 2 rows are left over
    assert np.array_equal(values[:, 60:], BEFORE[:, 60:]) and np.array_equal(values[40:], BEFORE[40:])

    def patches(of: NDArray[Any]) -> list[bytes]:
        return [of[10 * i : 10 * i + 10, 15 * j : 15 * j + 15].tobytes() for i in range(4) for j in range(4)]

    assert patches(values) != patches(BEFORE) and sorted(patches(values)) == sorted(patches(BEFORE))
    with pytest.raises(DataError, match="61 x 42 px cannot be cut into 43 x 43 patches"):
        changed("shuffle:43")


@pytest.mark.parametrize(
    ("transform", "colour"),
    [
        ("blank", (128, 128, 128)),
        ("blank:0", (0, 0, 0)),
        ("blank:white", (255, 255, 255)),
        ("blank:#102030", (16, 32, 48)),
    ],
)
def test_blank_has_one_colour(transform: str, colour: tuple[int, ...]) -> None:
    assert changed(transform).shape == BEFORE.shape and (changed(transform) == colour).all()


@pytest.mark.parametrize("transform", ["noise:20", "occlude:0.1", "shuffle:5"])
def test_randomness_belongs_to_seed_and_example(transform: str) -> None:
    one = changed(transform, example="a")
    assert not np.array_equal(one, changed(transform, example="b"))
    assert not np.array_equal(one, changed(transform, example="a", seed=1))
    assert np.array_equal(one, changed(transform, example="a"))


def test_words_of_the_response_change_places() -> None:
    (shuffle,) = parse("shuffle-words")
    response = "A cat,  a dog and\na bird sit on the wall of a house."
    text = shuffle.response(response, example="a")
    assert sorted(text.split(" ")) == sorted(response.split()) and text.split() != response.split()
    assert text == shuffle.response(response, example="a") != shuffle.response(response, example="b")
    assert shuffle.response(response, example="a", seed=1) != text


def test_sweeps_and_compositions() -> None:
    assert [t.name for t in parse("blur:1,2,4.0")] == ["blur:1", "blur:2", "blur:4"]
    assert [t.name for t in parse("rotate:90,180+grey+noise:5,7")] == [
        "rotate:90+grey+noise:5",
        "rotate:90+grey+noise:7",
        "rotate:180+grey+noise:5",
        "rotate:180+grey+noise:7",
    ]
    assert np.array_equal(changed("rotate:90+blur:2"), changed("blur:2", picture().transpose(Image.Transpose(4))))
    (both,) = parse("grey+shuffle-words")
    assert ([s.name for s in both.picture_steps], [s.name for s in both.text_steps]) == (["grey"], ["shuffle-words"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rot:90", "unknown transform 'rot:90'; known: identity, rotate:DEGREES"),
        ("", "unknown transform ''"),
        ("grey+", r"unknown transform 'grey\+': ''"),
        ("rotate", "'rotate': the strength is missing; write rotate:DEGREES"),
        ("rotate:", "'rotate:': expected a number from -360 to 360"),
        ("rotate:361", "expected a number from -360 to 360"),
        ("rotate:left", "'rotate:left': expected a number"),
        ("rotate:nan", "expected a number"),
        ("grey:1", "grey has no strength"),
        ("flip:both", r"expected horizontal or vertical \(flip:horizontal\|vertical\)"),
        ("crop:0", "expected a number above 0 to 1"),
        ("crop:1.1", "expected a number above 0 to 1"),
        ("zoom:0.5", "expected a number from 1 to 100"),
        ("blur:-1", "expected a number from 0 to 1000"),
        ("blur:1,x", "'blur:x': expected a number"),
        ("noise:inf", "expected a number from 0 to 255"),
        ("jpeg:50.5", "expected a whole number from 1 to 100"),
        ("jpeg:0", "expected a whole number from 1 to 100"),
        ("occlude:2", "expected a number from 0 to 1"),
        ("shuffle:0", "expected a whole number from 1 to 1000"),
        ("blank:256", "expected a grey level from 0 to 255, or a colour"),
        ("blank:nocolour", "expected a grey level"),
        ("grey+other", r"grey\+other: 'other' undoes what stands before it"),
        ("shuffle-words+other-text", "'other-text' undoes"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(text)


def test_unknown_names_list_every_form() -> None:
    with pytest.raises(UsageError) as error:
        parse("nonsense")
    assert all(form in str(error.value) for form in FORMS)


def test_a_turn_that_would_blow_up_is_refused() -> None:
    with pytest.raises(DataError, match="turned by 45 degrees, it has 70714 x 70714 px, over the limit"):
        changed("rotate:45", Image.new("RGB", (100_000, 5)))


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_derangement_pairs_everybody_with_somebody_else(count: int) -> None:
    ids = [f"id{i}" for i in range(count)]
    partners = derangement(ids, 0, "other")
    assert sorted(partners) == sorted(partners.values()) == sorted(ids)
    assert all(one != other for one, other in partners.items())
    assert derangement(reversed(ids), 0, "other") == partners
    if count > 9:
        assert derangement(ids, 1, "other") != partners != derangement(ids, 0, "other-text")


def test_there_must_be_another() -> None:
    with pytest.raises(UsageError, match="at least 2 examples, got 1"):
        derangement(["a"], 0)
