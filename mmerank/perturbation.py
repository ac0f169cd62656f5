"""How a change of picture or text travels: the five eRanks and two ratios before and after, on the same examples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from mmerank.adapter import Adapter, check_adapter
from mmerank.alignment import Alignment, alignment_of
from mmerank.analysis.bootstrap import Bootstrap
from mmerank.analysis.paired import Comparison
from mmerank.analysis.perturbation import (
    QUANTITIES,
    Null,
    against_nulls,
    deltas,
    differences_frame,
    matched_deltas,
    paired_tests,
)
from mmerank.collect import Measured, collect
from mmerank.comparison import no_nan
from mmerank.convention import Convention
from mmerank.eranks import ERANKS
from mmerank.errors import DataError, UsageError
from mmerank.images import MAX_PIXELS
from mmerank.inputs import DataSet, Example, Skipped, check_examples, chosen, unique
from mmerank.placeholders import placeholders, without_placeholders
from mmerank.probe import Probe
from mmerank.records import Record, to_frame
from mmerank.runs import RunFolder, open_run
from mmerank.transforms import FORMS, Transform, parse
from mmerank.variants import BASE, ORIGINAL, Control, Variant, null_pairs, variant

# Examples that are measured a second time, transformed and by themselves.
CHECKED = 8
# How often a null is drawn: the fewest with which a two-sided p can be 0.05, 2 / (draws + 1).
DRAWS = 39


@dataclass(frozen=True)
class Perturbed:
    """What one transform did.

    Attributes:
        transform: Its name.
        result: The numbers after it, on the same examples as the base.
        delta: Those minus the base's, by quantity.
        delta_matched: The same on equally many rows everywhere, with the number `n` of examples that have as many,
            see `mmerank.analysis.tokens`; None if not asked for.
    """

    transform: str
    result: Alignment
    delta: dict[str, float]
    delta_matched: dict[str, float | None] | None = None

    @property
    def data(self) -> str:
        """Name of the data set; with the next two, what `mmerank.compare` takes."""
        return self.result.data

    @property
    def convention(self) -> Convention:
        """The choices in force."""
        return self.result.convention

    @property
    def records(self) -> tuple[Record, ...]:
        """One per example and measurement."""
        return self.result.records

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        matched = {} if self.delta_matched is None else {"delta_matched": self.delta_matched}
        return {"transform": self.transform, **self.result.to_dict(), "delta": self.delta, **matched}


@dataclass(frozen=True)
class Checks:
    """What must come out as nothing but rounding.

    Attributes:
        examples: How many transformed examples were measured afresh, by themselves.
        text: Largest difference between their eRank4 and that of the untouched example, under transforms of the
            picture; NaN if there are none.
        reuse: Largest difference, over all five eRanks, to what was measured with shared passes.
        identity: Largest difference of any example's eRank between `identity` and the base; NaN if it was not asked
            for.
    """

    examples: int
    text: float
    reuse: float
    identity: float

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it; what was not looked at is null."""
        values = {"text": self.text, "reuse": self.reuse, "identity": self.identity}
        differences = {f"{name}_difference": None if math.isnan(x) else x for name, x in values.items()}
        return {"examples": self.examples, **differences}


