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

_EXPECTED = "expected FILE.py:NAME or package.module:NAME"


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
        raise UsageError(f"{said}: {_EXPECTED}")
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
    """Run once for all that is asked for of it, and again where it was edited in between."""
    if not file.is_file():
        raise UsageError(f"{said}: no such file, {file}")
    name = ""
    try:
        whole = hashlib.sha256(str(file.resolve()).encode() + b"\0" + file.read_bytes()).hexdigest()
        name = f"_{file.stem}_{whole[:12]}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None and spec.loader is not None
            module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses and pickle look
            spec.loader.exec_module(module)
        return sys.modules[name]
    except Exception as error:
        sys.modules.pop(name, None)
        raise UsageError(f"{said}: {file} cannot be run ({type(error).__name__}: {first_line(error)})") from error


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
