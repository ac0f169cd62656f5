"""A person's own data: tables in memory and in files, by the names of their columns."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from mmerank import Example, align, load_data, perturb
from mmerank.errors import DataError, RunFolderError, SourceError, UsageError
from mmerank.inputs.example import DataStream, Skipped
from mmerank.inputs.pictures import Encoded, open_picture
from mmerank.inputs.selection import Selection
from mmerank.report.reopened import find_examples
from tests.test_alignment import ADAPTER
from tests.test_hub import picture

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "lime": (0, 255, 0)}
TEXTS = [f"It is {colour}, all over the picture." for colour in COLOURS]
PAIRS: Any = {"image": "file", "response": "caption", "instruction": "ask"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for colour in COLOURS:
        (tmp_path / "photos" / f"{colour}.png").write_bytes(picture(colour))
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def rows(images: Any, **more: Any) -> list[dict[str, Any]]:
    return [
        {"file": image, "caption": text, "ask": "Which colour?", "id": i + 7, **more}
        for i, (image, text) in enumerate(zip(images, TEXTS, strict=True))
    ]


def colours(data: Any) -> list[tuple[str, str, Any]]:
    """Id, text and the colour of the first pixel of each example; the reason of what was skipped."""
    return [
        (e.id, e.text, open_picture(e.image).getpixel((0, 0)))  # type: ignore[arg-type]
        if isinstance(e, Example)
        else (e.id, "", e.reason)
        for e in data
    ]


EXPECTED = [
    (str(i + 7), f"Which colour? {text}", rgb)
    for i, (text, rgb) in enumerate(zip(TEXTS, COLOURS.values(), strict=True))
]


def packed(folder: Path, pairs: list[tuple[str, bytes]], name: str = "000.tar") -> Path:
    with tarfile.open(folder / name, "w") as archive:
        for member, content in pairs:
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return folder / name


def samples() -> list[tuple[str, bytes]]:
    found = []
    for i, (colour, text) in enumerate(zip(COLOURS, TEXTS, strict=True)):
        about = json.dumps({"n": i + 7, "ask": "Which colour?"}).encode()
        found += [(f"a/{i:03}.jpg", picture(colour)), (f"a/{i:03}.txt", text.encode()), (f"a/{i:03}.json", about)]
    return found


# Every kind of table with the same three pairs in it.


@pytest.mark.parametrize("kind", ["paths", "Paths", "pictures", "bytes", "datasets"])
@pytest.mark.parametrize("table", ["rows", "frame"])
def test_tables_in_memory(photos: Path, kind: str, table: str) -> None:
    files = [photos / f"{colour}.png" for colour in COLOURS]
    images: dict[str, list[Any]] = {
        "paths": [str(file) for file in files],
        "Paths": files,
        "pictures": [Image.new("RGB", (4, 3), colour) for colour in COLOURS],
        "bytes": [picture(colour) for colour in COLOURS],
        "datasets": [{"bytes": picture(colour), "path": None} for colour in COLOURS],
    }
    given: Any = rows(images[kind])
    data = load_data(pd.DataFrame(given) if table == "frame" else given, name="mine", **PAIRS)
    assert colours(data) == EXPECTED and data.name == "mine"
    again = load_data(rows(images[kind]), **PAIRS)
    assert again.fingerprint == load_data(rows(images[kind]), **PAIRS).fingerprint == data.fingerprint
    others = rows(images[kind][::-1])
    assert load_data(others, **PAIRS).fingerprint != data.fingerprint


def hf() -> datasets.Dataset:
    contents = rows([{"bytes": picture(colour), "path": None} for colour in COLOURS])
    text, number = datasets.Value("string"), datasets.Value("int64")
    features = {"file": datasets.Image(), "caption": text, "ask": text, "id": number}
    return datasets.Dataset.from_list(contents, features=datasets.Features(features))


@pytest.mark.parametrize("form", ["memory", "saved", "streamed", "formatted", "parquet", "bytes"])
def test_tables_of_datasets(tmp_path: Path, form: str) -> None:
    table = hf()
    if form == "memory":
        assert colours(load_data(table, **PAIRS)) == EXPECTED
    elif form == "formatted":
        assert colours(load_data(table.with_format("numpy"), **PAIRS)) == EXPECTED
    elif form == "streamed":
        data = load_data(table.to_iterable_dataset(), name="stream", **PAIRS)
        assert isinstance(data, DataStream) and data.name == "stream"
        assert colours(data) == colours(data) == EXPECTED, "it is read anew each time"
    elif form == "saved":
        table.save_to_disk(str(tmp_path / "saved"))
        data = load_data(f"saved:{tmp_path}/saved", **PAIRS)
        assert colours(data) == EXPECTED
        assert data.name == f"saved:{tmp_path}/saved?image=file&response=caption&instruction=ask"
        assert load_data(data.name) == data or colours(load_data(data.name)) == EXPECTED
    elif form == "parquet":
        table.to_parquet(str(tmp_path / "t.parquet"))
        assert colours(load_data(f"parquet:{tmp_path}/t.parquet", **PAIRS)) == EXPECTED
    else:
        pd.DataFrame(rows([picture(colour) for colour in COLOURS])).to_parquet(tmp_path / "b.parquet")
        assert colours(load_data(f"parquet:{tmp_path}/b.parquet", **PAIRS)) == EXPECTED


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.csv.zst", "t.jsonl", "t.jsonl.zst", "t.parquet"])
@pytest.mark.parametrize("remote", [False, True])
def test_tables_in_files(photos: Path, name: str, remote: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame(rows([f"photos/{colour}.png" for colour in COLOURS]))
    file = photos.parent / name
    write: dict[str, Any] = {
        "csv": lambda: frame.to_csv(file, index=False),
        "tsv": lambda: frame.to_csv(file, index=False, sep="\t"),
        "jsonl": lambda: frame.to_json(file, orient="records", lines=True),
        "parquet": lambda: frame.to_parquet(file),
    }
    ending = name.split(".")[1]
    if name.endswith(".zst"):
        plain = photos.parent / name.removesuffix(".zst")
        write["csv"] = lambda: frame.to_csv(plain, index=False)
        write["jsonl"] = lambda: frame.to_json(plain, orient="records", lines=True)
        write[ending]()
        half = len(content := plain.read_bytes()) // 2
        pack = pa.Codec("zstd").compress
        # In two frames, as packers of several threads write it.
        file.write_bytes(b"".join(pack(part, asbytes=True) for part in (content[:half], content[half:])))
    else:
        write[ending]()
    kind = "csv" if ending == "tsv" else ending
    place = str(file)
    if remote:
        place = f"memory://{photos.parent}/{name}"
        for path in (file, *photos.iterdir()):
            fsspec.filesystem("memory").pipe(str(path), path.read_bytes())
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)  # with which datasets refuses all addresses
    assert colours(load_data(f"{kind}:{place}", **PAIRS)) == EXPECTED
    asked = f"{kind}:{place}?image=file&response=caption&instruction=ask&id=id"
    assert colours(load_data(asked)) == EXPECTED


@pytest.mark.parametrize("remote", [False, True])
def test_shards(tmp_path: Path, remote: bool) -> None:
    whole = packed(tmp_path, samples())
    again = packed(tmp_path, samples(), "001.tar")
    place = str(tmp_path)
    if remote:
        place = f"memory://{tmp_path}"
        for file in (whole, again):
            fsspec.filesystem("memory").pipe(str(file), file.read_bytes())
    options = "?image=jpg&response=txt&instruction=json.ask"
    assert colours(load_data(f"webdataset:{place}/000.tar{options}&id=json.n")) == EXPECTED
    both = colours(load_data(f"webdataset:{place}/*.tar{options}"))
    assert [found[1:] for found in both] == [found[1:] for found in EXPECTED] * 2
    assert both[0][0] == "000.tar a/000" and both[3][0] == "001.tar a/000"
    assert colours(load_data(f"webdataset:{place}/{{000..001}}.tar{options}")) == both
    with pytest.raises(DataError, match="no column 'png'; columns: jpg, txt, json.n, json.ask"):
        load_data(f"webdataset:{place}/000.tar", image="png", response="txt", instruction="")


def test_damaged_shards(tmp_path: Path) -> None:
    content = packed(tmp_path, samples()).read_bytes()
    options = "?image=jpg&response=txt&instruction=json.ask"
    (tmp_path / "cut.tar").write_bytes(content[:3000])
    *kept, last = colours(load_data(f"webdataset:{tmp_path}/cut.tar{options}&id=json.n"))
    assert kept[:1] == EXPECTED[:1] and "cut short or damaged behind" in last[2]
    header = content.index(b"a/001.jpg")
    damaged = content[:header] + b"x" * 512 + content[header + 512 :]
    (tmp_path / "bad.tar").write_bytes(damaged)
    *kept, last = colours(load_data(f"webdataset:{tmp_path}/bad.tar{options}&id=json.n"))
    assert kept == EXPECTED[:1] and "cut short or damaged behind 'a/000'" in last[2]
    (tmp_path / "no.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(DataError, match="not an unpacked tar archive"):
        load_data(f"webdataset:{tmp_path}/no.tar{options}")
    with pytest.raises(DataError, match="no such file"):
        load_data(f"webdataset:{tmp_path}/gone-*.tar{options}")


# What is wrong with the columns, or with a row.


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "say which column holds the text, response=COLUMN; columns: file, caption, ask, id"),
        ({"response": "text"}, "no column 'text'; columns: file, caption, ask, id"),
        ({**PAIRS, "image": "photo"}, "no column 'photo'; columns: file"),
        ({**PAIRS, "instruction": "question"}, "no column 'question'; columns"),
        ({**PAIRS, "id": "key"}, "no column 'key'; columns"),
        ({"image": "file", "response": "caption"}, r"say whether there is an instruction, .* instruction=\"\", for"),
    ],
)
def test_columns_are_named(tmp_path: Path, columns: Any, message: str) -> None:
    table = rows(["a.png", "b.png", "c.png"])
    pd.DataFrame(table).to_csv(tmp_path / "t.csv", index=False)
    frame = pd.DataFrame(table)
    plain = datasets.Dataset.from_list(table)
    for data in (table, frame, plain, plain.to_iterable_dataset(), f"csv:{tmp_path}/t.csv"):
        with pytest.raises(DataError, match=message):
            load_data(data, **columns)


def test_captions_alone_are_one_argument() -> None:
    data = load_data(rows(["a.png", "b.png", "c.png"]), image="file", response="caption", instruction="")
    assert [e.text for e in data if isinstance(e, Example)] == TEXTS


def test_texts_alone() -> None:
    table = [{"t": "a"}, {"t": "b"}, {"t": "a"}, {"t": None}, {"u": "x"}, {"t": 3}, {"t": " "}, 5]
    assert list(load_data(table, response="t")) == [
        Example("1", None, "", "a"),
        Example("2", None, "", "b"),
        Skipped("3", "same text as 1; the first is kept"),
        Skipped("4", "row 4: t is null, expected text"),
        Skipped("5", "row 5: no field 't'"),
        Skipped("6", "row 6: t is a number (3), expected text"),
        Skipped("7", "row 7: t is empty"),
        Skipped("8", "row 8: a number (5), expected a dictionary"),
    ]


def test_broken_rows_of_a_frame_cost_themselves() -> None:
    table = pd.DataFrame(rows(["a.png", None, 3.5]))
    table.loc[0, "caption"] = np.nan
    found = list(load_data(table, **PAIRS))
    assert [entry.reason for entry in found if isinstance(entry, Skipped)] == [
        "row 1: caption is null, expected text",
        "row 2: no image",
        "row 3: file is a number (3.5), expected a path, the content of a file or a PIL picture",
    ]
    twice = load_data(rows(["a.png"] * 3, id="same"), **PAIRS)
    assert [type(entry).__name__ for entry in twice] == ["Example", "Skipped", "Skipped"]


def test_broken_rows_of_csv(photos: Path) -> None:
    file = photos.parent / "t.csv"
    file.write_bytes(
        b'\xef\xbb\xbfid,file,caption\n001,photos/red.png,"NA, or\nred"\n2,photos/red.png\n3,photos/red.png,\xff\n'
        b'4,/etc/passwd,x\n5,../x.png,x\n6,s3://b/x.png,x\n7,photos/gone.png,x\n8,photos/red.png,"never ended\n'
    )
    found = list(load_data(f"csv:{file}", image="file", response="caption", instruction=""))
    assert found[0] == Example("001", photos / "red.png", "", "NA, or\nred")
    reasons = [entry.reason for entry in found if isinstance(entry, Skipped)]
    for reason, words in zip(
        reasons,
        [
            "row 2: 2 fields, where the first line has 3",
            "row 3: not UTF-8",
            "row 4: image '/etc/passwd' points outside",
            "row 5: image '../x.png' points outside",
            "row 6: image 's3://b/x.png' lies elsewhere than in",
            "row 8: not CSV, up to line 10",
        ],
        strict=True,
    ):
        assert reason.startswith(words)
    assert len(found) == 8, "a file that is gone is told when it is opened"


def test_options_are_checked(tmp_path: Path) -> None:
    pd.DataFrame(rows("abc")).to_csv(tmp_path / "t.csv", index=False)
    for data, options, message in [
        ("demo", {"response": "x"}, "'demo': response name columns, which only csv:"),
        (f"csv:{tmp_path}/t.csv?response=caption", {"response": "ask"}, "names response already"),
        (f"csv:{tmp_path}/t.csv?respnse=caption", {}, "unknown option 'respnse'"),
        (f"csv:{tmp_path}/t.csv", {"response": "a&b"}, "holds a sign"),
        (f"csv:{tmp_path}/t.csv", {"response": ""}, "expected the name of a column, got nothing"),
        (f"csv:{tmp_path}/t.csv?duplicates=drop&response=caption", {}, "duplicates=drop; known: keep"),
        (rows("abc"), {"name": " ", **PAIRS}, "expected text on one line"),
    ]:
        with pytest.raises(UsageError, match=message):
            load_data(data, **options)
    with pytest.raises(TypeError, match="name of a column"):
        load_data(rows("abc"), response=3)  # type: ignore[call-overload]


def test_an_odd_name_of_a_file(photos: Path) -> None:
    file = photos.parent / "a?x=1.csv"
    pd.DataFrame(rows([f"photos/{colour}.png" for colour in COLOURS])).to_csv(file, index=False)
    data = load_data(f"csv:{file}", **PAIRS)
    assert colours(data) == EXPECTED == colours(load_data(data.name))


def test_files_that_fail(tmp_path: Path) -> None:
    for data, message in [
        ("csv:gone.csv", "gone.csv: cannot be read"),
        ("jsonl:gone.jsonl", "gone.jsonl: cannot be read"),
        ("parquet:gone.parquet", "no such file"),
        ("saved:gone", "no such file or folder"),
        ("csv:memory://gone/x.csv", "memory://gone/x.csv: no such file"),
        ("csv:nowhere://gone/x.csv", "nowhere://gone/x.csv: .*nowhere"),
        ("webdataset:memory://gone/x.tar", "no such file"),
    ]:
        with pytest.raises(DataError, match=message):
            load_data(data, response="x")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "head.csv").write_text("a,b\n")
    for name, message in [("empty", "empty file"), ("head", "no rows")]:
        with pytest.raises(DataError, match=message):
            load_data(f"csv:{tmp_path}/{name}.csv", response="a")
    with pytest.raises(DataError, match="rows: no rows|DataFrame: no rows"):
        load_data(pd.DataFrame({"t": []}), response="t")


def test_a_remote_picture_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmerank.inputs.pictures.RETRY_AFTER_S", ())
    (gone,) = load_data([{"i": "memory://gone/a.png", "t": "x"}], image="i", response="t", instruction="")
    assert isinstance(gone, Example) and isinstance(gone.image, Encoded)
    with pytest.raises(DataError, match="no such file"):
        open_picture(gone.image)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no credentials")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "_open", fail)
    with pytest.raises(SourceError, match="cannot be fetched .no credentials"):
        open_picture(gone.image)


# Examples themselves.


def test_examples_take_what_people_have(tmp_path: Path) -> None:
    assert Example(3, "a.png", "", "x") == Example("3", Path("a.png"), "", "x")
    assert Example(np.int64(3), None, "", "x").id == "3"  # type: ignore[arg-type]
    of_bytes = Example(1, {"bytes": picture("red"), "path": None}, "", "x")
    assert isinstance(of_bytes.image, Encoded) and open_picture(of_bytes.image).getpixel((0, 0)) == (255, 0, 0)


# Streams, runs, reports.


def test_a_stream_is_not_read_further_than_asked() -> None:
    seen = []

    def endless() -> Iterator[dict[str, Any]]:
        for i in range(10**9):
            seen.append(i)
            yield {"id": i, "file": {"bytes": picture("red"), "path": None}, "caption": "Red.", "ask": "What?"}

    stream = datasets.IterableDataset.from_generator(endless)
    data = load_data(stream, **PAIRS)
    assert [entry.id for entry in Selection(20).of(data)] == [str(i) for i in range(20)]
    assert len(seen) < 200
    with pytest.raises(UsageError, match="shuffle the stream itself"):
        Selection(20, 1).of(data)
    with pytest.raises(UsageError, match="a stream may have no end; give a limit"):
        perturb(ADAPTER, data, ["rotate:90"])


def test_runs_of_streams_are_continued_and_checked(llava_tiny: Any, tmp_path: Path) -> None:
    table = hf()
    data = load_data(table.to_iterable_dataset(), name="mine", **PAIRS)
    first = align(llava_tiny, data, limit=2, out=tmp_path / "run")
    assert first.data == "mine" and first.n == 2
    again = align(llava_tiny, data, limit=2, out=tmp_path / "run")
    assert again.to_dict() == first.to_dict()
    whole = align(llava_tiny, data)
    assert whole.n == 3
    assert whole.erank5 == pytest.approx(align(llava_tiny, load_data(table, **PAIRS)).erank5, rel=1e-9)
    other = load_data(table.select([1, 0, 2]).to_iterable_dataset(), name="mine", **PAIRS)
    with pytest.raises(RunFolderError, match="fingerprint"):
        align(llava_tiny, other, limit=2, out=tmp_path / "run")


def test_a_run_knows_its_data_and_a_report_reads_them_again(llava_tiny: Any, photos: Path) -> None:
    folder = photos.parent
    pd.DataFrame(rows([f"photos/{colour}.png" for colour in COLOURS])).to_csv(folder / "t.csv", index=False)
    packed(folder, samples())
    from mmerank.analysis.finished import read_runs

    for i, (data, columns) in enumerate(
        [
            (f"csv:{folder}/t.csv", PAIRS),
            (f"webdataset:{folder}/000.tar", {"image": "jpg", "response": "txt", "instruction": "json.ask"}),
        ]
    ):
        loaded = load_data(data, name="mine", **columns)
        align(llava_tiny, loaded, out=folder / f"run{i}")
        stated = json.loads((folder / f"run{i}" / "run.json").read_text())["data"]
        assert stated["name"] == "mine" and stated["source"].startswith(f"{data}?image=")
        (run,) = read_runs([folder / f"run{i}"])
        assert find_examples(run)[1].startswith("the data are neither in the run's folder nor")
        found, missing = find_examples(run, with_data=True)
        assert not missing and {example.response for example in found.values()} == set(TEXTS)
    align(llava_tiny, load_data(hf(), **PAIRS), out=folder / "memory")
    (run,) = read_runs([folder / "memory"])
    assert find_examples(run) == ({}, "the data are not in local files, and a report fetches nothing")


def test_pandas_is_not_loaded_for_rows() -> None:
    from tests.test_imports import modules_after

    code = "import mmerank; mmerank.load_data([{'t': 'x'}], response='t')"
    assert not {"pandas", "datasets", "fsspec", "torch"} & modules_after(code)
