"""Texts from files, and the paper's data sets from local copies in the schemas of their repositories."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from mmerank import Example, load_data
from mmerank.errors import DataError, UsageError
from mmerank.inputs.example import Skipped
from mmerank.inputs.rows import sample
from mmerank.inputs.table_files import Row, open_table


def jsonl(path: Path, *rows: Any) -> Path:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def columns(path: Path, rows: list[dict[str, Any]], *, group: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def texts(data: str) -> dict[str, str]:
    entries = list(load_data(data))
    assert all(isinstance(entry, Example) and entry.image is None for entry in entries), entries
    return {entry.id: entry.text for entry in entries if isinstance(entry, Example)}


def skipped(data: str) -> dict[str, str]:
    return {entry.id: entry.reason for entry in load_data(data) if isinstance(entry, Skipped)}


# One text per line.


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_every_line_is_a_text(tmp_path: Path, end: bytes) -> None:
    # U+2028 and form feed are line breaks to str.splitlines, not to a text file.
    content = "\ufeffA cat.\r\n  Ein Kätzchen\u2028sitzt\x0cda. ".encode() + end
    (tmp_path / "a.txt").write_bytes(content)
    assert texts(f"text:{tmp_path}/a.txt") == {"1": "A cat.", "2": "  Ein Kätzchen\u2028sitzt\x0cda. "}


def test_an_empty_line_is_skipped_and_the_end_of_the_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n\n \t\nb\n")
    assert list(load_data(f"text:{tmp_path}/a.txt")) == [
        Example("1", None, "", "a"),
        Skipped("2", "line 2: line is empty"),
        Skipped("3", "line 3: line is empty"),
        Example("4", None, "", "b"),
    ]


def test_a_name_may_hold_signs_of_the_syntax(tmp_path: Path) -> None:
    (tmp_path / "c#?d=e.txt").write_text("a")
    assert texts(f"text:{tmp_path}/c#?d=e.txt") == {"1": "a"}


def test_packed_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a\nb\n"))
    assert texts(f"text:{tmp_path}/a.txt.gz") == {"1": "a", "2": "b"}


def test_repeated_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\nb\na\na \n")
    assert skipped(f"text:{tmp_path}/a.txt") == {"3": "same text as 1; the first is kept"}
    assert list(texts(f"text:{tmp_path}/a.txt?duplicates=keep").values()) == ["a", "b", "a", "a "]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\nGr\xfc\xdfe\n", r"line 2 is not UTF-8 \(invalid start byte at byte 3\); convert the file"),
        ("Grüße".encode("utf-16"), "stored as UTF-16; save it as UTF-8"),
        (b"", "empty file"),
    ],
)
def test_bad_text_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_data(f"text:{tmp_path}/a.txt")


@pytest.mark.parametrize(
    ("rest", "error", "message"),
    [
        ("none.txt", DataError, "No such file"),
        ("none.jsonl#a", DataError, "No such file"),
        ("", DataError, "Is a directory"),
        ("a.txt#field", UsageError, "is for .jsonl and .parquet, a.txt is read line by line"),
        ("a.txt?limit=3", UsageError, "unknown option 'limit' .* known: duplicates"),
        ("a.txt?duplicates=drop", UsageError, "duplicates=drop; known: keep"),
        ("a.txt?duplicates=", UsageError, "has no value"),
        ("a.jsonl", UsageError, "say which field holds the text, as #FIELD; found: instruction, context"),
        ("a.jsonl#contxt", DataError, "no field 'contxt' in any row; found: instruction, context"),
        ("bad.jsonl.gz#a", DataError, "cannot be read"),
        ("cut.jsonl.gz#a", DataError, "cannot be read"),
        ("bad.parquet#a", DataError, "not a Parquet file"),
        ("none.parquet#a", DataError, "No such file"),
        ("no_rows.parquet#a", DataError, "no rows"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, rest: str, error: type[Exception], message: str) -> None:
    (tmp_path / "a.txt").write_text("a")
    jsonl(tmp_path / "a.jsonl", 3, {"instruction": "i"}, {"context": "c"})
    (tmp_path / "bad.jsonl.gz").write_bytes(b"not packed")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 1000)[:20])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really PAR1")
    parquet.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "no_rows.parquet")
    with pytest.raises(error, match=message):
        load_data(f"text:{tmp_path}/{rest}")


# One row per line.


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"t": ""}', "t is empty"),
        (b'{"t": " \\n"}', "t is empty"),
        (b'{"t": 12}', "t is a number (12), expected text"),
        (b'{"t": null}', "t is null, expected text"),
        (b'{"t": ["a"]}', "t is a list, expected text"),
        (b'{"u": "a"}', "no field 't'"),
        (b'{"t": "\\ud83d"}', "t is not valid Unicode (half of a surrogate pair)"),
        (b'{"t": "a"', "not valid JSON (Expecting ',' delimiter: line 1 column 10 (char 9))"),
        (b'{"t": "\xff"}', "not UTF-8 (invalid start byte at byte 8)"),
        (b'["a"]', "a list, expected a JSON object"),
        (b"", "empty line"),
        (b"[" * 100_000, "not valid JSON (nested too deeply)"),
        (b"9" * 5000, "not valid JSON (Exceeds the limit"),
    ],
)
def test_bad_row_is_skipped_with_its_line(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"t": "first"}\n' + line + b'\n{"t": "last"}')
    first, bad, last = load_data(f"text:{tmp_path}/a.jsonl#t")
    assert (first, last) == (Example("1", None, "", "first"), Example("3", None, "", "last"))
    assert isinstance(bad, Skipped) and bad.id == "2" and bad.reason.startswith(f"line 2: {reason}")


def test_own_ids(tmp_path: Path) -> None:
    rows: list[Any] = [{"id": "x", "t": "a"}, {"id": 7, "t": "b"}, {"id": "", "t": "c"}, {"id": "x", "t": "d"}]
    path = jsonl(tmp_path / "a.jsonl", *rows, {"id": "\ud83d", "t": "e"}, {"id": "y", "t": 0})
    data = f"text:{path}#t"
    assert [entry.id for entry in load_data(data)] == ["x", "2", "3", "x", "5", "y"]
    assert skipped(data) == {
        "x": "line 4: the id occurs twice; the first record is kept",
        "y": "line 6: t is a number (0), expected text",
    }


def test_rows_of_every_kind_of_file(tmp_path: Path) -> None:
    rows = [{"t": "a"}, {"t": "b"}, {"t": "c"}]
    for path in (
        jsonl(tmp_path / "a.jsonl", *rows),
        jsonl(tmp_path / "a.jsonl.gz", *rows),
        columns(tmp_path / "a.parquet", rows, group=2),
    ):
        assert texts(f"text:{path}#t") == {"1": "a", "2": "b", "3": "c"}


@given(
    st.binary() | st.lists(st.binary(max_size=12) | st.just(b'{"t": "a"}')).map(b"\n".join),
    st.sampled_from(["", ".gz"]),
)
def test_any_bytes_are_examples_or_skips(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, packed: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.jsonl{packed}"
    path.write_bytes(content)
    for data in (f"text:{path}#t", f"dolly-15k:{path}", f"piqa:{path}", f"wikipedia:{path}"):
        try:
            entries = list(load_data(data))
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert all(isinstance(entry, Example) or entry.reason for entry in entries)


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    before = load_data(f"text:{jsonl(tmp_path / 'a.jsonl', {'t': 'a'})}#t").fingerprint
    assert load_data(f"text:{jsonl(tmp_path / 'b.jsonl', {'t': 'a'})}#t").fingerprint == before
    assert load_data(f"text:{jsonl(tmp_path / 'a.jsonl', {'t': 'b'})}#t").fingerprint != before


def piped(path: Path, content: bytes) -> str:
    """DATA argument of a pipe that gives its content once, as a shell's `<(cat FILE)` does."""
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=(content,), daemon=True).start()
    return f"text:{path}"


