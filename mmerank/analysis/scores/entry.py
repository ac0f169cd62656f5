"""One score of a model on a benchmark."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from mmerank.errors import DataError, did_you_mean

Unit = Literal["fraction", "percent", "points", ""]
UNITS: dict[str, Unit] = {"fraction": "fraction", "percent": "percent", "%": "percent", "points": "points", "": ""}
_MOST = {"fraction": 1.0, "percent": 100.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([MBT]?)", re.IGNORECASE)
_SIZES = {"": 1.0, "M": 1e6, "B": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Scored:
    """A score.

    Attributes:
        model: As the file calls it.
        benchmark: Name of the benchmark.
        metric: Which of its numbers; empty where it has one.
        value: As the file has it.
        unit: `fraction` (0 to 1), `percent` (0 to 100), `points` (anything); empty where the file does not say.
        n: Number of questions; 0 where it is not known.
        low: Lower limit of its interval; NaN where there is none.
        high: Upper limit.
        parameters: Of the model; NaN where the file does not say.
        where: File and row, for messages.
        chance: What guessing scores; NaN where the file does not say.
        loaded: Dtype of the model and how it was quantised, where one model is scored in several ways; else empty.
    """

    model: str
    benchmark: str
    value: float
    where: str
    metric: str = ""
    unit: Unit = ""
    n: int = 0
    low: float = math.nan
    high: float = math.nan
    parameters: float = math.nan
    loaded: str = ""
    chance: float = math.nan

    @property
    def name(self) -> str:
        """What tables call the benchmark."""
        return f"{self.benchmark}, {self.metric}" if self.metric else self.benchmark


def read_row(row: dict[str, Any], where: str, unit: str = "") -> Scored:
    """The score in a row.

    Args:
        row: Values by column: `model`, `benchmark`, `value`, and where there are some `metric`, `unit`, `n`, `low`,
            `high`, `parameters`, `chance` and `loaded`.
        where: File and row, for messages.
        unit: Of rows that state none.

    Returns:
        The score.

    Raises:
        DataError: Something is missing, or is no number, or not of its unit.
    """
    value, stated = number(row.get("value"), where, "value")
    unit = stated or str(row.get("unit") or unit).strip().lower()
    if unit not in UNITS:
        known = ", ".join(filter(None, UNITS))
        raise DataError(f"{where}: unit {unit!r}{did_you_mean(unit, UNITS)}; expected one of {known}")
    found = Scored(
        model=_text(row, "model", where),
        benchmark=_text(row, "benchmark", where),
        value=value,
        where=where,
        metric=str(row.get("metric") or "").strip(),
        unit=UNITS[unit],
        n=int(_optional(row, "n", where, 0.0)),
        low=_optional(row, "low", where),
        high=_optional(row, "high", where),
        parameters=_parameters(row.get("parameters"), where),
        loaded=str(row.get("loaded") or "").strip(),
        chance=_optional(row, "chance", where),
    )
    counted = _optional(row, "n", where, 0.0)
    if counted < 0 or counted != found.n:
        raise DataError(f"{where}: n is {counted:g}, expected a number of questions")
    if found.low > value or found.high < value:
        raise DataError(f"{where}: {value:g} is not within its interval, {found.low:g} to {found.high:g}")
    most = _MOST.get(found.unit, math.inf)
    if found.unit in _MOST and not 0 <= value <= most:
        raise DataError(f"{where}: {value:g} is no {found.unit}, which is 0 to {most:g}")
    return found


def number(value: Any, where: str, name: str) -> tuple[float, str]:
    """A number of a file, and the unit that stands behind it.

    Args:
        value: A number, or text.
        where: File and row, for messages.
        name: Of the column.

    Returns:
        The number; `percent` where a % stands behind it, else nothing.

    Raises:
        DataError: It is missing, no number, or not finite.
    """
    text = "" if value is None else str(value).strip()
    percent = text.endswith("%")
    try:
        found = float(text.removesuffix("%"))
    except ValueError:
        found = math.nan
        if text and text.lower() not in ("nan", "none", "null"):
            point = "; write a point, as 85.9" if re.fullmatch(r"-?\d+,\d+%?", text) else ""
            raise DataError(f"{where}: {name} {text!r:.40} is no number{point}") from None
    if isinstance(value, bool) or not math.isfinite(found):
        raise DataError(f"{where}: {name} is {text or 'missing'}, expected a number; leave the row out")
    return found, "percent" if percent else ""


def _optional(row: dict[str, Any], name: str, where: str, default: float = math.nan) -> float:
    value = row.get(name)
    if value is None or str(value).strip().lower() in ("", "nan"):
        return default
    return number(value, where, name)[0]


def _text(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if value is None or not str(value).strip() or value != value:
        raise DataError(f"{where}: no {name}")
    return str(value).strip()


def _parameters(value: Any, where: str) -> float:
    """A number of parameters, also as 7B."""
    if value is None or str(value).strip().lower() in ("", "nan"):
        return math.nan
    found = _SIZE.fullmatch(str(value).strip())
    if isinstance(value, (int, float)) and value > 0:
        return float(value)
    if not found or not float(found.group(1)):
        raise DataError(f"{where}: parameters {value!r}, expected a number, as 7B or 7000000000")
    return float(found.group(1)) * _SIZES[found.group(2).upper()]
