"""The TextAdapter protocol, and how a MODEL argument becomes a language model ready to be measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from mmerank.errors import ModelError
from mmerank.models.changed import loaded_and_changed
from mmerank.models.checkpoints import (
    check_keys,
    check_named,
    configuration,
    families,
    family_named,
    folder_or_hub_id,
    without_origin,
    yaml_keys,
)
from mmerank.models.devices import chosen_device, quantised
from mmerank.models.hooks import Point
from mmerank.models.located import LANGUAGE, at_revision, check_dtype, is_yaml
from mmerank.models.protocol import LoadedModel, lacking
from mmerank.models.quiet import quietly
from mmerank.models.wrapped import unwrapped

GROUP = LANGUAGE
FALLBACK = "causal-lm"  # takes whatever transformers knows


@runtime_checkable
class TextAdapter(LoadedModel, Protocol):
    """What mmerank must know of a language model: where its hidden states are and how to feed a text.

    Beside what is declared here, a class has `model_types` (those of config.json that it loads) and the
    classmethod `load(*, checkpoint, name, dtype, device, tokenizer, revision)`; further keyword-only parameters
    of `load` are keys that a YAML file may have.

    Beside what `mmerank.models.protocol.LoadedModel` has (`name`, `source`, `model`, `max_tokens`, `untrained`):

    Attributes:
        tokenizer: As transformers loads it; of an adapter of one's own it may be another, or None.
        predicts_next: Whether `logits` predict the next token; False for encoders.
        layers: Where hidden states are read, as transformers orders its `hidden_states`: what enters the first
            block, what leaves each block but the last, and at last the final representation: after the final norm
            (and OPT-350M's projection), before the LM head.
    """

    tokenizer: Any
    predicts_next: bool
    layers: tuple[Point, ...]

    def token_ids(self, text: str) -> list[int]:
        """All ids of a text, with the special tokens that the tokenizer adds; not cut."""
        ...

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Final hidden states, (b, n, d), without the LM head; each of `layers` fires once.

        `ids` is (b, n), integer, `mask` (b, n), bool; both are padded on the right.
        """
        ...

    def logits(self, h: Tensor) -> Tensor:
        """The LM head: final hidden states (..., d) -> (..., vocabulary). ModelError if `predicts_next` is False."""
        ...


def check_text_model(model: str | Path, revision: str | None = None) -> None:
    """Refuse a MODEL argument that `load_text` would refuse at once, without loading weights.

    Args:
        model: As for `load_text`.
        revision: As for `load_text`.

    Raises:
        UsageError: Unknown adapter name.
        ModelError: No such checkpoint or revision, or none that any adapter understands.
    """
    _found(model, revision)


def check_text_adapter(adapter: object) -> None:
    """Refuse what is not a loaded language model.

    Args:
        adapter: What was given for one.

    Raises:
        TypeError: It lacks what a `TextAdapter` has.
    """
    multimodal = hasattr(adapter, "points")
    if not multimodal and (missing := lacking(adapter, TextAdapter)):
        raise TypeError(
            f"{type(adapter).__name__} is no adapter yet: it lacks {', '.join(missing)}; the docstring of "
            "mmerank.TextAdapter says what each is"
        )
    if not isinstance(adapter, TextAdapter):
        raise TypeError(
            f"expected a model that mmerank.load_text(MODEL) returns, got {type(adapter).__name__}; mmerank.align "
            "measures multimodal models, which mmerank.load(MODEL) loads"
        )


def _found(model: str | Path, revision: str | None) -> tuple[Any, dict[str, Any]]:
    """Adapter class of a MODEL argument, and what its `load` is given beside name, dtype and device."""
    if not is_yaml(model):
        model, revision = at_revision(model, revision)
        check_named(GROUP, model, revision)
        kind = configuration(model, revision)["model_type"]
        keys = {"checkpoint": str(model)} | ({"revision": revision} if revision else {})
        return families(GROUP).get(kind) or family_named(GROUP, FALLBACK), keys
    path = Path(model)
    adapter, keys = yaml_keys(path)
    family = family_named(GROUP, adapter)
    check_keys(path, adapter, family.load, keys)
    for key in keys.keys() & {"checkpoint", "tokenizer"}:
        keys[key] = folder_or_hub_id(path, key, keys[key])
    return family, keys


def load_text(
    model: str | Path,
    *,
    dtype: str | None = None,
    device: str | None = None,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    load_in: str | None = None,
    wrap: str | None = None,
) -> TextAdapter:
    """A loaded language model, ready to be measured.

    Args:
        model: A hub id, also `OWNER/NAME@REVISION`, a local directory, or a YAML file
            `{adapter: NAME, checkpoint: ..., tokenizer: ...}`.
        dtype: `float32`, `bfloat16`, `float16` or `float64`; default: the checkpoint's own.
        device: As torch names it, or `auto` to spread the model over all devices (`device_map="auto"`);
            default: `cuda` where there is one, else `cpu`.
        tokenizer: Hub id or directory of the tokenizer where the checkpoint has none, as OpenELM; it comes
            before what a YAML file says.
        revision: Branch, tag or commit of a model on the hub (a step of its pre-training, for example); it comes
            before what a YAML file says.
        load_in: `8bit` or `4bit` to quantise the weights with bitsandbytes, where the family can.
        wrap: A function that changes the module once it is loaded, as for `mmerank.load`; untrained twins are not
            changed.

    Returns:
        The adapter of the model's family, or the one for whatever transformers knows.

    Raises:
        UsageError: Unknown dtype, device or adapter name; or quantising is not possible here.
        ModelError: No such checkpoint, or none that any adapter understands.
    """
    check_dtype(dtype)
    place = chosen_device(device)
    model, revision = at_revision(model, revision)
    family, keys = _found(model, revision)
    if tokenizer is not None:
        keys["tokenizer"] = str(tokenizer)
    if revision is not None:
        keys["revision"] = revision
    keys |= quantised(family, load_in, place)
    name = f"{model}@{revision}" if revision else str(model)

    def as_it_is(called: str) -> TextAdapter:
        with quietly():
            return family.load(name=called, dtype=dtype, device=place, **keys)  # type: ignore[no-any-return]

    return loaded_and_changed(wrap, as_it_is, name)  # type: ignore[no-any-return]


def wrap_text(model: Any, tokenizer: Any, *, name: str = "model") -> TextAdapter:
    """A language model that is in memory already, ready to be measured as it is at that moment.

    Args:
        model: A model of transformers, bare or with LoRA (peft), compiled, or in a DataParallel or
            DistributedDataParallel; it stays where it is, in its dtype. LoRA is measured as it is active.
        tokenizer: Its tokenizer, as transformers loads it.
        name: The model as results name it.

    Returns:
        The adapter of the model's family, or the one for whatever transformers knows. A family can do this that
        has a classmethod `wrap(model, tokenizer, *, name)`.

    Raises:
        ModelError: No adapter understands such a model; or by itself it would be another one, see
            `mmerank.models.wrapped.unwrapped`.
    """
    model = unwrapped(model)
    kind = getattr(getattr(model, "config", None), "model_type", None)
    family = families(GROUP).get(str(kind)) or family_named(GROUP, FALLBACK)
    wrap = getattr(family, "wrap", None)
    if wrap is None or kind is None:
        raise ModelError(f"{name}: a {type(model).__name__} in memory cannot be measured, only one loaded by mmerank")
    return wrap(model, tokenizer, name=name)  # type: ignore[no-any-return]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of what a tokenizer does to a text, wherever it was loaded from.

    Args:
        tokenizer: As transformers loads it, or another, or None.

    Returns:
        16 hexadecimal digits; of what is none of transformers, the name of its class: what it gives for a text is
        known by the ids that the model is fed.
    """
    if not hasattr(tokenizer, "init_kwargs"):
        return type(tokenizer).__name__
    if tokenizer.is_fast:
        content = _of_fast(tokenizer.backend_tokenizer.to_str())
    else:
        parts: list[Any] = [
            sorted(tokenizer.get_vocab().items()),
            without_origin(_without_paths(tokenizer.init_kwargs)),
        ]
        if (pieces := getattr(tokenizer, "sp_model", None)) is not None:
            parts.append(hashlib.sha256(pieces.serialized_model_proto()).hexdigest())
        content = _as_json(parts)
    special = [sorted(tokenizer.special_tokens_map.items()), sorted(map(str, tokenizer.all_special_tokens))]
    stated = f"[{_as_json(type(tokenizer).__name__)}, {content}, {_as_json(special)}]"
    return hashlib.sha256(stated.encode()).hexdigest()[:16]


@lru_cache(maxsize=2)  # of a large vocabulary it takes tenths of a second, and a run asks more than once
def _of_fast(raw: str) -> str:
    """A tokenizer's file as JSON in one order, without what the last call asked for, which is not the tokenizer."""
    content = json.loads(raw)
    del content["truncation"], content["padding"]
    return _as_json(content)


def _as_json(content: Any) -> str:
    return json.dumps(content, sort_keys=True, default=str)


def _without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: of for key, of in settings.items() if key != "name_or_path" and not key.endswith("_file")}
