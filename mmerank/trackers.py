"""The experiment trackers that results can be logged to, known without importing any of them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

from mmerank.errors import UsageError, did_you_mean


class _Known(NamedTuple):
    """A tracker: the packages of which it needs one, and what its run's name is called."""

    packages: tuple[str, ...]
    run_name: str = "name"


TRACKERS = {
    "tensorboard": _Known(("tensorboard", "tensorboardX")),
    "wandb": _Known(("wandb",)),
    "trackio": _Known(("trackio",)),
    "swanlab": _Known(("swanlab",), "experiment_name"),
}


def check_tracker(name: str) -> None:
    """Refuse a tracker that cannot be logged to, before anything is measured.

    Args:
        name: By which it is asked for.

    Raises:
        UsageError: It is unknown, or not installed.
    """
    if name not in TRACKERS:
        raise UsageError(f"no tracker {name!r}{did_you_mean(name, TRACKERS)}; there are {', '.join(TRACKERS)}")
    packages = TRACKERS[name].packages
    if not any(find_spec(package) for package in packages):
        raise UsageError(f"tracker {name}: not installed; pip install {packages[0]}")
