"""What a person names out of code of their own: `FILE.py:NAME` or `package.module:NAME`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from mmerank.errors import UsageError, did_you_mean, first_line

EXPECTED = "expected FILE.py:NAME or package.module:NAME"


def imported(place: str, said: str) -> Any:
    """Import a module, which runs its code, and look a name up in it.

    Args:
        place: `FILE.py:NAME` or `package.module:NAME`.
        said: What messages begin with, as in `--by my.module:f`.

    Returns:
        What has the name.

    Raises:
        UsageError: It is written otherwise, there is no such file, module or name, or the module fails.
    """
    where, colon, name = place.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise UsageError(f"{said}: {EXPECTED}")
    module = _of_file(said, Path(where)) if where.endswith(".py") else _of_package(said, where)
    try:  # a module may make its names as they are asked for
        return getattr(module, name)
    except AttributeError:
        raise UsageError(f"{said}: {where} has no {name!r}{did_you_mean(name, list(vars(module)))}") from None


def imported_function(place: str, said: str) -> Callable[..., Any]:
    """The same for what is to be called.

    Args:
        place: `FILE.py:NAME` or `package.module:NAME`.
        said: What messages begin with.

    Returns:
        The function, or whatever else can be called.

    Raises:
        UsageError: As for `imported`, or it cannot be called.
    """
    found = imported(place, said)
    if not callable(found):
        raise UsageError(f"{said}: expected a function, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _of_file(said: str, file: Path) -> ModuleType:
    if not file.is_file():
        raise UsageError(f"{said}: no such file, {file}")
    # Of the whole path: two files of one name are two modules.
    whole = hashlib.sha256(str(file.resolve()).encode()).hexdigest()
    spec = importlib.util.spec_from_file_location(f"_{file.stem}_{whole[:12]}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look for it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise UsageError(f"{said}: {file} cannot be run ({type(error).__name__}: {first_line(error)})") from error
    return module


def _of_package(said: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        where = ""
        if f"{name}.".startswith(f"{error.name}."):  # otherwise it is there, and imports what is not
            where = "; install its package, or name the folder that it lies in by PYTHONPATH, the current one too"
        raise UsageError(f"{said}: {name} cannot be imported: {error}{where}") from error
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(f"{said}: {name} cannot be imported ({why})") from error
