"""A table or figure from beginning to end: measured, resumed, put beside the paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mmerank.analysis.metrics.alignment import LABELS
from mmerank.convention import Convention, TextConvention
from mmerank.eranks import ERANKS
from mmerank.errors import UsageError
from mmerank.jobs.paper.comparison import Compared, comparison_table, row_dict
from mmerank.jobs.paper.estimate import BY_HAND
from mmerank.jobs.paper.figures import FIGURES, draw_figure
from mmerank.jobs.paper.language import TextTable
from mmerank.jobs.paper.multimodal import MultimodalTable, Tried
from mmerank.jobs.paper.studies import Job
from mmerank.report.paper.tables import TABLE_2


@dataclass
class Reproduction:
    """What was measured of a study so far.

    Attributes:
        name: `table1` .. `figure4`.
        jobs: What is measured.
        rows: Our numbers beside the paper's.
        tried: Conventions and their distance to the paper.
        standing: What the numbers stand on, a line per model and data set.
        files: Figures that were drawn.
    """

    name: str
    jobs: Sequence[Job]
    rows: list[Compared] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    standing: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    @property
    def conventions(self) -> dict[str, Mapping[str, Any]]:
        """The named conventions in force, of the multimodal and of the language models."""
        found: dict[str, Mapping[str, Any]] = {}
        for job in self.jobs:
            if job.part.multimodal:
                found["multimodal"] = Convention().to_dict()
            else:
                found["text"] = {**TextConvention().to_dict(), "untrained_mode": "eval and train"}
        return found

    @property
    def ranked(self) -> list[Tried]:
        """The conventions tried, per model and data set the closest first."""
        return sorted(self.tried, key=lambda tried: (tried.model, tried.data, tried.distance))

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "name": self.name,
            "conventions": self.conventions,
            "results": [row_dict(row) for row in self.rows],
            "sweep": [tried.to_dict() for tried in self.ranked],
            "standing": self.standing,
            "files": [str(file) for file in self.files],
        }


def reproduced(
    name: str,
    jobs: Sequence[Job],
    out: Path,
    *,
    sweep: bool = False,
    dtype: str | None = None,
    device: str | None = None,
    batch_tokens: int | None = None,
    accuracy_limit: int | None = None,
) -> Iterator[Reproduction]:
    """Measure a study; run folders in `out` are continued.

    Args:
        name: `table1` .. `figure4`.
        jobs: From `planned`.
        out: Folder of run folders.
        sweep: Measure `table2` under several conventions, in place of the default alone.
        dtype: Default: float32 for language models, as in the published code, else the checkpoint's.
        device: As for `mmerank.load`.
        batch_tokens: As for `mmerank.align`.
        accuracy_limit: Use this many questions of each task.

    Yields:
        What there is so far, after each number; always the same object.

    Raises:
        UsageError: A model must be fetched by hand first, or `sweep` is set for another study.
    """
    if sweep and name != "table2":
        raise UsageError(f"--sweep-conventions is for table2, not for {name}")
    for job in jobs:
        if missing := [size for size, model in job.models.items() if not model]:
            raise UsageError(
                f"{missing[0]} must be fetched by hand: {BY_HAND[missing[0]]}; then --models-from FILE with "
                f"`{missing[0]}: minigpt_v2.yaml`, or leave it out with --models LLaVA-1.5"
            )
    found = Reproduction(name, jobs)
    how: dict[str, Any] = {"dtype": dtype, "device": device, "batch_tokens": batch_tokens}
    tables: list[TextTable | MultimodalTable] = [
        MultimodalTable(job, out, **how)
        if job.part.multimodal
        else TextTable(job, out, accuracy_limit=accuracy_limit, **how)
        for job in jobs
    ]
    for table in tables:
        found.standing = [line for other in tables for line in other.standing]
        if sweep and isinstance(table, MultimodalTable):
            for tried in table.sweep():
                found.tried.append(tried)
                yield found
        else:
            for row in table.rows():
                found.rows.append(row)
                yield found
        found.standing = [line for other in tables for line in other.standing]
    if name in FIGURES:
        found.files = draw_figure(name, found.rows, out)
    yield found


def reproduction_tables(found: Reproduction) -> list[Table]:
    """Ours beside the paper's, and the conventions tried.

    Args:
        found: Something of it, at least.

    Returns:
        Tables for a rich console.
    """
    tables = []
    if found.rows:
        tables.append(comparison_table(title(found.name), found.rows))
    for key, tried in groupby(found.ranked, key=lambda tried: (tried.model, tried.data)):
        tables.append(_sweep_table(*key, list(tried)))
    return tables


def title(name: str) -> str:
    """`table2` -> `Table 2`."""
    kind = name.rstrip("0123456789")
    return f"{kind.capitalize()} {name[len(kind) :]}"


def _sweep_table(model: str, data: str, ranked: Sequence[Tried]) -> Table:
    """Below the printed numbers a row per convention, the closest first."""
    title = f"{model} on {data}: conventions by distance to Table 2"
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for heading in ("", "eRank1", "2", "3", "4", "5", "IRR", "ITA", "distance"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading))
    table.add_row("the paper", *_shown(TABLE_2[model, data]), "")
    table.add_section()
    for tried in ranked:
        changed = "\n".join(f"{name.replace('_', '-')} {value}" for name, value in tried.changed.items())
        table.add_row(Text(changed or "default"), *_shown(tried.numbers), f"{tried.distance:.3f}")
    return table


def _shown(numbers: Mapping[str, float]) -> list[str]:
    return [f"{numbers[name]:.{1 if name in ERANKS else 3}f}" for name in LABELS]


def reproduction_notes(found: Reproduction, out: Path) -> list[str]:
    """What the numbers stand on, and what was chosen where the paper leaves it open.

    Args:
        found: What was measured.
        out: Where its run folders are.

    Returns:
        Lines.
    """
    lines = [*found.standing]
    for kind, convention in found.conventions.items():
        choices = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in convention.items())
        if kind == "multimodal" and found.tried:
            choices += "; changed as the table says"
        lines.append(f"conventions, {kind}: {choices}")
    if found.tried:
        lines.append("distance: mean over the seven numbers of |ours - paper| / |paper|")
    lines.append(
        "what the paper leaves open, and what each choice does: docs/reproduction.md and docs/conventions.md"
    )
    lines += [f"drawn: {file}" for file in found.files]
    lines.append(f"run folders: {out}; the same command continues")
    return lines
