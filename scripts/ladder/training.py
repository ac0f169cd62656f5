"""One rung: a shipped demo model whose connector is drawn anew, and which is trained on from there.

What makes it cheap: the LLM is the shipped one, which has learned to read pictures through another connector and
finds its way back in a few hundred steps; the rows of a frozen tower are computed once and read from a file; bfloat16
and compiled kernels where asked for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

import mmerank
from mmerank.durable import whole
from mmerank.inputs.demo import scenes
from mmerank.jobs.demo.captions import causal_lm
from mmerank.models.untrained import drawn_with
from scripts.ladder.rungs import Budget, Rung
from scripts.train_tiny import Scene, shuffled, text_loss, train

CONNECTOR_RATE = 1e-3
JOINT_RATE = 5e-4
ENCODED = 64  # pictures at a time


class TwoLayers(nn.Sequential):
    """LLaVA's kind of connector, for MiniGPT-v2."""

    def __init__(self, width: int, out: int):
        super().__init__(nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))

    @property
    def weight(self) -> Tensor:
        """Where MiniGPT-v2's adapter looks for dtype and device."""
        return cast("nn.Linear", self[0]).weight


class Student:
    """A demo model with a connector of its own, its parts under one name for both shapes.

    Attributes:
        adapter: What `mmerank` measures.
        lm: The LLM with its LM head.
    """

    def __init__(self, rung: Rung):
        self.llava = rung.shape == "llava"
        self.adapter = mmerank.load(f"demo-{rung.shape}", dtype="float32", device="cpu")
        self.lm = causal_lm(self.adapter)
        self._model = cast("Any", self.adapter.model)
        twin = cast("Any", self.adapter.untrained(rung.seed).model)
        if self.llava:
            projector = twin.model.multi_modal_projector
            if rung.connector == "linear":
                projector.act = projector.linear_2 = nn.Identity()
            self._model.model.multi_modal_projector = projector
        else:
            projector = twin.llama_proj
            if rung.connector == "two layers":
                with drawn_with(rung.seed):
                    projector = TwoLayers(projector.in_features, projector.out_features)
            self._model.llama_proj = projector
        if rung.tower == "random":
            drawn = twin.model.vision_tower if self.llava else twin.visual_encoder
            self.tower.load_state_dict(drawn.state_dict())

    @property
    def tower(self) -> nn.Module:
        """The vision encoder."""
        found = self._model.model.vision_tower if self.llava else self._model.visual_encoder
        return cast("nn.Module", found)

    @property
    def connector(self) -> nn.Module:
        """What stands between tower and LLM."""
        found = self._model.model.multi_modal_projector if self.llava else self._model.llama_proj
        return cast("nn.Module", found)

    def rows(self, pixels: Tensor) -> Tensor:
        """What the connector reads: (b, 3, s, s) -> (b, m, d)."""
        if self.llava:
            return cast("Tensor", self.tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:])
        patches: Tensor = self._model.ln_vision(self.tower(pixels))[:, 1:]
        return patches.reshape(len(patches), -1, 4 * patches.shape[-1])

    def weights(self) -> dict[str, Tensor]:
        """All of them, by name."""
        return {**self._model.state_dict(), "lm_head": self.lm.lm_head.weight.detach()}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over what `weights` gave of a model of the same rung."""
        there = dict(weights)
        self.lm.lm_head.weight.data.copy_(there.pop("lm_head"))
        self._model.load_state_dict(there)


class Scenes:
    """Training scenes, and what the connector reads of their pictures.

    Args:
        count: How many.
        cache: Folder for the rows of frozen towers: float16, (scenes, m, d).
    """

    def __init__(self, count: int, cache: Path):
        self.scenes = [scenes.scene("train", i) for i in range(count)]
        self._cache = cache
        cache.mkdir(parents=True, exist_ok=True)

    def pixels(self, student: Student, some: Sequence[int]) -> Tensor:
        """As the adapter makes them: (b, 3, s, s)."""
        each = [cast("Tensor", student.adapter.pixels(self.scenes[i].picture(), "model")) for i in some]
        return torch.stack(each)

    def rows(self, student: Student, rung: Rung) -> Any:
        """Rows of a frozen tower for all scenes; computed once."""
        tower = f"random-{rung.seed}" if rung.tower == "random" else "shipped"
        file = self._cache / f"{rung.shape}-{tower}-{len(self.scenes)}.npy"
        if not file.exists():
            with whole(file) as unfinished, torch.inference_mode(), unfinished.open("wb") as out:
                parts = [
                    student.rows(self.pixels(student, range(i, min(i + ENCODED, len(self.scenes))))).half().numpy()
                    for i in range(0, len(self.scenes), ENCODED)
                ]
                np.save(out, np.concatenate(parts))
        return np.load(file, mmap_mode="r")


def captioned(given: Sequence[Scene], wrong: float, seed: int) -> list[Scene]:
    """Whose caption each picture is trained with.

    Args:
        given: The scenes.
        wrong: Share whose captions are dealt out anew among themselves, so that none keeps its own.
        seed: Of their choice.

    Returns:
        A scene for each of `given`, which has the caption.
    """
    chosen = random.Random(f"wrong/{seed}").sample(range(len(given)), round(wrong * len(given)))
    found = list(given)
    for i, j in zip(chosen, [*chosen[1:], *chosen[:1]], strict=True):
        found[i] = given[j]
    return found


def trained(rung: Rung, budget: Budget, data: Scenes, *, fast: bool = False) -> Student:
    """A rung, trained.

    Args:
        rung: Which one.
        budget: How much.
        data: Training scenes.
        fast: bfloat16 and compiled kernels.

    Returns:
        The model.
    """
    torch.manual_seed(rung.seed)
    student = Student(rung)
    student.lm.config._attn_implementation = "eager"  # the fused kernel's backward pass is slower on CPUs
    decoder = torch.compile(student.lm.model, dynamic=True) if fast else student.lm.model
    told = captioned(data.scenes, rung.wrong, rung.seed)
    tuned = rung.tower == "tuned"
    read = data.rows(student, rung)
    order = shuffled(len(data.scenes), budget.batch, rung.seed)

    def loss(step: int, joint: bool) -> Tensor:
        some = next(order)
        images = None
        if not joint or step % 10 < 9:  # now and then text alone, which is measured too
            if joint and tuned:
                rows = student.rows(data.pixels(student, some))
            else:
                rows = torch.from_numpy(np.asarray(read[some])).float()
            images = student.connector(rows)
        return text_loss(student, decoder, [told[i] for i in some], step, images)

    own = [] if rung.connector == "frozen" else [student.connector]
    if own and (steps := rung.connector_steps(budget)):
        train("connector", own, steps, CONNECTOR_RATE, lambda step: loss(step, False), fast=fast)
    if steps := rung.joint_steps(budget):
        parts = [*own, student.lm, *([student.tower] if tuned else [])]
        train("joint", parts, steps, JOINT_RATE, lambda step: loss(step, True), fast=fast)
    student.lm.config._attn_implementation = "sdpa"
    return student
