"""The multimodal path: passes as they come, the fewest passes alone, and mmerank on the same pairs; FLOPs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlavaForConditionalGeneration

from benchmarks import shapes
from benchmarks.clock import Stage, busy_share, row
from benchmarks.recipe import pair_passes
from mmerank import Convention, Example
from mmerank.convention import AT_CONNECTOR_ROWS
from mmerank.engine.batches import batches, default_budget
from mmerank.engine.plans.pair_passes import Loaded
from mmerank.engine.plans.pairs import Pairs as Plan
from mmerank.engine.plans.reading import Prepared, Reading
from mmerank.engine.probe import Probe
from mmerank.formulas.asked import with_metrics
from mmerank.inputs.pictures import open_picture
from mmerank.inputs.transforms.transform import parse
from mmerank.inputs.variants import BASE, Variant, variant
from mmerank.models.adapter import Adapter

PAIRS = (("mmerank", "bare"), ("mmerank", "inputs + bare"), ("naive", "bare"), ("naive", "mmerank"))
TRANSFORMS = {"tiny": (1, 4), "small": (1, 4, 16), "full": (1, 4, 16)}
FLOP_TRANSFORMS = 10
PUBLISHED_PAIRS = 23_000  # of detail_23k, about
BUILD: dict[str, Callable[..., tuple[Any, nn.Module]]] = {"llava": shapes.llava, "minigpt": shapes.minigpt}


class Pairs:
    """A model with pairs to measure, and what the works do with them.

    Args:
        name: `llava` or `minigpt`.
        stage: Where.
        size: See `benchmarks.shapes`.
        examples: How many pairs.
        dtype: Of the weights.
        folder: Where pictures go.
        transforms: How many transforms of the picture beside it.
        layers: As for `mmerank.align`, empty or `all`.
    """

    def __init__(
        self,
        name: str,
        stage: Stage,
        size: str,
        examples: int,
        dtype: str,
        folder: Path,
        transforms: int = 0,
        layers: str = "",
    ):
        self.adapter: Adapter
        self.adapter, self.llm = BUILD[name](size, stage.device, getattr(torch, dtype))
        self.examples = shapes.pairs(examples, size, folder)
        self._budget = default_budget(stage.device)
        made = [parse(f"rotate:{5 * (i + 1)}")[0] for i in range(transforms)]
        self.variants: list[Variant] = [BASE, *(variant(transform, self.examples) for transform in made)]
        # Its first example, on which the reading of prefixes is verified, once a run, is not timed.
        self.plan = Plan(self.adapter, variants=self.variants, layers=layers)
        self.probe = Probe(self.plan)
        list(self.probe.measure(self.examples[:1]))
        self.readings = [self._reading(example) for example in self.examples]
        self.pixels = {v.name: [self.adapter.pixels(self._picture(e, v), "model") for e in self.examples]
                       for v in self.variants}  # fmt: skip

    def _reading(self, example: Example) -> Reading:
        reading = self.plan.reader.reading(example)
        assert reading is not None  # the sequences are short
        return reading

    @staticmethod
    def _picture(example: Example, of: Variant) -> Any:
        assert example.image is not None  # they all have one
        opened = Example(example.id, open_picture(example.image), example.instruction, example.response)
        return of.image.of(opened).image

    def mmerank(self) -> None:
        """From files to records."""
        list(self.probe.measure(self.examples))

    def inputs(self) -> None:
        """Pictures decoded and scaled, texts tokenised, as mmerank does."""
        for example in self.examples:
            self._reading(example)
            for of in self.variants:
                self.adapter.pixels(self._picture(example, of), "model")

    def naive(self) -> None:
        """Whole model passes for image, text and pair, of every version of the picture, with the recipe's SVDs."""
        for pixels in self.pixels.values():
            pair_passes(self.adapter, self.llm, [r.sequences for r in self.readings], pixels)

    def naive_passes(self) -> None:
        """The same without SVDs, on the last example."""
        for pixels in self.pixels.values():
            last = [self.readings[-1].sequences], pixels[-1:]
            pair_passes(self.adapter, self.llm, *last, measure=torch.Tensor.size)

    @torch.inference_mode()
    def bare(self) -> None:
        """The fewest passes, in the batches that mmerank makes: text once, encoder and pair once per picture."""
        order = range(len(self.examples))
        for batch in batches(order, lambda i: len(self.readings[i].sequences["pair"]), self._budget):
            sequences = [self.readings[i].sequences for i in batch]
            self.adapter.decode([s["text"] for s in sequences], None)
            for pixels in self.pixels.values():
                images = self.adapter.encode_images([pixels[i] for i in batch])
                self.adapter.decode([s["pair"] for s in sequences], images)

    def bare_with_inputs(self) -> None:
        """Both."""
        self.inputs()
        self.bare()