@dataclass(frozen=True)
class Perturbation:
    """One model on one data set, before and after some transforms.

    Attributes:
        base: The untouched examples.
        transforms: What each transform did, in the order asked for.
        controls: Nulls of eRank5 and the Image-Text Alignment.
        checks: What must be nothing but rounding.
        records: All of them; the `transform` of the base's is `none`, of a null's `CONTROL/DRAW`.
        seed: Of what is random in transforms and controls.
        bootstrap: How the intervals of differences are made; `dataclasses.replace(result, bootstrap=...)` makes them
            anew.
    """

    base: Alignment
    transforms: tuple[Perturbed, ...]
    controls: tuple[Null, ...]
    checks: Checks
    records: tuple[Record, ...]
    seed: int
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    @cached_property
    def tests(self) -> dict[str, Comparison]:
        """Each transform minus the base, by transform: intervals, p, q over all of them together, effect sizes."""
        aggregate = self.base.convention.aggregate
        return paired_tests(to_frame(self.records, spectrum=False), aggregate=aggregate, bootstrap=self.bootstrap)

    @cached_property
    def tests_matched(self) -> dict[str, Comparison]:
        """The same on equally many rows everywhere; empty where that was not asked for, or no example has as many."""
        if self.base.convention.match_tokens is None:
            return {}
        records, aggregate = to_frame(self.records, spectrum=False), self.base.convention.aggregate
        return paired_tests(records, aggregate=aggregate, bootstrap=self.bootstrap, matched=True)

    def tests_to_pandas(self) -> pd.DataFrame:
        """One row per transform and quantity; columns as in `mmerank.analysis.perturbation.differences_frame`."""
        return differences_frame(self.tests)

    def to_pandas(self) -> pd.DataFrame:
        """One row per transform, example and measurement; columns as in `mmerank.records`."""
        return to_frame(self.records)

    def to_dict(self) -> dict[str, Any]:
        """The result as `--json` prints it; what is undefined is null."""
        found: dict[str, Any] = no_nan(self._stated())
        return found

    def _stated(self) -> dict[str, Any]:
        matched = self.tests_matched
        return {
            "base": self.base.to_dict(),
            "transforms": [
                {
                    **perturbed.to_dict(),
                    "tests": self.tests[perturbed.transform].to_dict(),
                    **({"tests_matched": found.to_dict()} if (found := matched.get(perturbed.transform)) else {}),
                }
                for perturbed in self.transforms
            ],
            "controls": [null.to_dict(self.base.n) for null in self.controls],
            "checks": self.checks.to_dict(),
            "seed": self.seed,
        }

    def __str__(self) -> str:
        from mmerank.report import perturbation_text

        return perturbation_text(self)


def perturb(
    adapter: Adapter,
    examples: Iterable[Example | Skipped],
    transforms: Iterable[str] = (),
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
) -> Perturbation:
    """What transforms of picture or text do to eRank1 to eRank5 and the two ratios.

    Diff-eRank (arXiv:2401.17139), Table 3, for any transform. An example that cannot be measured under
    every transform is skipped everywhere.

    Args:
        adapter: A loaded model, from `mmerank.load`.
        examples: From `mmerank.load_data`, or any iterable of `mmerank.Example`, which is read into a list.
        transforms: `NAME[:STRENGTH]`, joined by `+` to follow each other, strengths joined by commas for a sweep:
            `rotate:90`, `blur:1,2,4`. See `mmerank.transforms`.
        controls: Nulls, `mismatch` and `independent`, see `mmerank.variants.null_pairs`.
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

    Returns:
        The numbers, with all records.

    Raises:
        DataError: No example could be measured, or one was skipped and `strict` is set.
        RunFolderError: `out` holds a run with other settings.
        TypeError: `adapter`, `examples` or `transforms` is not what is said above.
        UsageError: A transform or control is unknown, or there is none; `limit` or `control_draws` is below 1; an
            example needs another, and there is none.
    """
    convention = convention or Convention()
    check_adapter(adapter)
    check_examples(examples)
    asked, kinds = asked_for(transforms, controls, control_draws)
    if not isinstance(examples, DataSet):
        examples = list(examples)
    name = examples.name if isinstance(examples, DataSet) else "examples"
    sample_seed = seed if limit is not None else None
    # Here too: what is drawn from other examples, or changed, is their text without it.
    signs = placeholders(adapter.model, adapter.tokenizer)
    entries = list(without_placeholders(signs, unique(chosen(examples, limit, sample_seed))))
    usable = [entry for entry in entries if isinstance(entry, Example)]
    drawn_by = seed or 0
    variants = [variant(transform, usable, seed=drawn_by, max_pixels=max_pixels) for transform in asked]
    nulls = null_pairs(kinds, control_draws, usable, seed=drawn_by)
    probe = Probe(
        adapter,
        convention,
        batch_tokens=batch_tokens,
        share_prefix=share_prefix,
        max_pixels=max_pixels,
        variants=(BASE, *variants, *nulls),
    )
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
            limit=limit,
            seed=seed,
        )
    if out is not None:
        out.add_model(adapter.name, dict(probe.source))
    records, skipped = collect(
        probe.measure,
        entries,
        model=adapter.name,
        job="perturb",
        folder=out,
        strict=strict,
        progress=progress,
    )
    summary = partial(
        alignment_of,
        skipped=skipped,
        probe=probe,
        data=name,
        limit=limit,
        seed=sample_seed,
    )
    by_variant = _by_variant(records, probe.variants)
    base = summary(by_variant["none"])
    after = [_perturbed(v.name, base, summary(by_variant[v.name])) for v in variants]
    of_all = tuple(record for of_one in by_variant.values() for record in of_one)
    result = Perturbation(
        base=base,
        transforms=tuple(after),
        controls=against_nulls(to_frame(of_all, spectrum=False), aggregate=convention.aggregate),
        checks=_checked(probe, usable, variants, by_variant),
        records=of_all,
        seed=drawn_by,
    )
    if out is not None and own_folder:
        out.write_summary(result.to_dict())
    return result


