"""Files -> examples. Every reader yields an `Example`, or a `Skipped` that says why there is none."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from mmerank.errors import DataError, UsageError
from mmerank.files import content_of
from mmerank.images import Encoded

# cc_sbu_align carries no instruction: MiniGPT-4's code draws one of four prompts at random. This is one of them.
MINIGPT_INSTRUCTION = "Describe this image in detail."
IMAGE_TAG = "<image>"


@dataclass(frozen=True)
class Example:
    """One sample: a picture with an instruction and a response, or a text alone (the response).

    Attributes:
        id: Unique in its data set.
        image: A file, or the content of one, opened when it is needed; or a picture; None for text alone.
        instruction: What the model is asked; may be empty.
        response: What it should answer.
    """

    id: str
    image: Path | Encoded | Image.Image | None
    instruction: str
    response: str

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
        suspect: What may be at fault in place of the example: `source`, the disk or network that did not give it, or
            `model`, whose hidden states are not finite. Several in a row stop a run.
    """

    id: str
    reason: str
    suspect: Literal["source", "model"] | None = None


@dataclass(frozen=True)
class DataSet:
    """A named sequence of examples, in the order of the file, with those that could not be read.

    Attributes:
        name: The DATA argument.
        fingerprint: Hash of the file's content, or the commit of a hub repository.
        entries: An `Example`, or a `Skipped` in its place.
    """

    name: str
    fingerprint: str
    entries: tuple[Example | Skipped, ...]

    def __iter__(self) -> Iterator[Example | Skipped]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def llava(data: str, rest: str) -> DataSet:
    """The examples of `llava:FILE.json[?images=DIR]`.

    Args:
        data: The whole DATA argument.
        rest: What stands behind `llava:`.

    Returns:
        The data set.

    Raises:
        DataError: The manifest is missing, is not JSON, or has another schema.
    """
    location, _, query = rest.partition("?")
    options = options_of(query, ("images",), data)
    manifest = Path(location)
    records, fingerprint = _read_json(manifest)
    if not isinstance(records, list) or not any(isinstance(r, dict) and "conversations" in r for r in records):
        raise DataError(
            f"{manifest}: expected a JSON list of records with id, image and conversations, {_got(records)}"
        )
    images = Path(options["images"]) if "images" in options else manifest.parent / "images"
    entries = (_llava_entry(record, i, images) for i, record in enumerate(records))
    return DataSet(data, fingerprint, tuple(unique(entries)))


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
    manifest = Path(rest) / "filter_cap.json"
    content, fingerprint = _read_json(manifest)
    records = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise DataError(
            f'{manifest}: expected a JSON object {{"annotations": [{{"image_id", "caption"}}, ...]}}, {_got(content)}'
        )
    entries = (_minigpt_entry(record, i, Path(rest) / "image") for i, record in enumerate(records))
    return DataSet(data, fingerprint, tuple(unique(entries)))


def options_of(query: str, known: tuple[str, ...], data: str) -> dict[str, str]:
    """The options behind the question mark of a DATA argument.

    Args:
        query: `NAME=VALUE`, joined by `&`.
        known: Names that may stand there.
        data: The whole argument, for the message.

    Returns:
        Name -> value.

    Raises:
        UsageError: A name is unknown, or has no value.
    """
    # Not decoded as in a URL: a folder may hold a plus or a percent sign.
    options = {name: value for name, _, value in (option.partition("=") for option in query.split("&") if option)}
    if unknown := sorted(set(options) - set(known)):
        raise UsageError(f"unknown option {unknown[0]!r} in {data!r}; known: {', '.join(known)}")
    if empty := [name for name, value in options.items() if not value]:
        raise UsageError(f"option {empty[0]!r} in {data!r} has no value")
    return options


