"""What `mmerank demo` does: the main job on both embedded models and on their untrained twins, in words too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmerank.analysis.metrics.alignment import ALIGNMENT, DECIMALS, LABELS
from mmerank.eranks import ERANKS
from mmerank.inputs.demo import scenes
from mmerank.inputs.load import load_data
from mmerank.jobs.demo.captions import SLOTS, CaptionScores, caption_scores
from mmerank.jobs.perturb import Perturbation, perturb
from mmerank.models.adapter import load
from mmerank.report.terminal.perturbation import difference_text, told_from_zero

NAMES = ("demo-llava", "demo-minigpt-v2")
TRANSFORM = "rotate:90"
BATCH = 2048  # tokens; models as small as these gain by batching on a CPU, too
DESCRIBED = 32  # pictures whose captions are scored


@dataclass(frozen=True)
class Stop:
    """One model: measured, rotated, asked for captions, and beside its untrained twin."""

    trained: Perturbation
    untrained: Perturbation
    captions: CaptionScores

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "trained": self.trained.to_dict(),
            "untrained": self.untrained.to_dict(),
            "captions": {
                "n": self.captions.n,
                "accuracy": self.captions.accuracy,
                "loss": self.captions.loss,
                "loss_mismatched": self.captions.loss_mismatched,
            },
        }


def tour(out: Path | None = None, *, progress: bool = False) -> list[Stop]:
    """Measure both models and their twins, pictures upright and rotated.

    Args:
        out: Folder that gets a run folder for each of the four; they are continued when they exist.
        progress: Show progress bars on stderr.

    Returns:
        One stop per model.

    Raises:
        RunFolderError: `out` holds runs of another version or machine.
    """
    pairs = load_data("demo")
    stops = []
    for name in NAMES:
        model = load(name, device="cpu")
        trained, untrained = (
            perturb(
                adapter,
                pairs,
                [TRANSFORM],
                batch_tokens=BATCH,
                out=None if out is None else out / f"{name}{suffix}",
                progress=progress,
            )
            for adapter, suffix in ((model, ""), (model.untrained(0), "-untrained"))
        )
        described = [scenes.scene("held-out", i) for i in range(DESCRIBED)]
        stops.append(Stop(trained, untrained, caption_scores(model, described)))
    return stops


def tour_view(stops: list[Stop], out: Path | None = None) -> RenderableType:
    """What `mmerank demo` prints.

    Args:
        stops: From `tour`.
        out: Where the run folders are.

    Returns:
        Something a rich console can print.
    """
    parts: list[RenderableType] = [Text(_WORLD.format(pairs=stops[0].trained.base.n)), ""]
    for stop in stops:
        parts += [_table(stop), Text(_captions(stop)), ""]
    parts += [Text("What the numbers mean", style="bold"), Text(_MEANING), ""]
    parts += [Text("What can be read from them here", style="bold"), *map(Text, _readings(stops)), ""]
    if out is not None:
        names = ", ".join(sorted(folder.name for folder in out.iterdir() if folder.is_dir()))
        parts += [Text(f"Every measurement is kept: {out} holds the run folders {names}."), ""]
    parts += [Text("Next", style="bold"), *map(Text, _next(out))]
    return Group(*parts)


def _next(out: Path | None) -> list[str]:
    """The three commands that follow."""
    report = f"mmerank report {out}\n  the same as one page, with figures and every example"
    return [
        *([report] if out is not None else []),
        "mmerank explore\n  turn and blur a picture of your own, and watch (needs pip install '.[explore]')",
        "mmerank align MODEL --data DATA\n  a model and data of your own; mmerank demo --export DIR writes these "
        "pairs to imitate",
        "mmerank glossary explains the words; docs/demo.md tells how the models were trained.",
    ]


_WORLD = (
    "Two small models, trained from scratch on a generated world of coloured shapes, look at {pairs} pictures that "
    "they have never seen and read the descriptions of them: once upright, once with the pictures rotated by 90 "
    "degrees. The same is done with an untrained twin of each: the same architecture, random weights."
)
_MEANING = (
    "The effective rank (eRank) of a set of tokens says over how many directions they spread: 1 if all lie on one "
    "line, and at most as many as there are tokens less one. eRank1 is taken of the picture's patches as they leave "
    "the vision encoder, eRank2 after the connector; eRank3, 4 and 5 of what leaves the language model when it reads "
    "the picture, the text, or both. The Image Reduction Ratio is the share of eRank1 that the connector takes away. "
    "The Image-Text Alignment is the mean of eRank3, 4 and 5 over the largest of them: 1 if the three are equal."
)


def _table(stop: Stop) -> Table:
    """Trained and untrained, upright and rotated, a row per number."""
    base, twin = stop.trained, stop.untrained
    table = Table(
        title=Text(base.base.model, style="bold"),
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for heading in ("\ntrained", "rotated\nby 90°", "\nuntrained", "rotated\nby 90°"):
        table.add_column(heading, justify="right")
    for name in ALIGNMENT:
        cells = []
        for run in (base, twin):
            value, test = getattr(run.base, name), run.tests[TRANSFORM][name]
            change = run.transforms[0].delta[name]
            cells += [f"{value:.{DECIMALS[name]}f}", difference_text(change, DECIMALS[name], told_from_zero(test))]
        if name == "image_reduction_ratio":
            table.add_section()
        table.add_row(_LABELS[name], *cells)
    return table


def _captions(stop: Stop) -> str:
    scores = stop.captions
    shares = ", ".join(f"{slot} {scores.accuracy[slot]:.0%}" for slot in SLOTS)
    return (
        f"What it says it sees, in {scores.n} of the pictures: {shares} right. The true description costs it "
        f"{scores.loss:.4f} nats per token with its own picture, {scores.loss_mismatched:.2f} with another one."
    )


def _readings(stops: list[Stop]) -> list[str]:
    """A sentence for each thing worth a look, made from the numbers."""
    lines = []
    for stop in stops:
        trained, twin = stop.trained.base, stop.untrained.base
        turned = stop.trained.transforms[0].result
        (low, high), (twin_low, twin_high) = (run.intervals["image_text_alignment"] for run in (trained, twin))
        lines.append(
            f"{trained.model}: the connector takes {trained.image_reduction_ratio:.0%} of eRank1 away, "
            f"{twin.image_reduction_ratio:.0%} untrained. The alignment is {trained.image_text_alignment:.2f} (95 % "
            f"interval over the pairs {low:.3f} to {high:.3f}), and {twin.image_text_alignment:.2f} "
            f"({twin_low:.3f} to {twin_high:.3f}) untrained, where nothing is aligned: it has to be read beside a "
            "null. "
            f"Rotating moved eRank1 by {turned.erank1 - trained.erank1:+.2f}, and the text's eRank4 by "
            f"{turned.erank4 - trained.erank4:+.2f}, as it must."
        )
    tokens = " and ".join(f"{s.trained.base.mean_tokens('erank1'):.0f} in {s.trained.base.model}" for s in stops)
    lines.append(
        "A star stands where the paired 95 % interval of a change leaves 0 out and q < 0.05 (permutation test, false "
        "discovery rate controlled); = is no change at all. mmerank perturb shows intervals, q and what n can show."
    )
    lines.append(
        f"An eRank is at most the number of tokens less one, and eRank1 stands on {tokens}: the two models' raw "
        "eRanks compare token budgets first (--match-tokens takes that out)."
    )
    return lines


_LABELS = {
    name: f"{label}  {' / '.join(ERANKS[name])}" if name in ERANKS else label for name, label in LABELS.items()
}
