"""LLaVA's and MiniGPT-4's files -> examples. Each entry is an `Example`, or a `Skipped` that says why not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mmerank.errors import DataError, UsageError
from mmerank.files import regular_bytes
from mmerank.inputs.example import IMAGE_TAG, DataSet, Example, Skipped, kind, unique
from mmerank.inputs.layouts import at_home, check_layout, located
from mmerank.inputs.placeholders import without_placeholder
from mmerank.inputs.sources import inside

# cc_sbu_align carries no instruction: MiniGPT-4's code draws one of four prompts at random. This is one of them.
MINIGPT_INSTRUCTION = "Describe this image in detail."
# Who speaks in a conversation, as LLaVA's data have it and as chats have it; in letters of any case.
_SPEAKERS = {"human": "human", "user": "human"} | dict.fromkeys(
    ("gpt", "assistant", "model", "bot", "chatgpt"), "gpt"
)


def llava(data: str, rest: str) -> DataSet:
    """The examples of `llava:FILE.json[?images=DIR]`; FILE may also hold a record in each line.

    Args:
        data: The whole DATA argument.
        rest: What stands behind `llava:`.

    Returns:
        The data set.

    Raises:
        DataError: The manifest is missing, is not JSON, or has another schema.
    """
    manifest, images = llava_files(data, rest)
    records, fingerprint = _read_json(manifest)
    if isinstance(records, dict) and _turns(records) is not None:
        records = [records]
    if not isinstance(records, list) or not any(isinstance(r, dict) and _turns(r) is not None for r in records):
        raise DataError(
            f"{manifest}: expected a JSON list of records with id, image and conversations, {_got(records)}"
        )
    entries = (_llava_entry(record, i, images) for i, record in enumerate(records))
    return DataSet(data, fingerprint, tuple(unique(entries)))


def llava_files(data: str, rest: str) -> tuple[Path, Path]:
    """The manifest and the image folder of `llava:FILE.json[?images=DIR]`, whether or not they exist.

    Args:
        data: The whole DATA argument.
        rest: What stands behind `llava:`.

    Returns:
        Their paths.

    Raises:
        UsageError: There is another option.
    """
    manifest, query = located(rest, "?")
    stated = query.removeprefix("?")
    # A folder may have a name with an ampersand.
    whole = stated.removeprefix("images=") if stated.startswith("images=") else ""
    options = {"images": whole} if whole and at_home(whole).is_dir() else options_of(stated, ("images",), data)
    return manifest, at_home(options["images"]) if "images" in options else manifest.parent / "images"


def minigpt(data: str, rest: str) -> DataSet:
    """The examples of `minigpt:DIR`.

    Args:
        data: The whole DATA argument.
        rest: What stands behind `minigpt:`.

    Returns:
        The data set.

    Raises:
        DataError: The manifest is missing, is not JSON, or has another schema.
    """
    folder = at_home(rest)
    if folder.is_file():
        raise DataError(f"{folder}: is a file, expected the folder that holds filter_cap.json and image/")
    if not (manifest := folder / "filter_cap.json").is_file():
        check_layout(folder, folder=True)
    content, fingerprint = _read_json(manifest)
    records = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise DataError(
            f'{manifest}: expected a JSON object {{"annotations": [{{"image_id", "caption"}}, ...]}}, {_got(content)}'
        )
    entries = (_minigpt_entry(record, i, folder / "image") for i, record in enumerate(records))
    return DataSet(data, fingerprint, tuple(unique(entries)))


def options_of(
    query: str, known: tuple[str, ...], data: str, *, may_be_empty: tuple[str, ...] = ()
) -> dict[str, str]:
    """The options behind the question mark of a DATA argument.

    Args:
        query: `NAME=VALUE`, joined by `&`.
        known: Names that may stand there.
        data: The whole argument, for the message.
        may_be_empty: Those of them for which nothing, as in `NAME=`, is a value.

    Returns:
        Name -> value.

    Raises:
        UsageError: A name is unknown, or has no value.
    """
    # Not decoded as in a URL: a folder may hold a plus or a percent sign.
    options = {name: value for name, _, value in (option.partition("=") for option in query.split("&") if option)}
    if unknown := sorted(set(options) - set(known)):
        raise UsageError(f"unknown option {unknown[0]!r} in {data!r}; known: {', '.join(known)}")
    if empty := [name for name, value in options.items() if not value and name not in may_be_empty]:
        raise UsageError(f"option {empty[0]!r} in {data!r} has no value")
    return options


def _llava_entry(record: Any, index: int, images: Path) -> Example | Skipped:
    if isinstance(record, DataError):
        return Skipped(f"#{index}", str(record))
    if not isinstance(record, dict):
        return Skipped(f"#{index}", f"record is {kind(record)}, expected an object")
    name = f"#{index}" if record.get("id") is None else _name(record["id"], index)
    try:
        turns = _turns(record)
        if not isinstance(turns, list):
            raise DataError("no list of conversations" if turns is None else f"conversations is {kind(turns)}")
        question, answer = _exchange(turns, several=_several(record))
        response = answer.strip()
        if not response:
            raise DataError("the response is empty")
        pictures = [_inside(images, picture) for picture in _pictures(record)]
        if len(pictures) > 1:
            return without_placeholder((IMAGE_TAG,), Example(name, pictures, question.strip(), response))
        return Example(name, pictures, question.replace(IMAGE_TAG, "").strip(), response)
    except DataError as error:
        return Skipped(name, str(error))


def _turns(record: dict[str, Any]) -> Any:
    """What is said in a record, under LLaVA's name or that of chats; None where there is nothing."""
    return record["conversations"] if "conversations" in record else record.get("messages")


