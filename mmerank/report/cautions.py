"""What a reader should know before concluding anything from the numbers of some runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any, TypeVar

from mmerank.analysis.alike import read_alike, repeated, repeated_text, unlike_rows, unlike_text
from mmerank.analysis.comparison import unlike_examples
from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.alignment import LABELS
from mmerank.analysis.metrics.matched import of_the_five, unmatched
from mmerank.analysis.metrics.rows import row_eranks, single_rows
from mmerank.analysis.statistics.bootstrap import ROUGH
from mmerank.eranks import ERANKS
from mmerank.errors import printable
from mmerank.report.examples import cut
from mmerank.report.marks import measured_by
from mmerank.report.names import model_names
from mmerank.report.numbers import skipped
from mmerank.runs.jobs import JOBS

# Mean numbers of rows that differ by more are not alike.
_ALIKE = 1.1
_SIGNIFICANT = 0.05
_NAMED = 3  # models in a sentence
_T = TypeVar("_T", int, str)


def cautions(runs: Sequence[Finished]) -> list[str]:
    """Sentences, the weightiest first.

    Args:
        runs: At least one.

    Returns:
        Plain text.
    """
    called = model_names(runs)
    found = [line for run in runs for line in _of_run(run, called)]
    found += _of_few(runs, called)
    against = {(run.content, model) for run in runs for model, nulls in run.nulls.items() if nulls}
    for job in JOBS:
        some = [run for run in runs if run.job == job]
        if some:
            found += _of_several(job, some, called, against)
    return list(dict.fromkeys(found))


def mean_tokens(run: Finished, model: str) -> dict[str, float]:
    """Mean number of rows behind each eRank of untouched examples; of a text, by the hook point.

    Args:
        run: Any.
        model: One of its models.

    Returns:
        By `erank1` .. `erank5`, or `tokens`; of encoders, at their last layers, `patches` and `tokens`.
    """
    records = run.of(model)
    if run.of_encoders:
        named = {"image": "patches", "text": "tokens"}
        last = [record for record in records if record.embedding is not None]
        sides = dict.fromkeys(record.input for record in last)
        return {named[side]: fmean(record.n for record in last if record.input == side) for side in sides}
    if run.job == "generate":
        return {kind: fmean(of.n for of in records if of.input == kind) for kind in ("prompt", "response")}
    if run.job == "prune-study":
        counts = {
            share: [of.n for of in records if of.point == "llm" and of.input.partition("#")[0] == name]
            for share, name in [
                ("all", "whole"),
                *((f"{keep:g} kept", f"random@{keep:g}") for keep in run.convention["keep"]),
            ]
        }
        return {share: fmean(of) for share, of in counts.items() if of}
    if run.job == "diff":
        return {"tokens": fmean(record.n for record in records if record.point == "final")}
    counts = {
        label: [record.n for record in records if (record.point, record.input) == where]
        for label, where in ERANKS.items()
    }
    return {label: fmean(of) for label, of in counts.items() if of}  # a model may not have all


def _of_run(run: Finished, called: dict[tuple[str, str], str]) -> Iterator[str]:
    for control, quantity, test in run.null_tests:
        if quantity != "image_text_alignment":
            continue
        if test.p > _SIGNIFICANT:
            few = least if (least := 2 / (test.draws + 1)) > _SIGNIFICANT else None
            yield (
                f"{run.name}: the Image-Text Alignment, {test.value:.4f}, is not told from that of pictures with "
                f"other examples' texts ({control}: {test.null_mean:.4f} on average, p = {test.p:.2g} with "
                f"{test.draws} draws{'' if few is None else f', which allow none below {few:.2g}'})."
            )
        elif test.value < test.null_mean:
            yield (
                f"{run.name}: the Image-Text Alignment, {test.value:.4f}, is lower than that of pictures with other "
                f"examples' texts ({control}: {test.null_mean:.4f} on average, p = {test.p:.2g})."
            )
    for tests in run.tests.get("alignment", {}).values() if run.job == "perturb" else ():
        first = next(iter(tests.values()), None)
        if first and first.exact and (least := min(1, 2 / 2**first.n)) >= _SIGNIFICANT:
            yield f"{run.name}: no change can be told from chance: {first.n} examples allow no p below {least:.2g}."
    for finished, models in _alike(run, called, {model: int(model in run.results) for model in run.frames}):
        if not finished:
            yield (
                f"{run.name}: the run of {models} was not finished (no summary), so the numbers stand on what it had "
                "measured, and what it skipped is not known. The command that began it continues it."
            )
    cut = {model: result.get("text_cut", 0) for model, result in run.results.items() if model in run.frames}
    for count, models in _alike(run, called, cut):
        if count:
            yield f"{run.name}: {count} text{'s were' if count > 1 else ' was'} cut at the limit of {models}."
    for drawn, models in _alike(run, called, {model: _default(run.results.get(model, {})) for model in run.frames}):
        if drawn:
            yield (
                f"{run.name}: the config.json of {models} does not state what untrained weights are drawn with; a "
                f"default, {drawn}, was taken, and Diff-eRank depends on it (--init-range takes others)."
            )
    if twice := next((found for model in run.frames if (found := repeated(run.of(model)))), None):
        yield f"{run.name}: {repeated_text(twice)}."
    for model in run.frames:
        yield from _of_rows(run, model, called[run.name, model])
    if left := len({name for _, name, _ in skipped(run)}):
        yield f"{run.name}: {left} example{'s were' if left > 1 else ' was'} skipped; the reasons stand below."


def _of_few(runs: Sequence[Finished], called: dict[tuple[str, str], str]) -> Iterator[str]:
    """Each small number of examples once, with the runs and models that stand on it."""
    found: dict[int, list[tuple[str, str]]] = {}
    for run in runs:
        for model in run.frames:
            found.setdefault(run.n(model), []).append((run.name, called[run.name, model]))
    for n, of in found.items():
        if n < ROUGH:
            tail = "has no intervals: they need 2" if n < 2 else "is few: intervals are rough"
            where, models = (sorted({*names}) for names in zip(*of, strict=True))
            yield f"{_listed(where)}: n = {n} example{'s' if n > 1 else ''} of {_listed(models)} {tail}."


def _default(result: Mapping[str, Any]) -> str:
    """What twins were drawn with where that was a default of the library; else empty."""
    drawn = result.get("initialisation", {})
    if drawn.get("stated") is not False:
        return ""
    return ", ".join(f"{name} {value:g}" for name, value in drawn.items() if name != "stated")


def _of_rows(run: Finished, model: str, name: str) -> Iterator[str]:
    """What one row decides, and what equally many rows leave out."""
    records = run.of(model) if run.job != "diff" else []
    if run.convention.get("rows"):
        for label, change, token, count in single_rows(row_eranks(records, aggregate=run.convention["aggregate"])):
            yield (
                f"{run.name}: without one row {LABELS[label]} of {name} changes by {change:+.0%}; in {count} of "
                f"{run.n(model)} examples the row is {cut(printable(token))}."
            )
    if run.match_tokens is not None and (short := unmatched(records)):
        yield (
            f"{run.name}: {len(short)} of {run.n(model)} examples of {name} have fewer than {run.match_tokens} rows "
            f"somewhere, and are not among the numbers on {run.match_tokens} rows each; "
            f"{min(record.n for record in of_the_five(records))} rows would leave none out."
        )


def _alike(run: Finished, called: dict[tuple[str, str], str], of: Mapping[str, _T]) -> list[tuple[_T, str]]:
    """Each value once, with the models that it is of."""
    found: dict[_T, list[str]] = {}
    for model, number in of.items():
        found.setdefault(number, []).append(called[run.name, model])
    return [(number, _listed(names)) for number, names in found.items()]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _same_data(first: Finished, second: Finished) -> bool:
    one, other = (next(iter(run.frames.values())) for run in (first, second))
    same = first.settings["data"].get("fingerprint") == second.settings["data"].get("fingerprint")
    return bool(same) and unlike_examples(one, other) is None


def _of_unlike_examples(title: str, runs: Sequence[Finished], called: dict[tuple[str, str], str]) -> Iterator[str]:
    """Models of one data set that do not stand on the same examples of it."""
    counts: dict[str, dict[frozenset[str], list[str]]] = {}
    for run in runs:
        content = run.content
        for model in run.frames:
            examples = frozenset(record.example for record in run.of(model))
            counts.setdefault(content, {}).setdefault(examples, []).append(called[run.name, model])
    for found in counts.values():
        if len(found) > 1:
            listed = "; ".join(f"{_listed(models)}: {len(examples)}" for examples, models in found.items())
            yield (
                f"{title}: the models stand on different examples of one data set ({listed}), so their numbers "
                "differ for that too; only the marks † are of the examples they share."
            )


def _of_unlike_rows(
    title: str, models: Sequence[tuple[Finished, str]], called: dict[tuple[str, str], str]
) -> Iterator[str]:
    """Models that read the same examples, or pictures of different data sets, as different numbers of rows."""
    of_data: dict[str, list[tuple[Finished, str]]] = {}
    for run, model in models:
        of_data.setdefault(run.content, []).append((run, model))
    told = False
    for some in of_data.values():
        if unlike := unlike_rows([run.of(model) for run, model in some]):
            told = True
            names = [called[run.name, model] for run, model in some]
            matched = all(run.match_tokens is not None for run, _ in some)
            yield f"{title}: {unlike_text(unlike, names)}. " + (
                "Of these, hold only the numbers on equally many rows against each other."
                if matched
                else "--match-tokens puts them on equally many."
            )
    tokens = {called[run.name, model]: mean_tokens(run, model)["erank1"] for run, model in models}
    if not told and max(tokens.values()) > _ALIKE * min(tokens.values()):
        listed = ", ".join(f"{model} {count:.0f}" for model, count in tokens.items())
        yield (
            f"{title}: eRank mostly follows the number of tokens, and the models have different numbers of image "
            f"tokens ({listed}). --match-tokens puts them on equally many."
        )


def _of_several(
    job: str, runs: Sequence[Finished], called: dict[tuple[str, str], str], against: Collection[tuple[str, str]]
) -> Iterator[str]:
    kind = JOBS[job]
    title = kind.title
    conventions = [measured_by(run.convention) for run in runs]
    choices = dict.fromkeys(name for convention in conventions for name in convention)
    if unlike := [name for name in choices if len({str(convention.get(name)) for convention in conventions}) > 1]:
        yield (
            f"{title}: the runs were made under different conventions ({', '.join(unlike)}), so their numbers differ "
            "for that too."
        )
    if len({json.dumps(run.settings.get("versions"), sort_keys=True) for run in runs}) > 1:
        yield f"{title}: the runs were made with different versions of mmerank or of its libraries."
    for first, second in combinations(runs, 2):
        if first.data == second.data and not _same_data(first, second):
            yield (
                f"{title}: {first.data} had other content in {first.name} than in {second.name}, so that nothing "
                "compares them."
            )
    yield from _of_unlike_examples(title, runs, called)
    models = [(run, model) for run in runs for model in run.frames]
    if kind.of_encoders:
        if len({run.n(model) for run, model in models}) > 1:
            yield f"{title}: eRanks of embeddings and retrieval follow the number of examples, which differ."
    if kind.caution:
        yield f"{title}: {kind.caution}"
        return
    if job == "diff":
        of_data: dict[str, list[tuple[Finished, str]]] = {}
        for run, model in models:
            of_data.setdefault(run.content, []).append((run, model))
        for some in of_data.values():
            if not read_alike([run.of(model) for run, model in some]):
                listed = _listed([called[run.name, model] for run, model in some])
                yield (
                    f"{title}: {listed} read the same texts as different numbers of tokens, so neither losses per "
                    "token nor eRanks of one are comparable with another's, and none is marked as the best; hold "
                    "each against its own untrained model."
                )
        if len(models) > 1:
            yield (
                "Diff-eRank: wider untrained models have higher eRanks, so a Diff-eRank that rises with size may "
                "rise for that alone; read both eRanks and their ratio too."
            )
        return
    yield from _of_unlike_rows(title, models, called)
    if not all((run.content, model) in against for run, model in models):
        yield (
            f"{title}: the Image-Text Alignment has no null of its own: unrelated image and text tokens scored 0.67 "
            "to 0.93 in simulations and less in some models; 1/3 is the least possible. `mmerank perturb --control "
            "mismatch` measures what it would be here."
        )
