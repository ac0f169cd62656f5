"""The generated world of the embedded models: scenes of a few objects, each with an instruction and a description.

A scene has two to four objects in different cells of a 3 x 3 grid, on a ground that is lit from above, with a little
noise. Everything follows from the name of the scene, so that the same one is drawn on every machine.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmerank.durable import own_folder, whole
from mmerank.errors import UsageError
from mmerank.files import require_local
from mmerank.inputs.example import Example

Split = Literal["train", "validation", "held-out"]

SIDE = 168  # px
CELL = SIDE // 3
COLOURS = {
    "red": (205, 35, 35),
    "orange": (245, 130, 10),
    "yellow": (245, 225, 50),
    "green": (40, 140, 60),
    "blue": (35, 70, 200),
    "purple": (130, 50, 160),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
GROUNDS = {
    "grey": (135, 135, 135),
    "sand": (205, 185, 150),
    "pale blue": (165, 195, 220),
    "mint": (160, 210, 180),
    "rose": (220, 170, 180),
}
SHAPES = ("circle", "square", "triangle", "cross", "star", "ring", "letter A", "letter R")
SIZES = {"large": 5, "small": 14}  # px from the cell's edge
JITTER = 3  # px
PLACES = tuple(
    f"{row} {column}" if (row, column) != ("middle", "centre") else "centre"
    for row in ("top", "middle", "bottom")
    for column in ("left", "centre", "right")
)
NUMBERS = {2: "two", 3: "three", 4: "four"}
INSTRUCTIONS = (
    "Describe this image in detail.",
    "What can be seen in this picture?",
    "Write a detailed description of the image.",
    "Tell me everything that the picture shows.",
)


@dataclass(frozen=True)
class Thing:
    """One object of a scene: which cell of the grid it is in (0 to 8, row by row), and what it looks like."""

    cell: int
    size: str
    colour: str
    shape: str

    @property
    def name(self) -> str:
        """What the description calls it when it is mentioned again."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What is in a picture, in raster order."""

    name: str
    ground: str
    things: tuple[Thing, ...]

    @property
    def instruction(self) -> str:
        """One of `INSTRUCTIONS`."""
        return random.Random(f"instruction/{self.name}").choice(INSTRUCTIONS)

    @property
    def description(self) -> str:
        """Several sentences: how many objects on what ground, each of them, and how two of them lie."""
        first, last = self.things[0], self.things[-1]
        relation = "above" if first.cell // 3 < last.cell // 3 else "left of"
        return " ".join(
            [
                f"The picture shows {NUMBERS[len(self.things)]} objects on a {self.ground} background.",
                *(f"In the {PLACES[t.cell]} there is a {t.size} {t.colour} {t.shape}." for t in self.things),
                f"The {first.name} is {relation} the {last.name}.",
            ]
        )

    def picture(self) -> Image.Image:
        """The scene, drawn: RGB, 168 x 168."""
        rng = random.Random(f"picture/{self.name}")
        picture = Image.new("RGB", (SIDE, SIDE), GROUNDS[self.ground])
        draw = ImageDraw.Draw(picture)
        for thing in self.things:
            row, column = divmod(thing.cell, 3)
            x, y = (CELL * i + rng.randint(-JITTER, JITTER) for i in (column, row))
            margin = SIZES[thing.size]
            _draw(draw, thing.shape, COLOURS[thing.colour], x + margin, y + margin, CELL - 2 * margin)
        noise = np.random.default_rng(rng.getrandbits(64)).normal(0, 5, (SIDE, SIDE, 1))
        lit = np.asarray(picture, dtype=np.float64) * _light() + noise
        return Image.fromarray(lit.clip(0, 255).astype(np.uint8))

    def text_example(self) -> Example:
        """Instruction and description, without drawing the picture."""
        return Example(self.name, None, self.instruction, self.description)

    def example(self) -> Example:
        """Picture, instruction and description."""
        return replace(self.text_example(), image=self.picture())


