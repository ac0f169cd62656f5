"""Variants -> the passes that they need, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mmerank.inputs.variants import ORIGINAL, Variant, Version

# Hook point, input, of which picture and which text (None where it does not matter), and whether rows were stacked.
Key = tuple[str, str, Version | None, Version | None, bool]


def key(point: str, kind: str, variant: Variant) -> Key:
    """What a measurement of a variant depends on, so that variants share what they have in common."""
    image = None if kind == "text" else variant.image
    text = None if kind == "image" else variant.text
    return point, kind, image, text, kind == "pair" and variant.read == "stacked"


@dataclass(frozen=True)
class Passes:
    """Vision encoder and connector run once per version of the picture, the LLM once per pass that is named here.

    Attributes:
        images: Versions of the picture that something is read of, the example's own first.
        texts: Versions of the text that something is read of.
        alone: Those of them that the LLM reads by themselves.
        pairs: For each version of the picture that is encoded, the texts that the LLM reads with it.
        stacked: Variants whose pair is made of rows of other passes.
        others: Pictures of other examples, with each of which the LLM reads the texts of `predicted`, for the loss of
            the response alone.
        predicted: Versions of the text whose response's loss is read, with each picture that they are measured with.
    """

    images: tuple[Version, ...]
    texts: tuple[Version, ...]
    alone: tuple[Version, ...]
    pairs: Mapping[Version, tuple[Version, ...]]
    stacked: tuple[Variant, ...]
    others: tuple[Version, ...] = ()
    predicted: tuple[Version, ...] = ()

    @classmethod
    def of(cls, variants: Sequence[Variant], others: Sequence[Version] = ()) -> Passes:
        """Those that variants need, in the order in which they are asked for; `others`: see there."""
        whole = dict.fromkeys(variant.text for variant in variants if variant.read == "all")
        pairs: dict[Version, dict[Version, None]] = {}  # dictionaries, for their order
        for variant in variants:
            if variant.read != "stacked":
                pairs.setdefault(variant.image, {})[variant.text] = None
        return cls(
            images=tuple(dict.fromkeys([ORIGINAL, *(variant.image for variant in variants)])),
            texts=tuple(dict.fromkeys(variant.text for variant in variants)),
            alone=tuple(dict.fromkeys(variant.text for variant in variants if variant.read != "pair")),
            pairs={image: tuple(texts) for image, texts in pairs.items()},
            stacked=tuple(variant for variant in variants if variant.read == "stacked"),
            others=tuple(others),
            predicted=tuple(whole) if others else (),
        )

    @cached_property
    def kept(self) -> frozenset[Key]:
        """What rows are kept of until the batch is through, to be stacked."""
        return frozenset(key("llm", kind, variant) for variant in self.stacked for kind in ("image", "text"))
