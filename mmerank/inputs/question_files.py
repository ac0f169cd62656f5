"""Where the questions of benchmarks lie: files as they are published, and the hub -> rows."""

from __future__ import annotations

import base64
import binascii
import io
import json
from pathlib import Path
from typing import Any

from mmerank.errors import DataError, UsageError, first_line
from mmerank.inputs.arrow_rows import ArrowRows
from mmerank.inputs.layouts import at_home, check_layout, located
from mmerank.inputs.lines import Digest, lines
from mmerank.inputs.manifests import options_of
from mmerank.inputs.table_files import JSON_LINES, ListedRows, Table, open_table

# A shorter text in the place of a picture is the index of a row that has the same one.
_LONGEST_INDEX = 64


def rows_of(data: str, place: str) -> tuple[Table, Path | None]:
    """The rows of `PLACE[?OPTIONS]`.

    Args:
        data: The whole DATA argument, for messages.
        place: A file with `?images=DIR`, or `hub:OWNER/NAME[/CONFIG][:SPLIT]` with `?revision=`.

    Returns:
        Rows, whose pictures are under `image`, and the folder that paths of pictures are relative to.

    Raises:
        UsageError: An option is unknown.
        DataError: They are missing, or cannot be read.
    """
    if place.startswith("hub:"):
        return _hub(data, place.removeprefix("hub:")), None
    path, query = located(place, "?")
    options = options_of(query.removeprefix("?"), ("images",), data)
    images = at_home(options["images"]) if "images" in options else path.parent
    if path.suffix.lower() == ".tsv":
        return _tsv(path), images
    if path.name == "problems.json":
        return _problems(path), images
    if path.is_file() and path.suffix.lower() == ".csv":
        raise DataError(
            f"{path}: a table of commas; questions are read from {', '.join(JSON_LINES)}, .parquet or .tsv: "
            f"pandas.read_csv({path.name!r}).to_json({path.stem + '.jsonl'!r}, orient='records', lines=True)"
        )
    return open_table(path), images


def _hub(data: str, place: str) -> ArrowRows:
    from mmerank.inputs.hub import hub_table

    location, _, query = place.partition("?")
    location, _, split = location.partition(":")
    options = options_of(query, ("revision",), data)
    owner, *names = location.split("/")
    if not owner or not all(names) or not 1 <= len(names) <= 2:
        raise UsageError(f"{data!r}: expected hub:OWNER/NAME[/CONFIG][:SPLIT], got {location!r}")
    return hub_table(
        "/".join([owner, names[0]]),
        config=names[1] if len(names) == 2 else None,
        split=split or "test",
        revision=options.get("revision"),
        image="image",
    )


def _tsv(path: Path) -> ListedRows:
    """The rows of a table as MMBench is published: tabs, quotes around texts of several lines, pictures in base64."""
    import pandas as pd

    check_layout(path, table=True)
    digest = Digest()
    try:
        content = b"\n".join(lines(path, digest)).decode()
        frame = pd.read_csv(io.StringIO(content), sep="\t", dtype=str, keep_default_na=False)
    except Exception as error:  # pandas has errors of its own
        raise DataError(f"{path}: no table of tabs ({first_line(error)})") from None
    rows: list[Any] = frame.to_dict("records")
    by_index = {row.get("index"): row.get("image", "") for row in rows}
    for i, row in enumerate(rows):
        shown = str(row.get("image", ""))
        if len(shown) <= _LONGEST_INDEX:
            shown = by_index.get(shown, shown)
        try:
            row["image"] = base64.b64decode(shown, validate=True) or None
        except (binascii.Error, ValueError):
            rows[i] = DataError("its image is not base64")
    return ListedRows(path, rows, digest.text, fields=list(map(str, frame.columns)))


def _problems(path: Path) -> ListedRows:
    """ScienceQA as it is published: an object of problems by id, pictures in SPLIT/ID/ below the file's folder."""
    digest = Digest()
    try:
        content = json.loads(b"\n".join(lines(path, digest)))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object of problems by id")
    rows: list[Any] = []
    for name, problem in content.items():
        if not isinstance(problem, dict):
            rows.append(problem)
            continue
        picture, split = problem.get("image"), problem.get("split", "test")
        rows.append({**problem, "id": str(name), "image": f"{split}/{name}/{picture}" if picture else None})
    return ListedRows(path, rows, digest.text)
