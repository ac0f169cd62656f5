"""`mmerank doctor`."""

from __future__ import annotations

from dataclasses import asdict

from mmerank.commands import options
from mmerank.commands.early import check_models, check_on_hub
from mmerank.commands.groups import DataColumns, ExampleChoices, Loading, convention
from mmerank.commands.results import check_writable, quiet, write_json


def doctor(
    model: options.Model,
    *,
    data: options.DataWithDefault = "demo",
    columns: DataColumns,
    json_file: options.Json = None,
    debug: options.Debug = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_megapixels: options.MaxMegapixels = 100,
    choices: ExampleChoices,
) -> None:
    """Load a model, run one example, and show hook points, shapes, token layout and warnings."""
    from mmerank.inputs.example import check_usable
    from mmerank.models.located import MULTIMODAL

    check_writable(json_file)
    stated = convention(choices)
    check_models(MULTIMODAL, [model], Loading(device, dtype))
    examples = columns.load(data)
    check_usable(examples, pictures=True)
    check_on_hub(MULTIMODAL, [model])

    from rich.console import Console

    from mmerank.jobs.doctor import examine
    from mmerank.models.adapter import load
    from mmerank.report.terminal.doctor import examination_view

    quiet()
    adapter = load(model, dtype=dtype, device=device)
    found = examine(adapter, examples, convention=stated, max_pixels=int(max_megapixels * 1e6))
    if not write_json({**asdict(found), "convention": stated.to_dict()}, json_file):
        Console().print(examination_view(found))
