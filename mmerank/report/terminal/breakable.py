"""Text for narrow tables whose paths are broken where a person would break them."""

from __future__ import annotations

import re
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.containers import Lines
from rich.measure import Measurement
from rich.text import Text


class Breakable(Text):
    """A text that rich may break behind each slash, dot or space, and nowhere else as long as its pieces fit."""

    def wrap(self, console: Console, width: int, *settings: Any, **named: Any) -> Lines:
        """The lines of the text in so many columns.

        Args:
            console: Where it is printed.
            width: Number of columns.
            settings: Not heeded: justification, overflow, and tabs.
            named: The same by name.

        Returns:
            The lines, without spaces at their ends.
        """
        lines = [""]
        for piece in _pieces(self.plain):
            for start in range(0, len(piece), width):
                part = piece[start : start + width]
                if cell_len(lines[-1] + part.rstrip()) > width:
                    lines.append("")
                lines[-1] += part
        return Lines(Text(line.rstrip(), self.style) for line in lines)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(map(cell_len, _pieces(self.plain)), default=0), cell_len(self.plain))


def _pieces(text: str) -> list[str]:
    return re.findall(r"[^/. ]*[/. ]+|[^/. ]+", text)
