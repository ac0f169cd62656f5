"""The numbers and intervals of a run folder once more, from its records alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from mmerank.analysis.bootstrap import Bootstrap, sample_intervals
from mmerank.analysis.diff_erank import TWIN
from mmerank.analysis.paired import FalseDiscovery
from mmerank.analysis.perturbation import Null, against_nulls, differences_frame, paired_tests
from mmerank.analysis.samples import sample
from mmerank.convention import Aggregate
from mmerank.errors import RunFolderError
from mmerank.files import json_of
from mmerank.records import read_parts, to_frame


def run_records(folder: str | Path) -> dict[str, pd.DataFrame]:
    """The records of a run folder by model, ready for `mmerank.compare` and `mmerank.analysis.bootstrap.intervals`.

    Args:
        folder: What `--out` was given.

    Returns:
        A frame per model; of texts, with the records of its untrained twins. The spectra are left out.

    Raises:
        RunFolderError: It is not a run folder, or has no records.
    """
    stated = _stated(Path(folder))
    records = to_frame(read_parts(Path(folder) / "records"), spectrum=False)
    if records.empty:
        raise RunFolderError(f"{folder}: has no records yet")
    found = {}
    for model in records["model"].unique():
        if not model.startswith(TWIN):
            twins = [name for name in records["model"].unique() if _is_twin(name, model, stated, records)]
            found[model] = records[records["model"].isin([model, *twins])]
    return found


def estimates(
    folder: str | Path, *, bootstrap: Bootstrap | None = None, aggregate: Aggregate | None = None
) -> pd.DataFrame:
    """Every number of a run with its interval, without torch and without the model.

    With the settings of the run these are the numbers of its `summary.json`. The null draws of `mmerank perturb`,
    which measure the pair input alone, are left out.

    Args:
        folder: What `--out` was given.
        bootstrap: Level, resamples, seed and method.
        aggregate: See `mmerank.analysis.alignment.dataset_erank`. Default: that of the run.

    Returns:
        A row per model, transform, hook point (of texts; else empty) and quantity: `model`, `transform` (`none`: the
        base), `point`, `quantity`, `value`, `low`, `high` (NaN with fewer than two examples), `n`.

    Raises:
        RunFolderError: It is not a run folder, or has no records.
    """
    by = aggregate or _stated(Path(folder))["convention"]["aggregate"]
    rows = [
        {"model": model, "transform": transform, "point": point, **row}
        for model, records in run_records(folder).items()
        for transform, frame in records.groupby("transform", sort=False)
        if set(frame["input"]) != {"pair"}  # null draws of `mmerank perturb`
        for point, row in _rows(frame, by, bootstrap)
    ]
    return pd.DataFrame(rows)


def differences(
    folder: str | Path,
    *,
    bootstrap: Bootstrap | None = None,
    aggregate: Aggregate | None = None,
    false_discovery: FalseDiscovery = "bh",
) -> pd.DataFrame:
    """Each transform of a run of `mmerank perturb` minus its base, with intervals and tests.

    With the settings of the run these are the `tests` of its `summary.json`.

    Args:
        folder: What `--out` was given.
        bootstrap: Level, resamples, seed and method.
        aggregate: See `mmerank.analysis.alignment.dataset_erank`. Default: that of the run.
        false_discovery: How `q` is made, over all transforms of a model and all quantities that they can move.

    Returns:
        A row per model, transform and quantity: `model`, and what `mmerank.analysis.perturbation.differences_frame`
        has.

    Raises:
        RunFolderError: It is not a run folder of `mmerank perturb`, or has no records.
    """
    by = aggregate or _stated(Path(folder), job="perturb")["convention"]["aggregate"]
    found = []
    for model, records in run_records(folder).items():
        tests = paired_tests(records, aggregate=by, bootstrap=bootstrap, false_discovery=false_discovery)
        frame = differences_frame(tests)
        frame.insert(0, "model", model)
        found.append(frame)
    return pd.concat(found, ignore_index=True)


def controls(folder: str | Path, *, aggregate: Aggregate | None = None) -> dict[str, tuple[Null, ...]]:
    """The nulls of a run of `mmerank perturb`, and where the base stands among them.

    Args:
        folder: What `--out` was given.
        aggregate: See `mmerank.analysis.alignment.dataset_erank`. Default: that of the run.

    Returns:
        By model; `tests` and `draws` of each have the numbers.

    Raises:
        RunFolderError: It is not a run folder of `mmerank perturb`, or has no records.
    """
    by = aggregate or _stated(Path(folder), job="perturb")["convention"]["aggregate"]
    return {model: against_nulls(records, aggregate=by) for model, records in run_records(folder).items()}


def _rows(
    frame: pd.DataFrame, aggregate: Aggregate, bootstrap: Bootstrap | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    of_texts = set(frame["input"]) == {"text"}
    for point in frame["point"].unique() if of_texts else [""]:
        chosen = sample(frame, aggregate=aggregate, point=point)
        limits = sample_intervals(chosen, bootstrap)
        for name, value in zip(chosen.quantities, chosen.estimates, strict=True):
            low, high = limits.get(name, (math.nan, math.nan))
            yield point, {"quantity": name, "value": float(value), "low": low, "high": high, "n": chosen.n}


def _is_twin(name: str, model: str, stated: dict[str, Any], records: pd.DataFrame) -> bool:
    """Whether an untrained model has the configuration of a trained one, and saw the same tokens."""
    models = stated["models"]
    if not name.startswith(TWIN) or models[name].get("configuration") != models[model].get("configuration"):
        return False
    mine, its = (
        records[records["model"] == of].drop_duplicates("example").set_index("example")["n"] for of in (model, name)
    )
    common = mine.index.intersection(its.index)
    return bool((mine[common] == its[common]).all())


def _stated(folder: Path, *, job: str | None = None) -> dict[str, Any]:
    try:
        stated: dict[str, Any] = json_of(folder / "run.json")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunFolderError(f"{folder}: not a run folder, its run.json cannot be read ({reason})") from None
    if not isinstance(stated, dict):
        raise RunFolderError(f"{folder}: its run.json is not what a run writes")
    if job not in (None, stated.get("job")):
        raise RunFolderError(f"{folder}: expected a run of {job}, got one of {stated.get('job')}")
    return stated
