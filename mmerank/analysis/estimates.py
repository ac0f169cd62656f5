"""The numbers and intervals of a run folder once more, from its records alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.metrics.known import metrics_of
from mmerank.analysis.perturbation import Null, against_nulls, differences_frame, paired_tests
from mmerank.analysis.statistics.bootstrap import Bootstrap, sample_intervals
from mmerank.analysis.statistics.paired import FalseDiscovery
from mmerank.analysis.steps import by_step
from mmerank.convention import Aggregate
from mmerank.eranks import FINAL
from mmerank.errors import RunFolderError
from mmerank.formulas.asked import remember
from mmerank.runs.fetched import run_folder
from mmerank.runs.parts import read_whole
from mmerank.runs.record import frame_of
from mmerank.runs.settings import SUMMARY, read_settings, read_summary, results_in


def run_records(folder: str | Path) -> dict[str, pd.DataFrame]:
    """The records of a run folder by model, for `compare` and `mmerank.analysis.intervals.intervals`.

    Args:
        folder: What `--out` was given, or `hub:OWNER/NAME[/RUN][@REVISION]`.

    Returns:
        A frame per model, checkpoints of a training in the order of their steps; of texts, with the records of its
        untrained twins. The spectra are left out.

    Raises:
        RunFolderError: It is not a run folder, or has no records.
    """
    folder = run_folder(folder)
    stated = _stated(folder)
    remember(stated)
    table = read_whole(folder, without=["spectrum"])
    if not table.num_rows:
        raise RunFolderError(f"{folder}: has no records yet")
    return by_model(folder, table, stated, read_summary(folder))


def by_model(
    folder: Path, table: pa.Table, stated: dict[str, Any], summary: Mapping[str, Any]
) -> dict[str, pd.DataFrame]:
    """Records by trained model.

    Args:
        folder: The run folder, for the error.
        table: Its records.
        stated: As in its `run.json`.
        summary: As in its `summary.json`; empty where the run was not finished.

    Returns:
        As from `run_records`.

    Raises:
        RunFolderError: The run was finished with more examples, or twins, than there are.
    """
    records, found = frame_of(table), {}
    for model in by_step(list(records["model"].unique())):
        if not model.startswith(TWIN):
            twins = [name for name in records["model"].unique() if _is_twin(name, model, stated, records)]
            found[model] = records[records["model"].isin([model, *twins])]
    for result in results_in(summary):
        model, n, seeds = result["model"], result.get("n", 0), len(result.get("seeds", []))
        of_each = [set(of["example"]) for _, of in found[model].groupby("model")] if model in found else [set()]
        if len(set.intersection(*of_each)) < n or len(of_each) <= seeds:
            beside = f" and {seeds} untrained twin{'s' * (seeds > 1)}" if seeds else ""
            raise RunFolderError(
                f"{folder}: its {SUMMARY} stands on {n} examples of {model!r}{beside}, of which parts are gone; the "
                "command that wrote them measures them again"
            )
    return found


def estimates(
    folder: str | Path, *, bootstrap: Bootstrap | None = None, aggregate: Aggregate | None = None
) -> pd.DataFrame:
    """Every number of a run with its interval, without torch and without the model.

    With the settings of the run these are the numbers of its `summary.json`. The null draws of `mmerank perturb`,
    which measure the pair input alone, are left out.

    Args:
        folder: What `--out` was given, or `hub:OWNER/NAME[/RUN][@REVISION]`.
        bootstrap: Level, resamples, seed and method.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`. Default: that of the run.

    Returns:
        A row per model, transform, hook point (of texts; else empty) and quantity: `model`, `transform` (`none`: the
        base), `point`, `metric`, `quantity`, `value`, `low`, `high` (NaN with fewer than two examples), `n`. Of a run
        with `match_tokens` also the numbers on equally many rows, `matched_erank1` .. `matched_image_text_alignment`;
        they do not exist (NaN, `n` is 0) where no example has as many rows.

    Raises:
        RunFolderError: It is not a run folder, or has no records.
    """
    folder = run_folder(folder)
    by = aggregate or _stated(folder)["convention"]["aggregate"]
    return numbers_by_model(run_records(folder), by, bootstrap)


def numbers_by_model(
    frames: Mapping[str, pd.DataFrame], aggregate: Aggregate, bootstrap: Bootstrap | None = None
) -> pd.DataFrame:
    """The same of records that have been read.

    Args:
        frames: As from `run_records`.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        bootstrap: Level, resamples, seed and method.

    Returns:
        As from `estimates`.
    """
    rows = [
        {"model": model, "transform": transform, **row}
        for model, records in frames.items()
        for transform, frame in records.groupby("transform", sort=False)
        for row in numbers_of(frame, aggregate, bootstrap)
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
        folder: What `--out` was given, or `hub:OWNER/NAME[/RUN][@REVISION]`.
        bootstrap: Level, resamples, seed and method.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`. Default: that of the run.
        false_discovery: How `q` is made, over all transforms of a model and all quantities that they can move.

    Returns:
        A row per model, transform and quantity: `model`, and what `mmerank.analysis.perturbation.differences_frame`
        has.

    Raises:
        RunFolderError: It is not a run folder of `mmerank perturb`, or has no records.
    """
    folder = run_folder(folder)
    by = aggregate or _stated(folder, job="perturb")["convention"]["aggregate"]
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
        folder: What `--out` was given, or `hub:OWNER/NAME[/RUN][@REVISION]`.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`. Default: that of the run.

    Returns:
        By model; `tests` and `draws` of each have the numbers.

    Raises:
        RunFolderError: It is not a run folder of `mmerank perturb`, or has no records.
    """
    folder = run_folder(folder)
    by = aggregate or _stated(folder, job="perturb")["convention"]["aggregate"]
    return {model: against_nulls(records, aggregate=by) for model, records in run_records(folder).items()}


