"""Numbers of results -> an experiment tracker, through accelerate's."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmerank.analysis.estimates import logged_name
from mmerank.analysis.finished import Finished
from mmerank.analysis.steps import stated_step
from mmerank.errors import UsageError
from mmerank.processes import LAUNCHED
from mmerank.trackers import TRACKERS, check_tracker

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker


def track(runs: Sequence[Finished], tracker: str | GeneralTracker, *, project: str, folder: str) -> None:
    """Log every number with its interval, a run of the tracker for each model; checkpoints of a training share one.

    Args:
        runs: Of results.
        tracker: As for `mmerank.jobs.shown.Result.track`.
        project: By which runs stand together.
        folder: For trackers that write files.

    Raises:
        UsageError: The tracker is unknown or not installed, or it is an object and there are several models to track.
    """
    trainings: dict[tuple[str, str], list[tuple[Finished, str, int | None]]] = {}
    for run in runs:
        for model in run.frames:
            name, step = stated_step(model) or (model, None)
            trainings.setdefault((run.job, name), []).append((run, model, step))
    if not isinstance(tracker, str) and len(trainings) > 1:
        raise UsageError(
            f"a tracker that is an object tracks one model, or the checkpoints of one training; got {len(trainings)}"
        )
    for (job, name), members in trainings.items():
        run, model, _ = members[0]
        called = " ".join((job, run.names.get(model, name), run.data))
        with _alone():
            logger = _made(tracker, project, called, folder) if isinstance(tracker, str) else tracker
            logger.start()
            try:
                logger.store_init_configuration(dict(_flat(_configuration(run, name))))
                for of_step, model, step in members:
                    logger.log(_numbers(of_step, model), step=step)
            finally:
                logger.finish()


def _made(name: str, project: str, called: str, folder: str) -> Any:
    check_tracker(name)
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    made = LOGGER_TYPE_TO_CLASS[name]
    if made.requires_logging_directory:
        return made("".join(c if c.isalnum() or c in " ._-" else "_" for c in called), f"{folder}/{project}")
    return made(project, **{TRACKERS[name].run_name: called})


@contextmanager
def _alone() -> Iterator[None]:
    """Accelerate's state, without which its trackers do not log, of this process by itself.

    Of several processes one tracks; were accelerate to find the others, it would wait for them.
    """
    from accelerate import PartialState

    if PartialState._shared_state:  # a training's
        yield
        return
    launched = {name: os.environ.pop(name) for name in list(os.environ) if name in LAUNCHED}
    try:
        PartialState()
    finally:
        os.environ |= launched
    try:
        yield
    finally:
        PartialState._reset_state()


def _configuration(run: Finished, name: str) -> dict[str, Any]:
    data = {key: value for key, value in run.settings["data"].items() if key != "fingerprint"}
    return {
        "job": run.job,
        "model": name,
        "data": data,
        "convention": run.convention,
        "versions": run.settings["versions"],
    }


def _flat(values: Mapping[str, Any], front: str = "") -> Iterator[tuple[str, Any]]:
    """What trackers take as settings: text, numbers and truth values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{front}{name}.")
        else:
            plain = isinstance(value, (str, int, float))
            yield f"{front}{name}", value if plain else "none" if value is None else ", ".join(map(str, value))


def _numbers(run: Finished, model: str) -> dict[str, float]:
    """Every number by transform, layer and name, and its limits below it; without those that do not exist."""
    found: dict[str, float] = {}
    rows = run.estimates[run.estimates["model"] == model]
    for row in rows.to_dict("records"):
        name = logged_name(row["transform"], row["point"], row["quantity"])
        values = {name: row["value"], f"{name}/low": row["low"], f"{name}/high": row["high"]}
        found |= {key: float(value) for key, value in values.items() if math.isfinite(value)}
    return {**found, "n": float(run.n(model))}
