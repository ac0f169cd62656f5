"""The three files of a MiniGPT-v2 -> tensors by name. Every key is used, known to be of no use, or an error."""

from __future__ import annotations

import copy
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, LlamaConfig, LlamaModel
from transformers.utils import logging

from mmerank.errors import ModelError
from mmerank.files import opened
from mmerank.models.checkpoints import configuration
from mmerank.models.plausible import check_built, check_folder
from mmerank.models.soundness import check_files, check_finite, check_loaded, check_no_adapter_alone
from mmerank.models.stored import files_read, folder_of, json_object, stored_in, value_of
from mmerank_adapters.architecture import run_as_usual
from mmerank_adapters.eva_vit import interpolated

# Of the vision file: what comes after the last block, or served pre-training only.
_VIT_UNUSED = re.compile(r"(norm|fc_norm|head|lm_head)\.|mask_token$")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
# peft up to 0.2 wrote `lora_A.weight`, later ones `lora_A.default.weight`.
_LORA = re.compile(r"llama_model\.base_model\.model\.model\.(layers\.\d+\..+)\.lora_([AB])(?:\.default)?\.weight$")
# Derived from the configuration. Saved because MiniGPT-v2's code leaves out frozen parameters, but no buffers.
_ROTARY = re.compile(r"(.*\.)?rotary_emb\.inv_freq$")
_TRAINING_STATE = frozenset({"optimizer", "config", "scaler", "epoch"})
_HEAD = "lm_head.weight"
_MOST_PATCHES = 64  # for each that the file has a position of
_LORA_TARGETS = frozenset({"self_attn.q_proj", "self_attn.v_proj"})  # what MiniGPT-v2's code trains


@dataclass(frozen=True)
class TrainedWeights:
    """What a MiniGPT-v2 checkpoint holds.

    Attributes:
        projection: `weight` and `bias` of llama_proj.
        ln_vision: The same of ln_vision; empty where the checkpoint has none, as the published ones.
        lora: Module path in the Llama model -> A (r, in) and B (out, r).
        ignored: Keys that were not used.
    """

    projection: Mapping[str, Tensor]
    ln_vision: Mapping[str, Tensor]
    lora: Mapping[str, tuple[Tensor, Tensor]]
    ignored: tuple[str, ...]

    @property
    def count(self) -> int:
        """Tensors that are used."""
        return len(self.projection) + len(self.ln_vision) + 2 * len(self.lora)


