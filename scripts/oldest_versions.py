"""The oldest version of each dependency that pyproject.toml allows, as constraints for pip.

    python scripts/oldest_versions.py > oldest.txt
    pip install --constraint oldest.txt ".[dev]"

`make test-oldest` runs tests on them. Needs Python 3.11; no data, no GPU, a moment.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def oldest(requirements: Iterable[str]) -> list[str]:
    """Requirements with a lower bound, pinned to it.

    Args:
        requirements: As in pyproject.toml, `NAME>=VERSION`.

    Returns:
        `NAME==VERSION` for each.

    Raises:
        ValueError: One has another form, so that its oldest version is not known.

    Example:
        >>> oldest(["torch>=2.11", "numpy>=2.0"])
        ['torch==2.11', 'numpy==2.0']
    """
    found = []
    for requirement in requirements:
        if not (parts := re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)):
            raise ValueError(f"{requirement!r}: expected NAME>=VERSION, so that its oldest version is known")
        found.append(f"{parts[1]}=={parts[2]}")
    return found


if __name__ == "__main__":
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    sys.stdout.write("\n".join(oldest(project["dependencies"])) + "\n")
