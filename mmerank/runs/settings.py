"""run.json and summary.json of a run folder: JSON of somebody else until it is looked at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmerank.convention import AnyConvention, TextConvention
from mmerank.errors import RunFolderError
from mmerank.files import json_of
from mmerank.runs.jobs import JOBS

STATED = "run.json"
SUMMARY = "summary.json"
# The choices that each kind of folder states; records of untrained models alone are kept for later runs.
CONVENTIONS: dict[str, type[AnyConvention]] = {
    **{name: job.convention for name, job in JOBS.items()},
    "untrained": TextConvention,
}
# A shape is a type, one of several (a tuple), a list with the shape of its entries, or a dictionary with those of its
# values, "*" for any other key. A key may be missing.
_SOME_NUMBER = (int, float, type(None))
_SETTINGS = {
    "job": str,
    "data": {"name": str, "source": str, "limit": (int, type(None)), "seed": (int, type(None))},
    "convention": {"*": object},
    "models": {"*": {"*": object}},
    "versions": {"*": str},
    "layers": str,
    "inside": str,
    "untrained_seed": int,
    "transforms": [str],
    "own_transforms": {"*": str},
    "controls": [str],
    "control_draws": int,
    "max_pixels": int,
    "format": int,
}
_RESULT = {
    "model": str,
    "name": str,
    "n": int,
    "limit": (int, type(None)),
    "seed": (int, type(None)),
    "seeds": [int],
    "text_cut": int,
    "skipped": [{"id": str, "reason": str}],
    "accuracy": {"*": _SOME_NUMBER},
    "accuracy_stderr": {"*": _SOME_NUMBER},
    "accuracy_n": {"*": _SOME_NUMBER},
    "undefined": {"*": str},
    "initialisation": {"*": object},
    "bootstrap": {"*": object},
    "versions": {"*": str},
    "companions": {"*": object},
}
_SUMMARY = {"results": [_RESULT], "base": _RESULT, "seed": int, "checks": {"*": _SOME_NUMBER}}
_OF_EMPTY: dict[str, type] = {"metrics": str, "own": str}
_CALLED = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}


def read_settings(folder: Path, *, needs: tuple[str, ...] = ("models",)) -> dict[str, Any]:
    """What `run.json` states, every value of the type that it must have.

    Args:
        folder: The run folder.
        needs: Keys that must be there.

    Returns:
        JSON values by name.

    Raises:
        RunFolderError: There is no such file, or it is not what a run writes; names it.
    """
    path = folder / STATED
    stated = _json(path)
    if stated is None:
        raise RunFolderError(f"{folder}: not a run folder (no {STATED}); name what --out was given")
    _check(path, stated, _SETTINGS, needs)
    if (job := stated.get("job", "align")) not in CONVENTIONS:
        raise RunFolderError(f"{path}: unknown job {job!r}; known: {', '.join(CONVENTIONS)}")
    if "convention" in stated:
        convention_in(folder, stated)
    if "convention" in needs and "aggregate" not in stated["convention"]:
        raise RunFolderError(f"{path}: not the settings of a run (no convention.aggregate); {_HINT}")
    return stated


def read_summary(folder: Path) -> dict[str, Any]:
    """What `summary.json` holds, every value that is read again of the type that it must have.

    Args:
        folder: The run folder.

    Returns:
        JSON values by name; none where there is no such file, as of a run that was not finished.

    Raises:
        RunFolderError: It is not what a run writes; names it.
    """
    path = folder / SUMMARY
    summary = _json(path)
    if summary is None:
        return {}
    _check(path, summary, _SUMMARY, ())
    for result in [*summary.get("results", []), *([summary["base"]] if "base" in summary else [])]:
        _check(path, result, _RESULT, ("model",))
        for entry in result.get("skipped", []):
            _check(path, entry, {}, ("id", "reason"))
    return summary


def results_in(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results that a summary holds, one a model; of a perturbation the base.

    Args:
        summary: As from `read_summary`.

    Returns:
        JSON values by name.
    """
    return [summary["base"]] if "base" in summary else summary.get("results", [])


