"""What a model is known by: hashes of everything that decides its numbers, taken when it is measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from itertools import product
from typing import Any, cast, get_args

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mmerank.convention import ImageLayout, SequenceForm
from mmerank.errors import ModelError
from mmerank.inputs.example import Example
from mmerank.inputs.sequence import Kind, TokenSequence
from mmerank.models.adapter import Adapter
from mmerank.models.checkpoints import configuration_fingerprint, without_origin
from mmerank.models.described import Description, is_dynamic, tensor_content
from mmerank.models.encoders.encoder import Encoder, is_encoder
from mmerank.models.loading import TextAdapter, tokenizer_fingerprint
from mmerank.models.protocol import LoadedModel

KNOWN_BY = "known_by"
# Where in it the initialisation of twins stands, where another was asked for than the configuration's.
INITIALISATION = "initialisation"
# What an untrained twin shares with the trained model beside the configuration, and follows from; of encoders of
# pictures, `pixels` too, and of language models not.
OF_TWINS = ("attention", "classes", "dtypes", INITIALISATION, "pixels", "reading", "tokenizer")
_TEXT = "A cat sat, in 1867, on the mat:\n\nWas it *her* cat? Das Kätzchen schläft … 猫"


def identity(adapter: LoadedModel) -> dict[str, Any]:
    """What a model was loaded from, and hashes of all that decides its numbers, as it is now.

    Every byte of the weights is read each time, since nothing else shows all edits in place.

    Args:
        adapter: Of any family, also of a package of its own.

    Returns:
        `source` of the adapter, with `dtype`, `weights` (all parameters and buffers, in their order) and
        `configuration` (the architecture) as they are; and in `known_by` what else decides: `modules` (classes,
        settings, functions and hooks of each), `classes` (of adapter and model), `dtypes`, `attention` (how it is
        computed), `tokenizer`, `chat_template`, `reading` (what is fed for a text, and how long it may be),
        `hook_points`; with pictures `image_processor` and `pixels` (what is fed for one).

    Raises:
        ModelError: Weights have no values.
    """
    model = adapter.model
    configs, describe = _configs(model), Description()
    known: dict[str, Any] = {
        "attention": sorted({str(getattr(config, "_attn_implementation", None)) for config in configs}),
        "classes": [f"{type(of).__module__}.{type(of).__qualname__}" for of in (adapter, model)],
        "dtypes": _dtypes(model),
        "modules": _digest([describe.module(*of) for of in model.named_modules()]),
    }
    if is_encoder(adapter):
        known |= _encoded(cast(Encoder, adapter))
    else:
        known |= _fed(cast("Adapter | TextAdapter", adapter))
    stated: dict[str, Any] = {}
    if configs:
        # Of an encoder only a part may have one.
        whole = [adapter.source["configuration"]] if is_encoder(adapter) and "configuration" in adapter.source else []
        stated["configuration"] = configuration_fingerprint([*whole, *(of.to_dict() for of in configs)])
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    if isinstance(adapter, Adapter) and adapter.undefined:
        stated["undefined"] = dict(adapter.undefined)
    stated |= {} if dtype is None else {"dtype": str(dtype).removeprefix("torch.")}
    return {**adapter.source, **stated, "weights": weights_fingerprint(model), KNOWN_BY: known}


def _fed(adapter: Adapter | TextAdapter) -> dict[str, Any]:
    """What decides of what is fed to a language model or a multimodal one, and where it is read."""
    tokenizer = adapter.tokenizer
    known = {
        "chat_template": _digest(getattr(tokenizer, "chat_template", None)),
        "hook_points": _digest([list(adapter.layers)]),
        "tokenizer": tokenizer_fingerprint(tokenizer),
    }
    if isinstance(adapter, Adapter):
        return known | _pictured(adapter)
    ids = _attempted(lambda: adapter.token_ids(_TEXT))
    return known | {"reading": _digest([ids, adapter.max_tokens, adapter.predicts_next])}


def _encoded(encoder: Encoder) -> dict[str, Any]:
    """What decides of what is fed to an encoder; tokenizers of libraries of its kind have no form in common."""
    read = _attempted(lambda: encoder.tokens(_TEXT).ids)
    return {
        "pixels": _digest(_attempted(lambda: encoder.pixels(_picture()))),
        "reading": _digest([read, encoder.max_tokens]),
        "tokenizer": tokenizer_fingerprint(getattr(encoder, "tokenizer", None)),
    }


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of names, shapes, dtypes and all bytes of parameters and buffers, those that are not saved included.

    XXH3 at the speed of memory, an order of magnitude faster than SHA-256: it is to tell models apart, not to keep
    out who makes two of one hash.

    Args:
        model: On any device; offloaded weights are read from where they lie.

    Returns:
        16 hexadecimal digits.

    Raises:
        ModelError: Weights have no values.
    """
    # Quantised weights have their scales in the state alone, and rotary frequencies are not in it.
    tensors: dict[str, Any] = {
        **model.state_dict(keep_vars=True),
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    passing = [name for name, module in model.named_modules() if is_dynamic(module)]
    digest = xxhash.xxh3_128()
    of_object: dict[int, str] = {}  # tied weights are read once
    for name, value in sorted(tensors.items()):
        if name.rpartition(".")[0] in passing:
            continue
        if id(value) not in of_object:
            of_object[id(value)] = _content(model, name, value)
        digest.update(f"{name} {of_object[id(value)]}\n".encode())
    return digest.hexdigest()[:16]


def _content(model: nn.Module, name: str, value: Any) -> str:
    """What stands in a state, in words: of a tensor shape, dtype and a hash of its bytes."""
    if isinstance(value, (list, tuple)):
        return str([_content(model, name, part) for part in value])
    if not isinstance(value, Tensor):
        return str(value)
    if hasattr(value, "__tensor_flatten__"):  # quantised, or of several devices: tensors in a tensor
        parts, settings = value.__tensor_flatten__()
        return str([settings, *(_content(model, name, getattr(value, part)) for part in parts)])
    if value.is_meta:
        value = _offloaded(model, name)
    if value.is_quantized:
        value = value.dequantize()
    return tensor_content(value)


def _offloaded(model: nn.Module, name: str) -> Tensor:
    """The values of weights that accelerate keeps on the CPU or the disk until they are needed."""
    path = name.split(".")
    for i in range(len(path) - 1, -1, -1):
        hook = getattr(model.get_submodule(".".join(path[:i])), "_hf_hook", None)
        for kept in (getattr(one, "weights_map", None) for one in getattr(hook, "hooks", [hook])):
            if kept is not None and (value := kept.get(".".join(path[i:]))) is not None and not value.is_meta:
                return value  # type: ignore[no-any-return]
    raise ModelError(f"weights {name} have no values (they are on the device `meta`)")


def _configs(model: nn.Module) -> list[Any]:
    """The configurations of transformers in a model, each object once."""
    found = [config for module in model.modules() if hasattr(config := getattr(module, "config", None), "to_dict")]
    return list({id(config): config for config in found}.values())


def _dtypes(model: nn.Module) -> str:
    """That of all parameters, or a hash of which has which."""
    found = {name: str(parameter.dtype).removeprefix("torch.") for name, parameter in model.named_parameters()}
    return next(iter(found.values())) if len(set(found.values())) == 1 else _digest(found)


def _pictured(adapter: Adapter) -> dict[str, Any]:
    """What decides beside all that language models have, too."""
    example = Example("", _picture(), _TEXT, _TEXT[::-1])
    forms = product(get_args(SequenceForm), get_args(Kind))
    read = [_attempted(lambda: adapter.sequence(example, kind, form)) for form, kind in forms]  # noqa: B023
    fed = [_attempted(lambda: adapter.pixels(_picture(), of)) for of in get_args(ImageLayout)]  # noqa: B023
    points = [dict(adapter.points), dict(adapter.vision_points), list(adapter.layers)]
    stated = [without_origin(of.to_dict()) for of in _declared(adapter)]
    return {
        "hook_points": _digest(points),
        "image_processor": _digest(stated),
        "pixels": _digest(fed),
        "reading": _digest([read, adapter.max_tokens, adapter.image_tokens, adapter.causal]),
    }


def _declared(adapter: Adapter) -> Iterator[Any]:
    """What an adapter holds that can say its settings, as the processors of transformers can."""
    for name, value in getattr(adapter, "__dict__", {}).items():
        # What is made when it is first asked for says whether it was, as the processor that generation alone takes.
        made_later = isinstance(getattr(type(adapter), name, None), cached_property)
        if not made_later and not isinstance(value, (nn.Module, type)) and hasattr(value, "to_dict"):
            yield value


def _picture() -> Image.Image:
    """A picture with edges of all directions, larger than most models take, and no square."""
    return Image.fromarray(_colours())


@cache
def _colours() -> NDArray[np.uint8]:
    y, x = np.mgrid[:600, :800]
    return np.stack([(x * y // 7) % 256, (x + y * 3) % 256, (x ^ y) % 256], -1).astype(np.uint8)


def _attempted(work: Callable[[], Any]) -> Any:
    """What comes out, as JSON values; of what cannot be fed to a model, which error."""
    try:
        found = work()
    except Exception as error:  # of a tokenizer that lacks these characters, for example
        return type(error).__name__
    return _plain(found)


def _plain(found: Any) -> Any:
    """What is fed to a model, as JSON values."""
    if isinstance(found, TokenSequence):
        further = [found.extra, found.beside] if found.extra or found.beside else []
        return [list(found.ids), [role.name for role in found.roles], *further]
    if isinstance(found, Mapping):
        return {name: _plain(value) for name, value in sorted(found.items())}
    if isinstance(found, Tensor):
        return [
            list(found.shape),
            str(found.dtype),
            xxhash.xxh3_128(found.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest(),
        ]
    return found


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
