"""OpenELM (arXiv:2404.14619) as a module, with the parameter names of the published checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mmerank.errors import ModelError

_EPS = 1e-6  # of every norm; no configuration says it
# Values that the published models have, and the only ones this module can compute.
_FIXED = {"activation_fn_name": ("swish", "silu"), "normalization_layer_name": ("rms_norm",)}


@dataclass(frozen=True)
class OpenELMConfig:
    """The architecture.

    Attributes:
        vocab_size: Rows of the embedding.
        model_dim: Width of the residual stream.
        head_dim: Width of an attention head.
        query_heads: Per layer.
        kv_heads: Per layer; each serves query_heads / kv_heads neighbouring query heads.
        ffn_widths: Per layer.
        ffn_with_glu: Whether the first half of the FFN gates the second.
        normalize_qk: Whether queries and keys are normalised, each head by itself.
        share_embeddings: Whether the LM head is the embedding.
        rope_base: Of the rotary angles.
        max_context_length: Longest sequence the model was trained on.
    """

    vocab_size: int
    model_dim: int
    head_dim: int
    query_heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    ffn_widths: tuple[int, ...]
    ffn_with_glu: bool
    normalize_qk: bool
    share_embeddings: bool
    rope_base: float
    max_context_length: int

    @classmethod
    def from_json(cls, config: Mapping[str, Any], checkpoint: str) -> OpenELMConfig:
        """Read a config.json.

        As in the published code, query heads and FFN widths follow from the multipliers, while a list of KV heads
        in the file comes before what would follow.

        Args:
            config: Its content.
            checkpoint: Where it came from, for messages.

        Returns:
            The architecture.

        Raises:
            ModelError: A key is missing, or has a value that this module cannot compute.
        """
        for key, known in _FIXED.items():
            if config.get(key, known[0]) not in known:
                raise ModelError(f"{checkpoint}: {key} is {config[key]!r}; known: {', '.join(known)}")
        try:
            layers, width, head = (config[key] for key in ("num_transformer_layers", "model_dim", "head_dim"))
            groups = config["num_gqa_groups"]
            multiples = per_layer(config["qkv_multipliers"], layers)
            ffn = [float(m) * width for m in per_layer(config["ffn_multipliers"], layers)]
            queries = tuple(divisible(width * m, head * groups) // head for m in multiples)
            keys = tuple(config.get("num_kv_heads") or (q // groups for q in queries))
            read = cls(
                vocab_size=config["vocab_size"],
                model_dim=width,
                head_dim=head,
                query_heads=queries,
                kv_heads=keys,
                ffn_widths=tuple(divisible(value, config["ffn_dim_divisor"]) for value in ffn),
                ffn_with_glu=config["ffn_with_glu"],
                normalize_qk=config["normalize_qk_projections"],
                share_embeddings=config["share_input_output_layers"],
                rope_base=float(config["rope_freq_constant"]),
                max_context_length=config["max_context_length"],
            )
        except KeyError as error:
            raise ModelError(f"{checkpoint}: its config.json has no {error.args[0]!r}, which OpenELM needs") from None
        except (TypeError, ValueError) as error:
            raise ModelError(f"{checkpoint}: its config.json is not one of OpenELM ({error})") from None
        if width % head:
            raise ModelError(f"{checkpoint}: model_dim {width} is not a multiple of head_dim {head}")
        if len(keys) != layers or any(q % k for q, k in zip(queries, keys, strict=True)):
            raise ModelError(f"{checkpoint}: num_kv_heads {list(keys)} do not divide the query heads {list(queries)}")
        return read


def per_layer(multiplier: float | Sequence[float], layers: int) -> list[float]:
    """A multiplier for each layer.

    Args:
        multiplier: One number for all; two for a range, rounded to 2 decimals; else one for each layer.
        layers: Number of layers.

    Returns:
        `layers` numbers.

    Raises:
        ValueError: A list of another length.
    """
    if isinstance(multiplier, (int, float)):
        return [float(multiplier)] * layers
    if len(multiplier) == 2:
        first, last = multiplier
        step = (last - first) / max(layers - 1, 1)
        return [round(first + i * step, 2) for i in range(layers)]
    if len(multiplier) != layers:
        raise ValueError(f"{len(multiplier)} multipliers for {layers} layers")
    return [float(m) for m in multiplier]


def divisible(value: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `value`, half up, but at least one and at most 10 % below it.

    Args:
        value: Any positive number.
        divisor: What the result is a multiple of.

    Returns:
        The multiple.
    """
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * value else nearest + divisor


