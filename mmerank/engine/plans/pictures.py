"""An example's picture on its way to an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmerank.errors import DataError
from mmerank.inputs.contents import Content, content_of, picture_stamp
from mmerank.inputs.example import Example
from mmerank.inputs.pictures import Opened, open_pictures
from mmerank.inputs.variants import ORIGINAL, Version
from mmerank.transfer import for_each_tensor


def opened(example: Example, max_pixels: int) -> tuple[Opened, Content]:
    """The picture of an example, or its several, and what the example is known by as it is now.

    Args:
        example: With a picture.
        max_pixels: Most pixels that each may have.

    Returns:
        The picture, upright and in RGB, and hashes of picture and text. A DataError where it cannot be read.
    """
    assert example.image is not None  # the plan saw to it
    stamp = picture_stamp(example.image)  # before: what is written meanwhile is looked at again
    picture = open_pictures(example.image, max_pixels=max_pixels)
    return picture, content_of(example, picture, stamp)


def of_versions(
    example: Example,
    versions: Iterable[Version],
    pixels: Callable[[Opened], Any],
    *,
    refused: Mapping[Version, DataError] | None = None,
) -> tuple[dict[Version, Any], dict[Version, DataError]]:
    """An encoder's input for each version of an example's picture.

    Args:
        example: Its picture opened.
        versions: Of the picture.
        pixels: Picture -> what the encoder is fed.
        refused: Versions of which it is known already that they cannot be made, and why.

    Returns:
        By version the input, and why it cannot be made, which is told with the results; the input is the example's
        own there. A DataError where that cannot be made.
    """
    own: Any = example.image  # opened
    found, unreadable = dict.fromkeys(versions, pixels(own)), dict(refused or {})
    for version in found:
        try:
            if version != ORIGINAL and version not in unreadable:
                changed: Any = version.of(example).image
                found[version] = pixels(changed)
        except DataError as error:
            unreadable[version] = error
    return found, unreadable


def waiting(pixels: Any, device: torch.device) -> Any:
    """What an encoder is fed, until it is sent: only from pinned memory does a GPU copy while the CPU goes on."""
    return for_each_tensor(pixels, Tensor.pin_memory) if device.type == "cuda" else pixels
