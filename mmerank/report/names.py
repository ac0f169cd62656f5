"""What models and data sets are called in tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.known import quantity
from mmerank.convention import loaded_as
from mmerank.errors import UsageError, did_you_mean


def model_names(runs: Sequence[Finished]) -> dict[tuple[str, str], str]:
    """What a model of a run is called where only models are named.

    Args:
        runs: At least one.

    Returns:
        By run and model: the name it was given, or else its last part where that tells it apart; where the model
        occurs twice also how it was loaded or measured, as far as that differs, or else the run.
    """
    short = {model: model.rstrip("/").rsplit("/", 1)[-1] for run in runs for model in run.frames}
    last = list(short.values())
    given = {(run.name, model): name for run in runs for model, name in run.names.items()}
    alike: dict[tuple[str, str, str], list[Finished]] = {}
    for run in runs:
        for model in run.frames:
            alike.setdefault((run.job, run.data, model), []).append(run)
    apart = {
        (run.name, key[-1]): f" ({said})"
        for key, several in alike.items()
        if len(several) > 1
        for run, said in zip(several, _apart(several, key[-1]), strict=True)
    }
    return {
        (run.name, model): given.get((run.name, model), short[model] if last.count(short[model]) == 1 else model)
        + apart.get((run.name, model), "")
        for run in runs
        for model in run.frames
    }


def _apart(runs: Sequence[Finished], model: str) -> list[str]:
    """What tells runs of one model on one data set apart."""
    stated = [
        {"": loaded_as(run.source(model)), **run.convention, "limit": run.settings["data"].get("limit")}
        for run in runs
    ]
    names = sorted({key for of in stated for key in of})
    unlike = [name for name in names if len({str(of.get(name)) for of in stated}) > 1]
    said = [", ".join(_choice(name, of.get(name)) for name in unlike) for of in stated]
    return said if len({*said}) == len(said) else [run.name for run in runs]


def _choice(name: str, value: Any) -> str:
    called = name.replace("_", " ")
    if value is None or value is False:
        return f"no {called}"
    if value is True:
        return called
    words = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return f"{called} {words}".strip()


def nameable(runs: Sequence[Finished]) -> list[str]:
    """What `names` may give another name: models, data sets, transforms and numbers, as tables or results call them.

    Args:
        runs: At least one.

    Returns:
        Each once.
    """
    quantities = dict.fromkeys(str(name) for run in runs for name in run.estimates["quantity"])
    data = data_names(run.data for run in runs)
    return list(
        dict.fromkeys(
            [
                *(model for run in runs for model in run.frames),
                *model_names(runs).values(),
                *data,
                *data.values(),
                *(name for run in runs for name in run.transforms),
                *(["base"] if any(run.job == "perturb" for run in runs) else []),
                *(said for name in quantities for said in _said(name)),
            ]
        )
    )


def _said(name: str) -> list[str]:
    """What tables say of a number: its label, and of a metric that was asked for its title and the place."""
    known = quantity(name)
    return [known.label, *([known.label.rpartition(", ")[0], known.head] if "/" in name else [])]


def check_nameable(names: Iterable[str], known: Sequence[str]) -> None:
    """Refuse to name what is not there.

    Args:
        names: What is given another name.
        known: From `nameable`.

    Raises:
        UsageError: One is not among them; says what there is.
    """
    for name in names:
        if name not in known:
            raise UsageError(
                f"names: nothing is called {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}"
            )


def data_names(data: Iterable[str]) -> dict[str, str]:
    """What data sets are called beside each other.

    Args:
        data: DATA arguments, as in `run.json`.

    Returns:
        By argument: as from `short_data`, with as many folders as tell it from the others, or else the argument.
    """
    given = list(dict.fromkeys(data))
    names = {}
    for one in given:
        forms = ((short_data(one, parts), parts) for parts in range(1, one.count("/") + 2))
        others = [other for other in given if other != one]
        names[one] = next((form for form, k in forms if form not in {short_data(other, k) for other in others}), one)
    return names


def short_data(data: str, parts: int = 1) -> str:
    """A DATA argument without the folders that it lies in, and without options.

    Args:
        data: As in `run.json`.
        parts: How much of its path is left, from the end.

    Returns:
        As in `llava:detail_23k.json`.
    """
    form, colon, rest = data.partition(":")
    rest = rest.partition("?")[0].rstrip("/") if form != "hub" else rest
    path, hash_sign, field = rest.partition("#")
    return form + colon + (path if form == "hub" else "/".join(path.split("/")[-parts:])) + hash_sign + field
