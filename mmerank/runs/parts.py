"""Parquet parts of a run folder: written whole, and read only if everything in them can be so."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmerank.durable import whole
from mmerank.errors import RunFolderError
from mmerank.files import NotAFileError, regular_bytes
from mmerank.runs.columns import DamagedPart
from mmerank.runs.record import AS_NEEDED, SCHEMA, Record, complete, fields_for, records_of, table_of
from mmerank.runs.rules import Rules
from mmerank.runs.settings import read_settings

FOLDER = "records"
# The first so many columns of SCHEMA, that parts of some version have. Of the others, records have the default.
VERSIONS = {
    13: "the first",
    15: "with the loss",
    27: "with what else is measured of the rows",
    30: "with what the example is known by",
    31: "with embeddings",
    33: "with rows",
}
# Those that may have metrics.
_WITH_METRICS = (31, 33)
_OF = b"mmerank.data"  # among the metadata of a part
# NUMBER-DIGEST.parquet, the digest being that of the file; of several processes NUMBER-PROCESS-DIGEST.parquet.
_NAME = re.compile(r"(\d{6,})(?:-\d+)?-([0-9a-f]{16})\.parquet", re.ASCII)
# Before parts had digests: NUMBER.parquet, or NUMBER-PROCESS-RANDOM.parquet.
_OLDER_NAME = re.compile(r"(\d{6,})(?:-\d+-[0-9a-f]{8})?\.parquet", re.ASCII)


def write_part(path: Path, records: Iterable[Record], metrics: Sequence[pa.Field] = (), *, of: str = "") -> Path:
    """Write a Parquet file that is either whole or not there.

    Args:
        path: Where; its folder exists.
        records: What.
        metrics: Columns of the metrics that the run states, see `mmerank.runs.record.open_fields`.
        of: What the run's data are known by, see `mmerank.runs.settings.data_fingerprint`.

    Returns:
        Where it is: the name has the file's digest, too.
    """
    rows = list(records)
    return write_table(path, table_of(rows, pa.schema([*SCHEMA, *fields_for(rows), *metrics])), of=of)


def write_table(path: Path, table: pa.Table, *, of: str = "") -> Path:
    """The same of records in a table, as `read_part` gives it.

    Args:
        path: As of `write_part`.
        table: The records.
        of: As of `write_part`.

    Returns:
        As of `write_part`.
    """
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata({_OF: of}) if of else table
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content = sink.getvalue()
    path = path.with_name(f"{path.stem}-{_digest(content)}.parquet")
    with whole(path) as unfinished:
        unfinished.write_bytes(content)
    return path


def next_number(parts: Iterable[Path]) -> int:
    """The number of a part that is added to others."""
    known = (_NAME.fullmatch(part.name) or _OLDER_NAME.fullmatch(part.name) for part in parts)
    return max((int(name[1]) for name in known if name), default=-1) + 1


def part_files(folder: Path) -> list[Path]:
    """All that may be parts in a run folder, in the order of their names."""
    return sorted((folder / FOLDER).glob("*.parquet"))


def read_part(part: Path, rules: Rules) -> pa.Table:
    """What one part holds, if a run can have written it.

    The path is but a name: nothing in it is taken for the value of a column or for an address.

    Args:
        part: The file.
        rules: What the records of the run can be.

    Returns:
        The records, a row each.

    Raises:
        DamagedPart: It is not what a run has written; says what is wrong.
        FileNotFoundError: It is not there any more.
        OSError: It cannot be read at the moment; what it holds may be well.
    """
    name = _NAME.fullmatch(part.name)
    if name is None and _OLDER_NAME.fullmatch(part.name) is None:
        raise DamagedPart("not the name of a part")
    try:
        content = regular_bytes(part)
    except FileNotFoundError:
        if part.is_symlink():
            raise DamagedPart("a link to nothing") from None
        raise
    except NotAFileError as error:
        raise DamagedPart(error.strerror) from None
    if name is not None and _digest(content) != name[2]:
        raise DamagedPart("its content is not what was written: the digest in its name is of something else")
    table = read_table(content, sound=name is not None)
    needed = [of for of in AS_NEEDED if of.name in table.column_names]
    columns = table.num_columns - len(needed) - len(rules.metrics)
    known = [*list(SCHEMA)[:columns], *needed, *rules.metrics]
    # What earlier versions wrote has none of these, and before that no metrics.
    versions = [len(SCHEMA)] if needed else _WITH_METRICS if rules.metrics else VERSIONS
    if columns not in versions or table.schema.remove_metadata() != pa.schema(known):
        raise DamagedPart("other columns than those of records")
    if (table.schema.metadata or {}).get(_OF) not in (None, rules.of.encode()):
        raise DamagedPart("a part of another run, of other data")
    rules.check(table, older=name is None)
    return table


def read_whole(folder: Path, *, model: str | None = None, without: Collection[str] = ()) -> pa.Table:
    """All records of a run folder, in the order of its parts; what a later part repeats of an example is left out.

    Args:
        folder: The run folder.
        model: Only this one's.
        without: Columns that are let go as soon as a part is known to be sound, as the spectra, which are most of it.

    Returns:
        A row per record, in the columns of `SCHEMA`; of what parts of earlier versions lack, the default.

    Raises:
        RunFolderError: A part, or what the folder states, is damaged or cannot be read; names it.
    """
    parts = part_files(folder)  # before the settings: a model is stated before there are records of it
    rules = Rules(folder, read_settings(folder)) if parts else None
    added = rules.metrics if rules else []
    schema = pa.schema([field for field in [*SCHEMA, *added] if field.name not in without])
    found: list[pa.Table] = []
    known: set[tuple[str, str]] = set()
    for part in parts:
        assert rules is not None
        try:
            here = read_part(part, rules)
            needed = [of for of in AS_NEEDED if of.name in here.column_names and of.name not in without]
            here = complete(here, pa.schema([*schema, *needed]))
        except FileNotFoundError:
            continue  # the run goes on at this moment, and has set it aside
        except DamagedPart as error:
            raise RunFolderError(
                f"{part}: a damaged part ({error}); the command that wrote it sets it aside and measures it again"
            ) from None
        except OSError as error:
            raise RunFolderError(f"{part}: cannot be read ({error.strerror or error})") from error
        if model is not None:
            here = here.filter(pc.equal(here["model"], model))
        keys = list(zip(here["model"].to_pylist(), here["example"].to_pylist(), strict=True))
        if not known.isdisjoint(keys):
            here = here.filter(pa.array([key not in known for key in keys]))
        known.update(keys)
        found.append(here)
    return pa.concat_tables(found, promote_options="default") if found else schema.empty_table()


def read_records(folder: Path, *, model: str | None = None) -> list[Record]:
    """What `read_whole` reads, as records.

    Args:
        folder: The run folder.
        model: Only this one's.

    Returns:
        The records.

    Raises:
        RunFolderError: A part, or what the folder states, is damaged or cannot be read; names it.
    """
    return records_of(read_whole(folder, model=model))


def parts_by_example(folder: Path) -> dict[str, list[Path]]:
    """Which parts of a run that has been read hold an example.

    Args:
        folder: The run folder.

    Returns:
        Files by id of the example.
    """
    found: dict[str, list[Path]] = {}
    for part in part_files(folder):
        for name in pq.read_table(part, columns=["example"], partitioning=None)["example"].unique().to_pylist():
            found.setdefault(name, []).append(part)
    return found


def records_in(parts: Iterable[Path], folder: Path, example: str) -> list[Record]:
    """All records of one example, spectra among them.

    Args:
        parts: Those that hold it, see `parts_by_example`.
        folder: Of the run.
        example: Its id.

    Returns:
        The records, those of the first part that has a model's; none of a part that is gone meanwhile.

    Raises:
        RunFolderError: A part is damaged or cannot be read.
    """
    found: list[Record] = []
    rules = Rules(folder, read_settings(folder))
    for part in parts:
        try:
            here = read_part(part, rules)
        except FileNotFoundError:
            continue
        except (DamagedPart, OSError) as error:
            raise RunFolderError(f"{part}: cannot be read ({error})") from error
        known = {record.model for record in found}
        records = records_of(here.filter(pc.equal(here["example"], example)))
        found += [record for record in records if record.model not in known]
    return found


def mean_spectra(folder: Path) -> dict[tuple[str, str, str], NDArray[np.float64]]:
    """Mean spectra over the untouched examples of a run that has been read, so that its parts are known to be sound.

    Args:
        folder: The run folder.

    Returns:
        By model, hook point and input: (m,), as long as the longest; an example with fewer eigenvalues counts as 0
        beyond them.
    """
    return means_of_spectra(_spectra(folder))


def _spectra(folder: Path) -> Iterator[tuple[tuple[str, str, str], NDArray[np.float64]]]:
    """Model, hook point and input of each untouched record, and its spectrum.

    Args:
        folder: The run folder.

    Yields:
        Each.
    """
    known: set[tuple[str, str]] = set()
    for part in part_files(folder):
        columns = ["model", "example", "point", "input", "transform", "spectrum"]
        try:
            table = pq.ParquetFile(pa.BufferReader(regular_bytes(part))).read(columns)
        except FileNotFoundError:
            continue
        table = table.filter(pc.equal(table["transform"], "none"))
        keys = [table[name].to_pylist() for name in columns[:4]]
        for model, example, point, kind, spectrum in zip(*keys, table["spectrum"].to_pandas(), strict=True):
            if (model, example) not in known:
                yield (model, point, kind), spectrum
        known.update(examples_of(table))


def means_of_spectra(
    spectra: Iterable[tuple[tuple[str, str, str], NDArray[np.float64]]],
) -> dict[tuple[str, str, str], NDArray[np.float64]]:
    """Means of spectra.

    Args:
        spectra: What each is of, and its eigenvalues, descending.

    Returns:
        As from `mean_spectra`.
    """
    totals: dict[tuple[str, str, str], NDArray[np.float64]] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for key, spectrum in spectra:
        total = totals.get(key, np.zeros(0))
        if len(total) < len(spectrum):
            total = totals[key] = np.pad(total, (0, len(spectrum) - len(total)))
        total[: len(spectrum)] += spectrum
        counts[key] += 1
    return {key: total / counts[key] for key, total in totals.items()}


def examples_of(table: pa.Table) -> set[tuple[str, str]]:
    """Model and example of the records in one part."""
    return set(zip(*(table[name].to_pylist() for name in ("model", "example")), strict=True))


def read_table(content: bytes, *, sound: bool) -> pa.Table:
    """The table in a Parquet file.

    Args:
        content: All of the file.
        sound: Whether it is known to be as it was written, so that a lack of memory is one.

    Returns:
        The table, its values looked at as far as they can be without knowing what they are.

    Raises:
        DamagedPart: It is no Parquet file, or a damaged one.
        MemoryError: A sound one does not fit.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        table = file.read()
        table.validate(full=True)
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        stated = [sum(group.column(i).num_values for group in groups) for i in range(table.num_columns)]
        found = list(map(_places, table.columns))
    except Exception as error:
        # All of the file is in memory, so whatever is raised, it is the reason; but for one case.
        if sound and isinstance(error, MemoryError):
            raise
        raise DamagedPart((str(error).strip() or type(error).__name__).splitlines()[0]) from None
    # No checksum covers the header of a page, which says how many numbers of the last list are its own.
    if found != stated:
        raise DamagedPart("not as many numbers as the file states")
    return table


def _places(column: pa.ChunkedArray) -> int:
    """Values that Parquet counts in a column: an empty list, or none, is one."""
    if not pa.types.is_list(column.type):
        return len(column)
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    return int(pc.sum(pc.max_element_wise(lengths, 1)).as_py() or 0)


def _digest(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
