"""The Adapter protocol, and how a MODEL argument becomes a loaded adapter."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from mmerank.convention import ImageLayout, SequenceForm
from mmerank.errors import ModelError, UsageError
from mmerank.inputs.demo import MODELS
from mmerank.inputs.example import Example
from mmerank.inputs.sequence import Kind, TokenSequence
from mmerank.models.changed import loaded_and_changed
from mmerank.models.checkpoints import (
    check_keys,
    configuration,
    families,
    family_named,
    model_types,
    yaml_keys,
)
from mmerank.models.devices import chosen_device, quantised
from mmerank.models.encoded import Encoded
from mmerank.models.hooks import Point
from mmerank.models.located import MULTIMODAL, at_revision, check_dtype, is_yaml
from mmerank.models.protocol import LoadedModel, lacking, members
from mmerank.models.quiet import quietly

GROUP = MULTIMODAL
GENERAL = "multimodal"  # for what has no adapter of its own


@runtime_checkable
class Adapter(LoadedModel, Protocol):
    """What mmerank must know of a multimodal model: where the hook points are and how to feed an example.

    Beside what is declared here, a class that loads checkpoints has the classmethod
    `load(checkpoint, *, name, dtype, device)`, also with `load_in` and `revision` where it takes these, and
    `model_types`, those of config.json that it loads. Where a YAML
    file names the adapter, the first parameter is the path of that file, and further keyword-only parameters of
    `load` are the keys the file may have, those without a default the keys it must have. They come as they stand
    there: `mmerank.models.checkpoints.path_beside` makes paths of them.

    What an adapter may have beside: `logits(h)`, (..., d) -> (..., vocabulary), for the likelihood of answers, and
    `processor`, with which transformers generates; `generate(sequence, image, how, logits)`, which writes, and
    `prompt(example)`, what it writes behind in the chat template, where `sequence` up to the answer is not that;
    `places(size, layout, vision_point)`, where it knows better than `mmerank.models.places.Whereabouts` finds out.

    Beside what `mmerank.models.protocol.LoadedModel` has (`name`, `source`, `model`, `max_tokens`, `untrained`):

    Attributes:
        tokenizer: The LLM's, as transformers loads it; of an adapter of one's own it may be another, or None.
        points: Hook point for each of `vision`, `connector` and `llm`.
        vision_points: Named alternatives for `vision`; `default` is the one in `points`.
        layers: Of the LLM, as transformers orders its `hidden_states`: what enters the first block, the output of
            each other block, and at last the `llm` of `points`, after the final norm.
        causal: Whether a position of the LLM sees only those before it, so that what is read of a prefix
            does not depend on what follows.
        image_tokens: Rows of the connector's output per picture; 0 where that depends on the picture. Then
            `sequence` is given examples whose picture is opened.
        undefined: Which of `erank1` to `erank5` the model does not have, each with the reason.
    """

    tokenizer: Any
    points: Mapping[str, Point]
    vision_points: Mapping[str, Point]
    layers: Sequence[Point]
    causal: bool
    image_tokens: int
    undefined: Mapping[str, str]

    def pixels(self, picture: Image.Image, layout: ImageLayout) -> Any:
        """What `encode_images` takes for one RGB picture: (c, h, w), float32, or tensors by name; on the CPU.

        Of an adapter that takes several, which says so by an empty `one_picture`, also for a tuple of pictures, the
        rows of each of which its `encode_images` tells by `Encoded.spans`.
        """
        ...

    def sequence(self, example: Example, kind: Kind, form: SequenceForm) -> TokenSequence:
        """What the LLM reads for one example: image, text or both."""
        ...

    def encode_images(self, pixels: Sequence[Any], vision_point: str = "default") -> list[Encoded]:
        """Run vision encoder and connector on what `pixels` gave, and read them; one entry for each of these.

        `mmerank.models.encoded.encoded` reads a batch that goes through them as one.
        """
        ...

    def decode(self, sequences: Sequence[TokenSequence], images: Sequence[Encoded] | None) -> None:
        """Run the LLM up to its final norm, without the LM head.

        In one pass, padded on the right, or in several; each sequence once, in this order. `images` has an entry for
        each; None where no sequence has a picture.
        """
        ...


def load(
    model: str | Path,
    *,
    dtype: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    load_in: str | None = None,
    wrap: str | None = None,
) -> Adapter:
    """A loaded model, ready to be measured.

    Args:
        model: A hub id, also `OWNER/NAME@REVISION`, a local directory, a YAML file `{adapter: NAME, ...}`, or
            `demo-llava` or `demo-minigpt-v2`, the small trained models that come with mmerank. NAME may be
            `package.module:Class`, whose code is run; it is not looked for in the current folder.
        dtype: `float32`, `bfloat16`, `float16` or `float64`; default: the checkpoint's own, and float32 for the
            models that come with mmerank.
        device: As torch names it, or `auto` to spread the model over all devices (`device_map="auto"`);
            default: `cuda` where there is one, else `cpu`.
        revision: Branch, tag or commit on the hub; the same as behind an @.
        load_in: `8bit` or `4bit` to quantise the weights with bitsandbytes, where the family can.
        wrap: A function that changes the module in place once it is loaded, `FILE.py:FUNCTION?OPTION=VALUE` or
            `package.module:FUNCTION`, whose code is run; results name it beside the model.

    Returns:
        The adapter of the model's family.

    Raises:
        UsageError: Unknown dtype, device or adapter name, or a model's name that is nearly one of those that come
            with mmerank; or quantising is not possible here.
        ModelError: No such checkpoint, or none that any adapter understands.
    """
    check_dtype(dtype)
    place = chosen_device(device)
    model, revision = at_revision(model, revision)
    name = f"{model}@{revision}" if revision else str(model)
    if name in MODELS:
        model, dtype = MODELS[name], dtype or "float32"
    family, keys = _found(model, revision)
    keys |= quantised(family, load_in, place)
    checkpoint = Path(model) if is_yaml(model) else model

    def as_it_is(called: str) -> Adapter:
        with quietly():
            return family.load(checkpoint, name=called, dtype=dtype, device=place, **keys)  # type: ignore[no-any-return]

    return loaded_and_changed(wrap, as_it_is, name)  # type: ignore[no-any-return]


def wrap(model: Any, processor: Any, *, name: str) -> Adapter:
    """A multimodal model in memory, ready to be measured: pruned, quantised, with LoRA in it, or still in training.

    Args:
        model: Of transformers; what training puts around it (peft, compilation, copies on devices) is seen through.
        processor: Its processor, as `AutoProcessor` loads it.
        name: The name that results carry.

    Returns:
        The adapter of the model's family; `model` itself is left as it is, and its weights are read when it is
        measured.

    Raises:
        ModelError: No adapter understands the model, or the processor does not prepare both pictures and texts.
    """
    from mmerank.models.wrapped import unwrapped

    inner = unwrapped(model)
    config: Any = getattr(inner, "config", None)
    if not hasattr(config, "to_dict"):
        raise ModelError(f"{name}: expected a multimodal model of transformers, got {type(model).__name__}")
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise ModelError(
            f"{name}: expected the processor of the model, as AutoProcessor.from_pretrained(CHECKPOINT) "
            f"loads it, with an image processor and a tokenizer; got {type(processor).__name__}"
        )
    family = family_of(config.to_dict(), name)
    if not hasattr(family, "wrap"):
        raise ModelError(f"{name}: the adapter {family.__name__} loads checkpoints alone, no model in memory")
    adapter: Adapter = family.wrap(inner, processor, name=name)
    return adapter


def check_model(model: str | Path) -> None:
    """Refuse a MODEL argument that `load` would refuse at once, without loading weights.

    Args:
        model: As for `load`.

    Raises:
        UsageError: Unknown adapter name, or a model's name that is nearly one of those that come with mmerank.
        ModelError: No such checkpoint, or none that any adapter understands.
    """
    _found(MODELS.get(str(model), model), None)


def check_adapter(adapter: object) -> None:
    """Refuse what is not a loaded multimodal model.

    Args:
        adapter: What was given for one.

    Raises:
        TypeError: It lacks what an `Adapter` has.
    """
    if missing := lacking(adapter, Adapter):
        raise TypeError(
            f"{type(adapter).__name__} is no adapter yet: it lacks {', '.join(missing)}; the docstring of "
            "mmerank.Adapter says what each is"
        )
    if not isinstance(adapter, Adapter):
        missing = [name for name in members(Adapter) if not hasattr(adapter, name)]
        if hasattr(adapter, "points") and hasattr(adapter, "decode"):
            raise TypeError(f"{type(adapter).__name__} is no whole adapter: it has no {', '.join(missing)}")
        raise TypeError(
            f"expected a model that mmerank.load(MODEL) returns, got {type(adapter).__name__}; mmerank.diff measures "
            "language models, which mmerank.load_text(MODEL) loads"
        )
    for name, wanted in {"points": ("vision", "connector", "llm"), "vision_points": ("default",)}.items():
        if missing := [point for point in wanted if point not in getattr(adapter, name)]:
            raise TypeError(f"{type(adapter).__name__} is no adapter yet: its {name} have no {', '.join(missing)}")


def _found(model: str | Path, revision: str | None) -> tuple[Any, dict[str, Any]]:
    """Adapter class of a MODEL argument, and the keys of its YAML file, or its revision."""
    if is_yaml(model):
        if revision:
            raise ModelError(f"{model}: revision {revision!r} of a YAML file, which says itself what is read")
        path = Path(model)
        name, keys = yaml_keys(path)
        family = family_named(GROUP, name)
        if (model_types(family) and ":" not in name) or name == GENERAL:
            raise UsageError(f"{path}: adapter {name} is given by a hub id or a directory, not by a YAML file")
        check_keys(path, name, family.load, keys)
        return family, keys
    model, revision = at_revision(model, revision)
    family = family_of(configuration(model, revision), str(model))
    if revision and "revision" not in inspect.signature(family.load).parameters:
        raise ModelError(f"{model}: revision {revision!r}, and the adapter {family.__name__} loads the newest alone")
    return family, {"revision": revision} if revision else {}


def family_of(config: Mapping[str, Any], model: str) -> Any:
    """The adapter class of a configuration: the family's own, else the one for whatever transformers knows.

    Args:
        config: As in config.json.
        model: Whose it is, for the message.

    Returns:
        The class.

    Raises:
        ModelError: Neither takes it.
    """
    model_type, known = config["model_type"], families(GROUP)
    own = known.get(model_type)
    if own is not None and (not hasattr(own, "takes") or own.takes(config)):
        return own
    if model_type not in _multimodal_types():
        raise ModelError(
            f"{model}: no adapter for a checkpoint of model_type {model_type!r}; known: {', '.join(sorted(known))}, "
            "and all that transformers maps to image-text-to-text or multimodal models; language models are measured "
            "by `mmerank diff`, a model in memory by `mmerank.wrap(model, processor, name=...)`, and CONTRIBUTING.md "
            "says how to write an adapter"
        )
    return family_named(GROUP, GENERAL)


def _multimodal_types() -> set[str]:
    """Model types that the general adapter can load."""
    from transformers.models.auto import modeling_auto

    names = ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES")
    return {model_type for name in names for model_type in getattr(modeling_auto, name, {})}
