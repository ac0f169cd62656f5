"""Where the path in a DATA argument ends, and what a file or folder is that no reader takes, with what to do."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from pathlib import Path

from mmerank.errors import DataError
from mmerank.files import opened

_UNPACK = "unpack it, and name what is in it"
_ROWS = (
    "expected a file that ends in .jsonl, .jsonl.gz, .jsonl.zst or .parquet; {how}(FILE.parquet) makes one, which "
    "text:FILE.parquet#COLUMN names"
)
_TABLE = "a table, which csv:FILE reads, with ?image=COLUMN&response=COLUMN&instruction=COLUMN"
_ARROW = "an Arrow file, " + _ROWS.format(how="datasets.Dataset.from_file(FILE).to_parquet")
_SHARDS = (
    "a tar archive, perhaps of webdataset, whose samples webdataset:FILES reads; else unpack it, and name what is in "
    "it as llava:, minigpt: or text:"
)
# How a file begins, where the sign stands, and what it is.
_SIGNS = (
    (0, b"BZh", f"packed with bzip2; {_UNPACK}"),
    (0, b"\xfd7zXZ\0", f"packed with xz; {_UNPACK}"),
    (0, b"PK\x03\x04", f"a ZIP archive; {_UNPACK}"),
    (0, b"7z\xbc\xaf", f"a 7-Zip archive; {_UNPACK}"),
    (257, b"ustar", _SHARDS),
    (0, b"PAR1", "a Parquet file; give it a name that ends in .parquet, and name text:FILE.parquet#COLUMN"),
    (0, b"ARROW1", _ARROW),
    (0, b"\xff\xff\xff\xff", _ARROW),
    (0, b"%PDF", "a PDF; extract its text"),
)
_PACKED = {".gz": (b"\x1f\x8b", "gzip"), ".zst": (b"\x28\xb5\x2f\xfd", "Zstandard")}
_SUFFIXES = {
    ".csv": _TABLE,
    ".tsv": _TABLE,
    ".arrow": _ARROW,
    ".tar": _SHARDS,
    ".tgz": _SHARDS,
    ".lst": "a list of labels; name the file with the rows",
}


def located(rest: str, marks: str) -> tuple[Path, str]:
    """The file that an argument names, and what stands behind it.

    Names of files may hold the marks too: what exists under the longest name is meant.

    Args:
        rest: A path, and perhaps a mark and more.
        marks: Characters at which a path may end.

    Returns:
        The path, `~` taken for the home folder, and the rest from the mark on; empty where there is none.
    """
    ends = [len(rest), *(i for i in reversed(range(len(rest))) if rest[i] in marks)]
    for end in ends:
        with suppress(OSError, ValueError):  # names that the file system cannot hold
            if (path := at_home(rest[:end])).is_file():
                return path, rest[end:]
    return at_home(rest[: ends[-1]]), rest[ends[-1] :]


def at_home(name: str) -> Path:
    """A path, its `~` taken for the home folder unless there is a file of that name."""
    path = Path(name)
    with suppress(OSError, ValueError, RuntimeError):  # RuntimeError: nobody knows where home is
        return path if path.exists() else path.expanduser()
    return path


def unpacked_name(name: str) -> str:
    """The name of what is in a packed file, in small letters; of any other file its own."""
    return name.lower().removesuffix(".gz").removesuffix(".zst")


def check_layout(path: Path, *, unpacks: bool = True, folder: bool = False, table: bool = False) -> None:
    """Refuse, by its name, what is data of another layout than a reader reads.

    Args:
        path: A file or folder; one that is missing, or a pipe, is left to the reader.
        unpacks: Whether the reader takes what gzip or Zstandard has packed, if its name ends in .gz or .zst.
        folder: Whether it takes folders.
        table: Whether it takes tables with commas or tabs.

    Raises:
        DataError: It is another layout.
    """
    if path.is_dir():
        if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            raise DataError(
                f"{path}: a folder that datasets' save_to_disk wrote, which saved:FOLDER reads, with "
                "?image=COLUMN&response=COLUMN&instruction=COLUMN"
            )
        if any(path.glob("*.tar")):
            raise DataError(f"{path}: its *.tar is {_SHARDS}")
        if not folder:
            there = [child.name for child in islice(sorted(path.glob("*.*")), 5)]
            what = f"in it are {', '.join(there)}" if there else "nothing in it has a name with a dot"
            raise DataError(f"{path}: cannot be read (Is a directory), expected a file; {what}")
    if not path.is_file():
        return
    name = Path(path.name.lower())
    try:
        with opened(path) as file:
            start = file.read(512)
    except OSError:
        return  # the reader says why
    for at, sign, what in _SIGNS:
        if start[at:].startswith(sign) and not (sign == b"PAR1" and name.suffix == ".parquet"):
            raise DataError(f"{path}: {what}")
    for ending, (sign, packer) in _PACKED.items():
        if start.startswith(sign) and not (unpacks and name.suffix == ending):
            todo = f"give it a name that ends in {ending}" if unpacks and name.suffix != ".tgz" else _UNPACK
            raise DataError(f"{path}: packed with {packer}; {todo}")
    suffix = Path(unpacked_name(name.name)).suffix
    if suffix in _SUFFIXES and not (table and _SUFFIXES[suffix] is _TABLE):
        raise DataError(f"{path}: {_SUFFIXES[suffix]}")
