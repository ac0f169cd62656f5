"""The examples that a run measured, from their files, where a run folder may send a reader to them.

A run folder may come from somebody else, and what its run.json names is then a stranger's choice: any file of this
machine. Nothing of such a file may come into the page or a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmerank.analysis.finished import Finished
from mmerank.errors import MmerankError
from mmerank.inputs.example import Example
from mmerank.inputs.layouts import at_home, located
from mmerank.inputs.load import load_data
from mmerank.inputs.manifests import llava_files
from mmerank.inputs.pair_files import KINDS, pictures_of, where
from mmerank.inputs.remote import is_address
from mmerank.inputs.shards import shards_of
from mmerank.inputs.text_sets import SETS

_HOW = "`mmerank report --with-data` reads them again wherever they lie"


def find_examples(run: Finished, *, with_data: bool = False) -> tuple[dict[str, Example], str]:
    """The examples that a run measured.

    Args:
        run: Any.
        with_data: Follow the run to its data wherever they lie. Without it they are read only where all of them,
            links followed, lie below the run's folder or the current one.

    Returns:
        Examples by id, and why there are none, which quotes nothing of the files.
    """
    try:
        # Under another name, what to read is stated beside it.
        source = str(run.settings["data"].get("source") or run.data)
        places = list(_places(source))
        found_there = not places or places[0].exists()
    except (MmerankError, OSError, ValueError):  # names that no file can have
        return {}, "the data could not be read again"
    if source != "demo" and not places:
        return {}, "the data are not in local files, and a report fetches nothing"
    if not with_data and not all(_near(place, run.path) for place in places):
        return {}, f"the data are neither in the run's folder nor in the current one; {_HOW}"
    if not found_there:
        return {}, "the data were not found; a relative path counts from the current folder"
    try:
        data = load_data(source, pipe=False)
    except (MmerankError, OSError, ValueError, MemoryError):
        return {}, "the data could not be read again"
    if data.fingerprint != run.settings["data"].get("fingerprint"):
        return {}, "the data have changed since the run"
    found: dict[str, Example] = {}
    for entry in data:
        if isinstance(entry, Example):
            found.setdefault(entry.id, entry)
    return found, ""


def _places(data: str) -> Iterator[Path]:
    """The files and folders that a DATA argument reads; none where they are remote."""
    name, _, rest = data.partition(":")
    if not rest:
        return
    if name in ("llava", "detail_23k"):
        yield from llava_files(data, rest)
    elif name in ("minigpt", "cc_sbu_align"):
        yield at_home(rest) / "filter_cap.json"
        yield at_home(rest) / "image"
    elif name == "text":
        yield located(rest, "?#")[0]
    elif name in KINDS and not is_address(rest):
        place, options = where(data, rest)
        images = pictures_of(place, options)
        if isinstance(place, Path) and isinstance(images, Path):
            yield place
            yield images
            if name == "webdataset":
                yield from (shard for shard in shards_of(place) if isinstance(shard, Path))
    elif name in SETS:
        yield (place := at_home(rest))
        for pattern in SETS[name].files:  # links in a folder may lead anywhere
            yield from place.glob(pattern)
            yield from place.glob(pattern.removesuffix(".gz"))


def _near(place: Path, run: Path) -> bool:
    """Whether a path lies below the run's folder or the current one."""
    try:
        # Everything lies below the root, which is nobody's place for data.
        return any(
            place.resolve().is_relative_to(folder)
            for folder in (run.resolve(), Path.cwd())
            if folder.parent != folder
        )
    except (OSError, RuntimeError, ValueError):  # loops of links, names that no file can have
        return False
