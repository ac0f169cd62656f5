"""What inspection cannot find out by itself of a model type: one line each, and the only place that names one."""

from __future__ import annotations

from typing import NamedTuple


class Word(NamedTuple):
    """What is to be known of a model type.

    Attributes:
        placeholder: What stands for a picture in a text; None for what chat template or processor say.
        vision: Path, or its end, of the module whose output is the vision encoder's; empty for what is found.
        mask: The input that tells real rows of a picture, or tiles of them, from padding, which is zero there.
        spliced: Whether the connector puts out filler rows, which do not enter the LLM.
    """

    placeholder: str | None = None
    vision: str = ""
    mask: str = ""
    spliced: bool = False


WORDS = {
    "apertus1p5": Word(vision="quant_conv"),
    "blip-2": Word(placeholder=""),  # the processor writes its own
    "chameleon": Word(vision="quant_conv"),  # then quantised
    "emu3": Word(vision="quant_conv"),
    "florence2": Word(placeholder=""),
    "instructblip": Word(placeholder=""),
    "kosmos-2.5": Word(mask="flattened_patches"),
    "lfm2_vl": Word(vision="vision_tower", mask="pixel_attention_mask", spliced=True),
    "mllama": Word(mask="aspect_ratio_mask"),
    "ovis2": Word(vision="vision_tower.transformer"),  # behind it come visual words
}
