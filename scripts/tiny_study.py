r"""What holds over several trainings of the embedded models: tables in Markdown, and a figure of their development.

    python scripts/tiny_study.py runs/tiny --figure docs/figures/demo-training.png        # a minute a model

RUNS holds what `scripts/train_tiny.py` wrote: llava-0, llava-1, ..., minigpt-v2-0, ... Each final model, and an
untrained twin of the same seed, is measured on the held-out pairs, upright, with pictures rotated by 90 degrees, and
with the pairs mismatched; a cell has the value of every seed.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt

import mmerank
from mmerank.__main__ import guarded
from mmerank.analysis.metrics.alignment import ALIGNMENT, LABELS
from mmerank.eranks import ERANKS

FAMILIES = {"llava": "LLaVA", "minigpt-v2": "MiniGPT-v2"}
# Readable in grey: by mark and line, not by colour alone.
MARKS = {"erank1": "o-", "erank2": "s--", "erank3": "^-", "erank4": "v:", "erank5": "D-."}


def load(run: Path) -> mmerank.Adapter:
    """The final model of a training."""
    file = run / "final" / "minigpt_v2.yaml"
    return mmerank.load(file if file.exists() else run / "final", dtype="float32", device="cpu")


def measured(run: Path, seed: int) -> dict[str, mmerank.Perturbation]:
    """The final model and an untrained twin, before and after the rotation, with mismatched pairs."""
    model, pairs = load(run), mmerank.load_data("demo")
    adapters = {"trained": model, "untrained": model.untrained(seed)}
    return {
        name: mmerank.perturb(adapter, pairs, ["rotate:90"], controls=["mismatch"], control_draws=20)
        for name, adapter in adapters.items()
    }


def row(heading: str, cells: Iterable[str]) -> None:
    """A row of a Markdown table."""
    print("| " + " | ".join([heading, *cells]) + " |")


def seeds_table(results: list[dict[str, mmerank.Perturbation]]) -> None:
    """A row per number, a column per kind of measurement, all seeds in a cell."""
    row("", ["trained", "rotated by 90°", "untrained", "rotated by 90°"])
    row("---", ["---"] * 4)
    for name in ALIGNMENT:
        digits = 2 if name in ERANKS else 3
        cells = []
        for kind in ("trained", "untrained"):
            runs = [result[kind] for result in results]
            cells.append(" / ".join(f"{getattr(run.base, name):.{digits}f}" for run in runs))
            cells.append(" / ".join(f"{run.transforms[0].delta[name]:+.{digits}f}" for run in runs))
        row(LABELS[name], cells)


def trajectory_table(trajectory: list[dict[str, float]]) -> None:
    """A row per stage of one training."""
    names = ("loss", "loss_mismatched", *ALIGNMENT)
    row("stage", ["steps", "loss", "loss, mismatched", *LABELS.values()])
    row("---", ["---"] * (len(names) + 1))
    for stage in trajectory:
        row(str(stage["stage"]), [str(stage["step"]), *(f"{stage[name]:.3g}" for name in names)])


def figure(runs: dict[str, list[Path]], file: Path) -> None:
    """eRanks, ratios and loss over the stages: a column per model, a thin line per seed, the mean in bold."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    drawn, axes = plt.subplots(3, len(runs), figsize=(4.2 * len(runs) + 1.4, 7.5), sharex="col", squeeze=False)
    for column, (family, folders) in enumerate(runs.items()):
        stages = [json.loads((folder / "trajectory.json").read_text()) for folder in folders]
        ticks = [f"{s['stage']} {s['step']}" if s["stage"] == "joint" else s["stage"] for s in stages[0]]
        rows: list[tuple[dict[str, str], str]] = [
            (MARKS, "eRank"),
            ({"image_reduction_ratio": "o-", "image_text_alignment": "s--"}, "ratio"),
            ({"loss": "o-", "loss_mismatched": "s--"}, "loss (nats per token)"),
        ]
        for axis, (marks, heading) in zip(axes[:, column], rows, strict=True):
            for i, (name, mark) in enumerate(marks.items()):
                series = [[stage[name] for stage in seed] for seed in stages]
                for values in series:
                    axis.plot(values, mark[1:], color=f"C{i}", linewidth=0.6, alpha=0.6)
                mean = [sum(values) / len(values) for values in zip(*series, strict=True)]
                label = {"loss": "own picture", "loss_mismatched": "another picture"}.get(name, LABELS.get(name))
                axis.plot(mean, mark, color=f"C{i}", markersize=4, linewidth=1.6, label=label)
            axis.set_ylabel(heading)
            if column == len(runs) - 1:
                axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        axes[2, column].set_yscale("log")
        axes[0, column].set_ylim(0, 25)
        axes[1, column].set_ylim(-0.2, 1)
        axes[0, column].set_title(f"{FAMILIES[family]}, {len(folders)} seeds")
        axes[2, column].set_xticks(range(len(ticks)), ticks, rotation=45, ha="right")
    drawn.tight_layout()
    drawn.savefig(file, dpi=130)


def main() -> None:
    """Measure all, print the tables, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--figure", type=Path, metavar="FILE")
    options = parser.parse_args()
    runs = {name: sorted(options.runs.glob(f"{name}-*/trajectory.json")) for name in FAMILIES}
    folders = {name: [file.parent for file in found] for name, found in runs.items() if found}
    for family, found in folders.items():
        results = [measured(folder, seed) for seed, folder in enumerate(found)]
        print(f"\n{FAMILIES[family]}\n")
        seeds_table(results)
        for folder, result in zip(found, results, strict=True):
            stages = json.loads((folder / "trajectory.json").read_text())
            loss, other = stages[-1]["loss"], stages[-1]["loss_mismatched"]
            print(f"\n{folder.name}: accuracy {stages[-1]['accuracy']}, loss {loss:.4f}, mismatched {other:.3f}")
            for kind, one in result.items():
                (null,) = one.to_dict()["controls"]
                print(kind, json.dumps({k: v for k, v in null.items() if k in ("erank5", "image_text_alignment")}))
            trajectory_table(stages)
    if options.figure:
        figure(folders, options.figure)


if __name__ == "__main__":
    guarded(main)
