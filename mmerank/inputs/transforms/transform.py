"""Transforms by name and strength, of pictures and texts.

What is random depends on a seed, the name of the transform and the example's id alone: neither order nor batching
changes it, and the strengths of a sweep share their randomness (the same pattern of noise, scaled; the same place for
the square).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from PIL import Image

from mmerank.errors import UsageError
from mmerank.inputs.transforms.known import KNOWN, Known
from mmerank.inputs.transforms.own import forms, own, shown


@dataclass(frozen=True)
class Step:
    """One transform with its strength.

    Attributes:
        kind: Key of `KNOWN`, or the name of one's own.
        strength: As its function takes it; None where none is given.
        known: What it does.
    """

    kind: str
    strength: Any = None
    known: Known = field(kw_only=True, compare=False, repr=False)

    @property
    def name(self) -> str:
        """As it is written, `NAME` or `NAME:STRENGTH`."""
        return self.kind if self.strength is None else f"{self.kind}:{shown(self.strength)}"


@dataclass(frozen=True)
class Transform:
    """What happens to a picture, a text or both, step by step.

    Attributes:
        steps: In order.

    Raises:
        UsageError: Another example's picture or text comes after a step that it would undo.
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        for steps in (self.picture_steps, self.text_steps):
            for step in steps[1:]:
                if step.known.apply is None:
                    raise UsageError(f"{self.name}: {step.kind!r} undoes what stands before it; let it come first")

    @property
    def name(self) -> str:
        """As it is written: the steps joined by `+`."""
        return "+".join(step.name for step in self.steps)

    @property
    def picture_steps(self) -> tuple[Step, ...]:
        """The steps that concern the picture."""
        return tuple(step for step in self.steps if step.known.of == "picture")

    @property
    def text_steps(self) -> tuple[Step, ...]:
        """The steps that concern the text."""
        return tuple(step for step in self.steps if step.known.of == "text")

    def picture(self, picture: Image.Image, *, example: str, seed: int = 0) -> Image.Image:
        """The picture after all steps that concern it, from the example that `other` may have chosen.

        Args:
            picture: Upright, RGB.
            example: Id of the example.
            seed: Of what is random.

        Returns:
            A picture of mode RGB.

        Raises:
            DataError: The picture is too small or would become too large.
        """
        return _through(self.picture_steps, picture, example, seed)  # type: ignore[no-any-return]

    def response(self, response: str, *, example: str, seed: int = 0) -> str:
        """The response after all steps that concern the text, of the example that `other-text` may have chosen.

        Args:
            response: As it stands.
            example: Id of the example.
            seed: Of what is random.

        Returns:
            The changed response.
        """
        return _through(self.text_steps, response, example, seed)  # type: ignore[no-any-return]


def parse(text: str) -> tuple[Transform, ...]:
    """The transforms that an argument names.

    Args:
        text: `NAME[:STRENGTH]`, several joined by `+` to be done one after the other (`rotate:90+blur:2`). Several
            strengths joined by commas make a sweep: a transform for each (`blur:1,2,4`).

    Returns:
        One transform, or those of the sweep in its order.

    Raises:
        UsageError: A name is unknown, or a strength missing, out of range, or too much.

    Example:
        >>> [transform.name for transform in parse("rotate:-90+blur:1,2")]
        ['rotate:270+blur:1', 'rotate:270+blur:2']
    """
    return tuple(Transform(steps) for steps in product(*(tuple(_steps(part, text)) for part in text.split("+"))))


def _steps(part: str, whole: str) -> Iterable[Step]:
    kind, colon, strengths = part.partition(":")
    where = f"transform {whole!r}: " if part != whole else "transform "
    mine = None if kind in KNOWN else own(kind)
    if kind not in KNOWN and mine is None:
        raise UsageError(f"unknown {where}{part!r}; known: {', '.join(forms())}")
    known = KNOWN[kind] if mine is None else mine.known
    if known.strength is None:
        if colon:
            raise UsageError(f"{where}{part!r}: {kind} has no strength; write {known.form}")
        return [Step(kind, known=known)]
    if not colon:
        if known.optional:
            return [Step(kind, known=known)]
        if mine is not None and mine.strengths:
            return [Step(kind, strength, known=known) for strength in mine.strengths]
        raise UsageError(f"{where}{part!r}: the strength is missing; write {known.form}")
    return [_step(kind, known, strength, where) for strength in strengths.split(",")]


def _step(kind: str, known: Known, strength: str, where: str) -> Step:
    assert known.strength is not None
    try:
        return Step(kind, known.strength(strength), known=known)
    except (ValueError, OverflowError):
        expected = (known.strength.__doc__ or "").rstrip(".")
        expected = expected[:1].lower() + expected[1:]
        raise UsageError(f"{where}'{kind}:{strength}': expected {expected} ({known.form})") from None


def _through(steps: Iterable[Step], value: Any, example: str, seed: int) -> Any:
    seen: dict[str, int] = {}
    for step in steps:
        known = step.known
        count = seen[step.kind] = seen.get(step.kind, -1) + 1
        if known.apply is None:
            continue
        strength = () if step.strength is None else (step.strength,)
        # Not of the strength, so that a sweep shares it; of the count, so that noise twice is not noise doubled.
        drawn = (generator(seed, step.kind, count, example),) if known.random else ()
        value = known.apply(value, *strength, *drawn)
    return value


def generator(*key: object) -> np.random.Generator:
    """Random numbers that belong to a key and to nothing else."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(key).encode()).digest(), "big"))
