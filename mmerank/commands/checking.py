"""A command that is only asked whether it would take its options, as a study asks of each cell before any runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_ONLY: ContextVar[bool] = ContextVar("only_checked", default=False)


class _Checked(Exception):
    """All that needs neither model nor data is looked at."""


def checked_so_far() -> None:
    """Say, in a command, that its options are looked at; it ends here where nothing else is asked."""
    if _ONLY.get():
        raise _Checked


def only_checked(command: Callable[[], Any]) -> None:
    """Run a command up to where it would look at its data.

    Args:
        command: It, with its options; whatever it raises comes through.
    """
    with _checking():
        command()


@contextmanager
def _checking() -> Iterator[None]:
    token = _ONLY.set(True)
    try:
        yield
    except _Checked:
        pass
    finally:
        _ONLY.reset(token)
