"""What jobs have in common that measure one model, without a twin, by one plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from mmerank.analysis.results.numbered import NumberedResult
from mmerank.computing import Computing
from mmerank.convention import GenerationConvention, PruneConvention
from mmerank.engine.collect import collect
from mmerank.engine.probe import Probe
from mmerank.inputs.example import Example, Skipped, name_of
from mmerank.inputs.selection import ALL, Selection
from mmerank.models.identity import identity
from mmerank.models.protocol import LoadedModel
from mmerank.runs.folder import RunFolder, open_run

_Result = TypeVar("_Result", bound=NumberedResult[Any])
Convention = GenerationConvention | PruneConvention


def measured_alone(
    kind: type[_Result],
    plan: Callable[[], Any],
    model: LoadedModel,
    examples: Iterable[Example | Skipped],
    convention: Convention,
    *,
    selection: Selection,
    max_pixels: int,
    computing: Computing,
    out: str | Path | RunFolder | None,
) -> _Result:
    """Measure a model, and write the summary where the folder is this call's own.

    Args:
        kind: Of the result.
        plan: Makes what is measured; looked at before a folder is opened.
        model: It.
        examples: As from `mmerank.inputs.example.kept`.
        convention: The choices in force.
        selection: Which of the examples.
        max_pixels: Stated with the run.
        computing: How.
        out: A run folder, new or continued, or one that is open already.

    Returns:
        The result. Errors as of the job.
    """
    entries, source = selection.held(examples), identity(model)
    probe = Probe(plan(), computing, model.name, source)
    folder, job = out, kind._job
    if folder is not None and not isinstance(folder, RunFolder):
        folder = open_alone(job, folder, examples, convention, max_pixels=max_pixels, selection=selection)
    if folder is not None:
        folder.add_model(model.name, source)
    records, skipped = collect(probe.measure, entries, model=model.name, job=job, folder=folder, computing=computing)
    result = kind.of(
        records,
        skipped,
        model=model.name,
        data=name_of(examples),
        convention=convention,
        source=source,
        selection=selection,
    )
    if folder is not None and folder is not out:
        folder.write_summary({"results": [result.to_dict()]})
    return result


def open_alone(
    job: str,
    out: str | Path,
    examples: Iterable[Example | Skipped],
    convention: Convention,
    *,
    max_pixels: int,
    selection: Selection = ALL,
) -> RunFolder:
    """The run folder for these settings, new or continued. Arguments and errors as in the job."""
    settings = {"convention": convention.to_dict(), "max_pixels": max_pixels}
    return open_run(out, job, examples, settings, selection=selection)