@pytest.mark.parametrize("name", ["pipe", "pipe.txt", "pipe.txt.gz"])
def test_a_pipe_is_known_by_what_came_through_it(tmp_path: Path, name: str) -> None:
    first, second = b"A cat.\nA dog.\n", b"A cat.\nA cow.\n"
    if name.endswith(".gz"):
        first, second = gzip.compress(first, mtime=0), gzip.compress(second, mtime=0)
    found = []
    for content in (first, second, first):
        found.append(load_data(piped(tmp_path / name, content)))
        (tmp_path / name).unlink()
    assert [[e.text for e in data if isinstance(e, Example)][1] for data in found] == ["A dog.", "A cow.", "A dog."]
    assert [data.fingerprint for data in found] == [
        hashlib.sha256(content).hexdigest()[:16] for content in (first, second, first)
    ]


@pytest.mark.parametrize("name", ["pipe.jsonl", "pipe.jsonl.gz", "pipe.parquet"])
def test_rows_from_a_pipe_are_refused_before_anything_waits_for_it(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: not a regular file; .* save them to a file first"):
        load_data(f"text:{tmp_path / name}#t")


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet", "txt", "txt.gz"])
def test_fingerprint_is_the_hash_of_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix.startswith("txt"):
        path.write_bytes(gzip.compress(b"a\nb") if suffix.endswith(".gz") else b"a\nb")
    else:
        columns(path, [{"t": "a"}]) if suffix == "parquet" else jsonl(path, {"t": "a"})
    data = load_data(f"text:{path}" + ("" if suffix.startswith("txt") else "#t"))
    assert data.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_rows_that_change_while_they_are_read_are_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"t": "a"})
    table = open_table(path)
    jsonl(path, {"t": "b"})
    with pytest.raises(DataError, match=r"a.jsonl: changed while it was read"):
        list(table.rows())


