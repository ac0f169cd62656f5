"""Whether a checkpoint's files can be meant, before anything is built from them: memory is taken for what they say.

A configuration may ask for a billion layers. What its weights hold is in their headers, which take no time to read.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmerank.errors import ModelError
from mmerank.files import json_of, opened
from mmerank.inputs.example import kind
from mmerank.models.stored import WEIGHTS, file_of

if TYPE_CHECKING:  # a MODEL argument is looked at before torch is there
    from torch import nn

# What transformers reads beside them, each of which must hold a JSON object.
_OBJECTS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "adapter_config.json",
    "chat_template.json",
    *(name for name in WEIGHTS if name.endswith(".json")),
)
# Names of config.json: how often something is built, and how long a side of some weight is.
_LAYERS = frozenset(
    "num_hidden_layers n_layer n_layers num_layers num_transformer_layers encoder_layers decoder_layers depth".split()
)
_EXPERTS = frozenset("num_local_experts num_experts n_routed_experts moe_num_experts n_experts".split())
_SIDES = frozenset(
    "vocab_size hidden_size intermediate_size d_model d_ff d_inner n_inner n_embd hidden_dim ffn_dim ffn_hidden_size "
    "head_dim model_dim moe_intermediate_size word_embed_proj_dim projection_dim type_vocab_size".split()
)
_POSITIONS = frozenset("max_position_embeddings n_positions n_ctx max_context_length seq_length".split())
_OTHERS = frozenset(
    "num_attention_heads n_head num_heads num_key_value_heads image_size patch_size num_channels".split()
)
_KNOWN = _LAYERS | _EXPERTS | _SIDES | _POSITIONS | _OTHERS
_AT_LEAST_ONE = frozenset("num_hidden_layers n_layer num_transformer_layers vocab_size hidden_size n_embd".split())
_PARTS = frozenset("text_config vision_config quantization_config rope_parameters rope_scaling".split())
_MOST_POSITIONS = 1 << 31
_USUAL_EXPERTS = 1024  # of which the weights may be stored in one tensor
_SMALLEST_ENTRY = 8  # bytes that a tensor takes in the pickle of torch.save, where it stood before
_MOST_TENSORS = 100_000  # of one file as torch wrote it until 1.6, where they cannot be counted
_PADDING = 8  # by how many rows a weight may be longer than the field says, as positions of OPT
_LONGEST_HEADER = 100_000_000  # bytes; the limit of safetensors
_SIDE_FACTOR = 4  # by how much an image processor may scale beyond what the vision encoder takes
_BUFFERS = 1_000_000_000  # bytes of what is computed and not stored, beside as much as is stored


@dataclass(frozen=True)
class Held:
    """What the files with a checkpoint's weights hold at most.

    Attributes:
        size: Bytes.
        tensors: How many.
    """

    size: int
    tensors: int


def check_folder(folder: str | Path) -> None:
    """Refuse a directory in which something is no file, or where a configuration and the weights cannot be meant.

    Args:
        folder: A checkpoint's directory.

    Raises:
        ModelError: Names the file, and the field in it.
    """
    folder = Path(folder)
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            _check_regular(path)
    content = {name: _object(folder / name) for name in _OBJECTS if (folder / name).exists()}
    longest = content.get("tokenizer_config.json", {}).get("model_max_length")
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, (int, float))):
        raise ModelError(
            f"{folder / 'tokenizer_config.json'}: model_max_length is {kind(longest)}, expected a number"
        )
    if "config.json" in content:
        config = content["config.json"]
        weights = _files(folder, config)
        for path in weights:  # an index may name one in a folder of its own
            _check_regular(path)
        check_fields(config, held_in(weights), str(folder / "config.json"))
        side = config["vision_config"].get("image_size") if config.get("vision_config") else None
        for name in ("preprocessor_config.json", "processor_config.json"):
            _check_processor(content.get(name, {}), side, folder / name)


def check_fields(config: Mapping[str, Any], stored: Held | None, file: str, front: str = "") -> None:
    """Hold the numbers of a configuration against what there is of weights.

    Args:
        config: Content of config.json.
        stored: As from `held_in`; None where nothing is known.
        file: Where it came from, for the message.
        front: Of the fields' names.

    Raises:
        ModelError: A field is of another kind than it must be, or larger than it can be.
    """
    for name, value in config.items():
        where = f"{file}: {front}{name} is {kind(value)}"
        if name in _PARTS and value is not None:
            if not isinstance(value, dict):
                raise ModelError(f"{where}, expected an object")
            check_fields(value, stored, file, f"{front}{name}.")
        if name == "architectures" and value is not None and not isinstance(value, list):
            raise ModelError(f"{where}, expected a list of names")
        if name not in _KNOWN or value is None:
            continue
        for number in value if isinstance(value, list) else [value]:
            least = int(name in _AT_LEAST_ONE)
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ModelError(f"{where}, expected a whole number from {least} on")
            if name in _POSITIONS and number > _MOST_POSITIONS:
                raise ModelError(f"{where}, and no model has so many positions")
            if stored is None:
                continue
            if number > _most(name, stored):
                raise ModelError(
                    f"{where}, but the weights are {stored.tensors} tensors at most, {stored.size} bytes in all; the "
                    "two do not belong together"
                )


def check_fetched(checkpoint: str | Path, config: Mapping[str, Any], revision: str | None = None) -> None:
    """Hold the configuration of a hub id against its weights, which are fetched; of a directory `check_folder` does.

    Args:
        checkpoint: Directory or hub id.
        config: Content of its config.json.
        revision: On the hub.

    Raises:
        ModelError: As of `check_fields`.
    """
    if not Path(checkpoint).is_dir():
        check_fields(config, held_in(_fetched(checkpoint, config, revision)), f"{checkpoint}: config.json")


def check_built(
    build: Callable[[], nn.Module], config: Mapping[str, Any], checkpoint: str | Path, revision: str | None = None
) -> None:
    """Refuse a model that is larger than its weights, by building it without memory.

    Args:
        build: Makes the model, on torch's `meta` device.
        config: Content of its config.json.
        checkpoint: Directory or hub id, whose weights are fetched if need be.
        revision: On the hub.

    Raises:
        ModelError: It is; names the largest weight and the fields that make it.
    """
    import torch

    stored = held_in(_fetched(checkpoint, config, revision))
    if stored is None:
        return
    try:
        with torch.device("meta"):
            model = build()
    except Exception as error:  # each family has errors of its own
        reason = str(error).strip() or type(error).__name__
        raise ModelError(f"{checkpoint}: no model can be built from its config.json ({reason})") from error
    weights = dict(model.named_parameters())
    count = sum(h.numel() for h in weights.values())
    # What is quantised to 4 bits has two in a byte.
    most = stored.size * (2 if _quantised(config) else 1)
    held = sum(h.numel() * h.element_size() for h in model.buffers())
    if count <= most and held <= stored.size + _BUFFERS:
        return
    tensors = weights if count > most else dict(model.named_buffers())
    largest, h = max(tensors.items(), key=lambda item: item[1].numel())
    known = [(name, value) for name, value in _numbers(config) if name.split(".")[-1] in _KNOWN]
    fields = [n for side in sorted(h.shape, reverse=True) for n, value in known if 0 <= side - value <= _PADDING]
    fields += [name for name, _ in known if "position" in largest and name.endswith("image_size")]
    raise ModelError(
        f"{checkpoint}: config.json makes a model of {count} weights, and the files have {stored.size} bytes; the "
        f"largest is {largest}, {tuple(h.shape)}; look at {', '.join(fields) or 'its fields'}"
    )


def held_in(files: list[Path]) -> Held | None:
    """How much some files hold at most, from their headers.

    Args:
        files: Of safetensors or torch.save.

    Returns:
        The sums; None where there is no file, or one is damaged: what is wrong with it, the loader says.
    """
    try:
        counts = [(path.stat().st_size, _count(path)) for path in files]
    except (OSError, ValueError, RecursionError, MemoryError, zipfile.BadZipFile):
        return None
    return Held(sum(size for size, _ in counts), sum(count for _, count in counts)) if counts else None


def _most(name: str, stored: Held) -> float:
    """The largest number that a field can have beside such weights."""
    if name in _LAYERS:
        return stored.tensors
    if name in _EXPERTS:
        return max(stored.tensors, _USUAL_EXPERTS)
    return stored.size if name in _SIDES else math.inf


def _count(path: Path) -> int:
    """How many tensors a file holds at most."""
    with opened(path) as file:
        if path.suffix == ".safetensors":
            length = int.from_bytes(file.read(8), "little")
            if length > min(path.stat().st_size, _LONGEST_HEADER):
                raise ValueError(f"{path}: a header of {length} bytes")
            return len(json.loads(file.read(length)))
        if not zipfile.is_zipfile(file):  # as torch wrote until 1.6
            return min(path.stat().st_size // _SMALLEST_ENTRY, _MOST_TENSORS)
        with zipfile.ZipFile(file) as packed:
            pickles = [entry.file_size for entry in packed.infolist() if entry.filename.endswith(".pkl")]
            return sum(pickles) // _SMALLEST_ENTRY


def _files(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The files that transformers reads weights from."""
    stated = config.get("transformers_weights")
    if isinstance(stated, str):
        _check_inside(stated, f"{folder / 'config.json'}: transformers_weights")
    named = [stated] if isinstance(stated, str) else WEIGHTS
    first = next((name for name in named if (folder / name).is_file()), None)
    if first is None or not first.endswith(".index.json"):
        return [folder / first] if first else []
    listed = _object(folder / first).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise ModelError(f"{folder / first}: weight_map is {kind(listed)}, expected an object of file names")
    for name in listed.values():
        _check_inside(name, str(folder / first))
    return [folder / name for name in sorted(set(listed.values()))]


