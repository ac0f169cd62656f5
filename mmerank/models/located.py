"""Whether a MODEL argument names anything: told from its words, the disk, and one question to the hub.

Nothing heavy is imported, so that a typo is answered at once.
"""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

from mmerank.errors import ModelError, UsageError, did_you_mean
from mmerank.inputs.demo import MODELS
from mmerank.on_hub import asked_of_hub

# Entry point groups.
MULTIMODAL = "mmerank.adapters"
LANGUAGE = "mmerank.text_adapters"
DTYPES = ("float32", "bfloat16", "float16", "float64")
LOAD_IN = ("8bit", "4bit")
DEVICES = ("cpu", "cuda", "mps", "auto", "xpu", "hpu", "xla", "mtia", "meta")
# Checkpoints of a folder that a message names.
_NAMED = 8
# What a flag of the command line was given for a value.
_TRUTHS = frozenset({"true", "false", "yes", "no", "on", "off", "0", "1"})
# Only these need no owner on the hub, and no further ones can be made.
_WITHOUT_OWNER = re.compile(
    r"(distil)?gpt2(-(medium|large|xl))?|openai-gpt|ctrl|transfo-xl-wt103|t5-(small|base|large|3b|11b)"
    r"|(distil|al|camem)?(ro)?bert(a)?-[\w.-]+|xlm-[\w.-]+|xlnet-(base|large)-cased"
)
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_CANONICAL = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "openai-gpt", "bert-base-uncased")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".npz")


def is_yaml(model: str | Path) -> bool:
    """Whether a MODEL argument is a YAML file, by its name."""
    return Path(model).suffix in (".yaml", ".yml")


def at_revision(model: str | Path, revision: str | None = None) -> tuple[str | Path, str | None]:
    """A MODEL argument and the revision that it names behind an @.

    Args:
        model: `OWNER/NAME@REVISION`, or any other MODEL argument; a folder whose name has an @ is a folder.
        revision: What is named apart from it.

    Returns:
        The model, and its revision; None for the newest.

    Raises:
        UsageError: There is nothing behind the @, or two revisions are named.

    Example:
        >>> at_revision("EleutherAI/pythia-160m@step1000")
        ('EleutherAI/pythia-160m', 'step1000')
    """
    name, at, named = str(model).partition("@")
    if not at or Path(model).exists() or not _HUB_ID.fullmatch(name):
        return model, revision
    if not named or revision:
        raise UsageError(f"{model}: " + (f"and revision {revision!r}; name one" if named else "no revision behind @"))
    return name, named