def pairs(name: str, stage: Stage, size: str, examples: int, dtype: str) -> Iterator[dict[str, Any]]:
    """`mmerank.align` on pairs of a picture and a text; one line."""
    with tempfile.TemporaryDirectory() as folder:
        of = Pairs(name, stage, size, examples, dtype, Path(folder))
        works = {"naive": of.naive, "bare": of.bare, "inputs + bare": of.bare_with_inputs, "mmerank": of.mmerank}
        what = {"model": f"{name} {size}", "examples": examples, "dtype": dtype}
        yield row(stage, what, works, PAIRS, memory=True)


def pair_layers(stage: Stage, size: str, examples: int, dtype: str) -> Iterator[dict[str, Any]]:
    """LLaVA, the pair at every layer with its image and text rows, beside bare passes; one line."""
    with tempfile.TemporaryDirectory() as folder:
        of = Pairs("llava", stage, size, examples, dtype, Path(folder), layers="all")
        works = {"bare": of.bare, "mmerank": of.mmerank}
        what = {"model": f"llava {size}", "examples": examples, "layers": len(of.adapter.layers), "dtype": dtype}
        yield row(stage, what, works, [("mmerank", "bare")], memory=True)


def busy(stage: Stage, size: str, examples: int, dtype: str) -> Iterator[dict[str, Any]]:
    """The share of a run of LLaVA in which the device computes, by torch's profiler.

    Args:
        stage: Where.
        size: See `benchmarks.shapes`.
        examples: How many pairs.
        dtype: Of the weights.

    Yields:
        One line; it has also what 23,000 pairs would take at the speed of a run that is not profiled, extrapolated.
    """
    with tempfile.TemporaryDirectory() as folder:
        of = Pairs("llava", stage, size, examples, dtype, Path(folder))
        wall = replace(stage, waits=True)
        seconds = wall.seconds(of.mmerank)
        share = busy_share(wall, of.mmerank)
        found = {"median": share, "low": share, "high": share, "rounds": 1}
        yield {
            "model": f"llava {size}",
            "examples": examples,
            "dtype": dtype,
            "seconds": {
                "mmerank": seconds,
                f"{PUBLISHED_PAIRS} pairs, extrapolated": seconds / examples * PUBLISHED_PAIRS,
            },
            "ratios": {"busy / wall": found},
        }


def metrics(stage: Stage, size: str, examples: int, dtype: str) -> Iterator[dict[str, Any]]:
    """LLaVA without and with metrics beside eRank, of the same pairs; a line for each choice of them."""
    for asked in (("spectral", "geometric"), ("all",)):
        yield _with(asked, "llava", stage, size, examples, dtype)


def connector(stage: Stage, size: str, examples: int, dtype: str) -> Iterator[dict[str, Any]]:
    """MiniGPT-v2, whose connector merges rows, without and with the study of its connector; one line."""
    yield _with((AT_CONNECTOR_ROWS, "knn_overlap_connector_10"), "minigpt", stage, size, examples, dtype)


