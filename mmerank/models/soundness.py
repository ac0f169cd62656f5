"""Whether a checkpoint is all used, and all there: one rule for every adapter that loads one of transformers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmerank.errors import ModelError
from mmerank.models.stored import (
    COPY,
    SHARD,
    WEIGHTS,
    Stored,
    equal,
    file_of,
    files_read,
    folder_of,
    json_object,
    no_copy,
    stored_in,
    weight_files,
)

if TYPE_CHECKING:  # a MODEL argument is looked at before torch is there
    from torch import Tensor, nn

ADAPTER = "adapter_config.json"
# Saved as tensors once, and computed from the configuration since.
_COMPUTED = re.compile(
    r"(^|\.)(inv_freq|position_ids|token_type_ids|num_batches_tracked"
    r"|rotary_emb\.(cos|sin)_cached|(attn|attention|self_attn|self_attention)\.(bias|masked_bias|causal_mask))$"
)
# Of encoders: the sentence vector, and DeBERTa's heads, which no class of transformers has.
_POOLER = re.compile(r"(^|\.)pooler(\.dense)?\.(weight|bias)$")
_HEADS = re.compile(r"^(lm_predictions\.lm_head|mask_predictions)\.(\w+\.)?(weight|bias)$")
_OF_ADAPTERS = re.compile(r"lora_|\.base_layer\.|modules_to_save|ia3_|hada_w|lokr_|oft_|vera_|prompt_embeddings")
_OF_QUANTISING = re.compile(
    r"_?(scale|scales|scale_inv|scale_shift|zero_point|zeros|absmax|amax)(_\w+)?$|[._]SCB$|q(weight|zeros)$|g_idx$"
    r"|quant_(map|state)|weight_(packed|shape|format)$"
)
_OF_OTHER_TASKS = re.compile(
    r"(^|\.)(score|classifier|classification_head|qa_outputs|v_head|value_head|reward_head)\."
)
_STATED_AS_QUANTISED = ("quantization_config", "compression_config")
_OF_WEIGHTS = ("weight", "bias", "embedding")  # others may be buffers of whole numbers
_NARROW = ("I8", "U8", "F8", "F4", "int8", "uint8", "float8", "float4")


def check_files(checkpoint: str | Path, revision: str | None = None) -> None:
    """Refuse a checkpoint of which not all files would be used, or not as they are meant.

    Args:
        checkpoint: Directory or hub id; of the latter what is in the cache is looked at.
        revision: On the hub.

    Raises:
        ModelError: An adapter (LoRA) lies beside the weights; there are two sets of weights to choose from, a
            copy that is none, or files that nothing reads; a tensor stands in two files with different values; or
            weights are stored as integers or in 8 bits and nothing says how they were quantised.
    """
    if file_of(checkpoint, ADAPTER, revision):
        raise ModelError(
            f"{checkpoint}: an adapter ({ADAPTER}) lies beside the weights, which would be applied where peft is "
            "installed and left out elsewhere; merge it (peft: merge_and_unload(), then save_pretrained into a new "
            f"folder), or move {ADAPTER} away to measure the model without it"
        )
    folder = folder_of(checkpoint, revision)
    if folder is None:
        return
    config = json_object(folder / "config.json")
    read = files_read(folder, config)
    stored = stored_in(read)
    if Path(checkpoint).is_dir():
        _check_beside(folder, read, stored)
    _check_stored(checkpoint, stored, config)


def check_no_adapter_alone(checkpoint: str | Path) -> None:
    """Refuse a directory that holds an adapter (LoRA) without the model that it belongs to.

    Args:
        checkpoint: A directory.

    Raises:
        ModelError: It is one.
    """
    stated = Path(checkpoint) / ADAPTER
    if stated.is_file() and not (Path(checkpoint) / "config.json").is_file():
        base = json_object(stated).get("base_model_name_or_path")
        raise ModelError(
            f"{checkpoint}: an adapter ({ADAPTER}) of {base or 'a model it does not name'}, not a whole model; merge "
            "it into that (peft: PeftModel.from_pretrained(base, folder).merge_and_unload(), then save_pretrained "
            "into a new folder)"
        )


def check_loaded(
    model: nn.Module,
    report: Mapping[str, Any],
    checkpoint: str | Path,
    revision: str | None = None,
    *,
    unused: Collection[str] = (),
    encoder: bool = False,
) -> list[str]:
    """Refuse a model that is not wholly made of its checkpoint's weights, or a checkpoint that is not wholly used.

    Args:
        model: As loaded.
        report: What transformers says of it (`output_loading_info`), with shapes that differ among it
            (`ignore_mismatched_sizes`: they are an error here, which names them).
        checkpoint: Directory or hub id.
        revision: On the hub.
        unused: Weights that may be left, by their full names: a head that is not measured.
        encoder: Whether it is an encoder, whose sentence vector and heads are left out on purpose.

    Returns:
        Names of the tensors that were not used and need not be: they are computed (rotary frequencies, position ids,
        attention masks), are `unused`, or the model's class says that it does without them (multi-token prediction).

    Raises:
        ModelError: Weights are missing, left over, there twice, of another shape, or not finite.
    """
    if not Path(checkpoint).is_dir():  # only now is everything in the cache
        check_files(checkpoint, revision)
    missing = sorted(key for key in report["missing_keys"] if not (encoder and _POOLER.search(key)))
    left = set(report["unexpected_keys"])
    own = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    folder = folder_of(checkpoint, revision)
    stored = stored_in(files_read(folder, json_object(folder / "config.json"))) if folder else {}
    known = set(model.state_dict())
    # transformers leaves out of its report what the class does without; it is looked at all the same.
    dropped = {
        key
        for key in stored.keys() - left
        if (any(p.search(key) for p in own) or _COMPUTED.search(key)) and not _is_in(key, known)
    }
    allowed = {_renamed(key) for key in unused}
    unknown = sorted(
        key
        for key in left | dropped
        if not (_is_computed(key, stored.get(key)) or _renamed(key) in allowed or (encoder and _beside_encoder(key)))
        and (key in left or any(kind.search(key) for kind in (_COMPUTED, _OF_ADAPTERS, _OF_QUANTISING)))
    )
    if missing:
        beside = f"; {len(unknown)} of it are not understood (first: {unknown[0]})" if unknown else ""
        raise ModelError(
            f"{checkpoint}: {len(missing)} weights are not in the checkpoint (first: {missing[0]}); they would be "
            f"random{beside}"
        )
    if unknown:
        raise ModelError(
            f"{checkpoint}: {len(unknown)} weights are not understood (first: {unknown[0]}){_advice(unknown)}"
        )
    if wrong := sorted(report["mismatched_keys"]):
        key, found, expected = wrong[0]
        raise ModelError(
            f"{checkpoint}: {len(wrong)} weights have another shape than config.json says (first: {key} is "
            f"{tuple(found)}, expected {tuple(expected)})"
        )
    _check_once(model, stored, checkpoint)
    check_finite(dict(model.named_parameters()), checkpoint)
    return sorted(left | dropped)


def check_finite(tensors: Mapping[str, Tensor], checkpoint: str | Path) -> None:
    """Refuse weights that are not finite.

    Args:
        tensors: By name.
        checkpoint: Where they came from, for the message.

    Raises:
        ModelError: One holds NaN or infinity.
    """
    if bad := [name for name, tensor in tensors.items() if not _finite(tensor)]:
        dtype = str(tensors[bad[0]].dtype).removeprefix("torch.")
        raise ModelError(
            f"{checkpoint}: {len(bad)} weights hold NaN or infinity in {dtype} (first: {bad[0]}); the checkpoint is "
            "damaged, its training failed, or its values are too large for the dtype (--dtype)"
        )


def check_tied(model: Any, checkpoint: str | Path) -> None:
    """Refuse an LM head of its own in a model whose configuration makes it the embedding.

    Args:
        model: As transformers loaded it.
        checkpoint: Where it came from, for the message.

    Raises:
        ModelError: The checkpoint holds another head than the embedding that its config.json says is the head.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = getattr(model.config.get_text_config(decoder=True), "tie_word_embeddings", False)
    if (
        tied
        and head is not None
        and head.weight is not embedding.weight
        and head.weight.shape == embedding.weight.shape
    ):
        raise ModelError(
            f"{checkpoint}: config.json says that the LM head is the embedding (tie_word_embeddings), but the "
            "checkpoint holds a head of its own with other values; say false there, or take the head out of the file"
        )


