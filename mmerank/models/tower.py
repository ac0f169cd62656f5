"""Layers of the vision encoder in a multimodal model: its blocks, and which of their rows go on to the LLM."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmerank.convention import ImageLayout
from mmerank.errors import DataError, MmerankError, first_line
from mmerank.models.adapter import Adapter
from mmerank.models.encoded import Encoded
from mmerank.models.passed_on import lists_of_blocks, states_in
from mmerank.transfer import for_each_tensor

_GENERATED = (160, 112)  # pixels
# What a row changes by, against the others, that is more than rounding.
_FOLLOWS = 1e-6


@dataclass
class Tower:
    """The blocks of a vision encoder, and their rows in the passes that read the picture anyway.

    Blocks are found as `mmerank.models.passed_on` finds them: the list of modules that the picture passes first whose
    members all put out as many rows as they read. Of a block's rows those count that go on to the vision point: all
    where there are as many; else those that change with the pixels before any block has mixed them, which leaves out
    class tokens, registers and padding. Where these are not as many, or a multiple, as at the vision point, the
    rows of the layers are not known.

    Args:
        adapter: The model.
        layout: Of pictures.
        vision_point: By name.

    Attributes:
        blocks: Module paths, from the first on; none where the layers are not known.
        why: Then the reason.
    """

    adapter: Adapter
    layout: ImageLayout = "model"
    vision_point: str = "default"
    blocks: tuple[str, ...] = field(default=(), init=False)
    why: str = field(default="", init=False)
    _counted: dict[tuple[Any, ...], Tensor | None] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (*_GENERATED, 3), dtype=np.uint8)
        self.why = "no list of blocks through which a picture passes keeps its rows"
        try:
            pixels = self.adapter.pixels(Image.fromarray(noise), self.layout)
            for blocks in self._candidates(pixels):
                self.blocks = blocks
                try:
                    self.read(pixels)
                    self.why = ""
                    return
                except DataError as error:
                    self.blocks, self.why = (), str(error)
        except MmerankError as error:
            self.why = f"the model does not read a generated picture ({first_line(error)})"

    @torch.inference_mode()
    def read(self, pixels: Any) -> tuple[Encoded, list[Tensor]]:
        """One example's pictures through the encoder.

        Args:
            pixels: What the adapter's `pixels` gave.

        Returns:
            Their rows behind it, and what leaves each block, (n, d): the residual stream, before any final norm.

        Raises:
            DataError: Which of the rows go on is not known.
        """
        seen: list[list[Tensor]] = [[] for _ in self.blocks]

        def keep(i: int) -> Any:
            return lambda block, args, output: seen[i].append(_rows(states_in(output)[0]).clone())

        with ExitStack() as hooks:
            for i, path in enumerate(self.blocks):
                hooks.callback(self._block(path).register_forward_hook(keep(i)).remove)
            (encoded,) = self.adapter.encode_images([pixels], self.vision_point)
        layers = [torch.cat(rows) for rows in seen]
        counts = {len(rows) for rows in layers}
        if len(counts) != 1:
            raise DataError("the blocks of its vision encoder have different numbers of rows")
        if (count := counts.pop()) == len(encoded.vision):
            return encoded, layers
        shape = (count, len(encoded.vision), tuple(map(len, seen[0])))
        if shape not in self._counted:
            self._counted[shape] = self._going_on(pixels, len(encoded.vision))
        counted = self._counted[shape]
        if counted is None:
            raise DataError(
                f"which of the {count} rows of the vision encoder's blocks go on to the {len(encoded.vision)} at the "
                "vision point is not known"
            )
        return encoded, [rows[counted.to(rows.device)] for rows in layers]

    def _going_on(self, pixels: Any, wanted: int) -> Tensor | None:
        """Which rows change with the pixels: with all, or with those that are not 0, as those of padding are."""
        before = self._entering(pixels)
        for moved in (_shifted, _scaled):
            now = self._entering(for_each_tensor(pixels, moved))
            squares = (now - before).double().square().sum(dim=1)
            follows = squares > _FOLLOWS * squares.max()
            if (count := int(follows.sum())) and count % wanted == 0:
                return follows
        return None

    def _entering(self, pixels: Any) -> Tensor:
        entered: list[Tensor] = []

        def keep(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entered.append(_rows(states_in([*args, *kwargs.values()])[0]).clone())

        handle = self._block(self.blocks[0]).register_forward_pre_hook(keep, with_kwargs=True)
        try:
            self.adapter.encode_images([pixels], self.vision_point)
        finally:
            handle.remove()
        return torch.cat(entered)

    @torch.inference_mode()
    def _candidates(self, pixels: Any) -> list[tuple[str, ...]]:
        """Lists of blocks that keep their rows, in the order in which a picture reaches them."""
        model: nn.Module = self.adapter.model
        names = {module: path for path, module in model.named_modules()}
        llm = model.get_submodule(str(self.adapter.layers[0].module).rpartition(".")[0])
        lists = lists_of_blocks(model, besides=llm)
        kept: dict[nn.Module, bool] = {}  # in the order in which they run

        def ran(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            read, put_out = states_in([*args, *kwargs.values()])[:1], states_in(output)[:1]
            same = bool(read and put_out) and put_out[0].ndim < 4 and read[0].shape == put_out[0].shape
            kept[block] = same and kept.get(block, True)

        with ExitStack() as hooks:
            for block in dict.fromkeys(block for blocks in lists for block in blocks):
                hooks.callback(block.register_forward_hook(ran, with_kwargs=True).remove)
            self.adapter.encode_images([pixels], self.vision_point)
        order = {block: i for i, block in enumerate(kept)}
        found = [blocks for blocks in lists if len(blocks) > 1 and all(kept.get(block) for block in blocks)]
        found.sort(key=lambda blocks: order[blocks[0]])
        return [tuple(names[block] for block in blocks) for blocks in found]

    def _block(self, path: str) -> nn.Module:
        block: nn.Module = self.adapter.model.get_submodule(path)
        return block


def _rows(h: Tensor) -> Tensor:
    return h.detach().reshape(-1, h.shape[-1])


def _shifted(of: Tensor) -> Tensor:
    return of + _like(of) if of.is_floating_point() else of


def _scaled(of: Tensor) -> Tensor:
    return of * (2 + _like(of)) if of.is_floating_point() else of


def _like(of: Tensor) -> Tensor:
    """Noise, the same each time."""
    drawn = torch.from_numpy(np.random.default_rng(1).standard_normal(tuple(of.shape)))
    return drawn.to(of.device, of.dtype)
