"""Runs of a data set on the hub, as `mmerank push` puts them there -> local run folders."""

from __future__ import annotations

import glob
from pathlib import Path

from mmerank.errors import RunFolderError, UsageError, did_you_mean
from mmerank.on_hub import reason_of
from mmerank.runs.settings import STATED
from mmerank.runs.shared import FILES, WITH_DATA

RUNS = "runs"  # the folder of the data set that they lie in
_FRONT = "hub:"


def is_on_hub(name: str | Path) -> bool:
    """Whether a run is named as one of a data set on the hub."""
    return str(name).startswith(_FRONT)


def run_folder(name: str | Path) -> Path:
    """The folder of one run.

    Args:
        name: A path, or `hub:OWNER/NAME[/RUN][@REVISION]`, which is fetched.

    Returns:
        A local path.

    Raises:
        RunFolderError: As of `fetched_runs`.
        UsageError: The data set holds several runs, or the name cannot be read.
    """
    if not is_on_hub(name):
        return Path(name)
    found = fetched_runs(name)
    if len(found) > 1:
        place, at, revision = str(name).partition("@")
        raise UsageError(
            f"{name}: holds several runs, {', '.join(run.name for run in found)}; say which, "
            f"{place.rstrip('/')}/{found[0].name}{at}{revision}"
        )
    return found[0]


def fetched_runs(name: str | Path) -> list[Path]:
    """Fetch the runs of a data set on the hub: the files of a run folder, and nothing else that lies there.

    Args:
        name: `hub:OWNER/NAME[/RUN][@REVISION]`; all runs where none is named.

    Returns:
        Folders in huggingface_hub's cache, by name. They are a stranger's, as any run folder from elsewhere.

    Raises:
        RunFolderError: It cannot be fetched, or holds no such run.
        UsageError: The name cannot be read.
    """
    repository, run, revision = _parts(str(name))
    from huggingface_hub import snapshot_download

    # The settings of all, so that it is known which there are, also without network later.
    patterns = [f"{RUNS}/*/{STATED}", *(f"{RUNS}/{glob.escape(run) or '*'}/{file}" for file in (*FILES, *WITH_DATA))]
    try:
        there = snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=patterns)
    except Exception as error:  # the client below has changed, and its errors with it
        raise RunFolderError(f"{name}: cannot be fetched ({reason_of(error)})") from error
    found = {path.parent.name: path.parent for path in sorted(Path(there, RUNS).glob(f"*/{STATED}"))}
    if not found:
        raise RunFolderError(f"{name}: the data set holds no runs ({RUNS}/NAME/{STATED}), as `mmerank push` writes")
    if run and run not in found:
        held = f"it has {', '.join(found)}"
        raise RunFolderError(f"{name}: the data set holds no run {run!r}{did_you_mean(run, found)}; {held}")
    return [found[run]] if run else list(found.values())


def _parts(name: str) -> tuple[str, str, str | None]:
    """Repository, run and revision."""
    place, _, revision = name.removeprefix(_FRONT).partition("@")
    owner, *rest = place.split("/")
    if not owner or len(rest) not in (1, 2) or not all(rest) or name.endswith("@"):
        raise UsageError(f"{name!r}: expected hub:OWNER/NAME[/RUN][@REVISION]")
    if set("?#:") & set(place):
        raise UsageError(f"{name!r}: expected a run, hub:OWNER/NAME[/RUN][@REVISION]; this is how data are named")
    return f"{owner}/{rest[0]}", rest[1] if len(rest) == 2 else "", revision or None
