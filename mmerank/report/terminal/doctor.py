"""What `doctor` found -> what a person reads in a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmerank.analysis.results.examination import Examination
from mmerank.report.terminal.breakable import Breakable
from mmerank.report.terminal.parts import clean


def examination_view(found: Examination) -> RenderableType:
    """What `mmerank doctor` prints.

    Args:
        found: By `mmerank.jobs.doctor.examine`.

    Returns:
        Something a rich console can print.
    """
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("model", Breakable(clean(found.model)))
    for key, value in found.source.items():
        if value not in (None, []) and key != "cautions":  # among the warnings
            facts.add_row(key, Breakable(_fact(value)))
    facts.add_row("parameters", f"{found.parameters:,} ({', '.join(found.places)})")

    drawn = ", ".join(f"{name} {value:g}" for name, value in found.initialisation.items() if name != "stated")
    if drawn:
        facts.add_row("untrained twins", drawn)

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

    sizes = Table(title="Rows of a picture, in pixels", title_justify="left")
    for heading in ("picture", "vision", "connector", "llm"):
        sizes.add_column(heading, justify="left" if heading == "picture" else "right", overflow="fold")
    for name, rows in found.picture_rows.items():
        sizes.add_row(name, *([clean(rows)] if isinstance(rows, str) else map(str, rows.values())))

    layout = Table(title=f"Token layout of example {clean(found.example)}", title_justify="left")
    for heading in ("input", "positions", "role", "counted", "tokens"):
        layout.add_column(heading, justify="right" if heading == "positions" else "left", overflow="fold")
    for kind, stretches in found.layout.items():
        for i, stretch in enumerate(stretches):
            positions = f"{stretch.first}" if stretch.first == stretch.last else f"{stretch.first}-{stretch.last}"
            counted = "yes" if stretch.counted else "no"
            count = stretch.last - stretch.first + 1
            of_picture = f"{count} row{'s' if count > 1 else ''} of the picture"
            said = of_picture if stretch.role == "image" else clean(_middle_cut(stretch.text))
            layout.add_row("" if i else kind, positions, stretch.role, counted, Text(said))
        layout.add_section()

    numbers = "  ".join(f"{label.replace('erank', 'eRank')} {value:.2f}" for label, value in found.eranks.items())
    lines = [Text(f"This example: {numbers}"), *(Text(f"warning: {line}") for line in found.warnings)]
    shown = (sizes, "") if found.picture_rows else ()
    return Group(facts, "", points, "", alternatives, "", *shown, layout, "", *lines)


def _fact(value: object) -> str:
    """A value of a model's source on one line, long lists by their beginning."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_fact(inner)}" for key, inner in value.items() if inner not in (None, []))
    if isinstance(value, list):
        return ", ".join(map(_fact, value[:2])) + (f" and {len(value) - 2} more" if len(value) > 2 else "")
    return clean(str(value))


def _middle_cut(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[: width // 2]} … {text[-width // 2 :]}"
