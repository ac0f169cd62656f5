"""Diff-eRank of language models: trained against untrained, on the same texts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import starmap
from pathlib import Path
from typing import Any

from mmerank.analysis.finished import Finished
from mmerank.analysis.results.diff import DiffResult
from mmerank.computing import Computing
from mmerank.convention import TextConvention
from mmerank.engine.collect import collect
from mmerank.engine.plans.texts import Prepared, Texts
from mmerank.engine.probe import Probe
from mmerank.eranks import FINAL, update_points
from mmerank.errors import DataError, RunFolderError, UsageError
from mmerank.formulas.asked import Given, stated_metrics, with_metrics
from mmerank.inputs.contents import content_of
from mmerank.inputs.example import Example, Skipped, check_examples, first_reason, kept, name_of
from mmerank.inputs.selection import ALL, Selection
from mmerank.jobs.shown import Result, as_run
from mmerank.jobs.twins import (
    Measure,
    built_when_needed,
    full_twin_name,
    measured_examples,
    twin_cache,
    twin_name,
    twin_source,
)
from mmerank.models.identity import INITIALISATION, KNOWN_BY, identity
from mmerank.models.initialisation import initialisation, named
from mmerank.models.layers import layer_points
from mmerank.models.loading import TextAdapter, check_text_adapter
from mmerank.models.updates import block_paths
from mmerank.runs.cache import without_cache
from mmerank.runs.folder import RunFolder, open_run
from mmerank.runs.record import Record


class Diff(Result, DiffResult):
    """Diff-eRank and reduced loss of one model on one set of texts, and what they stand on."""

    @cached_property
    def _runs(self) -> list[Finished]:
        right = {
            "accuracy": {task: found.value for task, found in self.accuracy.items()},
            "accuracy_n": {task: found.n for task, found in self.accuracy.items()},
        }
        return [as_run("diff", self, self.records, seeds=list(self.seeds), **right)]

    def _in_short(self) -> dict[str, Any]:
        numbers = {"diff_erank": round(self.diff_erank, 2), "reduced_loss": round(self.reduced_loss, 3)}
        return {"model": self.name or self.model, "data": self.data, "n": self.n, **numbers}

    def __str__(self) -> str:
        from mmerank.report.terminal.diff import diff_text

        return diff_text([self])


def diff(
    adapter: TextAdapter,
    examples: Iterable[Example | Skipped],
    *,
    convention: TextConvention | None = None,
    layers: str = "",
    inside: str = "",
    seeds: Sequence[int] = (0,),
    limit: int | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    strict: bool = False,
    out: str | Path | RunFolder | None = None,
    cache: str | Path | None = None,
    untrained: Diff | None = None,
    trained: Diff | None = None,
    init_range: float | None = None,
    loss: bool = True,
    last_use: bool = False,
    progress: bool = False,
    metrics: Iterable[Given] = (),
) -> Diff:
    """Diff-eRank and reduced loss of a language model.

    Diff-eRank (arXiv:2401.17139), Def. 3.5 and Sec. 4.1.2. The untrained twins have the same configuration and
    random weights, one for each of `seeds`; trained model and twins see the same texts.

    Args:
        adapter: A trained model, from `mmerank.load_text`.
        examples: From `mmerank.load_data`, or any iterable of `mmerank.Example`; the pictures are not used.
        convention: The choices the paper leaves open.
        layers: Further layers to look at, see `mmerank.models.layers.layer_points`.
        inside: Blocks whose updates of the residual stream are measured, by attention and by the MLP: `all`, `first`,
            `middle`, `last` and numbers from 1 on, joined by commas.
        seeds: Of the untrained twins.
        limit: Use this many of the texts: the first ones, or with `seed` a random sample.
        seed: Of the sample.
        batch_tokens: Most positions in a batch, padding included. Default: one text a batch on a CPU, 8192
            tokens elsewhere, fewer with many layers.
        strict: Raise at the first text that cannot be measured, in place of skipping it.
        out: A run folder; when it exists, only what it lacks is measured.
        cache: Folder in which the twins' records are kept between runs, by configuration, seed, mode, data and
            convention: of several checkpoints of a configuration only the first builds them. Default: none. One
            that cannot be used costs a warning and time.
        untrained: An earlier result of the same configuration, texts, convention, layers, blocks and seeds; its
            twins' records are taken, and no twin is built.
        trained: An earlier result of the same model, texts, convention, layers and blocks; its records are taken, and
            only the twins are measured, as with another `init_range`.
        init_range: Standard deviation with which the twins' weights are drawn, in place of the `initializer_range`
            (`init_std`, ...) of the configuration. It stands in the names of model and twins. Default: what the
            configuration says, or else transformers; `initialisation` of the result says which.
        loss: Whether losses are computed beside the eRanks. Without them the LM head is not run, and all losses of
            the result are NaN.
        last_use: Whether `adapter` is not needed afterwards: its weights are freed before a twin is built, so that
            memory holds one of the two, and it cannot be used again. Default: both are held.
        progress: Show progress bars on stderr.
        metrics: Also these, by name, or functions of your own; see `mmerank.formulas.asked.asked_for`.

    Returns:
        The numbers, with all records.

    Raises:
        UsageError: `seeds` is empty or repeats one, a layer or block is unknown, `untrained` or `trained` is of
            something else, or the model is not drawn with an `init_range`.
        DataError: No text could be measured, or one was skipped and `strict` is set.
        RunFolderError: `out` holds a run with other settings.
        TypeError: `adapter` is not a loaded language model, or `examples` no iterable of examples.
    """
    convention = with_metrics(convention or TextConvention(), metrics)
    computing = Computing(batch_tokens=batch_tokens, strict=strict, progress=progress)
    check_text_adapter(adapter)
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"expected one or more different seeds of untrained models, got {list(seeds)}")
    try:
        points = layer_points(adapter.layers, layers, last=FINAL)
    except ValueError as error:
        raise UsageError(f"{adapter.name}: {error}") from None
    check_examples(examples)
    examples = kept(examples)
    name = name_of(examples)
    selection = Selection(limit, seed)
    entries = selection.held(examples)
    updates = update_points(block_paths(adapter.model, adapter.layers, inside, adapter.name))
    settings = _settings(convention, layers, loss, inside)
    known, called = identity(adapter), adapter.name
    drawn = initialisation(adapter, init_range)
    if trained is not None:
        _check_trained(trained, known, name, convention, [*points, *updates], loss and adapter.predicts_next)
    if init_range is not None:
        called = f"{called}, {named(drawn)}"
        known[KNOWN_BY] = {**known[KNOWN_BY], INITIALISATION: drawn}
    twins = {twin_seed: twin_source(known, twin_seed) for twin_seed in seeds}
    if untrained is not None:
        _check_same(untrained, adapter, name, convention, [*points, *updates], twins, loss)
    own_folder = out is not None and not isinstance(out, RunFolder)
    if out is not None and not isinstance(out, RunFolder):
        out = open_diff_run(out, examples, convention, layers=layers, inside=inside, selection=selection, loss=loss)

    def probe(
        model: TextAdapter, called: str, source: Mapping[str, Any], dropout: int | None = None
    ) -> Probe[Prepared, Prepared]:
        return Probe(Texts(model, convention, points, loss, dropout, inside), computing, called, source)

    def collected(
        measure: Measure,
        texts: Sequence[Example | Skipped],
        called: str,
        source: dict[str, Any],
        folder: RunFolder | None,
    ) -> _Collected:
        if folder is not None:
            folder.add_model(called, source)
        return collect(measure, texts, model=called, job="diff", folder=folder, computing=computing)

    def with_cache(measure: Measure, texts: Sequence[Example], called: str, source: dict[str, Any]) -> _Collected:
        if cache is not None:
            try:
                return collected(measure, texts, called, source, twin_cache(Path(cache), called, texts, settings))
            except RunFolderError as error:
                warnings.warn(without_cache(Path(cache), error), stacklevel=3)
        return collected(measure, texts, called, source, out)

    if trained is not None:
        runs = [_trained_of(trained, entries, called)]
        if out is not None:
            out.add_model(called, known)
            out.adopt(called, runs[0][0])
    else:
        runs = [collected(probe(adapter, called, known).measure, entries, called, known, out)]
    if untrained is not None:
        runs += _twins_of(untrained, seeds, runs[0])
    else:
        texts = measured_examples(entries, runs[0][0])
        for twin_seed, source in twins.items():
            twin = full_twin_name(twin_seed, source)
            dropout = twin_seed if convention.untrained_mode == "train" else None
            measuring = partial(probe, called=twin, source=source, dropout=dropout)
            measure = built_when_needed(adapter, twin_seed, measuring, last_use=last_use, init_range=init_range)
            runs.append(with_cache(measure, texts, twin, source))
            if out is not None and cache is not None:
                out.add_model(twin, source)
                out.adopt(twin, runs[-1][0])
    result = _result(called, known, name, convention, tuple(seeds), runs, selection)
    result = replace(result, initialisation=drawn)
    if own_folder and isinstance(out, RunFolder):
        out.write_summary({"results": [result.to_dict()]})
    return result


def open_diff_run(
    out: str | Path,
    examples: Iterable[Example | Skipped],
    convention: TextConvention,
    *,
    layers: str,
    inside: str = "",
    selection: Selection = ALL,
    loss: bool = True,
) -> RunFolder:
    """The run folder for these settings, new or continued. Arguments and errors as in `diff`."""
    return open_run(out, "diff", examples, _settings(convention, layers, loss, inside), selection=selection)


def _settings(convention: TextConvention, layers: str, loss: bool, inside: str) -> dict[str, Any]:
    """What records of the same texts must share to stand in one folder."""
    stated = {"convention": convention.to_dict(), "layers": layers, **stated_metrics(convention.metrics)}
    stated |= {"inside": inside} if inside else {}
    return stated if loss else {**stated, "loss": False}


_Collected = tuple[list[Record], list[Skipped]]


def _result(
    model: str,
    known: dict[str, Any],
    name: str,
    convention: TextConvention,
    seeds: tuple[int, ...],
    runs: list[_Collected],
    selection: Selection,
) -> Diff:
    """The numbers over the texts that every model could measure."""
    common = set.intersection(*({record.example for record in records} for records, _ in runs))
    skips = {entry.id: entry for _, skipped in runs for entry in skipped if entry.id not in common}
    # A repeated id is skipped, while the first text of that id is measured.
    repeated = [entry for entry in runs[0][1] if entry.id in common]
    skipped = (*skips.values(), *repeated)
    if not common:
        raise DataError(f"{name}: no text could be measured, {len(skipped)} skipped{first_reason(skipped)}")
    return Diff.of(
        [record for records, _ in runs for record in records if record.example in common],
        skipped,
        model=model,
        data=name,
        convention=convention,
        seeds=seeds,
        source=known,
        selection=selection,
    )


def _check_trained(
    trained: Diff,
    known: Mapping[str, Any],
    name: str,
    convention: TextConvention,
    points: list[str],
    loss: bool,
) -> None:
    """UsageError where an earlier result is not of the trained model that would be measured now."""
    there = {**trained.source, KNOWN_BY: {k: v for k, v in trained.source[KNOWN_BY].items() if k != INITIALISATION}}
    for word, before, now in (
        ("model", there, dict(known)),
        ("data set", trained.data, name),
        ("convention", trained.convention, convention),
        ("choice of layers", _points_of(trained), sorted(points)),
        ("choice of losses", not math.isnan(trained.loss_trained), loss),
    ):
        if before != now:
            raise UsageError(f"trained is a result of another {word}: {before} there, {now} here")


def _trained_of(trained: Diff, entries: Sequence[Example | Skipped], called: str) -> _Collected:
    """What was measured of the trained model of an earlier result, under another name."""
    records = [replace(r, model=called) for r in trained.records if r.model == trained.model]
    digests = {r.example: r.text_digest for r in records}
    for entry in entries:
        if isinstance(entry, Example) and digests.pop(entry.id, None) not in (None, content_of(entry).text_digest):
            raise UsageError(f"trained is a result of other texts: that of {entry.id!r} is another one here")
    if digests:
        raise UsageError(f"trained is a result of other texts: {next(iter(digests))!r} is not among these")
    return records, list(trained.skipped)


def _check_same(
    untrained: Diff,
    adapter: TextAdapter,
    name: str,
    convention: TextConvention,
    points: list[str],
    twins: Mapping[int, Mapping[str, Any]],
    loss: bool,
) -> None:
    """UsageError where the twins of an earlier result are not those that would be measured now."""
    for word, there, here in (
        ("data set", untrained.data, name),
        ("convention", untrained.convention, convention),
        ("choice of layers", _points_of(untrained), sorted(points)),
        ("choice of seeds", untrained.seeds, tuple(twins)),
        ("choice of losses", not math.isnan(untrained.loss_trained), loss and adapter.predicts_next),
        ("configuration, tokenizer or dtype", _twin_names(untrained), [*starmap(full_twin_name, twins.items())]),
    ):
        if there != here:
            raise UsageError(f"untrained is a result of another {word}: {there} there, {here} here")


def _points_of(of: Diff) -> list[str]:
    """Every hook point at which it was measured."""
    return sorted({record.point for record in of.records})


def _twin_names(of: Diff) -> list[str]:
    """One a seed, in the order of the seeds."""
    found = {record.model for record in of.records}
    return [name for seed in of.seeds for name in sorted(found) if name.startswith(twin_name(seed))]


def _twins_of(untrained: Diff, seeds: Sequence[int], trained: _Collected) -> list[_Collected]:
    """What was measured of the twins of an earlier result, one entry a seed."""
    digests = {record.example: record.text_digest for record in trained[0]}
    for record in untrained.records:
        if digests.get(record.example, record.text_digest) != record.text_digest:
            raise UsageError(f"untrained is a result of other texts: that of {record.example!r} is another one here")
    return [
        ([r for r in untrained.records if r.model.startswith(twin_name(seed))], list(untrained.skipped))
        for seed in seeds
    ]
