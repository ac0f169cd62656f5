"""Files of rows with the columns that a DATA argument names -> examples: CSV, JSON lines, Parquet, saved, shards."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmerank.errors import DataError, UsageError, first_line
from mmerank.inputs.arrow_rows import ArrowRows
from mmerank.inputs.columns import Columns, examples_in
from mmerank.inputs.example import DataSet, fingerprint
from mmerank.inputs.layouts import at_home, check_layout, located, unpacked_name
from mmerank.inputs.lines import Digest, lines
from mmerank.inputs.manifests import options_of
from mmerank.inputs.remote import fetched, is_address
from mmerank.inputs.shards import Shards, shards_of
from mmerank.inputs.sources import Place
from mmerank.inputs.table_files import JSON_LINES, ListedRows, Row, Table, open_table

OPTIONS = ("image", "response", "instruction", "id")


def pair_file(data: str, rest: str) -> DataSet:
    """The examples of `KIND:PLACE[?image=COLUMN&response=COLUMN&instruction=COLUMN&id=COLUMN&images=DIR]`.

    `csv:FILE` (also `.tsv`), `jsonl:FILE`: paths of pictures are relative to the file's folder, or to DIR, and must
    not lead out of it. `parquet:FILE`: pictures as paths, as bytes, or as `datasets` keeps them. `saved:FOLDER`: what
    `save_to_disk` of `datasets` wrote. `webdataset:FILES`: tar archives, `*` and `{000..009}` for several; columns
    are endings (`jpg`, `txt`), and fields of JSON behind a dot (`json.caption`).

    FILE may be an address (`s3://...`, `hf://...`), and of `csv:` and `jsonl:` be packed (`.gz`, `.zst`).
    `duplicates=keep` keeps repeated texts, where there is no picture.

    Args:
        data: The whole DATA argument.
        rest: What stands behind `KIND:`.

    Returns:
        The data set.

    Raises:
        UsageError: The options cannot be read.
        DataError: The data are missing or of another kind, a column is, or it is not said whether there is an
            instruction.
    """
    kind = data.partition(":")[0]
    place, options = where(data, rest)
    if options.get("duplicates", "keep") != "keep":
        raise UsageError(f"{data!r}: duplicates={options['duplicates']}; known: keep")
    columns = Columns(**{name: value for name, value in options.items() if name in OPTIONS})
    within = pictures_of(place, options)
    with ExitStack() as stack:
        if isinstance(place, str) and kind in _FETCHED:
            place = stack.enter_context(fetched(place))
        table = _KINDS[kind](place, columns, within)
        entries = examples_in(table, columns, data, within=within, repeated="duplicates" in options)
        known = table.fingerprint or fingerprint(entries)
    return DataSet(data, f"{known} {columns.read}", entries)


def where(data: str, rest: str) -> tuple[Place, dict[str, str]]:
    """What a DATA argument of these kinds says.

    Args:
        data: The whole argument.
        rest: What stands behind `KIND:`.

    Returns:
        The file or folder, or its address; and the options behind the question mark.

    Raises:
        UsageError: There is an unknown option, or one without a value.
    """
    place: Place
    if is_address(rest):
        place, _, query = rest.partition("?")
    else:
        place, query = located(rest, "?")
        query = query.removeprefix("?")
    known = (*OPTIONS, "images", "duplicates")
    return place, options_of(query, known, data, may_be_empty=("instruction",))


def pictures_of(place: Place, options: dict[str, str]) -> Place:
    """The folder, or the address of one, that the paths of pictures are relative to.

    Args:
        place: Of the rows.
        options: From `where`.

    Returns:
        What `images` says, else the folder of the rows.
    """
    if stated := options.get("images"):
        return stated if is_address(stated) else at_home(stated)
    if isinstance(place, str):
        return place.rpartition("/")[0]
    return place if place.is_dir() else place.parent


def _csv(path: Path, columns: Columns, within: Place) -> Table:
    check_layout(path, table=True)
    digest = Digest()
    # A byte that is no UTF-8 costs its row, not the file.
    texts = (line.decode("utf-8", "surrogateescape") + "\n" for line in lines(path, digest))
    tabs = unpacked_name(path.name).endswith(".tsv")
    reader = csv.reader(texts, delimiter="\t" if tabs else ",", strict=True)
    found = list(_csv_rows(path, reader))
    if not found:
        raise DataError(f"{path}: empty file")
    header, *rows = found
    if not isinstance(header, list) or len({*header}) < len(header):
        what = header if not isinstance(header, list) else f"a column twice: {', '.join(header)}"
        raise DataError(f"{path}: its first line must name the columns ({what})")
    if not rows:
        raise DataError(f"{path}: no rows")
    return ListedRows(path, [_named(header, row) for row in rows], digest.text, fields=header)


def _csv_rows(path: Path, reader: Any) -> Iterator[list[str] | DataError]:
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield DataError(f"not CSV, up to line {reader.line_num} ({error})")
            continue
        if row:  # an empty line is none
            yield row


def _named(header: list[str], row: list[str] | DataError) -> Row:
    if isinstance(row, DataError):
        return row
    if len(row) != len(header):
        return DataError(f"{len(row)} fields, where the first line has {len(header)}")
    if any("\udc80" <= c <= "\udcff" for c in "".join(row)):
        return DataError("not UTF-8")
    return dict(zip(header, row, strict=True))


def _json_lines(path: Path, columns: Columns, within: Place) -> Table:
    if not unpacked_name(path.name).endswith(JSON_LINES):
        raise DataError(f"{path}: expected a file that ends in .jsonl, .jsonl.gz or .jsonl.zst")
    return open_table(path)


def _parquet(place: Place, columns: Columns, within: Place) -> Table:
    return _of_datasets(lambda datasets: datasets.Dataset.from_parquet(str(place)), place, columns, within)


def _saved(place: Place, columns: Columns, within: Place) -> Table:
    return _of_datasets(lambda datasets: datasets.load_from_disk(str(place)), place, columns, within)


def _of_datasets(load: Callable[[Any], Any], place: Place, columns: Columns, within: Place) -> Table:
    import datasets

    if isinstance(place, Path) and not place.exists():
        raise DataError(f"{place}: no such file or folder")
    try:
        found = load(datasets)
    except Exception as error:  # every layer below `datasets` raises errors of its own
        raise DataError(f"{place}: cannot be read ({first_line(error)})") from error
    if isinstance(found, dict):
        raise DataError(
            f"{place}: holds the splits {', '.join(found)}; name one, as saved:{place}/{next(iter(found))}"
        )
    if not len(found):
        raise DataError(f"{place}: no rows")
    return ArrowRows(found, str(place), image=columns.image, within=within)


def _shards(place: Place, columns: Columns, within: Place) -> Table:
    return Shards(shards_of(place))


_KINDS: dict[str, Callable[[Any, Columns, Place], Table]] = {
    "csv": _csv,
    "jsonl": _json_lines,
    "parquet": _parquet,
    "saved": _saved,
    "webdataset": _shards,
}
# Read from a copy, since they are small and read more than once.
_FETCHED = ("csv", "jsonl")
KINDS: Sequence[str] = tuple(_KINDS)
