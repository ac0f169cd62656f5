"""What `python -m benchmarks --json FILE` wrote, as Markdown tables for docs/speed.md.

python -m benchmarks.tables benchmarks/results/*.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# What was measured in a row of a case; all else in it says of what.
MEASURES = ("ratios", "seconds", "peak_mb", "tflops")


def tables(content: dict[str, Any]) -> str:
    """A table for each case, a line for each of its rows.

    Args:
        content: Of the file.

    Returns:
        Markdown.
    """
    return "\n".join(_table(name, lines) for name, lines in content["cases"].items() if lines)


def _table(name: str, lines: list[dict[str, Any]]) -> str:
    what = [key for key in lines[0] if key not in MEASURES]
    of = {
        measure: list(dict.fromkeys(key for line in lines for key in line.get(measure, {}))) for measure in MEASURES
    }
    units = {"seconds": "{} s", "peak_mb": "{} MB", "tflops": "{} TFLOP", "ratios": "{}"}
    columns = [(measure, key) for measure in ("seconds", "tflops", "peak_mb", "ratios") for key in of[measure]]
    head = [*what, *(units[measure].format(key) for measure, key in columns)]
    rows = [[*(str(line[key]) for key in what), *(_cell(line, *column) for column in columns)] for line in lines]
    shown = ["", f"`{name}`", "", *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)), ""]
    return "\n".join(shown)


def _cell(line: dict[str, Any], measure: str, key: str) -> str:
    value = line.get(measure, {}).get(key)
    if value is None:
        return ""
    if measure != "ratios":
        return _three(value)
    spread = f" ({_three(value['low'])} to {_three(value['high'])})" if value["rounds"] > 1 else ""
    return _three(value["median"]) + spread


def _three(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def main(paths: list[str]) -> None:
    """Print the tables of each file, under what it was made on."""
    for path in paths:
        content = json.loads(Path(path).read_text())
        machine = ", ".join(f"{key} {value}" for key, value in content["machine"].items() if value is not None)
        print(f"\n{machine}; {content['clock']} time, {content['rounds']} rounds")
        print(tables(content))


if __name__ == "__main__":
    main(sys.argv[1:])
