"""What commands do around a measurement: refuse what cannot end well, and show and write what was found."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmerank.commands.interrupts import interrupts
from mmerank.durable import try_whole, whole
from mmerank.errors import Interrupted, UsageError
from mmerank.files import require_local
from mmerank.processes import rank

if TYPE_CHECKING:
    from rich.table import Table

    from mmerank.jobs.align import Alignment
    from mmerank.jobs.compare import Comparison
    from mmerank.jobs.diff import Diff
    from mmerank.jobs.encode import Encoding
    from mmerank.jobs.generate import Generation
    from mmerank.jobs.prune_study import Pruning
    from mmerank.runs.folder import RunFolder


_STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def check_writable(json_file: str | None) -> None:
    """Refuse what --json cannot be written to: better now than after the run.

    Args:
        json_file: What it says.

    Raises:
        UsageError: It is an address, a folder, or cannot be written.
    """
    if json_file is None or json_file in _STDOUT:
        return
    require_local(json_file, "--json")
    try:
        reason = _hindrance(_target(Path(json_file)))
    except (OSError, RuntimeError, ValueError) as error:  # also of loops of links, and names that no file can have
        reason = f"cannot be written ({(isinstance(error, OSError) and error.strerror) or error})"
    if reason:
        raise UsageError(f"--json {json_file}: {reason}")


def _hindrance(target: Path) -> str | None:
    """Why a file cannot be written, if it cannot."""
    if not target.parent.is_dir():
        return "no such folder to write to"
    if target.is_dir():
        return "is a folder; name a file in it"
    kind = target.stat().st_mode if target.exists() else stat.S_IFREG
    if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind) or stat.S_ISCHR(kind)):
        return "is no file"
    if target.exists() and not os.access(target, os.W_OK):
        return "cannot be written (no permission)"
    if not _in_place(target):
        try_whole(target)
    return None


def write_json(content: dict[str, Any], json_file: str | None) -> bool:
    """Write what --json asks for.

    Args:
        content: JSON values.
        json_file: What it says.

    Returns:
        Whether it went to stdout, where nothing else may go then.
    """
    text = json.dumps(content, indent=1, allow_nan=False)
    if json_file in _STDOUT:
        print(text)
    elif json_file is not None:
        _write(_target(Path(json_file)), f"{text}\n")
    return json_file in _STDOUT


def _target(path: Path) -> Path:
    """What a person's name for a file stands for: a link that they name stays, and what it leads to is written."""
    if path.exists() and not path.is_file():
        return path  # what /dev/fd/5 leads to may have no name
    return path.resolve()


def _in_place(target: Path) -> bool:
    """Whether a whole file cannot take the place of what is there: a pipe, a terminal, or no right to the folder."""
    return target.exists() and (not target.is_file() or not os.access(target.parent, os.W_OK))


def _write(target: Path, text: str) -> None:
    if _in_place(target):
        target.write_text(text)
        return
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    with whole(target) as unfinished:
        unfinished.write_text(text)
        if mode is not None:  # what others may read of it stays as it was
            unfinished.chmod(mode)


def given_names(names: Sequence[str], models: Sequence[str] | None = None) -> dict[str, str]:
    """What `--name` says.

    Args:
        names: `NAME=MODEL` each.
        models: Those of the command; None where that is told elsewhere.

    Returns:
        Names by model.

    Raises:
        UsageError: One says something else, or names a model that is not there, or a second one.
    """
    found: dict[str, str] = {}
    for given in names:
        name, sign, model = (part.strip() for part in given.partition("="))
        if not (name and sign and model):
            raise UsageError(f"--name {given!r}: expected NAME=MODEL, as in ours=runs/checkpoint-500")
        if models is not None and model not in models:
            raise UsageError(f"--name {given!r}: no model {model!r} here; there are {', '.join(models)}")
        if model in found or name in found.values():
            raise UsageError(f"--name {given!r}: {'the model' if model in found else 'the name'} was named before")
        found[model] = name
    return found