class RMSNorm(nn.Module):
    """Each row scaled to unit mean square, in at least float32, then weighted in the dtype of the input."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + _EPS)
        return normed.to(x.dtype) * self.weight


class Attention(nn.Module):
    """Causal attention with grouped queries, normalised queries and keys, and rotary positions."""

    def __init__(self, config: OpenELMConfig, layer: int):
        super().__init__()
        self._heads = config.query_heads[layer], config.kv_heads[layer]
        self._head_dim = config.head_dim
        queries, keys = self._heads
        self.qkv_proj = nn.Linear(config.model_dim, (queries + 2 * keys) * config.head_dim, bias=False)
        self.q_norm = RMSNorm(config.head_dim) if config.normalize_qk else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim) if config.normalize_qk else nn.Identity()
        self.out_proj = nn.Linear(queries * config.head_dim, config.model_dim, bias=False)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """(b, n, d), with cosines and sines, (n, head_dim) each -> (b, n, d)."""
        queries, keys = self._heads
        heads = rearrange(self.qkv_proj(x), "b n (h w) -> b h n w", w=self._head_dim)
        q, k, v = heads.split([queries, keys, keys], dim=1)
        q, k = rotated(self.q_norm(q), angles), rotated(self.k_norm(k), angles)
        k, v = (h.repeat_interleave(queries // keys, dim=1) for h in (k, v))
        # With padding on the right, no token sees any under the causal mask.
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out_proj(rearrange(y, "b h n w -> b n (h w)"))
        return out


def rotated(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions on (..., n, w): coordinate i is turned together with coordinate i + w/2."""
    cos, sin = angles
    wide = x.to(cos.dtype)
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class FeedForward(nn.Module):
    """SiLU, gated where the configuration says so."""

    def __init__(self, config: OpenELMConfig, layer: int):
        super().__init__()
        width = config.ffn_widths[layer]
        self._gated = config.ffn_with_glu
        self.proj_1 = nn.Linear(config.model_dim, width * (2 if config.ffn_with_glu else 1), bias=False)
        self.proj_2 = nn.Linear(width, config.model_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) -> (b, n, d)."""
        y = self.proj_1(x)
        if self._gated:
            gate, value = y.chunk(2, dim=-1)
            out: Tensor = self.proj_2(F.silu(gate) * value)
        else:
            out = self.proj_2(F.silu(y))
        return out


class Block(nn.Module):
    """Attention and feed-forward, each on a normed residual stream."""

    def __init__(self, config: OpenELMConfig, layer: int):
        super().__init__()
        self.attn = Attention(config, layer)
        self.ffn = FeedForward(config, layer)
        self.ffn_norm = RMSNorm(config.model_dim)
        self.attn_norm = RMSNorm(config.model_dim)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """(b, n, d) -> (b, n, d)."""
        x = x + self.attn(self.attn_norm(x), angles)
        out: Tensor = x + self.ffn(self.ffn_norm(x))
        return out


class Body(nn.Module):
    """Embedding, blocks, final norm."""

    def __init__(self, config: OpenELMConfig):
        super().__init__()
        self._rotary = config.rope_base, config.head_dim
        self.token_embeddings = nn.Embedding(config.vocab_size, config.model_dim)
        self.layers = nn.ModuleList(Block(config, i) for i in range(len(config.query_heads)))
        self.norm = RMSNorm(config.model_dim)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids, (b, n), padded on the right -> what leaves the final norm, (b, n, d)."""
        x = self.token_embeddings(ids)
        angles = self._angles(ids.shape[1], x)
        for layer in self.layers:
            x = layer(x, angles)
        h: Tensor = self.norm(x)
        return h

    def _angles(self, n: int, x: Tensor) -> tuple[Tensor, Tensor]:
        base, width = self._rotary
        dtype = torch.promote_types(x.dtype, torch.float32)
        exponents = torch.arange(0, width, 2, dtype=dtype, device=x.device) / width
        angles = torch.outer(torch.arange(n, dtype=dtype, device=x.device), base**-exponents).repeat(1, 2)
        return angles.cos(), angles.sin()


class OpenELMModel(nn.Module):
    """The body, and an LM head of its own where it does not share the embedding."""

    def __init__(self, config: OpenELMConfig):
        super().__init__()
        self.transformer = Body(config)
        self.lm_head = None if config.share_embeddings else nn.Linear(config.model_dim, config.vocab_size, bias=False)

    def logits(self, h: Tensor) -> Tensor:
        """Final hidden states, (..., d) -> (..., vocabulary)."""
        head = self.transformer.token_embeddings if self.lm_head is None else self.lm_head
        return F.linear(h, head.weight)

    @torch.no_grad()
    def draw(self) -> None:
        """Draw all weights as OpenELM's own constructor does; `initializer_range` has no effect there.

        Variances: 1 / model_dim for the embedding, 1 / inputs for a projection, and 1 / (2 model_dim layers) for
        the projections that write into the residual stream. Norm weights are 1.
        """
        body = self.transformer
        width, layers = body.token_embeddings.embedding_dim, len(body.layers)
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1)
            elif name.endswith(("out_proj.weight", "proj_2.weight")):
                parameter.normal_(std=1 / math.sqrt(2 * width * layers))
            else:
                parameter.normal_(std=1 / math.sqrt(parameter.shape[1]))
