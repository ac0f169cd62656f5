"""Files of scores of one's own: CSV, YAML, JSON."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmerank.analysis.scores.entry import Scored, number, read_row
from mmerank.errors import DataError, first_line

if TYPE_CHECKING:
    import pandas as pd

_NEEDED = ("model", "benchmark", "value")
_BESIDE = ("metric", "unit", "n", "low", "high", "chance", "parameters", "loaded")


def frame_of(path: Path, content: bytes) -> pd.DataFrame:
    """A table of text, as its file has it.

    Args:
        path: Its file: `.csv`, `.tsv` or `.xlsx`.
        content: Of the file.

    Returns:
        The rows.

    Raises:
        DataError: It is no table, or a spreadsheet, and openpyxl is not installed.
    """
    import pandas as pd

    # Names are a row like others: pandas would number those that are there twice, and take a column that has none, of
    # rows that are longer, for labels.
    how: dict[str, Any] = {"dtype": str, "keep_default_na": False, "header": None}
    try:
        if path.suffix.lower() == ".xlsx":
            frame: pd.DataFrame = pd.read_excel(io.BytesIO(content), engine="openpyxl", **how)
        else:
            text = content.decode("utf-8-sig")
            frame = pd.read_csv(io.StringIO(text), sep=_separator(path, text), **how)
    except ImportError:
        raise DataError(f"{path}: reading it needs openpyxl, which is not installed; save it as CSV") from None
    except Exception as error:  # pandas has errors of its own
        raise DataError(f"{path}: no table ({first_line(error)})") from None
    names = [str(name).strip() for name in frame.iloc[0]]
    known = [name.casefold() for name in names if name]
    if twice := next((name for name in names if known.count(name.casefold()) > 1), None):
        raise DataError(f"{path}: two columns are called {twice}; leave one")
    frame = frame.iloc[1:].reset_index(drop=True).fillna("")
    frame.columns = names
    return frame.loc[:, [bool(name) for name in names]]  # pandas writes row numbers under no name


def _separator(path: Path, text: str) -> str:
    """Tabs, or commas; semicolons where the names of columns have these alone, as some spreadsheets write them."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    first = text.lstrip().partition("\n")[0]
    return ";" if ";" in first and "," not in first else ","


def of_table(path: Path, content: bytes) -> Iterator[Scored]:
    """Scores in a table.

    Args:
        path: Its file.
        content: Of the file. Long: a row with `model`, `benchmark`, `value` each. Wide: `model`, and a column for
            each benchmark, whose empty cells are left out.

    Yields:
        Each score.

    Raises:
        DataError: It is no such table.
    """
    frame = frame_of(path, content)
    lower = {name.lower(): name for name in frame.columns}
    if "model" not in lower:
        raise DataError(
            f"{path}: no column model; expected model, benchmark, value (and n, unit, parameters), or model and a "
            f"column for each benchmark; it has {', '.join(frame.columns)}"
        )
    rows: list[Any] = frame.to_dict("records")
    if {"benchmark", "value"} & {*lower}:
        if missing := [name for name in _NEEDED if name not in lower]:
            raise DataError(f"{path}: no column {missing[0]}; it has {', '.join(frame.columns)}")
        known = {lower[name]: name for name in (*_NEEDED, *_BESIDE) if name in lower}
        for i, row in enumerate(rows):
            yield read_row({known[key]: value for key, value in row.items() if key in known}, f"{path} row {i + 2}")
        return
    yield from _wide(path, rows, lower)


def _wide(path: Path, rows: list[Any], lower: dict[str, str]) -> Iterator[Scored]:
    benchmarks = [name for key, name in lower.items() if key not in ("model", "parameters", "unit", "n")]
    if not benchmarks:
        raise DataError(f"{path}: models without a benchmark; expected a column for each")
    if "n" in lower and len(benchmarks) > 1:
        raise DataError(f"{path}: n stands beside several benchmarks; write model, benchmark, value, n")
    for i, row in enumerate(rows):
        for benchmark in benchmarks:
            if str(row[benchmark]).strip():
                where = f"{path} row {i + 2}, {benchmark}"
                shared: dict[str, Any] = {
                    key: row[lower[key]] for key in ("model", "parameters", "unit", "n") if key in lower
                }
                yield read_row({**shared, "benchmark": benchmark, "value": row[benchmark]}, where)


def of_content(path: Path, content: Any) -> Iterator[Scored]:
    """Scores in YAML or JSON.

    Args:
        path: Its file, for messages.
        content: A list of `{model, benchmark, value, n, ...}`; or `{unit: UNIT, scores: ...}` around it; or
            `{MODEL: {BENCHMARK: VALUE}}`.

    Yields:
        Each score.

    Raises:
        DataError: It is neither.
    """
    unit = ""
    if isinstance(content, dict) and "scores" in content:
        if unknown := sorted(set(map(str, content)) - {"scores", "unit"}):
            raise DataError(f"{path}: {unknown[0]!r} is not understood beside scores; there may be unit")
        unit, content = str(content.get("unit") or ""), content["scores"]
    if isinstance(content, dict):
        for model, scores in content.items():
            if not isinstance(scores, dict):
                raise DataError(f"{path}: {model}: expected BENCHMARK: VALUE, got {scores!r:.60}")
            for benchmark, value in scores.items():
                where = f"{path}: {model}, {benchmark}"
                number(value, where, "value")
                yield read_row({"model": model, "benchmark": benchmark, "value": value}, where, unit)
        return
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of model, benchmark, value, or MODEL: {{BENCHMARK: VALUE}}")
    for i, row in enumerate(content):
        where = f"{path} entry {i + 1}"
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected model, benchmark and value, got {row!r:.60}")
        if unknown := sorted(set(map(str, row)) - {*_NEEDED, *_BESIDE}):
            raise DataError(f"{where}: {unknown[0]!r} is not understood; known: {', '.join((*_NEEDED, *_BESIDE))}")
        yield read_row({str(key): value for key, value in row.items()}, where, unit)
