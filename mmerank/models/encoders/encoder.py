"""The Encoder protocol: what mmerank must know of an encoder of pictures, or of pictures and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor

from mmerank.models.protocol import LoadedModel

Side = Literal["image", "text"]
SIDES: tuple[Side, ...] = ("image", "text")


@dataclass(frozen=True)
class ReadText:
    """What a text encoder reads of a text.

    Attributes:
        ids: Of its tokens, special tokens included and padding not.
        cut: How many tokens are left out, since the encoder reads no more.
    """

    ids: tuple[int, ...]
    cut: int


@dataclass(frozen=True)
class Features:
    """What becomes of some pictures, or texts.

    Attributes:
        layers: For each of them its rows by layer: the states of the patches, or of the tokens up to the end of the
            text, (n, d), without class tokens, registers and padding.
        embeddings: One for each, (b, e), as the library gives them, whatever their length.
    """

    layers: Sequence[Mapping[int, Tensor]]
    embeddings: Tensor


@runtime_checkable
class Encoder(LoadedModel, Protocol):
    """What mmerank must know of an encoder of pictures, or of pictures and texts in one space.

    Beside what `mmerank.models.protocol.LoadedModel` has (`name`, `source`, `model`, `max_tokens`, `untrained`):

    Attributes:
        layers: For `image` and, where it reads texts, for `text`: the layers that can be measured, ascending. Layer
            I is what leaves block (or stage) I, counted from 1, before any final norm.
        undefined: What the encoder does not have, `text` among it, each with the reason.
    """

    layers: Mapping[Side, Sequence[int]]
    undefined: Mapping[str, str]

    def pixels(self, picture: Image.Image) -> Any:
        """What `images` takes for one RGB picture, by the model's own preprocessing: (c, h, w), float32."""
        ...

    def tokens(self, text: str) -> ReadText:
        """What is read of a text, by the model's own tokenizer."""
        ...

    def images(self, pixels: Sequence[Any]) -> Features:
        """Run the image encoder on what `pixels` gave, already on its device."""
        ...

    def texts(self, read: Sequence[ReadText]) -> Features:
        """Run the text encoder on what `tokens` gave."""
        ...


def is_encoder(given: object) -> bool:
    """Whether an object is a loaded encoder."""
    return isinstance(given, Encoder)


def check_is_encoder(given: object) -> None:
    """Refuse what is not a loaded encoder.

    Args:
        given: What was given for one.

    Raises:
        TypeError: It lacks what an `Encoder` has.
    """
    if not isinstance(given, Encoder):
        raise TypeError(
            f"expected an encoder that mmerank.load_encoder(MODEL) returns, got {type(given).__name__}; the "
            "docstring of Encoder in mmerank.models.encoders.encoder says what one of your own has"
        )
