"""Functions of one's own that choose which rows of a picture are kept, and what they are held to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmerank.convention import KEPT_BY, PruneConvention
from mmerank.digests import digest_of
from mmerank.errors import DataError, TransformFailed, UsageError, first_line
from mmerank.imported import imported_function
from mmerank.states.selection import Floats, Indices

Function = Callable[..., Any]


def functions_of(by: Iterable[object]) -> tuple[tuple[str, ...], dict[str, Function]]:
    """Names of ways to choose rows, and the functions among them.

    Args:
        by: Names, `package.module:function`, and functions. The module of one that is named is imported, which runs
            its code.

    Returns:
        All names, and what is to be called by the names that are not mmerank's own.

    Raises:
        TypeError: One is neither a name nor a function.
        UsageError: One cannot be imported or called, or two functions have one name.
    """
    names, found = [], dict[str, Function]()
    for of in by:
        if isinstance(of, str):
            name = of
            if name not in KEPT_BY and ":" in name:
                of = imported_function(name, f"--by {name}")
        elif callable(of):
            name = f"{getattr(of, '__module__', '')}:{getattr(of, '__qualname__', type(of).__qualname__)}"
            name = name.replace(".<locals>", "")
        else:
            raise TypeError(f"by: expected names, as 'norm', or functions, got {of!r:.100} among them")
        if callable(of):
            if found.get(name, of) is not of:
                raise UsageError(f"by: two functions are called {name}; give each a name of its own")
            found[name] = of
        names.append(name)
    return tuple(names), found


def with_functions(
    convention: PruneConvention, by: Sequence[str | Function] | None = None
) -> tuple[PruneConvention, dict[str, Function]]:
    """A convention that knows its functions by their sources.

    Args:
        convention: Any.
        by: As of `mmerank.prune_study`.

    Returns:
        It, and the functions by name. Errors as of `functions_of`.
    """
    names, functions = functions_of(convention.by if by is None else by)
    return replace(convention, by=names, own=tuple(map(digest_of, functions.values()))), functions


def chosen_by(functions: Mapping[str, Function], name: str, rows: Floats, kept: int) -> Indices:
    """Which rows a function of one's own keeps.

    It is given the rows, (n, d) float64, a copy, and, where it takes a second argument without a default, how many
    are to be kept. It returns indices, what is to be kept first in front: of more than enough the first are kept.

    Args:
        functions: By name.
        name: Of the one that is asked.
        rows: Of the picture, (n, d).
        kept: How many.

    Returns:
        (kept,).

    Raises:
        DataError: It keeps fewer.
        MemoryError: It needs more than there is.
        TransformFailed: It fails.
        UsageError: What it returns are no indices of rows, each once.
    """
    function = functions[name]
    try:
        given = function(rows.copy(), *((kept,) if _takes_count(function) else ()))
        found = np.asarray(given)
    except (DataError, UsageError, MemoryError):
        raise
    except Exception as error:  # whatever it comes to
        raise TransformFailed(f"{name} failed ({type(error).__name__}: {first_line(error)})") from error
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        got = f"an array of {found.dtype} of shape {found.shape}" if found.ndim else f"{given!r:.100}"
        remedy = "; numpy.flatnonzero makes them of a mask" if found.dtype == np.bool_ else ""
        raise UsageError(f"--by {name}: expected indices of rows from it, a list of whole numbers, got {got}{remedy}")
    indices = found.astype(np.int64)
    wrong = [f"{i}" for i in indices if not 0 <= i < len(rows)]
    values, counts = np.unique(indices, return_counts=True)
    wrong += [f"{i} {count} times" for i, count in zip(values, counts, strict=True) if count > 1]
    if wrong:
        raise UsageError(
            f"--by {name}: expected indices from 0 to {len(rows) - 1} from it, each once, got {wrong[0]}"
        )
    if len(indices) < kept:
        raise DataError(f"{name} keeps {len(indices)} of {len(rows)} rows, and {kept} are held against each other")
    return indices[:kept]


def _takes_count(function: Function) -> bool:
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        return False
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [of for of in parameters if of.kind in by_place and of.default is of.empty]
    return len(needed) > 1