def vit_weights(path: Path, depth: int, grid: int) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors of the vision encoder's first `depth` blocks and of what lies before them.

    Args:
        path: `eva_vit_g.pth`, or a file with the same keys.
        depth: Blocks to use; the published file holds more than MiniGPT-v2 reads.
        grid: Patches along each side of the picture, for which the positions are interpolated.

    Returns:
        Tensors by name, and the keys that were ignored.

    Raises:
        ModelError: The file cannot be read, or its positions cannot be interpolated.
    """
    tensors = _tensors(_unpickled(path), path)
    ignored = {key for key in tensors if _VIT_UNUSED.match(key)}
    ignored |= {key for key in tensors if (block := _BLOCK.match(key)) and int(block[1]) >= depth}
    used = {key: h for key, h in tensors.items() if key not in ignored}
    if "pos_embed" not in used:
        raise ModelError(f"{path}: no entry 'pos_embed'; expected the state dict of an EVA ViT, as in eva_vit_g.pth")
    blocks = {int(block[1]) for key in tensors if (block := _BLOCK.match(key))}
    if depth > len(blocks):
        raise ModelError(f"{path}: {len(blocks)} blocks in it, and vit_depth is {depth}")
    if grid**2 > _MOST_PATCHES * used["pos_embed"].shape[:-1].numel():
        raise ModelError(f"{path}: too few positions in it for a picture of {grid} x {grid} patches; see image_size")
    try:
        used["pos_embed"] = interpolated(used["pos_embed"], grid)
    except ValueError as error:
        raise ModelError(f"{path}: pos_embed: {error}") from None
    return used, tuple(sorted(ignored))


def trained_weights(path: Path, layers: int) -> TrainedWeights:
    """What MiniGPT-v2's training saved: the connector, LoRA, and perhaps ln_vision.

    Args:
        path: The checkpoint.
        layers: Layers of the Llama model; every one must have LoRA on the same modules.

    Returns:
        All its weights.

    Raises:
        ModelError: The file cannot be read, holds keys that are not understood, or lacks some.
    """
    file = _unpickled(path)
    if "model" not in file:
        raise ModelError(f"{path}: no entry 'model'; a checkpoint of MiniGPT-v2 keeps its weights there")
    if beside := sorted(map(str, file.keys() - _TRAINING_STATE - {"model"})):
        raise ModelError(f"{path}: {_keys(beside)} beside 'model' not understood, so it may be another kind of file")
    tensors = _tensors(file["model"], path)
    parts: dict[str, dict[str, Tensor]] = {"llama_proj": {}, "ln_vision": {}}
    lora: dict[tuple[str, str], Tensor] = {}
    ignored: list[str] = []
    unknown: list[str] = []
    for key, h in tensors.items():
        part, _, parameter = key.partition(".")
        if found := _LORA.match(key):
            if (found[1], found[2]) in lora:
                raise ModelError(f"{path}: LoRA {found[2]} of {found[1]} is there in two spellings of its key")
            lora[found[1], found[2]] = h
        elif part in parts:
            parts[part][parameter] = h
        elif _ROTARY.match(key):
            ignored.append(key)
        else:
            unknown.append(key)
    if unknown:
        raise ModelError(f"{path}: {_keys(unknown)} not understood; without them it would be another model")
    return TrainedWeights(parts["llama_proj"], parts["ln_vision"], _paired(lora, layers, path), tuple(ignored))


def _paired(lora: Mapping[tuple[str, str], Tensor], layers: int, path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each module, after a check that every layer has both on the same modules."""
    targets = _LORA_TARGETS | {module.split(".", 2)[2] for module, _ in lora}
    wanted = [f"layers.{i}.{target}" for i in range(layers) for target in sorted(targets)]
    if missing := [f"{module}.lora_{side}" for module in wanted for side in "AB" if (module, side) not in lora]:
        raise ModelError(
            f"{path}: {_keys(missing)} missing; MiniGPT-v2 has LoRA on {' and '.join(sorted(targets))} of all "
            f"{layers} layers of its Llama model. Is it the checkpoint of another model, or of another Llama?"
        )
    if outside := sorted({module for module, _ in lora} - set(wanted)):
        raise ModelError(f"{path}: LoRA for {_keys(outside)}, but the Llama model has {layers} layers")
    return {module: (lora[module, "A"], lora[module, "B"]) for module in wanted}


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, name: str, dtype: torch.dtype) -> None:
    """Make `tensors` the parameters of `module`, exactly.

    Args:
        module: A module, on any device.
        tensors: By parameter name; any floating dtype.
        path: The file they came from.
        name: What the module is, for the message.
        dtype: The dtype the module gets.

    Raises:
        ModelError: A tensor is missing, left over, or has another shape than the module's.
    """
    expected = module.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise ModelError(f"{path}: {_keys(missing)} of {name} missing")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise ModelError(f"{path}: {_keys(unknown)} of {name} not understood; without them it would be another model")
    for key, h in tensors.items():
        if h.shape != expected[key].shape:
            raise ModelError(f"{path}: {key} of {name} is {tuple(h.shape)}, expected {tuple(expected[key].shape)}")
    copies = {key: h.to(dtype, copy=True) for key, h in tensors.items()}  # the file may go or change after loading
    module.load_state_dict(copies, assign=True)


def llama_config(checkpoint: str) -> LlamaConfig:
    """The configuration of a Llama checkpoint, a directory or a hub id.

    Args:
        checkpoint: Directory or hub id.

    Returns:
        Its configuration.

    Raises:
        ModelError: There is none, or it is of another family than Llama.
    """
    if Path(checkpoint).is_dir():
        check_folder(checkpoint)
        check_no_adapter_alone(checkpoint)
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"llama_model: {checkpoint}: no folder beside the YAML file, and not to be had from the hub ({reason})"
        ) from error
    except Exception as error:  # transformers checks some values, and stumbles over others
        raise ModelError(f"{checkpoint}: its config.json cannot be loaded ({str(error).strip()})") from error
    if config.model_type != "llama":
        raise ModelError(f"{checkpoint}: model_type is {config.model_type!r}; MiniGPT-v2 needs a Llama model")
    return run_as_usual(config)


def llama_weights(checkpoint: str, config: LlamaConfig) -> tuple[LlamaModel, tuple[str, ...]]:
    """A Llama model without LM head, in the checkpoint's dtype, on the CPU.

    Args:
        checkpoint: Directory or hub id.
        config: Its configuration.

    Returns:
        The model, and the keys of the checkpoint that were ignored.

    Raises:
        ModelError: The checkpoint cannot be read, lacks weights, or has some that are not understood.
    """
    check_files(checkpoint)
    check_built(lambda: LlamaModel(copy.deepcopy(config)), configuration(checkpoint), checkpoint)
    try:
        with _quietly():  # of what is missing or left over, what matters is an error below
            model, report = LlamaModel.from_pretrained(
                checkpoint, config=config, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True
            )
    except Exception as error:  # each of the libraries below has errors of its own
        raise ModelError(f"{checkpoint}: cannot be loaded ({str(error).strip() or type(error).__name__})") from error
    return model, tuple(check_loaded(model, report, checkpoint, unused=(_HEAD,)))


