"""What a model, or its preprocessing, raises on one example: told as a reason to skip that example."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmerank.errors import DataError, ModelError, first_line


@contextmanager
def refusal(what: str = "the model fails on it") -> Iterator[None]:
    """Say of whatever is raised that it is about the example: one is skipped, many stop a run.

    Lack of memory comes through as the cause, by which the engine knows it.

    Args:
        what: Stands before the reason.

    Yields:
        Nothing.

    Raises:
        DataError: Anything was raised inside.
    """
    try:
        yield
    except DataError:
        raise
    except ModelError as error:
        raise DataError(str(error)) from error
    except Exception as error:  # of other people's code, anything
        raise DataError(f"{what} ({first_line(error)})") from error
