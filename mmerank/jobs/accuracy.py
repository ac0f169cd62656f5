"""Accuracy on the tasks of lm-eval, to stand beside Diff-eRank and the losses."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmerank.durable import whole
from mmerank.errors import DataError, ModelError, UsageError
from mmerank.files import regular_bytes
from mmerank.models.located import is_yaml
from mmerank.processes import rank

if TYPE_CHECKING:
    from mmerank.analysis.results.diff import Accuracy
    from mmerank.models.loading import TextAdapter

ACCURACY = "accuracy.json"  # in a run folder


def check_tasks(tasks: Iterable[str]) -> None:
    """Refuse, before any model is loaded, a task that lm-eval does not know.

    Args:
        tasks: Names, or YAML files with tasks of one's own.

    Raises:
        UsageError: lm-eval is not installed, or a task is unknown.
    """
    if not (named := list(tasks)):
        return
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError(
            "accuracy is measured by lm-eval, which is not installed: pip install 'lm-eval>=0.4.13', or mmerank "
            "with its extra, pip install '.[lm-eval]'"
        )
    for task in named:
        if is_yaml(task):
            if not Path(task).is_file():
                raise UsageError(f"accuracy: no such file, {task}")
        elif task not in (known := _manager(with_defaults=True).all_tasks):
            close = difflib.get_close_matches(task, known, n=3)
            hint = f"; close: {', '.join(close)}" if close else "; `lm-eval ls tasks` lists them"
            raise UsageError(f"accuracy: lm-eval knows no task {task!r}{hint}")


def fetch_questions(tasks: Iterable[str]) -> None:
    """Have the questions of tasks at hand before anything is measured; all models of a run share them.

    Args:
        tasks: Those that `check_tasks` has let pass.

    Raises:
        DataError: The questions of a task are not to be had.
    """
    for task in tasks:
        questions_of(task)


def accuracies(
    adapter: TextAdapter,
    tasks: Iterable[str],
    *,
    limit: int | None = None,
    batch_tokens: int | None = None,
    progress: bool = False,
    kept: Path | None = None,
) -> dict[str, Accuracy]:
    """Accuracy on multiple-choice tasks: the answer whose tokens are likeliest in sum, lm-eval's `acc`.

    Questions, answers and their wording are lm-eval's, and so is the way a question is put in front of an answer;
    the log-likelihoods are of any text adapter, in float32 whatever the model's dtype. No examples are shown before.

    Args:
        adapter: A model that predicts the next token.
        tasks: Names as lm-eval knows them, `piqa` for example, or YAML files with tasks of one's own; lm-eval runs
            the code that they name (`!function`).
        limit: Use only this many questions of each, the first ones.
        batch_tokens: As in `mmerank.diff`.
        progress: Show progress on stderr.
        kept: A file of a run folder: what it holds of these weights, tasks and limit is not measured again, and the
            rest is added.

    Returns:
        Accuracy by name of the task; of a group, also that of each task in it.

    Raises:
        UsageError: lm-eval is not installed, or a task is unknown or has no accuracy.
        DataError: The questions of a task are not to be had.
        ModelError: The model is an encoder.
    """
    named = list(tasks)
    check_tasks(named)
    if not named:
        return {}
    if not adapter.predicts_next:
        raise ModelError(f"{adapter.name}: an encoder predicts no next token, so it answers no questions")
    # Not `simple_evaluate`, which seeds all generators and takes seconds to list what is installed.
    from lm_eval import evaluate

    from mmerank.jobs.scored_model import ScoredModel
    from mmerank.models.identity import identity

    model = ScoredModel(adapter, batch_tokens, progress)
    found: dict[str, Accuracy] = {}
    known = {} if kept is None else identity(adapter)
    for task in named:
        asked = _asked(task, limit, known)
        of_task = None if kept is None else _looked_up(kept, asked)
        if of_task is None:
            of_task = _read(task, evaluate(model, questions_of(task), limit=limit, log_samples=False))
            if kept is not None:
                _keep(kept, asked, of_task)
        found |= of_task
    return found


def _asked(task: str, limit: int | None, model: Mapping[str, Any]) -> list[Any]:
    """What an accuracy depends on."""
    content = hashlib.sha256(regular_bytes(task)).hexdigest()[:16] if is_yaml(task) else None
    known = [model.get(key) for key in ("weights", "configuration", "known_by")]
    return [task, content, limit, *known, version("lm_eval")]


def _kept(file: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(regular_bytes(file)) if file.exists() else []
    return entries


def _looked_up(file: Path, asked: list[Any]) -> dict[str, Accuracy] | None:
    from mmerank.analysis.results.diff import Accuracy  # late: names of tasks are checked before anything heavy

    for entry in _kept(file):
        if entry["asked"] == asked:
            return {name: Accuracy(**found) for name, found in entry["found"].items()}
    return None


def _keep(file: Path, asked: list[Any], found: dict[str, Accuracy]) -> None:
    if rank().leads:
        file.parent.mkdir(parents=True, exist_ok=True)
        entry = {"asked": asked, "found": {name: asdict(accuracy) for name, accuracy in found.items()}}
        with whole(file) as unfinished:
            unfinished.write_text(json.dumps([*_kept(file), entry], indent=1) + "\n")


@cache
def questions_of(task: str) -> Any:
    """A task, or the tasks of a group, with their data, which all models of a run share.

    Args:
        task: A name that lm-eval knows, or a YAML file.

    Returns:
        As `lm_eval.evaluate` takes them.

    Raises:
        DataError: The questions are not to be had.
    """
    try:
        return _manager(with_defaults=not is_yaml(task)).load([task])
    except (OSError, ValueError) as error:  # what `datasets` raises
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"accuracy on {task}: its questions are not to be had ({reason})") from error


def _read(task: str, results: Any) -> dict[str, Accuracy]:
    """What lm-eval found, without its other metrics."""
    from mmerank.analysis.results.diff import Accuracy

    found = {}
    for name, numbers in results["results"].items():
        if "acc,none" in numbers:
            stderr = numbers.get("acc_stderr,none")
            found[name] = Accuracy(
                value=float(numbers["acc,none"]),
                stderr=float(stderr) if isinstance(stderr, float) else math.nan,
                n=results["n-samples"].get(name, {}).get("effective", numbers.get("sample_len", 0)),
            )
    if not found:
        metrics = {key.split(",")[0] for numbers in results["results"].values() for key in numbers if "," in key}
        raise UsageError(f"accuracy: task {task!r} has no `acc`; its metrics: {', '.join(sorted(metrics))}")
    return found


@cache
def _manager(*, with_defaults: bool) -> Any:
    """lm-eval's list of tasks; finding its own ones takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=with_defaults)
