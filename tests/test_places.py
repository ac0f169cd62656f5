"""Where rows lie in a picture, against what is known of each family's layout, said by hand."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mmerank import load, wrap
from mmerank.errors import DataError
from mmerank.models.identity import identity
from mmerank.models.places import Places, Whereabouts, _sides
from tests.adapters.tiny_models import built

Floats = NDArray[np.float64]
# Of a picture's width or height: the strips that are looked at, and what scaling smears.
NEAR = 0.035


@cache
def places(name: str, size: tuple[int, int] = (96, 64)) -> Places:
    adapter: Any = load(name, device="cpu") if name.startswith("demo") else wrap(*built(name)[:2], name=name)
    return Whereabouts(adapter).of(size)


def grid(columns: int, rows: int, within: tuple[float, float, float, float] = (0, 0, 1, 1)) -> Floats:
    """Boxes in the order of reading, in a part of the picture."""
    left, top, right, bottom = within
    x = np.linspace(left, right, columns + 1)
    y = np.linspace(top, bottom, rows + 1)
    return np.array([[x[i], y[j], x[i + 1], y[j + 1]] for j in range(rows) for i in range(columns)])


def same(found: Floats | str, expected: Floats) -> bool:
    assert not isinstance(found, str), found
    return found.shape == expected.shape and bool(np.allclose(found, expected, atol=NEAR, equal_nan=True))


def cut(boxes: Floats) -> Floats:
    """The four patches in each box, in the order of reading."""
    return np.concatenate([grid(2, 2, tuple(box)) for box in boxes])


def tiles(columns: int, lines: int = 1, *, side: int) -> Floats:
    """Tiles line by line and a thumbnail behind them, of side x side rows each."""
    parts = [grid(side, side, tuple(box)) for box in grid(columns, lines)]
    return np.concatenate([*parts, grid(side, side)])


@pytest.mark.parametrize(
    ("name", "point", "expected"),
    [
        ("gemma3", "vision", grid(4, 4)),
        ("gemma3", "connector", grid(2, 2)),  # pooled
        ("paligemma", "llm", grid(4, 4)),
        ("mistral3", "connector", grid(3, 2)),  # as many patches as the picture's sides give, merged
        ("qwen2_5_vl", "llm", grid(3, 2)),
        ("internvl", "vision", cut(tiles(2, side=2))),  # as the pixel shuffle puts them side by side
        ("internvl", "connector", tiles(2, side=2)),  # pixel shuffle
        ("demo-minigpt-v2", "vision", grid(12, 12)),
        ("demo-minigpt-v2", "llm", grid(3, 12)),  # four in a line become one
        ("git", "connector", np.concatenate([[[np.nan] * 4], grid(4, 4, (1 / 6, 0, 5 / 6, 1))])),  # CLS, a crop
        ("demo-llava", "vision", np.concatenate([np.full((6, 4), np.nan), grid(6, 4), np.full((6, 4), np.nan)])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layouts(name: str, point: str, expected: Floats) -> None:
    assert same(getattr(places(name), point), expected)


@pytest.mark.parametrize(
    ("size", "columns", "lines"), [((96, 64), 2, 2), ((64, 96), 2, 2), ((300, 200), 2, 2), ((120, 50), 2, 1)]
)
def test_tiles_and_a_thumbnail(size: tuple[int, int], columns: int, lines: int) -> None:
    """Idefics 3: rows of the thumbnail are not taken for those of tiles with which they share a part."""
    found = places("idefics3", size)
    assert same(found.vision, tiles(columns, lines, side=4))
    for point in (found.connector, found.llm):  # pixel shuffle
        assert same(point, tiles(columns, lines, side=2))


def test_columns_that_share_two_thirds() -> None:
    """Rows of tiles and of a thumbnail, each seen through noise, and one that noise has made much narrower."""
    draw = np.random.default_rng(0)
    edges = np.linspace(0, 1, 61)
    expected = np.array([[15, 30], [20, 30], [30, 40], [30, 45]] * 6 + [[30, 45]]) / 60
    middles = (edges[1:] + edges[:-1]) / 2
    shares = ((middles > expected[:, :1]) & (middles < expected[:, 1:])) * draw.uniform(0.5, 1.5, (25, 60))
    shares[-1, 40:] /= 20
    found = _sides(edges, shares / shares.sum(axis=1, keepdims=True))
    assert np.allclose(found[:-1], expected[:-1], atol=0.02)
    assert any(np.array_equal(found[-1], column) for column in found[:-1]), "no column of its own"


def test_windows() -> None:
    """Qwen2.5-VL's encoder and merger hold rows by windows, as it says itself; they are put back before its LLM."""
    size, side = (160, 112), 2  # of a window, in merged rows
    _, processor, _ = built("qwen2_5_vl")
    thw = processor.image_processor(Image.new("RGB", size), return_tensors="pt")["image_grid_thw"]
    rows, columns = (thw[0, 1:] // 2).tolist()
    order = [
        row * columns + column
        for top in range(0, rows, side)
        for left in range(0, columns, side)
        for row in range(top, min(top + side, rows))
        for column in range(left, min(left + side, columns))
    ]
    assert order != sorted(order)
    merged, found = grid(columns, rows), places("qwen2_5_vl", size)
    assert same(found.llm, merged)
    assert same(found.connector, merged[order])
    assert same(found.vision, cut(merged[order]))


def test_rows_that_a_model_sorts_anew_before_its_llm() -> None:
    """LLaVA-NeXT: the thumbnail, then all tiles line by line with a newline behind each, without rows of padding."""
    found = places("llava_next", (300, 200)).llm
    assert not isinstance(found, str)
    assert same(found[:16], grid(4, 4))
    lines = found[16:].reshape(-1, 9, 4)
    assert np.isnan(lines[:, 8]).all()
    assert np.allclose(lines[:, :8, 0], np.arange(8) / 8, atol=NEAR)
    assert (np.diff(lines[:, 0, 1]) > 0).all() and len(lines) == 6


@pytest.mark.parametrize(("name", "point"), [("blip_2", "connector"), ("blip_2", "llm"), ("kosmos_2", "connector")])
def test_rows_of_no_one_place(name: str, point: str) -> None:
    why = getattr(places(name), point)
    assert isinstance(why, str) and ("each is made of all of it" in why or "do not follow one place" in why)
    assert not isinstance(places(name).vision, str)


def test_cross_attention_has_no_rows_at_the_llm() -> None:
    assert places("mllama").llm == "none of its rows is the picture's"


def test_the_trained_model_agrees_with_attention_and_all() -> None:
    """Without anything cut: a patch that changes changes most the row that was found to lie there."""
    adapter = load("demo-llava", device="cpu")
    found = Whereabouts(adapter).of((84, 84)).vision
    assert not isinstance(found, str)
    plain = np.random.default_rng(0).integers(0, 256, (84, 84, 3), dtype=np.uint8)

    def rows(pixels: NDArray[np.uint8]) -> torch.Tensor:
        return adapter.encode_images([adapter.pixels(Image.fromarray(pixels), "model")])[0].vision

    with torch.inference_mode():
        before = rows(plain)
        for row, box in enumerate((found * 84).round().astype(int)):
            left, top, right, bottom = box
            changed = plain.copy()
            changed[top:bottom, left:right] = 255 - changed[top:bottom, left:right]
            assert int((rows(changed) - before).norm(dim=1).argmax()) == row


def test_the_model_is_left_as_it_was() -> None:
    model, processor, _ = built("qwen2_5_vl")
    adapter = wrap(model, processor, name="q")
    picture = adapter.pixels(Image.new("RGB", (96, 64), "red"), "model")
    before, known = adapter.encode_images([picture])[0], identity(adapter)
    Whereabouts(adapter).of((96, 64))
    after = adapter.encode_images([picture])[0]
    assert torch.equal(before.vision, after.vision) and torch.equal(before.connector, after.connector)
    assert identity(adapter) == known
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_that_fails_says_why() -> None:
    def refuse(*args: Any) -> Any:
        raise DataError("no such picture")

    adapter: Any = SimpleNamespace(
        model=torch.nn.Sequential(torch.nn.Identity()),
        layers=[SimpleNamespace(module="0")],
        pixels=refuse,
        encode_images=refuse,
    )
    found = Whereabouts(adapter).of((8, 8))
    assert found.vision == found.llm == "the model does not read a generated picture (no such picture)"


def test_an_adapter_that_knows_is_asked() -> None:
    asked = []

    def own(*given: Any) -> Places:
        asked.append(given)
        return Places.unknown("I do not tell")

    of = Whereabouts(SimpleNamespace(places=own), "crop", "last")
    assert of.of((8, 9)) is of.of((8, 9)) and of.of((8, 9)).vision == "I do not tell"
    assert asked == [((8, 9), "crop", "last")]


def test_more_rows_than_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmerank.models.places.MOST_MAPPED", 36)
    found = Whereabouts(load("demo-minigpt-v2", device="cpu")).of((84, 84))
    assert found.vision == "it is not looked for where more than 36 rows lie"
    assert same(found.connector, grid(3, 12)) and same(found.llm, grid(3, 12))
