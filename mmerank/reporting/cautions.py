"""What a reader should know before concluding anything from the numbers of some runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from statistics import fmean

import pandas as pd

from mmerank.analysis.bootstrap import ROUGH
from mmerank.analysis.null import NullTest, null_test
from mmerank.eranks import ERANKS
from mmerank.reporting.finished import JOBS, Finished
from mmerank.reporting.numbers import measured_by, skipped

# Mean numbers of rows that differ by more are not alike.
_ALIKE = 1.1
_SIGNIFICANT = 0.05


def cautions(runs: Sequence[Finished], numbers: pd.DataFrame) -> list[str]:
    """Sentences, the weightiest first.

    Args:
        runs: At least one.
        numbers: From `mmerank.reporting.numbers.all_numbers`.

    Returns:
        Plain text.
    """
    found = [line for run in runs for line in _of_run(run)]
    for job in JOBS:
        some = [run for run in runs if run.job == job]
        if some:
            found += _of_several(job, some, numbers)
    return list(dict.fromkeys(found))


def nulls(run: Finished) -> list[tuple[str, str, NullTest]]:
    """Control, quantity and test of a perturbation's eRank5 and Image-Text Alignment against other examples' texts.

    Args:
        run: Any; one without controls has none.

    Returns:
        One per control and quantity.
    """
    return [
        (str(control["control"]), quantity, null_test(found["value"], found["null"]))
        for control in run.controls
        for quantity in ("erank5", "image_text_alignment")
        if (found := control.get(quantity)) and found["null"]
    ]


def mean_tokens(run: Finished, model: str) -> dict[str, float]:
    """Mean number of rows behind each eRank of untouched examples; of a text, by the hook point.

    Args:
        run: Any.
        model: One of its models.

    Returns:
        By `erank1` .. `erank5`, or `tokens`.
    """
    records = run.of(model)
    if run.job == "diff":
        return {"tokens": fmean(record.n for record in records if record.point == "final")}
    return {
        label: fmean(record.n for record in records if (record.point, record.input) == where)
        for label, where in ERANKS.items()
    }


def _of_run(run: Finished) -> Iterator[str]:
    for control, quantity, test in nulls(run):
        if quantity == "image_text_alignment" and test.p >= _SIGNIFICANT:
            yield (
                f"{run.name}: the Image-Text Alignment, {test.value:.4f}, is not told from that of pictures with "
                f"other examples' texts ({control}: {test.null_mean:.4f} on average, p = {test.p:.2g} with "
                f"{test.draws} draws)."
            )
    for model in run.frames:
        n = run.n(model)
        if n < ROUGH:
            tail = "has no intervals: they need 2" if n < 2 else "is few: intervals are rough"
            yield f"{run.name}: n = {n} example{'s' if n > 1 else ''} of {model} {tail}."
        result = run.results.get(model)
        if result is None:
            yield (
                f"{run.name}: the run of {model} was not finished (no summary), so the numbers stand on what it had "
                "measured, and what it skipped is not known. The command that began it continues it."
            )
        elif result.get("text_cut"):
            yield f"{run.name}: {result['text_cut']} texts of {model} were cut at the model's limit."
    if left := len({name for _, name, _ in skipped(run)}):
        yield f"{run.name}: {left} example{'s were' if left > 1 else ' was'} skipped; the reasons stand below."


def _of_several(job: str, runs: Sequence[Finished], numbers: pd.DataFrame) -> Iterator[str]:
    title = JOBS[job]
    if len({json.dumps(measured_by(run.convention), sort_keys=True) for run in runs}) > 1:
        yield f"{title}: the runs were made under different conventions, so their numbers differ for that too."
    if len({json.dumps(run.settings.get("versions"), sort_keys=True) for run in runs}) > 1:
        yield f"{title}: the runs were made with different versions of mmerank or of its libraries."
    models = [(run, model) for run in runs for model in run.frames]
    if job == "diff":
        if len(models) > 1:
            yield (
                "Diff-eRank: wider untrained models have higher eRanks, so a Diff-eRank that rises with size may "
                "rise for that alone; read both eRanks and their ratio too."
            )
        return
    tokens = {model: mean_tokens(run, model)["erank1"] for run, model in models}
    if max(tokens.values()) > _ALIKE * min(tokens.values()) and not all(
        run.convention.get("match_tokens") for run in runs
    ):
        listed = ", ".join(f"{model} {count:.0f}" for model, count in tokens.items())
        yield (
            f"{title}: eRank mostly follows the number of tokens, and the models have different numbers of image "
            f"tokens ({listed}). --match-tokens puts them on equally many."
        )
    if not any(nulls(run) for run in runs):
        yield (
            f"{title}: the Image-Text Alignment has no null of its own; unrelated image and text tokens scored "
            "0.67 to 0.93 in simulations. mmerank perturb --control mismatch measures what it would be here."
        )
