"""What first passes tell of a multimodal model: its points, how it reads text alone, whether a prefix is one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmerank.convention import SequenceForm
from mmerank.errors import MmerankError, ModelError, first_line
from mmerank.inputs.example import Example
from mmerank.inputs.sequence import Kind, TokenSequence
from mmerank_adapters.anatomy import Anatomy
from mmerank_adapters.feeding import Feeder, noise, with_places_at
from mmerank_adapters.inspection import Inspector
from mmerank_adapters.prints import prints
from mmerank_adapters.reading import Reader, forward
from mmerank_adapters.words import Word

TEXT = "A cat sat on the mat, in 1867."
# Largest relative difference between states of a prefix read with and without what follows that is rounding.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4}


@dataclass(frozen=True)
class Examined:
    """What first passes found.

    Attributes:
        reader: Runs the model.
        causal: Whether a position sees only what stands before it.
        alike: Rows at the vision point that a picture was padded with.
    """

    reader: Reader
    causal: bool
    alike: int


def read_by(
    feeder: Feeder, found: Anatomy, example: Example, kind: Kind, form: SequenceForm, *, answered: bool = True
) -> TokenSequence:
    """What the LLM reads for one example, places that the model itself puts in among it.

    Args:
        feeder: Around the model's processor.
        found: The model's points.
        example: The example, its picture opened.
        kind: `image`, `text` or `pair`.
        form: `bare` or `template`.
        answered: Of a template: with the response; else up to where the model is to write one.

    Returns:
        Ids, roles and further inputs.
    """
    sequence = feeder.sequence(example, kind, form, found.image_ids, answered=answered)
    return with_places_at(sequence, *found.inserted) if found.inserted and kind != "text" else sequence


def _inspected(model: Any, feeder: Feeder, word: Word, name: str) -> Anatomy:
    """The points of a model, found on a picture and a text."""
    pairs = [feeder.taken_apart(TEXT, noise(seed)) for seed in range(2)]

    def run(picture: int) -> None:
        forward(model, *pairs[picture])

    try:
        return Inspector(model, run, pairs[0][0].ids).anatomy(word.vision)
    except MmerankError as error:
        if feeder.guessed:
            raise ModelError(f"{error}; {feeder.guessed}") from error
        raise
    except Exception as error:  # of the model's own forward, anything
        raise ModelError(
            f"{name}: {type(model).__name__} fails on a picture and a text as its own processor gives "
            f"them ({first_line(error)})"
        ) from error


@torch.inference_mode()
def examined(model: Any, feeder: Feeder, word: Word, name: str) -> Examined:
    """See how text alone is run, whether the connector reads the text, and whether a prefix is one.

    Args:
        model: In eval mode.
        feeder: Around its processor.
        word: What is said of its family.
        name: The model's, for messages.

    Returns:
        What was found.

    Raises:
        ModelError: A point was not found, or too few rows of it; the model fails on what its processor gives, or its
            LLM on text alone.
    """
    found = _inspected(model, feeder, word, name)
    example = Example("", noise(0), "", TEXT)

    def sequence(kind: Kind) -> TokenSequence:
        return read_by(feeder, found, example, kind, "bare")

    reader = Reader(model, found, word, name)
    image = reader.encoded(*feeder.taken_apart("", noise(0)))
    # No two patches of a picture of noise are alike: what is, it was padded with.
    alike = len(image.vision) - len(torch.unique(prints(image.vision).round(decimals=5), dim=0))
    alone, text, pair = sequence("image"), sequence("text"), sequence("pair")
    try:
        reader.last(text, None)
    except Exception:  # whatever a model says that wants a picture
        reader.text_by_llm = True
        try:
            reader.last(text, None)
        except Exception as error:
            raise ModelError(f"{name}: its LLM cannot be run on text alone ({first_line(error)})") from error
    before, reader.reads_text = image.connector, True
    with_text = reader.last(pair, image)
    reader.reads_text = not _same(before, image.connector)
    causal = found.entry == "cross"  # no image input is read from anything
    if not causal and pair.starts_with(alone):
        of_prefix = reader.last(alone, image)
        apart = float((of_prefix - with_text[: len(of_prefix)]).norm() / of_prefix.norm())
        causal = math.isfinite(apart) and apart <= _ROUNDING.get(model.dtype, 0.05)
    return Examined(reader, causal, alike)


def _same(before: Tensor, after: Tensor) -> bool:
    return before.shape == after.shape and torch.allclose(before.float(), after.float(), rtol=1e-3, atol=1e-3)


def told(by: Examined, feeder: Feeder, config: Any) -> dict[str, Any]:
    """What was found, for the record.

    Args:
        by: This.
        feeder: Around the model's processor.
        config: The LLM's configuration.

    Returns:
        JSON's kinds alone.
    """
    reader, found = by.reader, by.reader.found
    vision = f"{'input' if found.argument else 'output'} of {found.vision}"
    layout = " (channels first)" if found.channels_first else ""
    cut = f" (neighbours side by side, cut to {found.width})" if found.width else ""
    entry = {"embeddings": "its embeddings", "block": "its first block"}.get(found.entry, found.cross)
    encoder = any(getattr(of, "is_encoder_decoder", False) for of in (config, reader.model.config))
    return {
        "llm": found.llm,
        "final": found.final,
        "connector": found.connector,
        "vision": vision + layout + cut,
        "enters": entry,
        "matched": dict(found.matched),
        "placeholder": feeder.placeholder,
        **({"added": True} if found.added else {}),
        **({"alike": f"{by.alike} rows at the vision point, of padding"} if by.alike else {}),
        **({"connector_reads_text": True} if reader.reads_text else {}),
        **({"text_alone": "by the LLM"} if reader.text_by_llm else {}),
        **({"encoder_decoder": "eRank3 to eRank5 are the encoder's"} if encoder else {}),
        **({"word": dict(reader.word._asdict())} if reader.word != Word() else {}),
    }
