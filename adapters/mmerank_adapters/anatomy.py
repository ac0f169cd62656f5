"""The parts of a multimodal model: its LLM, the LLM's blocks, and whether it has a vision encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from mmerank.errors import ModelError
from mmerank.models.hooks import Point

LISTS = (nn.ModuleList, nn.Sequential)


@dataclass(frozen=True)
class Anatomy:
    """What inspection found of a model; paths are those of `named_modules`.

    Attributes:
        llm: The module that reads embeddings.
        final: Its last submodule, whose output is the last hidden state.
        blocks: Its blocks.
        entry: Where the picture is seen to enter: `embeddings` of the LLM, the first `block`, or `cross`.
        cross: The keyword of a cross-attention model that brings the picture.
        added: Whether the picture's rows are added to the embeddings of its tokens.
        connector: Module whose output enters.
        vision: Where the vision encoder is read.
        argument: Of the vision point's module; empty for its output.
        channels_first: Whether the width is the second axis there.
        width: To which rows are cut that are neighbours side by side there.
        image_ids: Token ids in whose places rows of the picture stand.
        inserted: Where the model itself puts places for them among the token ids, and how many; None for most.
        matched: Share of rows found again at `connector` and `vision`.
        still: Prints of rows of the connector that are the same for all pictures, and no picture's.
    """

    llm: str
    final: str
    blocks: tuple[str, ...]
    entry: str
    cross: str
    added: bool
    connector: str
    vision: str
    argument: str
    channels_first: bool
    width: int | None
    image_ids: frozenset[int]
    inserted: tuple[int, int] | None
    matched: Mapping[str, float]
    still: Tensor = field(compare=False)

    @property
    def vision_point(self) -> Point:
        """For the record, and for who looks."""
        return Point(self.vision, "input" if self.argument else "output", key=self.argument or None)


def language_model(model: Any) -> nn.Module:
    """The LLM in a multimodal model, without its head; of an encoder-decoder the encoder."""
    if getattr(model.config, "is_encoder_decoder", False):
        encoder = model.get_encoder()
        if isinstance(words := encoder.get_input_embeddings(), nn.Embedding):
            return _innermost_around(encoder, words)
    body = model
    while True:
        config = getattr(body, "config", None)
        if body is not model and getattr(config, "is_encoder_decoder", False) and hasattr(body, "encoder"):
            return body.encoder  # type: ignore[no-any-return]
        inner = body.get_decoder() if hasattr(body, "get_decoder") else body
        if inner is body or inner is None:
            break
        body = inner
    # Some say of themselves, with their head, that they are the decoder.
    head = body.get_output_embeddings() if hasattr(body, "get_output_embeddings") else None
    while head is not None and head in set(body.modules()):
        blocks = blocks_of(body)
        inner = next((child for child in body.children() if blocks in set(child.modules())), None)
        if inner is None or inner is blocks:
            break
        body = inner
    return body  # type: ignore[no-any-return]


def _innermost_around(model: nn.Module, part: nn.Module) -> nn.Module:
    """The innermost model of transformers with a part in it; the vision encoder may stand beside it."""
    around = [of for of in model.modules() if isinstance(of, PreTrainedModel) and part in set(of.modules())]
    return around[-1] if around else model


def blocks_of(llm: nn.Module) -> nn.ModuleList:
    """The list of the LLM's blocks: of those as long as its configuration says the outermost, else the longest."""
    lists = [(path.count("."), -len(of), path, of) for path, of in llm.named_modules() if type(of) is nn.ModuleList]
    count = getattr(getattr(llm, "config", None), "num_hidden_layers", None)
    some = [entry for entry in lists if -entry[1] == count] or lists
    if not some:
        raise ModelError(f"{type(llm).__name__}: no list of blocks in it")
    return min(some, key=lambda entry: entry[:3])[3]


def check_encoder(model: nn.Module) -> None:
    """Refuse a model that has no vision encoder.

    Args:
        model: Of transformers.

    Raises:
        ModelError: There is no list of blocks but the LLM's.
    """
    of_llm = set(blocks_of(language_model(model)).modules())
    if not any(
        isinstance(module, LISTS)
        and len(module) > 1
        and module not in of_llm
        and next(module.parameters(), None) is not None
        for module in model.modules()
    ):
        raise ModelError(
            f"{type(model).__name__}: it has no vision encoder (no blocks but its LLM's), so eRank1 is undefined"
        )
