"""`--config FILE`: options of a command from a file, and the file that a run leaves of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from mmerank.durable import whole
from mmerank.errors import UsageError, did_you_mean, first_line
from mmerank.processes import rank
from mmerank.yaml_files import yaml_file

COMMAND = "command"
FILE = "command.yaml"  # in a run folder
# Where results go is not what they are; the others say nothing of them.
_NOT_IN_FILES = ("config", "help", "debug", "out", "json")


def read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Take what a file says as the defaults of a command's options and arguments, so that the command line wins.

    Args:
        ctx: Of the command.
        path: YAML, `{OPTION: VALUE, ...}` as on the command line without dashes in front; arguments by their names
            (`models`); lists where an option may be given several times or has values joined by commas.

    Returns:
        The path.

    Raises:
        UsageError: The file cannot be read, is of another command, or says what the command has not.
    """
    if path is None or ctx.resilient_parsing:
        return path
    content = _content(path)
    of = content.pop(COMMAND, ctx.info_name)
    if of != ctx.info_name:
        raise UsageError(f"--config {path}: is of mmerank {of}, not of mmerank {ctx.info_name}")
    known = keys_of(ctx.command)
    defaults: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("_", "-")
        if name not in known:
            unknown = f"--config {path}: mmerank {ctx.info_name} has no {key!r}"
            raise UsageError(f"{unknown}{did_you_mean(name, known)}")
        defaults[known[name].name] = _value(path, key, value, known[name])
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return path


def write_config(ctx: typer.Context, folder: Path) -> None:
    """Write the file with which `--config` gives the same command again; of several processes the first does.

    Args:
        ctx: Of the command.
        folder: An existing folder. A file that another command left there stays, as in a run folder that a report is
            written to.
    """
    import yaml

    if not rank().leads or _of_another(ctx, folder / FILE):
        return
    given: dict[str, Any] = {COMMAND: ctx.info_name}
    for key, parameter in keys_of(ctx.command).items():
        if key not in _NOT_IN_FILES and is_stated(ctx, parameter.name):
            given[key] = _plain(ctx.params[parameter.name])
    with whole(folder / FILE) as unfinished:
        unfinished.write_text(yaml.safe_dump(given, sort_keys=False, allow_unicode=True), encoding="utf-8")


def is_stated(ctx: typer.Context, name: str) -> bool:
    """Whether a parameter is from the command line or a file, and not a default.

    Args:
        ctx: Of the command.
        name: Of the parameter.

    Returns:
        Whether it is.
    """
    source = ctx.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP")


def _of_another(ctx: typer.Context, path: Path) -> bool:
    try:
        return path.is_file() and _content(path).get(COMMAND) != ctx.info_name
    except UsageError:
        return True


def _content(path: Path) -> dict[Any, Any]:
    try:
        content = yaml_file(path, words=True)
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # what int(), float() and others raise comes through, and RecursionError
        raise UsageError(f"--config {path}: not valid YAML ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: expected OPTION: VALUE in each line, got {type(content).__name__}")
    return content


def keys_of(command: Any) -> dict[str, Any]:
    """The parameters that a file may name, by what it calls them.

    Args:
        command: As typer makes it.

    Returns:
        Options without the dashes in front, and arguments.
    """
    found = {}
    for parameter in command.params:
        longest = max(parameter.opts, key=len).lstrip("-")
        if longest not in ("config", "help", "debug"):
            found[longest.replace("_", "-")] = parameter
    return found


def _value(path: Path, key: Any, value: Any, parameter: Any) -> Any:
    """A value of the file as the command line would have it."""
    where = f"--config {path}: {key}"
    if value is None:
        raise UsageError(f"{where}: has no value")
    flag = bool(getattr(parameter, "is_flag", False))
    if flag != isinstance(value, bool):
        meant = "" if flag else "; YAML reads no, off, on and yes as these, where they have no quotes"
        raise UsageError(f"{where}: expected {'true or false' if flag else 'text or a number'}, got {value!r}{meant}")
    several = parameter.nargs == -1 or bool(getattr(parameter, "multiple", False))
    entries = value if isinstance(value, list) else [value]
    if any(isinstance(entry, (dict, list, bool)) or entry is None for entry in entries) and not flag:
        raise UsageError(f"{where}: expected text or numbers, got {value!r}")
    if several:
        return [str(entry) for entry in entries]
    return ",".join(map(str, entries)) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, (bool, int, float)) else str(value)
