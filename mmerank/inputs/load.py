"""A DATA argument -> a data set: the table of everything that can be named."""

from __future__ import annotations

from pathlib import Path

from mmerank.errors import DataError, UsageError, did_you_mean
from mmerank.inputs import example as inputs
from mmerank.inputs import text_sets as texts
from mmerank.inputs.example import DataSet
from mmerank.inputs.hub import hub
from mmerank.inputs.table_files import JSON_LINES

FORMS = (
    "llava:FILE.json[?images=DIR]",
    "minigpt:DIR",
    "text:FILE",
    "text:FILE.jsonl#FIELD",
    "hub:OWNER/NAME[/CONFIG][:SPLIT]#COLUMN",
    "hub:OWNER/NAME[/CONFIG][:SPLIT]?image=COLUMN&response=COLUMN[&instruction=COLUMN]",
    *(f"{name}[:PATH]" for name in texts.SETS),
    "detail_23k:FILE.json[?images=DIR]",
    "cc_sbu_align:DIR",
    "demo",
)

_READERS = {
    "llava": inputs.llava,
    "minigpt": inputs.minigpt,
    "text": texts.text,
    "hub": hub,
    "detail_23k": inputs.llava,
    "cc_sbu_align": inputs.minigpt,
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


def load_data(data: str, *, pipe: bool = True) -> DataSet:
    """The examples that a DATA argument names.

    `llava:FILE.json[?images=DIR]`: a list of LLaVA conversations (detail_23k), or one in each line: the first human
    turn is the instruction, without its <image> tag, and the answer to it the response. Pictures are in `images/`
    beside the file, or in DIR.
    `minigpt:DIR`: cc_sbu_align: `filter_cap.json` and `image/ID.jpg`; the instruction is always "Describe this
    image in detail.".
    `text:FILE`: one text per line; `text:FILE.jsonl#FIELD`, `text:FILE.parquet#COLUMN`: one per row; each also
    with .gz. Rows of JSON may also stand in a list. See `mmerank.inputs.text_sets.text`.
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

    Of `text:` and `hub:`, texts that occurred before are skipped, so that a text does not count twice by accident;
    `?duplicates=keep` keeps them. The paper's data sets and image-text pairs keep them always.

    Args:
        data: One of the forms above.
        pipe: Whether `text:FILE` may be a pipe, as of `text:<(command)`. Every other file must be a regular one.

    Returns:
        The data set. Records that cannot be used stand in it as `Skipped`.

    Raises:
        UsageError: The form is none of those above.
        DataError: The data are missing, cannot be reached, or have another schema.
        TypeError: It is not text: a table in memory, for example, or examples, which are measured as they are.
    """
    if not isinstance(data, str):
        raise TypeError(f"load_data: expected text, as 'text:FILE', got {_no_text(data)}")
    name, _, rest = data.partition(":")
    if data == "demo":
        from mmerank.inputs import demo as demo

        return DataSet("demo", demo.FINGERPRINT, tuple(demo.examples()))
    if name in texts.SETS and (rest or data == name):
        return texts.text_set(data, rest)
    if data in _TO_DOWNLOAD:
        raise DataError(f"{data} cannot be fetched with its pictures: {_TO_DOWNLOAD[data]}")
    if name not in _READERS or not rest:
        meant = (
            ""
            if name in _READERS
            else did_you_mean(name.strip().lower(), ("demo", *texts.SETS, *_READERS)) or _as_path(data)
        )
        raise UsageError(f"unknown data {data!r}" + (meant or f"; known: {', '.join(FORMS)}"))
    if name == "text":
        return texts.text(data, rest, pipe=pipe)
    return _READERS[name](data, rest)


def _no_text(data: object) -> str:
    """What was given in the place of a DATA argument, and what to do with it."""
    if isinstance(data, Path):
        return f"the path {data}" + (_as_path(str(data)) or "; write 'llava:FILE.json', 'minigpt:DIR' or 'text:FILE'")
    if rows := inputs.of_rows(data):
        return rows
    kind = type(data).__name__
    entries = list(data) if isinstance(data, (DataSet, list, tuple)) else []
    if entries and all(isinstance(entry, (inputs.Example, inputs.Skipped)) for entry in entries):
        return f"{kind} of examples, which mmerank.align, perturb and diff take as they are"
    return f"{kind}; known: {', '.join(FORMS)}"


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
    kind = path.name.lower().removesuffix(".gz")
    ways = [f"llava:{data}"] if kind.endswith(".json") else []
    ways.append(f"text:{data}" + ("#FIELD" if kind.endswith((*JSON_LINES, ".parquet")) else ""))
    return f", a file; say how it is read: {', or '.join(ways)}"