def check_dtype(dtype: str | None) -> None:
    """Refuse a dtype that mmerank does not know by name; None stands for the checkpoint's own.

    Args:
        dtype: The name, or None.

    Raises:
        UsageError: Unknown name.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")


def check_device(device: str | None) -> None:
    """Refuse a device that torch cannot know by that name; whether it is there is told when torch is.

    Args:
        device: The name, or None.

    Raises:
        UsageError: Unknown name.
    """
    if device is None:
        return
    kind, colon, number = device.partition(":")
    known = kind in DEVICES or len(entry_points(group="torch.backends")) > 0  # which may bring kinds of their own
    if not known or (colon and not number.isdecimal()):
        raise UsageError(f"unknown device {device!r}; cpu, cuda, cuda:0, mps, or auto")


def check_load_in(load_in: str | None) -> None:
    """Refuse a way of quantising that mmerank does not know by name.

    Args:
        load_in: The name, or None.

    Raises:
        UsageError: Unknown name.
    """
    if load_in is not None and load_in not in LOAD_IN:
        raise UsageError(f"cannot load in {load_in!r}; known: {', '.join(LOAD_IN)}")


def check_layers(chosen: str) -> None:
    """Refuse a choice of layers that no model can have; whether a number is too large the model tells.

    Args:
        chosen: As for `mmerank.models.layers.layer_points`.

    Raises:
        UsageError: A word is neither a name nor a number.
    """
    _check_numbered("layer", 0, chosen)


def check_blocks(chosen: str) -> None:
    """The same of a choice of blocks.

    Args:
        chosen: As for `mmerank.models.layers.block_numbers`.

    Raises:
        UsageError: A word is neither a name nor a number.
    """
    _check_numbered("block", 1, chosen)


def _check_numbered(what: str, first: int, chosen: str) -> None:
    for word in filter(None, (part.strip() for part in chosen.split(","))):
        if word not in ("all", "first", "middle", "last") and not (word.isdecimal() and int(word) >= first):
            raise UsageError(f"unknown {what} {word!r}; known: all, first, middle, last, and numbers from {first} on")


def check_located(
    model: str | Path, revision: str | None = None, *, file: str = "config.json", ask_hub: bool = True
) -> None:
    """Refuse a checkpoint that is neither on the disk nor on the hub.

    Args:
        model: Directory or hub id.
        revision: Branch, tag or commit on the hub; None for the newest.
        file: What the checkpoint must have.
        ask_hub: Whether the hub is asked for what may be on it.

    Raises:
        UsageError: The name of a model that comes with mmerank, nearly; or a word that is no name at all.
        ModelError: There is none, or it is something else; a directory is asked for a revision.
    """
    model, revision = at_revision(model, revision)
    path, name = Path(model), str(model)
    if name in MODELS and revision:
        raise UsageError(f"{name}: comes with mmerank, and has no revision {revision!r}")
    if path.is_dir():
        if revision:
            raise ModelError(f"{model}: revision {revision!r} of a folder; only a model on the hub has revisions")
        if not (path / file).is_file():
            raise ModelError(f"{model}: {_instead(path, file)}")
        return
    if path.exists() or path.is_symlink():
        raise ModelError(f"{model}: {_no_folder(path)}")
    if name.lower() in _TRUTHS:
        raise UsageError(f"{name!r} is no MODEL; flags, as --strict, take no value")
    if meant := did_you_mean(name, MODELS):  # no need to ask the hub
        raise UsageError(f"unknown model {name!r}{meant}")
    check_hub_id(name)
    if not ask_hub:
        return
    asked = f" at revision {revision}" if revision else ""
    if reason := _not_on_hub(name, revision, file):
        raise ModelError(f"{model}: no such folder, and not to be had from the hub{asked} ({reason})")


def _by_number(path: Path) -> list[tuple[int, str]]:
    """A key that puts checkpoint-200 before checkpoint-1000."""
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", path.name)]


def _instead(folder: Path, file: str) -> str:
    """What a folder without the file is, and what to name in its place."""
    try:
        inside = sorted(folder.iterdir(), key=_by_number)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if checkpoints := [path for path in inside if (path / file).is_file()]:
        named = ", ".join(map(str, checkpoints[:_NAMED]))
        more = f" and {len(checkpoints) - _NAMED} more" if len(checkpoints) > _NAMED else ""
        return f"no {file} in this folder; checkpoints in it: {named}{more}; name one of them, or several"
    if (folder / "adapter_config.json").is_file():
        return (
            "a LoRA or other adapter without the model it belongs to; merge the two (peft's `merge_and_unload`, then "
            "`save_pretrained`) and name that folder, or load them in Python and use mmerank.wrap_text"
        )
    if (folder / "run.json").is_file():
        return "a run folder, not a checkpoint; `mmerank report` reads it"
    if gguf := next((path for path in inside if path.suffix.lower() == ".gguf"), None):
        return f"no {file} in this folder, and {_no_folder(gguf)}"
    return f"no {file} in this folder, so it is not a checkpoint of transformers"


def _no_folder(path: Path) -> str:
    """What a file is that was given for a checkpoint, and what to name in its place."""
    suffix = path.suffix.lower()
    if suffix == ".gguf" or _begins_with(path, b"GGUF"):
        return (
            f"{path.name} is a GGUF file, quantised for llama.cpp, whose hidden states cannot be read here; name the "
            "checkpoint of transformers that it was made from, a folder or hub id"
        )
    if (path.parent / "config.json").is_file():
        return f"a file of a checkpoint; name its folder, {path.parent}"
    if suffix in _WEIGHTS:
        return "a file of weights alone; name the folder that holds it with its config.json, or a YAML file"
    if not path.is_file():
        return "neither a folder nor a file" if path.exists() else "a link to nothing"
    return "a file; a MODEL is a folder, a hub id, or a YAML file (.yaml)"


def _begins_with(path: Path, magic: bytes) -> bool:
    if not path.is_file():  # a pipe would wait
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False


def check_hub_id(name: str) -> None:
    """Refuse what is no folder here and cannot be the name of a repository on the hub.

    Args:
        name: Not a folder here.

    Raises:
        ModelError: It is a path, or no name of a repository.
    """
    path = Path(name)
    if path.suffix.lower() in (*_WEIGHTS, ".gguf", ".json"):
        raise ModelError(f"{name}: no such file; a MODEL is a folder, a hub id, or a YAML file")
    if name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1 or name.endswith("/"):
        raise ModelError(f"{name}: no such folder{_meant(path)}")
    if not _HUB_ID.fullmatch(name) or ".." in name or "--" in name:
        raise ModelError(f"{name}: no such folder, and no hub id, which is OWNER/NAME{_meant(path)}")
    if "/" not in name and not _WITHOUT_OWNER.fullmatch(name):
        raise ModelError(f"{name}: no such folder, and no hub id, which is OWNER/NAME{_meant(path, *_CANONICAL)}")


def _meant(path: Path, *known: str) -> str:
    """The end of a message about a folder that is missing: a name like it beside it, or one of those known."""
    try:
        beside = [other.name for other in path.parent.iterdir() if other.is_dir()]
    except OSError:
        beside = []
    return did_you_mean(path.name, (*known, *beside))


def _not_on_hub(name: str, revision: str | None, file: str) -> str:
    """Why the hub has no such model; empty where it has, or the cache does."""
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, file, cache_dir=constants.HF_HUB_CACHE, revision=revision), str):
        return ""
    if constants.HF_HUB_OFFLINE:
        return "not in the local cache, and HF_HUB_OFFLINE is set"
    return asked_of_hub(name, revision, file)
