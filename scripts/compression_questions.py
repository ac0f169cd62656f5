"""Questions of multiple choice for `studies/compression.yaml`: which description is that of the picture?

    python -m scripts.compression_questions runs/compression

A question is a held-out scene of the demo world, with its own description and seven that each differ from it in one
word or place: position, size, colour or shape of one object. Seconds.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmerank.inputs.demo import PAIRS
from mmerank.inputs.demo.scenes import COLOURS, SHAPES, SIZES, Scene, Thing, scene

QUESTIONS = 128
CHOICES = 8
SLOTS = ("cell", "size", "colour", "shape")


def questions(folder: Path, count: int = QUESTIONS) -> Path:
    """Write questions and their pictures.

    Args:
        folder: Where; made where it is missing.
        count: How many.

    Returns:
        `questions.jsonl` in it, for `choices:`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(PAIRS, PAIRS + count):  # scenes that no pair of the demo shows
        asked, rng = scene("held-out", i), random.Random(f"choices/{i}")
        choices = [asked.description, *(other.description for other in nearly(asked, rng))]
        rng.shuffle(choices)
        asked.picture().save(folder / f"{asked.name}.png")
        right = choices.index(asked.description)
        line = {"id": asked.name, "image": f"{asked.name}.png", "question": asked.instruction}
        lines.append(json.dumps({**line, "choices": choices, "answer": right}))
    file = folder / "questions.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def nearly(asked: Scene, rng: random.Random) -> list[Scene]:
    """Scenes of which one object differs from a scene's in one slot; the slots take turns.

    Args:
        asked: The scene.
        rng: What is drawn.

    Returns:
        `CHOICES` - 1 of them, no two described alike.
    """
    found: dict[str, Scene] = {}
    while len(found) < CHOICES - 1:
        slot = SLOTS[len(found) % len(SLOTS)]
        place = rng.randrange(len(asked.things))
        things = [*asked.things]
        things[place] = _other(things[place], slot, {thing.cell for thing in asked.things}, rng)
        other = replace(asked, things=tuple(sorted(things, key=lambda thing: thing.cell)))
        if other.description != asked.description:
            found.setdefault(other.description, other)
    return list(found.values())


def _other(thing: Thing, slot: str, taken: set[int], rng: random.Random) -> Thing:
    if slot == "cell":
        return replace(thing, cell=rng.choice([cell for cell in range(9) if cell not in taken]))
    if slot == "size":
        return replace(thing, size=rng.choice([word for word in SIZES if word != thing.size]))
    if slot == "colour":
        return replace(thing, colour=rng.choice([word for word in COLOURS if word != thing.colour]))
    return replace(thing, shape=rng.choice([word for word in SHAPES if word != thing.shape]))


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says; of these words, or of this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    return parser.parse_args(words)


if __name__ == "__main__":
    print(questions(parsed().folder))
