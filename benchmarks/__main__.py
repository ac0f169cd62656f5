r"""Speed and memory of mmerank, the published recipe and bare forwards, side by side in one process.

    OMP_NUM_THREADS=1 python -m benchmarks --json speed.json                 # all cases on a CPU, minutes
    python -m benchmarks kernel flops                                        # some of them
    python -m benchmarks --size full --device cuda --dtype bfloat16          # published sizes

Cases: `kernel` (the entropy alone, by shape), `eigenvalues` (on the CPU, or together on the device), `text` and
`layers` (OPT, final norm or every layer), `llava`, `minigpt`, `metrics` (LLaVA with and without `--metrics`),
`connector` (MiniGPT-v2 with and without the study of its connector),
`inside` (LLaVA with and without what its blocks add),
`pair-layers` (LLaVA, every layer), `busy` (LLaVA, the share of the time in which the device computes), `perturb`
(LLaVA, k transforms of the picture), `generate` (LLaVA that writes), `prune` (LLaVA with rows of the picture left
out), `overlap` (a model that takes time but no processor), `flops`. Sizes: `tiny` takes seconds and means nothing,
`small` has OPT-125M and the published numbers of tokens in narrow multimodal models, `full` has OPT-1.3B,
LLaVA-1.5-7B and MiniGPT-v2, all with random weights.
docs/speed.md tells what is compared, and what came out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import shapes
from benchmarks.clock import Stage, machine
from benchmarks.generation import generate
from benchmarks.kernel import eigenvalues, kernel
from benchmarks.multimodal import busy, connector, flops, inside, metrics, pair_layers, pairs, perturb
from benchmarks.overlap import overlap
from benchmarks.pruning import prune
from benchmarks.tables import MEASURES
from benchmarks.text import text

CASES = (
    "kernel",
    "eigenvalues",
    "text",
    "layers",
    "llava",
    "minigpt",
    "metrics",
    "connector",
    "inside",
    "pair-layers",
    "busy",
    "perturb",
    "generate",
    "prune",
    "overlap",
    "flops",
)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The options that a command line gives; refuses unknown ones with exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="case", help=f"any of {', '.join(CASES)}; default: all")
    parser.add_argument("--size", choices=shapes.SIZES, default="small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=6, help="texts or pairs; half of them for perturb")
    parser.add_argument(
        "--longest", type=float, default=30, help="seconds of the recipe in `kernel` above which it is left out"
    )
    parser.add_argument("--once-above", type=float, default=10, help="seconds; what takes longer is timed once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the weights")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.cases) - set(CASES)):
        parser.error(f"unknown case {unknown[0]!r}; known: {', '.join(CASES)}")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the cases, print as they come, write."""
    options = parsed(arguments)
    stage = Stage(torch.device(options.device), options.rounds, options.once_above)
    given = (stage, options.size, options.examples, options.dtype)
    works: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "kernel": partial(kernel, stage, options.size, options.longest),
        "eigenvalues": partial(eigenvalues, stage, options.size),
        "text": partial(text, *given),
        "layers": partial(text, *given, layers="all"),
        "llava": partial(pairs, "llava", *given),
        "minigpt": partial(pairs, "minigpt", *given),
        "pair-layers": partial(pair_layers, *given),
        "busy": partial(busy, *given),
        "metrics": partial(metrics, *given),
        "connector": partial(connector, *given),
        "inside": partial(inside, *given),
        "perturb": partial(perturb, stage, options.size, max(options.examples // 2, 1), options.dtype),
        "generate": partial(generate, *given),
        "prune": partial(prune, *given),
        "overlap": partial(overlap, stage, options.size, 2 * options.examples),
        "flops": partial(flops, stage, options.size, options.dtype),
    }
    content: dict[str, Any] = {
        "machine": machine(stage.device),
        "device": options.device,
        "clock": stage.clock,
        "size": options.size,
        "rounds": options.rounds,
        "cases": {},
    }
    print(f"{json.dumps(content['machine'])}\n{stage.clock} time, {options.rounds} rounds")
    for case in options.cases or CASES:
        print(f"\n{case}", flush=True)
        lines = content["cases"][case] = []
        for line in works[case]():
            lines.append(line)
            print(shown(line), flush=True)
            if options.json:
                options.json.write_text(json.dumps(content, indent=1) + "\n")


def shown(line: dict[str, Any]) -> str:
    """A line of a case as text: its name, the ratios with their spread, and what lies behind them."""
    parts = [", ".join(f"{name} {value}" for name, value in line.items() if name not in MEASURES)]
    for name, found in line["ratios"].items():
        spread = f" ({found['low']:.4g} to {found['high']:.4g})" if found["rounds"] > 1 else ""
        parts.append(f"    {name}: {found['median']:.4g}{spread}")
    for table, unit, digits in (("seconds", "s", 4), ("tflops", "TFLOP", 4), ("peak_mb", "MB at most", 0)):
        values = {name: value for name, value in line.get(table, {}).items() if value is not None}
        if values:
            shown_values = ", ".join(
                f"{name} {value:.{digits}{'g' if digits else 'f'}}" for name, value in values.items()
            )
            parts.append(f"    {unit}: {shown_values}")
    return "\n".join(parts)


if __name__ == "__main__":
    main(sys.argv[1:])