def _llava_entry(record: Any, index: int, images: Path) -> Example | Skipped:
    if not isinstance(record, dict):
        return Skipped(f"#{index}", f"record is {kind(record)}, expected an object")
    name = f"#{index}" if record.get("id") is None else _name(record["id"], index)
    try:
        turns = record.get("conversations")
        if not isinstance(turns, list):
            raise DataError("no list of conversations" if turns is None else f"conversations is {kind(turns)}")
        instruction = _turn(turns, "human").replace(IMAGE_TAG, "").strip()
        response = _turn(turns, "gpt").replace(IMAGE_TAG, "").strip()
        if not response:
            raise DataError("the response is empty")
        if "image" not in record:
            raise DataError("no image")
        return Example(name, _inside(images, record["image"]), instruction, response)
    except DataError as error:
        return Skipped(name, str(error))


def _turn(turns: list[Any], speaker: str) -> str:
    turn = next((t for t in turns if isinstance(t, dict) and t.get("from") == speaker), None)
    if turn is None:
        raise DataError(f"no turn from {speaker!r} in conversations")
    value = turn.get("value")
    if not isinstance(value, str):
        raise DataError(f"the {speaker} turn's value is {kind(value)}, expected text")
    return value


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
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, names the file system cannot hold
        raise DataError(f"image {name!r:.300} is no usable path ({error})") from None
    if not inside:
        raise DataError(f"image {name!r:.300} points outside the image folder")
    return path


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
    if not isinstance(entry.image, (Path, Image.Image, Encoded, type(None))):
        return Skipped(entry.id, f"the image is {kind(entry.image)}, expected a pathlib.Path or a picture")
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
        first = f"; first: {skipped[0].id!r}: {skipped[0].reason}" if skipped else ""
        raise DataError(f"{data.name}: no example can be used, {len(data)} skipped{first}")
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
    if isinstance(examples, (str, bytes, Path)) or not isinstance(examples, Iterable):
        raise TypeError(
            f"expected mmerank.Example objects, got {type(examples).__name__}; mmerank.load_data(DATA) reads them"
        )


def fingerprint(examples: Iterable[Example | Skipped]) -> str:
    """What a run folder knows data by: the data set's own fingerprint, else a hash of ids, texts and pictures.

    Args:
        examples: In order; read to the end unless it is a `DataSet`.

    Returns:
        16 hexadecimal digits, or the data set's fingerprint.
    """
    if isinstance(examples, DataSet):
        return examples.fingerprint
    digest = hashlib.sha256()
    for entry in examples:
        _require_entry(entry)
        if isinstance(entry, Skipped):
            digest.update(repr((entry.id, entry.reason)).encode())
            continue
        image = entry.image
        picture: Any = str(image) if isinstance(image, Path) else getattr(image, "name", None)
        if isinstance(image, Image.Image):
            picture = (image.size, image.mode, hashlib.sha256(image.tobytes()).hexdigest())
        digest.update(repr((entry.id, picture, entry.instruction, entry.response)).encode())
    return digest.hexdigest()[:16]


def chosen(examples: Iterable[Example | Skipped], limit: int | None, seed: int | None) -> Iterable[Example | Skipped]:
    """The first `limit` entries, or with a seed that many drawn by `random.Random(seed).sample`.

    Args:
        examples: In order.
        limit: How many; None for all.
        seed: None for the first ones.

    Returns:
        The entries.

    Raises:
        UsageError: `limit` is below 1, or there is a seed without a limit.
    """
    if limit is None:
        if seed is not None:
            raise UsageError(f"seed {seed} draws a sample, so it needs a limit")
        return examples
    if limit < 1:
        raise UsageError(f"limit must be at least 1, got {limit}")
    listed = list(examples)
    if seed is None:
        return listed[:limit]
    return random.Random(seed).sample(listed, min(limit, len(listed)))


def _read_json(path: Path) -> tuple[Any, str]:
    try:
        content = content_of(path)
        return json.loads(content), hashlib.sha256(content).hexdigest()[:16]
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


def _got(content: Any) -> str:
    if isinstance(content, dict):
        return f"got an object with the keys {_keys(content) or 'none'}"
    if isinstance(content, list):
        first = content[0] if content else None
        keys = f" with the keys {_keys(first)}" if isinstance(first, dict) else ""
        return f"got a list of {len(content)}" + (f", the first {kind(first)}{keys}" if content else "")
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