# The paper's data sets.


def test_dolly_takes_contexts_that_are_not_empty_and_keeps_repeated_ones(tmp_path: Path) -> None:
    contexts = ["a", "", "b", "a"]
    path = jsonl(
        tmp_path / "databricks-dolly-15k.jsonl",
        *({"instruction": "i", "context": c, "response": "r", "category": "qa"} for c in contexts),
        {"instruction": "no context"},
        {"context": 5},
    )
    for data in (f"dolly-15k:{path}", f"dolly-15k:{tmp_path}"):
        *examples, last = load_data(data)
        assert examples == [Example(str(i), None, "", c) for i, c in enumerate(contexts, start=1) if c]
        assert last == Skipped("6", "line 6: context is a number (5), expected text")


def test_hh_takes_the_chosen_dialogues_of_four_test_files_in_order(tmp_path: Path) -> None:
    parts = ["harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"]
    for part in [*parts, "red-team-attempts"]:
        # The published code reads them unpacked.
        name = "test.jsonl" if part == "helpful-online" else "test.jsonl.gz"
        jsonl(tmp_path / part / name, *({"chosen": f"\n\nHuman: {part} {i}", "rejected": "r"} for i in range(2)))
        jsonl(tmp_path / part / "train.jsonl.gz", {"chosen": "train", "rejected": "r"})
    expected = [f"\n\nHuman: {part} {i}" for part in parts for i in range(2)]
    found = texts(f"hh-rlhf:{tmp_path}")
    assert list(found) == [str(i) for i in range(1, 9)]
    assert list(found.values()) == expected, "with the line breaks that the dialogues begin with"


def test_bad_row_names_its_file(tmp_path: Path) -> None:
    for part in ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"):
        jsonl(tmp_path / part / "test.jsonl.gz", {"chosen": "a"}, {"chosen": "" if part == "helpful-base" else "b"})
    assert skipped(f"hh-rlhf:{tmp_path}") == {"4": "helpful-base/test.jsonl.gz line 2: chosen is empty"}


def test_missing_part(tmp_path: Path) -> None:
    jsonl(tmp_path / "harmless-base" / "test.jsonl.gz", {"chosen": "a"})
    with pytest.raises(DataError, match=r"no helpful-base/test\.jsonl\.gz in this folder"):
        load_data(f"hh-rlhf:{tmp_path}")


