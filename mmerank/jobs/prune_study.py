"""What happens when rows of a picture are left out of what the LLM reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mmerank.analysis.finished import Finished
from mmerank.analysis.results.pruning import PruningResult
from mmerank.computing import Computing
from mmerank.convention import PruneConvention
from mmerank.engine.plans.pruning import Prunings
from mmerank.inputs.example import Example, Skipped, check_examples, kept
from mmerank.inputs.pictures import MAX_PIXELS
from mmerank.inputs.selection import Selection
from mmerank.jobs.alone import measured_alone
from mmerank.jobs.shown import Result, as_run
from mmerank.models.adapter import Adapter, check_adapter
from mmerank.runs.folder import RunFolder
from mmerank.states.choosers import with_functions


class Pruning(Result, PruningResult):
    """What leaving rows of pictures out does on a data set, and what the numbers stand on."""

    @cached_property
    def _runs(self) -> list[Finished]:
        return [as_run("prune-study", self, self.records)]

    def _in_short(self) -> dict[str, Any]:
        changes = {name: round(of.value, 3) for name, of in self.numbers.items() if name.startswith("loss_change/")}
        return {"model": self.name or self.model, "data": self.data, "n": self.n, **changes}

    def __str__(self) -> str:
        from mmerank.report.terminal.pruning import pruning_text

        return pruning_text([self])


def prune_study(
    adapter: Adapter,
    examples: Iterable[Example | Skipped],
    by: Sequence[str | Callable[..., Any]] | None = None,
    *,
    convention: PruneConvention | None = None,
    limit: int | None = None,
    seed: int | None = None,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    out: str | Path | RunFolder | None = None,
    progress: bool = False,
) -> Pruning:
    """Leave rows of a picture out between connector and LLM, and measure what that does to the others and the text.

    Each way to choose rows keeps equally many, and `random` (several draws) and `downsample` stand beside all others.
    Rows that are kept keep their positions, in every family; one of which that cannot be done is refused.

    Args:
        adapter: From `mmerank.load` or `mmerank.wrap`.
        examples: From `mmerank.load_data`, or any iterable of `mmerank.Example`, with responses.
        by: Ways to choose rows: names, or functions of your own from rows, (n, d) float64, to indices, what is to be
            kept first in front; with a second argument how many are to be kept. Default: those of `convention`.
        convention: The choices in force.
        limit: Use this many of the examples: the first ones, or with `seed` a random sample.
        seed: Of the sample.
        max_pixels: Pictures with more pixels are skipped.
        strict: Raise at the first example that cannot be measured, in place of skipping it.
        out: A run folder; when it exists, only what it lacks is measured.
        progress: Show a progress bar on stderr.

    Returns:
        The numbers, with all records.

    Raises:
        DataError: No example could be measured, or one was skipped and `strict` is set.
        ModelError: The model has no rows of a picture that could be left out, or predicts no responses.
        RunFolderError: `out` holds a run with other settings.
        TypeError: `adapter` is no loaded model, `examples` no iterable of examples, or `by` something else.
        UsageError: `limit` is below 1, there is a seed without a limit, or a function cannot choose rows.

    Example:
        >>> import mmerank
        >>> def first_half(rows):
        ...     return range(len(rows) // 2)
        >>> shares = mmerank.PruneConvention(keep=(0.5,), draws=2)
        >>> model, pairs = mmerank.load("demo-llava"), mmerank.load_data("demo")
        >>> result = mmerank.prune_study(model, pairs, ["norm", first_half], convention=shares, limit=2)
        >>> result.n, result.convention.by[:3]
        (2, ('random', 'downsample', 'norm'))
    """
    check_adapter(adapter)
    check_examples(examples)
    examples = kept(examples)
    convention, functions = with_functions(convention or PruneConvention(), by)
    return measured_alone(
        Pruning,
        lambda: Prunings(adapter, convention, functions, max_pixels),
        adapter,
        examples,
        convention,
        selection=Selection(limit, seed),
        max_pixels=max_pixels,
        computing=Computing(strict=strict, progress=progress),
        out=out,
    )
