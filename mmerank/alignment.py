"""The main job: model x examples -> eRank1 to eRank5 and the two ratios."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from mmerank.adapter import Adapter, check_adapter
from mmerank.analysis.alignment import alignment
from mmerank.analysis.bootstrap import Bootstrap, Interval, intervals
from mmerank.analysis.companions import clip_score, companions
from mmerank.analysis.layers import layer_eranks
from mmerank.analysis.tokens import matched_alignment, matched_rows, row_eranks, token_curve
from mmerank.clip import Clip, ClipEmbeddings, clip_embeddings
from mmerank.collect import collect
from mmerank.comparison import no_nan
from mmerank.convention import Convention, all_choices
from mmerank.eranks import ERANKS
from mmerank.errors import DataError
from mmerank.images import MAX_PIXELS
from mmerank.inputs import DataSet, Example, Skipped, check_examples, chosen, unique
from mmerank.placeholders import without_placeholders
from mmerank.probe import Probe
from mmerank.records import Record, to_frame
from mmerank.runs import RunFolder, open_run, versions

# What a result has beside eRank1 to eRank5, by its name in Python and in the JSON, where it was asked for.
ASIDE = ("matched", "token_curve", "rows", "companions", "layers")


@dataclass(frozen=True)
class Alignment:
    """The five data-set eRanks of one model on one data set, the two ratios, and what they stand on.

    Attributes:
        model: Name of the model.
        data: Name of the data set.
        n: Number of examples that all numbers stand on.
        skipped: The others, each with the reason.
        convention: The choices in force.
        erank1: After the vision encoder, image input.
        erank2: After the connector, image input.
        erank3: LLM, image input.
        erank4: LLM, text input.
        erank5: LLM, image and text input.
        image_reduction_ratio: (eRank1 - eRank2) / eRank1.
        image_text_alignment: mean(eRank3, eRank4, eRank5) / max(eRank3, eRank4, eRank5).
        source: What the model is known by, see `mmerank.identity.identity`.
        records: One per example and measurement.
        layer_records: One per example and further layer, of the pair input; none where no layers were asked for.
        limit: How many examples were asked for; None for all.
        seed: Of their choice; None for the first ones.
        bootstrap: How `intervals` are made; `dataclasses.replace(result, bootstrap=...)` makes them anew.
        clip: CLIP's embeddings of the examples, where asked for.
        undefined: What the model does not have, by name, each with the reason; these numbers are NaN.
    """

    model: str
    data: str
    n: int
    skipped: tuple[Skipped, ...]
    convention: Convention
    erank1: float
    erank2: float
    erank3: float
    erank4: float
    erank5: float
    image_reduction_ratio: float
    image_text_alignment: float
    source: dict[str, Any]
    records: tuple[Record, ...]
    limit: int | None = None
    seed: int | None = None
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Confidence interval of each number over the examples, (low, high); empty with fewer than two examples."""
        return intervals(
            to_frame(self.records, spectrum=False), aggregate=self.convention.aggregate, bootstrap=self.bootstrap
        )

    clip: ClipEmbeddings | None = None
    layer_records: tuple[Record, ...] = ()
    undefined: dict[str, str] = field(default_factory=dict)

    @cached_property
    def matched(self) -> dict[str, Any] | None:
        """The same on equally many rows everywhere, see `mmerank.analysis.tokens`; None if not asked for.

        `intervals` are those over the examples that could be matched.
        """
        asked = self.convention
        if asked.match_tokens is None:
            return None
        found = matched_alignment(
            self.records, tokens=asked.match_tokens, repeats=asked.match_repeats, aggregate=asked.aggregate
        )
        rows = matched_rows(to_frame(self.records, spectrum=False))
        limits = intervals(rows, aggregate=asked.aggregate, bootstrap=self.bootstrap) if found["n"] else {}
        return {**found, "intervals": {label: list(interval) for label, interval in limits.items()}}

    @cached_property
    def token_curve(self) -> dict[str, Any] | None:
        """Each eRank against the number of rows, see `mmerank.analysis.tokens`; None if not asked for."""
        asked = self.convention
        if not asked.token_curve:
            return None
        return token_curve(
            self.records, tokens=asked.token_curve, repeats=asked.match_repeats, aggregate=asked.aggregate
        )

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]] | None:
        """Each eRank by rows, and without one, see `mmerank.analysis.tokens`; None if not asked for."""
        return row_eranks(self.records, aggregate=self.convention.aggregate) if self.convention.rows else None

    @cached_property
    def companions(self) -> dict[str, Any] | None:
        """Measures that react to the pairing, see `mmerank.analysis.companions`; None if not asked for."""
        found = companions(self.records, aggregate=self.convention.aggregate) if self.convention.companions else {}
        if self.clip is not None:
            scored = clip_score(self.clip.images, self.clip.texts)
            found["clip_score"] = {"model": self.clip.model, "texts_cut": self.clip.texts_cut, **scored}
        return found or None

    @cached_property
    def layers(self) -> list[dict[str, Any]] | None:
        """The pair's eRank by layer and rows, see `mmerank.analysis.layers`; None if not asked for."""
        if not self.layer_records:
            return None
        by = self.convention.aggregate
        table = layer_eranks(to_frame(self._all_records, spectrum=False), aggregate=by, bootstrap=self.bootstrap)
        found: dict[str, dict[str, Any]] = {}
        for row in table.to_dict("records"):
            at = found.setdefault(row["point"], {"point": row["point"], "intervals": {}})
            at[row["rows"]] = row["value"] if row["n"] else None
            if math.isfinite(row["low"]):
                at["intervals"][row["rows"]] = [row["low"], row["high"]]
        return list(found.values())

    @property
    def _all_records(self) -> tuple[Record, ...]:
        return self.records + self.layer_records

    @property
    def text_cut(self) -> int:
        """Number of examples whose text was cut to fit the model's limit."""
        return sum(record.text_cut > 0 for record in self.records if record.input == "text")

    def mean_tokens(self, label: str) -> float:
        """Mean number of tokens behind one of the eRanks, which none of them can exceed.

        Args:
            label: `erank1` .. `erank5`.

        Returns:
            The mean of n over examples; NaN where the model has none.
        """
        counts = [r.n for r in self.records if (r.point, r.input) == ERANKS[label]]
        return sum(counts) / len(counts) if counts else math.nan

    def to_pandas(self) -> pd.DataFrame:
        """One row per example and measurement, in the order of the examples' ids; columns as in `mmerank.records`."""
        return to_frame(self._all_records)

    def to_dict(self) -> dict[str, Any]:
        """The result as `--json` prints it; what is undefined is null."""
        found: dict[str, Any] = no_nan(self._stated())
        return found

    def _stated(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "data": self.data,
            "n": self.n,
            "limit": self.limit,
            "seed": self.seed,
            "skipped": [{"id": entry.id, "reason": entry.reason} for entry in self.skipped],
            "convention": all_choices(self.convention, self.source),
            **{label: getattr(self, label) for label in ERANKS},
            "image_reduction_ratio": self.image_reduction_ratio,
            "image_text_alignment": self.image_text_alignment,
            **({"undefined": self.undefined} if self.undefined else {}),
            "intervals": {label: list(limits) for label, limits in self.intervals.items()},
            "bootstrap": self.bootstrap.to_dict(),
            "mean_tokens": {label: self.mean_tokens(label) for label in ERANKS},
            "text_cut": self.text_cut,
            **{name: block for name in ASIDE if (block := getattr(self, name)) is not None},
            "source": self.source,
            "versions": versions(),
        }

    def __str__(self) -> str:
        from mmerank.report import alignment_text

        return alignment_text([self])