def _with(asked: Sequence[str], kind: str, stage: Stage, size: str, examples: int, dtype: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        of = Pairs(kind, stage, size, examples, dtype, Path(folder))
        probe = Probe(Plan(of.adapter, with_metrics(Convention(), asked)))
        list(probe.measure(of.examples[:1]))
        works: dict[str, Callable[[], object]] = {
            "mmerank": of.mmerank,
            "with metrics": partial(_measured, probe, of.examples),
        }
        what = {"model": f"{kind} {size}", "metrics": ",".join(asked), "examples": examples, "dtype": dtype}
        return row(stage, what, works, (("with metrics", "mmerank"),), memory=True)


def inside(stage: Stage, size: str, examples: int, dtype: str) -> Iterator[dict[str, Any]]:
    """LLaVA without and with what each block adds to the residual stream, of the same pairs, and bare; one line."""
    with tempfile.TemporaryDirectory() as folder:
        of = Pairs("llava", stage, size, examples, dtype, Path(folder))
        probe = Probe(Plan(of.adapter, inside="all"))
        list(probe.measure(of.examples[:1]))  # in which the blocks are taken apart
        works: dict[str, Callable[[], object]] = {
            "bare": of.bare,
            "mmerank": of.mmerank,
            "with updates": partial(_measured, probe, of.examples),
        }
        what = {"model": f"llava {size}", "examples": examples, "blocks": len(of.adapter.layers) - 1, "dtype": dtype}
        ratios = (("with updates", "mmerank"), ("with updates", "bare"))
        yield row(stage, what, works, ratios, memory=True)


def _measured(probe: Probe[Prepared, Loaded], examples: list[Example]) -> object:
    return list(probe.measure(examples))


def perturb(stage: Stage, size: str, examples: int, dtype: str) -> Iterator[dict[str, Any]]:
    """LLaVA, the picture rotated in some ways beside the untouched one; a line per number of them."""
    for k in TRANSFORMS[size]:
        with tempfile.TemporaryDirectory() as folder:
            of = Pairs("llava", stage, size, examples, dtype, Path(folder), transforms=k)
            works = {"naive": of.naive, "bare": of.bare, "mmerank": of.mmerank}
            what = {"model": f"llava {size}", "examples": examples, "transforms": k, "dtype": dtype}
            yield row(stage, what, works, PAIRS, memory=False)


def flops(stage: Stage, size: str, dtype: str) -> Iterator[dict[str, Any]]:
    """Floating-point operations of one pair, with no transform and with ten: as run here, and in LLaVA-1.5-7B's size.

    At the size that is asked for, mmerank itself runs under torch's counter, after its first example. Those of the
    7B model are counted on the meta device, where nothing is computed, pass by pass.

    Args:
        stage: Where.
        size: See `benchmarks.shapes`.
        dtype: Of the weights.

    Yields:
        Two lines for each size.
    """
    for k in (0, FLOP_TRANSFORMS):
        with tempfile.TemporaryDirectory() as folder:
            of = Pairs("llava", stage, size, 2, dtype, Path(folder), transforms=k)
            counted = {
                "naive": _counted(of.naive_passes),
                "mmerank": _counted(lambda of=of: list(of.probe.measure(of.examples[-1:]))),
            }
        yield _flop_row({"model": f"llava {size}, run", "transforms": k}, counted)
    encoder, image, text, pair = _published_size()
    for k in (0, FLOP_TRANSFORMS):
        naive = (1 + k) * (2 * encoder + image + text + pair)
        least = text + (1 + k) * (encoder + pair)
        counted = {"naive": naive, "mmerank": least}
        yield _flop_row({"model": "LLaVA-1.5-7B, by pass", "transforms": k}, counted)


def _flop_row(what: dict[str, Any], counted: dict[str, int]) -> dict[str, Any]:
    value = counted["naive"] / counted["mmerank"]
    ratios = {"naive / mmerank": {"median": value, "low": value, "high": value, "rounds": 1}}
    return {**what, "tflops": {name: count / 1e12 for name, count in counted.items()}, "ratios": ratios}


def _counted(work: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return int(counter.get_total_flops())


def _published_size() -> tuple[int, int, int, int]:
    """FLOPs of the encoder with the connector, and of the LLM on image, text and pair, up to its final norm."""
    with torch.device("meta"):
        config = shapes.llava_config("full")
        model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
        core = model.model
        side, patch = config.vision_config.image_size, config.vision_config.patch_size
        picture, m = torch.empty(1, 3, side, side), (side // patch) ** 2

        def encode() -> None:
            states = core.vision_tower(picture, output_hidden_states=True).hidden_states[config.vision_feature_layer]
            core.multi_modal_projector(states[:, 1:])

        def passed(n: int) -> int:
            embeddings = torch.empty(1, n, config.text_config.hidden_size)
            # A mask that is there is not looked into, which cannot be done without values.
            mask = torch.empty(1, 1, n, n)
            return _counted(
                lambda: core.language_model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)
            )

        t = shapes.PAIR_TOKENS["full"]
        return _counted(encode), passed(1 + m), passed(1 + t), passed(1 + m + t)
