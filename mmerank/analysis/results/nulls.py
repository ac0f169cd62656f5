"""Results as JSON, which has no NaN."""

from __future__ import annotations

from typing import Any


def no_nan(content: Any) -> Any:
    """JSON values in which what is not defined is null, since JSON has no NaN.

    Args:
        content: Nested in any way.

    Returns:
        The same, tuples as lists.
    """
    if isinstance(content, dict):
        return {key: no_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [no_nan(value) for value in content]
    return None if content != content else content  # NaN differs from itself
