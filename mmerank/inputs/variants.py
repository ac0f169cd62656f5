"""What a probe measures of each example: versions of its picture and of its text, put together in pairs."""

from __future__ import annotations

import hashlib
import reprlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from mmerank.errors import DataError, UsageError
from mmerank.inputs.example import Example
from mmerank.inputs.pictures import MAX_PIXELS, of_each, open_pictures
from mmerank.inputs.transforms.own import OwnTransform, as_transform, forms
from mmerank.inputs.transforms.transform import Transform, parse

Control = Literal["mismatch", "independent"]
# A name with its strength, a function of one's own, or what `mmerank.transform` makes of one.
Asked = str | Callable[..., Any] | OwnTransform


@dataclass(frozen=True)
class Version:
    """A picture, or a text, made of each example. Two of the same name are the same.

    Attributes:
        name: Unique among those of a run.
        of: Example -> the example with the other picture (opened) or text; gets examples whose picture is opened
            where it is a picture that is made.
    """

    name: str
    of: Callable[[Example], Example] = field(compare=False, default=lambda example: example)


ORIGINAL = Version("none")


@dataclass(frozen=True)
class Variant:
    """What is measured under one name.

    Attributes:
        name: Goes to the records as their `transform`.
        image: The picture.
        text: The text.
        read: `all` five measurements; the `pair` input alone; or `stacked`: the LLM's rows of the image input and
            those of the text input without BOS, from passes that do not know of each other, as if they were the
            pair's.
    """

    name: str
    image: Version = ORIGINAL
    text: Version = ORIGINAL
    read: Literal["all", "pair", "stacked"] = "all"


BASE = Variant("none")


def asked_for(
    transforms: Iterable[Asked], controls: Iterable[str], control_draws: int
) -> tuple[tuple[Transform, ...], tuple[Control, ...]]:
    """The transforms and controls that arguments name, sweeps taken apart.

    A transform that is asked for several times, as `rotate:0` by both ends of `rotate:0,90,180,270,360`, is measured
    once, with a warning. Transforms of other names are measured each, also those that leave a picture as it is
    (`blur:0`, `zoom:1`).

    Args:
        transforms: As for `mmerank.perturb`.
        controls: As for `mmerank.perturb`.
        control_draws: As for `mmerank.perturb`.

    Returns:
        Transforms in the order asked for, and controls.

    Raises:
        TypeError: One string is given for a list of them, or something else than a name.
        UsageError: One is unknown, or there is nothing to do.
    """
    controls = _names(controls, "control", "mismatch")
    written = [given if isinstance(given, str) else as_transform(given) for given in _list(transforms)]
    mine: dict[str, str] = {}
    for of in written:
        if isinstance(of, OwnTransform) and mine.setdefault(of.name, of.known.source) != of.known.source:
            raise UsageError(f"transform {of.name!r}: two functions have this name; give one of them another")
    found: dict[str, Transform] = {}
    for transform in (t for of in written for t in parse(of if isinstance(of, str) else of.written)):
        if transform.name in found:
            warnings.warn(
                f"transform {transform.name!r} is asked for more than once, perhaps by different strengths that mean "
                "the same; it is measured once",
                stacklevel=1,  # from wherever it comes, said once
            )
        found.setdefault(transform.name, transform)
    known, named = get_args(Control), set(controls)
    if unknown := sorted(named - set(known)):
        raise UsageError(f"unknown control {unknown[0]!r}; known: {', '.join(known)}")
    if not found and not named:
        raise UsageError(f"expected a transform or a control, got none; known transforms: {', '.join(forms())}")
    if control_draws < 1:
        raise UsageError(f"control_draws must be at least 1, got {control_draws}")
    return tuple(found.values()), tuple(kind for kind in known if kind in named)


def _list(given: object, what: str = "transform", example: str = "rotate:90") -> list[Any]:
    """What is in a list of names."""
    if isinstance(given, str):
        raise TypeError(f"{what}s: expected a list, got the text {given!r}; write [{given!r}]")
    if callable(given) or not isinstance(given, Iterable):
        raise TypeError(f"{what}s: expected a list of names, as [{example!r}], got {type(given).__name__}")
    return list(given)


def _names(given: object, what: str, example: str) -> list[str]:
    """The names in a list of nothing else."""
    names = _list(given, what, example)
    for name in names:
        if not isinstance(name, str):
            shown = reprlib.repr(name)
            raise TypeError(
                f"{what}s: expected names, as {example!r}, got {shown} ({type(name).__name__}) among them"
            )
    return names