def asked_for(
    transforms: Iterable[str], controls: Iterable[str], control_draws: int
) -> tuple[tuple[Transform, ...], tuple[Control, ...]]:
    """The transforms and controls that arguments name, sweeps taken apart.

    Args:
        transforms: As for `perturb`.
        controls: As for `perturb`.
        control_draws: As for `perturb`.

    Returns:
        Transforms in the order asked for, and controls.

    Raises:
        TypeError: One string is given for a list of them.
        UsageError: One is unknown, a transform is named twice, or there is nothing to do.
    """
    for given in (transforms, controls):
        if isinstance(given, str):
            raise TypeError(f"expected a list, got the text {given!r}; write [{given!r}]")
    found: dict[str, Transform] = {}
    for transform in (transform for text in transforms for transform in parse(text)):
        if transform.name in found:
            raise UsageError(f"transform {transform.name!r} is asked for twice")
        found[transform.name] = transform
    known, named = get_args(Control), set(controls)
    if unknown := sorted(named - set(known)):
        raise UsageError(f"unknown control {unknown[0]!r}; known: {', '.join(known)}")
    if not found and not named:
        raise UsageError(f"expected a transform or a control, got none; known transforms: {', '.join(FORMS)}")
    if control_draws < 1:
        raise UsageError(f"control_draws must be at least 1, got {control_draws}")
    return tuple(found.values()), tuple(kind for kind in known if kind in named)


def open_perturb_run(
    out: str | Path,
    examples: Iterable[Example | Skipped],
    transforms: Sequence[Transform],
    controls: Sequence[Control],
    *,
    convention: Convention,
    control_draws: int,
    max_pixels: int,
    limit: int | None,
    seed: int | None,
) -> RunFolder:
    """The run folder for these settings, new or continued. Arguments and errors as in `perturb`."""
    settings = {
        "convention": convention.to_dict(),
        "max_pixels": max_pixels,
        "transforms": [transform.name for transform in transforms],
        "controls": list(controls),
        "control_draws": control_draws if controls else 0,
    }
    return open_run(out, "perturb", examples, settings, limit=limit, seed=seed)


def _by_variant(records: Iterable[Record], variants: Iterable[Variant]) -> dict[str, list[Record]]:
    """The records of each variant, in the order of the examples' ids."""
    found: dict[str, list[Record]] = {variant.name: [] for variant in variants}
    order = list(ERANKS.values())
    for record in sorted(records, key=lambda r: (r.example, order.index((r.point, r.input)))):
        found[record.transform].append(record)
    return found


def _perturbed(name: str, base: Alignment, changed: Alignment) -> Perturbed:
    before, after = ({name: getattr(result, name) for name in QUANTITIES} for result in (base, changed))
    asked, matched = base.convention, None
    if asked.match_tokens is not None:
        matched = matched_deltas(
            base.records,
            changed.records,
            tokens=asked.match_tokens,
            repeats=asked.match_repeats,
            aggregate=asked.aggregate,
        )
    return Perturbed(name, changed, deltas(before, after), matched)


def _checked(
    probe: Probe, examples: Sequence[Example], variants: Sequence[Variant], by_variant: dict[str, list[Record]]
) -> Checks:
    """Measure some transformed examples afresh, one by one, as `align` would measure them from files."""
    eranks = {
        (name, r.example, r.point, r.input): math.exp(r.entropy)
        for name, records in by_variant.items()
        for r in records
    }
    measured = {r.example for r in by_variant["none"]}
    chosen_ones = [example for example in examples if example.id in measured][:CHECKED]
    # A picture may have become larger than those that are opened may be.
    limit = max(probe.max_pixels, MAX_PIXELS)
    alone = Probe(
        probe.adapter,
        probe.convention,
        batch_tokens=0,
        share_prefix=probe.share_prefix,
        max_pixels=limit,
        source=probe.source,
    )
    text, reuse, identity = [], [], []
    count = max(len(variants), len(chosen_ones)) if variants else 0
    again: set[str] = set()
    for example, made in islice(zip(cycle(chosen_ones), cycle(variants)), count):
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
