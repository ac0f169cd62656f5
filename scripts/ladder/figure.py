"""The figure of the page."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from scripts.ladder.analysis import SIGNIFICANT
from scripts.ladder.measuring import MARGIN


def figure(found: pd.DataFrame, file: Path) -> None:
    """Every number of every metric: rho with the truth, a row per metric, a mark per place.

    Args:
        found: The table.
        file: PNG.
    """
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    metrics = found["rho"].abs().groupby(level="metric").max().sort_values()
    drawn, (left, right) = plt.subplots(1, 2, figsize=(9, 0.17 * len(metrics) + 1.2), sharey=True)
    for axis, column, q in ((left, "rho", "q"), (right, "gap_rho", "gap_q")):
        for y, name in enumerate(metrics.index):
            of = found.loc[[name]]
            sure = of[q] < SIGNIFICANT
            axis.plot(
                of.loc[~sure, column], [y] * int((~sure).sum()), "o", color="0.6", markersize=3, fillstyle="none"
            )
            colour = "C1" if name == MARGIN else "C0"
            axis.plot(of.loc[sure, column], [y] * int(sure.sum()), "o", color=colour, markersize=3.5)
        axis.axvline(0, color="0.8", linewidth=0.8)
        axis.set_xlim(-1.05, 1.05)
    left.set_yticks(range(len(metrics)), list(metrics.index))
    left.set_ylim(-0.7, len(metrics) - 0.3)
    left.set_xlabel("rho of the number with caption accuracy")
    right.set_xlabel("rho of own less mismatched pairs")
    drawn.tight_layout()
    drawn.savefig(file, dpi=120, metadata={"Software": None})
    plt.close(drawn)
