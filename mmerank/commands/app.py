"""The command line, put together."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

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
from mmerank.commands.perturb import perturb
from mmerank.commands.prune_study import prune_study
from mmerank.commands.push import push
from mmerank.commands.report import report
from mmerank.commands.reproduce import reproduce
from mmerank.commands.score import score
from mmerank.commands.study import study
from mmerank.errors import did_you_mean

# What pydantic says of a choice that is none.
_ONE_OF = re.compile(r"Value error, '(.*)' is not one of (.*)\.")


class _NoValueAtFlags:
    """Help that shows a flag without a value, since `--strict true` would take `true` for a model."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Options and arguments, that of `--help` among them, as their help is made of."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters


class _Command(_NoValueAtFlags, TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, a word that is none of those known answered in the words of other messages."""
        try:
            found: list[str] = super().parse_args(ctx, args)
        except Exception as error:
            if said := _ONE_OF.fullmatch(getattr(error, "message", "")):
                known = re.findall(r"'([^']*)'", said[2])
                error.message = f"{said[1]!r}; known: {', '.join(known)}{did_you_mean(said[1], known)}"  # type: ignore
            raise
        return found


class _Group(_NoValueAtFlags, TyperGroup):
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
    app.command(cls=_Command)(with_groups(command))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"mmerank {__version__}")
        raise typer.Exit
