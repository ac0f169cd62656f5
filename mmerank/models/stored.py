"""The files that a checkpoint is read from, and how its tensors are stored in them, without reading those."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmerank.errors import ModelError
from mmerank.files import json_of

if TYPE_CHECKING:  # a MODEL argument is looked at before torch is there
    from torch import Tensor

# In the order in which transformers looks for them in a folder.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Weights of the same model for other loaders, which lie beside those that are read: `consolidated` as Mistral
# publishes it, `model.fp16.safetensors` and its like, and what other frameworks read.
COPY = re.compile(r"consolidated.*\.safetensors|(pytorch_)?model\.[\w-]+\.(safetensors|bin)|pytorch_model.*\.bin")
SHARD = re.compile(r"(pytorch_)?model-\d+-of-\d+\.(safetensors|bin)")
# Parts of a model that trainers save in files of their own, and nothing of transformers reads.
PARTS = ("adapter_model.safetensors", "adapter_model.bin", "non_lora_trainables.bin", "mm_projector.bin")


@dataclass(frozen=True)
class Stored:
    """How a tensor is stored.

    Attributes:
        file: In which file.
        dtype: As the file calls it.
        shape: Its shape.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]


def folder_of(checkpoint: str | Path, revision: str | None = None) -> Path | None:
    """The directory that a checkpoint's files are in.

    Args:
        checkpoint: Directory or hub id.
        revision: Branch, tag or commit on the hub; None for the newest.

    Returns:
        The directory itself; of a hub id the one in the cache, which holds what was asked for so far, or None.
    """
    found = file_of(checkpoint, "config.json", revision)
    return Path(checkpoint) if Path(checkpoint).is_dir() else found.parent if found else None


def file_of(checkpoint: str | Path, name: str, revision: str | None = None) -> Path | None:
    """One file of a checkpoint.

    Args:
        checkpoint: Directory or hub id.
        name: Of the file.
        revision: Branch, tag or commit on the hub; None for the newest.

    Returns:
        Where it is, fetched from the hub if need be; None where there is none.
    """
    if Path(checkpoint).is_dir():
        path = Path(checkpoint) / name
        return path if path.is_file() else None
    from transformers.utils import cached_file

    try:
        found = cached_file(
            str(checkpoint),
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except (OSError, ValueError):
        return None
    return Path(found) if found else None


def json_object(path: Path | None) -> dict[str, Any]:
    """The JSON object in a file, or an empty one where there is none: who needs it says so."""
    try:
        content = json_of(path) if path else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def unread(checkpoint: str | Path, revision: str | None = None) -> list[str]:
    """Files with weights that lie beside those that were read.

    Args:
        checkpoint: Directory or hub id.
        revision: On the hub.

    Returns:
        Their names.
    """
    folder = folder_of(checkpoint, revision)
    if folder is None:
        return []
    read = {path.name for path in files_read(folder, json_object(folder / "config.json"))}
    return sorted(path.name for path in weight_files(folder) if path.name not in read)


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder that hold weights of a model for torch, or a part of one, in the order of their names."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix == ".safetensors" or path.name in PARTS or COPY.fullmatch(path.name)
    ]


def files_read(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The files that transformers reads weights from.

    Args:
        folder: The checkpoint's.
        config: Content of its config.json, which may name another file.

    Returns:
        One file, or those that an index lists; none where there is none.
    """
    stated = config.get("transformers_weights")
    first = next((name for name in ([stated] if stated else WEIGHTS) if (folder / str(name)).is_file()), None)
    if first is None:
        return []
    if not str(first).endswith(".index.json"):
        return [folder / str(first)]
    names = json_object(folder / str(first)).get("weight_map")
    listed = sorted(set(map(str, names.values()))) if isinstance(names, dict) else []
    return [folder / name for name in listed]


def stored_in(files: Collection[Path]) -> dict[str, Stored]:
    """How each tensor of some files is stored, without reading it.

    Args:
        files: Of safetensors or torch.save.

    Returns:
        By the tensor's name; nothing of a file that cannot be read, since what is wrong with it transformers says.

    Raises:
        ModelError: A tensor stands in two of them with different values.
    """
    import torch

    found: dict[str, Stored] = {}
    for file in files:
        try:
            entries = list(_entries(file))
        except Exception:
            continue
        for key, tensor in entries:
            if (other := found.get(key)) and not torch.equal(_value(other.file, key), _value(file, key)):
                raise ModelError(f"{file}: {key} stands in {other.file.name} too, with other values")
            found[key] = tensor
    return found


def _entries(file: Path) -> Iterator[tuple[str, Stored]]:
    import torch
    from safetensors import safe_open

    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as content:
            for key in content.keys():
                part = content.get_slice(key)
                yield key, Stored(file, part.get_dtype(), tuple(part.get_shape()))
        return
    mapped = zipfile.is_zipfile(file)  # so that nothing but the names is read
    for key, h in torch.load(file, map_location="cpu", weights_only=True, mmap=mapped).items():
        if isinstance(h, torch.Tensor):
            yield key, Stored(file, str(h.dtype).removeprefix("torch."), tuple(h.shape))


def _value(file: Path, key: str) -> Tensor:
    import torch
    from safetensors import safe_open

    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as content:
            tensor: Tensor = content.get_tensor(key)
            return tensor
    value: Tensor = torch.load(file, map_location="cpu", weights_only=True)[key]
    return value
