"""Files -> examples. Every reader yields an `Example`, or a `Skipped` that says why there is none."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from mmerank.errors import DataError, UsageError
from mmerank.files import regular_bytes
from mmerank.inputs.layouts import at_home, check_layout, located
from mmerank.inputs.pictures import Encoded
from mmerank.inputs.sources import inside, picture_source

# cc_sbu_align carries no instruction: MiniGPT-4's code draws one of four prompts at random. This is one of them.
MINIGPT_INSTRUCTION = "Describe this image in detail."
IMAGE_TAG = "<image>"
_ORIENTATION = 0x0112  # in EXIF
# Who speaks in a conversation, as LLaVA's data have it and as chats have it; in letters of any case.
_SPEAKERS = {"human": "human", "user": "human"} | dict.fromkeys(
    ("gpt", "assistant", "model", "bot", "chatgpt"), "gpt"
)


@dataclass(frozen=True, init=False)
class Example:
    """One sample: a picture with an instruction and a response, or a text alone (the response).

    Args:
        id: Text, or a whole number, which becomes text.
        image: A path or an address (`s3://...`); the content of a file; both as `datasets` keeps them,
            `{"bytes", "path"}`; an opened picture; or None.
        instruction: Text.
        response: Text.

    Attributes:
        id: Unique in its data set.
        image: A file, or the content of one, opened when it is needed; or a picture; None for text alone.
        instruction: What the model is asked; may be empty.
        response: What it should answer.

    Example:
        >>> Example(7, "photos/7.jpg", "What is this?", "A cat.").id
        '7'
    """

    id: str
    image: Path | Encoded | Image.Image | None
    instruction: str
    response: str

    def __init__(
        self,
        id: str | int,
        image: str | Path | Encoded | Image.Image | bytes | Mapping[str, Any] | None,
        instruction: str,
        response: str,
    ):
        # What is of another type stays as it is, and is skipped with the reason.
        source = picture_source(image)
        number = isinstance(id, Integral) and not isinstance(id, bool)
        values = {"id": str(int(id)) if number else id, "image": image if source is None else source}
        for name, value in {**values, "instruction": instruction, "response": response}.items():
            object.__setattr__(self, name, value)

    @property
    def text(self) -> str:
        """The text input: instruction and response, joined by a space.

        White space at the ends stays: the paper's hh-rlhf texts begin with two line breaks, which are tokens.
        """
        return " ".join(part for part in (self.instruction, self.response) if part)


@dataclass(frozen=True)
class Skipped:
    """An example that was left out, and why.

    Attributes:
        id: Of the example.
        reason: Why.
        suspect: What may be at fault in place of the example: `source`, the disk or network that did not give it;
            `model`, whose hidden states are not finite; or `transform`, a function of one's own that failed. Several
            in a row stop a run.
    """

    id: str
    reason: str
    suspect: Literal["source", "model", "transform"] | None = None


def first_reason(skipped: Sequence[Skipped]) -> str:
    """The end of a message that nothing is left.

    Args:
        skipped: What was left out.

    Returns:
        `; first: ID: REASON`, or nothing where there is none.
    """
    return f"; first: {skipped[0].id!r}: {skipped[0].reason}" if skipped else ""


@dataclass(frozen=True)
class DataSet:
    """A named sequence of examples, in the order of the file, with those that could not be read.

    Attributes:
        name: The DATA argument, or what it was named.
        fingerprint: Hash of the file's content, or the commit of a hub repository.
        entries: An `Example`, or a `Skipped` in its place.
        source: The DATA argument, where it was named otherwise.
    """

    name: str
    fingerprint: str
    entries: tuple[Example | Skipped, ...]
    source: str = ""

    def __iter__(self) -> Iterator[Example | Skipped]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True)
class DataStream:
    """A named sequence of examples that is read anew each time, from its source, and held nowhere.

    Attributes:
        name: What it is called.
        fingerprint: Hash of its first examples.
        read: Begins at the first example.
        source: Empty: no DATA argument names it.
    """

    name: str
    fingerprint: str
    read: Callable[[], Iterator[Example | Skipped]]
    source: str = ""

    def __iter__(self) -> Iterator[Example | Skipped]:
        return self.read()


def kept(examples: Iterable[Example | Skipped]) -> DataSet | DataStream | list[Example | Skipped]:
    """Examples that can be gone through more than once.

    Args:
        examples: Any.

    Returns:
        What has a name as it is, a list of everything else.
    """
    return examples if isinstance(examples, (DataSet, DataStream)) else list(examples)


def name_of(examples: Iterable[Example | Skipped]) -> str:
    """What tables call the data."""
    return examples.name if isinstance(examples, (DataSet, DataStream)) else "examples"


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
        question, answer = _exchange(turns)
        response = answer.strip()
        if not response:
            raise DataError("the response is empty")
        return Example(name, _inside(images, _picture(record)), question.replace(IMAGE_TAG, "").strip(), response)
    except DataError as error:
        return Skipped(name, str(error))


def _turns(record: dict[str, Any]) -> Any:
    """What is said in a record, under LLaVA's name or that of chats; None where there is nothing."""
    return record["conversations"] if "conversations" in record else record.get("messages")


