"""The text tables: Diff-eRank, losses and accuracy of language models, beside the printed numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from mmerank.convention import TextConvention, UntrainedMode
from mmerank.inputs.example import DataSet
from mmerank.inputs.load import load_data
from mmerank.inputs.selection import Selection
from mmerank.jobs.accuracy import ACCURACY, accuracies, check_tasks, fetch_questions
from mmerank.jobs.diff import Diff, diff, open_diff_run
from mmerank.jobs.paper.comparison import Compared
from mmerank.jobs.paper.studies import Job
from mmerank.models.identity import identity
from mmerank.models.loading import TextAdapter, check_text_model, load_text
from mmerank.report.paper import tables as paper
from mmerank.runs.cache import cache_folder
from mmerank.runs.folder import RunFolder
from mmerank.runs.record import Record

Numbers = Iterator[tuple[str, float, float]]  # label, ours, the paper's

# The published code leaves dropout on in the untrained model, so both are measured.
DROPOUT: dict[UntrainedMode, str] = {"eval": "off", "train": "on"}


class TextTable:
    """The measurements of one job; everything that can be refused before a model is loaded is.

    Args:
        job: What to measure.
        out: Where run folders are kept, one for each data set, mode, choice of layers and number of texts.
        dtype: Default: float32, as in the published code.
        device: As for `mmerank.load_text`.
        batch_tokens: As for `mmerank.diff`.
        accuracy_limit: Use this many questions of each task.

    Raises:
        UsageError: A task or data set is unknown.
        DataError: A data set is missing.
        ModelError: There is no such checkpoint.
        RunFolderError: `out` holds another run.
    """

    def __init__(
        self,
        job: Job,
        out: Path,
        *,
        dtype: str | None = None,
        device: str | None = None,
        batch_tokens: int | None = None,
        accuracy_limit: int | None = None,
    ):
        self._job = job
        self._out = out
        self._how = {"dtype": dtype or "float32", "device": device, "tokenizer": job.tokenizer}
        self._batch_tokens = batch_tokens
        self._accuracy_limit = accuracy_limit
        check_tasks(job.tasks)
        for model in job.models.values():
            check_text_model(model)
        fetch_questions(job.tasks)
        self._texts = {name: load_data(data) for name, data in job.data.items()}
        self._folders: dict[str, RunFolder] = {}
        self._trained: dict[tuple[str, str, int | None], list[Record]] = {}  # the last one's
        self._summaries: dict[str, list[dict[str, Any]]] = {}
        self.standing: list[str] = []

    def rows(self) -> Iterator[Compared]:
        """Measure, and put each number beside the printed one.

        Yields:
            A row per number, as models finish.
        """
        for i, (size, model) in enumerate(self._job.models.items()):
            adapter = load_text(model, **self._how)
            if self._job.part.table == 10 and i == 0:  # against itself, so its Diff-eRank is 0
                yield from self._measured("random init", adapter.untrained(0), {"eval": "off"})
            yield from self._measured(size, adapter, DROPOUT)
            del adapter  # before the next one takes its place

    def _measured(self, size: str, model: TextAdapter, modes: dict[UntrainedMode, str]) -> Iterator[Compared]:
        part = self._job.part
        rows: list[Compared] = []
        for (name, texts), limit, mode in product(self._texts.items(), self._job.limits, modes):
            result = self._diff(model, name, texts, mode, limit)
            if mode == "eval":
                skipped = f", {len(result.skipped)} skipped" if result.skipped else ""
                self.standing.append(f"{part.family} {size} on {name}: n = {result.n}{skipped} ({model.name})")
            for label, ours, theirs in numbers(part.table, part.family, name, size, result):
                rows.append(Compared(part.table, part.family, size, name, label, modes[mode], ours, theirs))
                yield rows[-1]
        if len(self._job.limits) > 1:  # table 11
            for dropout in modes.values():
                yield spread([row for row in rows if row.dropout == dropout])
        if tasks := self._job.tasks:
            found = [self._accuracy(model, task) for task in tasks]
            for name, ours, theirs in accuracy_numbers(part.table, part.family, part.data, size, found):
                yield Compared(part.table, part.family, size, name, "accuracy", "", ours, theirs)

    def _diff(self, model: TextAdapter, name: str, texts: DataSet, mode: UntrainedMode, limit: int | None) -> Diff:
        layers, convention = self._job.part.layers, TextConvention(untrained_mode=mode)
        place = "--".join(
            [name, f"dropout-{DROPOUT[mode]}"]
            + ([f"layers-{layers.replace(',', '-')}"] if layers else [])
            + ([f"first-{limit}"] if limit else [])
        )
        if place not in self._folders:
            self._folders[place] = open_diff_run(
                self._out / place, texts, convention, layers=layers, selection=Selection(limit)
            )
        folder = self._folders[place]
        trained = self._trained.get((model.name, name, limit), [])
        if trained:  # what the trained model gives does not depend on the untrained one's dropout
            folder.add_model(model.name, identity(model))
            folder.adopt(model.name, trained)
        result = diff(
            model,
            texts,
            convention=convention,
            layers=layers,
            limit=limit,
            batch_tokens=self._batch_tokens,
            out=folder,
            cache=cache_folder(),
            progress=True,
        )
        own = [record for record in result.records if record.model == model.name]
        self._trained = {(model.name, name, limit): own}
        # Not the results themselves, which hold all records.
        self._summaries.setdefault(place, []).append(result.to_dict())
        folder.write_summary({"results": self._summaries[place]})
        return result

    def _accuracy(self, model: TextAdapter, task: str) -> float:
        found = accuracies(
            model,
            [task],
            limit=self._accuracy_limit,
            batch_tokens=self._batch_tokens,
            progress=True,
            kept=self._out / ACCURACY,
        )
        return next(iter(found.values())).value


def spread(samples: list[Compared]) -> Compared:
    """The standard deviation over numbers of texts, as the paper takes it: of the population.

    Args:
        samples: Rows of Table 11 of one model and mode, at least one.

    Returns:
        A row; the printed one stands beside it if all of the paper's numbers of texts were measured.
    """
    complete = {row.paper for row in samples} == {*paper.SAMPLE_SIZE_DIFF_ERANK.values()}
    theirs = paper.SAMPLE_SIZE_STDEV if complete else math.nan
    ours = pstdev(row.ours for row in samples)
    return replace(samples[0], label="standard deviation", ours=ours, paper=theirs)


def numbers(table: int, family: str, data: str, size: str, result: Diff) -> Numbers:
    """What a table says of one model on one data set.

    Args:
        table: Its number.
        family: Of the model.
        data: Name of the data set.
        size: Of the model, or its stage of training.
        result: What was measured.

    Yields:
        Label, our number, the paper's.
    """
    if table == 4:
        points = result.points  # with few blocks the first is also the middle one
        for name, point in {"first": points[0], "middle": points[-2], "last": points[-1]}.items():
            yield f"{name} layer", point.diff_erank, paper.LAYER_DIFF_ERANK[name][size]
    elif table == 9:
        yield "algorithm (a)", result.diff_erank, paper.DIFF_ERANK[family, data][size]
        yield "algorithm (b)", result.final.diff_erank_mean_of_eranks, paper.DIFF_ERANK_MEAN_OF_ERANKS[size]
    elif table == 10:
        yield "Diff-eRank", result.diff_erank, paper.CONTINUAL_TRAINING[size]["Diff-eRank"]
        yield "loss", result.loss_trained, paper.CONTINUAL_TRAINING[size]["loss"]
    elif table == 11:
        n = result.limit or result.n  # a text that is skipped does not make it another column
        yield f"{n} texts", result.diff_erank, paper.SAMPLE_SIZE_DIFF_ERANK.get(n, float("nan"))
    else:
        yield "Diff-eRank", result.diff_erank, paper.DIFF_ERANK[family, data][size]
        yield "reduced loss", result.reduced_loss, paper.REDUCED_LOSS[family, data][size]


def accuracy_numbers(table: int, family: str, data: tuple[str, ...], size: str, found: list[float]) -> Numbers:
    """What a table says of one model's accuracy.

    Args:
        table: Its number.
        family: Of the model.
        data: Names of the table's data sets.
        size: Of the model, or its stage of training.
        found: Accuracy on each task.

    Yields:
        Name of the data set it stands beside, our number, the paper's.
    """
    if table == 10:
        yield data[0], found[0], paper.CONTINUAL_TRAINING[size]["accuracy"]
    else:
        for name, value in zip(data, found, strict=True) if table == 1 else [(data[0], fmean(found))]:
            yield name, value, paper.ACCURACY.get((family, name), {}).get(size, float("nan"))
