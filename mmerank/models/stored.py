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
COPY = re.compile(
    r"consolidated.*\.(safetensors|pth)|(pytorch_)?model(\.[\w-]+)?\.(safetensors|bin|pt|pth|ckpt)|pytorch_model.*\.bin"
    r"|.*\.(gguf|h5|msgpack|onnx|ot|pdparams)"
)
SHARD = re.compile(r"(pytorch_)?model-\d+-of-\d+\.(safetensors|bin)")
# Names of files that hold weights, and of what trainers save beside them to go on from.
_HOLDS = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|gguf|h5|msgpack|onnx|ot|pdparams)")
_STATE = re.compile(r"(training_args|optimizer|(lr_)?scheduler|scaler|rng_state|random_states)\w*\.\w+")
_LOOKED_AT = 1024  # values of a tensor, of which the first tell a copy from other weights


@dataclass(frozen=True)
class Stored:
    """How a tensor is stored.

    Attributes:
        file: In which file.
        key: Under which name.
        dtype: As the file calls it.
        shape: Its shape.
    """

    file: Path
    key: str
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


def unread(checkpoint: str | Path, revision: str | None = None) -> dict[str, list[str]]:
    """What a model's `source` says of files with weights that lie beside those that were read.

    Args:
        checkpoint: Directory or hub id.
        revision: On the hub.

    Returns:
        Their names, as `unread`; nothing where there are none.
    """
    folder = folder_of(checkpoint, revision)
    read = files_read(folder, json_object(folder / "config.json")) if folder else []
    names = [path.name for path in weight_files(folder) if path not in read] if folder else []
    return {"unread": names} if names else {}


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder that hold weights of a model, or of a part of one, in the order of their names."""
    return [
        path for path in sorted(folder.iterdir()) if _HOLDS.fullmatch(path.name) and not _STATE.fullmatch(path.name)
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
    found: dict[str, Stored] = {}
    for file in files:
        try:
            entries = list(_entries(file))
        except Exception:
            continue
        for key, tensor in entries:
            if (other := found.get(key)) and not equal(other, tensor):
                raise ModelError(f"{file}: {key} stands in {other.file.name} too, with other values")
            found[key] = tensor
    return found


def equal(one: Stored, other: Stored) -> bool:
    """Whether two tensors have the same values."""
    import torch

    return torch.equal(value_of(one), value_of(other))


def no_copy(file: Path, stored: Mapping[str, Stored]) -> str | None:
    """A tensor of a file that is another one where the weights are read.

    Args:
        file: Of safetensors or torch.save; of others nothing is known.
        stored: How the tensors are stored that are read, as from `stored_in`.

    Returns:
        The first whose shape or first values differ by more than the rounding of a dtype; None where none does.
    """
    if file.suffix != ".safetensors" and not zipfile.is_zipfile(file):
        return None  # as torch wrote until 1.6: it would be read as a whole
    try:
        return next(
            (key for key, h in _tensors(file) if key in stored and not _alike(h, value_of(stored[key]))), None
        )
    except Exception:  # of another framework, or damaged
        return None


def _alike(one: Tensor, other: Tensor) -> bool:
    import torch

    if any(not tensor.is_floating_point() or tensor.element_size() < 2 for tensor in (one, other)):
        return True  # quantised
    if one.shape != other.shape:
        return False
    one, other = (tensor.reshape(-1)[:_LOOKED_AT] for tensor in (one, other))
    rounding = max(torch.finfo(tensor.dtype).eps for tensor in (one, other)) if one.dtype != other.dtype else 0.0
    return torch.allclose(one.double(), other.double(), rtol=rounding, atol=1e-7 if rounding else 0, equal_nan=True)


def _entries(file: Path) -> Iterator[tuple[str, Stored]]:
    from safetensors import safe_open

    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as content:
            for key in content.keys():
                part = content.get_slice(key)
                yield key, Stored(file, key, part.get_dtype(), tuple(part.get_shape()))
        return
    for key, h in _tensors(file):
        yield key, Stored(file, key, str(h.dtype).removeprefix("torch."), tuple(h.shape))


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Tensors by name, mapped where the file can be, so that no more is read than is looked at."""
    import torch
    from safetensors import safe_open

    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as content:
            yield from ((key, content.get_tensor(key)) for key in content.keys())
        return
    mapped = zipfile.is_zipfile(file)
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    yield from ((key, h) for key, h in content.items() if isinstance(h, torch.Tensor))


def value_of(stored: Stored) -> Tensor:
    """The values of a tensor, read from its file."""
    return next(h for name, h in _tensors(stored.file) if name == stored.key)
