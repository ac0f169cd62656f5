"""Tables 2 and 3: eRank1 to eRank5 and the two ratios beside the printed numbers, and a sweep of the conventions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from mmerank.analysis.metrics.alignment import LABELS, alignment
from mmerank.analysis.results.alignment import AlignmentResult
from mmerank.convention import Convention, ImageLayout
from mmerank.inputs.example import DataSet
from mmerank.inputs.load import load_data
from mmerank.inputs.pictures import MAX_PIXELS
from mmerank.inputs.selection import Selection
from mmerank.inputs.variants import asked_for
from mmerank.jobs.align import Alignment, align, open_align_run
from mmerank.jobs.paper.comparison import Compared
from mmerank.jobs.paper.studies import ROTATIONS, Job
from mmerank.jobs.perturb import open_perturb_run, perturb
from mmerank.models.adapter import Adapter, check_model, load
from mmerank.report.paper.tables import TABLE_2, TABLE_3
from mmerank.runs.folder import RunFolder


@dataclass(frozen=True)
class Tried:
    """How far one convention comes from the printed numbers of a model on a data set.

    Attributes:
        model: As in the table.
        data: As in the table.
        changed: The choices that are not the default's; empty for the default.
        numbers: The seven numbers under it.
        distance: Mean over the seven of |ours - paper| / |paper|.
        n: Examples.
    """

    model: str
    data: str
    changed: Mapping[str, str]
    numbers: Mapping[str, float]
    distance: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self)


class MultimodalTable:
    """The measurements of one job; everything that can be refused before a model is loaded is.

    Args:
        job: What to measure.
        out: Where run folders are kept, one for each data set, convention and number of examples.
        dtype: Default: the checkpoint's.
        device: As for `mmerank.load`.
        batch_tokens: As for `mmerank.align`.

    Raises:
        UsageError: A data set is unknown.
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
    ):
        self._job = job
        self._out = out
        self._how = {"dtype": dtype, "device": device}
        self._batch_tokens = batch_tokens
        for model in job.models.values():
            check_model(model)
        self._examples = {name: load_data(data) for name, data in job.data.items()}
        self._folders: dict[str, RunFolder] = {}
        self._summaries: dict[str, list[dict[str, Any]]] = {}
        self.standing: list[str] = []

    def rows(self) -> Iterator[Compared]:
        """Measure, and put each number beside the printed one.

        Yields:
            A row per number, as models finish.
        """
        for name, model in self._job.models.items():
            adapter = load(model, **self._how)
            for data, examples in self._examples.items():
                if self._job.part.table == 3:
                    yield from self._turned(name, data, adapter, examples)
                    continue
                result = self._aligned(adapter, data, examples, Convention())
                self._stands(name, data, result)
                yield from compared(2, name, data, result, TABLE_2[name, data])
            del adapter  # before the next one takes its place

    def sweep(self) -> Iterator[Tried]:
        """Measure under the conventions that `conventions_tried` lists.

        Yields:
            What each gives, in no particular order; `sorted(..., key=lambda tried: tried.distance)` ranks them.
        """
        for name, model in self._job.models.items():
            adapter = load(model, **self._how)
            for data, examples in self._examples.items():
                for convention in conventions_tried(adapter):
                    result = self._aligned(adapter, data, examples, convention)
                    if convention == Convention():
                        self._stands(name, data, result)
                    yield from _tried(name, data, result)
            del adapter

    def _aligned(self, adapter: Adapter, data: str, examples: DataSet, convention: Convention) -> Alignment:
        limit = self._job.asked
        changed = [f"{name.replace('_', '-')}-{value}" for name, value in changes(convention).items()]
        place = "--".join([data, *changed] + ([f"first-{limit}"] if limit else []))
        if place not in self._folders:
            self._folders[place] = open_align_run(
                self._out / place, examples, convention, max_pixels=MAX_PIXELS, selection=Selection(limit)
            )
        result = align(
            adapter,
            examples,
            convention=convention,
            limit=limit,
            batch_tokens=self._batch_tokens,
            out=self._folders[place],
            progress=True,
        )
        # Not the results themselves, which hold all records.
        self._summaries.setdefault(place, []).append(result.to_dict())
        self._folders[place].write_summary({"results": self._summaries[place]})
        return result

    def _turned(self, name: str, data: str, adapter: Adapter, examples: DataSet) -> Iterator[Compared]:
        limit = self._job.asked
        asked, _ = asked_for(ROTATIONS, (), 1)
        folder = open_perturb_run(
            self._out / ("--".join([data, "turned"] + ([f"first-{limit}"] if limit else []))),
            examples,
            asked,
            (),
            convention=Convention(),
            control_draws=1,
            max_pixels=MAX_PIXELS,
            selection=Selection(limit),
        )
        result = perturb(
            adapter,
            examples,
            ROTATIONS,
            control_draws=1,
            limit=limit,
            batch_tokens=self._batch_tokens,
            out=folder,
            progress=True,
        )
        folder.write_summary(result.to_dict())
        self._stands(name, data, result.base)
        yield from compared(3, name, data, result.base, TABLE_2[name, data], prefix="base: ")
        for turned in result.transforms:
            yield from compared(3, name, data, turned.result, TABLE_3, prefix=f"{turned.transform}: ")

    def _stands(self, name: str, data: str, result: AlignmentResult) -> None:
        skipped = f", {len(result.skipped)} skipped" if result.skipped else ""
        self.standing.append(f"{name} on {data}: n = {result.n}{skipped} ({result.model})")


