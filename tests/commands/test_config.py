from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from mmerank.__main__ import main
from mmerank.commands.app import app
from mmerank.commands.config import keys_of, write_config
from mmerank.commands.groups import Loading, with_groups
from mmerank.errors import UsageError


@pytest.fixture
def app_and_seen() -> tuple[typer.Typer, list[dict[str, Any]]]:
    """A command with each kind of parameter, and what it was called with."""
    seen: list[dict[str, Any]] = []

    def measure(
        models: Annotated[list[str], typer.Argument()],
        *,
        computing: Loading,
        limit: Annotated[int | None, typer.Option(min=1)] = None,
        layers: str = "",
        transform: Annotated[list[str] | None, typer.Option()] = None,
        strict: Annotated[bool, typer.Option("--strict")] = False,
    ) -> None:
        seen.append({"models": models, "limit": limit, "layers": layers, "transform": transform, "strict": strict})
        seen[-1]["batch_tokens"] = computing.batch_tokens

    app = typer.Typer()
    app.command("measure")(with_groups(measure))
    return app, seen


def called(app: typer.Typer, folder: Path, content: str, *more: str) -> Any:
    (folder / "c.yaml").write_text(content)
    return CliRunner().invoke(app, ["--config", str(folder / "c.yaml"), *more])


def test_a_file_says_what_the_command_line_would(app_and_seen: Any, tmp_path: Path) -> None:
    app, seen = app_and_seen
    content = "command: measure\nmodels: [a, b]\nlimit: 3\nlayers: [1, 2]\ntransform: rotate:90\nstrict: true\n"
    assert called(app, tmp_path, content + "batch_tokens: 7\n").exit_code == 0
    assert (
        CliRunner()
        .invoke(app, "a b --limit 3 --layers 1,2 --transform rotate:90 --strict --batch-tokens 7".split())
        .exit_code
        == 0
    )
    assert seen[0] == seen[1] and seen[0]["models"] == ["a", "b"] and seen[0]["layers"] == "1,2"


def test_the_command_line_wins(app_and_seen: Any, tmp_path: Path) -> None:
    app, seen = app_and_seen
    assert called(app, tmp_path, "models: a\nlimit: 3\nlayers: last\n", "b", "--limit", "4").exit_code == 0
    assert seen[0]["models"] == ["b"] and seen[0]["limit"] == 4 and seen[0]["layers"] == "last"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("limits: 3", "has no 'limits'; did you mean limit?"),
        ("config: x", "has no 'config'"),
        ("command: align", "is of mmerank align, not of mmerank measure"),
        ("limit:", "limit: has no value"),
        ("strict: 1", "strict: expected true or false, got 1"),
        ("layers: {a: 1}", "layers: expected text or numbers"),
        ("layers: [[1]]", "layers: expected text or numbers"),
        ("layers: yes", "layers: expected text or a number, got True"),
        ("a: [", "not valid YAML"),
        ("- a", "expected OPTION: VALUE in each line, got list"),
        ("", "expected OPTION: VALUE in each line, got NoneType"),
    ],
)
def test_what_a_file_cannot_say(app_and_seen: Any, tmp_path: Path, content: str, said: str) -> None:
    app, seen = app_and_seen
    error = called(app, tmp_path, content, "a").exception
    assert isinstance(error, UsageError) and said in str(error) and str(tmp_path / "c.yaml") in str(error)
    assert not seen


def test_values_are_held_to_what_the_option_takes(app_and_seen: Any, tmp_path: Path) -> None:
    app, seen = app_and_seen
    assert called(app, tmp_path, "limit: 0", "a").exit_code == called(app, tmp_path, "limit: x", "a").exit_code == 2
    assert called(app, tmp_path, "limit: 2").exit_code == 2 and not seen  # no model


def test_a_missing_file_is_named(app_and_seen: Any, tmp_path: Path) -> None:
    error = CliRunner().invoke(app_and_seen[0], ["--config", str(tmp_path / "gone.yaml"), "a"]).exception
    assert isinstance(error, UsageError) and "gone.yaml: cannot be read" in str(error)


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    assert stopped.value.code == 0


def test_a_run_leaves_the_file_that_gives_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["demo-llava", "--data", "demo", "--limit", "2", "--transform", "rotate:90", "--device", "cpu"]
    run("perturb", *given, "--out", str(tmp_path / "run"), "--json", str(tmp_path / "first.json"))
    left = tmp_path / "run" / "command.yaml"
    assert yaml.safe_load(left.read_text()) == {
        "command": "perturb",
        "model": "demo-llava",
        "data": "demo",
        "transform": ["rotate:90"],
        "limit": 2,
        "device": "cpu",
    }
    run("perturb", "--config", str(left), "--json", str(tmp_path / "second.json"))
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("first", "second"))
    assert first == second
    # A report leaves its own beside it, and not in the place of the run's.
    run("report", str(tmp_path / "run"), "--csv", "--name", "ours=demo-llava", "--out", str(tmp_path / "report"))
    again = tmp_path / "report" / "command.yaml"
    assert yaml.safe_load(again.read_text()) == {
        "command": "report",
        "runs": [str(tmp_path / "run")],
        "name": ["ours=demo-llava"],
        "csv": True,
    }
    run("report", "--config", str(again), "--out", str(tmp_path / "run"))
    assert (tmp_path / "run" / "numbers.csv").read_bytes() == (tmp_path / "report" / "numbers.csv").read_bytes()
    assert yaml.safe_load(left.read_text())["command"] == "perturb"


WORDS = [
    *("no", "on", "null", "~", "0123456", "1.10", "1e-5", "1.0e-05", "2024-01-01", "12:00:00", "a: b", "#x", ""),
    *(" lead", "{a: 1}", "*a", "<<", ".inf", "0x10", "two\nlines", "\u4e2d \u00fc"),
]


@pytest.mark.parametrize("name", ["align", "perturb", "diff", "encode", "generate", "prune-study", "score", "report"])
def test_words_and_numbers_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    """Every option of a command as a word or number that YAML would read as something else."""
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    for i, word in enumerate(WORDS):
        given = []
        for key, parameter in keys_of(command).items():
            kind = parameter.type_descriptor.annotation
            value = {float: "0.30000000000000004", int: "7"}.get(kind, word)
            if parameter.param_type_name == "option" and kind in (str, float, int) and key not in ("out", "json"):
                given += [f"--{key}={value}"] * (1 + bool(parameter.multiple))
        context = command.make_context(name, [*given, "--", *WORDS[i : i + 1]])
        (tmp_path / name).mkdir(exist_ok=True)
        write_config(context, tmp_path / name)
        again = command.make_context(name, ["--config", str(tmp_path / name / "command.yaml")])
        assert {**again.params, "config": None} == {**context.params, "config": None}
