"""Groups of options against what they become, and against what typer makes of them."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.testing import CliRunner

from mmerank.commands.groups import Beside, Choices, ExampleChoices, Loading, PairLoading, convention, with_groups
from mmerank.commands.parsing import Command
from mmerank.convention import Convention


def test_options_state_every_choice_with_its_default() -> None:
    assert convention(Choices(), Beside()) == convention(ExampleChoices()) == Convention()
    stated = convention(Choices(sequence="template", aggregate="erank"), Beside(token_curve="32,16", rows=True))
    assert stated == Convention(sequence="template", aggregate="erank", token_curve=(16, 32), rows=True)


def test_a_group_gives_its_fields_as_options() -> None:
    seen: list[tuple[str, Loading]] = []

    def command(name: Annotated[str, typer.Argument()], *, computing: PairLoading, last: bool = False) -> None:
        seen.append((name, computing))

    app = typer.Typer()
    app.command()(with_groups(command))
    given = ["x", "--dtype", "float64", "--max-megapixels", "2", "--last"]
    assert CliRunner().invoke(app, given).exit_code == 0
    assert seen == [("x", PairLoading(dtype="float64", max_megapixels=2))]
    assert seen[0][1].batch_tokens is None
    assert CliRunner().invoke(app, ["x", "--computing", "y"]).exit_code == 2


def test_a_second_model_where_one_is_taken() -> None:
    app = typer.Typer()

    @app.command(cls=Command)
    def measured(model: Annotated[str, typer.Argument()], out: str = "") -> None: ...

    @app.command(cls=Command)
    def shown() -> None: ...

    said = " ".join(CliRunner().invoke(app, ["measured", "a", "b"], terminal_width=300).output.split())
    assert "takes one MODEL, and got also b; of several models: a command" in said
    assert "takes no words but options, and got also x" in CliRunner().invoke(app, ["shown", "x"]).output
