"""The command line, put together."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.core import TyperGroup

from mmerank import __version__
from mmerank.commands.align import align
from mmerank.commands.demo import demo
from mmerank.commands.diff import diff
from mmerank.commands.doctor import doctor
from mmerank.commands.encode import encode
from mmerank.commands.explore import explore
from mmerank.commands.generate import generate
from mmerank.commands.glossary import glossary
from mmerank.commands.groups import with_groups
from mmerank.commands.metrics import metrics
from mmerank.commands.parsing import Command, NoValueAtFlags
from mmerank.commands.perturb import perturb
from mmerank.commands.prune_study import prune_study
from mmerank.commands.push import push
from mmerank.commands.report import report
from mmerank.commands.reproduce import reproduce
from mmerank.commands.score import score
from mmerank.commands.study import study


class _Group(NoValueAtFlags, TyperGroup):
    pass


app = typer.Typer(
    cls=_Group,
    help="Effective rank (eRank) of hidden token representations, and image-text alignment measured with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    align,
    perturb,
    diff,
    encode,
    generate,
    prune_study,
    score,
    study,
    reproduce,
    report,
    explore,
    push,
    doctor,
    metrics,
    glossary,
    demo,
):
    app.command(cls=Command)(with_groups(command))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"mmerank {__version__}")
        raise typer.Exit
