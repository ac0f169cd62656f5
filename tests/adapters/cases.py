"""Tiny checkpoints with golden numbers: what every adapter is held against, by the same tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook

from mmerank import Convention, Example, load
from mmerank.convention import ImageLayout, SequenceForm
from mmerank.inputs.sequence import Kind
from mmerank.models.adapter import Adapter
from tests.conftest import GOLDEN

Variants = Mapping[tuple[SequenceForm, Kind], str]


def examples() -> list[Example]:
    """The three golden samples, their pictures in memory."""
    return [
        Example(
            str(sample["id"]),
            Image.open(GOLDEN / "images" / sample["image"]).convert("RGB"),
            sample["instruction"],
            sample["response"],
        )
        for sample in json.loads((GOLDEN / "samples.json").read_text())
    ]


@dataclass(frozen=True)
class Case:
    """One tiny checkpoint.

    `variants` names the golden sequence of each (form, kind); `layouts` the suffixes that `pixel_values` and
    the sequences with a picture carry for a layout; `families` the golden family of a (form, layout);
    `tensors` the golden tensor of each point that a picture passes, and how many leading rows of it do not count.
    """

    name: str
    checkpoint: str
    variants: Variants
    layouts: Mapping[ImageLayout, tuple[str, str]]
    families: Mapping[tuple[SequenceForm, ImageLayout], str]
    tensors: Mapping[str, tuple[str, int]]

    @cached_property
    def adapter(self) -> Adapter:
        return load(GOLDEN / self.name / self.checkpoint, device="cpu")

    @cached_property
    def golden(self) -> dict[str, NDArray[Any]]:
        with np.load(GOLDEN / self.name / "golden.npz") as arrays:
            return dict(arrays)

    @cached_property
    def eranks(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((GOLDEN / self.name / "erank_golden.json").read_text())
        return content

    def expected_hidden(self, form: SequenceForm, kind: Kind, layout: ImageLayout, sample: int) -> NDArray[Any]:
        suffix = "" if kind == "text" else self.layouts[layout][1]
        return self.golden[f"{self.variants[form, kind]}{suffix}/{sample}/hidden"]

    def expected_ids(self, form: SequenceForm, kind: Kind, sample: int) -> list[int]:
        ids: list[int] = self.golden[f"{self.variants[form, kind]}/{sample}/ids"].tolist()
        return ids

    def convention(self, form: SequenceForm, layout: ImageLayout) -> Convention:
        return Convention(sequence=form, image_layout=layout)


LLAVA = Case(
    name="llava_tiny",
    checkpoint="hf_model",
    variants={
        ("bare", "image"): "img_bos",
        ("bare", "text"): "txt_full_bos",
        ("bare", "pair"): "pair_bare_full",
        ("template", "image"): "img_v1_empty",
        ("template", "text"): "txt_v1_full",
        ("template", "pair"): "pair_v1_full",
    },
    layouts={"model": ("_pad", ""), "pad": ("_pad", ""), "crop": ("_crop", "_crop")},
    families={
        ("bare", "model"): "bare_full",
        ("bare", "pad"): "bare_full",
        ("template", "pad"): "template",
        ("template", "crop"): "template_crop",
    },
    tensors={"vision": ("vision_out", 0), "connector": ("connector_out", 0)},
)
MINIGPT_V2 = Case(
    name="minigpt_v2_tiny",
    checkpoint="minigpt_v2.yaml",
    variants={
        ("bare", "image"): "img_bos",
        ("bare", "text"): "txt_full_bos",
        ("bare", "pair"): "pair_bare_full",
        ("template", "image"): "img_tag_bos",
        ("template", "text"): "txt_train",
        ("template", "pair"): "pair_train",
    },
    layouts={"model": ("", "")},
    families={("bare", "model"): "bare_full", ("template", "model"): "template"},
    tensors={"vision": ("ln_vision_out", 1), "connector": ("connector_out", 0)},
)
# The same weights under the key names of newer versions of peft.
MINIGPT_V2_NEWER = replace(MINIGPT_V2, checkpoint="minigpt_v2_newer_names.yaml")
CASES = [LLAVA, MINIGPT_V2, MINIGPT_V2_NEWER]


def at_the_encoder(do: Callable[[Any], None]) -> Any:
    """Have something done with what the golden LLaVA's vision encoder gives, until the handle's `remove`.

    By a hook of all modules: one on the encoder itself makes the model another, whose numbers no other run takes.
    """
    tower = LLAVA.adapter.model.get_submodule("model.vision_tower")
    return register_module_forward_hook(lambda module, args, output: do(output) if module is tower else None)