def _exchange(turns: list[Any], *, several: bool) -> tuple[str, str]:
    """The first human turn and the answer to it, whatever was said before: a greeting, a system prompt."""
    if others := [turn for turn in turns if not isinstance(turn, dict)]:
        raise DataError(f"a turn in conversations is {kind(others[0])}, expected an object")
    names = [turn["from"] if "from" in turn else turn.get("role") for turn in turns]
    speakers = [_SPEAKERS.get(name.lower()) if isinstance(name, str) else None for name in names]
    found = f"; its turns are from {', '.join(map(repr, dict.fromkeys(map(str, names))))}" if names else ""
    if "human" not in speakers:
        raise DataError(f"no turn from 'human' in conversations{found}")
    asked = speakers.index("human")
    if "gpt" not in speakers[asked:]:
        raise DataError(f"no turn from 'gpt' behind the first from 'human' in conversations{found}")
    answered = speakers.index("gpt", asked)
    if answered != asked + 1:
        between = ", ".join(map(repr, map(str, names[asked + 1 : answered])))
        raise DataError(f"between the first turn from 'human' and the answer there are others, from {between}")
    return _value(turns[asked], "human", several=several), _value(turns[answered], "gpt")


def _value(turn: dict[str, Any], speaker: str, *, several: bool = False) -> str:
    value = turn.get("content") if turn.get("value") is None else turn["value"]
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        # The parts of a chat's message; its picture stands in the record.
        kinds = [part.get("type", "text") for part in value]
        if others := [name for name in kinds if name not in ("text", "image", "image_url")]:
            raise DataError(f"a part of the {speaker} turn is of type {others[0]!r:.40}, expected text or image")
        if (pictures := len(value) - kinds.count("text")) > 1 and not several:
            raise DataError(f"the {speaker} turn has {pictures} pictures, expected one")
        texts = [
            part.get("text") if name == "text" else IMAGE_TAG
            for part, name in zip(value, kinds, strict=True)
            if name == "text" or several
        ]
        wrong = [text for text in texts if not isinstance(text, str)]
        value = wrong[0] if wrong else "\n".join(texts)
    if not isinstance(value, str):
        raise DataError(f"the {speaker} turn's value is {kind(value)}, expected text")
    return value


