from __future__ import annotations

import warnings
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AddedToken

from mmerank import Example, align, diff
from mmerank.errors import ModelError
from mmerank.inputs.demo import examples as scenes
from mmerank.inputs.sequence import IMAGE_ID, Role, TokenSequence, image_places, tokens_of
from mmerank.models.sequences import SpecialTokens, bare_sequence, padded, spliced_embeddings, tokenized
from tests.adapters.cases import LLAVA
from tests.adapters.text_cases import OPT

roles = st.lists(st.sampled_from(list(Role)), max_size=30).map(
    lambda roles: TokenSequence(tuple(range(len(roles))), tuple(roles))
)


@given(roles, st.integers(0, 40))
def test_cutting_takes_the_last_text_and_nothing_else(sequence: TokenSequence, count: int) -> None:
    cut = sequence.without_last_text(count)
    texts = [i for i, role in zip(sequence.ids, sequence.roles, strict=True) if role is Role.TEXT]
    others = [i for i, role in zip(sequence.ids, sequence.roles, strict=True) if role is not Role.TEXT]
    left = [i for i, role in zip(cut.ids, cut.roles, strict=True) if role is Role.TEXT]
    assert left == texts[: max(len(texts) - count, 0)]
    assert [i for i, role in zip(cut.ids, cut.roles, strict=True) if role is not Role.TEXT] == others
    assert list(cut.ids) == sorted(cut.ids)


def test_roles_follow_the_text_parts() -> None:
    tokenizer: Any = LLAVA.adapter.tokenizer
    parts = [
        ("USER: red ", Role.TEMPLATE),
        ("red", Role.TEXT),
        (" ASSISTANT: ", Role.TEMPLATE),
        ("red cat", Role.TEXT),
    ]
    segment = "".join(part for part, _ in parts)
    sequence = tokenized(tokenizer, *parts)
    text = [i for i, role in zip(sequence.ids, sequence.roles, strict=True) if role is Role.TEXT]
    assert tokenizer.decode(text) == "red red cat"
    assert len(sequence) == len(tokenizer(segment, add_special_tokens=False)["input_ids"])


def test_empty_text_parts() -> None:
    tokenizer: Any = LLAVA.adapter.tokenizer
    assert set(tokenized(tokenizer, ("USER: ", Role.TEMPLATE), ("", Role.TEXT)).roles) == {Role.TEMPLATE}


def test_prefix() -> None:
    tokenizer: Any = LLAVA.adapter.tokenizer
    image, text, pair = (bare_sequence(tokenizer, "A cat.", kind, 4) for kind in ("image", "text", "pair"))
    assert pair.starts_with(image) and not pair.starts_with(text)
    assert pair == image + TokenSequence(text.ids[1:], text.roles[1:])


def test_padding_is_on_the_right() -> None:
    ids, mask = padded([tokens_of([5, 6, 7], Role.TEXT), tokens_of([8], Role.TEXT)])
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]] and mask.tolist() == [[True] * 3, [True, False, False]]


def test_connector_rows_take_the_image_places_in_order() -> None:
    embed = nn.Embedding(10, 3)
    sequences = [
        tokens_of([1], Role.BOS) + image_places(2) + tokens_of([4], Role.TEXT),
        tokens_of([2, 3], Role.TEXT) + image_places(2),
    ]
    ids, _ = padded(sequences)
    images = torch.arange(12.0).reshape(2, 2, 3)
    embeddings = spliced_embeddings(embed, ids, images)
    assert torch.equal(embeddings[0, 1:3], images[0]) and torch.equal(embeddings[1, 2:], images[1])
    assert torch.equal(embeddings[0, [0, 3]], embed(torch.tensor([1, 4])))
    assert (ids == IMAGE_ID).sum() == 4


def test_a_device_is_not_asked_for_values_that_the_cpu_has() -> None:
    """Which would make the CPU wait for all that a GPU has to do; the meta device has none to give."""
    embed = nn.Embedding(9, 4, device="meta")
    ids = torch.tensor([[1, IMAGE_ID, IMAGE_ID, 5]])
    embeddings = spliced_embeddings(embed, ids, torch.ones(1, 2, 4, device="meta"))
    assert embeddings.shape == (1, 4, 4) and embeddings.is_meta
    with pytest.raises(ModelError, match="3 rows per picture"):
        spliced_embeddings(embed, ids, torch.ones(1, 3, 4, device="meta"))


def test_a_special_token_that_a_text_spells_out_is_said_once() -> None:
    tokens = {0: AddedToken("</s>", special=True), 1: AddedToken("!", special=True), 2: AddedToken("word")}
    special = SpecialTokens(SimpleNamespace(added_tokens_decoder=tokens))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        special.look_at("a", "A word, < / s>, and a mark!")
    with pytest.warns(UserWarning, match="the text of example 'b' spells out </s>; there, and in any other text"):
        special.look_at("b", "The end.</s>")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        special.look_at("c", "</s>")


def test_both_probes_look_at_their_texts() -> None:
    pair = replace(scenes(1)[0], response="A cat.</s>")
    with pytest.warns(UserWarning, match="spells out </s>"):
        align(LLAVA.adapter, [pair])
    with pytest.warns(UserWarning, match="spells out </s>"):
        diff(OPT.adapter, [Example("a", None, "", "A cat.</s> A dog.")])
