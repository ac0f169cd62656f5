"""Whether a MODEL argument of `mmerank encode` names anything, before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from mmerank.errors import UsageError
from mmerank.models.located import check_located

OPEN_CLIP, TIMM = "open_clip:", "timm:"
# What the libraries read whole, configuration and weights.
WHOLE = ("hf-hub:", "local-dir:")


def check_encoder_named(model: str, *, ask_hub: bool = True) -> None:
    """Refuse a MODEL argument that cannot name an encoder.

    Args:
        model: `open_clip:NAME:PRETRAINED`, `timm:NAME[:FILE]`, or a hub id or directory of transformers.
        ask_hub: Whether the hub is asked for what may be on it.

    Raises:
        UsageError: A word is missing, or it is a folder of another library.
        ModelError: No such checkpoint of transformers.
    """
    for front in (OPEN_CLIP, TIMM):
        if model.startswith(front):
            _check_words(model, model.removeprefix(front), front, front)
            return
    folder = Path(model)
    if folder.is_dir() and not (folder / "config.json").is_file() and (folder / "open_clip_config.json").is_file():
        raise UsageError(f"{model}: a folder of open_clip; name it {OPEN_CLIP}local-dir:{model}")
    check_located(model, ask_hub=ask_hub)


def check_clip(name: str) -> None:
    """Refuse what --clip says where it can be no dual encoder of open_clip.

    Args:
        name: `MODEL:PRETRAINED`, or what open_clip reads whole.

    Raises:
        UsageError: A word is missing.
    """
    _check_words(f"--clip {name}", name, OPEN_CLIP, "")


def _check_words(model: str, words: str, library: str, front: str) -> None:
    scheme = next((scheme for scheme in WHOLE if words.startswith(scheme)), "")
    name, _, weights = words.removeprefix(scheme).partition(":")
    if not name:
        raise UsageError(f"{model}: names no model; as in {front}{_EXAMPLES[library]}")
    if scheme == "local-dir:" and not Path(words.removeprefix(scheme)).is_dir():
        raise UsageError(f"{model}: no such folder, {words.removeprefix(scheme)}")
    if library == OPEN_CLIP and not scheme and not weights:
        raise UsageError(f"{model}: names no weights; as in {front}{_EXAMPLES[library]}, or {front}{name}:FILE")


def names_encoder(model: str) -> bool:
    """Whether a MODEL argument names an encoder by its prefix; a checkpoint of transformers says it itself.

    Args:
        model: As the command line has it.

    Returns:
        Whether it is of open_clip or timm.
    """
    return model.startswith((OPEN_CLIP, TIMM))


_EXAMPLES = {OPEN_CLIP: "ViT-B-32:laion2b_s34b_b79k", TIMM: "vit_base_patch16_224.augreg_in21k"}
