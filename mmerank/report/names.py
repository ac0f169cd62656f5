"""What models and data sets are called in tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mmerank.analysis.finished import Finished


def model_names(runs: Sequence[Finished]) -> dict[tuple[str, str], str]:
    """What a model of a run is called where only models are named.

    Args:
        runs: At least one.

    Returns:
        By run and model: the name it was given, or else its last part where that tells it apart; and the run where
        the model occurs twice.
    """
    short = {model: model.rstrip("/").rsplit("/", 1)[-1] for run in runs for model in run.frames}
    last = list(short.values())
    given = {(run.name, model): name for run in runs for model, name in run.names.items()}
    keys = [(run.job, run.data, model) for run in runs for model in run.frames]
    return {
        (run.name, model): given.get((run.name, model), short[model] if last.count(short[model]) == 1 else model)
        + ("" if keys.count((run.job, run.data, model)) == 1 else f" ({run.name})")
        for run in runs
        for model in run.frames
    }


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
