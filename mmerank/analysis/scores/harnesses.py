"""Result files of lm-eval, lmms-eval and VLMEvalKit, read without any of them.

lm-eval and lmms-eval write one form: `results`, by task, of `METRIC,FILTER`. VLMEvalKit writes a table or an object
for each model and data set, and says which in the names of file and folder alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmerank.analysis.scores.entry import Scored
from mmerank.analysis.scores.own import frame_of
from mmerank.errors import DataError

# How files of VLMEvalKit end: MODEL_DATASET_acc.csv, behind the data set also the name of a judge.
VLMEVALKIT = re.compile(r"(.+?)_(acc|score)\.(csv|json|xlsx)")
_BESIDE = ("sample_len", "alias", "samples")  # of a task, and no metrics of it
_DEPTH = 8  # of groups within groups
_PRETRAINED = re.compile(r"(?:^|,)(?:peft|pretrained|model|model_name|path)=([^,]+)")
_LABELS = ("split", "category", "task&skill", "task", "domain", "type", "index")
_OVERALL = ("overall", "acc", "precision", "recall", "f1", "aacc", "facc", "qacc")


class Metric(NamedTuple):
    """A number of a task.

    Attributes:
        task: Its name.
        within: Whether the task is one of a group that has numbers of its own.
        name: Of the metric, with the filter behind it where there is one.
        value: It.
        half: Of its 95 % interval, from the standard error; NaN where there is none, or it is 0.
        n: Number of questions; 0 where it is not known.
    """

    task: str
    within: bool
    name: str
    value: float
    half: float
    n: int


def metrics_in(content: Mapping[str, Any]) -> Iterator[Metric]:
    """Every number in what lm-eval and lmms-eval find, without standard errors.

    Args:
        content: With `results`, and where there are some `n-samples` and `group_subtasks`.

    Yields:
        Each.
    """
    results, groups = content["results"], content.get("group_subtasks") or {}
    counted = content.get("n-samples") or {}
    grouped = {task for group, tasks in groups.items() if _has_numbers(results.get(group)) for task in tasks}

    def count(task: str, depth: int = 0) -> int:
        of = counted.get(task)
        n = of.get("effective") if isinstance(of, dict) else (results.get(task) or {}).get("sample_len")
        if isinstance(n, (int, float)) and math.isfinite(n):
            return int(n)
        return sum(count(child, depth + 1) for child in groups.get(task) or ()) if depth < _DEPTH else 0

    for task, numbers in results.items():
        filtered = isinstance(numbers, dict) and any("," in key for key in numbers)
        for key, value in numbers.items() if isinstance(numbers, dict) else ():
            metric, comma, way = key.partition(",")
            # Before lm-eval 0.4 there were no filters, and nothing but numbers beside.
            if bool(comma) != filtered or metric.endswith("_stderr") or metric in _BESIDE or not _is_number(value):
                continue
            error = numbers.get(f"{metric}_stderr{comma}{way}")
            # Where all answers are alike, no spread says how sure that is.
            half = 1.959964 * error if _is_number(error) and error > 0 else math.nan
            name = metric if way in ("none", "") else f"{metric},{way}"
            yield Metric(str(task), task in grouped, name, float(value), half, count(task))


def _has_numbers(numbers: Any) -> bool:
    return isinstance(numbers, dict) and any(
        key not in _BESIDE and _is_number(value) for key, value in numbers.items()
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def of_harness(path: Path, content: Mapping[str, Any]) -> Iterator[Scored]:
    """Scores in `results_*.json` of lm-eval, or `*_results.json` of lmms-eval.

    Args:
        path: The file, for messages.
        content: It.

    Yields:
        Each number of each task, of a group that has numbers of its own these alone.

    Raises:
        DataError: It does not name its model, or has no number.
    """
    model = _model(path, content)
    found = [of for of in metrics_in(content) if not of.within]
    if not found:
        raise DataError(f"{path}: no number in its results")
    for of in found:
        yield Scored(
            model,
            of.task,
            of.value,
            f"{path}: {of.task}, {of.name}",
            metric=of.name,
            n=of.n,
            low=of.value - of.half,
            high=of.value + of.half,
        )


def _model(path: Path, content: Mapping[str, Any]) -> str:
    config = content.get("config")
    arguments = config.get("model_args") if isinstance(config, dict) else None
    if isinstance(arguments, dict):
        arguments = ",".join(f"{key}={value}" for key, value in arguments.items())
    stated = content.get("model_name") or next(iter(_PRETRAINED.findall(str(arguments or ""))), "")
    if not stated:
        raise DataError(f"{path}: does not say of which model (model_name, or pretrained= in model_args)")
    return str(stated)


def is_vlmevalkit(path: Path, content: bytes, parsed: Any) -> bool:
    """Whether a file is VLMEvalKit's by its name, and holds no models, as one's own of such a name does.

    Args:
        path: The file.
        content: Of a table.
        parsed: Of an object of JSON; None of a table.

    Returns:
        Whether it is.
    """
    if not VLMEVALKIT.fullmatch(path.name):
        return False
    if parsed is None:
        return "model" not in [name.lower() for name in frame_of(path, content).columns]
    return (
        isinstance(parsed, dict) and "scores" not in parsed and not all(isinstance(v, dict) for v in parsed.values())
    )


def of_vlmevalkit(path: Path, content: bytes, parsed: Any) -> Iterator[Scored]:
    """Scores in `MODEL_DATASET_acc.csv`, `MODEL_DATASET_score.csv` or `MODEL_DATASET_score.json` of VLMEvalKit.

    Args:
        path: The file, in a folder that is named as its model, or below it.
        content: Of a table.
        parsed: Of an object of JSON; None of a table.

    Yields:
        Of a table the overall numbers, of each split; of an object every number.

    Raises:
        DataError: Model and data set are not told apart, or there is no number.
    """
    named = VLMEVALKIT.fullmatch(path.name)
    assert named is not None  # what it was chosen by
    model = next((of.name for of in path.absolute().parents if named[1].startswith(f"{of.name}_")), None)
    if not model:
        raise DataError(
            f"{path}: VLMEvalKit says of which model a file is by the folder alone, MODEL/MODEL_DATASET_"
            f"{named[2]}.{named[3]}; leave it there, or write a table with model, benchmark, value"
        )
    benchmark = named[1].removeprefix(f"{model}_")
    numbers = _of_object(parsed) if parsed is not None else _of_table(path, content)
    if not numbers:
        raise DataError(f"{path}: no number in it")
    for metric, value in numbers.items():
        alone = "" if len(numbers) == 1 and metric.lower() == "overall" else metric
        yield Scored(model, benchmark, value, f"{path}: {metric}", metric=alone)


def _of_object(parsed: Any) -> dict[str, float]:
    if not isinstance(parsed, dict):
        return {}
    return {str(key): of for key, value in parsed.items() if math.isfinite(of := _float(value))}


def _of_table(path: Path, content: bytes) -> dict[str, float]:
    frame = frame_of(path, content)
    columns = {str(name).strip().lower(): str(name) for name in frame.columns}
    label = next((columns[name] for name in _LABELS if name in columns), None)
    rows: list[Any] = frame.to_dict("records")
    whole = [row for row in rows if label and str(row[label]).strip().lower() == "overall"] or rows
    numeric = [name for name in columns.values() if name != label]
    wanted = [columns[name] for name in _OVERALL if name in columns] or numeric
    found = {}
    for row in whole:
        split = f" ({row[label]})" if label and len(whole) > 1 else ""
        for name in wanted:
            if math.isfinite(value := _float(row[name])):
                found[f"{name}{split}"] = value
    return found


def _float(value: Any) -> float:
    try:
        return math.nan if isinstance(value, (bool, list, dict)) or value is None else float(value)
    except ValueError:
        return math.nan
