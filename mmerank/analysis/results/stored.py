"""What a finished run folder holds of one model: all that a result is made of again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmerank.analysis.estimates import by_model
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.convention import AnyConvention
from mmerank.errors import RunFolderError, UsageError, did_you_mean
from mmerank.formulas.asked import remember
from mmerank.inputs.example import Skipped
from mmerank.inputs.selection import Selection
from mmerank.runs.fetched import run_folder
from mmerank.runs.parts import read_whole
from mmerank.runs.record import Record, records_of
from mmerank.runs.settings import SUMMARY, convention_in, read_settings, read_summary, results_in

_Asked = TypeVar("_Asked", bound=AnyConvention)


@dataclass(frozen=True)
class Stored:
    """One model of a finished run.

    Attributes:
        folder: The run folder.
        settings: As in its `run.json`.
        summary: As in its `summary.json`.
        result: Of this model there; of a perturbation the base's.
        records: Its own, and of its untrained twins, of the examples that all of them have.
    """

    folder: Path
    settings: dict[str, Any]
    summary: dict[str, Any]
    result: dict[str, Any]
    records: list[Record]

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The examples without records."""
        return tuple(Skipped(entry["id"], entry["reason"]) for entry in self.result.get("skipped", []))

    @property
    def shared(self) -> dict[str, Any]:
        """Arguments that every result is made of."""
        model = self.result["model"]
        return {
            "model": model,
            "data": self.settings["data"]["name"],
            "source": self.settings["models"].get(model, {}),
            "selection": Selection(self.result.get("limit"), self.result.get("seed")),
        }

    @property
    def beside(self) -> dict[str, Any]:
        """What is put into a result afterwards."""
        try:
            bootstrap = Bootstrap(**self.result.get("bootstrap", {}))
        except (TypeError, ValueError) as error:
            raise RunFolderError(f"{self.folder / SUMMARY}: not what a run writes (bootstrap: {error})") from None
        return {
            "bootstrap": bootstrap,
            "name": self.result.get("name", ""),
            "versions": self.result.get("versions", self.settings.get("versions", {})),
        }

    def convention(self, kind: type[_Asked]) -> _Asked:
        """The choices in force.

        Args:
            kind: What a run of this job states.

        Returns:
            They.
        """
        found = convention_in(self.folder, self.settings)
        assert isinstance(found, kind)  # by the job
        return found


def stored(folder: str | Path, job: str, model: str | None = None) -> Stored:
    """What a finished run folder holds of one model.

    Args:
        folder: What `--out` was given, or `hub:OWNER/NAME[/RUN][@REVISION]`.
        job: Of which it must be a run.
        model: Which of its models; None where it has one.

    Returns:
        Settings, summary and records.

    Raises:
        RunFolderError: It is no finished run of this job, or something is gone.
        UsageError: It holds several models, or not this one.
    """
    folder = run_folder(folder)
    settings = read_settings(folder, needs=("job", "data", "convention", "models"))
    if settings["job"] != job or "name" not in settings["data"]:
        raise RunFolderError(f"{folder}: expected a run of {job}, got one of {settings['job']}")
    remember(settings)
    summary = read_summary(folder)
    results = {result["model"]: result for result in results_in(summary)}
    if not results:
        raise RunFolderError(f"{folder}: not finished (no {SUMMARY}); the command that began it goes on with it")
    if model is None and len(results) > 1:
        raise UsageError(f"{folder}: holds several models, {', '.join(results)}; say which, model=...")
    name = next(iter(results)) if model is None else model
    if name not in results:
        raise UsageError(
            f"{folder}: no model {name!r}{did_you_mean(name, list(results))}; it has {', '.join(results)}"
        )
    table = read_whole(folder)
    frame = by_model(folder, table.drop_columns(["spectrum"]), settings, summary)[name]
    common = set.intersection(*(set(of["example"]) for _, of in frame.groupby("model")))
    if len(common) != results[name].get("n", len(common)):
        raise RunFolderError(
            f"{folder}: its {SUMMARY} stands on {results[name]['n']} examples of {name!r}, and there are records of "
            f"{len(common)}; the command that wrote it puts that right"
        )
    names = set(frame["model"])
    records = [record for record in records_of(table) if record.model in names and record.example in common]
    return Stored(folder, settings, summary, results[name], records)
