"""OpenELM (arXiv:2404.14619) as a module, with the parameter names of the published checkpoints."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mmerank_adapters.openelm_config import OpenELMConfig

_EPS = 1e-6  # of every norm; no configuration says it


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

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding, under transformers' name for it."""
        return self.transformer.token_embeddings

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
