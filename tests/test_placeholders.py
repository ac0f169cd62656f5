"""A picture's sign in a text: the numbers are those of the text without it, or the example is skipped."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AddedToken, LlavaConfig

from mmerank import Convention, Example, align, perturb
from mmerank.inputs.demo import examples as scenes
from mmerank.inputs.example import IMAGE_TAG, Skipped
from mmerank.inputs.placeholders import USUAL, placeholders, without_placeholder
from tests.adapters.cases import CASES

BEFORE = ["<image>\n{}", "  <image>{}", "<image> \n {}", "{}\n<image>", "{} <image>  "]


def numbers(result: Any) -> list[float]:
    return [getattr(result, f"erank{i}") for i in range(1, 6)] + [result.image_text_alignment]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("sequence", ["bare", "template"])
def test_the_numbers_are_those_of_the_clean_text(case: Any, sequence: Any) -> None:
    adapter = case.adapter
    pairs = [replace(pair, instruction="Describe the picture.") for pair in scenes(2)]
    convention = Convention(sequence=sequence)
    clean = numbers(align(adapter, pairs, convention=convention))
    for sign in (IMAGE_TAG, "<Img><ImageHere></Img>", "<|image_pad|>"):
        assert sign in placeholders(adapter.model, adapter.tokenizer)
        for form in (f"{sign}\n{{}}", f"{{}} {sign}"):
            written = [replace(pair, instruction=form.format(pair.instruction)) for pair in pairs]
            assert numbers(align(adapter, written, convention=convention)) == clean, (sign, form)


def test_of_a_text_without_instruction(llava_tiny: Any) -> None:
    pairs = [replace(pair, instruction="") for pair in scenes(2)]
    written = [replace(pair, response=f"<image>\n{pair.response}") for pair in pairs]
    assert numbers(align(llava_tiny, written)) == numbers(align(llava_tiny, pairs))


def test_partners_texts_too(llava_tiny: Any) -> None:
    pairs = [replace(pair, instruction="What?") for pair in scenes(4)]
    written = [replace(pair, instruction="<image>\nWhat?") for pair in pairs]
    written[3] = replace(pairs[3], response="A sign: <image>.")
    asked: Any = {"transforms": ["other-text"], "controls": ["mismatch"], "control_draws": 2}
    found, clean = (perturb(llava_tiny, examples, **asked) for examples in (written, pairs[:3]))
    assert [entry.id for entry in found.base.skipped] == [pairs[3].id]
    assert sorted((r.example, r.transform, r.entropy) for r in found.records) == sorted(
        (r.example, r.transform, r.entropy) for r in clean.records
    )


@pytest.mark.parametrize(
    ("instruction", "response", "reason"),
    [
        ("What is <image> here?", "A cat.", "the instruction holds <image>, the sign for a picture, inside of it"),
        ("<image>\n<image>\nWhat?", "A cat.", "the instruction holds <image>, the sign for a picture, once more"),
        ("<image>\nWhat?\n<image>", "A cat.", "the instruction holds <image>, the sign for a picture, once more"),
        ("<image>\nWhat?", "A cat. <image>", "the response holds <image>, the sign for a picture, once more"),
        ("What?", "<image>A cat.", "the response holds <image>, the sign for a picture, inside of it"),
        ("", "A <image> cat.", "the response holds <image>, the sign for a picture, inside of it"),
        (
            "<Img><ImageHere></Img> Is <ImageHere> it?",
            "Yes.",
            "the instruction holds <ImageHere>, the sign for a picture, ",
        ),
    ],
)
def test_elsewhere_it_is_the_reason_of_a_skip(instruction: str, response: str, reason: str, llava_tiny: Any) -> None:
    pair = scenes(1)[0]
    entry = without_placeholder(USUAL, replace(pair, instruction=instruction, response=response))
    assert isinstance(entry, Skipped) and entry.reason.startswith(reason)
    result = align(llava_tiny, [pair, replace(pair, id="bad", instruction=instruction, response=response)])
    assert result.n == 1 and [(s.id, s.reason) for s in result.skipped] == [("bad", entry.reason)]


@pytest.mark.parametrize("form", BEFORE)
def test_only_the_white_space_beside_it_goes(form: str) -> None:
    pair = scenes(1)[0]
    found = without_placeholder(USUAL, replace(pair, instruction=form.format("What is it?")))
    assert found == replace(pair, instruction="What is it?")
    kept = replace(pair, instruction=" What is it? ", response="A cat.\n")
    assert without_placeholder(USUAL, kept) is kept
    assert without_placeholder(USUAL, Example("a", None, "<image>", "A text of its own.")).instruction == "<image>"  # type: ignore[union-attr]


def test_nothing_but_the_sign(llava_tiny: Any) -> None:
    pair = scenes(1)[0]
    result = align(llava_tiny, [pair, replace(pair, id="bare", instruction="<image>", response="")])
    assert [(s.id, s.reason) for s in result.skipped] == [("bare", "the text is empty")]


def test_a_models_own_tokens_are_known(llava_tiny: Any) -> None:
    tokens = {7: AddedToken("<|picture|>"), 8: AddedToken("<|pad|>"), 9: AddedToken("<|look|>")}
    tokenizer = SimpleNamespace(added_tokens_decoder=tokens, image_token=None)
    model = SimpleNamespace(config=LlavaConfig(image_token_index=7, vision_start_token_id=9))
    signs = placeholders(model, tokenizer)
    assert set(signs) == {*USUAL, "<|picture|>", "<|look|>"} and signs[0] == "<Img><ImageHere></Img>"
    assert "<image>" in placeholders(llava_tiny.model, llava_tiny.tokenizer)