def quiet() -> None:
    """Keep what transformers prints while loading out of ours; adapters raise on what matters."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


@contextmanager
def continued_from(out: Path | None) -> Iterator[None]:
    """Say how to go on after an interruption.

    Args:
        out: The run folder, if there is one.

    Yields:
        For the run.

    Raises:
        Interrupted: The person stopped the run.
        UsageError: There are several processes, and no folder in which they meet.
    """
    if out is None and rank().count > 1:
        raise UsageError(
            f"this is one of {rank().count} processes (WORLD_SIZE); with --out RUN_DIR, a folder that all of them "
            "see, they share the examples"
        )
    try:
        with interrupts(signal.default_int_handler):
            yield
    except KeyboardInterrupt:
        kept = f"; the same command continues from {out}" if out is not None else "; with --out it could be continued"
        raise Interrupted(f"interrupted{kept}") from None


@contextmanager
def shown_at_the_end(show: Callable[[], None], out: Path | None) -> Iterator[None]:
    """Show what is finished even when a later model fails; of several processes only the first shows anything.

    Args:
        show: Shows it.
        out: As for `continued_from`.

    Yields:
        For the run.
    """
    try:
        with continued_from(out):
            yield
    finally:
        if rank().leads:
            show()


def show_results(
    results: Sequence[Alignment | Diff | Encoding | Generation | Pruning],
    folder: RunFolder | None,
    json_file: str | None,
    *,
    tables: Callable[[Any], Sequence[Table]],
    notes: Callable[[Any], list[str]],
    track: str | None = None,
    compared_by: Sequence[str] | None = None,
) -> None:
    """Write summary and JSON, and print what is to be printed.

    Args:
        results: Of the models that are done; of none, nothing is shown.
        folder: The run folder, if there is one.
        json_file: What --json says.
        tables: Makes the tables of all results.
        notes: Makes the lines below them.
        track: What --track says.
        compared_by: Which numbers the printed comparisons have; None for all.
    """
    if not results:
        return
    summary: dict[str, Any] = {"results": [result.to_dict() for result in results]}
    comparisons = {"comparisons": compared(results), "comparisons_matched": compared(results, matched=True)}
    for name, found in comparisons.items():
        if found:
            summary[name] = [comparison.to_dict() for comparison in found]
    if folder is not None:
        folder.write_summary(summary)
    if not write_json(summary, json_file):
        _print_results(results, comparisons, tables=tables, notes=notes, compared_by=compared_by)
    if track is not None:
        from mmerank.jobs.results import Results

        Results(results).track(track)


def _print_results(
    results: Sequence[Alignment | Diff | Encoding | Generation | Pruning],
    comparisons: Mapping[str, Sequence[Comparison]],
    *,
    tables: Callable[[Any], Sequence[Table]],
    notes: Callable[[Any], list[str]],
    compared_by: Sequence[str] | None,
) -> None:
    from rich.console import Console

    from mmerank.report.terminal.intervals import comparison_notes, comparison_table

    for table in tables(results):
        Console().print(table)
    print("\n".join(notes(results)))
    for found in comparisons.values():
        for comparison in found:
            kept = tuple(of for of in comparison.differences if not compared_by or of.quantity in compared_by)
            Console().print(comparison_table(replace(comparison, differences=kept or comparison.differences)))
        if found:
            print("\n".join(comparison_notes(found, alike=True)))


def compared(
    results: Sequence[Alignment | Diff | Encoding | Generation | Pruning], *, matched: bool = False
) -> list[Comparison]:
    """Each two models on the examples that both have; of more than a table has room for, each with the next.

    Args:
        results: Of any number of models.
        matched: Compare the numbers on equally many rows, where they were asked for.

    Returns:
        Those that have examples in common, tested together.
    """
    if len(results) < 2:
        return []
    from mmerank.analysis.comparison import each_two
    from mmerank.analysis.metrics.matched import unmatched
    from mmerank.analysis.statistics.paired import controlled
    from mmerank.jobs.compare import compare

    left_out = [unmatched(result.records) if matched else set() for result in results]
    examples = [
        {record.example for record in result.records} - left for result, left in zip(results, left_out, strict=True)
    ]
    inputs = [{record.input for record in result.records} for result in results]  # of an encoder maybe without texts
    pairs = [
        (results[i], results[j])
        for i, j in each_two(range(len(results)))
        if examples[i] & examples[j] and inputs[i] == inputs[j]
    ]
    if not pairs:
        return []
    return controlled(compare(a, b, matched=matched) for a, b in pairs)