def align(
    adapter: Adapter,
    examples: Iterable[Example | Skipped],
    *,
    convention: Convention | None = None,
    limit: int | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    share_prefix: bool = True,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    out: str | Path | RunFolder | None = None,
    progress: bool = False,
    clip: str | None = None,
    layers: str = "",
) -> Alignment:
    """eRank1 to eRank5, Image Reduction Ratio and Image-Text Alignment of a model on image-text pairs.

    Diff-eRank (arXiv:2401.17139), Sec. 5.2.

    Args:
        adapter: A loaded model, from `mmerank.load`.
        examples: From `mmerank.load_data`, or any iterable of `mmerank.Example`.
        convention: The choices the paper leaves open.
        limit: Use this many of the examples: the first ones, or with `seed` a random sample.
        seed: Of the sample; as in the published code, `random.Random(seed).sample`.
        batch_tokens: Most LLM positions in a batch, padding included. Default: one example a batch on a CPU,
            8192 elsewhere, fewer with many layers.
        share_prefix: Whether the image input may be read from the prefix of the pair pass.
        max_pixels: Pictures with more pixels are skipped.
        strict: Raise at the first example that cannot be measured, in place of skipping it.
        out: A run folder; when it exists, only examples that it lacks are measured.
        progress: Show a progress bar on stderr.
        clip: A model of open_clip, `MODEL:PRETRAINED`, for CLIPScore among the companions; see `mmerank.clip`.
        layers: Further layers of the LLM at which the pair is measured, all rows and by role; see
            `mmerank.layers.layer_points`.

    Returns:
        The numbers, with all records.

    Raises:
        DataError: No example could be measured, or one was skipped and `strict` is set.
        ModelError: CLIP cannot be loaded.
        RunFolderError: `out` holds a run with other settings.
        TypeError: `adapter` is not a loaded multimodal model, or `examples` no iterable of examples.
        UsageError: `limit` is below 1, or there is a seed without a limit; no such CLIP or layer, or more rows to
            match than a picture has.
    """
    convention = convention or Convention()
    check_adapter(adapter)
    check_examples(examples)
    name = examples.name if isinstance(examples, DataSet) else "examples"
    probe = Probe(
        adapter,
        convention,
        batch_tokens=batch_tokens,
        share_prefix=share_prefix,
        max_pixels=max_pixels,
        layers=layers,
    )
    scorer = None if clip is None else Clip(clip, next(adapter.model.parameters()).device)
    own_folder = out is not None and not isinstance(out, RunFolder)
    if (out is not None and not isinstance(out, RunFolder)) or scorer is not None:
        examples = examples if isinstance(examples, DataSet) else list(examples)
    if out is not None and not isinstance(out, RunFolder):
        out = open_align_run(out, examples, convention, layers=layers, max_pixels=max_pixels, limit=limit, seed=seed)
    folder = out
    if folder is not None:
        folder.add_model(adapter.name, dict(probe.source))
    entries: Iterable[Example | Skipped] = without_placeholders(
        probe.placeholders, unique(asked := chosen(examples, limit, seed))
    )
    records, skipped = collect(
        probe.measure,
        list(entries) if isinstance(asked, Sized) else entries,
        model=adapter.name,
        job="align",
        folder=folder,
        strict=strict,
        progress=progress,
    )
    result = alignment_of(records, skipped, probe=probe, data=name, limit=limit, seed=seed)
    if scorer is not None:
        embeddings = clip_embeddings(
            scorer,
            without_placeholders(probe.placeholders, chosen(examples, limit, seed)),
            {record.example for record in result.records},
            folder=folder.path if folder is not None else None,
            max_pixels=max_pixels,
            progress=progress,
        )
        result = replace(result, clip=embeddings)
    if folder is not None and own_folder:
        folder.write_summary({"results": [result.to_dict()]})
    return result


