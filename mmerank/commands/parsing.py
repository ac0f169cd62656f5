"""How words of the command line, or of a file of options, become those of a command."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

from mmerank.errors import did_you_mean

# What pydantic says of a choice that is none.
_ONE_OF = re.compile(r"Value error, '(.*)' is not one of (.*)\.")

_EXTRA = re.compile(r"Got unexpected extra argument(?:s|\(s\))? \((.*)\)")


class NoValueAtFlags:
    """Help that shows a flag without a value, since `--strict true` would take `true` for a model."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Options and arguments, that of `--help` among them, as their help is made of."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters


class Command(NoValueAtFlags, TyperCommand):
    """A command whose messages and help are in the words of this package."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, a word that is none of those known answered in the words of other messages."""
        try:
            found: list[str] = super().parse_args(ctx, args)
        except Exception as error:
            if said := _ONE_OF.fullmatch(getattr(error, "message", "")):
                known = re.findall(r"'([^']*)'", said[2])
                error.message = f"{said[1]!r}; known: {', '.join(known)}{did_you_mean(said[1], known)}"  # type: ignore
            elif said := _EXTRA.fullmatch(getattr(error, "message", "")):
                several = (
                    "; of several models: a command each with --out, then mmerank report RUN RUN, or mmerank study"
                    if {"model", "out"} <= {of.name for of in ctx.command.params}
                    else ""
                )
                words = [of.name.upper() for of in ctx.command.params if of.param_type_name == "argument"]
                takes = f"one {' and one '.join(words)}" if words else "no words but options"
                error.message = f"takes {takes}, and got also {said[1]}{several}"  # type: ignore
            raise
        return found
