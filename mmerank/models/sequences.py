"""Text and image places -> token ids, each with its role. What every adapter shares."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmerank.errors import ModelError
from mmerank.inputs.sequence import IMAGE_ID, Kind, Role, TokenSequence, image_places, tokens_of
from mmerank.transfer import sent


class SpecialTokens:
    """Says once where a text spells out a special token, which a tokenizer reads as such, as in the published code.

    Args:
        tokenizer: As transformers or open_clip loads it; None reads nothing.
    """

    def __init__(self, tokenizer: Any):
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # what open_clip puts around those of transformers
        if hasattr(tokenizer, "added_tokens_decoder"):
            names = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        else:  # open_clip's own
            names = [tokenizer.decoder[i] for i in getattr(tokenizer, "all_special_ids", ())]
        # Some tokenizers pad with a mark that every other text has.
        self._tokens = sorted(name for name in names if len(name) > 2)
        self._said = False

    def look_at(self, name: str, text: str) -> None:
        """Warn of a text that holds one, if there was none before.

        Args:
            name: The example's id.
            text: Its text.
        """
        if self._said or not (found := [token for token in self._tokens if token in text]):
            return
        self._said = True
        warnings.warn(
            f"the text of example {name!r} spells out {', '.join(found)}; there, and in any other text, "
            "it is read as the special token",
            stacklevel=2,
        )


def begin(tokenizer: Any) -> TokenSequence:
    """The tokenizer's BOS, or nothing where it has none."""
    return tokens_of([] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id], Role.BOS)


def end(tokenizer: Any) -> TokenSequence:
    """The tokenizer's EOS, with which a template ends.

    Args:
        tokenizer: The model's.

    Returns:
        One token.

    Raises:
        ModelError: It names none.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer names no eos_token, with which the template ends; name it in tokenizer_config.json, or "
            "measure bare sequences"
        )
    return tokens_of([tokenizer.eos_token_id], Role.TEMPLATE)


def outside(sequence: TokenSequence, rows: int | None, tokenizer: Any) -> str | None:
    """Why a sequence must not reach the model: a lookup outside its embedding, which on a GPU ends the process.

    Args:
        sequence: What the model would read.
        rows: Of its embedding; None where that is not known.
        tokenizer: Its tokenizer, for the message.

    Returns:
        The reason; None where every id has a row, or stands for a picture's.
    """
    for i, role in zip(sequence.ids, sequence.roles, strict=True):
        if not (i == IMAGE_ID and role is Role.IMAGE) and (i < 0 or (rows is not None and i >= rows)):
            named = getattr(tokenizer, "convert_ids_to_tokens", None)
            token = f" ({named(i)!r})" if named and i >= 0 else ""
            return f"token {i}{token} has no row in the model's embedding of {rows}"
    return None


def tokenized(tokenizer: Any, *parts: tuple[str, Role]) -> TokenSequence:
    """Ids of the joined `parts`, tokenised as one segment and without special tokens around it.

    Args:
        tokenizer: A fast tokenizer of transformers.
        parts: Strings in order, each with the role of its tokens, TEXT or TEMPLATE. A token that overlaps both
            (a space of the template before a word of the text, say) has the role TEXT.

    Returns:
        The sequence.
    """
    whole = "".join(part for part, _ in parts)
    # Not verbose: longer texts than the model reads are cut afterwards, and counted.
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans, position = [], 0
    for part, role in parts:
        if role is Role.TEXT:
            spans.append((position, position + len(part)))
        position += len(part)
    roles = [
        Role.TEXT if any(start < last and first < end for first, last in spans) else Role.TEMPLATE
        for start, end in encoded["offset_mapping"]
    ]
    return TokenSequence(tuple(encoded["input_ids"]), tuple(roles))


def bare_sequence(tokenizer: Any, text: str, kind: Kind, image_tokens: int) -> TokenSequence:
    """BOS + image, BOS + text, or BOS + image + text."""
    sequence = begin(tokenizer)
    if kind != "text":
        sequence += image_places(image_tokens)
    if kind != "image":
        sequence += tokenized(tokenizer, (text, Role.TEXT))
    return sequence


def spliced_embeddings(embed: nn.Module, ids: Tensor, images: Sequence[Tensor] | Tensor | None) -> Tensor:
    """Token embeddings with the connector's rows in the image places.

    Args:
        embed: The LLM's token embedding.
        ids: Token ids, (b, n), integer; `IMAGE_ID` where a connector row goes.
        images: The connector's rows for each row of `ids`, (m, d), m being its image places; None without images.

    Returns:
        Embeddings, (b, n, d), of the embedding's dtype and device.

    Raises:
        ModelError: There are more or fewer places than rows, or the embedding has no row for a token.
    """
    places = ids == IMAGE_ID
    _check_rows(embed, ids)
    counts = places.sum(dim=1).tolist()  # before the ids go to a GPU, which would have to be waited for
    rows = None if images is None else [len(image) for image in images]
    if rows is not None and counts != rows:  # masked_scatter would take rows of the next picture
        raise ModelError(
            f"the connector gives {_listed(rows)} rows per picture, but the sequences have places for "
            f"{_listed(counts)}"
        )
    device = next(embed.parameters()).device
    embeddings: Tensor = embed(sent(ids.masked_fill(places, 0), device))
    if images is None:
        return embeddings
    spliced = torch.cat(tuple(images)).to(embeddings)
    return embeddings.masked_scatter(sent(places, device).unsqueeze(-1), spliced)


def _check_rows(embed: nn.Module, ids: Tensor) -> None:
    rows, most = getattr(embed, "num_embeddings", None), int(ids.max())
    if rows is not None and most >= rows:
        raise ModelError(
            f"token {most} has no row in the model's embedding of {rows}; the tokenizer is another model's, or has "
            "more tokens than the model was made for"
        )


def _listed(counts: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(counts))))


def padded(sequences: Sequence[TokenSequence]) -> tuple[Tensor, Tensor]:
    """Ids and mask of a batch, padded on the right: (b, n) int64 and (b, n) bool, true at tokens."""
    n = max(map(len, sequences))
    ids = torch.zeros((len(sequences), n), dtype=torch.long)
    mask = torch.zeros((len(sequences), n), dtype=torch.bool)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.tensor(sequence.ids)
        mask[i, : len(sequence)] = True
    return ids, mask