def alignment_of(
    records: Iterable[Record],
    skipped: Sequence[Skipped],
    *,
    probe: Probe,
    data: str,
    limit: int | None,
    seed: int | None,
) -> Alignment:
    """The result that records give.

    Args:
        records: Five per example, in any order, and those of further layers.
        skipped: The examples without.
        probe: What measured them.
        data: Name of the data set.
        limit: How many examples were asked for.
        seed: Of their choice.

    Returns:
        The numbers.

    Raises:
        DataError: There are no records.
    """
    order, convention = list(ERANKS.values()), probe.convention
    rows = sorted(records, key=lambda r: r.example)
    records = sorted(
        (r for r in rows if (r.point, r.input) in order), key=lambda r: (r.example, order.index((r.point, r.input)))
    )
    if not records:
        first = f"; first: {skipped[0].id!r}: {skipped[0].reason}" if skipped else ""
        raise DataError(f"{data}: no example could be measured, {len(skipped)} skipped{first}")
    undefined = dict(probe.adapter.undefined)
    if set(undefined) & {"erank3", "erank4", "erank5"}:
        undefined["image_text_alignment"] = next(iter(undefined.values()))
    return Alignment(
        model=probe.adapter.name,
        data=data,
        n=len({record.example for record in records}),
        skipped=tuple(skipped),
        convention=convention,
        source=dict(probe.source),
        records=tuple(records),
        limit=limit,
        seed=seed,
        bootstrap=Bootstrap(),
        clip=None,
        undefined=undefined,
        layer_records=tuple(r for r in rows if (r.point, r.input) not in order),
        **alignment(records, aggregate=convention.aggregate),
    )


def open_align_run(
    out: str | Path,
    examples: Iterable[Example | Skipped],
    convention: Convention,
    *,
    layers: str = "",
    max_pixels: int,
    limit: int | None,
    seed: int | None,
) -> RunFolder:
    """The run folder for these settings, new or continued. Arguments and errors as in `align`."""
    settings: dict[str, Any] = {"convention": convention.to_dict(), "max_pixels": max_pixels}
    if layers:
        settings["layers"] = layers
    return open_run(out, "align", examples, settings, limit=limit, seed=seed)
