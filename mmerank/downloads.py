"""What a repository of the hub would have downloaded, without downloading it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from mmerank.on_hub import NO_ANSWER, asked_of_hub, reason_of


@dataclass(frozen=True)
class Download:
    """What is left to download of a repository.

    Attributes:
        missing: Bytes; None where that cannot be known.
        cached: Bytes that are in the cache.
        why: Why it is not known; empty where it is.
    """

    missing: int | None
    cached: int
    why: str = ""

    @property
    def silent(self) -> bool:
        """Whether the hub gave no answer, so that it need not be asked of anything else."""
        return self.why.startswith(NO_ANSWER)


def download(
    name: str,
    revision: str | None,
    wanted: Callable[[Collection[str]], Collection[str]],
    *,
    of: str = "model",
    ask: bool = True,
) -> Download:
    """What of a repository is not in the cache yet.

    Args:
        name: OWNER/NAME.
        revision: Branch, tag or commit; None for the newest.
        wanted: Which of its files are taken, of all of their names.
        of: `model` or `dataset`.
        ask: Whether the hub is asked; else, as offline, only the cache is looked at.

    Returns:
        Bytes to come and bytes there.
    """
    from huggingface_hub import constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        return _offline(name, revision, wanted, of, "offline (HF_HUB_OFFLINE is set)")
    if not ask:
        return _offline(name, revision, wanted, of, NO_ANSWER)
    if why := asked_of_hub(name, revision, "config.json", of=of):  # which waits for no answer only once
        return _offline(name, revision, wanted, of, why)
    try:
        sizes = _files(name, revision, of)
        taken = list(wanted(list(sizes)))
        if of == "dataset":  # what of it `datasets` has kept is not for others to know
            return Download(sum(sizes[file] for file in taken), 0)
        named = [re.sub(r"([*?[])", r"[\1]", file) for file in taken]  # patterns are asked for
        files = snapshot_download(name, revision=revision, allow_patterns=named, dry_run=True)
    except Exception as error:  # the client below has changed, and its errors with it
        return _offline(name, revision, wanted, of, reason_of(error))
    missing = sum(file.file_size or 0 for file in files if file.will_download)
    return Download(missing, sum(file.file_size or 0 for file in files if not file.will_download))


def _files(name: str, revision: str | None, of: str) -> dict[str, int]:
    """Bytes by the name of each file of a repository."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    tree = HfApi().list_repo_tree(name, recursive=True, revision=revision, repo_type=of)
    return {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}


def cached_folder(name: str, revision: str | None = None, *, of: str = "model") -> Path | None:
    """Where a repository lies in the cache, whole or not; the hub is not asked.

    Args:
        name: OWNER/NAME.
        revision: Branch, tag or commit; None for the newest that is known.
        of: `model` or `dataset`.

    Returns:
        A folder, or None.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    there = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=of)
    try:
        commit = (there / "refs" / (revision or "main")).read_text().strip()
    except OSError:
        commit = revision or ""
    folder = there / "snapshots" / commit
    return folder if commit and folder.is_dir() else None


def _offline(
    name: str, revision: str | None, wanted: Callable[[Collection[str]], Collection[str]], of: str, why: str
) -> Download:
    folder = cached_folder(name, revision, of=of)
    if folder is None:
        return Download(None, 0, why)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    cached = sum((folder / file).stat().st_size for file in wanted(names))
    return Download(None, cached, f"{why}; some of it is in the cache")
