"""Tables of what a result has beside eRank1 to eRank5: how many rows, which rows, which text with which picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mmerank.analysis.metrics.alignment import DECIMALS, LABELS
from mmerank.analysis.metrics.known import metric, quantity
from mmerank.analysis.metrics.layers import EQUAL
from mmerank.analysis.metrics.of_examples import known_as
from mmerank.analysis.metrics.rows import single_rows
from mmerank.analysis.results.alignment import AlignmentResult
from mmerank.eranks import ERANKS
from mmerank.report.terminal.inside import inside_lines, inside_table
from mmerank.report.terminal.intervals import interval_text

NOTHING = "-"
# Of an example; of more, the first.
SHOWN_PICTURES = 8


def row_tables(result: AlignmentResult, name: str) -> list[Table]:
    """The tables of whatever was asked for.

    Args:
        result: Of one model.
        name: How to call it.

    Returns:
        Tables for a rich console; none where nothing was asked for.
    """
    plain, name = name, escape(name)
    tables = []
    if result.matched is not None and result.matched["n"]:
        tables.append(_matched(result.matched, name))
    if result.token_curve is not None:
        tables.append(_curve(result.token_curve, f"{name}: eRank by number of rows"))
    if result.rows is not None:
        tables.append(_rows(result.rows, result.n, f"{name}: eRank by rows"))
    if result.layers is not None:
        tables.append(_layers(result.layers, f"{name}: eRank of the pair by layer", result.convention.match_tokens))
    if result.vision_layers is not None:
        title = f"{name}: eRank of the picture by layer of the vision encoder"
        tables.append(_layers(result.vision_layers, title, result.convention.match_tokens))
    if result.inside is not None:
        tables.append(inside_table(result.inside, plain))
    if result.picture_eranks is not None:
        tables.append(_pictures(result.picture_eranks, f"{name}: eRank of each picture's own rows"))
    if result.metrics is not None:
        tables.append(metric_table(result.metrics, f"{name}: metrics"))
    if result.companions is not None:
        tables.append(_companions(result.companions, f"{name}: image and text"))
    return tables


def row_standing(result: AlignmentResult) -> list[str]:
    """What matched numbers stand on, and warnings of eRanks that one row decides.

    Args:
        result: Of one model.

    Returns:
        Lines.
    """
    lines = []
    if (matched := result.matched) is not None:
        k, n, fewest = matched["tokens"], matched["n"], matched["fewest_rows"]
        if not n:
            lines.append(
                f"  caution: no example has {k} rows everywhere, so there are no numbers on as many; --match-tokens "
                f"{fewest} would leave none out"
            )
        else:
            total = n + matched["left_out"]
            lines.append(f"  {k} rows each: n = {n} of {total} examples, mean of {matched['repeats']} draws")
        if n and matched["left_out"]:
            lines.append(f"  the others have fewer rows somewhere; {fewest} rows would leave none out")
    for label, of in (result.leave_one_out or {}).items():
        lines.append(
            f"  {LABELS[label]}: what each row adds in {of['measured']} of {of['n']} examples, with its place in the "
            f"picture in {of['placed']}; the decisive row is the picture's in {of['decisive_of_picture']}"
        )
        lines += [f"    in {count}: {why}" for why, count in of["without"].items()]
    for label, change, token, count in single_rows(result.rows or {}):
        lines.append(
            f"  warning: without one row {LABELS[label]} changes by {change:+.0%}; in {count} of {result.n} examples "
            f"the row is {_shown(token)} (docs/tokens.md)"
        )
    lines += inside_lines(result.inside)
    if result.clip is not None and result.clip.texts_cut:
        lines.append(f"  CLIP reads only the beginning of {result.clip.texts_cut} of the texts")
    return lines


def _matched(matched: Mapping[str, Any], name: str) -> Table:
    k, n = matched["tokens"], matched["n"]
    table = Table(title=f"{name}: on {k} rows each, n = {n}", title_justify="left", caption_justify="left")
    table.caption = (
        f"{k} rows: drawn at random, mean over the draws, with its interval over examples\n"
        "± a draw: standard deviation of a single one"
    )
    table.add_column("")
    for heading in ("all rows", f"{k} rows", "± a draw"):
        table.add_column(heading, justify="right")
    for label in LABELS:
        if label == "image_reduction_ratio":
            table.add_section()
        digits = DECIMALS[label]
        everywhere, drawn, spread = (
            _number(number, digits)
            for number in (matched["all_rows"][label], matched[label], matched["stdev_of_a_draw"][label])
        )
        limits = matched["intervals"].get(label)
        interval = interval_text(tuple(limits) if limits else None, digits, matched[label])
        table.add_row(LABELS[label], everywhere, Text(f"{drawn} {interval}".rstrip()), spread)
    return table


def _pictures(pictures: Sequence[Mapping[str, Any]], title: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    labels = [label for label in ERANKS if label in pictures[0]]
    for heading in ("picture", "n", *(LABELS[label] for label in labels)):
        table.add_column(heading, justify="right")
    for of in pictures[: SHOWN_PICTURES + 1]:
        limits = [tuple(of["intervals"].get(label, ())) or None for label in labels]
        cells = (f"{_number(of[label])} {interval_text(at, 2)}" for label, at in zip(labels, limits, strict=True))
        table.add_row(str(of["picture"] or "each"), str(of["n"]), *(Text(cell.rstrip()) for cell in cells))
    notes = ["of examples with several pictures; n: of how many"]
    if (left := len(pictures) - 1 - SHOWN_PICTURES) > 0:
        notes.append(f"{left} more: --json, the report")
    table.caption = "\n".join(notes)
    return table


def _curve(curve: Mapping[str, Any], title: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    for heading in ("rows", *(LABELS[label] for label in ERANKS)):
        table.add_column(heading, justify="right")
    most = max(max(counts) for counts in curve["n"].values())
    fewer = nowhere = False
    for i, n in enumerate(curve["tokens"]):
        cells = []
        for label in ERANKS:
            count = curve["n"][label][i]
            fewer |= 0 < count < most
            nowhere |= count == 0
            cells.append(_number(curve[label][i]) + (f" [{count}]" if 0 < count < most else ""))
        table.add_row(str(n), *map(Text, cells))
    notes = [f"in brackets: on how many of {most} examples, where not on all"] if fewer else []
    if nowhere:
        notes.append(f"{NOTHING}: no example has as many rows there")
    table.caption = "\n".join(notes) or None
    return table


def _rows(rows: Mapping[str, Mapping[str, Any]], n: int, title: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = (
        "image, text: these rows alone; image + text: without BOS and template\n"
        "strongest: the row furthest from the centre; decisive: the row whose removal changes the spectrum most; "
        "below the number what stands there in most examples"
    )
    table.add_column("")
    for heading in ("all", "image", "text", "image + text", "without\nstrongest", "without\ndecisive"):
        table.add_column(heading, justify="right")
    for label, numbers in rows.items():
        cells = [_number(numbers[name]) for name in ("all", "image", "text", "modality")]
        for name in ("strongest", "decisive"):
            usual = 2 * numbers[f"{name}_in"] > n
            token = _shown(numbers[f"{name}_token"]) if usual else "various rows" if numbers["all"] else ""
            cells.append(f"{_number(numbers[f'without_{name}'])}\n{token}")
        table.add_row(LABELS[label], *map(Text, cells))
    return table


def _layers(layers: Sequence[Mapping[str, Any]], title: str, tokens: int | None) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    headings = {"all": "all rows", "image": "image rows", "text": "text rows", EQUAL: f"{tokens} rows"}
    headings = {rows: heading for rows, heading in headings.items() if rows in layers[0]}
    for heading in headings.values():
        table.add_column(heading, justify="right")
    for at in layers:
        intervals = {rows: interval_text(tuple(limits), 2, at[rows]) for rows, limits in at["intervals"].items()}
        between = "\n" if EQUAL in headings else " "  # in 80 columns
        cells = (f"{_number(at[rows])}{between}{intervals.get(rows, '')}".rstrip() for rows in headings)
        table.add_row(at["point"], *map(Text, cells))
    return table


def metric_table(metrics: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> Table:
    """A row per metric, hook point and input: the number, its interval, and how many examples have none.

    Args:
        metrics: As results have them.
        title: Above it.

    Returns:
        The table, for a rich console.
    """
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for heading in ("where / input", "rows"):
        table.add_column(heading)
    for heading in ("mean over examples", "n"):
        table.add_column(heading, justify="right")
    missing: dict[str, int] = {}
    for name, numbers in metrics.items():
        known = known_as(name)
        for i, found in enumerate(numbers):
            interval = interval_text(tuple(found["interval"]) if found["interval"] else None, 4, found["value"])
            value = f"{_number(found['value'], 4)} {interval}".rstrip()
            if (null := found.get("null")) and null["p"] is not None:
                value += f"\nshuffled pairs {_number(null['null_mean'], 4)}, p {_number(null['p'], 3)}"
            # A number of records has no input, but a name.
            kind = found["input"] if known else quantity(found["input"]).label
            where = " / ".join(filter(None, (found["point"], kind)))
            label = "" if i else known.label if known else metric(name).title
            table.add_row(label, where, found["rows"], Text(value), str(found["n"]))
            for reason, count in found.get("no_value", {}).items():
                missing[reason] = missing.get(reason, 0) + count
        table.add_section()
    notes = []
    if any((known := known_as(name)) and known.kind == "paired states" for name in metrics):
        notes.append("of paired states: one number of all pairs, its interval by the jackknife")
    if any((known := known_as(name)) and known.pooled for name in metrics):
        notes.append("of pooled rows: one number of all examples, its interval by the jackknife over groups of them")
    if missing:
        reason = max(missing, key=lambda reason: missing[reason])
        notes.append(f"without a number: {sum(missing.values())}, mostly: {reason} (--json has every reason)")
    table.caption = escape("\n".join(notes))
    return table


def _companions(found: Mapping[str, Any], title: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("")
    for heading in ("value", "shuffled pairs", "z", "p"):
        table.add_column(heading, justify="right")

    def row(name: str, numbers: Mapping[str, Any]) -> None:
        shuffled = f"{_number(numbers['null_mean'], 4)} ± {_number(numbers['null_stdev'], 4)}"
        table.add_row(
            name, _number(numbers["value"], 4), shuffled, _number(numbers["z"], 1), _number(numbers["p"], 3)
        )

    if "mutual_information" in found:
        value = _number(found["mutual_information"]["value"], 4)
        table.add_row("log(eRank3 · eRank4 / eRank5)", value, NOTHING, NOTHING, NOTHING)
        for measure, title in (("cka", "linear CKA"), ("mutual_knn", f"mutual {found['neighbours']}-NN")):
            table.add_section()
            for point, numbers in found[measure].items():
                row(f"{title}, {point}", numbers)
        table.caption = (
            f"CKA, {found['neighbours']}-NN: image states there with the LLM's text states, n = {found['n']}"
        )
    if "clip_score" in found:
        table.add_section()
        row("CLIPScore", found["clip_score"])
    return table


def _number(value: float | None, decimals: int = 2) -> str:
    return NOTHING if value is None else f"{value:.{decimals}f}"


def _shown(token: str) -> str:
    """A token on one line and short; its control characters are escaped already."""
    return token if len(token) <= 30 else f"{token[:29]}…"
