"""`mmerank perturb`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmerank.commands import options
from mmerank.commands.early import check_models, check_on_hub
from mmerank.commands.groups import (
    Beside,
    Choices,
    DataColumns,
    Keeping,
    PairLoading,
    convention,
    encoder_convention,
)
from mmerank.commands.results import check_writable, continued_from, given_names, quiet, write_json
from mmerank.convention import Convention, EncoderConvention
from mmerank.processes import rank
from mmerank.trackers import check_tracker


def perturb(
    model: options.ModelOrEncoder,
    data: options.Data,
    *,
    columns: DataColumns,
    name: options.Names = [],  # noqa: B006 (typer takes no tuple)
    track: options.Track = None,
    everything: options.All = False,
    transform: options.Transforms = [],  # noqa: B006
    control: options.Controls = [],  # noqa: B006
    control_draws: options.ControlDraws = 39,
    limit: options.Limit = None,
    seed: options.PerturbSeed = None,
    keeping: Keeping,
    computing: PairLoading,
    beside: Beside,
    choices: Choices,
) -> None:
    """The same numbers before and after transforms of picture or text (the paper's Table 3), also of encoders alone.

    Of the picture: identity, rotate, flip, crop, zoom, blur, noise, jpeg, brightness, contrast, grey, occlude,
    shuffle, blank, other. Of the text: shuffle-words, other-text. docs/perturbation.md says what each of them does.
    """
    from mmerank.inputs.example import check_usable
    from mmerank.inputs.selection import Selection
    from mmerank.inputs.variants import asked_for
    from mmerank.models.encoders.named import check_encoder_named, names_encoder
    from mmerank.models.located import MULTIMODAL, check_device, check_dtype

    check_writable(keeping.json_file)
    Selection(limit).check()
    transforms, controls = asked_for(transform, control, control_draws)
    names = given_names(name, [model])
    columns.check(data)
    encoder = names_encoder(model)
    if track is not None:
        check_tracker(track)
    stated: Convention | EncoderConvention = convention(choices, beside)
    if encoder:
        stated = encoder_convention(choices, beside, computing)
        check_dtype(computing.dtype)
        check_device(computing.device)
        check_encoder_named(model)
    else:
        check_models(MULTIMODAL, [model], computing)
    examples = columns.load(data)
    check_usable(examples, pictures=True)
    if not encoder:
        check_on_hub(MULTIMODAL, [model])

    from rich.console import Console

    from mmerank.jobs.perturb import open_perturb_run
    from mmerank.jobs.perturb import perturb as measure
    from mmerank.models.adapter import check_model, load
    from mmerank.models.encoders.loading import check_encoder, is_encoder_alone, load_encoder
    from mmerank.report.terminal.alignment import perturbation_view
    from mmerank.report.terminal.encoder_perturbation import encoder_perturbation_view
    from mmerank.report.terminal.summary import encoder_perturbation_summary, perturbation_summary

    if not encoder and is_encoder_alone(model):
        encoder, stated = True, encoder_convention(choices, beside, computing)
    folder = None
    if keeping.out is not None:
        folder = open_perturb_run(
            keeping.out,
            examples,
            transforms,
            controls,
            convention=stated,
            control_draws=control_draws,
            max_pixels=computing.max_pixels,
            selection=Selection(limit, seed),
        )
    quiet()
    (check_encoder if encoder else check_model)(model)

    def loaded() -> Any:
        if encoder:
            return load_encoder(model, dtype=computing.dtype, device=computing.device)
        return load(model, **computing.how)

    with continued_from(keeping.out):
        result: Any = measure(
            loaded(),
            examples,
            transform,
            controls=controls,
            control_draws=control_draws,
            convention=stated,
            limit=limit,
            seed=seed,
            batch_tokens=computing.batch_tokens,
            share_prefix=not computing.separate_passes,
            max_pixels=computing.max_pixels,
            strict=keeping.strict,
            out=folder,
            progress=True,
        )
    result = replace(result, base=replace(result.base, name=names.get(model, "")))
    if folder is not None:
        folder.write_summary(result.to_dict())
    if rank().leads and not write_json(result.to_dict(), keeping.json_file):
        if everything:
            Console().print((encoder_perturbation_view if encoder else perturbation_view)(result))
        else:
            summary = encoder_perturbation_summary if encoder else perturbation_summary
            Console().print(summary(result, keeping.out))
    if track is not None:
        result.track(track)
