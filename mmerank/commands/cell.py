"""Whether the command of a cell would take what a study file says of it, asked before any cell runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mmerank.commands.checking import only_checked
from mmerank.errors import MmerankError, UsageError

if TYPE_CHECKING:
    from mmerank.jobs.cells import Cell


class Checks:
    """Asks the command of each cell.

    Args:
        study: The file, for messages.
        commands: By job, as typer makes them.
        arguments: By job, what the command calls its model.
    """

    def __init__(self, study: Path, commands: Mapping[str, Any], arguments: Mapping[str, str]):
        self._study = study
        self._commands = commands
        self._arguments = arguments

    def check(self, cell: Cell) -> str:
        """Refuse a cell as its command would.

        Args:
            cell: It.

        Returns:
            Why it will fail all the same, as of a model that is not there, which stops its own cells alone.

        Raises:
            UsageError: The command would not take its options, which are named.
        """
        try:
            self._ask(cell, cell.options)
        except UsageError as error:
            raise UsageError(f"{self._study}: {_called(cell)}: {self._keyed(cell, str(error))}") from None
        except MmerankError as error:
            return str(error)
        return ""

    def _keyed(self, cell: Cell, said: str) -> str:
        """What is wrong behind the keys of the file that make it so: those without which it would not be."""
        mended, changed = [], []
        for key in cell.options:
            try:
                self._ask(cell, {name: value for name, value in cell.options.items() if name != key})
                mended.append(key)
            except UsageError as error:
                changed += [key] * (str(error) != said)
            except MmerankError:
                mended.append(key)
        keys = mended or changed
        for key in keys:
            said = re.sub(f"(Invalid value for )?'?--{key}'?: ", "", said)
        named = ", ".join(keys)
        return said if not keys or said.startswith((named, named.replace("-", "_"))) else f"{named}: {said}"

    def _ask(self, cell: Cell, options: Mapping[str, Any]) -> None:
        import yaml

        with TemporaryDirectory() as there:
            file = Path(there) / "cell.yaml"
            content = {"command": cell.job, self._arguments[cell.job]: cell.model, "data": cell.data, **options}
            file.write_text(yaml.safe_dump(content), encoding="utf-8")
            command = self._commands[cell.job]
            try:
                context = command.make_context(cell.job, ["--config", str(file)])
                only_checked(lambda: command.invoke(context))
            except UsageError as error:
                raise UsageError(str(error).removeprefix(f"--config {file}: ")) from None
            except MmerankError:
                raise
            except Exception as error:  # of click, whose classes typer has in one place or another
                if not hasattr(error, "format_message"):
                    raise
                raise UsageError(error.format_message()) from None


def _called(cell: Cell) -> str:
    """A cell as the file has it."""
    varied = "".join(f", {key} {cell.options[key]}" for key in cell.varied)
    return f"{cell.job} of {cell.model} on {cell.data}{varied}"