def compared(
    table: int, name: str, data: str, result: AlignmentResult, printed: Mapping[str, float], prefix: str = ""
) -> Iterator[Compared]:
    """The seven numbers of a model on a data set.

    Args:
        table: Number of the table.
        name: Of the model in it.
        data: Of the data set.
        result: What was measured.
        printed: The paper's numbers.
        prefix: In front of their names.

    Yields:
        A row per number.
    """
    for quantity, label in LABELS.items():
        ours, theirs = getattr(result, quantity), printed.get(quantity, math.nan)
        yield Compared(table, name, "", data, f"{prefix}{label}", "", ours, theirs)


def conventions_tried(adapter: Adapter) -> list[Convention]:
    """The conventions that a sweep measures: each choice alone, and those that may well go together.

    The default; `sequence` template; `tokens` modality, with either sequence; each other `image_layout` that gives
    the model other pixels, with either sequence; each other `vision_point`. `aggregate` needs no measurement of its
    own: both are taken of each.

    Args:
        adapter: A loaded model.

    Returns:
        The default first.
    """
    base, template = Convention(), Convention(sequence="template")
    # Of LLaVA, `model` pads.
    layouts: tuple[ImageLayout, ...] = ("crop",) if adapter.source.get("adapter") == "llava" else ("pad", "crop")
    found = [base, template]
    for form in (base, template):
        found.append(replace(form, tokens="modality"))
        found += [replace(form, image_layout=layout) for layout in layouts]
    return found + [replace(base, vision_point=point) for point in adapter.vision_points if point != "default"]


def changes(convention: Convention) -> dict[str, str]:
    """The choices that are not the default's.

    Args:
        convention: Any.

    Returns:
        Name -> value.
    """
    usual = Convention().to_dict()
    return {name: str(value) for name, value in convention.to_dict().items() if value != usual.get(name)}


def distance(ours: Mapping[str, float], printed: Mapping[str, float]) -> float:
    """How far numbers are from printed ones: the mean of |ours - paper| / |paper|.

    Args:
        ours: By name; must have all that are printed.
        printed: By name.

    Returns:
        0 where all agree; 0.1 means 10 % off on average.

    Example:
        >>> round(distance({"erank1": 11.0, "erank2": 8.0}, {"erank1": 10.0, "erank2": 10.0}), 9)
        0.15
    """
    return fmean(abs(ours[name] - value) / abs(value) for name, value in printed.items())


def _tried(name: str, data: str, result: AlignmentResult) -> Iterator[Tried]:
    """Under both aggregates."""
    for aggregate in ("entropy", "erank"):
        convention = replace(result.convention, aggregate=aggregate)
        found = alignment(result.records, aggregate=aggregate)
        yield Tried(name, data, changes(convention), found, distance(found, TABLE_2[name, data]), result.n)
