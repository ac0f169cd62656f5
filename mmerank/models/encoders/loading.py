"""How a MODEL argument becomes a loaded encoder."""

from __future__ import annotations

import importlib.util
from typing import Any

from mmerank.errors import ModelError, UsageError
from mmerank.inputs.demo import MODELS
from mmerank.models.adapter import family_of
from mmerank.models.checkpoints import configuration
from mmerank.models.devices import chosen_device
from mmerank.models.encoders.encoder import Encoder
from mmerank.models.encoders.named import OPEN_CLIP, TIMM, check_encoder_named, names_encoder
from mmerank.models.located import check_dtype, is_yaml
from mmerank.models.quiet import quietly


def load_encoder(model: str, *, dtype: str | None = None, device: str | None = None) -> Encoder:
    """A loaded encoder, ready to be measured by `mmerank.encode`.

    Args:
        model: `open_clip:NAME:PRETRAINED`, PRETRAINED a tag or a file; `timm:NAME`, or `timm:NAME:FILE`; either also
            with `hf-hub:OWNER/NAME` or `local-dir:PATH` behind the library's name; or a hub id or directory of CLIP,
            SigLIP or another dual encoder of transformers.
        dtype: `float32`, `bfloat16`, `float16` or `float64`. Default: the checkpoint's own in transformers, elsewhere
            float32.
        device: As torch names it. Default: `cuda` where there is one, else `cpu`.

    Returns:
        The encoder.

    Raises:
        UsageError: A name is unknown, or a device or dtype.
        ModelError: No such checkpoint, one that is not wholly used or lacks weights, or a model that is no encoder.
    """
    family = _family(model)
    check_dtype(dtype)
    place = chosen_device(device)
    if place == "auto":
        raise UsageError(f"{model}: encoders run on one device; name it, as cpu or cuda")
    with quietly():
        encoder: Encoder = family.load(model, dtype=dtype, device=place)
    return encoder


def check_encoder(model: str) -> None:
    """Refuse a MODEL argument that `load_encoder` would refuse at once, without loading weights.

    Args:
        model: As for `load_encoder`.

    Raises:
        UsageError: A name is unknown.
        ModelError: No such checkpoint, or none of an encoder.
    """
    _family(model).check(model)


def is_encoder_alone(model: str) -> bool:
    """Whether a MODEL argument, which may be of any kind of model, is of an encoder without an LLM.

    Args:
        model: By prefix, or a checkpoint of transformers, whose configuration is read.

    Returns:
        Whether `load_encoder` takes it; what an adapter takes as a model with an LLM is none.

    Raises:
        ModelError: There is no such checkpoint, or its configuration cannot be read.
    """
    if names_encoder(model):
        return True
    if model in MODELS or is_yaml(model):
        return False
    content = configuration(model)
    try:
        family_of(content, model)
    except ModelError:
        try:
            _family(model).check(model)
        except (ModelError, UsageError):
            return False
        return True
    return False


def _family(model: str) -> Any:
    check_encoder_named(model)
    for front, package in ((OPEN_CLIP, "open_clip"), (TIMM, "timm")):
        if model.startswith(front) and importlib.util.find_spec(package) is None:
            needed = {"open_clip": "open_clip_torch"}.get(package, package)
            raise ModelError(f"{model}: needs {package}, which is not installed; pip install {needed}")
    if model.startswith(OPEN_CLIP):
        from mmerank.models.encoders.with_open_clip import OpenClip

        return OpenClip
    if model.startswith(TIMM):
        from mmerank.models.encoders.with_timm import Timm

        return Timm
    from mmerank.models.encoders.with_transformers import DualEncoder

    return DualEncoder
