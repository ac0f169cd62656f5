"""Several results beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from mmerank.analysis.finished import Finished
from mmerank.errors import UsageError
from mmerank.jobs.shown import Names, Result, check_names, drawn_into
from mmerank.report.folders import run_folders
from mmerank.report.names import check_nameable, nameable
from mmerank.runs.jobs import JOBS
from mmerank.runs.settings import read_settings, read_summary, results_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Results(Result, Sequence[Any]):
    """Several results beside each other: one table, with tests between models on the examples that they share.

    Args:
        results: Of `align`, `perturb`, `diff`, `encode`, `generate` or `prune_study`, of any of them.
        names: What to call models, data sets, transforms and numbers, by what they are called.

    Raises:
        TypeError: One is something else.
        UsageError: There is none; or nothing is called so.
    """

    def __init__(self, results: Sequence[Any], *, names: Names = None):
        check_names(names)
        if isinstance(results, Result) and not isinstance(results, Results):
            raise TypeError(f"expected a list of results, got one {type(results).__name__}")
        self._results = tuple(results)
        self._names = dict(names or {})
        for result in self._results:
            if not isinstance(result, Result) or isinstance(result, Results):
                raise TypeError(
                    "expected results of mmerank.align, perturb, diff, encode, generate or prune_study, got "
                    f"{type(result).__name__}; a run folder is read by Results.from_run(DIR, ...)"
                )
        if not self._results:
            raise UsageError("expected at least one result")
        if self._names:
            check_nameable(self._names, nameable([run for result in self._results for run in result._runs]))

    @classmethod
    def from_run(cls, *folders: str | Path, names: Names = None) -> Results:
        """The results of run folders, of every model in them.

        Args:
            folders: What `--out` was given, folders of such folders, or `hub:OWNER/NAME[/RUN][@REVISION]`.
            names: As of `Results`.

        Returns:
            They, in the order given.
        """
        import mmerank  # its names are of the jobs, of which none is loaded for another

        found = []
        for folder in run_folders(folders):
            job = read_settings(folder, needs=("job",))["job"]
            kind = getattr(mmerank, JOBS.get(job, JOBS["align"]).result)  # which refuses what is none of its own
            models = [result["model"] for result in results_in(read_summary(folder))]
            found += [kind.from_run(folder, model) for model in models or [None]]
        return cls(found, names=names)

    @property
    def _runs(self) -> list[Finished]:
        found: list[Finished] = []
        for i, run in enumerate(run for result in self._results for run in result._runs):
            names = {**run.names, **{of: name for of, name in self._names.items() if of in run.frames}}
            found.append(replace(run, name=f"result {i + 1}", names=names))
        return found

    def scatter(self, x: str, y: str, ax: Axes | None = None, *, scores: Sequence[str | Path] = ()) -> Axes:
        """Draw the models by two numbers, or by a number and a score, with their rank correlation.

        Args:
            x: A number, as `summary()` names it, or the name of a score.
            y: Another.
            ax: Where to. Default: new ones, of pyplot.
            scores: Files of scores, as for `mmerank report --scores`.

        Returns:
            The axes.

        Raises:
            DataError: Scores cannot be read, or none is of these models.
            TypeError: `ax` is something else, as a figure, or several.
            UsageError: There is no such number or score, no model has both, or they are of several data sets.
        """
        from mmerank.analysis.scores.read import read_scores
        from mmerank.report.numbers import all_numbers
        from mmerank.report.scatter import scatter_drawing

        runs = self._runs
        drawing = scatter_drawing("scatter", runs, all_numbers(runs), read_scores(scores), (x, y))
        return drawn_into(ax, drawing.draw)

    def _in_short(self) -> Mapping[str, Any]:
        return {"results": self._results}

    def __str__(self) -> str:
        return "\n\n".join(map(str, self._results))

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._results[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._results)
