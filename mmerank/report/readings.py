"""What can be read from the numbers of some runs, in sentences: the answers that people look for first."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.matched import MATCHED
from mmerank.analysis.row_map import mapped
from mmerank.analysis.statistics.null import NullTest
from mmerank.eranks import ERANKS
from mmerank.report.marks import alike_by, drawn_by
from mmerank.report.names import data_names, model_names
from mmerank.report.terminal.intervals import interval_text, q_text
from mmerank.report.terminal.perturbation import ALPHA, told_from_zero
from mmerank.report.terminal.summary import listed, ordered_effects, place

_ALIGNMENT = "image_text_alignment"
_NAMED = 4  # transforms in a sentence each
_EACH = 3  # models that are held against the best in a sentence each


def readings(runs: Sequence[Finished], numbers: pd.DataFrame) -> list[str]:
    """Sentences, in the order of the page.

    Args:
        runs: At least one.
        numbers: From `mmerank.report.numbers.all_numbers`.

    Returns:
        Plain text; nothing where the numbers answer none of these questions.
    """
    called, data = model_names(runs), data_names(run.data for run in runs)
    found = list(_aligned(runs, numbers, called, data))
    several = sum(len(of.frames) for of in runs) > 1
    for run in runs:
        on = f" on {data[run.data]}" if len(data) > 1 else ""
        for model in run.frames:
            front = f"{called[run.name, model]}{on}: " if several else ""
            found += [front + line for line in (*_changed(run, model), *_mapped(run, model))]
    return list(dict.fromkeys(found))


def _minus(text: str) -> str:
    """Signs of numbers as they are printed."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)


def _aligned(
    runs: Sequence[Finished], numbers: pd.DataFrame, called: dict[tuple[str, str], str], data: dict[str, str]
) -> Iterator[str]:
    """Which model has the highest Image-Text Alignment, where that can be said, and what it is of unrelated pairs."""
    plain = numbers["quantity"].str.removeprefix(MATCHED).eq(_ALIGNMENT) & numbers["transform"].eq("none")
    here = numbers[plain & numbers["value"].notna()]
    for (of_data, _, on_rows), rows in here.groupby(["data", "job", "rows"], sort=False):
        on = f" of {data[str(of_data)]}" if here["data"].nunique() > 1 else ""
        marked = rows[rows["mark"] != ""]
        if marked.empty:
            if rows["model"].nunique() > 1 and not here.loc[here["data"] == of_data, "mark"].any():
                yield (
                    f"Which model is more aligned{on} cannot be said from these numbers: they stand on different "
                    "numbers of rows or were not measured alike. `--match-tokens` puts them on equally many."
                )
            continue
        best = marked[marked["mark"] == "best"].iloc[0]
        others = marked[marked["mark"] != "best"]
        name = called[str(best["run"]), str(best["model"])]
        on = ("" if on_rows == "all" else f" on {on_rows} rows each") + on
        if others.empty:
            continue
        n = f" (n = {marked['n'].min()})"
        if len(others) > _EACH:
            yield _in_short(name, best, others, called, on + n)
        for other in others.to_dict("records") if len(others) <= _EACH else ():
            names = name, called[str(other["run"]), str(other["model"])]
            told = "{} has a higher one than {}" if other["mark"] == "other" else "{} and {} are not told apart"
            yield (
                f"By the Image-Text Alignment{on}{n}, {told.format(*names)}: {_number(best)} against "
                f"{_number(other)}, a difference of {_behind(other)}, {_q(other)}."
            )
        yield _unrelated(runs, marked, called, on)


def _behind(of: Mapping[Hashable, Any]) -> str:
    """By how much the best leads, with the interval of that."""
    value, low, high = -of["from_best"], -of["from_best_high"], -of["from_best_low"]
    return _minus(f"{value:+.4f} {interval_text((low, high), 4, value)}")


def _q(of: Mapping[Hashable, Any]) -> str:
    q = q_text(of["q"])
    return f"q {'' if q.startswith('<') else '= '}{q} over {of['tests']} tests"


