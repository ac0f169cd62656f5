"""`mmerank demo`."""

from __future__ import annotations

from pathlib import Path

import typer

from mmerank.commands import options
from mmerank.commands.results import check_writable, continued_from, quiet, write_json
from mmerank.processes import rank


def demo(
    *,
    out: options.DemoOut = Path("runs/demo"),
    export: options.Export = None,
    json_file: options.Json = None,
    debug: options.Debug = False,
) -> None:
    """The main job on two small trained models and held-out pictures, offline, with words to it."""
    from rich.console import Console

    from mmerank.inputs.demo import PAIRS
    from mmerank.inputs.demo.scenes import export as write
    from mmerank.inputs.demo.scenes import scene
    from mmerank.jobs.demo.tour import tour, tour_view

    check_writable(json_file)
    if export is not None:
        manifest = write([scene("held-out", i) for i in range(PAIRS)], export)
        typer.echo(f"{PAIRS} pairs in {manifest} and {manifest.parent / 'images'}: --data llava:{manifest}")
        return
    quiet()
    with continued_from(out):
        stops = tour(out, progress=True)
    if rank().leads and not write_json({"results": [stop.to_dict() for stop in stops]}, json_file):
        Console(width=min(Console().width, 100)).print(tour_view(stops, out))
