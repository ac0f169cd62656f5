"""What has become of a study, what an edit of its file means, and what is left to do, for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmerank.errors import in_short
from mmerank.report.names import data_names

_STATES = ("done", "failed", "skipped", "running", "begun", "left")
_MEASURED = {"done": "its run, which is done,", "begun": "its run, of which a part is measured,"}


def study_table(found: Sequence[Any], folder: Path, ahead: Any = None) -> RenderableType:
    """The cells and their states, and what can be done next.

    Args:
        found: Cells with `state` and `reason`.
        folder: Of the study.
        ahead: What is left to do, of a dry run.

    Returns:
        For a rich console.
    """
    table = Table(title=str(folder), title_justify="left")
    for heading in ("job", "model", "data", "options", "state", *(["expected time"] if ahead else [])):
        table.add_column(heading, overflow="fold")
    called = data_names(of.cell.data for of in found)
    for of in found:
        options = ", ".join(f"{key} {_short(value)}" for key, value in of.cell.options.items() if value != "")
        words = [of.cell.job, of.cell.model, called[of.cell.data], options, of.state]
        if ahead:
            words.append(_time_of(ahead.cells.get(of.cell.name)))
        table.add_row(*map(Text, words))
    counts = Counter(of.state for of in found)
    lines = [", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])]
    lines += [f"{of.state}: {of.cell.name}: {of.reason}" for of in found if of.reason]
    if counts["done"]:
        scored = any(of.cell.job == "score" and of.state == "done" for of in found)
        lines.append(f"mmerank report {folder}" + (f" --scores {folder}" if scored else ""))
    return Group(table, *(_ahead_tables(ahead) if ahead else ()), *map(Text, lines))


def edits_text(
    edits: Sequence[Any], back: Sequence[str], folder: Path, earlier: Path, *, study: Path, aside: bool
) -> str:
    """What an edited file changed, cell by cell, what stays, and what can be done with it.

    Args:
        edits: From `mmerank.jobs.edited.edits`.
        back: Runs that were set aside, and are in the file again.
        folder: Of the study.
        earlier: Where runs are set aside.
        study: The file.
        aside: Whether runs that are gone from the file are moved there now.

    Returns:
        Lines; empty where nothing changed.
    """
    lines = []
    if edits:
        lines.append(f"{study} was edited since {folder} was begun:")
        lines += [f"  {_edit(edit, back)}" for edit in edits]
    gone = [edit.earlier for edit in edits if edit.earlier is not None and edit.earlier.state != "left"]
    if gone and aside:
        lines.append(f"  moved to {earlier}: {', '.join(of.name for of in gone if of.state != 'running') or 'none'}")
    elif gone:
        lines.append(
            f"  Nothing is deleted. `mmerank report {folder}` reads runs that are no longer in the file, too: "
            f"`mmerank study {study} --set-aside` moves them to {earlier}, and they are taken back where the file "
            "asks for them again."
        )
    if back:
        lines.append(f"taken back from {earlier}: {', '.join(back)}")
    return "\n".join(lines)


def _edit(edit: Any, back: Sequence[str]) -> str:
    anew = "" if edit.now is None else f"{'taken back' if edit.now.name in back else 'run anew'} as {edit.now.name}"
    if edit.earlier is None:
        return f"new: {_called(edit.now.asked())}; {anew.replace('run anew', 'run')}"
    old = edit.earlier
    stays = f"{_MEASURED[old.state]} stays as {old.name}" if old.state in _MEASURED else ""
    if old.state == "running":
        stays = f"a process is at its run, which goes on as {old.name}"
    elif old.state == "left":
        stays = "nothing of it was measured"
    called = _called(old.asked) if old.asked else f"{old.name} (its file in cells/ cannot be read)"
    if edit.now is None:
        return f"no longer in the file: {called}; {stays}"
    changed = ", ".join(f"{key} {_short(before)} -> {_short(now)}" for key, (before, now) in edit.changed.items())
    return f"changed: {called}: {changed}; {anew}; {stays}"


def _called(asked: Any) -> str:
    return f"{asked['job']} of {asked['model']} on {asked['data']}"


def _ahead_tables(ahead: Any) -> Iterator[RenderableType]:
    models = Table(title="models", title_justify="left")
    for heading in ("model", "parameters", "memory", "to download"):
        models.add_column(heading, overflow="fold", justify="left" if heading == "model" else "right")
    for of in ahead.models:
        counted = "unknown" if of.parameters is None else in_short(of.parameters)
        models.add_row(Text(of.model), counted, _size(of.memory), _download(of.download))
    yield models
    data = Table(title="data", title_justify="left")
    for heading in ("data", "examples", "to download"):
        data.add_column(heading, overflow="fold", justify="left" if heading == "data" else "right")
    for of in ahead.data:
        data.add_row(Text(of.data), "unknown" if of.examples is None else f"{of.examples:,}", _download(of.download))
    yield data
    yield from map(Text, _ahead_lines(ahead))


def _ahead_lines(ahead: Any) -> Iterator[str]:
    left = list(ahead.cells.values())
    if not left:
        return
    known = [of.seconds for of in left if of.seconds is not None]
    unknown = len(left) - len(known)
    time = f"{_duration(sum(known))}" if known else "unknown"
    time += f", and {unknown} cell{'s' * (unknown > 1)} of which it is not known" if known and unknown else ""
    yield f"expected time: {time}"
    if any(of.by == "measured" for of in left):
        yield "  measured: by finished cells of the same model and job, loading left out"
    if any(of.by == "rule" for of in left):
        yield "  by rule: 2 FLOP a parameter and position, and spectra, on one large GPU; within a factor of 3"
    if unknown:
        yield "  unknown: until a cell of the same model and job is done; on a CPU there is no rule"
    without = sum(of.disk is None for of in left)
    yield f"run folders: about {_size(ahead.disk)}" + (f", {without} cells not counted" if without else "")
    yield f"  free there: {_size(ahead.free)}"
    asked = [of for of in (*ahead.models, *ahead.data) if of.download is not None]
    if asked:
        free = f" ({_size(ahead.free_cache)} free there)" if ahead.free_cache is not None else ""
        without = sum(of.download.missing is None for of in asked)
        size = _size(ahead.downloads) if without < len(asked) else "unknown"
        size += f", and {without} of which it is not known" if 0 < without < len(asked) else ""
        whole = (
            "; of data sets the whole repository, which may be too much"
            if any(of.download is not None for of in ahead.data)
            else ""
        )
        yield f"downloads: {size}{free}{whole}"
    yield from (f"  {_named(of)}: {of.download.why}" for of in asked if of.download.why)
    largest = max((of for of in ahead.models if of.memory), key=lambda of: of.memory, default=None)
    if largest is not None:
        yield f"largest model: {largest.model}, {_size(largest.memory)} (weights, and 2 GB beside them on a GPU)"
    yield from (f"will be skipped: {of.model}: {of.too_large}" for of in ahead.models if of.too_large)
    for problem, count in Counter(of.problem for of in left if of.problem).items():
        yield f"will fail, {count} cell{'s' * (count > 1)}: {problem}"
    yield from (f"too little disk: {said}" for said in ahead.full)


def _named(of: Any) -> str:
    return str(of.model if hasattr(of, "model") else of.data)


def _download(of: Any) -> str:
    if of is None:
        return "-"
    if of.missing is None:
        return f"unknown, {_size(of.cached)} in the cache" if of.cached else "unknown"
    return _size(of.missing) if of.missing else "nothing"


def _time_of(cell: Any) -> str:
    if cell is None:
        return ""
    if cell.seconds is None:
        return "unknown"
    return f"{_duration(cell.seconds)} ({'measured' if cell.by == 'measured' else 'by rule'})"


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(count: float | None) -> str:
    if count is None:
        return "unknown"
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return f"[{', '.join(repr(one) if ',' in str(one) else str(one) for one in value)}]"
