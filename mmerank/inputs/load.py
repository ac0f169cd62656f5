"""A DATA argument -> a data set: the table of everything that can be named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from mmerank.errors import DataError, UsageError, did_you_mean
from mmerank.inputs import manifests
from mmerank.inputs import text_sets as texts
from mmerank.inputs.columns import Columns
from mmerank.inputs.example import DataSet, DataStream, Example, Skipped, of_rows
from mmerank.inputs.hub import hub, hub_argument
from mmerank.inputs.in_memory import from_memory, is_table
from mmerank.inputs.layouts import located, unpacked_name
from mmerank.inputs.pair_files import KINDS, pair_file
from mmerank.inputs.remote import is_address
from mmerank.inputs.table_files import JSON_LINES

FORMS = (
    "llava:FILE.json[?images=DIR]",
    "minigpt:DIR",
    "text:FILE",
    "text:FILE.jsonl#FIELD",
    "csv:FILE?image=COLUMN&response=COLUMN&instruction=COLUMN[&images=DIR]",
    "jsonl:FILE?...",
    "parquet:FILE?...",
    "saved:FOLDER?...",
    "webdataset:FILES?...",
    "hub:OWNER/NAME[/CONFIG][:SPLIT]#COLUMN",
    "hub:OWNER/NAME[/CONFIG][:SPLIT]?image=COLUMN&response=COLUMN[&instruction=COLUMN]",
    *(f"{name}[:PATH]" for name in texts.SETS),
    "detail_23k:FILE.json[?images=DIR]",
    "cc_sbu_align:DIR",
    "demo",
)

_READERS = {
    "llava": manifests.llava,
    "minigpt": manifests.minigpt,
    "text": texts.text,
    **dict.fromkeys(KINDS, pair_file),
    "hub": hub,
    "detail_23k": manifests.llava,
    "cc_sbu_align": manifests.minigpt,
}

# Neither is on the hub with its pictures in a form that can be read row by row.
_TO_DOWNLOAD = {
    "detail_23k": (
        "download detail_23k.json from the data set liuhaotian/LLaVA-Instruct-150K of the Hugging Face hub, and the "
        "pictures train2017.zip from COCO's site; unpacked, they are llava:detail_23k.json?images=train2017"
    ),
    "cc_sbu_align": (
        "download and unpack the archive that dataset/README_2_STAGE.md of the MiniGPT-4 code links to (it is also "
        "the data set Vision-CAIR/cc_sbu_align of the Hugging Face hub); the folder that holds filter_cap.json and "
        "image/ is minigpt:cc_sbu_align"
    ),
}


@overload
def load_data(
    data: str,
    *,
    image: str | None = None,
    response: str | None = None,
    instruction: str | None = None,
    id: str | None = None,
    name: str | None = None,
    pipe: bool = True,
) -> DataSet: ...
@overload
def load_data(
    data: Any,
    *,
    image: str | None = None,
    response: str | None = None,
    instruction: str | None = None,
    id: str | None = None,
    name: str | None = None,
    pipe: bool = True,
) -> DataSet | DataStream: ...
def load_data(
    data: Any,
    *,
    image: str | None = None,
    response: str | None = None,
    instruction: str | None = None,
    id: str | None = None,
    name: str | None = None,
    pipe: bool = True,
) -> DataSet | DataStream:
    """The examples that a DATA argument names, or those in a table, by the names of its columns.

    `llava:FILE.json[?images=DIR]`: a list of LLaVA conversations (detail_23k), or one in each line: the first human
    turn is the instruction, without its <image> tag, and the answer to it the response. Pictures are in `images/`
    beside the file, or in DIR.
    `minigpt:DIR`: cc_sbu_align: `filter_cap.json` and `image/ID.jpg`; the instruction is always "Describe this
    image in detail.".
    `csv:FILE`, `jsonl:FILE`, `parquet:FILE`, `saved:FOLDER`, `webdataset:FILES`, with columns: see
    `mmerank.inputs.pair_files.pair_file`. Addresses (`s3://...`) stand in the place of paths.
    `text:FILE`: one text per line; `text:FILE.jsonl#FIELD`, `text:FILE.parquet#COLUMN`: one per row; each also
    with .gz or .zst. Rows of JSON may also stand in a list. See `mmerank.inputs.text_sets.text`.
    `hub:OWNER/NAME[/CONFIG][:SPLIT]#COLUMN`, `hub:...?image=COLUMN&response=COLUMN`: any data set of the Hugging
    Face hub that needs no loading script. See `mmerank.inputs.hub.hub`.
    `dolly-15k`, `hh-rlhf`, `wikipedia`, `openwebtext2`, `openbookqa`, `piqa`, `winogrande`: the paper's text sets
    with its selection, from the hub; `NAME:PATH` reads a local copy: a .jsonl, .jsonl.gz or .parquet file, or a
    folder laid out like the repository. See `mmerank.inputs.text_sets`.
    `detail_23k:FILE.json`, `cc_sbu_align:DIR`: the same as `llava:` and `minigpt:`; the bare names say what to
    download.
    `demo`: generated pictures.

    Paths may begin with `~`; a file is meant whose whole name has `?` or `#` in it. What is data of another layout
    (a table of commas, a saved data set, an archive) is refused by its name.

    Texts without pictures that occurred before are skipped, so that a text does not count twice by accident;
    `?duplicates=keep` keeps them. The paper's data sets and image-text pairs keep them always.

    Args:
        data: One of the forms above; or a `datasets.Dataset`, an `IterableDataset`, a `pandas.DataFrame`, or a list
            of dictionaries. In memory, a picture is a path, an address, the content of a file, both as `datasets`
            keeps them, or an opened picture.
        image: The column of the pictures; without it the examples are texts. Of a DATA argument this and the next
            three are the options of their names behind its `?`.
        response: The column of the answers, captions or texts.
        instruction: The column of what the model is asked; "" for none, which pairs must say.
        id: The column of ids, text or whole numbers. Default: `id` where there is one, else rows are numbered from 1.
        name: What tables call the data. Default: the DATA argument, or what the table is.
        pipe: Whether `text:FILE` may be a pipe, as of `text:<(command)`. Every other file must be a regular one.

    Returns:
        The data set. Records that cannot be used stand in it as `Skipped`. Of an `IterableDataset` a stream of such
        entries, of which none is held.

    Raises:
        UsageError: The form is none of those above, or has no columns.
        DataError: The data are missing, cannot be reached, or have another schema; a column is not there, or it is
            not said whether there is an instruction.
        TypeError: It is neither text nor a table: examples, for example, which are measured as they are.

    Example:
        >>> rows = [{"file": "a.png", "caption": "A cat."}, {"file": "b.png", "caption": "A dog."}]
        >>> sorted(example.text for example in load_data(rows, image="file", response="caption", instruction=""))
        ['A cat.', 'A dog.']
    """
    columns = Columns(image, response, instruction, id)
    if name is not None and (not isinstance(name, str) or not name.strip() or not name.isprintable()):
        raise UsageError(f"name: expected text on one line, got {name!r:.100}")
    if is_table(data):
        return from_memory(data, columns, name)
    if not isinstance(data, str):
        raise TypeError(f"load_data: expected text, as 'text:FILE', or a table, got {_no_text(data)}")
    argument = check_form(data, columns)
    found = _load(argument, pipe)
    return found if name is None else replace(found, name=name, source=argument)


def check_form(data: str, columns: Columns) -> str:
    """Refuse a DATA argument that is none, without a look at the data.

    Args:
        data: It.
        columns: Which are named beside it.

    Returns:
        It, with the columns in it.

    Raises:
        UsageError: The form is none of those that `load_data` knows, or has no columns.
    """
    argument = _with_columns(data, columns)
    name, _, rest = argument.partition(":")
    whole = argument == "demo" or argument in (*texts.SETS, *_TO_DOWNLOAD)
    if not whole and (name not in (*_READERS, *texts.SETS) or not rest):
        meant = (
            ""
            if name in _READERS
            else did_you_mean(name.strip().lower(), ("demo", *texts.SETS, *_READERS)) or _as_path(argument)
        )
        raise UsageError(f"unknown data {argument!r}" + (meant or f"; known: {', '.join(FORMS)}"))
    if name == "hub":
        hub_argument(argument, rest)
    return argument


def _load(data: str, pipe: bool) -> DataSet:
    name, _, rest = data.partition(":")
    if data == "demo":
        from mmerank.inputs import demo as demo

        return DataSet("demo", demo.FINGERPRINT, tuple(demo.examples()))
    if name in texts.SETS:
        return texts.text_set(data, rest)
    if data in _TO_DOWNLOAD:
        raise DataError(f"{data} cannot be fetched with its pictures: {_TO_DOWNLOAD[data]}")
    if name == "text":
        return texts.text(data, rest, pipe=pipe)
    return _READERS[name](data, rest)


def _with_columns(data: str, columns: Columns) -> str:
    """The DATA argument that says by itself which column is which, so that a run folder has all of it."""
    given = columns.stated
    name, _, rest = data.partition(":")
    if not given:
        return data
    if name not in (*KINDS, "hub"):
        if name not in _READERS and (meant := _as_path(data)):
            raise UsageError(f"unknown data {data!r}{meant}")
        raise UsageError(
            f"{data!r}: {', '.join(given)} name columns, which only {', '.join(f'{kind}:' for kind in KINDS)} "
            "and hub: have; of text: the column stands behind a #"
        )
    for value in given.values():
        if "&" in value or (name == "hub" and "#" in value):
            raise UsageError(
                f"{data!r}: the name {value!r} holds a sign that a DATA argument has for itself; rename it"
            )
    behind = ""
    if name == "hub":
        rest, mark, column = rest.partition("#")
        behind = mark + column
    stated = rest.partition("?")[2] if name == "hub" or is_address(rest) else located(rest, "?")[1][1:]
    if twice := [of for of in given if any(option.startswith(f"{of}=") for option in stated.split("&"))]:
        raise UsageError(f"{data!r}: names {twice[0]} already; name it once")
    joined = "&" if stated else "?"
    options = "&".join(f"{of}={value}" for of, value in given.items())
    return f"{name}:{rest}{joined}{options}{behind}"


def _no_text(data: object) -> str:
    """What was given in the place of a DATA argument, and what to do with it."""
    if isinstance(data, Path):
        return f"the path {data}" + (_as_path(str(data)) or "; write 'llava:FILE.json', 'minigpt:DIR' or 'text:FILE'")
    if rows := of_rows(data):
        return rows
    kind = type(data).__name__
    entries = list(data) if isinstance(data, (DataSet, list, tuple)) else []
    if entries and all(isinstance(entry, (Example, Skipped)) for entry in entries):
        return f"{kind} of examples, which mmerank.align, perturb and diff take as they are"
    if entries and all(isinstance(entry, str) for entry in entries):
        return f"{kind} of texts; load_data([{{'text': of}} for of in DATA], response='text') takes them"
    if isinstance(data, Mapping):
        return f"{kind}; of columns, pandas.DataFrame(DATA) makes a table"
    return (
        f"{kind}; a table is a DataFrame, a datasets.Dataset or a list of dictionaries; whatever else there is "
        "becomes mmerank.Example objects, which mmerank.align, perturb and diff take as they are"
    )


def _as_path(data: str) -> str:
    """The end of a message about a path that was given without saying how it is read."""
    path = Path(data)
    if not path.exists():
        return ""
    if path.is_dir():
        ways = [f"llava:{file}" for file in sorted(path.glob("*.json"))[:3]]
        if (path / "filter_cap.json").is_file():
            ways = [f"minigpt:{data}"]
        named = ", ".join(ways) or "minigpt:DIR, or NAME:DIR for a set of the paper"
        return f", a folder; say how it is read: {named}"
    kind = unpacked_name(path.name)
    pairs = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".tar": "webdataset", ".jsonl": "jsonl"}
    ways = [f"llava:{data}"] if kind.endswith(".json") else []
    ways += [f"{way}:{data}?image=COLUMN&response=COLUMN" for end, way in pairs.items() if kind.endswith(end)]
    if not kind.endswith((".csv", ".tsv", ".tar")):
        ways.append(f"text:{data}" + ("#FIELD" if kind.endswith((*JSON_LINES, ".parquet")) else ""))
    return f", a file; say how it is read: {', or '.join(ways)}"
