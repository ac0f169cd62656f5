"""The metrics that a run asks for, of the rows of one measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmerank.convention import AT_CONNECTOR_ROWS, Convention, TextConvention
from mmerank.errors import UsageError
from mmerank.formulas.arrays import Floats
from mmerank.formulas.asked import between, entry, value_of
from mmerank.formulas.cloud import Cloud, Known
from mmerank.formulas.entry import FITTED, SAMPLED, Entry
from mmerank.inputs.sequence import Role
from mmerank.runs.record import MATCHED, NO_VALUE, VALUE, open_fields
from mmerank.states.reductions import orders


@dataclass(frozen=True)
class Metrics:
    """The metrics of a convention, as they are taken of rows.

    Attributes:
        convention: Names them, and says how many rows are drawn to match.
        roles: Of the rows of a pair, or of a text; None elsewhere, where nothing is pooled or between modalities.
        behind: Of vision rows: how many the connector makes of them; None elsewhere.
    """

    convention: Convention | TextConvention
    roles: tuple[Role, ...] | None = None
    behind: int | None = None

    def fields(self, h: Floats, known: Known | None, where: str) -> dict[str, float | str | None]:
        """Every metric of the rows.

        Args:
            h: Hidden states, (n, d), float64.
            known: What has been computed of them, centred by their mean and in float64; None where they were centred
                or computed otherwise.
            where: Example, hook point and input, which decide with the seed which rows are drawn.

        Returns:
            By column of the record: the number, why there is none, or None where it is not of these rows.
        """
        asked = self.convention
        matched = isinstance(asked, Convention) and asked.match_tokens is not None
        columns = [of.name for of in open_fields(asked.metrics, matched=matched) if of.name != NO_VALUE]
        found: dict[str, float | str | None] = dict.fromkeys(columns)
        entries = [entry(name) for name in self.convention.metrics]
        taken = [of for of in entries if of.takes == ("h",) or (self.roles is not None and of.takes[0] == "image")]
        every = _Rows(h, self.roles, known)
        for of in taken:
            found[f"{VALUE}{of.name}"] = every.value(of)
        if isinstance(asked, Convention) and self.behind is not None and AT_CONNECTOR_ROWS in asked.metrics:
            plain = entry("erank_diff_erank")
            seed = f"{asked.match_seed}/connector/{where}"
            few = every if self.behind >= len(h) else _Draws(every, self.behind, asked.match_repeats, seed)
            found[f"{VALUE}{AT_CONNECTOR_ROWS}"] = few.mean(plain) if isinstance(few, _Draws) else few.value(plain)
        if isinstance(asked, Convention) and asked.match_tokens is not None:
            follow = [of for of in taken if of.follows_rows]
            draws = _Draws(every, asked.match_tokens, asked.match_repeats, f"{asked.match_seed}/{where}")
            found |= {f"{MATCHED}{of.name}": draws.mean(of) for of in follow}
        return found

    def sampled(self, h: Floats, example: str) -> dict[str, NDArray[np.float32]]:
        """Some of the rows, for metrics that pool them over the data set: the same at every layer.

        Args:
            h: Hidden states, (n, d), float64.
            example: Its id, which alone decides which rows they are.

        Returns:
            Fields of the record, up to `SAMPLED` rows together, of each modality that is there as many, in their
            order; nothing where no metric asks for them.
        """
        if self.roles is None or not any(entry(name).pooled for name in self.convention.metrics):
            return {}
        places = {role: _places(self.roles, role) for role in (Role.IMAGE, Role.TEXT)}
        most = SAMPLED // max(1, sum(map(bool, places.values())))
        found = {}
        for role, of in places.items():
            name = f"rows_{role.name.lower()}"
            chosen = sorted(of[i] for i in orders(f"{name}/{example}", len(of))[:most])
            found[name] = h[chosen].astype(np.float32).ravel()
        return found


@dataclass(frozen=True)
class _Rows:
    """Rows and what they are."""

    h: Floats
    roles: tuple[Role, ...] | None
    known: Known | None = None

    def value(self, of: Entry) -> float | str:
        if of.takes == ("h",):
            return value_of(of, lambda: self._cloud.value(of))
        return value_of(of, lambda: between(of, self.h[self.of(Role.IMAGE)], self.h[self.of(Role.TEXT)]))

    def of(self, role: Role) -> list[int]:
        """Places of the rows of a role."""
        return _places(self.roles or (), role)

    @cached_property
    def _cloud(self) -> Cloud:
        return Cloud(self.h, self.known)


def _places(roles: Sequence[Role], role: Role) -> list[int]:
    return [i for i, found in enumerate(roles) if found is role]


class _Draws:
    """As many rows drawn at random, several times; of a metric between modalities, as many of both."""

    def __init__(self, rows: _Rows, count: int, repeats: int, where: str):
        self._rows = rows
        self._count = count
        n = len(rows.h)
        self._of_all = (
            [_Rows(rows.h[orders(f"{where}/{i}", n)[:count]], None) for i in range(repeats)] if count <= n else []
        )
        parts = [rows.of(role) for role in (Role.IMAGE, Role.TEXT)]
        self._parts = min(map(len, parts))
        self._of_both: list[_Rows] = []
        if self._parts >= count:
            for i in range(repeats):
                chosen = [
                    [part[place] for place in orders(f"{where}/{name}/{i}", len(part))[:count]]
                    for name, part in zip(("image", "text"), parts, strict=True)
                ]
                roles = (Role.IMAGE,) * count + (Role.TEXT,) * count
                self._of_both.append(_Rows(rows.h[[*chosen[0], *chosen[1]]], roles))

    def mean(self, of: Entry) -> float | str:
        """Over the draws that have a number; of effective ranks that of their logarithms."""
        draws = self._of_all if of.takes == ("h",) else self._of_both
        if not draws:
            there = len(self._rows.h) if of.takes == ("h",) else self._parts
            return f"{there} rows, and {self._count} are drawn to match"
        values = [draw.value(of) for draw in draws]
        numbers = [value for value in values if not isinstance(value, str)]
        if not numbers:
            return str(values[0])
        if of.averaged == "log":
            return math.exp(math.fsum(map(math.log, numbers)) / len(numbers))
        return math.fsum(numbers) / len(numbers)


def keeps_mean_states(convention: Convention) -> bool:
    """Whether some of its metrics are taken of the examples' mean states, or it says so itself."""
    return convention.companions or any(entry(name).of_states for name in convention.metrics)


def refuse_without_layers(metrics: Sequence[str]) -> None:
    """Say that what is taken from one layer to the next needs two.

    Args:
        metrics: Names, of a run that measures the LLM at its last layer alone.

    Raises:
        UsageError: One of them is.
    """
    for name in metrics:
        if entry(name).takes == FITTED:
            raise UsageError(
                f"metric {name!r} is taken from one layer to the next, and this run measures the last one alone; "
                "`mmerank align` and `mmerank diff` measure more with --layers"
            )
