"""The paper's text data sets, with its selection of texts, and texts from files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmerank.errors import DataError, UsageError
from mmerank.inputs.example import DataSet, Example, Skipped, kind
from mmerank.inputs.hub import hub_table
from mmerank.inputs.layouts import at_home, check_layout, located, unpacked_name
from mmerank.inputs.lines import Digest, lines
from mmerank.inputs.manifests import options_of
from mmerank.inputs.rows import column_text, examples_of, sample, usable, without_repeated_texts
from mmerank.inputs.table_files import JSON_LINES, Table, open_table

# What is drawn of Wikipedia and openwebtext2.
SAMPLE = 10_000
# Fields that the originals of piqa and winogrande do not have in every file.
_ELSEWHERE = {
    "label": "; piqa's own files keep the labels in another one, as valid-labels.lst: put them into the rows",
    "answer": "; of winogrande's own files test.jsonl has no answers, dev.jsonl has",
}


@dataclass(frozen=True)
class TextSet:
    """One of the paper's text data sets.

    Attributes:
        repository: On the hub.
        split: What it is there; for messages and caches only, since `files` says what is read.
        files: Patterns of its files, in order.
        fields: Columns that `text` reads.
        text: A row's text; None if the row does not belong to the selection.
        revision: Of the repository, where the main branch has only a loading script.
        sampled: Whether 10,000 rows are drawn (`random.seed(123)`, `random.sample(range(n), 10000)`).
    """

    repository: str
    split: str
    files: tuple[str, ...]
    fields: tuple[str, ...]
    text: Callable[[dict[str, Any]], str | None]
    revision: str | None = None
    sampled: bool = False


def _dolly(row: dict[str, Any]) -> str | None:
    return None if row.get("context", "") == "" else column_text(row, "context")


def _openbookqa(row: dict[str, Any]) -> str:
    # OpenBookQA's own files have the question and its choices in one field; those on the hub are flat.
    if isinstance(row.get("question"), dict) and "question_stem" not in row:
        row = {**row, "question_stem": row["question"].get("stem"), "choices": row["question"].get("choices")}
    choices = row.get("choices")
    if isinstance(choices, list):
        # One object for each choice, in place of one list for each field.
        choices = {
            name: [c.get(name) if isinstance(c, dict) else None for c in choices] for name in ("label", "text")
        }
    if not isinstance(choices, dict) or not all(isinstance(choices.get(n), list) for n in ("label", "text")):
        raise DataError(f"choices is {kind(choices)}, expected labels and texts")
    key = column_text(row, "answerKey")
    labels = [str(label) for label in choices["label"]]
    if len(set(labels)) != len(choices["text"]) or len(set(labels)) != len(labels):
        raise DataError(
            f"choices has {len(choices['text'])} texts, labelled {', '.join(labels)}; expected one label each"
        )
    answers = dict(zip(labels, choices["text"], strict=True))
    if not isinstance(answers.get(key), str):
        raise DataError(f"the answer {key!r} is none of the choices {', '.join(answers)}")
    return f"{column_text(row, 'question_stem')} {answers[key]}"


def _piqa(row: dict[str, Any]) -> str:
    label = row.get("label")
    if label not in (0, 1) or isinstance(label, bool):
        raise DataError(f"label is {kind(label)}, expected 0 or 1")
    return f"{column_text(row, 'goal')} {column_text(row, ('sol1', 'sol2')[int(label)])}"


def _winogrande(row: dict[str, Any]) -> str:
    answer = str(row.get("answer"))
    if answer not in ("1", "2"):
        raise DataError(f"answer is {kind(row.get('answer'))}, expected '1' or '2'")
    sentence = column_text(row, "sentence")
    if "_" not in sentence:
        raise DataError("no blank '_' in the sentence")
    return sentence.replace("_", column_text(row, f"option{answer}"))


def _column(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: column_text(row, name)


# The first four select as the published code does. Of the others the paper says only that questions stand with
# their correct answers; taken here: the split on which accuracy is reported, and one space between the two.
#
# wikipedia: the published code reads a folder "wiki" without saying of which dump; this is the newest English one
# that is on the hub as Parquet. openwebtext2: the published code reads the `validation` split of a folder
# "pile_openwebtext2", the name of this repository (33,400 texts, OpenWebText2's part of the Pile's validation set).
# piqa: the main branch has only a loading script; this branch holds what it gave, converted by the hub.
SETS = {
    "dolly-15k": TextSet(
        "databricks/databricks-dolly-15k", "train", ("databricks-dolly-15k.jsonl",), ("context",), _dolly
    ),
    "hh-rlhf": TextSet(
        "Anthropic/hh-rlhf",
        "test",
        tuple(
            f"{part}/test.jsonl.gz"
            for part in ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
        ),
        ("chosen",),
        _column("chosen"),
    ),
    "wikipedia": TextSet(
        "wikimedia/wikipedia", "train", ("20231101.en/train-*.parquet",), ("text",), _column("text"), sampled=True
    ),
    "openwebtext2": TextSet(
        "suolyer/pile_openwebtext2", "validation", ("val.json",), ("text",), _column("text"), sampled=True
    ),
    "openbookqa": TextSet(
        "allenai/openbookqa",
        "test",
        ("main/test-*.parquet",),
        ("question_stem", "choices", "answerKey"),
        _openbookqa,
    ),
    "piqa": TextSet(
        "ybisk/piqa",
        "validation",
        ("*/validation/*.parquet",),
        ("goal", "sol1", "sol2", "label"),
        _piqa,
        revision="refs/convert/parquet",
    ),
    "winogrande": TextSet(
        "allenai/winogrande",
        "validation",
        ("winogrande_xl/validation-*.parquet",),
        ("sentence", "option1", "option2", "answer"),
        _winogrande,
    ),
}


def text_set(data: str, path: str) -> DataSet:
    """One of the paper's text data sets, from the hub or from a local copy.

    Rows are numbered from 1 through all files, and those numbers are the ids where a row has no id of its own.
    No text is left out for occurring twice: the published selections do not do so either.

    Args:
        data: The whole DATA argument: `NAME` or `NAME:PATH`.
        path: What stands behind `NAME:`, a file of rows or a folder laid out like the repository; empty for the
            hub.

    Returns:
        The data set.

    Raises:
        DataError: It cannot be read, or its rows lack the columns of this data set.
    """
    chosen = SETS[data.partition(":")[0]]
    table: Table
    if path:
        table = open_table(at_home(path), chosen.files)
    else:
        table = hub_table(chosen.repository, split=chosen.split, files=chosen.files, revision=chosen.revision)

    def example(name: str, row: dict[str, Any]) -> Example | None:
        text = chosen.text(row)
        return None if text is None else Example(name, None, "", text)

    numbers = sample(len(table), SAMPLE) if chosen.sampled else None
    entries = tuple(examples_of(table, example, numbers))
    _check_fields(table, chosen.fields, entries)
    return DataSet(data, table.fingerprint, entries)


def text(data: str, rest: str, *, pipe: bool = True) -> DataSet:
    """The examples of `text:FILE`, `text:FILE.jsonl#FIELD` or `text:FILE.parquet#COLUMN`.

    Of other files every line is a text, in UTF-8. Ids are the rows' numbers, from 1, or their own field `id` where
    that is text. A row without usable text is a `Skipped`: an empty line, a line that is no JSON object, a field
    that is missing, empty, or no text. So is a text that occurred before, unless `?duplicates=keep` stands
    before the `#`. A file of lines is read once, so it may be a pipe, as `text:<(COMMAND)` of a shell.

    Args:
        data: The whole DATA argument.
        rest: What stands behind `text:`.
        pipe: Whether FILE, read line by line, may be a pipe.

    Returns:
        The data set.

    Raises:
        UsageError: A file of rows is given without a field.
        DataError: The file is missing, empty, not UTF-8, or no row has the field.
    """
    path, behind = located(rest, "?#")
    query, _, field = behind.partition("#")
    options = options_of(query.removeprefix("?"), ("duplicates",), data)
    if options.get("duplicates", "keep") != "keep":
        raise UsageError(f"{data!r}: duplicates={options['duplicates']}; known: keep")
    check_layout(path)
    if unpacked_name(path.name).endswith((*JSON_LINES, ".parquet")):
        table = open_table(path)
        if not field:
            raise UsageError(f"{data!r}: say which field holds the text, as #FIELD; found: {_listed(table)}")
        entries = tuple(examples_of(table, lambda name, row: Example(name, None, "", column_text(row, field))))
        _check_fields(table, (field,), entries)
        fingerprint = table.fingerprint
    elif field:
        raise UsageError(f"{data!r}: #{field} is for .jsonl and .parquet, {path.name} is read line by line")
    else:
        digest = Digest()
        entries = tuple(_line(path, i, line) for i, line in enumerate(lines(path, digest, pipe=pipe), start=1))
        if not entries:
            raise DataError(f"{path}: empty file")
        fingerprint = digest.text
    if "duplicates" not in options:
        entries = tuple(without_repeated_texts(entries))
    return DataSet(data, fingerprint, entries)


def _line(path: Path, number: int, line: bytes) -> Example | Skipped:
    try:
        return Example(str(number), None, "", usable(line.decode(), "line"))
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start + 1}"
        raise DataError(f"{path}: line {number} is not UTF-8 ({where}); convert the file to UTF-8") from None
    except DataError as error:
        return Skipped(str(number), f"line {number}: {error}")


def _check_fields(table: Table, fields: tuple[str, ...], entries: tuple[Example | Skipped, ...]) -> None:
    # Only where nothing came out: a field may be missing in the first rows and be there in others.
    if any(isinstance(entry, Example) for entry in entries):
        return
    found = table.fields()
    if found and (missing := [name for name in fields if name not in found]):
        hint = _ELSEWHERE.get(missing[0], "")
        raise DataError(f"{table.name}: no field {missing[0]!r} in any row; found: {_listed(table)}{hint}")
    if not entries:
        raise DataError(f"{table.name}: no text in any of {len(table)} rows")


def _listed(table: Table) -> str:
    return ", ".join(table.fields()) or "none"
