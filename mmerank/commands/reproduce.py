"""`mmerank reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmerank.commands import measured, options
from mmerank.commands.groups import listed
from mmerank.commands.results import check_writable, quiet, shown_at_the_end, write_json

if TYPE_CHECKING:
    from mmerank.jobs.paper.study import Reproduction


def reproduce(
    name: options.Study,
    *,
    dry_run: options.DryRun = False,
    models: options.OnlyModels = "",
    models_from: options.ModelsFrom = None,
    data: options.StudyData = [],  # noqa: B006 (typer takes no tuple)
    data_from: options.DataFrom = None,
    sweep_conventions: options.SweepConventions = False,
    accuracy: options.StudyAccuracy = "",
    accuracy_limit: measured.AccuracyLimit = None,
    tokenizer: measured.Tokenizer = None,
    limit: options.Limit = None,
    out: options.StudyOut = None,
    json_file: options.Json = None,
    debug: options.Debug = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_tokens: options.BatchTokens = None,
) -> None:
    """A table or figure of the paper, ours beside the printed numbers.

    table1, table2, table3, table4, table6 to table11, figure1, figure3, figure4. docs/reproduction.md says what each
    needs and what the paper leaves open.
    """
    from rich.console import Console

    from mmerank.jobs.paper.estimate import needs, needs_notes, needs_tables
    from mmerank.jobs.paper.studies import planned

    check_writable(json_file)
    jobs = planned(
        name,
        models=listed(models),
        models_from=models_from,
        data=data,
        data_from=data_from,
        accuracy=accuracy,
        tokenizer=tokenizer,
        limit=limit,
    )
    if dry_run:
        found_needs = needs(jobs, dtype=dtype, sweep=sweep_conventions)
        if not write_json({"name": name, **found_needs.to_dict()}, json_file):
            for table in needs_tables(name, found_needs):
                Console().print(table)
            print("\n".join(needs_notes(found_needs)))
        return
    from mmerank.jobs.paper.study import reproduced, reproduction_notes, reproduction_tables

    folder = out or Path("runs") / "reproduce" / name
    found: list[Reproduction] = []

    def show() -> None:
        if found and not write_json(found[-1].to_dict(), json_file):
            for table in reproduction_tables(found[-1]):
                Console().print(table)
            print("\n".join(reproduction_notes(found[-1], folder)))

    quiet()
    with shown_at_the_end(show, folder):
        for so_far in reproduced(
            name,
            jobs,
            folder,
            sweep=sweep_conventions,
            dtype=dtype,
            device=device,
            batch_tokens=batch_tokens,
            accuracy_limit=accuracy_limit,
        ):
            found[:] = [so_far]
