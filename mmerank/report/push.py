"""Finished runs -> a data set on the hub, with a card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mmerank.analysis.finished import read_runs
from mmerank.analysis.results.stored import stored
from mmerank.errors import MmerankError, RunFolderError, UsageError
from mmerank.on_hub import reason_of
from mmerank.report.card import card
from mmerank.report.folders import run_folders
from mmerank.report.write import report
from mmerank.runs.fetched import RUNS
from mmerank.runs.settings import SUMMARY, read_settings, read_summary, results_in
from mmerank.runs.shared import share

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_CARD = "README.md"
_PAGE = "report.html"
# What a data set has that nobody put there.
_MADE_BY_HUB = {".gitattributes", _CARD}


class PushError(MmerankError, RuntimeError):
    """The hub did not take the runs."""


def push(runs: Sequence[str | Path], to: str, *, private: bool = False, with_data: bool = False) -> str:
    """Make a data set on the hub of finished runs, with a card; what an earlier push put there is replaced.

    Nothing is sent before every run has been read back from the copy that goes up, as a reader will. That copy
    has no folders of this machine, no tokens of texts and no reasons of skipped examples; see
    `mmerank.runs.shared.share`.

    Args:
        runs: Run folders, of any kinds, and folders of run folders.
        to: `OWNER/NAME`.
        private: Make a data set that others cannot see. One that is there must be so already.
        with_data: Send the runs as they are, and the page of a report with the texts and pictures of their examples.

    Returns:
        The address of the commit.

    Raises:
        RunFolderError: A run is not finished, damaged, or no run.
        UsageError: No token, no owner in the name, no run, two runs of one name, or the data set is public where a
            private one was asked for, or holds something else.
        PushError: The hub did not take them.
    """
    _check_name(to)
    folders = _named(run_folders(runs))
    from huggingface_hub import HfApi, get_token

    if not (token := get_token()):
        raise UsageError("no token of the hub: `hf auth login` first, or set HF_TOKEN; it must be allowed to write")
    with TemporaryDirectory(prefix="mmerank-push-") as place:
        stage = Path(place)
        _write(folders, stage, to, with_data=with_data)
        with _explained(to):
            api = HfApi(token=token)
            _prepare(api, to, private=private)
            made = api.upload_folder(
                repo_id=to,
                repo_type="dataset",
                folder_path=stage,
                commit_message=f"{len(folders)} run{'s' * (len(folders) > 1)}: {', '.join(folders)}"[:200],
                delete_patterns=[f"{RUNS}/*", _PAGE],
            )
    return str(made.commit_url)


def preview(runs: Sequence[str | Path], to: str, *, with_data: bool = False) -> str:
    """What `push` would send, made and read back as for it; nothing is sent, and neither token nor network is needed.

    Args:
        runs: As for `push`.
        to: As for `push`.
        with_data: As for `push`.

    Returns:
        The card, and below it each file with its size in bytes.

    Raises:
        RunFolderError: As of `push`.
        UsageError: No owner in the name, no run, or two runs of one name.
    """
    _check_name(to)
    with TemporaryDirectory(prefix="mmerank-push-") as place:
        stage = Path(place)
        _write(_named(run_folders(runs)), stage, to, with_data=with_data)
        files = sorted(path for path in stage.rglob("*") if path.is_file())
        sizes = [f"{path.stat().st_size:>12,}  {path.relative_to(stage)}" for path in files]
        listed = [f"{len(files)} files for {to}, in bytes:", *sizes]
        return "\n".join([(stage / _CARD).read_text(encoding="utf-8"), *listed])


def _check_name(to: str) -> None:
    if not _NAME.fullmatch(to):
        raise UsageError(f"--to {to}: expected OWNER/NAME, the owner being your name on the hub or an organisation")


@contextmanager
def _explained(to: str) -> Iterator[None]:
    try:
        yield
    except MmerankError:
        raise
    except Exception as error:  # the client below has changed, and its errors with it
        refused = getattr(getattr(error, "response", None), "status_code", None) in (401, 403)
        reason = "the token may not write there; see `hf auth whoami`" if refused else reason_of(error)
        raise PushError(f"--to {to}: cannot be written to ({reason})") from error


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """Run folders by what they are called in the data set."""
    found: dict[str, Path] = {}
    for folder in folders:
        name = re.sub(r"[^\w.=,+-]+", "-", folder.resolve().name, flags=re.ASCII).strip("-.") or "run"
        if name in found and found[name].resolve() != folder.resolve():
            raise UsageError(f"{found[name]} and {folder} would both be called {name}; rename one of the folders")
        found.setdefault(name, folder)
    if not found:
        raise UsageError("expected at least one run folder")
    return found


def _write(folders: dict[str, Path], stage: Path, to: str, *, with_data: bool) -> None:
    """All that goes up, read back as a reader will."""
    for name, folder in folders.items():
        share(folder, stage / RUNS / name, as_it_is=with_data)
        job = read_settings(folder, needs=("job",))["job"]
        for result in results_in(read_summary(folder)):
            stored(folder, job, result["model"])
    read = read_runs([stage / RUNS / name for name in folders])
    for run in read:
        if further := sorted(set(run.frames) - set(run.results)):
            raise RunFolderError(
                f"{folders[run.name]}: not finished ({further[0]} was measured, and is not in its {SUMMARY}); the "
                "command that began it goes on with it"
            )
    if with_data:
        report(list(folders.values()), stage, formats=["html"], with_data=True)
    (stage / _CARD).write_text(card(read, to, with_page=with_data), encoding="utf-8")


def _prepare(api: HfApi, to: str, *, private: bool) -> None:
    """Make the data set, or look whether the one that is there may be written over."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        there = api.dataset_info(to)
    except RepositoryNotFoundError:
        api.create_repo(to, repo_type="dataset", private=private or None)
        return
    names = {file.rfilename for file in there.siblings or []}
    if names - _MADE_BY_HUB and not any(re.fullmatch(rf"{RUNS}/[^/]+/run\.json", name) for name in names):
        raise UsageError(f"--to {to}: this data set holds something else than runs of mmerank; name another")
    if private and not there.private:
        raise UsageError(f"--to {to}: this data set is public; make it private in its settings, or name another")