@pytest.mark.parametrize("n", [10_001, 12_345, 40_000])
def test_sample_is_that_of_the_published_code(n: int) -> None:
    random.seed(123)
    assert sample(n, 10_000) == random.sample(range(n), 10_000)


def test_wikipedia_is_sampled_over_all_files(tmp_path: Path) -> None:
    rows = [{"id": f"p{i}", "url": "u", "title": "t", "text": f"Page {i}."} for i in range(10_500)]
    for i, part in enumerate((rows[:4000], rows[4000:])):
        columns(tmp_path / "20231101.en" / f"train-{i:05}-of-00002.parquet", part, group=1000)
    random.seed(123)
    expected = [rows[i] for i in random.sample(range(len(rows)), 10_000)]
    assert list(texts(f"wikipedia:{tmp_path}").items()) == [(row["id"], row["text"]) for row in expected]


def test_openwebtext2_is_sampled_from_one_file(tmp_path: Path) -> None:
    rows = [{"text": f"Text {i}.", "meta": {"pile_set_name": "OpenWebText2"}} for i in range(10_050)]
    jsonl(tmp_path / "val.json", *rows)
    random.seed(123)
    expected = random.sample(range(len(rows)), 10_000)
    for data in (f"openwebtext2:{tmp_path}", f"openwebtext2:{tmp_path}/val.json"):
        assert list(texts(data).items()) == [(str(i + 1), f"Text {i}.") for i in expected]


def test_fewer_rows_than_the_sample_are_all_taken(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"Text {i}."} for i in range(20)))
    assert sorted(texts(f"wikipedia:{path}"), key=int) == [str(i) for i in range(1, 21)]


def test_a_sample_reads_only_the_row_groups_it_needs(tmp_path: Path) -> None:
    table = open_table(columns(tmp_path / "a.parquet", [{"text": str(i)} for i in range(100)], group=10))
    groups: list[int] = []
    file: Any = table._file  # type: ignore[attr-defined]

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

        def read_row_group(self, group: int) -> Any:
            groups.append(group)
            return file.read_row_group(group)

    table._file = Watched()  # type: ignore[attr-defined]
    rows: list[tuple[int, Row]] = list(table.rows({15, 93}))
    assert rows == [(15, {"text": "15"}), (93, {"text": "93"})] and groups == [1, 9]


CHOICES = [("A", "a rock"), ("B", "a dog"), ("C", "water"), ("D", "air")]


def question(choices: Any, key: Any = "B") -> dict[str, Any]:
    return {"id": "8-343", "question_stem": "Which can bark?", "choices": choices, "answerKey": key}


