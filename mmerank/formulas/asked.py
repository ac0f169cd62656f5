"""Which metrics a run takes in its pass: by name, all of a kind, or functions of your own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any, TypeVar

from mmerank.convention import Convention, TextConvention, in_order
from mmerank.digests import digest_of
from mmerank.errors import NoSpectrum, NoValue, UsageError, did_you_mean
from mmerank.formulas.arrays import Floats
from mmerank.formulas.entry import FITTED, POOLED, Entry
from mmerank.formulas.table import METRICS

# A name, a function or class of your own, or a name and one of them.
Asking = TypeVar("Asking", Convention, TextConvention)
Given = str | Callable[..., Any] | tuple[str, Callable[..., Any]]

GROUP = "mmerank.metrics"
# What a metric of your own may take, in these words.
TAKES = (("h",), ("image", "text"), ("x", "y"), *POOLED)
_KINDS = {
    "spectral": "spectral",
    "geometric": "geometric",
    "between": "between modalities",
    "paired": "paired states",
}
_ON_ITS_FIT = (
    "is measured on the rows that the map is fitted to, which flatters; of a run ask for {}, and of rows of your own "
    "see mmerank.metric"
)
# What one pass cannot give, and why.
ELSEWHERE = {
    "linearity_layer0_1": _ON_ITS_FIT.format("linearity_held_out"),
    "linearity_residual_layer0_1": _ON_ITS_FIT.format("linearity_residual_held_out"),
    "lidar_delta1e-4": "is taken of several views of each example, and a run has one; see mmerank.metric",
}
# Taken where they are named, not with `all`: matrices of the width squared, for what another name has exactly, a cube
# of the number of examples, and what keeps hidden states.
_NAMED_ALONE = (
    "mir_fid_one_layer_sqrtm",
    "mir_fid_one_layer_fastmode",
    "dime_10_perms_linear",
    *(of.name for of in METRICS.values() if of.pooled),
)
# What a run takes for the arrays of a formula, whose errors name them.
_CALLED = {
    "h": "the rows",
    "image": "the image rows",
    "text": "the text rows",
    "x": "the image states, a row for each example",
    "y": "the text states, a row for each example",
    "x and y": "image and text states, a row for each example",
}
_own: dict[str, Entry] = {}
_remembered: dict[str, Entry] = {}
_TOLD = ("source", "label", "better", "follows_rows")  # what a run states of your own


def asked_for(metrics: Iterable[Given], *, pictures: bool) -> tuple[str, ...]:
    """The names of the metrics that are asked for.

    Args:
        metrics: Names, `all`, or all of a kind (`spectral`, `geometric`, `between`, `paired`); or your own: a
            function or class, or a name and one of them. They are known by these names from then on.
        pictures: Whether examples have pictures; of texts alone there is nothing between modalities.

    Returns:
        Names, each once, in the order in which records have them.

    Raises:
        TypeError: `metrics` is one word in place of a list, or one of them is something else.
        UsageError: There is no such metric, a pass cannot give it, or your own cannot be one.
    """
    found: list[str] = []
    for given in _list(metrics):
        if isinstance(given, str):
            found += _of_word(given, pictures)
        elif isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str):
            found.append(register(given[1], given[0]))
        elif callable(given):
            found.append(register(given))
        else:
            raise TypeError(f"metrics: expected a name, a function or a class, got {given!r}")
    for name in found:
        if not pictures and entry(name).takes not in (("h",), FITTED):
            raise UsageError(f"metric {name!r} is of pictures and texts, and these examples are texts alone")
    return in_order(tuple(found))


def entry(name: str) -> Entry:
    """A metric by name: of the table, your own that was given before, or of a package that is installed.

    Args:
        name: Any.

    Returns:
        It.

    Raises:
        UsageError: There is none, or a package's cannot be one.
    """
    if (known := METRICS.get(name) or _own.get(name)) is not None:
        return known
    for of_package in entry_points(group=GROUP, name=name):
        try:
            function = of_package.load()
        except Exception as error:
            raise UsageError(f"metric {name!r} ({of_package.value}) cannot be loaded: {error}") from error
        return _own[register(function, name)]
    names = [*METRICS, *_own, *(point.name for point in entry_points(group=GROUP)), "all", *_KINDS]
    close = did_you_mean(name, names)
    raise UsageError(f"no metric {name!r}{close}; `mmerank metrics` lists all {len(METRICS)}")


def register(function: Callable[..., Any], name: str = "") -> str:
    """Make a function or class known as a metric.

    Its parameters say what it takes: `h`, the rows of an example at a hook point, (n, d); `image, text`, its two
    parts in a pair; `x, y`, the mean states of the examples' images and texts, (n, d) and (n, e); `x, y, x_new,
    y_new`, pooled rows of two layers, of which a half of the examples is fitted to and the other measured on;
    `layers`, a list of pooled image rows and text rows of each layer. All are float64 arrays of numpy. What it
    returns is a number; `mmerank.errors.NoValue` says why there is none. Attributes `label`, `better` (`higher` or
    `lower`) and `follows_rows` (False where it does not grow with the number of rows) are taken over.

    Args:
        function: It; of a class, an instance is made and called.
        name: Default: its own.

    Returns:
        The name.

    Raises:
        UsageError: It cannot be called so, or the name is taken or cannot be one.
    """
    name = name or getattr(function, "__name__", "")
    if not callable(function):
        raise UsageError(f"metric {name!r}: expected a function or a class, got {function!r}")
    try:
        in_order((name,))
    except ValueError as error:
        raise UsageError(f"{error}; give a name with it: metrics=[(NAME, function)]") from None
    if name in METRICS or name in ("all", *_KINDS):
        raise UsageError(f"metric {name!r}: mmerank has one of that name; give yours another")
    what = function
    if isinstance(what, type):
        try:
            what = what()
        except TypeError as error:
            raise UsageError(f"metric {name!r}: the class cannot be made without arguments ({error})") from None
        if not callable(what):
            raise UsageError(f"metric {name!r}: an instance of the class cannot be called; give it a __call__")
    better: Any = getattr(what, "better", "neither")
    if better not in ("higher", "lower", "neither"):
        raise UsageError(f"metric {name!r}: its `better` must be higher, lower or neither, got {better!r}")
    _own[name] = Entry(
        name=name,
        label=str(getattr(what, "label", name)),
        kind="your own",
        function=what,
        takes=_takes(what, name),
        low="",
        high="",
        better=better,
        needs="",
        follows_rows=bool(getattr(what, "follows_rows", True)),
        source=digest_of(function),
        cost="",
    )
    return name


def stated_metrics(names: Iterable[str]) -> dict[str, Any]:
    """What a run states of metrics of your own, so that it is not continued with another of the same name.

    Args:
        names: Of all metrics of the run.

    Returns:
        `own_metrics`, by name: `source`, a hash, and what tables say of them; nothing without them.
    """
    found = {
        name: {told: getattr(entry(name), told) for told in _TOLD} | {"takes": list(entry(name).takes)}
        for name in names
        if name not in METRICS
    }
    return {"own_metrics": found} if found else {}


def remember(settings: Mapping[str, Any]) -> None:
    """Know metrics of your own of a run that is read back, which may be known no more, by what it states of them.

    What is computed of the whole data set anew cannot be without its function, and stays unknown.

    Args:
        settings: As in its `run.json`.
    """
    for name, told in settings.get("own_metrics", {}).items():
        if not isinstance(told, Mapping) or tuple(told.get("takes", ())) not in (("h",), ("image", "text")):
            continue
        better, follows = told.get("better"), told.get("follows_rows")
        _remembered[name] = Entry(
            name=name,
            label=str(told.get("label", name)),
            kind="your own",
            function=_gone,
            takes=tuple(told["takes"]),
            low="",
            high="",
            better=better if better in ("higher", "lower") else "neither",
            needs="",
            follows_rows=follows is not False,
            source=str(told.get("source", "")),
            cost="",
        )


def remembered(name: str) -> Entry | None:
    """What a run that was read back stated of a metric of your own; its function is not there."""
    return _remembered.get(name)


def _gone(*_: Any) -> float:
    raise UsageError("a metric of your own of a run that was read back: give its function")


def with_metrics(convention: Asking, metrics: Iterable[Given]) -> Asking:
    """A convention that asks for metrics, too; all of them checked.

    Args:
        convention: Which may name some.
        metrics: As for `asked_for`.

    Returns:
        The convention.
    """
    pictures = isinstance(convention, Convention)
    names = asked_for([*convention.metrics, *_list(metrics)], pictures=pictures)
    return replace(convention, metrics=names)


def value_of(metric: Entry, take: Callable[[], float], called: Mapping[str, str] = _CALLED) -> float | str:
    """A number, or why there is none.

    Args:
        metric: Of which.
        take: Takes it.
        called: What stands for the arrays, by the formula's names for them; a reason begins with it.

    Returns:
        A finite number, or a sentence.

    Raises:
        UsageError: A metric of your own fails, or gives no number.
    """
    try:
        number = take()
    except NoSpectrum as error:
        name, colon, reason = str(error).partition(": ")
        return f"{called.get(name, name)}{colon}{reason}" if metric.kind != "your own" else str(error)
    except Exception as error:
        if metric.kind != "your own" or isinstance(error, MemoryError):
            raise
        raise UsageError(f"metric {metric.name!r} failed: {type(error).__name__}: {error}") from error
    try:
        number = float(number)
    except (TypeError, ValueError):
        raise UsageError(f"metric {metric.name!r}: expected a number, got {number!r}") from None
    return number if math.isfinite(number) else f"it gave {number}"


def between(metric: Entry, image: Floats, text: Floats) -> float:
    """A metric of two clouds.

    Args:
        metric: That takes `image` and `text`.
        image: Rows, (n, d), float64.
        text: Rows, (m, d).

    Returns:
        The number.

    Raises:
        NoValue: There is no row of one of them.
    """
    for rows, name in ((image, "image"), (text, "text")):
        if not len(rows):
            raise NoValue(f"{name}: there are no such rows")
    return metric.function(image, text)


def _list(metrics: Iterable[Given]) -> list[Given]:
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        raise TypeError(f"metrics: expected a list of names and functions, got {metrics!r}")
    return list(metrics)


def _of_word(word: str, pictures: bool) -> list[str]:
    if word != "all" and word not in _KINDS:
        if word in ELSEWHERE:
            raise UsageError(f"metric {word!r} {ELSEWHERE[word]}")
        return [entry(word).name]
    kinds = {*_KINDS.values()} if word == "all" else {_KINDS[word]}
    out = {*ELSEWHERE, *_NAMED_ALONE}
    found = [of for of in METRICS.values() if of.kind in kinds and of.name not in out]
    # `all` is what there is; a kind that texts do not have is asked for in vain.
    return [of.name for of in found if pictures or word != "all" or of.takes == ("h",)]


def _takes(function: Callable[..., Any], name: str) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise UsageError(f"metric {name!r}: what it takes cannot be told; put a function around it") from None
    needed = tuple(
        of.name for of in parameters if of.default is of.empty and of.kind not in (of.VAR_POSITIONAL, of.VAR_KEYWORD)
    )
    if needed not in TAKES:
        known = ", ".join(f"({', '.join(words)})" for words in TAKES)
        raise UsageError(f"metric {name!r}: expected a function of {known}, got one of ({', '.join(needed)})")
    return needed
