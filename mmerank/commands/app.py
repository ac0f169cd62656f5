"""The command line, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from mmerank import __version__
from mmerank.commands.align import align
from mmerank.commands.demo import demo
from mmerank.commands.diff import diff
from mmerank.commands.doctor import doctor
from mmerank.commands.groups import with_groups
from mmerank.commands.metrics import metrics
from mmerank.commands.perturb import perturb
from mmerank.commands.report import report
from mmerank.commands.reproduce import reproduce

app = typer.Typer(
    help="Effective rank (eRank) of hidden token representations, and image-text alignment measured with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (align, perturb, diff, reproduce, report, doctor, metrics, demo):
    app.command()(with_groups(command))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"mmerank {__version__}")
        raise typer.Exit