@pytest.mark.parametrize(
    "choices",
    [
        {"text": [t for _, t in CHOICES], "label": [key for key, _ in CHOICES]},
        [{"text": t, "label": key} for key, t in CHOICES],
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_openbookqa(tmp_path: Path, choices: Any, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    jsonl(path, question(choices)) if suffix == "jsonl" else columns(path, [question(choices)])
    assert texts(f"openbookqa:{path}") == {"8-343": "Which can bark? a dog"}


def test_piqa(tmp_path: Path) -> None:
    rows = [{"goal": "Open a jar.", "sol1": "Turn the lid.", "sol2": "Sing.", "label": label} for label in (0, 1)]
    columns(tmp_path / "plain_text" / "validation" / "0000.parquet", rows)
    columns(tmp_path / "plain_text" / "train" / "0000.parquet", rows[:1])
    assert texts(f"piqa:{tmp_path}") == {"1": "Open a jar. Turn the lid.", "2": "Open a jar. Sing."}


def test_winogrande(tmp_path: Path) -> None:
    row = {"sentence": "The cup fit the box as _ was small.", "option1": "the cup", "option2": "the box"}
    columns(tmp_path / "winogrande_xl" / "validation-00000-of-00001.parquet", [{**row, "answer": a} for a in "12"])
    assert texts(f"winogrande:{tmp_path}") == {
        "1": "The cup fit the box as the cup was small.",
        "2": "The cup fit the box as the box was small.",
    }


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("openbookqa", question(None), "choices is null, expected labels and texts"),
        ("openbookqa", question([3]), "the answer 'B' is none of the choices None"),
        ("openbookqa", question({"label": ["A"], "text": ["x"]}), "the answer 'B' is none of the choices A"),
        (
            "openbookqa",
            question({"label": ["B", "B"], "text": ["x", "y"]}),
            "choices has 2 texts, labelled B, B; expected one label each",
        ),
        (
            "openbookqa",
            question({"label": ["B"], "text": ["x", "y"]}),
            "choices has 2 texts, labelled B; expected one",
        ),
        ("openbookqa", question({"label": ["B"], "text": [1]}), "the answer 'B' is none of the choices B"),
        ("openbookqa", question({"label": ["B"], "text": ["x"]}, ""), "answerKey is empty"),
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": -1}, "label is a number (-1), expected 0 or 1"),
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": True}, "label is a truth value (True), expected"),
        ("piqa", {"goal": "g", "sol1": "a", "sol2": 5, "label": 1}, "sol2 is a number (5), expected text"),
        ("winogrande", {"sentence": "a _", "option1": "b", "answer": ""}, "answer is text (''), expected '1' or '2'"),
        ("winogrande", {"sentence": "a", "option1": "b", "answer": "1"}, "no blank '_' in the sentence"),
        ("winogrande", {"sentence": "a _", "option1": "b", "answer": "2"}, "no field 'option2'"),
    ],
)
def test_bad_question(tmp_path: Path, name: str, row: dict[str, Any], reason: str) -> None:
    all_fields = {"question_stem", "choices", "answerKey", "goal", "sol1", "sol2", "label", "sentence", "option1"}
    other = dict.fromkeys([*all_fields, "option2", "answer"])
    _, entry = load_data(f"{name}:{jsonl(tmp_path / 'a.jsonl', other, row)}")
    assert isinstance(entry, Skipped) and entry.reason.startswith(f"line 2: {reason}")


def test_wrong_schema_lists_the_fields(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"chosen": "a", "rejected": "b"})
    for name, field in (("dolly-15k", "context"), ("wikipedia", "text"), ("piqa", "goal")):
        with pytest.raises(DataError, match=f"no field '{field}' in any row; found: chosen, rejected"):
            load_data(f"{name}:{path}")


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    for name, said in (
        ("a.csv", "a table, which csv:FILE reads"),
        ("a.xml", r"expected a file that ends in \.jsonl"),
    ):
        (tmp_path / name).write_text("context\na\n")
        with pytest.raises(DataError, match=said):
            load_data(f"dolly-15k:{tmp_path}/{name}")


def test_no_text_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text in any of 1 rows"):
        load_data(f"dolly-15k:{jsonl(tmp_path / 'a.jsonl', {'context': ''})}")


@pytest.mark.parametrize("name", ["detail_23k", "cc_sbu_align"])
def test_pictures_must_be_downloaded(name: str) -> None:
    with pytest.raises(DataError, match=r"download .*(llava:detail_23k\.json\?images=|minigpt:cc_sbu_align)"):
        load_data(name)


def test_real_texts(shared_data: Path) -> None:
    folder = shared_data / "texts"
    assert len(texts(f"text:{folder}/plain.txt")) == 40
    assert len(texts(f"dolly-15k:{folder}/dolly_sample.jsonl")) == 48
    assert len(skipped(f"text:{folder}/dolly_sample.jsonl#context")) == 12
    dialogues = texts(f"hh-rlhf:{folder}/hh_sample.jsonl")
    assert len(dialogues) == 20 and all(text.startswith("\n\nHuman: ") for text in dialogues.values())


def test_real_pairs_by_their_names(shared_data: Path) -> None:
    assert len(load_data(f"detail_23k:{shared_data}/pairs_llava/detail.json")) == 21
    assert len(load_data(f"cc_sbu_align:{shared_data}/pairs_minigpt")) == 11