def numbers_of(frame: pd.DataFrame, aggregate: Aggregate, bootstrap: Bootstrap | None) -> Iterator[dict[str, Any]]:
    """Every number that records hold, by every metric.

    Args:
        frame: Of one model (of texts: with its untrained twins) and transform.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        bootstrap: Level, resamples, seed and method.

    Yields:
        `point`, `metric`, `quantity`, `value`, `low`, `high`, `n`.
    """
    for of in metrics_of(frame):
        for point, sample in of.samples(frame, aggregate):
            limits = sample_intervals(sample, bootstrap)
            counts = sample.counts or (sample.n,) * len(sample.quantities)
            for name, value, n in zip(sample.quantities, sample.estimates, counts, strict=True):
                low, high = limits.get(name, (math.nan, math.nan))
                found = {"value": float(value), "low": low, "high": high, "n": n if math.isfinite(value) else 0}
                yield {"point": point, "metric": of.name, "quantity": f"{of.prefix}{name}", **found}


def values_of(frame: pd.DataFrame, aggregate: Aggregate, *, but: str = "") -> dict[str, float]:
    """The same without intervals, which is quick: for a monitor.

    Args:
        frame: As for `numbers_of`.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        but: A metric to leave out.

    Returns:
        By the name of `logged_name`; NaN where there is no number.
    """
    return {
        logged_name("none", point, f"{of.prefix}{name}"): float(value)
        for of in metrics_of(frame)
        if of.name != but
        for point, sample in of.samples(frame, aggregate)
        for name, value in zip(sample.quantities, sample.estimates, strict=True)
    }


def logged_name(transform: str, point: str, quantity: str) -> str:
    """What a number is called where each has one name: in an experiment tracker, or the logs of a training.

    Args:
        transform: `none`: the base.
        point: A layer; the final representation goes without.
        quantity: Of a metric.

    Returns:
        As in `rotate:90/erank1` or `layer 3/diff_erank`.
    """
    parts = ("" if transform == "none" else transform, "" if point == FINAL else point, quantity)
    return "/".join(filter(None, parts))


def _is_twin(name: str, model: str, stated: dict[str, Any], records: pd.DataFrame) -> bool:
    """Whether an untrained model is the twin of a trained one, and saw the same tokens."""
    models = stated["models"]
    if not name.startswith(TWIN) or models[name].get("configuration") != models[model].get("configuration"):
        return False
    known = models[model].get("known_by", {})
    # What is not said of a twin may differ, but for what it is drawn with.
    if known.get("initialisation") != models[name].get("known_by", {}).get("initialisation"):
        return False
    if any(known.get(key) != value for key, value in models[name].get("known_by", {}).items()):
        return False
    mine, its = (
        records[records["model"] == of].drop_duplicates("example").set_index("example")["n"] for of in (model, name)
    )
    common = mine.index.intersection(its.index)
    return bool((mine[common] == its[common]).all())


def _stated(folder: Path, *, job: str | None = None) -> dict[str, Any]:
    stated = read_settings(folder, needs=("job", "convention", "models"))
    if job not in (None, stated["job"]):
        raise RunFolderError(f"{folder}: expected a run of {job}, got one of {stated['job']}")
    return stated