def variant(
    transform: Transform, examples: Sequence[Example], *, seed: int = 0, max_pixels: int = MAX_PIXELS
) -> Variant:
    """A transform as something to measure.

    Args:
        transform: Any.
        examples: Those of the run, from which `other` and `other-text` choose.
        seed: Of what is random.
        max_pixels: Other examples' pictures with more are refused.

    Returns:
        The variant, of the transform's name. It can be applied to `examples` only.

    Raises:
        UsageError: Another example is asked for, and there is none.
    """
    image = text = ORIGINAL
    if steps := transform.picture_steps:
        image = Version(Transform(steps).name, _other_picture(transform, examples, seed, max_pixels))
    if steps := transform.text_steps:
        text = Version(Transform(steps).name, _other_text(transform, examples, seed))
    return Variant(transform.name, image, text)


def null_pairs(kinds: Iterable[Control], draws: int, examples: Sequence[Example], *, seed: int = 0) -> list[Variant]:
    """Pairs of a picture with the text of another example, which is what a null is made of.

    `mismatch` feeds picture and text as one pair; `independent` stacks the rows of two passes that do not know of
    each other. Draw r of both pairs the same examples.

    Args:
        kinds: `mismatch`, `independent`, or both.
        draws: How often each picture gets a text, a different derangement each time.
        examples: Those of the run.
        seed: Of the draws.

    Returns:
        `draws` variants of each kind, named `KIND/DRAW`.

    Raises:
        UsageError: There are fewer than two examples.
    """
    kinds = list(kinds)
    found = []
    for draw in range(draws if kinds else 0):
        text = Version(f"partner/{draw}", _partner_text(examples, (seed, "partner", draw)))
        for kind in kinds:
            found.append(Variant(f"{kind}/{draw}", text=text, read="pair" if kind == "mismatch" else "stacked"))
    return found


def derangement(ids: Iterable[str], *key: object) -> dict[str, str]:
    """Another id for each id, drawn by a key: one random cycle through all of them, whatever their order.

    Args:
        ids: Different ones, at least two.
        key: What the draw belongs to.

    Returns:
        Id -> another id, each taken once.

    Raises:
        UsageError: There are fewer than two.
    """
    found = cycle(ids, *key)
    if len(found) < 2:
        raise UsageError(f"pairing an example with another needs at least 2 examples, got {len(found)}")
    return dict(zip(found, found[1:] + found[:1], strict=True))


def cycle(ids: Iterable[str], *key: object) -> list[str]:
    """Ids in a random order that is drawn by a key, whatever their own order.

    Args:
        ids: Different ones.
        key: What the draw belongs to.

    Returns:
        All of them.
    """
    return sorted(ids, key=lambda name: (hashlib.sha256(repr((*key, name)).encode()).digest(), name))


def _other_picture(
    transform: Transform, examples: Sequence[Example], seed: int, max_pixels: int
) -> Callable[[Example], Example]:
    source = None
    if transform.picture_steps[0].known.apply is None:
        source = _partners(examples, (seed, "other"))

    def of(example: Example) -> Example:
        image = example.image
        if source is not None:
            other = source[example.id]
            try:
                image = other.image and open_pictures(other.image, max_pixels=max_pixels)
            except DataError as error:
                raise type(error)(f"the picture of example {other.id!r}: {error}") from None
        assert image is not None  # a probe measures no example without
        # Each of several with a draw of its own, the first with that of a picture alone.
        changed = of_each(
            open_pictures(image, max_pixels=max_pixels),
            lambda picture, i: transform.picture(
                picture, example=f"{example.id}/picture {i + 1}" if i else example.id, seed=seed
            ),
        )
        return replace(example, image=changed)

    return of


def _other_text(transform: Transform, examples: Sequence[Example], seed: int) -> Callable[[Example], Example]:
    begin = ORIGINAL.of
    if transform.text_steps[0].known.apply is None:
        begin = _partner_text(examples, (seed, "other-text"))

    def of(example: Example) -> Example:
        example = begin(example)
        return replace(example, response=transform.response(example.response, example=example.id, seed=seed))

    return of


def _partner_text(examples: Sequence[Example], key: tuple[object, ...]) -> Callable[[Example], Example]:
    partners = _partners(examples, key)

    def of(example: Example) -> Example:
        other = partners[example.id]
        return replace(example, instruction=other.instruction, response=other.response, places=())

    return of


def _partners(examples: Sequence[Example], key: tuple[object, ...]) -> dict[str, Example]:
    """Another example for each that a probe could measure."""
    usable = {example.id: example for example in examples if example.image is not None and example.text.strip()}
    return {name: usable[other] for name, other in derangement(usable, *key).items()}
