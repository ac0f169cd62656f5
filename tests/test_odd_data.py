"""What a newcomer hands over by mistake, or in another form, is taken or answered in words."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from mmerank import Example, align, load, load_data
from mmerank.errors import DataError, SourceError, UsageError
from mmerank.inputs.pictures import open_picture
from tests.test_hub import picture
from tests.test_own_data import PAIRS, packed, rows


class _Web(BaseHTTPRequestHandler):
    """A picture, or the status that the path names."""

    def do_GET(self) -> None:
        status = int(self.path[1:]) if self.path[1:].isdecimal() else 200
        content = picture("red") if status == 200 else b"no"
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("mmerank.inputs.pictures.RETRY_AFTER_S", ())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def example(address: str) -> Any:
    (found,) = load_data(rows([address] * 3)[:1], **PAIRS)
    return found


def test_what_the_web_does_not_give_is_not_what_it_does_not_have(web: str) -> None:
    assert open_picture(example(f"{web}/red.png").image).getpixel((0, 0)) == (255, 0, 0)
    for status in (404, 410):
        with pytest.raises(DataError, match=rf"/{status}: no such file$") as raised:
            open_picture(example(f"{web}/{status}").image)
        assert not isinstance(raised.value, SourceError)
    for status in (403, 429, 503):
        with pytest.raises(SourceError, match=rf"/{status}: cannot be fetched \({status}"):
            open_picture(example(f"{web}/{status}").image)
    with pytest.raises(SourceError, match=r"503: cannot be fetched \(503"):
        load_data(f"csv:{web}/503", **PAIRS)


def test_a_web_that_is_gone_stops_a_run(web: str) -> None:
    gone = f"{web}/503"
    entries = [Example(i, gone, "", "A red ball.") for i in range(9)]
    with pytest.raises(DataError, match="8 examples in a row could not be read"):
        align(load("demo-llava"), entries)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1, 2], "got list; a table is a DataFrame, a datasets.Dataset or a list of dictionaries"),
        ({"file": ["a.png"], "caption": ["A"]}, r"got dict; of columns, pandas.DataFrame\(DATA\) makes a table"),
        ((row for row in rows(["a.png"] * 3)), "got generator; a table is"),
        (pd.Series(["A text."]), "got Series; a table is"),
        (
            ["A text.", "Another."],
            r"list of texts; load_data\(\[{'text': of} for of in DATA\], response='text'\)",
        ),
    ],
    ids=["numbers", "columns", "generator", "series", "texts"],
)
def test_what_is_no_table_is_answered_with_what_is_one(given: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        load_data(given, **PAIRS)


def test_nothing_is_no_rows() -> None:
    with pytest.raises(DataError, match="^rows: no rows$"):
        load_data([], **PAIRS)


def test_a_path_without_its_kind(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,caption\n")
    with pytest.raises(UsageError, match=r"a file; say how it is read: csv:.*a\.csv\?image="):
        load_data(str(tmp_path / "a.csv"), **PAIRS)


def test_blanks_in_a_head_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file, caption,ask\na.png,A,B\n")
    with pytest.raises(DataError, match="no column 'caption'; columns: file, ' caption', ask"):
        load_data(f"csv:{tmp_path / 'a.csv'}", **PAIRS)


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_utf_16(tmp_path: Path, order: str) -> None:
    (tmp_path / "a.csv").write_bytes("\ufefffile,caption\na.png,A\n".encode(order))
    with pytest.raises(DataError, match=r"a\.csv: stored as UTF-16; save it as UTF-8"):
        load_data(f"csv:{tmp_path / 'a.csv'}", **PAIRS)


def test_whole_ids_beside_a_missing_one() -> None:
    """pandas makes floats of a column of whole numbers with a gap."""
    frame = pd.DataFrame(rows(["a.png"] * 3)).assign(id=[7, np.nan, 1e3])
    assert frame["id"].dtype == float
    assert [entry.id for entry in load_data(frame, **PAIRS)] == ["7", "2", "1000"]


def test_a_transform_of_datasets_is_not_left_out_unsaid() -> None:
    data = datasets.Dataset.from_list(rows(["a.png"] * 3))
    with pytest.raises(DataError, match=r"has a transform of its own .* with map"):
        load_data(data.with_transform(lambda batch: batch), **PAIRS)
    assert len(list(load_data(data.with_format("numpy"), **PAIRS))) == 3


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "red.png").write_bytes(picture("red"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_picture(example("~/red.png").image).getpixel((0, 0)) == (255, 0, 0)


def test_a_text_in_a_shard_that_is_none(tmp_path: Path) -> None:
    pairs = [("a.png", picture("red")), ("a.txt", b"A"), ("b.png", picture("red")), ("b.txt", b"\xff")]
    shard = packed(tmp_path, pairs)
    _, skipped = load_data(f"webdataset:{shard}", image="png", response="txt", instruction="")
    assert "txt is bytes, expected text" in skipped.reason  # type: ignore[union-attr]


def test_long_texts_are_cut_without_noise(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = load("demo-llava")
    caplog.clear()
    result = align(model, [Example(0, next(iter(load_data("demo"))).image, "", "word " * 5000)])  # type: ignore[union-attr]
    assert "text cut at the model's limit: 1 of the examples" in str(result)
    assert "maximum sequence length" not in capfd.readouterr().err + caplog.text
