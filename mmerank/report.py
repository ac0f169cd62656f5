"""Numbers -> what a person reads in a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmerank.alignment import Alignment
from mmerank.breakable import Breakable
from mmerank.diff_erank import Diff
from mmerank.doctor import Examination
from mmerank.eranks import ERANKS
from mmerank.inputs import Skipped
from mmerank.perturbation import Perturbation
from mmerank.perturbation_report import (
    DECIMALS,
    difference_text,
    matched_table,
    null_table,
    tests_notes,
    tests_table,
    told_from_zero,
)
from mmerank.row_report import row_standing, row_tables
from mmerank.text_probe import FINAL
from mmerank.uncertainty import NAMES, interval_line, interval_text, plain

SKIPS_SHOWN = 10
# In 80 columns.
EXPLAINED = 1  # results beside which there is room to say where each number is read
INLINE = 2  # results whose intervals fit behind the numbers, and not below
NARROW = 4  # results from which on the names of the rows are broken
MANY = 4  # models that have room beside each other


def alignment_table(results: Sequence[Alignment], *, beside: Sequence[Mapping[str, float]] | None = None) -> Table:
    """A table with a column per result, as in the paper's Table 2.

    Args:
        results: At least one.
        beside: For each result, other numbers by the same names, shown behind ours in round brackets.

    Returns:
        The table, for a rich console.
    """
    others = beside or [{}] * len(results)

    def cells(label: str, decimals: int) -> list[Text]:
        ours = [f"{getattr(result, label):.{decimals}f}" for result in results]
        theirs = [f" ({other[label]:.{decimals}f})" if label in other else "" for other in others]
        limits = [interval_text(result.intervals.get(label), decimals) for result in results]
        return [Text(_joined(a + b, c, len(results))) for a, b, c in zip(ours, theirs, limits, strict=True)]

    table = _by_model("Image-text alignment", results, explained=len(results) <= EXPLAINED)
    explained = len(results) <= EXPLAINED
    for label, (point, kind) in ERANKS.items():
        name = label.replace("erank", "eRank")
        table.add_row(name, *([f"{point} / {kind}"] if explained else []), *cells(label, 2))
    table.add_section()
    for label in ("image_reduction_ratio", "image_text_alignment"):
        table.add_row(NAMES[label], *([""] if explained else []), *cells(label, 4))
    if any(others):
        table.caption = "in round brackets: the paper"
    return table


def alignment_tables(results: Sequence[Alignment]) -> list[Table]:
    """`alignment_table`, and behind it the tables of what else was asked for.

    Args:
        results: At least one.

    Returns:
        Tables for a rich console.
    """
    beside = (table for result in results for table in row_tables(result, _short(result.model)))
    return [alignment_table(results), *beside]


def alignment_text(results: Sequence[Alignment]) -> str:
    """Tables and standing as plain text, 100 columns wide.

    Args:
        results: At least one.

    Returns:
        Lines without a trailing newline.
    """
    return "\n".join([plain(*alignment_tables(results)), *alignment_notes(results)])


def alignment_notes(results: Sequence[Alignment]) -> list[str]:
    """What all results stand on, as lines."""
    return [line for result in results for line in standing(result)]


def standing(result: Alignment, *, brackets: bool = True) -> list[str]:
    """What the numbers stand on: how many examples, how many tokens, what was skipped and why.

    Args:
        result: One of them.
        brackets: Whether its intervals stand in brackets beside the numbers.

    Returns:
        Lines.
    """
    total = result.n + len(result.skipped)
    skipped = f", {len(result.skipped)} skipped" if result.skipped else ""
    tokens = ", ".join(f"{result.mean_tokens(label):.0f}" for label in ERANKS)
    lines = [
        f"{result.model} on {result.data}: n = {result.n} of {total} examples{_choice(result)}{skipped}",
        f"  mean tokens behind eRank1-5: {tokens}",
        *([interval_line(result.bootstrap, result.n)] if brackets else []),
    ]
    lines += _skips(result.skipped)
    if result.text_cut:
        lines.append(f"  text cut at the model's limit: {result.text_cut} of the examples")
    return lines + row_standing(result)


def perturbation_table(result: Perturbation) -> Table:
    """A row for the base and for each transform, under each number by how much it rose or fell, starred by its q.

    Args:
        result: Of one model.

    Returns:
        The table, for a rich console.
    """
    title = f"{_short(result.base.model)} on {_short(result.base.data)}: before and after"
    table = Table(
        title=Text(title),
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", overflow="fold")
    for label, (point, kind) in ERANKS.items():
        table.add_column(f"{label.replace('erank', 'eRank')}\n{point}\n{kind}", justify="right")
    table.add_column("Image\nReduction\nRatio", justify="right")
    table.add_column("Image-Text\nAlignment", justify="right")
    table.add_row("base", *(f"{getattr(result.base, name):.{d}f}" for name, d in DECIMALS.items()))
    for changed in result.transforms:
        tests = result.tests[changed.transform]
        told = {name: told_from_zero(tests[name]) for name in DECIMALS}
        values = (
            f"{getattr(changed.result, name):.{d}f}\n{difference_text(changed.delta[name], d, told[name])}"
            for name, d in DECIMALS.items()
        )
        table.add_row(Text(changed.transform), *values)
    return table


def perturbation_view(result: Perturbation) -> RenderableType:
    """What `mmerank perturb` prints.

    Args:
        result: Of one model.

    Returns:
        Something a rich console can print.
    """
    checks = result.checks
    found = {"eRank4": checks.text, "any eRank": checks.reuse, "identity": checks.identity}
    shown = ", ".join(f"{name} {value:.1e}" for name, value in found.items() if not math.isnan(value))
    lines = standing(result.base, brackets=False)
    if result.tests:
        lines += tests_notes(result.tests)
    if shown:
        lines += ["  largest differences that should be rounding, of examples measured again alone", f"    {shown}"]
    tables = [perturbation_table(result)]
    if result.tests:
        tables.append(tests_table(result.tests, result.base.intervals))
    if result.controls:
        tables.append(null_table(result.controls))
    matched = {c.transform: c.delta_matched for c in result.transforms if c.delta_matched is not None}
    if matched:
        tables.append(matched_table(matched, result.base.convention.match_tokens or 0))
    tables += row_tables(result.base, "base")
    for changed in result.transforms:
        tables += row_tables(changed.result, changed.transform)
    return Group(*tables, *map(Text, lines))


def perturbation_text(result: Perturbation) -> str:
    """What `mmerank perturb` prints, as plain text, 100 columns wide.

    Args:
        result: Of one model.

    Returns:
        Lines without a trailing newline.
    """
    return plain(perturbation_view(result))


def diff_tables(results: Sequence[Diff]) -> list[Table]:
    """The results, and by layer where layers were asked for.

    Args:
        results: At least one.

    Returns:
        A column per model, or a row per model where they are many; then a table per model with layers.
    """
    main = diff_table(results) if len(results) <= MANY else sweep_table(results)
    return [main, *(layer_table(result) for result in results if len(result.points) > 1)]


def sweep_table(results: Sequence[Diff]) -> Table:
    """A row per model, for many of them: the checkpoints of a training, as in the paper's Table 10.

    Args:
        results: At least one.

    Returns:
        The table, for a rich console.
    """
    with_loss = any(not math.isnan(result.loss_trained) for result in results)
    tasks = _tasks(results)
    names = [_short(result.model) for result in results]
    fronts = {name[: max(name.rfind("/"), name.rfind("@")) + 1] for name in names}
    shared = fronts.pop() if len(fronts) == 1 else ""
    table = Table(
        title=Text(f"Diff-eRank {shared}".rstrip("/@ ")),
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", overflow="fold")
    losses = ("loss", "reduced\nloss") if with_loss else ()
    for heading in ("eRank\nuntrained", "eRank\ntrained", "Diff-\neRank", "ratio", *losses, *tasks):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, result in zip(names, results, strict=True):
        final = result.final
        eranks = (final.erank_untrained, final.erank_trained, final.diff_erank, final.erank_ratio)
        numbers = [f"{value:.2f}" for value in eranks]
        if with_loss:
            numbers += [_number(value) for value in (result.loss_trained, result.reduced_loss)]
        numbers += [_number(_accuracy(result, task)) for task in tasks]
        table.add_row(Text(name.removeprefix(shared)), *numbers)
    return table


def diff_table(results: Sequence[Diff]) -> Table:
    """A table with a column per model, as in the paper's Tables 1, 6, 7 and 8 turned on their side.

    Args:
        results: At least one.

    Returns:
        The table, for a rich console.
    """
    table = _by_model("Diff-eRank", results)
    table.caption = (
        "Diff-eRank: untrained - trained; by mean of eRanks: the paper's algorithm (b), else its (a)\n"
        "of the possible: eRank / min(tokens - 1, width)"
    )

    def row(name: str, number: Callable[[Diff], float], decimals: int, label: str = "") -> None:
        numbers = [(number(result), result.intervals.get(label)) for result in results]
        table.add_row(
            name,
            *(
                ""
                if math.isnan(value)
                else Text(_joined(f"{value:.{decimals}f}", interval_text(interval, decimals), len(results)))
                for value, interval in numbers
            ),
        )

    row("eRank, untrained", lambda r: r.final.erank_untrained, 2, "erank_untrained")
    if any(len(result.seeds) > 1 for result in results):
        row("  ± over seeds", lambda r: r.final.erank_untrained_stdev, 2)
    row("eRank, trained", lambda r: r.final.erank_trained, 2, "erank_trained")
    row("Diff-eRank", lambda r: r.final.diff_erank, 2, "diff_erank")
    row("  by mean of eRanks", lambda r: r.final.diff_erank_mean_of_eranks, 2, "diff_erank_mean_of_eranks")
    row("untrained / trained", lambda r: r.final.erank_ratio, 2, "erank_ratio")
    row("of the possible, untrained", lambda r: r.final.erank_fraction_untrained, 3, "erank_fraction_untrained")
    row("of the possible, trained", lambda r: r.final.erank_fraction_trained, 3, "erank_fraction_trained")
    if any(not math.isnan(result.loss_trained) for result in results):
        table.add_section()
        row("loss, untrained (nats)", lambda r: r.loss_untrained, 4, "loss_untrained")
        row("loss, trained (nats)", lambda r: r.loss_trained, 4, "loss_trained")
        row("reduced loss", lambda r: r.reduced_loss, 4, "reduced_loss")
    if tasks := _tasks(results):
        table.add_section()
        for task in tasks:
            row(f"accuracy, {task}", partial(_accuracy, task=task), 4)
    return table


def layer_table(result: Diff) -> Table:
    """A row per hook point of one model.

    Args:
        result: With more layers than the final one.

    Returns:
        The table, for a rich console.
    """
    table = Table(title=f"{_short(result.model)}, by layer", title_justify="left")
    for heading in ("", "untrained", "trained", "Diff-eRank"):
        table.add_column(heading, justify="right" if heading else "left")
    for point in result.points:
        limits = result.layer_intervals[point.point]
        labels = ("erank_untrained", "erank_trained", "diff_erank")
        numbers = (f"{getattr(point, label):.2f} {interval_text(limits.get(label), 2)}".rstrip() for label in labels)
        table.add_row(point.point, *map(Text, numbers))
    return table


def diff_text(results: Sequence[Diff]) -> str:
    """Tables and standing as plain text, 100 columns wide.

    Args:
        results: At least one.

    Returns:
        Lines without a trailing newline.
    """
    return "\n".join([plain(*diff_tables(results)), *diff_notes(results)])


def diff_notes(results: Sequence[Diff]) -> list[str]:
    """What all results stand on, and whether they can be held against each other.

    Args:
        results: At least one.

    Returns:
        Lines.
    """
    lines = [line for result in results for line in diff_standing(result)]
    counts = [
        {
            record.example: record.n
            for record in result.records
            if (record.model, record.point) == (result.model, FINAL)
        }
        for result in results
    ]
    common = set.intersection(*map(set, counts))
    if any(found[example] != counts[0][example] for found in counts for example in common):
        lines.append(
            "caution: the models read the same texts as different numbers of tokens, so neither losses per token nor "
            "eRanks of one are comparable with another's; hold each against its own untrained model"
        )
    return lines


def diff_standing(result: Diff) -> list[str]:
    """What the numbers stand on: how many texts and tokens, which twins, what was skipped and why.

    Args:
        result: One of them.

    Returns:
        Lines.
    """
    mode = "dropout on" if result.convention.untrained_mode == "train" else "dropout off"
    seeds = ", ".join(map(str, result.seeds))
    cut = f", {result.text_cut} of them cut" if result.text_cut else ""
    return [
        f"{result.model} on {result.data}: n = {result.n} of {result.n + len(result.skipped)} texts"
        f"{_choice(result)}, {result.tokens:,} tokens{cut}; "
        f"untrained: seed {seeds}, {mode}",
        interval_line(result.bootstrap, result.n),
        *(
            f"  accuracy, {task}: over {found.n:,} questions, standard error {found.stderr:.4f}"
            for task, found in result.accuracy.items()
        ),
        *_skips(result.skipped),
    ]


def _tasks(results: Sequence[Diff]) -> list[str]:
    return list(dict.fromkeys(task for result in results for task in result.accuracy))


def _accuracy(result: Diff, task: str) -> float:
    return result.accuracy[task].value if task in result.accuracy else math.nan


def _number(value: float, decimals: int = 4) -> str:
    return "" if math.isnan(value) else f"{value:.{decimals}f}"


def examination_view(found: Examination) -> RenderableType:
    """What `mmerank doctor` prints.

    Args:
        found: By `mmerank.doctor.examine`.

    Returns:
        Something a rich console can print.
    """
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("model", Breakable(_clean(found.model)))
    for key, value in found.source.items():
        if value not in (None, []):
            facts.add_row(key, Breakable(_fact(value)))
    facts.add_row("parameters", f"{found.parameters:,} ({', '.join(found.places)})")

    points = Table(title="Hook points", title_justify="left")
    for heading in ("point", "module", "side", "input: tokens x width"):
        points.add_column(heading, overflow="fold")
    for name, point in found.points.items():
        skip = f", without the first {point['skip']}" if point["skip"] else ""
        shapes = "\n".join(f"{kind}: {n} x {d}" for kind, (n, d) in point["shapes"].items())
        points.add_row(name, Breakable(point["module"]), point["side"] + skip, shapes)

    alternatives = Table(title="For --vision-point", title_justify="left", show_header=False)
    for name, where in found.vision_points.items():
        alternatives.add_row(name, Breakable(where))

    layout = Table(title=f"Token layout of example {_clean(found.example)}", title_justify="left")
    for heading in ("input", "positions", "role", "counted", "tokens"):
        layout.add_column(heading, justify="right" if heading == "positions" else "left", overflow="fold")
    for kind, stretches in found.layout.items():
        for i, stretch in enumerate(stretches):
            positions = f"{stretch.first}" if stretch.first == stretch.last else f"{stretch.first}-{stretch.last}"
            counted = "yes" if stretch.counted else "no"
            layout.add_row(
                "" if i else kind, positions, stretch.role, counted, Text(_clean(_middle_cut(stretch.text)))
            )
        layout.add_section()

    numbers = "  ".join(f"{label.replace('erank', 'eRank')} {value:.2f}" for label, value in found.eranks.items())
    lines = [Text(f"This example: {numbers}"), *(Text(f"warning: {line}") for line in found.warnings)]
    return Group(facts, "", points, "", alternatives, "", layout, "", *lines)


def _skips(skipped: Sequence[Skipped]) -> list[str]:
    lines = [f"  skipped {_clean(entry.id)}: {_clean(entry.reason)}" for entry in skipped[:SKIPS_SHOWN]]
    if len(skipped) > SKIPS_SHOWN:
        lines.append(f"  and {len(skipped) - SKIPS_SHOWN} more; --json and summary.json have them all")
    return lines


def _by_model(title: str, results: Sequence[Alignment | Diff], *, explained: bool = False) -> Table:
    """An empty table with a column per result."""
    narrow = len(results) >= NARROW
    padding = (0, 0, 0, 1) if narrow else (0, 1)
    table = Table(title=title, title_justify="left", caption_justify="left", padding=padding)
    table.add_column("", max_width=10 if narrow else None)
    if explained:
        table.add_column("where / input", style="dim")
    for result in results:
        table.add_column(Text(f"{_short(result.model)}\n{_short(result.data)}"), justify="right", overflow="fold")
    return table


def _joined(number: str, interval: str, columns: int) -> str:
    """The interval behind the number, or below it where there are many columns."""
    return number + (" " if columns <= INLINE else "\n") * bool(interval) + interval


def _choice(result: Alignment | Diff) -> str:
    """Which of the examples of the data were taken; nothing where that is all of them."""
    if result.limit is None or result.n + len(result.skipped) < result.limit:
        return ""
    return f" (the first {result.limit})" if result.seed is None else f" (drawn with seed {result.seed})"


def _fact(value: object) -> str:
    """A value of a model's source on one line, long lists by their beginning."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_fact(inner)}" for key, inner in value.items() if inner not in (None, []))
    if isinstance(value, list):
        return ", ".join(map(_fact, value[:2])) + (f" and {len(value) - 2} more" if len(value) > 2 else "")
    return _clean(str(value))


def _middle_cut(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[: width // 2]} … {text[-width // 2 :]}"


def _short(name: str) -> str:
    """A model or data name without the folders it lies in."""
    return "/".join(name.partition("?")[0].removesuffix("/").split("/")[-2:])


def _clean(text: str) -> str:
    """Text from data with control characters made visible and its length bounded."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:300])
    return shown if len(text) <= 300 else shown + "…"
