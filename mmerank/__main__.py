"""Where the command line begins, and where whatever goes wrong in it ends: a line on stderr, and an exit status."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

from mmerank.commands.interrupts import end_at_once, interrupts
from mmerank.errors import Interrupted, MmerankError, UsageError, printable
from mmerank.processes import INTERRUPTED

LONGEST_MESSAGE = 1500


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit status 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    Args:
        arguments: Without the program's name; default: those of the process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    with interrupts(end_at_once):
        guarded(lambda: _run(given), debug="--debug" in given)


def _run(given: list[str]) -> None:
    from mmerank.commands.app import app

    app(given, prog_name="mmerank")


def guarded(work: Callable[[], Any], *, debug: bool = False) -> None:
    """Run a program so that errors and warnings are one line each on stderr, and errors an exit status; scripts too.

    Args:
        work: The program.
        debug: Let errors through.
    """
    before, warnings.formatwarning = warnings.formatwarning, _warning
    # Pillow's, which names no file: whatever is over the limit here is skipped, and told with its name.
    warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")
    try:
        work()
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", status=INTERRUPTED))
    except Exception as error:
        if debug:
            raise
        statuses = {UsageError: 2, Interrupted: INTERRUPTED}
        where = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
        if isinstance(error, MmerankError):
            sys.exit(_fail(f"{error}{where}", status=statuses.get(type(error), 1)))
        sys.exit(_fail(f"{type(error).__name__}: {error}{where} (--debug shows where)"))
    finally:
        warnings.formatwarning = before


def _warning(message: Warning | str, category: Any, filename: str, lineno: int, line: str | None = None) -> str:
    return f"warning: {printable(str(message))}\n"


def _fail(message: str, status: int = 1) -> int:
    line = printable(message)
    if len(line) > LONGEST_MESSAGE:  # an id or a path may have any length
        line = f"{line[: LONGEST_MESSAGE // 2]} … {line[-LONGEST_MESSAGE // 2 :]}"
    print(f"error: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