def convention_in(folder: Path, settings: Mapping[str, Any]) -> AnyConvention:
    """The choices that settings state; what an earlier version did not know has its default.

    Args:
        folder: The run folder.
        settings: As from `read_settings`.

    Returns:
        The choices.

    Raises:
        RunFolderError: One is unknown, or has no value that it can have.
    """
    kind = CONVENTIONS[settings.get("job", "align")]
    given: dict[str, Any] = settings.get("convention", {})
    found = next(_wrong_choices(kind(), given), None)
    try:
        if found is None:
            values: dict[str, Any] = {name: tuple(of) if isinstance(of, list) else of for name, of in given.items()}
            return kind(**values)
    except ValueError as error:
        found = str(error)
    raise RunFolderError(f"{folder / STATED}: not the settings of a run (convention: {found}); {_HINT}")


def _wrong_choices(usual: AnyConvention, given: Mapping[str, Any]) -> Iterator[str]:
    """Each choice that does not exist, or is of another type than the usual one."""
    known: dict[str, Any] = asdict(usual)
    for name, value in given.items():
        if name not in known:
            yield f"unknown choice {name!r}"
        else:
            # What a list that is usually empty holds.
            entry = (
                type(known[name][0]) if known[name] and isinstance(known[name], tuple) else _OF_EMPTY.get(name, int)
            )
            shapes = {type(None): (int, type(None)), tuple: [entry]}
            yield from _wrong(value, shapes.get(type(known[name]), type(known[name])), name)


def record_fingerprint(source: Mapping[str, Any], convention: Mapping[str, Any]) -> str:
    """What a record knows its model and convention by.

    Args:
        source: What the model was loaded from, as `run.json` states it.
        convention: The choices, as `run.json` states them.

    Returns:
        16 hexadecimal digits.
    """
    stored = {"model": dict(source), "convention": dict(convention)}
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()[:16]


def data_fingerprint(settings: Mapping[str, Any]) -> str:
    """What a part knows by whose examples it holds: the content of the data and the choice from them, not their name.

    Args:
        settings: As `run.json` states them, or will.

    Returns:
        16 hexadecimal digits.
    """
    data = {key: value for key, value in settings.get("data", {}).items() if key != "name"}
    stored = [settings.get("job"), data, settings.get("texts")]
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()[:16]


_HINT = "put the file back as it was, or name another folder"


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json_of(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise RunFolderError(f"{path}: {error}; {_HINT}") from None
    if not isinstance(content, dict):
        raise RunFolderError(f"{path}: not the settings of a run ({_kind(content)}, expected an object); {_HINT}")
    return content


def _check(path: Path, content: dict[str, Any], shape: Any, needs: tuple[str, ...]) -> None:
    for found in _wrong(content, shape, ""):
        raise RunFolderError(f"{path}: not what a run writes ({found}); {_HINT}")
    if missing := [key for key in needs if key not in content]:
        raise RunFolderError(f"{path}: not the settings of a run (no {', '.join(missing)}); {_HINT}")


def _wrong(value: Any, shape: Any, where: str) -> Iterator[str]:
    """Each value of another type than it must have, by its path."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where}: {_kind(value)}, expected an object"
            return
        for key, found in value.items():
            if key in shape or "*" in shape:
                yield from _wrong(found, shape.get(key, shape.get("*")), f"{where}.{key}".lstrip("."))
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where}: {_kind(value)}, expected a list"
            return
        for i, found in enumerate(value):
            yield from _wrong(found, shape[0], f"{where}[{i}]")
    else:
        allowed = shape if isinstance(shape, tuple) else (shape,)
        # To Python true is a number.
        if not isinstance(value, allowed) or (isinstance(value, bool) and not {bool, object} & {*allowed}):
            expected = " or ".join(_CALLED.get(kind, "null") for kind in allowed)
            yield f"{where}: {_kind(value)}, expected {expected}"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return "an object" if isinstance(value, dict) else _CALLED.get(type(value), type(value).__name__)
