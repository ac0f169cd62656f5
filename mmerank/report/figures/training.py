"""The trajectory of a training: numbers of the checkpoints of one model against their steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.axes import Axes

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.alignment import LABELS
from mmerank.analysis.steps import stated_step
from mmerank.eranks import ERANKS
from mmerank.report.figures.panels import Drawing
from mmerank.report.figures.style import bare, distances, look, shortened, spaced_ticks, stage

_FROM_TEXTS = {
    "eRank": {"erank_untrained": "eRank untrained", "erank_trained": "eRank trained"},
    "Diff-eRank": {"diff_erank": "Diff-eRank"},
    "loss (nats)": {"loss_trained": "loss", "reduced_loss": "reduced loss"},
}
_FROM_PAIRS = {
    "eRank": {label: stage(label) for label in ERANKS},
    "ratio": {label: stage(label) for label in LABELS if label not in ERANKS},
}


@dataclass(frozen=True)
class Trajectory:
    """Checkpoints of one training, in one run.

    Attributes:
        run: Which measured them.
        name: What their names have in common.
        steps: Name of the model by step, ascending; at least two.
    """

    run: Finished
    name: str
    steps: dict[int, str]

    @property
    def between(self) -> set[tuple[str, str]]:
        """Run and model of the checkpoints other than the first and the last."""
        return {(self.run.name, model) for model in list(self.steps.values())[1:-1]}


def trajectories(runs: Sequence[Finished]) -> list[Trajectory]:
    """The trainings of which several checkpoints were measured, as their names tell.

    Args:
        runs: Any.

    Returns:
        One per run and training.
    """
    found: dict[tuple[int, str], dict[int, str]] = {}
    for i, run in enumerate(runs):
        for model in run.frames if run.kind.in_steps else ():
            if stated := stated_step(model):
                # Of two names of one step the first is taken; the other is drawn by itself.
                found.setdefault((i, stated[0]), {}).setdefault(stated[1], model)
    return [
        Trajectory(runs[i], name or runs[i].name, dict(sorted(steps.items())))
        for (i, name), steps in found.items()
        if len(steps) > 1
    ]


def training(of: Trajectory, numbers: pd.DataFrame, name: str = "training") -> Drawing:
    """eRanks, and losses or ratios, against the step.

    Args:
        of: The checkpoints.
        numbers: From `mmerank.report.numbers.all_numbers`.
        name: Of the figure.

    Returns:
        The figure.
    """
    caption = f"Training of {shortened(of.name)}: each checkpoint's numbers, with 95 % intervals."
    if between := len(of.between):
        caption += f" The {between} between the first and the last are in no other figure."
    here = numbers[(numbers["run"] == of.run.name) & (numbers["transform"] == "none")]
    here = here[here["point"].isin(["", "final"])].set_index(["model", "quantity"])
    drawn = _FROM_TEXTS if of.run.job == "diff" else _FROM_PAIRS
    known = set(here.index.get_level_values("quantity"))  # encoders have no loss
    drawn = {label: lines for label, lines in drawn.items() if known & set(lines)}
    order = [quantity for lines in drawn.values() for quantity in lines]

    def draw(axes: Axes, label: str) -> None:
        steps = list(of.steps)
        for quantity, called in drawn[label].items():
            rows = here.loc[[(model, quantity) for model in of.steps.values()]]
            looks = look(order.index(quantity))
            axes.errorbar(steps, rows["value"], distances(rows), capsize=2, label=called, **looks)
        first = steps[0] or steps[1]
        if steps[-1] > 10 * first:
            axes.set_xscale("symlog", linthresh=first)
        spaced_ticks(axes, steps, [f"{step:,}" for step in steps])
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        bare(axes)

    return Drawing(name, caption, {label: partial(draw, label=label) for label in drawn}, titled=False)