def _exchange(turns: list[Any]) -> tuple[str, str]:
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
    return _value(turns[asked], "human"), _value(turns[answered], "gpt")


def _value(turn: dict[str, Any], speaker: str) -> str:
    value = turn.get("content") if turn.get("value") is None else turn["value"]
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        # The parts of a chat's message; its picture stands in the record.
        kinds = [part.get("type", "text") for part in value]
        if others := [name for name in kinds if name not in ("text", "image", "image_url")]:
            raise DataError(f"a part of the {speaker} turn is of type {others[0]!r:.40}, expected text or image")
        if (pictures := len(value) - kinds.count("text")) > 1:
            raise DataError(f"the {speaker} turn has {pictures} pictures, expected one")
        texts = [part.get("text") for part, name in zip(value, kinds, strict=True) if name == "text"]
        wrong = [text for text in texts if not isinstance(text, str)]
        value = wrong[0] if wrong else "\n".join(texts)
    if not isinstance(value, str):
        raise DataError(f"the {speaker} turn's value is {kind(value)}, expected text")
    return value


def _picture(record: dict[str, Any]) -> Any:
    """The name of a record's one picture, which may stand in a list."""
    stated = [key for key in ("image", "images") if key in record]
    if not stated:
        raise DataError("no image")
    if len(given := [key for key in stated if record[key] is not None]) > 1:
        raise DataError("both image and images, expected one of them")
    key = (given or stated)[0]
    value = record[key]
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise DataError(f"{key} lists {len(value)} pictures, expected one")
    return value[0]


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


def unique(entries: Iterable[Example | Skipped]) -> Iterator[Example | Skipped]:
    """The entries, with every example but the first of an id skipped.

    Args:
        entries: In order.

    Yields:
        One entry for each.
    """
    taken: set[str] = set()
    for entry in map(_checked, entries):
        if isinstance(entry, Example) and entry.id in taken:
            yield Skipped(entry.id, "the id occurs twice; the first record is kept")
            continue
        if isinstance(entry, Example):
            taken.add(entry.id)
        yield entry


def _checked(entry: Example | Skipped) -> Example | Skipped:
    """The entry, or why a tokenizer or a table could not take it."""
    _require_entry(entry)
    if isinstance(entry, Skipped):
        return entry
    fields = {"id": entry.id, "instruction": entry.instruction, "response": entry.response}
    for name, value in fields.items():
        if not isinstance(value, str):
            return Skipped(str(entry.id), f"the {name} is {kind(value)}, expected text")
        if not value.isascii() and value != value.encode("utf-8", "replace").decode():
            shown = entry.id.encode("utf-8", "replace").decode()
            return Skipped(shown, f"the {name} holds half of a surrogate pair, which is no character")
    if isinstance(entry.image, (list, tuple)) and len(entry.image) > 1:
        return Skipped(entry.id, f"it has {len(entry.image)} pictures; examples with one are measured")
    if not isinstance(entry.image, (Path, Image.Image, Encoded, type(None))):
        return Skipped(entry.id, f"the image is {kind(entry.image)}, expected a path, a file's content or a picture")
    return entry


def _require_entry(entry: object) -> None:
    if not isinstance(entry, (Example, Skipped)):
        raise TypeError(
            f"expected mmerank.Example objects, got {type(entry).__name__} among them; Example(ID, IMAGE, "
            "INSTRUCTION, RESPONSE) makes one, with None as the image of a text; mmerank.load_data(DATA) reads them"
        )


def check_usable(data: DataSet, *, pictures: bool) -> None:
    """Refuse data of which no example can be measured, before a model is loaded.

    Args:
        data: All of it.
        pictures: Whether examples need a picture beside their text.

    Raises:
        DataError: Every record was skipped, none has text, or none a picture where they are needed.
    """
    usable = [entry for entry in data if isinstance(entry, Example)]
    if not usable:
        skipped = [entry for entry in data if isinstance(entry, Skipped)]
        raise DataError(f"{data.name}: no example can be used, {len(data)} skipped{first_reason(skipped)}")
    if not any(example.text for example in usable):
        raise DataError(f"{data.name}: none of its {len(usable)} examples has text")
    if pictures and all(example.image is None for example in usable):
        raise DataError(
            f"{data.name}: texts without pictures; `mmerank diff` measures language models on them, and what is "
            "asked for here needs image-text pairs, as llava:FILE.json, minigpt:DIR or demo"
        )


def check_examples(examples: object) -> None:
    """Refuse what cannot be examples before a model runs.

    Args:
        examples: What was given for them.

    Raises:
        TypeError: It is text, or no iterable.
    """
    if hint := of_rows(examples):
        raise TypeError(f"expected mmerank.Example objects, got {hint}")
    if isinstance(examples, (str, bytes, Path)) or not isinstance(examples, Iterable):
        raise TypeError(
            f"expected mmerank.Example objects, got {type(examples).__name__}; mmerank.load_data(DATA) reads them"
        )


