"""Signs in a text that stand for its pictures: taken off, and the reason of a skip where that is not understood."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from mmerank.convention import SequenceForm
from mmerank.inputs.example import IMAGE_TAG, Example, Skipped

# What data sets write: LLaVA's, MiniGPT's, DeepSeek-VL's, and those that were made for Qwen-VL, Llama-3.2, Phi-3,
# Gemma-3, InternVL and Pixtral. They stand for a picture whichever model reads them, so that models are compared on
# the same texts.
USUAL = (
    "<Img><ImageHere></Img>",
    "<ImageHere>",
    IMAGE_TAG,
    "<Image>",
    "<IMAGE>",
    "<image_placeholder>",
    "<|image_pad|>",
    "<|image|>",
    "<|image_1|>",
    "<start_of_image>",
    "<image_soft_token>",
    "<IMG_CONTEXT>",
    "[IMG]",
)
_NAMES = re.compile(r"(image|img|vision)\w*_token_(id|index)")


def placeholders(model: Any, tokenizer: Any) -> tuple[str, ...]:
    """What stands for a picture in a text: what data sets usually write, and the tokens that the model has for it.

    Args:
        model: A model with a configuration of transformers, or without.
        tokenizer: The LLM's, as transformers loads it, or another, or None.

    Returns:
        Strings, longer ones first.
    """
    config: Any = getattr(model, "config", None)
    stated = config.to_dict() if hasattr(config, "to_dict") else {}
    numbers = [value for name, value in stated.items() if _NAMES.fullmatch(name) and type(value) is int]
    known = {number: token.content for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    own = [known.get(number) for number in numbers] + [getattr(tokenizer, "image_token", None)]
    signs = {*USUAL, *(token for token in own if isinstance(token, str) and token)}
    return tuple(sorted(signs, key=lambda sign: (-len(sign), sign)))


def without_placeholders(signs: tuple[str, ...], entries: Iterable[Example | Skipped]) -> Iterator[Example | Skipped]:
    """The entries, with texts that say nothing of where the picture stands: that is the model's template.

    Args:
        signs: What stands for a picture, longer ones first.
        entries: Any number.

    Yields:
        One entry for each; a `Skipped` where a placeholder stands inside of a text, or there are several.
    """
    for entry in entries:
        yield entry if isinstance(entry, Skipped) else without_placeholder(signs, entry)


def as_fed(signs: tuple[str, ...], example: Example, form: SequenceForm) -> Example | Skipped:
    """The same of an example that is fed in a form: pictures within a text have no place in a bare sequence.

    Args:
        signs: What stands for a picture, longer ones first.
        example: Any.
        form: Of the sequence.

    Returns:
        As from `without_placeholder`.
    """
    plain = without_placeholder(signs, example)
    if form == "bare" and not isinstance(plain, Skipped) and plain.places:
        return Skipped(
            example.id,
            "its pictures stand within its text, and the bare sequence has pictures before the text; --sequence "
            "template keeps their places",
        )
    return plain


def without_placeholder(signs: tuple[str, ...], example: Example) -> Example | Skipped:
    """The example without the sign for its picture and the white space beside it.

    As LLaVA's data have it, it stands before the instruction or behind it; of a text without an instruction, before
    or behind the whole. Of several pictures, each has a sign there, or none has; or each has one in the instruction,
    some inside of it, and then these are the pictures' places.

    Args:
        signs: What stands for a picture, longer ones first.
        example: Any.

    Returns:
        The same example where there is no sign, one with another text, or why it cannot be read.
    """
    if example.image is None or not any(sign in example.instruction or sign in example.response for sign in signs):
        return example
    name, count, taken = "instruction" if example.instruction.strip() else "response", len(example.pictures), 0
    found = _interleaved(signs, example) or example
    while not found.places and taken < count:
        if (text := _stripped(signs, getattr(found, name))) == getattr(found, name):
            break
        found, taken = _with_text(found, name, text), taken + 1
    if 0 < taken < count:
        return Skipped(example.id, f"the {name} holds a sign for {taken} of {count} pictures")
    for name in ("instruction", "response"):
        if left := [sign for sign in signs if sign in getattr(found, name)]:
            what = f"{left[0]}, the sign for a picture, " + ("once more" if found != example else "inside of it")
            several = " or, once for each, within the instruction" if count > 1 else ""
            return Skipped(
                example.id,
                f"the {name} holds {what}; it may stand once{' for each' if count > 1 else ''}, before the text or "
                f"behind the instruction{several}",
            )
    return found


def _interleaved(signs: tuple[str, ...], example: Example) -> Example | None:
    """The example with its pictures' places, if each has a sign in the instruction and one has text on both sides."""
    parted = re.split("|".join(map(re.escape, signs)), example.instruction)
    parts = [part.strip() for part in parted]
    count = len(parts) - 1
    around = any(any(parts[: i + 1]) and any(parts[i + 1 :]) for i in range(count))
    if not around or count < 2 or count != len(example.pictures):
        return None
    text, places = parts[0], list[int]()
    for part in parts[1:]:
        places.append(len(text))
        text = " ".join(filter(None, (text, part)))
    return replace(example, instruction=text, places=tuple(places))


def _with_text(example: Example, name: str, text: str) -> Example:
    return replace(example, instruction=text) if name == "instruction" else replace(example, response=text)


def _stripped(signs: tuple[str, ...], text: str) -> str:
    for sign in signs:
        if text.lstrip().startswith(sign):
            return text.lstrip().removeprefix(sign).lstrip()
        if text.rstrip().endswith(sign):
            return text.rstrip().removesuffix(sign).rstrip()
    return text
