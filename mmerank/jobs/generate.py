"""What models write, and how their hidden states change meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from mmerank.analysis.finished import Finished
from mmerank.analysis.results.generation import GenerationResult
from mmerank.computing import Computing
from mmerank.convention import GenerationConvention
from mmerank.engine.plans.generation import Generations
from mmerank.inputs.example import Example, Skipped, check_examples, kept
from mmerank.inputs.pictures import MAX_PIXELS
from mmerank.inputs.selection import Selection
from mmerank.jobs.alone import measured_alone
from mmerank.jobs.shown import Result, as_run
from mmerank.models.adapter import Adapter, check_adapter
from mmerank.models.loading import TextAdapter
from mmerank.runs.folder import RunFolder


class Generation(Result, GenerationResult):
    """What a model wrote for a data set, and what the numbers stand on."""

    @cached_property
    def _runs(self) -> list[Finished]:
        return [as_run("generate", self, self.records)]

    def _in_short(self) -> dict[str, Any]:
        numbers = {name: round(of.value, 2) for name, of in self.numbers.items() if name.startswith("erank_resp")}
        return {"model": self.name or self.model, "data": self.data, "n": self.n, **numbers}

    def __str__(self) -> str:
        from mmerank.report.terminal.generation import generation_text

        return generation_text([self])


def generate(
    adapter: Adapter | TextAdapter,
    examples: Iterable[Example | Skipped],
    *,
    convention: GenerationConvention | None = None,
    limit: int | None = None,
    seed: int | None = None,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    out: str | Path | RunFolder | None = None,
    progress: bool = False,
) -> Generation:
    """Let a model write, and measure the rows at its final norm and the entropy of its logits meanwhile.

    Pictures and instructions are the prompt of a multimodal model; of a language model it is the instruction or, of
    an example without one, its text. The prompt's rows are measured apart from the response's. Of the response there
    are the eRank of all its rows, of its first rows as it grew, and the first and second difference of these, as VERL
    (arXiv:2509.23808) defines them, here of the eRank of Diff-eRank (arXiv:2401.17139). transformers' `generate` does
    the writing, one prompt at a time.

    Args:
        adapter: From `mmerank.load`, `mmerank.load_text`, `mmerank.wrap` or `mmerank.wrap_text`.
        examples: From `mmerank.load_data`, or any iterable of `mmerank.Example`.
        convention: The choices in force.
        limit: Use this many of the examples: the first ones, or with `seed` a random sample.
        seed: Of the sample.
        max_pixels: Pictures with more pixels are skipped.
        strict: Raise at the first example that cannot be measured, in place of skipping it.
        out: A run folder; when it exists, only what it lacks is measured.
        progress: Show a progress bar on stderr.

    Returns:
        The numbers, with the responses and all records.

    Raises:
        DataError: No example could be measured, or one was skipped and `strict` is set.
        ModelError: The model cannot write, or has no chat template.
        RunFolderError: `out` holds a run with other settings.
        TypeError: `adapter` is no loaded model, or `examples` no iterable of examples.
        UsageError: `limit` is below 1, or there is a seed without a limit.
    """
    convention = convention or GenerationConvention()
    if not isinstance(adapter, TextAdapter):
        check_adapter(adapter)
    check_examples(examples)
    examples = kept(examples)
    return measured_alone(
        Generation,
        lambda: Generations(adapter, convention, max_pixels),
        adapter,
        examples,
        convention,
        selection=Selection(limit, seed),
        max_pixels=max_pixels,
        computing=Computing(strict=strict, progress=progress),
        out=out,
    )
