"""What is said of numbers beside scores: cautions, and the paragraph that belongs beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from mmerank.analysis.finished import Finished
from mmerank.analysis.scores.entry import Scored
from mmerank.analysis.statistics.rank_correlation import EXACT, PERMUTATIONS
from mmerank.report.names import model_names

# Fewer models show next to nothing.
FEW = 10
# Of more, figures and the table of the models have the first.
MOST_SCORES = 6


def cautions(
    runs: Sequence[Finished],
    scores: Sequence[Scored],
    of_models: Mapping[tuple[str, str], Sequence[Scored]],
    table: pd.DataFrame,
    points: pd.DataFrame,
) -> list[str]:
    """What a reader should know before concluding anything from correlations over models.

    Args:
        runs: At least one.
        scores: All that were given.
        of_models: Those of the models of the runs, by run and model.
        table: The correlations.
        points: What they are made of.

    Returns:
        Sentences, the weightiest first.
    """
    lines = []
    fewest, most = int(table["n"].min()), int(table["n"].max())
    if most < 3:
        lines.append(
            f"{most} of the models ha{'s a score' if most == 1 else 've scores'}: a rank correlation needs three."
        )
    elif fewest < FEW:
        over = str(most) if fewest == most else f"{fewest} to {most}"
        least = f" (with {most} no p is below {2 / math.factorial(most):.2g})" if 3 <= most < 7 else ""
        lines.append(
            f"Numbers and scores are compared over {over} model{'s' if most > 1 else ''}{least}: with fewer than "
            f"{FEW}, a rank correlation shows next to nothing, and a large one is likely to be chance."
        )
    else:
        lines.append(
            "A correlation over models is one of these models: they are no random sample, and those of one family "
            "are not independent."
        )
    if not table["exact"].all():
        lines.append(
            f"Over more than {EXACT} models p is of {PERMUTATIONS:,} random orders, otherwise of all orders."
        )
    if (several := table["score"].nunique()) > MOST_SCORES:
        lines.append(
            f"Figures, and the table of the models, have the first {MOST_SCORES} of {several} scores; "
            "agreement_points.csv has all of them."
        )
    named = {of.model for of in scores}
    used = {of.model for found in of_models.values() for of in found}
    if unused := sorted(named - used):
        lines.append(f"Scores of models that are not among the runs are left out: {some(unused)}.")
    called = model_names(runs)
    if lacking := sorted({called[key] for key, found in of_models.items() if not found}):
        lines.append(f"No score is known of {some(lacking)}.")
    guessed: dict[str, list[str]] = {}
    for key, found in of_models.items():
        for of in found:
            if of.low <= of.chance <= of.high:
                guessed.setdefault(f"{of.name} ({of.chance:.3g})", []).append(called[key])
    for score, models in guessed.items():
        lines.append(f"Not told from chance in {score}: {some(list(dict.fromkeys(models)))}.")
    unknown = sorted({str(of) for of in points.loc[points["parameters"].isna(), "called"]})
    if unknown and points["parameters"].notna().any():
        lines.append(
            f"The size of {some(unknown)} is not known, so parameters are not taken off; a column `parameters` of "
            "the scores can say it."
        )
    return lines


def paragraph(table: pd.DataFrame) -> str:
    """What belongs beside the correlations in a paper.

    Args:
        table: The correlations.

    Returns:
        Two or three sentences; empty where there are too few models.
    """
    tests = int(table["p"].notna().sum())
    if not tests:
        return ""
    n = f"{table['n'].min()}" if table["n"].nunique() == 1 else f"{table['n'].min()} to {table['n'].max()}"
    random = (
        "" if table["exact"].all() else f" ({PERMUTATIONS:,} random ones where there are more than {EXACT} models)"
    )
    beside = sorted({name for of in table["beside"] for name in of.split(", ") if name})
    off = f" Partial correlations take off {' and '.join(beside)} of the models, by ranks." if beside else ""
    named = some(list(dict.fromkeys(table["score"])))
    return (
        f"Numbers were set against scores ({named}) by Spearman's rank correlation over {n} models; p is two-sided, "
        f"of all orders of the models{random}, and q controls the false discovery rate over {tests} tests "
        f"(Benjamini and Hochberg).{off}"
    )


def some(names: Sequence[str], most: int = 8) -> str:
    """The first of some names, joined by commas, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
