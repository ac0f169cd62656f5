"""What a function of one's own is known by, so that a run is not continued with another one of its name."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from tokenize import TokenError
from typing import Any

_PLAIN = (str, bytes, int, float, complex, type(None))


def digest_of(function: Callable[..., Any]) -> str:
    """A hash of a function or class, of its source and of the plain values that it holds.

    Args:
        function: Also an object that can be called, or a `functools.partial`.

    Returns:
        16 hexadecimal digits.
    """
    return hashlib.sha256(_known(function, 0).encode()).hexdigest()[:16]


def _known(value: Any, depth: int) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if depth > 4:
        return type(value).__qualname__
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"{type(value).__name__}({', '.join(_known(of, depth + 1) for of in value)})"
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key!r}: {_known(of, depth + 1)}' for key, of in value.items())})"
    if isinstance(value, functools.partial):
        parts = (value.func, list(value.args), dict(value.keywords))
        return " ".join(_known(of, depth + 1) for of in parts)
    if inspect.isroutine(value) or inspect.isclass(value):
        return _source(value) + _held(value, depth)
    if not callable(value) and depth:
        return type(value).__qualname__
    own = {name: of for name, of in vars(value).items()} if hasattr(value, "__dict__") else {}
    return _source(type(value)) + _known(own, depth + 1)


def _source(value: Any) -> str:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError, SyntaxError, TokenError):  # of a file that has changed since, it may be no Python
        pass
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    code = getattr(value, "__code__", None)
    # What was typed at a prompt has no source.
    return name if code is None else f"{name} {code.co_code.hex()} {[of for of in code.co_consts if _is_plain(of)]}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN)


def _held(value: Any, depth: int) -> str:
    """What a function was made with: values around it, and defaults that its source may only name."""
    cells = getattr(value, "__closure__", None) or ()
    found = []
    for cell in cells:
        try:
            found.append(_known(cell.cell_contents, depth + 1))
        except ValueError:  # not set yet
            found.append("empty")
    of_self = getattr(value, "__self__", None)
    if of_self is not None and not inspect.ismodule(of_self) and not inspect.isclass(of_self):
        found.append(_known(vars(of_self), depth + 1) if hasattr(of_self, "__dict__") else "")
    return f" with {found}" if found else ""
