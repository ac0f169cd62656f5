"""Letters that the font of figures does not have, said once and not for each letter of each figure."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_MISSING = re.compile(r"Glyph (\d+) \(.*\) missing from")


@contextmanager
def missing_letters_said_once() -> Iterator[None]:
    """Draw in this block; other warnings are given as they are, behind it.

    Yields:
        Nothing.
    """
    with warnings.catch_warnings(record=True) as caught:
        yield
    missing = set()
    for one in caught:
        if found := _MISSING.match(str(one.message)):
            missing.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if missing:
        warnings.warn(
            f"the font of figures has no {''.join(sorted(missing))}: PDF and PNG show boxes there, the page does "
            "not; --name gives models other names",
            stacklevel=3,
        )
