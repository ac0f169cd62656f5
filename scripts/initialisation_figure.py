r"""Draw the figure of docs/initialisation.md: Diff-eRank of one model against the range that twins are drawn with.

    python scripts/initialisation_figure.py            # a minute on one CPU core

The model is the language model of the demo's MiniGPT-v2, the texts are those of the demo's pictures; both come with
the package. It prints the table of the page.
"""

import argparse
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

import mmerank
from mmerank.__main__ import guarded
from mmerank.inputs.demo import MODELS

OUT = Path(__file__).parents[1] / "docs" / "figures" / "initialisation.png"
RANGES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
SEEDS = (0, 1, 2)


def swept(texts: int) -> list[mmerank.Diff]:
    """A result for each range; the trained model is measured once."""
    model = mmerank.load_text(MODELS["demo-minigpt-v2"].parent / "llama", dtype="float32")
    data = mmerank.load_data("demo")
    first = mmerank.diff(model, data, limit=texts, seeds=SEEDS, init_range=RANGES[0], loss=False)
    rest = [
        mmerank.diff(model, data, limit=texts, seeds=SEEDS, init_range=width, trained=first, loss=False)
        for width in RANGES[1:]
    ]
    return [first, *rest]


def draw(results: list[mmerank.Diff]) -> Figure:
    """Left: untrained and trained eRank against the range; right: their difference, with the interval over texts."""
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    untrained = [of.final.erank_untrained for of in results]
    spread = [of.final.erank_untrained_stdev for of in results]
    left.errorbar(RANGES, untrained, spread, color="#0072B2", marker="s", linestyle="--", label="untrained")
    left.axhline(results[0].final.erank_trained, color="black", label="trained")
    left.set_ylabel("eRank")
    left.legend(frameon=False)
    values = [of.diff_erank for of in results]
    limits = [of.intervals["diff_erank"] for of in results]
    reach = [
        [v - low for v, (low, _) in zip(values, limits, strict=True)],
        [high - v for v, (_, high) in zip(values, limits, strict=True)],
    ]
    right.errorbar(RANGES, values, reach, color="#E69F00", marker="o")
    right.axhline(0, color="#666666", linewidth=0.8)
    right.set_ylabel("Diff-eRank")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(RANGES, [f"{width:g}" for width in RANGES])
        axes.set_xlabel("initializer_range of the untrained twins")
        axes.axvline(0.02, color="#999999", linestyle=":", linewidth=1)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Measure, print the table, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    results = swept(options.texts)
    for width, of in zip(RANGES, results, strict=True):
        low, high = of.intervals["diff_erank"]
        untrained = f"{of.final.erank_untrained:.2f} ± {of.final.erank_untrained_stdev:.2f}"
        difference = f"{of.diff_erank:.2f} [{low:.2f}, {high:.2f}]"
        print(f"| {width:g} | {untrained} | {of.final.erank_trained:.2f} | {difference} |")
    with rc_context({"font.size": 9, "lines.markersize": 5}):
        draw(results).savefig(options.out, dpi=110)


if __name__ == "__main__":
    guarded(main)
