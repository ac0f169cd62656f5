"""How to report a run: a paragraph with what a reader must know to compare its numbers with others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.alignment import LABELS
from mmerank.analysis.metrics.known import quantity
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.analysis.statistics.paired import ComparisonResult
from mmerank.report.cautions import mean_tokens
from mmerank.report.names import data_names, model_names
from mmerank.report.numbers import by_quantity
from mmerank.report.terminal.intervals import interval_text, q_text, unlike_note

_ERANK = (
    "An eRank is exp of the entropy of the spectrum of the covariance of an example's hidden states, each {centred} "
    "and scaled to unit length; a data set's is {aggregate} (Diff-eRank, arXiv:2401.17139)."
)
_CENTRED = {"mean": "centred on their mean", "median": "centred on their median", "none": "not centred"}
_AGGREGATE = {"entropy": "exp of the mean entropy over examples", "erank": "the mean of the examples' eRanks"}
_TOLD = ("centre", "aggregate")  # in words


def how_to_report(run: Finished) -> list[str]:
    """A paragraph for each model: n, convention, rows, intervals and nulls.

    Args:
        run: Any.

    Returns:
        Plain text.
    """
    called, data = model_names([run]), data_names([run.data])[run.data]
    return [_paragraph(run, model, called[run.name, model], data) for model in run.frames]


def how_to_report_comparison(comparison: ComparisonResult) -> str:
    """A paragraph for A against B: n, differences with intervals, tests.

    Args:
        comparison: Any.

    Returns:
        Plain text.
    """
    left = f", {comparison.unpaired} on one side only left out" if comparison.unpaired else ""
    on = ", on equally many rows" if comparison.matched else ""
    told = []
    for found in comparison.differences:
        known = quantity(found.quantity)
        limits = _limits(found.low, found.high, known.decimals, found.difference)
        tests = f", q {q_text(found.q)}" if math.isfinite(found.q) else ""
        told.append(f"{known.label} {found.difference:+.{known.decimals}f} {limits}".rstrip() + tests)
    swaps = f"all {comparison.permutations}" if comparison.exact else f"{comparison.permutations} random"
    control = {"bh": "Benjamini-Hochberg", "by": "Benjamini-Yekutieli"}[comparison.false_discovery]
    return (
        f"{comparison.a} minus {comparison.b}{on}, on the same examples (n = {comparison.n}{left}): {'; '.join(told)}"
        f"{_made(comparison.bootstrap) if comparison.n > 1 else ''}. Paired permutation tests, {swaps} swaps; q "
        f"after {control} over {comparison.tests} tests."
        + (f" Caution: {unlike_note(comparison.unlike)}." if comparison.unlike else "")
    )


def _paragraph(run: Finished, model: str, name: str, data: str) -> str:
    left_out = len(run.results.get(model, {}).get("skipped", []))
    n, version = run.n(model), run.settings.get("versions", {}).get("mmerank", "")
    n_text = f"n = {n} {run.kind.examples}" + (f", {left_out} left out" if left_out else "")
    convention = {k: v for k, v in run.convention.items() if k not in _TOLD}
    choices = ", ".join(f"{k.replace('_', ' ')} {_said(v)}" for k, v in convention.items())
    definition = _ERANK.format(
        centred=_CENTRED[run.convention.get("centre", "mean")], aggregate=_AGGREGATE[run.convention["aggregate"]]
    )
    return " ".join(
        filter(
            None,
            (
                f"{name} on {data} ({n_text}), measured with mmerank {version}".rstrip() + ".",
                definition,
                _rows(run, model),
                f"Convention: {choices}." if choices else "",
                _numbers(run, model, n),
                *_against(run, model),
            ),
        )
    )


def _rows(run: Finished, model: str) -> str:
    counts = mean_tokens(run, model)
    if run.job == "diff":
        return f"It stands on {counts['tokens']:.1f} tokens a text on average, which bound it."
    names = {label: LABELS.get(label, label) for label in counts}
    shown = ", ".join(f"{names[label]} {mean:.1f}" for label, mean in counts.items())
    matched = f"; beside them everything was measured on {k} rows each" if (k := run.match_tokens) else ""
    return f"Mean numbers of rows, which bound them: {shown}{matched}."


def _numbers(run: Finished, model: str, n: int) -> str:
    here = run.estimates
    here = here[(here["model"] == model) & (here["transform"] == "none") & here["point"].isin(["", "final"])]
    of = by_quantity(here)
    shown = [
        _number(of[name], name) for name in run.kind.told if name in of and of[name]["value"] == of[name]["value"]
    ]
    return f"{'; '.join(shown)}{_made(run.bootstrap) if n > 1 else ''}."


def _made(bootstrap: Bootstrap) -> str:
    return f" (in brackets: {100 * bootstrap.level:.4g} % intervals over examples, {bootstrap.resamples} resamples)"


def _number(row: Mapping[str, Any], name: str) -> str:
    known = quantity(name)
    limits = _limits(row["low"], row["high"], known.decimals, row["value"])
    return f"{known.label} {row['value']:.{known.decimals}f} {limits}".rstrip()


def _limits(low: float, high: float, decimals: int, value: float) -> str:
    return interval_text((low, high) if math.isfinite(low) and math.isfinite(high) else None, decimals, value)


def _against(run: Finished, model: str) -> list[str]:
    """What the numbers are held against."""
    if run.job == "diff":
        seeds = run.results.get(model, {}).get("seeds", [])
        drawn = f" of seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" if seeds else ""
        return [f"The untrained model has the same configuration and random weights{drawn}."]
    if run.kind.against:
        return [run.kind.against]
    name, of = "image_text_alignment", "alignment"
    if run.of_encoders:
        name, of = ("matched_cosine",) * 2 if "matched_cosine" in run.tests else ("erank_images", "embeddings")
    decimals = quantity(name).decimals
    found = []
    if run.perturbed:
        changes = [
            f"{transform} {test[name].difference:+.{decimals}f} "
            f"{_limits(test[name].low, test[name].high, decimals, test[name].difference)}, q {q_text(test[name].q)}"
            for transform, test in run.tests.get(of, {}).get(model, {}).items()
            if name not in test.fixed
        ]
        if changes:
            found.append(
                f"Changes of the {quantity(name).label}, on the same examples (paired tests, q over all tests of the "
                f"run): {'; '.join(changes)}."
            )
    if run.of_encoders:
        return found
    nulls = [
        f"{null.control}: {test.null_mean:.{decimals}f} ± {test.null_sd:.{decimals}f} over {test.draws} draws, "
        f"p = {test.p:.2g}"
        for null in run.nulls.get(model, ())
        if (test := null.tests.get(name)) is not None
    ]
    if nulls:
        found.append(f"{quantity(name).label} of pictures with other examples' texts: {'; '.join(nulls)}.")
    else:
        found.append(
            f"No null was measured, so the {quantity(name).label} cannot be told from that of pictures with other "
            "texts (`mmerank perturb --control mismatch` measures it)."
        )
    return found


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
