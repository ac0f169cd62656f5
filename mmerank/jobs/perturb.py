"""How a change of picture or text travels: the numbers of a model before and after, on the same examples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast, overload

from mmerank.analysis.finished import Finished
from mmerank.analysis.results.before_after import Checks
from mmerank.analysis.results.perturbation import EncoderPerturbationResult, PerturbationResult
from mmerank.computing import Computing
from mmerank.convention import AnyConvention, Convention, EncoderConvention
from mmerank.engine.collect import collect
from mmerank.engine.measurement import Measured
from mmerank.engine.plans.encoders import Encoders
from mmerank.engine.plans.pairs import Pairs
from mmerank.engine.probe import Probe
from mmerank.errors import DataError, UsageError
from mmerank.formulas.asked import Given, stated_metrics, with_metrics
from mmerank.inputs.example import Example, Skipped, check_examples, kept, name_of, unique
from mmerank.inputs.pictures import MAX_PIXELS
from mmerank.inputs.placeholders import placeholders, without_placeholders
from mmerank.inputs.selection import ALL, Selection
from mmerank.inputs.transforms.transform import Transform
from mmerank.inputs.variants import BASE, ORIGINAL, Asked, Control, Variant, asked_for, null_pairs, variant
from mmerank.jobs.align import Alignment, others_for
from mmerank.jobs.encode import Encoding
from mmerank.jobs.shown import Result, as_run
from mmerank.models.adapter import Adapter, check_adapter
from mmerank.models.encoders.encoder import Encoder, is_encoder
from mmerank.runs.folder import RunFolder, open_run
from mmerank.runs.record import Record

# Examples that are measured a second time, transformed and by themselves; more where there are more transforms, but
# never more than this share of all that was measured, so that the check stays cheap on small data.
CHECKED = 8
CHECKED_SHARE = 1 / 8
# How often a null is drawn: the fewest with which a two-sided p can be 0.05, 2 / (draws + 1).
DRAWS = 39
# Of encoders, which are measured at the end of each side.
LAYERS = "last"


class Perturbation(Result, PerturbationResult):
    """One model on one data set, before and after some transforms."""

    base: Alignment
    _each = Alignment

    @cached_property
    def _runs(self) -> list[Finished]:
        return [as_run("perturb", replace(self.base, bootstrap=self.bootstrap), self.records)]

    def _in_short(self) -> dict[str, Any]:
        names = [of.transform for of in self.transforms]
        return {"base": self.base, "transforms": names, "controls": [null.control for null in self.controls]}

    def __str__(self) -> str:
        from mmerank.report.terminal.alignment import perturbation_text

        return perturbation_text(self)


class EncoderPerturbation(Result, EncoderPerturbationResult):
    """An encoder on one data set, before and after some transforms: its last layers, and its embeddings."""

    base: Encoding
    _each = Encoding

    @cached_property
    def _runs(self) -> list[Finished]:
        return [as_run("perturb_encoder", replace(self.base, bootstrap=self.bootstrap), self.records)]

    def _in_short(self) -> dict[str, Any]:
        return {"base": self.base, "transforms": [of.transform for of in self.transforms]}

    def __str__(self) -> str:
        from mmerank.report.terminal.encoder_perturbation import encoder_perturbation_text

        return encoder_perturbation_text(self)


class _Options(TypedDict, total=False):
    """What is the same of every kind of model, for type checkers."""

    controls: Iterable[Control]
    control_draws: int
    limit: int | None
    seed: int | None
    batch_tokens: int | None
    share_prefix: bool
    max_pixels: int
    strict: bool
    out: str | Path | RunFolder | None
    progress: bool
    metrics: Iterable[Given]


@overload
def perturb(
    adapter: Encoder,
    examples: Iterable[Example | Skipped],
    transforms: Iterable[Asked] = ...,
    *,
    convention: EncoderConvention | None = ...,
    **others: Unpack[_Options],
) -> EncoderPerturbation: ...
@overload
def perturb(
    adapter: Adapter,
    examples: Iterable[Example | Skipped],
    transforms: Iterable[Asked] = ...,
    *,
    convention: Convention | None = ...,
    **others: Unpack[_Options],
) -> Perturbation: ...
def perturb(
    adapter: Adapter | Encoder,
    examples: Iterable[Example | Skipped],
    transforms: Iterable[Asked] = (),
    *,
    controls: Iterable[Control] = (),
    control_draws: int = DRAWS,
    convention: AnyConvention | None = None,
    limit: int | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    share_prefix: bool = True,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    out: str | Path | RunFolder | None = None,
    progress: bool = False,
    metrics: Iterable[Given] = (),
) -> Perturbation | EncoderPerturbation:
    """What transforms of picture or text do to eRank1 to eRank5 and the two ratios, or to what an encoder gives.

    Diff-eRank (arXiv:2401.17139), Table 3, for any transform. An example that cannot be measured under
    every transform is skipped everywhere.

    Args:
        adapter: A loaded model, from `mmerank.load`; or an encoder, from `mmerank.load_encoder`, of which the last
            layer of each side and the embeddings are measured.
        examples: From `mmerank.load_data`, or any iterable of `mmerank.Example`, which is read into a list.
        transforms: `NAME[:STRENGTH]`, joined by `+` to follow each other, strengths joined by commas for a sweep:
            `rotate:90`, `blur:1,2,4`. See `mmerank.inputs.transforms.known`. Functions of your own stand among
            them, as they are or from `mmerank.transform`.
        controls: Nulls, `mismatch` and `independent`, see `mmerank.inputs.variants.null_pairs`; none of encoders,
            which read picture and text apart.
        control_draws: How often a null is drawn, R; its p is never below 2 / (R + 1).
        convention: As for `mmerank.align`, or `mmerank.encode`, like all that follows but for `seed`.
        limit: Use this many of the examples: the first ones, or with `seed` a random sample.
        seed: Of what is random in transforms and controls, 0 if none is given; and with `limit` of the sample.
        batch_tokens: Most LLM positions in a batch.
        share_prefix: Whether the image input may be read from the prefix of the pair pass.
        max_pixels: Pictures with more pixels are skipped.
        strict: Raise at the first example that cannot be measured.
        out: A run folder; when it exists, only examples that it lacks are measured.
        progress: Show a progress bar on stderr.
        metrics: Also these, by name, or functions of your own; see `mmerank.formulas.asked.asked_for`.

    Returns:
        The numbers, with all records.

    Raises:
        DataError: No example could be measured, or one was skipped and `strict` is set.
        RunFolderError: `out` holds a run with other settings.
        TypeError: `adapter`, `examples` or `transforms` is not what is said above.
        UsageError: A transform or control is unknown, or there is none; `limit` or `control_draws` is below 1; an
            example needs another, and there is none; an encoder is asked for controls or metrics.
    """
    of_encoder = is_encoder(adapter)
    convention = convention or (EncoderConvention() if of_encoder else Convention())
    if isinstance(convention, EncoderConvention) != of_encoder or not isinstance(
        convention, (EncoderConvention, Convention)
    ):
        wanted = "EncoderConvention" if of_encoder else "Convention"
        raise TypeError(f"convention: expected mmerank.{wanted}, got {type(convention).__name__}")
    if not isinstance(convention, EncoderConvention):
        convention = with_metrics(convention, metrics)
    elif tuple(metrics):
        raise UsageError("metrics: of encoders there are none beside their own")
    computing = Computing(batch_tokens=batch_tokens, share_prefix=share_prefix, strict=strict, progress=progress)
    if not of_encoder:
        check_adapter(adapter)
    check_examples(examples)
    asked, kinds = asked_for(transforms, controls, control_draws)
    if of_encoder and kinds:
        raise UsageError(
            f"control {kinds[0]}: an encoder reads picture and text apart; `other-text` deals texts anew"
        )
    examples = kept(examples)
    name = name_of(examples)
    selection = Selection(limit, seed if limit is not None else None)
    entries = list(unique(selection.held(examples)))
    if not of_encoder:
        # Here too: what is drawn from other examples, or changed, is their text without it.
        entries = list(without_placeholders(placeholders(adapter.model, cast(Adapter, adapter).tokenizer), entries))
    usable = [entry for entry in entries if isinstance(entry, Example)]
    drawn_by = seed or 0
    variants = [variant(transform, usable, seed=drawn_by, max_pixels=max_pixels) for transform in asked]
    nulls = null_pairs(kinds, control_draws, usable, seed=drawn_by)
    plan: Pairs | Encoders
    if isinstance(convention, EncoderConvention):
        plan = Encoders(cast(Encoder, adapter), convention, LAYERS, max_pixels, (BASE, *variants))
    else:
        plan = Pairs(
            cast(Adapter, adapter),
            convention,
            (BASE, *variants, *nulls),
            max_pixels=max_pixels,
            share_prefix=computing.share_prefix,
            others=others_for(convention, examples, selection, max_pixels),
        )
    probe: Probe[Any, Any] = Probe(plan, computing)
    own_folder = out is not None and not isinstance(out, RunFolder)
    if out is not None and not isinstance(out, RunFolder):
        out = open_perturb_run(
            out,
            examples,
            asked,
            kinds,
            convention=convention,
            control_draws=control_draws,
            max_pixels=max_pixels,
            selection=Selection(limit, seed),
        )
    if out is not None:
        out.add_model(adapter.name, dict(probe.source))
    records, skipped = collect(
        probe.measure,
        entries,
        model=adapter.name,
        job="perturb",
        folder=out,
        computing=computing,
    )
    kind: type[Perturbation | EncoderPerturbation] = EncoderPerturbation if of_encoder else Perturbation
    result = kind.of(
        records,
        [made.name for made in variants],
        drawn_by=drawn_by,
        skipped=skipped,
        model=adapter.name,
        data=name,
        convention=convention,
        source=probe.source,
        selection=selection,
        undefined=adapter.undefined,
    )
    result = replace(result, checks=_checked(plan, probe.source, usable, variants, result.records))
    if out is not None and own_folder:
        out.write_summary(result.to_dict())
    return result


def open_perturb_run(
    out: str | Path,
    examples: Iterable[Example | Skipped],
    transforms: Sequence[Transform],
    controls: Sequence[Control],
    *,
    convention: AnyConvention,
    control_draws: int,
    max_pixels: int,
    selection: Selection = ALL,
) -> RunFolder:
    """The run folder for these settings, new or continued. Arguments and errors as in `perturb`."""
    settings = {
        "convention": convention.to_dict(),
        "max_pixels": max_pixels,
        "transforms": [transform.name for transform in transforms],
        "controls": list(controls),
        "control_draws": control_draws if controls else 0,
    }
    of_encoder = isinstance(convention, EncoderConvention)
    settings |= {"layers": LAYERS} if of_encoder else stated_metrics(getattr(convention, "metrics", ()))
    if own := {step.kind: step.known.source for of in transforms for step in of.steps if step.known.source}:
        settings["own_transforms"] = own
    job = "perturb_encoder" if of_encoder else "perturb"
    return open_run(out, job, examples, settings, selection=selection)


def _checks(measured: int, chosen_ones: int, variants: int) -> int:
    """How many transformed examples are measured a second time; at least one where there is any."""
    if not variants or not chosen_ones:
        return 0
    most = max(int(CHECKED_SHARE * measured * (1 + variants)), 1)
    return min(max(variants, chosen_ones), most)


def _checked(
    plan: Pairs | Encoders,
    source: Mapping[str, Any],
    examples: Sequence[Example],
    variants: Sequence[Variant],
    records: Sequence[Record],
) -> Checks:
    """Measure some transformed examples afresh, one by one, as `align` would measure them from files."""
    eranks = {(r.transform, r.example, r.point, r.input): math.exp(r.entropy) for r in records}
    measured = {r.example for r in records if r.transform == BASE.name}
    chosen_ones = [example for example in examples if example.id in measured][:CHECKED]
    # A picture may have become larger than those that are opened may be.
    limit = max(plan.max_pixels, MAX_PIXELS)
    alone: Probe[Any, Any] = Probe(plan.afresh(limit), Computing(batch_tokens=0), source=source)
    text, reuse, identity = [], [], []
    count = _checks(len(measured), len(chosen_ones), len(variants))
    again: set[str] = set()
    for i in range(count):
        example = chosen_ones[i % len(chosen_ones)]
        made = variants[i * max(len(variants), count) // count % len(variants)]  # of some, those spread evenly
        try:
            (fresh,) = alone.measure([made.text.of(made.image.of(example))])
        except DataError:
            continue
        if not isinstance(fresh, Measured):  # a run is continued, and the pictures are gone
            continue
        again.add(example.id)
        for r in fresh.records:
            erank = math.exp(r.entropy)
            reuse.append(abs(erank - eranks[made.name, example.id, r.point, r.input]))
            if r.input == "text" and made.text == ORIGINAL:
                text.append(abs(erank - eranks["none", example.id, r.point, r.input]))
    for name, example_id, point, kind in eranks:
        if name == "identity":
            difference = eranks[name, example_id, point, kind] - eranks["none", example_id, point, kind]
            identity.append(abs(difference))
    return Checks(len(again), *(max(found, default=math.nan) for found in (text, reuse, identity)))
