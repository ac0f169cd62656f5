"""Examples, data sets of them, and which of them are measured."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from mmerank.errors import DataError
from mmerank.inputs.pictures import Encoded, Picture, Pictures
from mmerank.inputs.sources import picture_sources

IMAGE_TAG = "<image>"
_ORIENTATION = 0x0112  # in EXIF
_LOOKED_AT = 32  # examples, before a model is loaded


@dataclass(frozen=True, init=False)
class Example:
    """One sample: a picture, or several, with an instruction and a response, or a text alone (the response).

    Args:
        id: Text, or a whole number, which becomes text.
        image: A path or an address (`s3://...`); the content of a file; both as `datasets` keeps them,
            `{"bytes", "path"}`; an opened picture; a list of several of these, in their order; or None.
        instruction: Text.
        response: Text.
        places: Of several pictures that stand within the instruction: before each, so many of its characters stand,
            ascending. By default all stand before the text.

    Attributes:
        id: Unique in its data set.
        image: A file, or the content of one, opened when it is needed; or a picture; a tuple of several, never of
            one; None for text alone.
        instruction: What the model is asked; may be empty.
        response: What it should answer.
        places: As above; empty where the pictures stand before the text.

    Example:
        >>> Example(7, "photos/7.jpg", "What is this?", "A cat.").id
        '7'
    """

    id: str
    image: Pictures | None
    instruction: str
    response: str
    places: tuple[int, ...]

    def __init__(
        self,
        id: str | int,
        image: str | Path | Encoded | Image.Image | bytes | Mapping[str, Any] | Sequence[Any] | None,
        instruction: str,
        response: str,
        places: Sequence[int] = (),
    ):
        # What is of another type stays as it is, and is skipped with the reason.
        source = picture_sources(image)
        number = isinstance(id, Integral) and not isinstance(id, bool)
        values = {"id": str(int(id)) if number else id, "image": image if source is None else source}
        for name, value in {**values, "instruction": instruction, "response": response, "places": (*places,)}.items():
            object.__setattr__(self, name, value)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Its pictures in their order, of any number."""
        if self.image is None:
            return ()
        return self.image if isinstance(self.image, tuple) else (self.image,)

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
    known = (Path, Image.Image, Encoded)
    if isinstance(entry.image, list) or not all(isinstance(of, known) for of in entry.pictures):
        found = no_picture(entry.image)
        return Skipped(entry.id, f"the image is {found}, expected a path, a file's content or a PIL picture")
    return entry


def no_picture(value: object) -> str:
    """What is given in the place of a picture, or of several in a list, in words, for messages."""
    if not isinstance(value, (list, tuple)) or not value:
        return "an empty list" if isinstance(value, (list, tuple)) else kind(value)
    wrong = next((i for i, of in enumerate(value) if picture_sources(of) is None or isinstance(of, (list, tuple))), 0)
    return f"a list of {len(value)}, whose picture {wrong + 1} is {kind(value[wrong])}"


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
    if pictures:
        _warn_of_missing(data.name, [picture for example in usable[:_LOOKED_AT] for picture in example.pictures])


def _warn_of_missing(name: str, pictures: Sequence[object]) -> None:
    """Say before a model is loaded that most of the first pictures are not where they are looked for."""
    paths = [picture for picture in pictures if isinstance(picture, Path)]
    missing = [path for path in paths if not path.exists()]
    if 2 * len(missing) > len(paths):
        warnings.warn(
            f"{name}: {len(missing)} of the first {len(paths)} pictures are not there, as {missing[0]}; paths count "
            "from the folder of the file that names them, or from DIR with ?images=DIR behind that file's name",
            stacklevel=3,
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
        known = [_known_by(picture) for picture in entry.pictures]
        picture = known if len(known) > 1 else next(iter(known), None)
        where = (entry.places,) if entry.places else ()
        digest.update(repr((entry.id, picture, entry.instruction, entry.response, *where)).encode())
    return digest.hexdigest()[:16]


def _known_by(image: Picture) -> tuple[Any, ...] | str:
    """The content of a picture in memory; the name of what is yet to be read, and looked at when it is measured."""
    if not isinstance(image, Image.Image):
        return str(image.name if isinstance(image, Encoded) else image)
    try:
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
    except Exception:  # opened late, and damaged: skipped with its reason when it is measured
        return image.size, image.mode
    content = (image.size, image.mode, pixels)
    beside = (image.getpalette(), image.info.get("transparency"), image.getexif().get(_ORIENTATION))
    return content if beside == (None, None, None) else (*content, beside)


def kind(value: Any) -> str:
    """What a JSON value is, in words, for messages."""
    names = {type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "text",
             list: "a list", dict: "an object"}  # fmt: skip
    name = names.get(type(value), type(value).__name__)
    shown = f" ({value!r:.40})" if isinstance(value, (int, float, str)) else ""
    return name + shown
