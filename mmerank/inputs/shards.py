"""Tar archives in webdataset's layout -> rows by files' endings; what is no text stays there until it is needed."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from mmerank.errors import DataError, first_line
from mmerank.files import opened
from mmerank.inputs.pictures import Encoded
from mmerank.inputs.remote import is_address, matching, opened_there
from mmerank.inputs.sources import Place
from mmerank.inputs.table_files import Row

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
# Endings of texts, which are read at once; everything else waits in the archive.
_TEXTS = ("txt", "text", "caption", "cls", "transcript")
_LONGEST_TEXT = 1 << 24  # bytes


def shards_of(place: Place) -> list[Place]:
    """The archives that a name with `*` or `{000..009}` means, in order.

    Args:
        place: A path or an address; a folder stands for its `*.tar`.

    Returns:
        Paths or addresses.

    Raises:
        DataError: There are none.
    """
    found: list[Place] = []
    for name in _ranges(str(place)):
        if is_address(name):
            found += matching(name)
            continue
        path = Path(name)
        path = path / "*.tar" if path.is_dir() else path
        patterned = any(sign in path.name for sign in "*?[") and not path.exists()
        found += sorted(path.parent.glob(path.name)) if patterned else [path]
    if not found:
        raise DataError(f"{place}: no such file")
    return found


def _ranges(name: str) -> Iterator[str]:
    if (found := _RANGE.search(name)) is None:
        yield name
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _ranges(f"{name[: found.start()]}{number:0{len(first)}}{name[found.end() :]}")


class Shards:
    """The rows of archives: texts read, pictures by their place in the archive, from where they are read when needed.

    Args:
        places: Of the archives, unpacked ones.

    Raises:
        DataError: One cannot be opened, or there is nothing in them.
    """

    fingerprint = ""

    def __init__(self, places: Sequence[Place]):
        self.name = ", ".join(map(str, places[:1])) + (" ..." if len(places) > 1 else "")
        found = [(place, key, row) for place in places for key, row in _samples(place)]
        if not found:
            raise DataError(f"{self.name}: no files in it")
        self._rows: list[Row] = [row for _, _, row in found]
        self._places = [f"{place} {key}".strip() for place, key, _ in found]
        # Names may begin anew in each archive.
        known = {key for _, key, _ in found}
        if len(known) < len({(place, key) for place, key, _ in found}):
            for place, key, row in found:
                if isinstance(row, dict):
                    row["id"] = f"{str(place).rpartition('/')[2]} {key}"

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, numbers: Collection[int] | None = None) -> Iterator[tuple[int, Row]]:
        """The rows, or those of the given numbers, each with its number."""
        return ((i, row) for i, row in enumerate(self._rows) if numbers is None or i in numbers)

    def place(self, number: int) -> str:
        """Where a row stands, for messages."""
        return self._places[number]

    def fields(self) -> list[str]:
        """The names of the columns."""
        found = dict.fromkeys(name for row in self._rows if isinstance(row, dict) for name in row)
        return [name for name in found if name != "id"]


def _samples(place: Place) -> Iterator[tuple[str, Row]]:
    """Name and row of each sample; of what cannot be read, the reason in its place."""
    key = ""
    row: dict[str, Any] = {}
    try:
        with _opened(place) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not member.isreg() or member.issparse() or member.name.rpartition("/")[2].startswith("."):
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                of = f"{folder}/{stem}".lstrip("/")
                if of != key:
                    if row:
                        yield key, row
                    key, row = of, {"id": of}
                row |= _fields(place, file, member, ending.lower())
            file.seek(archive.offset)
            # tarfile ends as quietly at a damaged header as at the mark that ends an archive.
            if (end := file.read(tarfile.BLOCKSIZE)) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError("damaged there" if end else "no end mark")
    except tarfile.ReadError as error:
        if not key:
            raise DataError(f"{place}: not an unpacked tar archive ({first_line(error)})") from None
        yield key, row
        yield "", DataError(f"the archive is cut short or damaged behind {key!r} ({first_line(error)})")
        return
    except FileNotFoundError:
        raise DataError(f"{place}: no such file") from None
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({first_line(error)})") from None
    if row:
        yield key, row


def _fields(place: Place, file: BinaryIO, member: tarfile.TarInfo, ending: str) -> dict[str, Any]:
    if ending != "json" and ending not in _TEXTS:
        read = partial(_content, place, member.offset_data, member.size)
        return {ending: Encoded(f"{member.name} in {place}", read)}
    if member.size > _LONGEST_TEXT:
        return {}
    file.seek(member.offset_data)
    content = file.read(member.size)
    try:
        if len(content) < member.size:
            raise ValueError
        text = content.decode()
        if ending != "json":
            return {ending: text}
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {ending: content}  # the row says that it is no text
    return {f"json.{name}": value for name, value in found.items()} if isinstance(found, dict) else {}


def _content(place: Place, offset: int, size: int) -> bytes:
    with _opened(place) as file:
        file.seek(offset)
        return file.read(size)


def _opened(place: Place) -> AbstractContextManager[BinaryIO]:
    return opened(place) if isinstance(place, Path) else opened_there(place)
