"""Data sets of the Hugging Face hub -> rows, or examples with the columns that a DATA argument names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mmerank.errors import DataError, UsageError
from mmerank.inputs.arrow_rows import ArrowRows, undecoded
from mmerank.inputs.columns import Columns
from mmerank.inputs.example import DataSet, Example
from mmerank.inputs.manifests import options_of
from mmerank.inputs.rows import column_text, examples_of, sample, without_repeated_texts
from mmerank.on_hub import NO_ANSWER, asked_of_hub

OPTIONS = ("image", "instruction", "response", "id", "revision", "first", "sample", "duplicates")


def hub(data: str, rest: str) -> DataSet:
    """The examples of `hub:NAME[/CONFIG][:SPLIT][?OPTIONS][#COLUMN]`.

    NAME is `owner/name`; a third part is the configuration. SPLIT is `train` when it is not given.
    `#COLUMN`, short for `?response=COLUMN`, names the column with the text. Options, joined by `&`:
    `image=`, `instruction=`, `response=` name columns, `id=` that of the ids, text or whole
    numbers. `instruction=` with nothing behind it says that there is no instruction; with pictures one of both is
    asked for where the data set has further columns of text, since numbers with and without an instruction differ as
    those of two models do. `revision=` names a branch, tag or commit
    (`refs/convert/parquet` where the main branch has only a loading script); `first=N` fetches no more than the
    first N rows; `sample=N` draws N rows as the paper's code does (`random.seed(123)`), which needs the whole
    split on disk, but not in memory; `duplicates=keep` keeps repeated texts (see `load_data`).

    Args:
        data: The whole DATA argument.
        rest: What stands behind `hub:`.

    Returns:
        The data set; its fingerprint is of the commit and of the columns that were read.

    Raises:
        UsageError: The argument cannot be read.
        DataError: The hub cannot be reached, or has no such data set, configuration, split or column, or it is not
            said whether there is an instruction.
    """
    repository, config, split, options = hub_argument(data, rest)
    response, instruction, image = (options.get(of) for of in ("response", "instruction", "image"))
    first, drawn = _number("first", options, data), _number("sample", options, data)
    if response is None:
        first = 1  # enough to list the columns
    table = hub_table(
        repository,
        config=config,
        split=split,
        revision=options.get("revision"),
        first=first,
        image=image,
    )
    wanted = [name for name in (image, instruction, response, options.get("id")) if name]
    if response is None or (missing := [name for name in wanted if name not in table.fields()]):
        problem = "say which column holds the text, as #COLUMN" if response is None else f"no column {missing[0]!r}"
        raise DataError(f"{data}: {problem}; columns: {', '.join(table.fields())}")
    if image is not None and instruction is None:
        _expect_no_other_text(data, table, response)

    def example(name: str, row: dict[str, Any]) -> Example:
        asked = column_text(row, instruction) if instruction else ""
        return Example(name, row[image] if image else None, asked, column_text(row, response))

    drawn_rows = None if drawn is None else sample(len(table), drawn)
    known = Columns(id=options["id"]).own_id if "id" in options else None
    entries = examples_of(table, example, drawn_rows, known)
    # Many pictures may well have the same answer.
    if image is None and "duplicates" not in options:
        entries = without_repeated_texts(entries)
    # The same rows read by other columns are other data.
    columns = {"image": image, "instruction": instruction, "response": response, "id": options.get("id")}
    read = " ".join(f"{name}={column}" for name, column in columns.items() if column)
    return DataSet(data, f"{table.fingerprint} {read}", tuple(entries))


def hub_argument(data: str, rest: str) -> tuple[str, str | None, str, dict[str, str]]:
    """What a DATA argument of the hub says.

    Args:
        data: The whole argument.
        rest: What stands behind `hub:`.

    Returns:
        Repository, configuration, split, and the options; the column behind # is their `response`.

    Raises:
        UsageError: It cannot be read.
    """
    rest, _, column = rest.partition("#")
    rest, _, query = rest.partition("?")
    location, _, split = rest.partition(":")
    options = options_of(query, OPTIONS, data, may_be_empty=("instruction",))
    owner, *names = location.split("/")
    if not owner or not all(names) or len(names) > 2:
        raise UsageError(f"{data!r}: expected hub:OWNER/NAME[/CONFIG][:SPLIT], got {location!r}")
    if column and "response" in options:
        raise UsageError(f"{data!r}: #{column} and response={options['response']} name the same thing, give one")
    if "first" in options and "sample" in options:
        raise UsageError(f"{data!r}: first and sample exclude each other")
    if options.get("duplicates", "keep") != "keep":
        raise UsageError(f"{data!r}: duplicates={options['duplicates']}; known: keep")
    for number in ("first", "sample"):
        _number(number, options, data)
    if column:
        options["response"] = column
    return "/".join([owner, *names[:1]]), names[1] if len(names) == 2 else None, split or "train", options


def _expect_no_other_text(data: str, table: ArrowRows, response: str) -> None:
    """DataError where a column that nobody named may hold the instruction."""
    if others := [name for name in table.text_fields() if name not in (response, "id")]:
        raise DataError(
            f"{data}: say whether there is an instruction, since numbers with and without one differ: "
            f"&instruction=COLUMN, or &instruction= for none; other columns of text: {', '.join(others)}"
        )


def hub_table(
    repository: str,
    *,
    split: str,
    config: str | None = None,
    files: Sequence[str] = (),
    revision: str | None = None,
    first: int | None = None,
    image: str | None = None,
) -> ArrowRows:
    """The rows of one split of a data set on the hub, memory-mapped from the cache of `datasets`.

    Args:
        repository: `owner/name`.
        split: Its split.
        config: Its configuration.
        files: Patterns of the files that make up the split, in this order, in place of what the repository says.
        revision: Branch, tag or commit.
        first: Stream this many rows, and fetch only what they need.
        image: A column of pictures, which are not decoded.

    Returns:
        The rows.

    Raises:
        DataError: The hub cannot be reached, or has no such data set, configuration, split or picture column.
    """
    with _explained(repository):
        _check_there(repository, revision)
        import datasets

        builder = datasets.load_dataset_builder(
            _location(repository), config, data_files={split: list(files)} if files else None, revision=revision
        )
        if first is None:
            # What the repository's card says of its splits need not hold for the files chosen here.
            builder.download_and_prepare(verification_mode="no_checks")
            dataset = builder.as_dataset(split=split)
        else:
            dataset = undecoded(builder.as_streaming_dataset(split=split), image)
        rows = dataset if first is None else list(dataset.take(first))
        table = ArrowRows(
            rows,
            repository,
            fingerprint=builder.hash or "unknown",
            image=image,
            explained=partial(_explained, repository),
        )
        kinds = dataset.features or {}
        if image in table.text_fields() or not isinstance(kinds.get(image, datasets.Image()), datasets.Image):
            found = ", ".join(name for name, of in kinds.items() if isinstance(of, datasets.Image)) or "none"
            raise DataError(f"{repository}: column {image!r} holds no pictures; those that do: {found}")
        return table


def _number(name: str, options: dict[str, str], data: str) -> int | None:
    value = options.get(name)
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or not int(value):
        raise UsageError(f"{data!r}: {name}={value}; expected a number above 0")
    return int(value)


def _location(repository: str) -> str:
    """Where the repository lies. Tests put a folder here."""
    return repository


def _check_there(repository: str, revision: str | None) -> None:
    """Refuse at once what `datasets` would ask for again and again, unless its cache may have it."""
    from huggingface_hub import constants

    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    cached = any(cache.glob(f"{repository.split('/')[0]}___*"))
    if cached or constants.HF_HUB_OFFLINE or Path(_location(repository)).is_dir():
        return
    if reason := asked_of_hub(repository, revision, "README.md", of="dataset"):
        raise (ConnectionError if reason.startswith(NO_ANSWER) else ValueError)(reason)


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # every layer below `datasets` raises errors of its own
        reason = (str(error) or type(error).__name__).strip().splitlines()[0][:300]
        hint = ""
        if isinstance(error, ConnectionError) or "Connect" in type(error).__name__:
            hint = "; without network, read a local copy: NAME:PATH for a set of the paper, text:FILE#COLUMN else"
        if "scripts are no longer supported" in reason:
            hint = "; try ?revision=refs/convert/parquet"
        raise DataError(f"hub:{repository}: cannot be loaded ({reason}){hint}") from error
