"""What a screen has room for of many numbers: the largest effects first, where they act, and how to see the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmerank.analysis.comparison import MANY
from mmerank.analysis.metrics.alignment import ALIGNMENT, LABELS
from mmerank.analysis.metrics.known import quantity
from mmerank.analysis.perturbation import Null
from mmerank.analysis.results.diff import DiffResult
from mmerank.analysis.results.perturbation import EncoderPerturbationResult, PerturbationResult
from mmerank.analysis.statistics.paired import ComparisonResult, PairedDifference
from mmerank.eranks import ERANKS
from mmerank.report.names import short_data
from mmerank.report.terminal.alignment import standing
from mmerank.report.terminal.diff import diff_notes, diff_table, sweep_table
from mmerank.report.terminal.encoding import standing as encoder_standing
from mmerank.report.terminal.intervals import interval_text
from mmerank.report.terminal.parts import airy_table, called
from mmerank.report.terminal.perturbation import difference_text, told_from_zero

# Transforms, layers and models in a screen.
_MOST = 10
_LAYERS = 3


def ordered_effects(tests: Mapping[str, ComparisonResult], names: Sequence[str]) -> dict[str, list[PairedDifference]]:
    """What each transform moves, the largest standardised change first; of transforms, too.

    Args:
        tests: By transform.
        names: Quantities that are looked at.

    Returns:
        By transform; what it cannot move is left out.
    """
    found = {
        transform: sorted(
            (of for of in comparison.differences if of.quantity in names and of.quantity not in comparison.fixed),
            key=lambda of: -_size(of, comparison.n),
        )
        for transform, comparison in tests.items()
    }
    sizes = {name: max((_size(of, tests[name].n) for of in some), default=-1.0) for name, some in found.items()}
    return {name: found[name] for name in sorted(found, key=lambda name: -sizes[name])}


def _size(of: PairedDifference, n: int) -> float:
    """The standardised change, without its sign; of statistics of pairs, which have none, by its interval."""
    if math.isfinite(of.d_z):
        return abs(of.d_z)
    half = (of.high - of.low) / 2
    return abs(of.difference) / half * 1.96 / math.sqrt(n) if half > 0 else 0.0


def place(name: str) -> str:
    """What a number is called and where it is read, as `eRank1 vision` or `eRank5 llm/pair`."""
    if name not in ERANKS:
        return quantity(name).label
    point, kind = ERANKS[name]
    return f"{LABELS[name]} {point}" + (f"/{kind}" if point == "llm" else "")


def listed(names: Sequence[str]) -> str:
    """Numbers in few letters, as `eRank1, 2, 5; Alignment`."""
    eranks = ", ".join(name.removeprefix("erank") for name in names if name in ERANKS)
    others = [quantity(name).head for name in names if name not in ERANKS]
    return "; ".join([*([f"eRank{eranks}"] if eranks else []), *others]) or "nowhere"


def effects_table(
    title: str, tests: Mapping[str, ComparisonResult], places: Sequence[str], names: Sequence[str]
) -> Table:
    """A row per transform: its largest standardised change, and everything that is told from 0.

    Args:
        title: Above it.
        tests: By transform.
        places: Quantities of a place each, by which transforms are ordered.
        names: All that are looked at.

    Returns:
        The table, for a rich console.
    """
    table = airy_table(title)
    table.add_column("", overflow="fold")
    table.add_column("largest at")
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("d_z", justify="right", no_wrap=True)
    table.add_column("told from 0,\nlargest first")
    effects, every = ordered_effects(tests, places), ordered_effects(tests, names)
    for transform, found in list(effects.items())[:_MOST]:
        if not found:
            table.add_row(Text(transform), "nowhere", "=", "-", "")
            continue
        first, d = found[0], quantity(found[0].quantity).decimals
        finite = math.isfinite(first.low) and math.isfinite(first.high)
        interval = interval_text((first.low, first.high) if finite else None, d, first.difference)
        change = f"{difference_text(first.difference, d, told_from_zero(first))} {interval}".rstrip()
        told = listed([of.quantity for of in every[transform] if told_from_zero(of)])
        size = f"{first.d_z:+.2f}" if math.isfinite(first.d_z) else "-"
        table.add_row(Text(transform), place(first.quantity), Text(change), size, told)
    return table


def effects_notes(tests: Mapping[str, ComparisonResult]) -> list[str]:
    """How many transforms are not shown, and what the columns are.

    Args:
        tests: By transform.

    Returns:
        Lines.
    """
    more = [f"  and {len(tests) - _MOST} more transforms, with smaller changes"] if len(tests) > _MOST else []
    first = next(iter(tests.values()), None)
    if first is None:
        return more
    return [
        *more,
        f"  *: an interval without 0, and q < 0.05 over {first.tests} tests; d_z: mean / sd of the changes",
        *(["  with few examples little is told from 0, whatever changes"] if first.n < 20 else []),
    ]


def rest(out: Path | None) -> str:
    """How to see what is not shown.

    Args:
        out: The run folder, if there is one.

    Returns:
        A line.
    """
    kept = f"mmerank report {out}" if out is not None else "--out DIR and mmerank report DIR"
    return f"every number, interval and test: --all; as a page with figures: {kept}; words: mmerank glossary"


def perturbation_summary(result: PerturbationResult, out: Path | None = None) -> RenderableType:
    """What `mmerank perturb` prints of a model.

    Args:
        result: Of one model.
        out: The run folder, if there is one.

    Returns:
        Something a rich console can print, a screen high.
    """
    base, parts, lines = result.base, list[RenderableType](), []
    if result.tests:
        title = f"{called(base)} on {short_data(base.data)}: what changes act, and where"
        parts.append(effects_table(title, result.tests, tuple(ERANKS), ALIGNMENT))
        lines += effects_notes(result.tests)
    numbers = ", ".join(f"{getattr(base, label):.2f}" for label in ERANKS)
    lines.append(
        f"before: eRank1 to 5 {numbers}; Image Reduction Ratio {base.image_reduction_ratio:.4f}, "
        f"Image-Text Alignment {base.image_text_alignment:.4f}"
    )
    lines += [line for null in result.controls for line in _null_lines(null)]
    if result.tests_matched:
        both = [
            (test, result.tests_matched[name][test.quantity])
            for name, tests in result.tests.items()
            for test in tests.differences
            if name in result.tests_matched and told_from_zero(test)
        ]
        same = sum(told_from_zero(b) and a.difference * b.difference > 0 for a, b in both)
        rows = base.convention.match_tokens
        if both:
            lines.append(f"on {rows} rows each: {same} of {len(both)} changes that are told from 0 are so there, too")
    lines += standing(base, brackets=False)
    return Group(*parts, *map(Text, [*lines, rest(out)]))


def _null_lines(null: Null) -> list[str]:
    """The Image-Text Alignment among that of pictures with other texts."""
    if (test := null.tests.get("image_text_alignment")) is None:
        return []
    return [
        f"with other examples' texts ({null.control}): Image-Text Alignment {test.null_mean:.4f} on average, here "
        f"{test.value:.4f}, p = {test.p:.2g} over {test.draws} draws"
    ]


def encoder_perturbation_summary(result: EncoderPerturbationResult, out: Path | None = None) -> RenderableType:
    """The same of an encoder.

    Args:
        result: Of one encoder.
        out: The run folder, if there is one.

    Returns:
        Something a rich console can print, a screen high.
    """
    title = f"{called(result.base)} on {short_data(result.base.data)}: what changes act, and where"
    names = list(result.transforms[0].delta)
    lines = [*effects_notes(result.tests), *encoder_standing(result.base), rest(out)]
    return Group(effects_table(title, result.tests, names, names), *map(Text, lines))


def diff_summary(results: Sequence[DiffResult]) -> list[Table]:
    """What `mmerank diff` prints in tables of models, a column each, or a row each of many.

    Args:
        results: At least one.

    Returns:
        One table; by layer and metric nothing.
    """
    return [diff_table(results, short=True) if len(results) <= MANY else sweep_table(results)]


def diff_summary_notes(results: Sequence[DiffResult], out: Path | None = None) -> list[str]:
    """What the numbers stand on, where layers differ most, and how to see the rest.

    Args:
        results: At least one.
        out: The run folder, if there is one.

    Returns:
        Lines.
    """
    lines = list(dict.fromkeys(diff_notes(results)))  # what holds of all is said once
    for result in results[:MANY]:
        if len(result.points) > 1:
            largest = sorted(result.points, key=lambda point: -abs(point.diff_erank))[:_LAYERS]
            told = ", ".join(
                f"{of.point} {of.diff_erank:+.2f} "
                f"{interval_text(result.layer_intervals[of.point].get('diff_erank'), 2, of.diff_erank)}".rstrip()
                for of in largest
            )
            lines.append(f"{called(result)}, largest Diff-eRank of {len(result.points)} layers: {told}")
    if any(result.metrics is not None for result in results):
        lines.append("metrics that were asked for: --all")
    return [*lines, rest(out)]