def check_pixels(processor: Any, side: int, checkpoint: str | Path) -> None:
    """Refuse an image processor that makes pictures of another size than the vision encoder takes.

    Args:
        processor: As transformers loads it.
        side: What the vision encoder takes, pixels.
        checkpoint: Where they came from, for the message.

    Raises:
        ModelError: It does, or it cannot process a picture at all.
    """
    from PIL import Image

    try:
        pixels = processor(Image.new("RGB", (side, side), "white"), return_tensors="pt")["pixel_values"]
    except Exception as error:  # whatever its settings come to
        reason = str(error).strip() or type(error).__name__
        raise ModelError(f"{checkpoint}: its image processor fails on a white square ({reason})") from error
    if tuple(pixels.shape[-3:]) != (3, side, side):
        raise ModelError(
            f"{checkpoint}: its image processor gives pictures of {tuple(pixels.shape[-3:])}, and the vision encoder "
            f"takes (3, {side}, {side}); compare crop_size in processor_config.json (preprocessor_config.json) with "
            "image_size in config.json"
        )


def embedding_rows(model: nn.Module) -> int | None:
    """How many token ids a model has embeddings for.

    Args:
        model: Any with transformers' `get_input_embeddings`.

    Returns:
        Rows of its token embedding; None where it does not say.
    """
    asked = getattr(model, "get_input_embeddings", None)
    rows = getattr(asked() if asked else None, "num_embeddings", None)
    return int(rows) if rows is not None else None


