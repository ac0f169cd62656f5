"""Transforms of one's own: a function, with the strengths that it is tried with, beside those of the table."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from threading import Lock
from typing import Any

from PIL import Image

from mmerank.digests import digest_of
from mmerank.errors import DataError, TransformFailed, UsageError, first_line
from mmerank.inputs.example import kind
from mmerank.inputs.pictures import open_picture
from mmerank.inputs.transforms.known import FORMS, KNOWN, Known

GROUP = "mmerank.transforms"
_NAME = re.compile(r"[A-Za-z][\w.-]*", re.ASCII)
_STRENGTH = re.compile(r"[\w.#-]+", re.ASCII)
_TAKEN = ("none", "mismatch", "independent", *KNOWN)
# So often a function without a generator is called twice, to see that it is not random all the same.
_TRIED_TWICE = 8
_own: dict[str, OwnTransform] = {}


@dataclass(frozen=True)
class OwnTransform:
    """A transform of one's own, from `mmerank.transform`.

    Attributes:
        name: In every table.
        known: How it is written and what it does.
        strengths: What it is tried with; empty where it takes none.
    """

    name: str
    known: Known
    strengths: tuple[Any, ...] = ()

    @property
    def written(self) -> str:
        """As it is asked for: with all its strengths."""
        return self.name + (":" + ",".join(map(shown, self.strengths)) if self.strengths else "")


def transform(name: str, function: Callable[..., Any], *, strengths: Iterable[Any] = ()) -> OwnTransform:
    """A function of your own as a transform for `mmerank.perturb`.

    Its first parameter is the picture (PIL, RGB, upright, a copy), or the response where it is called `text`; it
    returns what the model is shown in its place. Beside it, it may take `strength`, one of `strengths`; and `rng`, a
    `numpy.random.Generator` that belongs to the seed, the name and the example, not to the strength, so that a sweep
    shares its randomness. A function without `rng` must give the same picture each time, which is looked at.
    From then on the name can also be asked for as text, alone or with others (`"fog:2+rotate:90"`).

    Args:
        name: In tables, JSON and run folders; letters, digits, `_`, `.` and `-`.
        function: It. A run folder knows it by a hash of its source.
        strengths: Numbers or words to try it with.

    Returns:
        The transform, to stand among those of `mmerank.perturb`.

    Raises:
        TypeError: It cannot be called.
        UsageError: The name or a strength cannot be one, or the function takes something else.

    Example:
        >>> def darker(picture, strength):
        ...     return picture.point(lambda value: value / strength)
        >>> transform("darker", darker, strengths=[2, 4]).written
        'darker:2,4'
    """
    if not callable(function):
        raise TypeError(f"transform {name!r}: expected a function, got {type(function).__name__}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"transform {name!r}: no name; give it one of letters, digits, _, . and -, as in {_HOW}")
    if name in _TAKEN:
        raise UsageError(f"transform {name!r}: mmerank has one of that name; give yours another")
    if isinstance(strengths, (str, bytes)) or not isinstance(strengths, Iterable):
        raise UsageError(f"transform {name!r}: strengths: expected a list, got {strengths!r:.100}")
    tried = tuple(strengths)
    for strength in tried:
        if _read(shown(strength)) != strength:
            raise UsageError(f"transform {name!r}: strength {strength!r:.100}; expected a finite number or a word")
    of, takes = _takes(function, name)
    if tried and "strength" not in takes:
        raise UsageError(f"transform {name!r}: has strengths, and its function takes no `strength`")
    found = OwnTransform(
        name,
        Known(
            f"{name}:STRENGTH" if "strength" in takes else name,
            _Applied(name, function, of, takes),
            _reader(tried) if "strength" in takes else None,
            random="rng" in takes,
            of=of,
            source=digest_of(function),
        ),
        tried,
    )
    _own[name] = found
    return found


_HOW = "mmerank.transform(NAME, function)"


def own(name: str) -> OwnTransform | None:
    """A transform that was made before, or that an installed package has (entry points `mmerank.transforms`).

    Args:
        name: Without a strength.

    Returns:
        It, if there is one.

    Raises:
        UsageError: A package's cannot be one.
    """
    if name in _own or not _NAME.fullmatch(name):
        return _own.get(name)
    for point in entry_points(group=GROUP, name=name):
        try:
            found = point.load()
        except Exception as error:
            raise UsageError(f"transform {name!r} ({point.value}) cannot be loaded: {first_line(error)}") from error
        if isinstance(found, OwnTransform):
            return transform(name, found.known.apply.function, strengths=found.strengths)  # type: ignore[union-attr]
        return transform(name, found)
    return None


def forms() -> list[str]:
    """How every transform that can be asked for is written."""
    packages = (point.name for point in entry_points(group=GROUP))
    return [*FORMS, *(of.known.form for of in _own.values()), *(name for name in packages if name not in _own)]


def as_transform(given: object) -> OwnTransform:
    """What was given in the place of a transform's name, as one.

    Args:
        given: From `transform`, or a function.

    Returns:
        The transform, known by its name from then on.

    Raises:
        TypeError: It is something else.
        UsageError: It has strengths and none was named, or cannot be a transform.
    """
    if callable(given) and not isinstance(given, OwnTransform):
        # A partial has no name of its own, as little as a lambda.
        name = "<partial>" if isinstance(given, partial) else getattr(given, "__name__", type(given).__name__)
        given = transform(name, given)
    if not isinstance(given, OwnTransform):
        raise TypeError(
            f"transforms: expected names, as 'rotate:90', or functions, got {given!r:.100} ({type(given).__name__}) "
            "among them"
        )
    if given.known.strength is not None and not given.strengths:
        raise UsageError(f"transform {given.name!r}: say which strengths, {_HOW[:-1]}, strengths=[...])")
    _own[given.name] = given
    return given


def shown(strength: object) -> str:
    """A strength as names have it."""
    return f"{strength:.12g}" if isinstance(strength, float) else str(strength)


def _read(text: str) -> Any:
    """A strength from its name: a whole number, a number or a word; None of what is none of them."""
    for read in (int, float):
        try:
            number = read(text)
        except ValueError:
            continue
        return number if math.isfinite(number) and "+" not in text else None
    return text if _STRENGTH.fullmatch(text) else None


def _reader(strengths: tuple[Any, ...]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = _read(text)
        if value is None or (strengths and value not in strengths):
            raise ValueError
        return value

    read.__doc__ = f"One of {', '.join(map(shown, strengths))}" if strengths else "A number or a word"
    return read


def _takes(function: Callable[..., Any], name: str) -> tuple[str, tuple[str, ...]]:
    """Whether a function changes a picture or a text, and what else it takes."""
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        raise UsageError(f"transform {name!r}: what it takes cannot be told; put a function around it") from None
    if not parameters or parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        raise UsageError(f"transform {name!r}: its function takes no picture")
    first, *others = parameters
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    takes = tuple(of.name for of in others if of.name in ("strength", "rng"))
    if left := [
        of.name for of in others if of.name not in takes and of.default is of.empty and of.kind not in variable
    ]:
        raise UsageError(
            f"transform {name!r}: its function takes {', '.join(left)}; expected a picture, or `text`, and then "
            "`strength` and `rng` alone, by these names"
        )
    return "text" if first.name == "text" else "picture", takes


class _Applied:
    """A function of one's own, held to what is asked of it. One thread at a time is in it."""

    def __init__(self, name: str, function: Callable[..., Any], of: str, takes: tuple[str, ...]):
        self.function = function
        self._name = name
        self._of = of
        self._takes = takes
        self._lock = Lock()
        self._tried = 0 if "rng" not in takes else _TRIED_TWICE

    def __call__(self, value: Any, *given: Any) -> Any:
        # In this order they come.
        by_name = dict(zip([of for of in ("strength", "rng") if of in self._takes], given, strict=True))
        with self._lock:
            found = self._called(value, by_name)
            if self._tried < _TRIED_TWICE:
                self._tried += 1
                if self._called(value, by_name) != found:
                    raise UsageError(
                        f"transform {self._name!r}: gives another {self._of} when it is called again; let its "
                        "function take `rng`, and all that is random from it, so that a run can be repeated"
                    )
        return found

    def _called(self, value: Any, by_name: dict[str, Any]) -> Any:
        try:
            # A copy, since it may be drawn on.
            found = self.function(value.copy() if isinstance(value, Image.Image) else value, **by_name)
        except (DataError, UsageError, MemoryError):
            raise
        except Exception as error:
            raise TransformFailed(f"it failed ({type(error).__name__}: {first_line(error)})") from error
        if self._of == "picture":
            if not isinstance(found, Image.Image):
                raise UsageError(
                    f"transform {self._name!r}: expected a picture, PIL.Image.Image, from it, got "
                    f"{type(found).__name__}; of an array, PIL.Image.fromarray makes one"
                )
            return open_picture(found)
        if not isinstance(found, str):
            raise UsageError(f"transform {self._name!r}: expected text from it, got {kind(found)}")
        if not found.strip():
            raise DataError("it leaves no text")
        return found