def scene(split: Split, index: int) -> Scene:
    """A scene of a split.

    Args:
        split: `train`, `validation` or `held-out`; no scene depends on those of another split.
        index: Which one, from 0.

    Returns:
        The scene.
    """
    name = f"{split}-{index:05d}"
    rng = random.Random(f"scene/{name}")
    cells = sorted(rng.sample(range(9), rng.choice(list(NUMBERS))))
    ground = rng.choice(list(GROUNDS))
    things = (Thing(cell, rng.choice(list(SIZES)), rng.choice(list(COLOURS)), rng.choice(SHAPES)) for cell in cells)
    return Scene(name, ground, tuple(things))


def described(text: str) -> dict[int, Thing]:
    """The objects that a description names, by cell; of two in one cell the first.

    Args:
        text: A description as `Scene.description` words it, or a model's attempt at one.

    Returns:
        Cell -> object. What is not worded so is passed over.

    Example:
        >>> described("In the top left there is a large red letter A. In the top")
        {0: Thing(cell=0, size='large', colour='red', shape='letter A')}
    """
    found: dict[int, Thing] = {}
    for place, size, colour, shape in _SENTENCE.findall(text):
        cell = PLACES.index(place)
        found.setdefault(cell, Thing(cell, size, colour, shape))
    return found


def _one_of(words: Iterable[str]) -> str:
    return f"({'|'.join(map(re.escape, words))})"


_SENTENCE = re.compile(
    f"In the {_one_of(PLACES)} there is a {_one_of(SIZES)} {_one_of(COLOURS)} {_one_of(SHAPES)}\\."
)


def export(scenes: Sequence[Scene], folder: Path) -> Path:
    """Write scenes as a LLaVA data set: a manifest, and the pictures as PNG.

    Args:
        scenes: Which ones.
        folder: Where; made when missing.

    Returns:
        The manifest, for `llava:FILE.json`.

    Raises:
        UsageError: The folder is an address, or cannot be written to.
    """
    require_local(folder, "--export")
    images, manifest = folder / "images", folder / "scenes.json"
    records = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        own_folder(images)
        for each in scenes:
            with whole(images / f"{each.name}.png") as unfinished:
                each.picture().save(unfinished, "PNG")
            turns = (("human", f"<image>\n{each.instruction}"), ("gpt", each.description))
            conversation = [{"from": speaker, "value": value} for speaker, value in turns]
            records.append({"id": each.name, "image": f"{each.name}.png", "conversations": conversation})
        with whole(manifest) as unfinished:
            unfinished.write_text(json.dumps(records, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written to ({error.strerror or error})") from None
    return manifest


@lru_cache(maxsize=1)
def _light() -> np.ndarray:
    """Brighter above than below, and a little more so on the right: (SIDE, SIDE, 1)."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    return (1.10 - 0.30 * y + 0.06 * x)[..., None]  # type: ignore[no-any-return]


def _draw(draw: ImageDraw.ImageDraw, shape: str, fill: tuple[int, int, int], x: int, y: int, side: int) -> None:
    """A shape in the square of this side whose upper left corner is (x, y)."""
    if shape.startswith("letter"):
        font = _font(side)
        draw.text((x + side / 2, y + side / 2), shape[-1], fill, font, anchor="mm", stroke_width=1 + side // 24)
    elif shape == "circle":
        draw.ellipse((x, y, x + side, y + side), fill)
    elif shape == "ring":
        draw.ellipse((x, y, x + side, y + side), outline=fill, width=max(side // 6, 1))
    elif shape == "square":
        draw.rectangle((x, y, x + side, y + side), fill)
    else:
        corners = [(x + side * u, y + side * v) for u, v in _CORNERS[shape]]
        draw.polygon(corners, fill)


def _star() -> list[tuple[float, float]]:
    angles = np.pi * np.arange(10) / 5
    lengths = np.where(np.arange(10) % 2, 0.22, 0.5)
    return [(0.5 + r * np.sin(a), 0.5 - r * np.cos(a)) for r, a in zip(lengths, angles, strict=True)]


# Corners in units of the square's side.
_CORNERS: dict[str, list[tuple[float, float]]] = {
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
    "cross": [
        (x / 3, y / 3)
        for x, y in [(1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (2, 2), (2, 3), (1, 3), (1, 2), (0, 2), (0, 1), (1, 1)]
    ],
    "star": _star(),
}


@lru_cache(maxsize=4)
def _font(side: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(side)
