"""A multimodal model of transformers and its processor, loaded from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

from mmerank.errors import ModelError, first_line
from mmerank.models.checkpoints import configuration
from mmerank.models.devices import placement
from mmerank.models.plausible import check_built
from mmerank.models.soundness import check_files, check_loaded

_CLASSES = (AutoModelForImageTextToText, AutoModelForMultimodalLM)


def loaded(
    checkpoint: str | Path, *, dtype: str | None, device: str, load_in: str | None, revision: str | None = None
) -> tuple[Any, Any, list[str]]:
    """Load a model and its processor.

    Args:
        checkpoint: Hub id or directory.
        dtype: A torch dtype by name; None for the checkpoint's own.
        device: A torch device, or `auto` for `device_map="auto"`.
        load_in: `8bit` or `4bit` to quantise the weights with bitsandbytes.
        revision: On the hub; None for the newest.

    Returns:
        The model in eval mode, its processor, and the names of weights that the model does not have.

    Raises:
        ModelError: A part of the checkpoint is missing or cannot be read, or weights are missing.
    """
    where = {"revision": revision or "main", "trust_remote_code": False}
    auto, config = _class_of(checkpoint, where)
    place = placement(device, load_in)
    check_files(checkpoint, revision)
    content = configuration(checkpoint, revision)
    check_built(lambda: auto.from_config(config, trust_remote_code=False), content, checkpoint, revision)
    try:
        processor = AutoProcessor.from_pretrained(checkpoint, **where)
    except Exception as error:  # each of the libraries below has errors of its own
        raise ModelError(f"{checkpoint}: its processor cannot be loaded ({first_line(error)})") from error
    try:
        model, report = auto.from_pretrained(
            checkpoint,
            dtype=dtype or "auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **where,
            **place,
        )
    except Exception as error:
        raise ModelError(f"{checkpoint}: cannot be loaded ({first_line(error)})") from error
    ignored = check_loaded(model, report, checkpoint, revision=revision)
    if not place:
        model.to(device)
    return model.eval(), processor, ignored


def _class_of(checkpoint: str | Path, where: dict[str, Any]) -> tuple[Any, Any]:
    """The class of transformers that loads a checkpoint, and its configuration."""
    try:
        config = AutoConfig.from_pretrained(checkpoint, **where)
    except Exception as error:
        raise ModelError(f"{checkpoint}: its configuration cannot be read ({first_line(error)})") from error
    for auto in _CLASSES:
        if type(config) in auto._model_mapping:
            return auto, config
    raise ModelError(
        f"{checkpoint}: model_type {config.model_type!r} is none of transformers' image-text-to-text or multimodal "
        "models; `mmerank.wrap(model, processor, name=...)` measures one that is in memory, `mmerank diff` language "
        "models, and CONTRIBUTING.md says how to write an adapter"
    )
