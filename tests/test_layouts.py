"""Layouts beside those that are read: read all the same, or refused by their names with what to do."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mmerank import Example, load_data
from mmerank.errors import DataError, UsageError
from mmerank.inputs.example import Skipped

TURNS = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat."}]
RECORDS = [{"id": name, "image": f"{name}.jpg", "conversations": TURNS} for name in "ab"]
ROWS = [{"t": "one"}, {"t": "two"}]
BOM = b"\xef\xbb\xbf"


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def lines(records: list[Any], end: bytes = b"\n") -> bytes:
    return end.join(json.dumps(record).encode() for record in records) + end


def texts(data: str) -> list[str]:
    return [entry.text for entry in load_data(data) if isinstance(entry, Example)]


@pytest.mark.parametrize(
    "content",
    [
        lines(RECORDS),
        BOM + lines(RECORDS, b"\r\n\r\n"),
        BOM + json.dumps(RECORDS).encode(),
        json.dumps(RECORDS, indent=2).encode(),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a?x=1.json", "a#b & c%20.jsonl"])
def test_conversations_in_lines_or_in_a_list(tmp_path: Path, content: bytes, name: str) -> None:
    file = put(tmp_path / name, content)
    for query, folder in (("", "images"), (f"?images={tmp_path}/o?f", "o?f")):
        assert list(load_data(f"llava:{file}{query}")) == [
            Example(name, tmp_path / folder / f"{name}.jpg", "What?", "A cat.") for name in "ab"
        ]


def test_a_line_that_is_damaged_costs_that_line(tmp_path: Path) -> None:
    file = put(tmp_path / "a.jsonl", lines(RECORDS[:1]) + b"{bad\n" + lines(RECORDS[1:]))
    first, bad, last = load_data(f"llava:{file}")
    assert isinstance(first, Example) and isinstance(last, Example)
    assert isinstance(bad, Skipped) and bad.reason.startswith("line 2: not valid JSON")
    assert len(load_data(f"llava:{put(tmp_path / 'one.jsonl', RECORDS[0])}")) == 1


def test_a_folder_of_pictures_with_an_ampersand(tmp_path: Path) -> None:
    (tmp_path / "a&b=c").mkdir()
    (entry, _) = load_data(f"llava:{put(tmp_path / 'a.json', RECORDS)}?images={tmp_path}/a&b=c")
    assert isinstance(entry, Example) and entry.image == tmp_path / "a&b=c" / "a.jpg"


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "a.json", RECORDS)
    put(tmp_path / "a.jsonl", lines(ROWS))
    put(tmp_path / "m" / "filter_cap.json", {"annotations": [{"image_id": "1", "caption": "A cat."}]})
    (entry, _) = load_data("llava:~/a.json?images=~/p")
    assert isinstance(entry, Example) and entry.image == tmp_path / "p" / "a.jpg"
    assert texts("text:~/a.jsonl#t") == ["one", "two"] and len(load_data("minigpt:~/m")) == 1
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "~" / "a.txt", b"mine\n")
    assert texts("text:~/a.txt") == ["mine"]


@pytest.mark.parametrize("content", [json.dumps(ROWS), json.dumps(ROWS, indent=1), "\n " + json.dumps(ROWS)])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.JSON"])
def test_rows_in_a_list(tmp_path: Path, content: str, name: str) -> None:
    data = BOM + content.encode()
    file = put(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
    assert texts(f"text:{file}#t") == ["one", "two"]
    dolly = put(tmp_path / "dolly.json", [{"context": "A text."}, {"context": ""}, 3])
    entries = list(load_data(f"dolly-15k:{dolly}"))
    assert entries == [
        Example("1", None, "", "A text."),
        Skipped("3", "entry 3: a number (3), expected a JSON object"),
    ]


def test_rows_in_lines_stay_rows_in_lines(tmp_path: Path) -> None:
    file = put(tmp_path / "a#b.jsonl", BOM + lines([[ROWS[0]], *ROWS], b"\r\n") + b"\r\n")
    first, *others, empty = load_data(f"text:{file}?duplicates=keep#t")
    assert first == Skipped("1", "line 1: a list, expected a JSON object")
    assert [entry.id for entry in others] == ["2", "3"] and empty == Skipped("4", "line 4: empty line")
    with pytest.raises(
        DataError, match="one JSON object, with the keys 'version', 'data'; write its rows one per line"
    ):
        load_data(f"text:{put(tmp_path / 'b.json', json.dumps({'version': 1, 'data': ROWS}, indent=1).encode())}#t")


def tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("0.jpg"))
    return content.getvalue()


OTHERS = {
    "a.csv": (b"t\nx\n", "a table, which csv:FILE reads"),
    "a.CSV": (b"t\nx\n", "a table, "),
    "a.csv.gz": (gzip.compress(b"t\nx\n"), "a table, "),
    "a.tsv": (b"t\tu\n", "a table, which csv:FILE reads"),
    "b.txt": (b"\x28\xb5\x2f\xfd", "packed with Zstandard; (give it a name that ends in .zst|unpack it)"),
    "a.xz": (b"\xfd7zXZ\0", "packed with xz; unpack it"),
    "a.bz2": (b"BZh9", "packed with bzip2; unpack it"),
    "a.zip": (b"PK\x03\x04", "a ZIP archive; unpack it"),
    "a.txt": (gzip.compress(b"x\n"), "packed with gzip; give it a name that ends in .gz"),
    "a.tgz": (gzip.compress(b"x\n"), "packed with gzip; unpack it"),
    "a.tar.gz": (gzip.compress(b"x\n"), "a tar archive, perhaps of webdataset"),
    "00000.tar": (
        tar(),
        "a tar archive, perhaps of webdataset, whose samples webdataset:FILES reads; else unpack it",
    ),
    "shard": (tar(), "a tar archive, perhaps of webdataset, whose samples webdataset:FILES reads; else unpack it"),
    "part": (b"PAR1...", "a Parquet file; give it a name that ends in .parquet"),
    "a.arrow": (b"\xff\xff\xff\xff\0", r"an Arrow file, .*datasets.Dataset.from_file\(FILE\).to_parquet"),
    "b": (b"ARROW1\0\0", "an Arrow file, "),
    "a.pdf": (b"%PDF-1.7", "a PDF; extract its text"),
    "valid-labels.lst": (b"0\n1\n", "a list of labels; name the file with the rows"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("form", ["text", "llava", "dolly-15k"])
def test_other_files_are_named(tmp_path: Path, name: str, form: str) -> None:
    content, message = OTHERS[name]
    if form == "llava" and "gzip" in message:
        message = "packed with gzip; unpack it"
    elif form == "llava" and name.endswith(".gz"):
        message = "packed with gzip; unpack it"
    with pytest.raises(DataError, match=message):
        load_data(f"{form}:{put(tmp_path / name, content)}")


def test_packed_manifests_are_named_and_packed_texts_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.json.gz: packed with gzip; unpack it"):
        load_data(f"llava:{put(tmp_path / 'a.json.gz', gzip.compress(json.dumps(RECORDS).encode()))}")
    assert texts(f"text:{put(tmp_path / 'A.TXT.GZ', gzip.compress(b'x'))}") == ["x"]


@pytest.mark.parametrize("form", ["text", "llava", "minigpt", "dolly-15k"])
def test_folders_are_named(tmp_path: Path, form: str) -> None:
    for name in ("state.json", "dataset_dict.json"):
        put(tmp_path / name / name, b"{}")
        with pytest.raises(DataError, match=r"save_to_disk wrote, which saved:FOLDER reads"):
            load_data(f"{form}:{tmp_path / name}")
    put(tmp_path / "shards" / "00000.tar", tar())
    with pytest.raises(DataError, match="a tar archive, perhaps of webdataset"):
        load_data(f"{form}:{tmp_path}/shards")


def test_a_folder_for_a_file_and_a_file_for_a_folder(tmp_path: Path) -> None:
    file = put(tmp_path / "filter_cap.json", {"annotations": []})
    for form in ("text", "llava"):
        with pytest.raises(DataError, match=r"Is a directory\), expected a file; in it are filter_cap.json"):
            load_data(f"{form}:{tmp_path}")
    with pytest.raises(DataError, match=r"is a file, expected the folder that holds filter_cap.json and image/"):
        load_data(f"minigpt:{file}")
    with pytest.raises(DataError, match="the keys 'annotations'; minigpt:DIR reads"):
        load_data(f"llava:{file}")
    put(file, RECORDS)
    with pytest.raises(DataError, match="'conversations'; llava:FILE.json reads"):
        load_data(f"minigpt:{tmp_path}")


def test_originals_of_the_papers_sets(tmp_path: Path) -> None:
    choices = [{"text": "plants", "label": "A"}, {"text": "warmth", "label": "B"}]
    row = {"id": "7-980", "question": {"stem": "The sun gives", "choices": choices}, "answerKey": "B", "fact1": "f"}
    assert texts(f"openbookqa:{put(tmp_path / 'o.jsonl', row)}") == ["The sun gives warmth"]
    dev = {"qID": "x", "sentence": "The _ ran.", "option1": "cat", "option2": "dog", "answer": "2"}
    assert texts(f"winogrande:{put(tmp_path / 'dev.jsonl', dev)}") == ["The dog ran."]
    del dev["answer"]
    with pytest.raises(DataError, match=r"no field 'answer' .*; of winogrande's own files test.jsonl has no answers"):
        load_data(f"winogrande:{put(tmp_path / 'test.jsonl', dev)}")
    with pytest.raises(DataError, match=r"no field 'label' .* another one, as valid-labels.lst"):
        load_data(f"piqa:{put(tmp_path / 'valid.jsonl', {'goal': 'g', 'sol1': 'a', 'sol2': 'b'})}")
    with pytest.raises(DataError, match="or the name of one file with the rows"):
        load_data(f"hh-rlhf:{tmp_path}")


@pytest.mark.parametrize(
    ("data", "meant"),
    [
        ("LLaVA:a.json", "llava"),
        ("TEXT:a", "text"),
        ("Dolly-15k", "dolly-15k"),
        ("DEMO", "demo"),
        ("Hub:a/b#c", "hub"),
    ],
)
def test_names_in_capitals(data: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean {meant}"):
        load_data(data)
