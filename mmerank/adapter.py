"""The Adapter protocol, and how a MODEL argument becomes a loaded adapter."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from mmerank.convention import ImageLayout, SequenceForm
from mmerank.errors import ModelError, UsageError
from mmerank.hooks import Point
from mmerank.inputs import Example
from mmerank.sequences import Kind, TokenSequence

HOOK_POINTS = ("vision", "connector", "llm")
DTYPES = ("float32", "bfloat16", "float16", "float64")


class Adapter(Protocol):
    """What mmerank must know of a multimodal model: where the hook points are and how to feed an example.

    Beside what is declared here, a class has `model_types` (those of config.json that it loads) and the
    classmethod `load(checkpoint, *, name, dtype, device)`. Where a YAML file names the adapter, `checkpoint` is
    that file, and further keyword-only parameters of `load` are the keys the file may have, those without a
    default the keys it must have.

    Attributes:
        name: The model as results name it.
        source: What was read from where, for the record: JSON values by name.
        model: The module that the hook points are paths in.
        tokenizer: The LLM's, as transformers loads it.
        points: Hook point for each of `vision`, `connector` and `llm`.
        vision_points: Named alternatives for `vision`; `default` is the one in `points`.
        causal: Whether a position of the LLM sees only those before it, so that what is read of a prefix
            does not depend on what follows.
        image_tokens: Rows of the connector's output per picture.
        max_tokens: Longest sequence the LLM takes.
    """

    name: str
    source: Mapping[str, Any]
    model: nn.Module
    tokenizer: Any
    points: Mapping[str, Point]
    vision_points: Mapping[str, Point]
    causal: bool
    image_tokens: int
    max_tokens: int

    def pixels(self, picture: Image.Image, layout: ImageLayout) -> Tensor:
        """The vision encoder's input for one RGB picture, (c, h, w), float32, on the CPU."""
        ...

    def sequence(self, example: Example, kind: Kind, form: SequenceForm) -> TokenSequence:
        """What the LLM reads for one example: image, text or both."""
        ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Run vision encoder and connector: (b, c, h, w) -> the connector's output, (b, m, d)."""
        ...

    def decode(self, ids: Tensor, mask: Tensor, images: Tensor | None) -> None:
        """Run the LLM up to its final norm, without the LM head.

        `ids` and `mask` are (b, n), padded on the right; `images` is the connector's output, (b, m, d).
        """
        ...


def load(model: str | Path, *, dtype: str | None = None, device: str | None = None) -> Adapter:
    """A loaded model, ready to be measured.

    Args:
        model: A hub id, a local directory, a YAML file `{adapter: NAME, ...}`, or `demo` (a small LLaVA with
            random weights).
        dtype: `float32`, `bfloat16`, `float16` or `float64`; default: the checkpoint's own.
        device: As torch names it, or `auto` to spread the model over all devices (`device_map="auto"`);
            default: `cuda` where there is one, else `cpu`.

    Returns:
        The adapter of the model's family.

    Raises:
        UsageError: Unknown dtype, device or adapter name.
        ModelError: No such checkpoint, or none that any adapter understands.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(place)
    if str(model) == "demo":
        from mmerank import demo

        with demo.checkpoint() as folder:
            adapter: Adapter = _family("llava").load(folder, name="demo", dtype=dtype, device=place)
            return adapter
    path = Path(model)
    if path.suffix in (".yaml", ".yml"):
        name, keys = _yaml(path)
        family = _family(name)
        if family.model_types:
            raise UsageError(f"{path}: adapter {name} is given by a hub id or a directory, not by a YAML file")
        _check_keys(path, name, family.load, keys)
        adapter = family.load(path, name=str(model), dtype=dtype, device=place, **keys)
        return adapter
    model_type = _model_type(str(model))
    for entry in entry_points(group="mmerank.adapters"):
        family = entry.load()
        if model_type in family.model_types:
            return family.load(model, name=str(model), dtype=dtype, device=place)  # type: ignore[no-any-return]
    known = {t for entry in entry_points(group="mmerank.adapters") for t in entry.load().model_types}
    raise ModelError(
        f"{model}: no adapter for a checkpoint of model_type {model_type!r}; known: {', '.join(sorted(known))}"
    )


def _check_device(device: str) -> None:
    if device == "auto":
        return
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise UsageError(f"unknown device {device!r}; cpu, cuda, cuda:0, mps, or auto") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: torch sees no CUDA device here")


def _family(name: str) -> Any:
    """The adapter class of an entry point name, or of `package.module:Class`."""
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"adapter {name!r} cannot be imported: {error}") from error
    known = {entry.name: entry for entry in entry_points(group="mmerank.adapters")}
    if name not in known:
        raise UsageError(f"unknown adapter {name!r}; known: {', '.join(sorted(known))}")
    return known[name].load()


def _yaml(path: Path) -> tuple[str, dict[str, Any]]:
    import yaml

    try:
        keys = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(keys, dict) or not isinstance(keys.get("adapter"), str):
        raise ModelError(f"{path}: expected keys, one of them `adapter: NAME`")
    return keys.pop("adapter"), keys


def _check_keys(path: Path, name: str, load: Callable[..., Any], keys: Mapping[str, Any]) -> None:
    """Hold the keys of a YAML file against what the adapter's own `load` takes by keyword."""
    parameters = inspect.signature(load).parameters.values()
    own = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("name", "dtype", "device")}
    unknown = sorted(map(str, keys.keys() - own.keys()))
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        known = ", ".join(own) or "no keys of its own"
        raise ModelError(f"{path}: unknown key {', '.join(unknown)}; adapter {name} knows {known}")
    if missing := [key for key, p in own.items() if p.default is p.empty and key not in keys]:
        raise ModelError(f"{path}: missing key {', '.join(missing)}; adapter {name} needs it")


def _model_type(model: str) -> str:
    """`model_type` of the checkpoint's config.json, local or on the hub, without loading anything else."""
    from transformers import PretrainedConfig

    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise ModelError(f"{model}: no config.json in this folder, so it is not a checkpoint of transformers")
    try:
        config, _ = PretrainedConfig.get_config_dict(model)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{model}: no such folder, and not to be had from the hub ({reason})") from error
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ModelError(f"{model}: its config.json names no model_type")
    return model_type


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of names, shapes, dtypes and the first values of all parameters and buffers: cheap at any size."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if not tensor.is_meta:  # offloaded by device_map
            digest.update(tensor.flatten()[:16].double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
