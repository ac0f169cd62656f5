"""`mmerank push`."""

from __future__ import annotations

from typing import Annotated

import typer

from mmerank.commands import options


def push(
    runs: options.Runs,
    *,
    to: Annotated[str, typer.Option(metavar="OWNER/NAME", help="The data set on the hub.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make a data set that others cannot see.")] = False,
    with_data: Annotated[
        bool,
        typer.Option(
            "--with-data",
            help="Send texts and pictures of the examples too, on the page of a report, and the runs as they are, "
            "with folders, tokens and reasons of skipped examples.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the card and the files that would go up, and send nothing.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Finished runs as a data set on the hub, with a card of their numbers.

    A push replaces what an earlier one put there; `hub:OWNER/NAME` is read by `mmerank report`.
    """
    from mmerank.report.folders import run_folders

    folders = run_folders(runs)  # what is not there is told before anything heavy is imported

    from rich.console import Console

    from mmerank.report.push import preview
    from mmerank.report.push import push as send

    if dry_run:
        print(preview(folders, to, with_data=with_data))
        return
    with Console(stderr=True).status("reading runs and sending them"):  # shown in a terminal only
        address = send(folders, to, private=private, with_data=with_data)
    typer.echo(address)