def _fetched(checkpoint: str | Path, config: Mapping[str, Any], revision: str | None) -> list[Path]:
    """The same of a directory or a hub id."""
    if Path(checkpoint).is_dir():
        return _files(Path(checkpoint), config)
    first = next((path for name in WEIGHTS if (path := file_of(checkpoint, name, revision))), None)
    if first is None:
        return []
    listed = _files(first.parent, {"transformers_weights": first.name})
    names = [file.relative_to(first.parent).as_posix() for file in listed]
    return [path for name in names if (path := file_of(checkpoint, name, revision))]


def _check_inside(name: str, where: str) -> None:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ModelError(f"{where}: {name!r:.200} is no file of this folder")


def _check_regular(path: Path) -> None:
    try:
        opened(path).close()
    except (FileNotFoundError, PermissionError):
        pass  # also a link that leads nowhere: whoever needs the file says so
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json_of(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: {kind(content)}, expected a JSON object")
    return content


def _check_processor(content: Mapping[str, Any], side: Any, file: Path) -> None:
    """Sides of pictures are about those that the vision encoder takes, or areas, where patches are merged."""
    inner = content.get("image_processor", {})
    if not isinstance(inner, dict):
        raise ModelError(f"{file}: image_processor is {kind(inner)}, expected an object")
    for part, front in ((content, ""), (inner, "image_processor.")):
        by_area = part.get("merge_size") is not None  # both edges are then bounds of height times width
        for name in ("size", "crop_size"):
            value = part.get(name)
            sides = value if isinstance(value, dict) else {"": value}
            for key, length in sides.items():
                if length is None:
                    continue
                where = f"{file}: {front}{name}{f'.{key}' if key else ''} is {kind(length)}"
                if isinstance(length, bool) or not isinstance(length, int) or length < 1:
                    raise ModelError(f"{where}, expected a whole number above 0")
                if not isinstance(side, int) or (by_area and key == "longest_edge"):
                    continue  # no picture is made larger for the sake of an upper bound
                if length > (_SIDE_FACTOR * side) ** (2 if by_area and key == "shortest_edge" else 1):
                    raise ModelError(f"{where}, and vision_config.image_size of config.json {side}; pixels")


def _quantised(config: Mapping[str, Any]) -> bool:
    return any(config.get(name) for name in ("quantization_config", "compression_config"))


def _numbers(config: Mapping[str, Any], front: str = "") -> Iterator[tuple[str, int]]:
    """Fields that are whole numbers, by path."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{front}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield f"{front}{name}", value