def of_rows(data: object) -> str:
    """What a table in memory is, and how its rows become examples: nothing says which of its columns is which.

    Args:
        data: A table of datasets, pandas, polars or pyarrow, or splits of such tables by name; or anything else.

    Returns:
        The end of a message; empty of what is no table.
    """
    kind = type(data).__name__
    if isinstance(data, Mapping):
        splits = [str(name) for name, of in data.items() if of_rows(of)]
        return f"{kind}, tables by name: {', '.join(splits)}; choose one of them" if splits else ""
    named = getattr(data, "column_names", getattr(data, "columns", None))
    if isinstance(data, DataSet) or (named is None and not type(data).__module__.startswith("datasets.")):
        return ""
    columns = f" of the columns {', '.join(map(str, named))}" if named is not None and len(named) else ""
    known = kind in ("DataFrame", "Dataset", "IterableDataset") and type(data).__module__.split(".")[0] != "polars"
    way = next((f".{way}()" for way in ("to_pandas", "toPandas") if hasattr(data, way) and not known), "")
    return (
        f"{kind}, a table{columns}; mmerank.load_data(DATA{way}, image=COLUMN, response=COLUMN, instruction=COLUMN) "
        'makes examples of its rows, without image= of texts alone, with instruction="" of captions alone'
    )


def fingerprint(examples: Iterable[Example | Skipped]) -> str:
    """What a run folder knows data by: the data set's own fingerprint, else a hash of ids, texts and pictures.

    Args:
        examples: In order; read to the end unless it is a `DataSet` or `DataStream`.

    Returns:
        16 hexadecimal digits, or the data set's fingerprint.
    """
    if isinstance(examples, (DataSet, DataStream)):
        return examples.fingerprint
    digest = hashlib.sha256()
    for entry in examples:
        _require_entry(entry)
        if isinstance(entry, Skipped):
            digest.update(repr((entry.id, entry.reason)).encode())
            continue
        named = entry.image.name if isinstance(entry.image, Encoded) else entry.image
        picture = _picture_in_memory(entry.image) or (None if named is None else str(named))
        digest.update(repr((entry.id, picture, entry.instruction, entry.response)).encode())
    return digest.hexdigest()[:16]


def _picture_in_memory(image: Path | Encoded | Image.Image | None) -> tuple[Any, ...] | None:
    """Its content; None of what is yet to be read, and looked at when it is measured."""
    if not isinstance(image, Image.Image):
        return None
    try:
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
    except Exception:  # opened late, and damaged: skipped with its reason when it is measured
        return image.size, image.mode
    content = (image.size, image.mode, pixels)
    beside = (image.getpalette(), image.info.get("transparency"), image.getexif().get(_ORIENTATION))
    return content if beside == (None, None, None) else (*content, beside)


def chosen(examples: Iterable[Example | Skipped], limit: int | None, seed: int | None) -> Iterable[Example | Skipped]:
    """The first `limit` entries, or with a seed that many drawn by `random.Random(seed).sample`.

    Args:
        examples: In order.
        limit: How many; None for all.
        seed: None for the first ones.

    Returns:
        The entries.

    Raises:
        UsageError: `limit` is below 1, or there is a seed without a limit, or a stream to be read whole for it.
    """
    check_sample(limit, seed)
    if limit is None:
        return examples
    if seed is None:
        # No further: what comes behind may have no end.
        return islice(examples, limit) if isinstance(examples, DataStream) else list(islice(examples, limit))
    if isinstance(examples, DataStream):
        raise UsageError(
            f"{examples.name}: a sample by a seed would read the stream to its end; shuffle the stream itself, with "
            "its own shuffle(seed=..., buffer_size=...), and take the first of it by limit alone"
        )
    listed = list(examples)
    return random.Random(seed).sample(listed, min(limit, len(listed)))


def held(examples: Iterable[Example | Skipped], limit: int | None, seed: int | None) -> list[Example | Skipped]:
    """The examples that `chosen` chooses, for a job that must have all of them at once.

    Args:
        examples: In order.
        limit: See `chosen`.
        seed: See `chosen`.

    Returns:
        The entries.

    Raises:
        UsageError: As of `chosen`; or it is a stream, and nothing says where to stop.
    """
    if isinstance(examples, DataStream) and limit is None:
        raise UsageError(
            f"{examples.name}: this job holds all its examples in memory, and a stream may have no end; give a "
            "limit, or the first of it, as list(itertools.islice(DATA, 1000))"
        )
    return list(chosen(examples, limit, seed))


def check_sample(limit: int | None, seed: int | None) -> None:
    """Refuse a choice of examples that cannot be made.

    Args:
        limit: See `chosen`.
        seed: See `chosen`.

    Raises:
        UsageError: As of `chosen`.
    """
    if limit is None and seed is not None:
        raise UsageError(f"seed {seed} draws a sample, so it needs a limit")
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, got {limit}")


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


def kind(value: Any) -> str:
    """What a JSON value is, in words, for messages."""
    names = {type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "text",
             list: "a list", dict: "an object"}  # fmt: skip
    name = names.get(type(value), type(value).__name__)
    shown = f" ({value!r:.40})" if isinstance(value, (int, float, str)) else ""
    return name + shown
