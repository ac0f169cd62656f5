"""How a change of picture or text travels: the five eRanks and two ratios before and after, on the same examples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmerank.analysis.finished import Finished
from mmerank.analysis.results.perturbation import Checks, PerturbationResult
from mmerank.computing import Computing
from mmerank.convention import Convention
from mmerank.engine.collect import collect
from mmerank.engine.measurement import Measured
from mmerank.engine.plans.pairs import Pairs
from mmerank.engine.probe import Probe
from mmerank.errors import DataError
from mmerank.formulas.asked import Given, stated_metrics, with_metrics
from mmerank.inputs.example import Example, Skipped, check_examples, kept, name_of, unique
from mmerank.inputs.pictures import MAX_PIXELS
from mmerank.inputs.placeholders import placeholders, without_placeholders
from mmerank.inputs.selection import ALL, Selection
from mmerank.inputs.transforms.transform import Transform
from mmerank.inputs.variants import BASE, ORIGINAL, Asked, Control, Variant, asked_for, null_pairs, variant
from mmerank.jobs.align import Alignment, others_for
from mmerank.jobs.shown import Result, as_run
from mmerank.models.adapter import Adapter, check_adapter
from mmerank.runs.folder import RunFolder, open_run
from mmerank.runs.record import Record

# Examples that are measured a second time, transformed and by themselves; more where there are more transforms, but
# never more than this share of all that was measured, so that the check stays cheap on small data.
CHECKED = 8
CHECKED_SHARE = 1 / 8
# How often a null is drawn: the fewest with which a two-sided p can be 0.05, 2 / (draws + 1).
DRAWS = 39


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


def perturb(
    adapter: Adapter,
    examples: Iterable[Example | Skipped],
    transforms: Iterable[Asked] = (),
    *,
    controls: Iterable[Control] = (),
    control_draws: int = DRAWS,
    convention: Convention | None = None,
    limit: int | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    share_prefix: bool = True,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    out: str | Path | RunFolder | None = None,
    progress: bool = False,
    metrics: Iterable[Given] = (),
) -> Perturbation:
    """What transforms of picture or text do to eRank1 to eRank5 and the two ratios.

    Diff-eRank (arXiv:2401.17139), Table 3, for any transform. An example that cannot be measured under
    every transform is skipped everywhere.

    Args:
        adapter: A loaded model, from `mmerank.load`.
        examples: From `mmerank.load_data`, or any iterable of `mmerank.Example`, which is read into a list.
        transforms: `NAME[:STRENGTH]`, joined by `+` to follow each other, strengths joined by commas for a sweep:
            `rotate:90`, `blur:1,2,4`. See `mmerank.inputs.transforms.known`. Functions of your own stand among
            them, as they are or from `mmerank.transform`.
        controls: Nulls, `mismatch` and `independent`, see `mmerank.inputs.variants.null_pairs`.
        control_draws: How often a null is drawn, R; its p is never below 2 / (R + 1).
        convention: As for `mmerank.align`, like all that follows but for `seed`.
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
            example needs another, and there is none.
    """
    convention = with_metrics(convention or Convention(), metrics)
    computing = Computing(batch_tokens=batch_tokens, share_prefix=share_prefix, strict=strict, progress=progress)
    check_adapter(adapter)
    check_examples(examples)
    asked, kinds = asked_for(transforms, controls, control_draws)
    examples = kept(examples)
    name = name_of(examples)
    selection = Selection(limit, seed if limit is not None else None)
    # Here too: what is drawn from other examples, or changed, is their text without it.
    signs = placeholders(adapter.model, adapter.tokenizer)
    entries = list(without_placeholders(signs, unique(selection.held(examples))))
    usable = [entry for entry in entries if isinstance(entry, Example)]
    drawn_by = seed or 0
    variants = [variant(transform, usable, seed=drawn_by, max_pixels=max_pixels) for transform in asked]
    nulls = null_pairs(kinds, control_draws, usable, seed=drawn_by)
    plan = Pairs(
        adapter,
        convention,
        (BASE, *variants, *nulls),
        max_pixels=max_pixels,
        share_prefix=computing.share_prefix,
        others=others_for(convention, examples, selection, max_pixels),
    )
    probe = Probe(plan, computing)
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
    result = Perturbation.of(
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
    convention: Convention,
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
        **stated_metrics(convention.metrics),
    }
    if own := {step.kind: step.known.source for of in transforms for step in of.steps if step.known.source}:
        settings["own_transforms"] = own
    return open_run(out, "perturb", examples, settings, selection=selection)


def _checks(measured: int, chosen_ones: int, variants: int) -> int:
    """How many transformed examples are measured a second time; at least one where there is any."""
    if not variants or not chosen_ones:
        return 0
    most = max(int(CHECKED_SHARE * measured * (1 + variants)), 1)
    return min(max(variants, chosen_ones), most)


def _checked(
    plan: Pairs,
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
    without_metrics = replace(plan.convention, metrics=())
    again_plan = Pairs(plan.adapter, without_metrics, max_pixels=limit, share_prefix=plan.prefix.shared)
    alone = Probe(again_plan, Computing(batch_tokens=0), source=source)
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
