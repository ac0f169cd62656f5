from __future__ import annotations

import hashlib
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from mmerank import load_data
from mmerank.inputs.demo import scenes
from mmerank.inputs.demo.scenes import CELL, COLOURS, GROUNDS, SIDE, described, export, scene
from mmerank.inputs.example import Example


def _light(x: int, y: int) -> float:
    """How bright the ground is there, written down a second time."""
    return 1.10 - 0.30 * y / (SIDE - 1) + 0.06 * x / (SIDE - 1)


def test_a_scene_is_the_same_everywhere() -> None:
    texts = [scene("held-out", i).description for i in range(64)]
    assert texts[0] == scene("held-out", 0).description
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    assert digest[:16] == "9678d45ab0d46a13", (
        "the held-out pairs changed: say so in mmerank.inputs.demo.FINGERPRINT and the changelog"
    )


def test_splits_do_not_share_scenes() -> None:
    described_in = {
        split: {scene(split, i).description for i in range(2000)} for split in ("train", "validation", "held-out")
    }
    assert not described_in["train"] & described_in["held-out"]
    assert not described_in["validation"] & described_in["held-out"]
    assert len(described_in["train"]) > 1990  # enough variety that next to none comes twice


def test_a_picture_shows_what_its_description_says() -> None:
    checked = 0
    for i in range(60):
        each = scene("validation", i)
        pixels = np.asarray(each.picture(), dtype=float)
        assert pixels.shape == (SIDE, SIDE, 3)
        filled = {t.cell: t for t in each.things}
        for cell in range(9):
            row, column = divmod(cell, 3)
            y, x = row * CELL + CELL // 2, column * CELL + CELL // 2
            if cell in filled and filled[cell].shape not in ("circle", "square", "cross", "star"):
                continue  # nothing of a ring or a letter need be in the middle
            colour = COLOURS[filled[cell].colour] if cell in filled else GROUNDS[each.ground]
            seen = pixels[y - 2 : y + 3, x - 2 : x + 3].mean(axis=(0, 1))
            np.testing.assert_allclose(seen, np.clip(np.array(colour) * _light(x, y), 0, 255), atol=9)
            checked += cell in filled
    assert checked > 50


def test_sizes_differ_in_the_area_they_cover() -> None:
    def area(size: str) -> float:
        thing = scenes.Thing(4, size, "black", "square")
        pixels = np.asarray(scenes.Scene("x", "mint", (thing, scenes.Thing(5, "small", "black", "circle"))).picture())
        return float((pixels[CELL : 2 * CELL, CELL : 2 * CELL].max(axis=2) < 60).sum())

    assert area("large") > 2 * area("small") > 0


def test_described_reads_what_description_writes() -> None:
    for each in (scene("train", i) for i in range(300)):
        assert described(each.description) == {t.cell: t for t in each.things}
        assert f"shows {scenes.NUMBERS[len(each.things)]} objects on a {each.ground} background" in each.description


@pytest.mark.parametrize(
    "text", ["", "In the top", "In the attic there is a large red circle.", "a large red circle"]
)
def test_described_passes_over_what_is_not_worded_so(text: str) -> None:
    assert described(text) == {}


def test_of_two_objects_in_a_cell_the_first_counts() -> None:
    text = "In the centre there is a small red ring. In the centre there is a large blue star."
    assert described(text)[4].name == "red ring"


def test_export_is_read_back_as_the_same_pairs(tmp_path: Path) -> None:
    manifest = export([scene("held-out", i) for i in range(3)], tmp_path / "world")
    pairs = list(load_data(f"llava:{manifest}"))
    for pair, original in zip(pairs, islice(load_data("demo"), 3), strict=True):
        assert isinstance(pair, Example) and isinstance(original, Example)
        assert (pair.id, pair.instruction, pair.response) == (original.id, original.instruction, original.response)
        assert isinstance(pair.image, Path)
        from PIL import Image

        with Image.open(pair.image) as read:
            np.testing.assert_array_equal(np.asarray(read), np.asarray(original.image))
    assert json.loads(manifest.read_text())[0]["conversations"][0]["value"].startswith("<image>\n")
