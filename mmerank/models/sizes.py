"""How large a checkpoint is, and which of its files loading takes, without loading it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmerank.downloads import cached_folder
from mmerank.inputs.demo import MODELS
from mmerank.models.located import at_revision, is_yaml
from mmerank.models.stored import COPY, SHARD, files_read, json_object, stored_in

# Bytes of a number, as safetensors and torch call its type.
_BYTES: Mapping[str, float] = {
    **{"F64": 8, "float64": 8, "F32": 4, "float32": 4, "F16": 2, "float16": 2, "BF16": 2, "bfloat16": 2},
    **{"I64": 8, "int64": 8, "I32": 4, "int32": 4, "I16": 2, "int16": 2, "I8": 1, "int8": 1, "U8": 1, "uint8": 1},
    **{"F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1, "bool": 1},
}
_FLOATS = ("F64", "float64", "F32", "float32", "F16", "float16", "BF16", "bfloat16")
_QUANTISED: Mapping[str, float] = {"8bit": 1, "4bit": 0.5}
_READ_BESIDE = re.compile(r"[^/]+\.(json|jinja|txt|model|tiktoken|py|bpe)|additional_chat_templates/.*")
_NOT_READ = re.compile(r"(README|LICENSE|NOTICE|trainer_state|training_args).*|.*\.index\.json")


@dataclass(frozen=True)
class Weights:
    """The numbers that a checkpoint holds.

    Attributes:
        counts: How many, by the name of their type in the files.
    """

    counts: Mapping[str, int]

    @property
    def parameters(self) -> int:
        """All of them; of packed weights what they are packed in."""
        return sum(self.counts.values())

    def in_memory(self, dtype: str | None = None, load_in: str | None = None) -> float:
        """Bytes of the weights once they are loaded, without anything beside.

        Args:
            dtype: What floating point numbers are converted to; None for as they are stored.
            load_in: `8bit` or `4bit`: one and half a byte for each, which leaves out what bitsandbytes does not
                quantise, so that it is at least this.

        Returns:
            Bytes.
        """
        return sum(count * self._each(kind, dtype, load_in) for kind, count in self.counts.items())

    @staticmethod
    def _each(kind: str, dtype: str | None, load_in: str | None) -> float:
        if kind in _FLOATS:
            return _BYTES[dtype or kind] if load_in is None else _QUANTISED[load_in]
        return _BYTES.get(kind, 1)


def weights_of(model: str, revision: str | None = None, *, ask: bool = False) -> Weights | None:
    """The numbers that a MODEL argument's files hold, from the heads of these.

    Args:
        model: Hub id, also with @REVISION, folder, YAML file, or the name of a model that comes with mmerank.
        revision: On the hub.
        ask: Whether the hub is asked for the heads of files that are not in the cache.

    Returns:
        None where that cannot be known.
    """
    name, revision = at_revision(model, revision)
    path = Path(MODELS.get(model, name))
    try:
        if is_yaml(path):
            found = _all_of(_weights_beside(path))
        else:
            folder = path if path.is_dir() else cached_folder(str(name), revision)
            found = _of_folder(folder) if folder else None
        if found and model in MODELS:
            return Weights({"float32": found.parameters})  # which `load` makes of them
        return found or (_on_hub(str(name), revision) if ask and not path.exists() else None)
    except Exception:  # of files and configurations of others: what is wrong with them is said when they are loaded
        return None


def files_taken(names: Collection[str]) -> list[str]:
    """Those files of a repository that loading takes: weights in one form, configuration, tokenizer and processor.

    Args:
        names: Of all of its files.

    Returns:
        A part of them.
    """
    top = [name for name in names if "/" not in name]
    beside = [name for name in names if _READ_BESIDE.fullmatch(name) and not _NOT_READ.fullmatch(name)]
    for suffix in ("safetensors", "bin"):
        one = [name for name in top if name in (f"model.{suffix}", f"pytorch_model.{suffix}")]
        shards = [name for name in top if SHARD.fullmatch(name) and name.endswith(suffix)]
        index = [name for name in top if re.fullmatch(rf"(pytorch_)?model\.{suffix}\.index\.json", name)]
        if one or shards:
            return [*beside, *(one or [*shards, *index])]
    other = re.compile(r".*\.(safetensors|bin|pth|pt)")
    return [*beside, *(name for name in top if other.fullmatch(name) and not COPY.fullmatch(name))]


def _of_folder(folder: Path) -> Weights | None:
    files = files_read(folder, json_object(folder / "config.json"))
    if not files or not all(file.is_file() for file in files):
        return None
    counts: Counter[str] = Counter()
    for tensor in stored_in(files).values():
        counts[tensor.dtype] += math.prod(tensor.shape)
    return Weights(counts) if counts else None


def _on_hub(model: str, revision: str | None) -> Weights:
    from huggingface_hub import HfApi

    found = HfApi().get_safetensors_metadata(model, revision=revision).parameter_count
    return Weights({str(kind): count for kind, count in found.items()})


def _weights_beside(path: Path) -> Iterator[Weights | None]:
    """Of each file and folder of weights that a YAML file names."""
    import yaml

    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    for value in (value for key, value in keys.items() if key != "adapter" and isinstance(value, str)):
        named = path.parent / Path(value).expanduser()
        if named.is_dir():
            yield _of_folder(named)
        elif named.suffix in (".pth", ".pt", ".bin"):
            yield _of_file(named)
        elif value.count("/") == 1:
            folder = cached_folder(value)
            yield _of_folder(folder) if folder else None


def _of_file(file: Path) -> Weights:
    import torch

    counts: Counter[str] = Counter()

    def count(content: Any) -> None:
        if isinstance(content, torch.Tensor):
            counts[str(content.dtype).removeprefix("torch.")] += content.numel()
        elif isinstance(content, dict):
            for inner in content.values():
                count(inner)

    count(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
    return Weights(counts)


def _all_of(parts: Iterator[Weights | None]) -> Weights | None:
    counts: Counter[str] = Counter()
    for part in parts:
        if part is None:
            return None  # a sum without a part would look like the whole
        counts.update(part.counts)
    return Weights(counts) if counts else None