def _several(record: dict[str, Any]) -> bool:
    """Whether a record lists more than one picture."""
    return any(isinstance(record.get(key), list) and len(record[key]) > 1 for key in ("image", "images"))


def _pictures(record: dict[str, Any]) -> list[Any]:
    """The names of a record's pictures, of which one need not stand in a list."""
    stated = [key for key in ("image", "images") if key in record]
    if not stated:
        raise DataError("no image")
    if len(given := [key for key in stated if record[key] is not None]) > 1:
        raise DataError("both image and images, expected one of them")
    key = (given or stated)[0]
    value = record[key]
    if value == []:
        raise DataError(f"{key} lists no picture")
    return value if isinstance(value, list) else [value]


def _minigpt_entry(record: Any, index: int, images: Path) -> Example | Skipped:
    if not isinstance(record, dict) or "image_id" not in record:
        return Skipped(f"#{index}", "record without image_id")
    name = _name(record["image_id"], index)
    try:
        caption = record.get("caption")
        if not isinstance(caption, str):
            raise DataError(f"the caption is {kind(caption)}, expected text")
        if not caption.strip():
            raise DataError("the caption is empty")
        return Example(name, _inside(images, f"{name}.jpg"), MINIGPT_INSTRUCTION, caption.strip())
    except DataError as error:
        return Skipped(name, str(error))


def _name(value: Any, index: int) -> str:
    """An id as text; of a list or an object, which may be of any size, the place in the file."""
    return f"#{index}" if isinstance(value, (list, dict)) else str(value)


def _inside(folder: Path, name: Any) -> Path:
    """The file `name` in `folder`, refused if it lies elsewhere."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"image is {kind(name)}, expected a file name")
    return inside(folder, name)


def _read_json(path: Path) -> tuple[Any, str]:
    """The value in a file, or a list of those in its lines; and a hash of the file."""
    check_layout(path, unpacks=False)
    try:
        content = regular_bytes(path)
        fingerprint = hashlib.sha256(content).hexdigest()[:16]
        try:
            return json.loads(content), fingerprint
        except ValueError:
            if (records := _lines(content)) is None:
                raise
            return records, fingerprint
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # not JSON, not UTF-8, or a number of too many digits
        raise DataError(f"{path}: not valid JSON ({error})") from None
    except RecursionError:
        raise DataError(f"{path}: not a manifest (JSON nested too deeply)") from None
    except MemoryError:
        size = f"{path.stat().st_size / 1e9:.1f} GB"
        raise DataError(
            f"{path}: {size} of JSON are too much for the memory there is; cut it into several files, or use text:, "
            "which reads lines of JSON one by one"
        ) from None


def _lines(content: bytes) -> list[Any] | None:
    """The records of JSON lines, a `DataError` for one that cannot be read; None where the first is no object."""
    records: list[Any] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            records.append(DataError(f"line {number}: not valid JSON ({error})"))
        if not isinstance(records[0], dict):
            return None
    return records if len(records) > 1 else None


def _got(content: Any) -> str:
    if isinstance(content, dict):
        hint = "; minigpt:DIR reads a folder with such a filter_cap.json" if "annotations" in content else ""
        return f"got an object with the keys {_keys(content) or 'none'}{hint}"
    if isinstance(content, list):
        first = content[0] if content else None
        keys = f" with the keys {_keys(first)}" if isinstance(first, dict) else ""
        hint = "; llava:FILE.json reads such a list" if isinstance(first, dict) and _turns(first) is not None else ""
        return f"got a list of {len(content)}" + (f", the first {kind(first)}{keys}{hint}" if content else "")
    return f"got {kind(content)}"


def _keys(content: dict[str, Any]) -> str:
    return ", ".join(f"{key!r:.40}" for key in list(content)[:5])
