"""The main job: model x examples -> eRank1 to eRank5 and the two ratios."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.alignment import ALIGNMENT, DECIMALS
from mmerank.analysis.results.alignment import AlignmentResult
from mmerank.computing import Computing
from mmerank.convention import Convention
from mmerank.engine.collect import collect
from mmerank.engine.plans.margin import asks_for_margin
from mmerank.engine.plans.pairs import Pairs
from mmerank.engine.probe import Probe
from mmerank.formulas.asked import Given, stated_metrics, with_metrics
from mmerank.inputs.example import Example, Skipped, check_examples, kept, name_of, unique
from mmerank.inputs.others import Others
from mmerank.inputs.pictures import MAX_PIXELS
from mmerank.inputs.placeholders import without_placeholders
from mmerank.inputs.selection import ALL, Selection
from mmerank.jobs.clip import Clip, check_one_picture, clip_embeddings, clip_in
from mmerank.jobs.patch_map import PatchMap
from mmerank.jobs.shown import Result, as_run
from mmerank.models.adapter import Adapter, check_adapter
from mmerank.runs.fetched import run_folder
from mmerank.runs.folder import RunFolder, open_run


class Alignment(Result, AlignmentResult):
    """The five data-set eRanks of one model on one data set, the two ratios, and what they stand on."""

    @classmethod
    def from_run(cls, folder: str | Path, model: str | None = None) -> Self:
        """As above, with CLIP's embeddings where they were asked for."""
        folder = run_folder(folder)
        found = super().from_run(folder, model)
        clip = clip_in(folder, [record.example for record in found.records])
        return found if clip is None else replace(found, clip=clip)

    @cached_property
    def _runs(self) -> list[Finished]:
        return [as_run("align", self, self._all_records)]

    def patches(self, example: str | int) -> dict[str, PatchMap]:
        """What each row of an example adds to its entropies, and where it lies in the picture, to be drawn, too.

        Args:
            example: Its id.

        Returns:
            Of `erank1`, `erank2` and `erank5`.

        Raises:
            UsageError: Patches were not asked for, or there is no such example.
        """
        return {
            label: PatchMap(of.label, of.entropy, of.contributions, of.tokens, of.places, of.why)
            for label, of in super().patches(example).items()
        }

    def _in_short(self) -> dict[str, Any]:
        numbers = {name: round(getattr(self, name), DECIMALS[name]) for name in ALIGNMENT}
        return {"model": self.name or self.model, "data": self.data, "n": self.n, **numbers}

    def __str__(self) -> str:
        from mmerank.report.terminal.alignment import alignment_text

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
    inside: str = "",
    metrics: Iterable[Given] = (),
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
        clip: A model of open_clip, `MODEL:PRETRAINED`, for CLIPScore among the companions; see `mmerank.jobs.clip`.
        layers: Further layers of the LLM at which the pair is measured, all rows and by role; see
            `mmerank.models.layers.layer_points`.
        inside: Blocks of the LLM whose updates of the residual stream are measured, by attention and by the MLP:
            `all`, `first`, `middle`, `last` and numbers from 1 on, joined by commas.
        metrics: Also these, by name, or functions of your own; see `mmerank.formulas.asked.asked_for`.

    Returns:
        The numbers, with all records.

    Raises:
        DataError: No example could be measured, or one was skipped and `strict` is set.
        ModelError: CLIP cannot be loaded, or what a block adds is not found.
        RunFolderError: `out` holds a run with other settings.
        TypeError: `adapter` is not a loaded multimodal model, `examples` no iterable of examples, or `metrics` no
            list.
        UsageError: `limit` is below 1, or there is a seed without a limit; no such CLIP, layer, block or metric, or
            more rows to match than a picture has.
    """
    convention = with_metrics(convention or Convention(), metrics)
    computing = Computing(batch_tokens=batch_tokens, share_prefix=share_prefix, strict=strict, progress=progress)
    selection = Selection(limit, seed)
    check_adapter(adapter)
    check_examples(examples)
    name = name_of(examples)
    if asks_for_margin(convention):
        examples = kept(examples)
    plan = Pairs(
        adapter,
        convention,
        layers=layers,
        inside=inside,
        max_pixels=max_pixels,
        share_prefix=computing.share_prefix,
        others=others_for(convention, examples, selection, max_pixels),
    )
    probe = Probe(plan, computing)
    scorer = None if clip is None else Clip(clip, next(adapter.model.parameters()).device)
    own_folder = out is not None and not isinstance(out, RunFolder)
    if (out is not None and not isinstance(out, RunFolder)) or scorer is not None:
        examples = kept(examples)
    if scorer is not None:
        check_one_picture(selection.of(examples))
    if out is not None and not isinstance(out, RunFolder):
        out = open_align_run(
            out, examples, convention, layers=layers, inside=inside, max_pixels=max_pixels, selection=selection
        )
    folder = out
    if folder is not None:
        folder.add_model(adapter.name, dict(probe.source))
    entries: Iterable[Example | Skipped] = without_placeholders(
        plan.placeholders, unique(asked := selection.of(examples))
    )
    records, skipped = collect(
        probe.measure,
        list(entries) if isinstance(asked, Sized) else entries,
        model=adapter.name,
        job="align",
        folder=folder,
        computing=computing,
    )
    result = Alignment.of(
        records,
        skipped,
        model=adapter.name,
        data=name,
        convention=convention,
        source=probe.source,
        selection=selection,
        undefined=adapter.undefined,
    )
    if scorer is not None:
        embeddings = clip_embeddings(
            scorer,
            without_placeholders(plan.placeholders, selection.of(examples)),
            {record.example for record in result.records},
            folder=folder.path if folder is not None else None,
            max_pixels=max_pixels,
            progress=progress,
        )
        result = replace(result, clip=embeddings)
    if folder is not None and own_folder:
        folder.write_summary({"results": [result.to_dict()]})
    return result


def others_for(
    convention: Convention, examples: Iterable[Example | Skipped], selection: Selection, max_pixels: int
) -> Others | None:
    """Where pictures of other examples come from, for a run that is asked for `match_margin`.

    Args:
        convention: How.
        examples: Of the run; gone through where they are needed.
        selection: From them.
        max_pixels: Pictures with more are passed over.

    Returns:
        None where the metric is not asked for.

    Raises:
        UsageError: The examples are a stream, and nothing says where to stop.
    """
    if not asks_for_margin(convention):
        return None
    entries = unique(selection.held(examples))
    return Others(entries, count=convention.match_others, seed=convention.match_seed, max_pixels=max_pixels)


def open_align_run(
    out: str | Path,
    examples: Iterable[Example | Skipped],
    convention: Convention,
    *,
    layers: str = "",
    inside: str = "",
    max_pixels: int,
    selection: Selection = ALL,
) -> RunFolder:
    """The run folder for these settings, new or continued. Arguments and errors as in `align`."""
    settings: dict[str, Any] = {"convention": convention.to_dict(), "max_pixels": max_pixels}
    settings |= {name: value for name, value in {"layers": layers, "inside": inside}.items() if value}
    settings |= stated_metrics(convention.metrics)
    return open_run(out, "align", examples, settings, selection=selection)
