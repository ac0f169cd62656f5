"""The modules of MiniGPT-v2, and how its three files become one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from einops import rearrange
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from mmerank.errors import ModelError
from mmerank.models.checkpoints import commit_of
from mmerank.models.soundness import check_finite
from mmerank.models.stored import unread
from mmerank_adapters.eva_vit import PATCH, EvaViT
from mmerank_adapters.minigpt_v2_weights import (
    fill,
    llama_config,
    llama_weights,
    merge_lora,
    trained_weights,
    vit_weights,
)

MERGED = 4  # patches per row of the connector's input


class MiniGPTv2Model(nn.Module):
    """The parts of MiniGPT-v2, under the names its checkpoints use; weights as torch initialises them.

    Args:
        config: Of the LLM, which comes without LM head.
        vit_dim: Width of the vision encoder.
        vit_depth: Its blocks.
        vit_heads: Its attention heads.
        image_size: Side of the square picture, pixels.
    """

    def __init__(self, config: LlamaConfig, *, vit_dim: int, vit_depth: int, vit_heads: int, image_size: int):
        super().__init__()
        self.visual_encoder = EvaViT(vit_dim, vit_depth, vit_heads, image_size)
        self.ln_vision = nn.LayerNorm(vit_dim, eps=1e-5)
        self.llama_proj = nn.Linear(MERGED * vit_dim, config.hidden_size)
        self.llama_model = LlamaModel(config)

    def get_input_embeddings(self) -> nn.Embedding:
        """The LLM's token embedding, under transformers' name for it."""
        embedding: nn.Embedding = self.llama_model.get_input_embeddings()
        return embedding

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Vision encoder, its norm, merge, and connector.

        Args:
            pixels: (b, 3, s, s).

        Returns:
            (b, m, d), a row for every four patches that follow each other in raster order.
        """
        patches = self.ln_vision(self.visual_encoder(pixels))[:, 1:]
        rows: Tensor = self.llama_proj(rearrange(patches, "b (m four) d -> b m (four d)", four=MERGED))
        return rows


def load_model(
    llama_model: str,
    vit_checkpoint: Path,
    checkpoint: Path,
    *,
    image_size: int,
    vit_depth: int,
    vit_heads: int,
    lora_alpha: float,
    dtype: str | None,
    device: str,
) -> tuple[MiniGPTv2Model, dict[str, Any]]:
    """MiniGPT-v2 from its files.

    Args:
        llama_model: Directory or hub id.
        vit_checkpoint: File with the vision encoder's weights.
        checkpoint: File with LoRA and connector.
        image_size: Side of the square picture, pixels.
        vit_depth: Blocks of the vision encoder.
        vit_heads: Its attention heads.
        lora_alpha: LoRA's alpha.
        dtype: A torch dtype by name; None for that of the Llama checkpoint.
        device: A torch device, or `auto` to spread the LLM over all devices.

    Returns:
        The model in eval mode, and for the record which file gave what.

    Raises:
        ModelError: A file cannot be read, or holds other weights than MiniGPT-v2's.
    """
    config = llama_config(llama_model)
    trained = trained_weights(checkpoint, config.num_hidden_layers)
    vit, vit_ignored = vit_weights(vit_checkpoint, vit_depth, image_size // PATCH)
    dim = vit["pos_embed"].shape[-1]
    if dim % vit_heads:
        raise ModelError(f"{vit_checkpoint}: its width {dim} is no multiple of vit_heads, {vit_heads}")
    llama, llama_ignored = llama_weights(llama_model, config)
    number = llama.dtype if dtype is None else getattr(torch, dtype)
    merge_lora(llama, trained.lora, lora_alpha, checkpoint, number)
    for parameter in llama.parameters():  # not llama.to(dtype): the rotary frequencies stay float32
        parameter.data = parameter.data.to(number)

    with torch.device("meta"):
        model = MiniGPTv2Model(config, vit_dim=dim, vit_depth=vit_depth, vit_heads=vit_heads, image_size=image_size)
    fill(model.visual_encoder, vit, vit_checkpoint, f"the vision encoder of {vit_depth} blocks", number)
    model.visual_encoder.zero_key_biases()
    fill(model.llama_proj, trained.projection, checkpoint, "llama_proj", number)
    identity = {"weight": torch.ones(dim), "bias": torch.zeros(dim)}
    fill(model.ln_vision, trained.ln_vision or identity, checkpoint, "ln_vision", number)
    model.llama_model = llama
    check_finite(dict(model.named_parameters()), checkpoint)  # merged, and in the dtype asked for
    _place(model, device)
    source = {
        "dtype": str(number).removeprefix("torch."),
        "image_size": image_size,
        "vit_depth": vit_depth,
        "vit_heads": vit_heads,
        "lora_alpha": lora_alpha,
        "llama_model": _read(llama_model, len(llama.state_dict()), llama_ignored)
        | {"commit": commit_of(llama_model), **unread(llama_model)},
        "vit_checkpoint": _read(vit_checkpoint, len(vit), vit_ignored),
        "checkpoint": _read(checkpoint, trained.count, trained.ignored)
        | {"lora_rank": sorted({len(a) for a, _ in trained.lora.values()}), "ln_vision": bool(trained.ln_vision)},
    }
    return model.eval(), source


def _place(model: MiniGPTv2Model, device: str) -> None:
    """Put the model on its device, or with `auto` the LLM where there is room and the rest on the first device."""
    if device != "auto":
        model.to(device)
        return
    for part in (model.visual_encoder, model.ln_vision, model.llama_proj):
        part.to("cuda" if torch.cuda.is_available() else "cpu")
    llama = model.llama_model
    dispatch_model(llama, infer_auto_device_map(llama, no_split_module_classes=["LlamaDecoderLayer"]))


def _read(path: str | Path, tensors: int, ignored: Sequence[str]) -> dict[str, Any]:
    return {"path": str(path), "tensors": tensors, "ignored": list(ignored)}