def _check_beside(folder: Path, read: Collection[Path], stored: Mapping[str, Stored]) -> None:
    names = {path.name for path in read}
    beside = [path for path in weight_files(folder) if path.name not in names]
    if not names:
        return  # transformers says so
    first = min(names)
    same = [path.name for path in beside if path.suffix == Path(first).suffix]
    if shards := [name for name in same if SHARD.fullmatch(name) or name in WEIGHTS]:
        raise ModelError(
            f"{folder}: two sets of weights, {first} and {shards[0]} ({len(shards)} files not read); it cannot "
            "be known which is meant, so move one away"
        )
    if unknown := [path.name for path in beside if not COPY.fullmatch(path.name)]:
        raise ModelError(
            f"{folder}: {unknown[0]} holds weights that nothing reads; if they are a part of the model, merge them "
            "into it, and move the file away"
        )
    for path in beside:
        if key := no_copy(path, stored):
            raise ModelError(
                f"{folder}: {path.name} is no copy of {first}: {key} has other values there; it cannot be known "
                "which is meant, so move one away"
            )


def _check_stored(checkpoint: str | Path, stored: Mapping[str, Stored], config: Mapping[str, Any]) -> None:
    """Weights in 8 bits or as integers are declared to be quantised, and each has its scale beside it."""
    narrow = [
        key
        for key, tensor in stored.items()
        if not _is_computed(key, tensor)
        and (tensor.dtype.startswith(_NARROW) or (_is_whole(tensor.dtype) and key.endswith(_OF_WEIGHTS)))
    ]
    inner = [config, *(value for value in config.values() if isinstance(value, dict))]
    why = "config.json has no quantization_config"
    if any(part.get(key) for part in inner for key in _STATED_AS_QUANTISED):
        # What has a scale that is not applied is refused for it when the model is loaded.
        scales = [key.split(".") for key in stored if _OF_QUANTISING.search(key)]
        scaled = {".".join(parts[:-above]) for parts in scales for above in (1, 2)}
        narrow = [key for key in narrow if not _OF_QUANTISING.search(key) and key.rpartition(".")[0] not in scaled]
        why = "the checkpoint has no scales for them"
    if narrow:
        raise ModelError(
            f"{checkpoint}: {len(narrow)} weights are stored as {stored[narrow[0]].dtype} (first: {narrow[0]}), but "
            f"{why}, so what they stand for is not known; dequantise the model, or say how it was quantised"
        )


def _check_once(model: Any, stored: Mapping[str, Stored], checkpoint: str | Path) -> None:
    """Each weight of the model stands there once, by the rules with which transformers renames what it reads."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings, converters = (
        [rule for rule in rules if isinstance(rule, kind)] for kind in (WeightRenaming, WeightConverter)
    )
    names, prefix = model.state_dict(), model.base_model_prefix
    taken: dict[str, str] = {}
    for key in stored:
        name, converter = rename_source_key(key, renamings, converters, prefix, names)
        if name not in names and key in names:
            name, converter = rename_source_key(key, [], [], prefix, names)
        if name not in names or converter is not None:
            continue
        if (other := taken.setdefault(name, key)) != key and not equal(stored[key], stored[other]):
            raise ModelError(
                f"{checkpoint}: {name} stands there twice with different values, as {other} and as {key}; it cannot "
                "be known which is meant"
            )


def _is_whole(dtype: str) -> bool:
    return dtype.startswith(("I", "U", "int", "uint", "BOOL", "bool"))


def _is_computed(key: str, stored: Stored | None) -> bool:
    """Whether a tensor is one of those that are computed; a mask that is called `bias` by its shape too."""
    if not _COMPUTED.search(key):
        return False
    return stored is None or not key.endswith(".bias") or len(stored.shape) in (0, 4)


def _beside_encoder(key: str) -> bool:
    return bool(_POOLER.search(key) or _HEADS.search(key))


def _is_in(key: str, names: Collection[str]) -> bool:
    """Whether a name of a file is one of the model's, which may have a prefix less or more."""
    parts = key.split(".")
    return any(".".join(parts[i:]) in names for i in range(len(parts))) or any(n.endswith(f".{key}") for n in names)


def _renamed(key: str) -> str:
    """The name that a norm's weights have had since TensorFlow's."""
    return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", key))


def _advice(unknown: Collection[str]) -> str:
    if any(map(_OF_ADAPTERS.search, unknown)):
        return (
            ": an adapter (LoRA) beside the weights it belongs to, and without it this would be the base model; "
            "merge it (peft: merge_and_unload(), then save_pretrained into a new folder)"
        )
    if any(map(_OF_QUANTISING.search, unknown)):
        return (
            ": scales of quantised weights that nothing would apply; dequantise the model, or say how it was "
            "quantised (quantization_config in config.json)"
        )
    if all(map(_OF_OTHER_TASKS.search, unknown)):
        return (
            ": the head of a model for another task, which is not measured; save its body alone "
            "(`model.base_model.save_pretrained`), or measure the model it was made from"
        )
    return "; without them it would be another model"


def _finite(tensor: Tensor) -> bool:
    import torch

    if tensor.is_meta or not tensor.is_floating_point() or tensor.element_size() < 2 or not tensor.numel():
        return True
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(tensor.detach()))
