"""Where runs and what is kept between them lie: names of folders, and what to say where one cannot be used."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from pathlib import Path


def folder_name(argument: str) -> str:
    """A readable name for a folder, made of a MODEL or DATA argument.

    Args:
        argument: Any text.

    Returns:
        Letters, digits, dots and dashes; it differs for arguments that differ.

    Example:
        >>> folder_name("llava:/data/detail_23k.json?images=x")
        'detail_23k.json-cd793e'
    """
    last = re.sub(r"[^\w.-]+", "-", argument.partition("?")[0].rstrip("/").split("/")[-1])
    return f"{last}-{hashlib.sha256(argument.encode()).hexdigest()[:6]}"


def cache_folder() -> Path | None:
    """Where things are kept between runs: MMERANK_CACHE, else mmerank in the user's cache folder.

    Returns:
        The folder, which may not be there yet; None, with a warning, where nobody knows the user's home.
    """
    try:
        if stated := os.environ.get("MMERANK_CACHE"):
            return Path(stated).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmerank"
    except RuntimeError as error:
        warnings.warn(without_cache(None, error), stacklevel=2)
        return None


def without_cache(folder: Path | None, error: Exception) -> str:
    """What to say where the cache cannot be used: nothing is lost but time.

    Args:
        folder: It, if there is one.
        error: Why.

    Returns:
        One line.
    """
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    return (
        f"no cache ({f'{folder}: ' if folder else ''}{reason(cause)}): untrained models are measured for this run "
        "alone; MMERANK_CACHE names another folder, and --no-cache goes without"
    )


def reason(error: BaseException) -> str:
    """Why the system refused, in one line."""
    # The system's own words: pyarrow puts more around them.
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return (reason.strip() or type(error).__name__).split("\n")[0]
