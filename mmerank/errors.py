"""Errors whose message tells the whole story: the input, what was wrong with it, what to do.

The command line prints their message as one line and exits with status 1.
"""

from collections.abc import Iterable


class MmerankError(Exception):
    """Base of every error that mmerank raises on purpose."""


class NoSpectrum(MmerankError, ValueError):
    """A set of tokens that cannot be measured. Inside a run: a skipped example."""


class DegenerateTokens(NoSpectrum):
    """A set of tokens whose covariance (Def. 3.1) does not exist."""


class TooFewTokens(DegenerateTokens):
    """Fewer than two tokens: a single token has no spread."""


class TokenAtCentre(DegenerateTokens):
    """A token equals the centre, so it has no direction to scale to unit length."""


class NoValue(DegenerateTokens):
    """A measure has no value on these rows: a spread, a distance or a direction that it divides by is zero."""


class NonFiniteTokens(NoSpectrum):
    """Hidden states hold NaN or infinity. Inside a run: several examples in a row stop it, the model is broken."""


class CaptureError(MmerankError, RuntimeError):
    """A hook point never fired, fired more often than asked, or carried no tensor."""


class DataError(MmerankError, ValueError):
    """A data set cannot be read, or nothing in it can be used."""


class SourceError(DataError):
    """What data lie on, a disk or a network, did not answer, several times; later it may."""


class TransformFailed(DataError):
    """A transform of one's own failed on an example. Several in a row stop a run."""


class ModelError(MmerankError, ValueError):
    """A checkpoint is missing, or is not one that any adapter understands."""


class RunFolderError(MmerankError, ValueError):
    """A run folder cannot be continued: other settings, or not a run folder."""


class SchedulerError(MmerankError, RuntimeError):
    """What runs the cells of a study, Slurm or Ray, does not answer or takes none."""


class UsageError(MmerankError, ValueError):
    """A call that cannot be meant: an unknown name or form. The command line exits with status 2."""


class Interrupted(MmerankError):
    """The person, or a scheduler, stopped the run. The command line exits with status 130."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is unknown: what may have been meant.

    Args:
        word: The name.
        known: Those there are.

    Returns:
        `; did you mean NAME?`, or nothing where none is close.

    Example:
        >>> did_you_mean("demo-lava", ["demo-llava", "demo-minigpt-v2"]), did_you_mean("gpt2", ["demo-llava"])
        ('; did you mean demo-llava?', '')
    """
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line.

    Args:
        error: Any.

    Returns:
        The first line of its message, or its class where it has none.
    """
    return str(error).strip().split("\n")[0] or type(error).__name__


def printable(text: str) -> str:
    """Text from files and names as a terminal may show it: control characters made visible.

    Args:
        text: Any text.

    Returns:
        The same on one line, without a character that moves the cursor, changes a colour or rings a bell.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))


def in_short(count: float) -> str:
    """A large number in three digits.

    Args:
        count: At least 0.

    Returns:
        As in `7.06B`.

    Example:
        >>> in_short(7_063_427_072), in_short(950)
        ('7.06B', '950')
    """
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"
