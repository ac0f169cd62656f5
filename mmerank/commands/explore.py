"""`mmerank explore`."""

from __future__ import annotations

from importlib.util import find_spec

import typer

from mmerank.commands import options
from mmerank.commands.results import quiet
from mmerank.errors import UsageError

MOST = 2


def explore(
    models: options.ExploredModels = [],  # noqa: B006 (typer takes no tuple)
    *,
    run: options.ExploredRun = None,
    with_data: options.WithData = False,
    host: options.Host = "127.0.0.1",
    port: options.Port = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    load_in: options.LoadIn = None,
    debug: options.Debug = False,
) -> None:
    """A page on this machine: change a picture and watch eRanks, maps, spectra and layers; look through a run."""
    if len(models) > MOST:
        raise UsageError(f"expected at most {MOST} models, which stand side by side, got {len(models)}")
    if find_spec("gradio") is None:
        raise UsageError("the page needs gradio, which is not installed: pip install 'mmerank[explore]'")

    from mmerank.jobs.explorer.served import LOOPBACK, bound, server, without_telemetry

    without_telemetry()
    if host not in LOOPBACK:
        typer.echo(
            f"warning: --host {host}: whoever reaches this address can use the models and see the run; there is no "
            "password",
            err=True,
        )
    listening = bound(host, port)
    if not models and run is None:
        models = ["demo-llava", "demo-minigpt-v2"]

    from mmerank.jobs.explorer.browsed import Browsed

    browsed = None if run is None else Browsed(run, with_data=with_data)
    explorers = []
    if models:
        from mmerank.jobs.explorer.measured import Explorer
        from mmerank.models.adapter import check_model, load

        quiet()
        for model in models:
            check_model(model)
        explorers = [Explorer(load(model, dtype=dtype, device=device, load_in=load_in)) for model in models]

    from mmerank.jobs.explorer.page import blocks

    page = blocks(explorers, browsed)
    where = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    only = "; only this machine can reach it" if host in LOOPBACK else ""
    typer.echo(f"{where}{only}. Ctrl-C ends it.")
    server(page, host).run(sockets=[listening])