def _in_short(
    name: str, best: pd.Series, others: pd.DataFrame, called: dict[tuple[str, str], str], where: str
) -> str:
    """The best of many models, those that are not told from it, and how many are."""
    below = others[others["mark"] == "other"]
    tied = [called[str(of["run"]), str(of["model"])] for of in others[others["mark"] != "other"].to_dict("records")]
    said = f"{name} has the highest Image-Text Alignment{where}: {_number(best)}"
    if len(below):
        worst = below.sort_values("value").iloc[0]
        said += (
            f"; it is lower in {len(below)} of the other {len(others)} models (q < {ALPHA} over "
            f"{others['tests'].max()} tests), the lowest in "
            f"{called[str(worst['run']), str(worst['model'])]}: {_number(worst)}"
        )
    return said + (f"; not told from it: {', '.join(tied)}." if tied else ".")


def _unrelated(runs: Sequence[Finished], marked: pd.DataFrame, called: dict[tuple[str, str], str], where: str) -> str:
    """What the number is of pictures with other texts, as far as a run of the report has it, on the same rows."""
    found, without = [], []
    for row in marked.to_dict("records"):
        name = called[str(row["run"]), str(row["model"])]
        tests = list(_null_tests(runs, row))
        found += [f"{name} {test.null_mean:.4f} (here {test.value:.4f}, p = {test.p:.2g})" for test in tests]
        without += [] if tests else [name]
    if not found:
        return (
            "What the Image-Text Alignment is with other examples' texts was not measured "
            "(`mmerank perturb --control mismatch`)."
        )
    rest = f"; not measured of {', '.join(without)}" if without else ""
    told = "; ".join(dict.fromkeys(found))
    return f"With other examples' texts the Image-Text Alignment{where} is, on average over draws: {told}{rest}."


def _null_tests(runs: Sequence[Finished], row: Mapping[Hashable, Any]) -> Iterator[NullTest]:
    of = next(run for run in runs if run.name == row["run"])
    on_equal = row["rows"] != "all"
    for run in runs:
        if alike_by(run) != alike_by(of) or (on_equal and drawn_by(run) != drawn_by(of)):
            continue
        for null in (run.nulls_matched if on_equal else run.nulls).get(row["model"], ()):
            if (test := null.tests.get(_ALIGNMENT)) is not None:
                yield test


def _number(of: pd.Series | dict) -> str:  # type: ignore[type-arg]
    limits = (float(of["low"]), float(of["high"]))
    interval = interval_text(limits, 4, of["value"]) if limits[0] == limits[0] else ""
    return f"{of['value']:.4f} {interval}".rstrip()


def _changed(run: Finished, model: str) -> Iterator[str]:
    """Where transforms act, the largest effects first."""
    tests = run.tests.get("alignment", {}).get(model, {}) if run.job == "perturb" else {}
    effects = ordered_effects(tests, tuple(ERANKS))
    told = {name: [of for of in found if told_from_zero(of)] for name, found in effects.items()}
    acting = [name for name, found in told.items() if found]
    for name in acting[:_NAMED]:
        first = told[name][0]
        rest = f", and is told from 0 at {listed([of.quantity for of in told[name]])}" if told[name][1:] else ""
        change = f"{first.difference:+.2f} {interval_text((first.low, first.high), 2, first.difference)}"
        told_so = _minus(f"{change} (d_z {first.d_z:+.2f}, q {q_text(first.q)})")
        yield f"{name} acts most at {place(first.quantity)}, by {told_so}{rest}."
    if still := [name for name in effects if name not in acting]:
        yield f"No eRank is told from its base under {', '.join(still)}."


def _mapped(run: Finished, model: str) -> Iterator[str]:
    """Which rows carry the rank."""
    if not run.convention.get("patches"):
        return
    told = [
        f"{found['decisive_of_picture']} of {found['measured']} examples at {place(label)}"
        for label, found in mapped(run.of(model)).items()
        if found["measured"]
    ]
    if told:
        yield (
            f"the row that decides is a patch in {', in '.join(told)}; elsewhere it is a token of the text or the "
            "template. Which patches carry the rank of an example is seen under Where the rank lies: the blue ones."
        )
