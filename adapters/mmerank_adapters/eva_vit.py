"""The vision encoder of MiniGPT-v2: EVA ViT-g on timm's blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from einops import rearrange
from timm.layers import PatchEmbed
from timm.models.eva import EvaBlock
from torch import Tensor, nn

PATCH = 14
# EVA ViT-g: 1408 * 4.3637 = 6144 channels in the MLP, rounded down.
MLP_RATIO = 4.3637


class EvaViT(nn.Module):
    """EVA ViT: learned absolute positions, CLS in front, pre-norm blocks, and no norm after the last block.

    EVA (arXiv:2211.07636), Sec. 2.3; LayerNorm eps, MLP width and depth as MiniGPT-v2's code sets them. Module and
    parameter names are those of `eva_vit_g.pth`.

    Args:
        dim: Width.
        depth: Number of blocks.
        heads: Attention heads.
        image_size: Side of the square picture, pixels.
    """

    def __init__(self, dim: int, depth: int, heads: int, image_size: int):
        super().__init__()
        self.patch_embed = PatchEmbed(img_size=image_size, patch_size=PATCH, embed_dim=dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image_size // PATCH) ** 2, dim))
        # timm's block has exact (erf) GELU, and biases for q and v but none for k, as the published weights do.
        self.blocks = nn.ModuleList(
            EvaBlock(dim, heads, qkv_bias=True, mlp_ratio=MLP_RATIO, norm_layer=partial(nn.LayerNorm, eps=1e-6))
            for _ in range(depth)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """The last block's output, CLS first.

        Args:
            pixels: (b, 3, s, s).

        Returns:
            (b, 1 + n, dim), the n patches row by row.
        """
        patches = self.patch_embed(pixels)
        h: Tensor = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            h = block(h)
        return h

    def draw_weights(self) -> None:
        """Fresh weights, as MiniGPT-v2's copy of EVA draws them.

        Truncated normal of 0.02 for linear layers, CLS and positions; the last matrix of each attention and MLP in
        block i divided by sqrt(2 i); biases zero; the patch embedding as torch draws a convolution.
        """
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.patch_embed.proj.reset_parameters()
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for i, block in enumerate(self.blocks, start=1):
            part: Any = block
            nn.init.zeros_(part.attn.q_bias)
            nn.init.zeros_(part.attn.v_bias)
            part.attn.proj.weight.data /= (2 * i) ** 0.5
            part.mlp.fc2.weight.data /= (2 * i) ** 0.5
        self.zero_key_biases()

    def zero_key_biases(self) -> None:
        """Put the key biases beside the weights: buffers that timm keeps out of the state dict, always zero."""
        for block in self.blocks:
            attention: Any = block.attn
            attention.k_bias = torch.zeros_like(attention.q_bias, requires_grad=False)


def interpolated(pos_embed: Tensor, grid: int) -> Tensor:
    """Position embeddings for another picture size: patches by bicubic interpolation, CLS as it is.

    Interpolated in float32 and without antialiasing, as in MiniGPT-v2's code. Antialiasing would matter although the
    grid grows: torch's bicubic has another kernel then.

    Args:
        pos_embed: (1, 1 + g * g, dim), floating point.
        grid: Patches along each side of the picture.

    Returns:
        (1, 1 + grid * grid, dim), float32.

    Raises:
        ValueError: `pos_embed` has another shape.
    """
    side = round((pos_embed.shape[1] - 1) ** 0.5) if pos_embed.ndim == 3 else 0
    if not side or pos_embed.shape[:2] != (1, 1 + side * side):
        raise ValueError(f"expected positions of shape (1, 1 + g * g, dim), got {tuple(pos_embed.shape)}")
    cls, patches = pos_embed[:, :1].float(), pos_embed[:, 1:].float()
    if side != grid:
        patches = rearrange(patches, "1 (h w) d -> 1 d h w", h=side)
        patches = nn.functional.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
        patches = rearrange(patches, "1 d h w -> 1 (h w) d")
    return torch.cat([cls, patches], dim=1)