def llama_head(checkpoint: str, vocabulary: int, width: int) -> Tensor:
    """The LM head of a Llama checkpoint, which MiniGPT-v2 leaves as it is.

    Args:
        checkpoint: Directory or hub id.
        vocabulary: Rows that it must have.
        width: Columns that it must have.

    Returns:
        (vocabulary, width), in the checkpoint's dtype, on the CPU.

    Raises:
        ModelError: It has none, or one of another shape.
    """
    folder = folder_of(checkpoint)
    stored = stored_in(files_read(folder, json_object(folder / "config.json"))) if folder else {}
    if _HEAD not in stored:
        raise ModelError(f"{checkpoint}: no {_HEAD} in it, so the likelihood of an answer is not known")
    if stored[_HEAD].shape != (vocabulary, width):
        raise ModelError(f"{checkpoint}: {_HEAD} is {stored[_HEAD].shape}, expected {(vocabulary, width)}")
    return value_of(stored[_HEAD])


def merge_lora(
    model: nn.Module, lora: Mapping[str, tuple[Tensor, Tensor]], alpha: float, path: Path, dtype: torch.dtype
) -> None:
    """Replace weights by W + alpha / r * B A, computed in float32.

    LoRA (arXiv:2106.09685), Sec. 4.1, with the scaling of peft.

    Args:
        model: The Llama model.
        lora: As in `TrainedWeights`.
        alpha: LoRA's alpha; not in the checkpoint's tensors.
        path: The file LoRA came from.
        dtype: What the sum is rounded to.

    Raises:
        ModelError: LoRA's shapes do not fit the weights.
    """
    for name, (a, b) in lora.items():
        try:
            weight = model.get_parameter(f"{name}.weight")
        except AttributeError:
            raise ModelError(f"{path}: LoRA for {name}, which the Llama model does not have") from None
        if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or (len(b), a.shape[1]) != tuple(weight.shape):
            raise ModelError(
                f"{path}: LoRA of {name} has A {tuple(a.shape)} and B {tuple(b.shape)}; "
                f"expected (r, in) and (out, r) for a weight of shape {tuple(weight.shape)}"
            )
        weight.data = torch.addmm(weight.data.float(), b.float(), a.float(), alpha=alpha / len(a)).to(dtype)


def _unpickled(path: Path) -> dict[str, Any]:
    """The dictionary in a file of torch.save, without running any code of it."""
    try:
        opened(path).close()
        # Mapped, so that what is not used (the optimizer, surplus blocks) is not read.
        file = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {asked[1]}" if asked else "holds more than tensors, or is damaged"
        raise ModelError(
            f"{path}: {what}, and loading that could run code of the file, so it is refused. If you trust where it "
            "is from, load it once yourself with torch.load(..., weights_only=False), keep the state dict of tensors "
            "(the entry 'model', if there is one), torch.save that to a new file, and use the new one"
        ) from error
    except Exception as error:  # a damaged file makes unpickling raise anything
        reason = str(error).strip() or type(error).__name__
        raise ModelError(f"{path}: not a file of torch.save, or damaged ({reason})") from error
    if not isinstance(file, dict):
        raise ModelError(f"{path}: expected a dictionary of tensors, found {type(file).__name__}")
    return file


def _tensors(state: Any, path: Path) -> dict[str, Tensor]:
    """`state` itself, if it is a dictionary of finite floating-point tensors of 16 bits or more."""
    if not isinstance(state, dict):
        raise ModelError(f"{path}: expected a dictionary of tensors, found {type(state).__name__}")
    for key, h in state.items():
        if not isinstance(key, str) or not isinstance(h, Tensor) or not h.is_floating_point():
            kind = str(h.dtype) if isinstance(h, Tensor) else type(h).__name__
            raise ModelError(f"{path}: entry {key!r}: expected a floating-point tensor, found {kind}")
        if h.element_size() < 2:  # what 8 bits stand for, no file of these says
            raise ModelError(f"{path}: entry {key!r}: expected a tensor of 16 bits or more, found {h.dtype}")
    check_finite(state, path)
    return state


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers from listing the keys that it did not use, as the LM head's."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _keys(keys: Iterable[str]) -> str:
    """How many keys, and the first of them."""
    listed = list(keys)
    return repr(listed[0]) if len(listed) == 1 else f"{len(listed)} keys (first: {listed[0]!r})"
