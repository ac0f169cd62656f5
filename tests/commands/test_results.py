"""Where results are written: what a person names is followed and stays, and what cannot be is refused at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mmerank import Example, align, load_data
from mmerank.commands.results import check_writable, write_json
from mmerank.errors import RunFolderError, UsageError
from mmerank.inputs.demo.scenes import export, scene
from mmerank.report.write import report
from mmerank.runs.folder import RunFolder
from tests.adapters.cases import LLAVA
from tests.test_cli import failure

WRITTEN = '{\n "a": 1\n}\n'


def write(path: Path) -> None:
    check_writable(str(path))
    before = path.exists()
    write_json({"a": 1}, str(path))
    assert before == path.exists() or path.is_file()


def test_a_new_file_and_one_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    check_writable(str(path))
    assert not list(tmp_path.iterdir())
    write(path)
    path.write_text("old")
    path.chmod(0o600)
    check_writable(str(path))
    assert path.read_text() == "old"
    write(path)
    assert path.read_text() == WRITTEN and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_written(there: bool, tmp_path: Path) -> None:
    target, link = tmp_path / "a" / "target.json", tmp_path / "link.json"
    target.parent.mkdir()
    (tmp_path / "second.json").symlink_to("a/target.json")
    link.symlink_to("second.json")
    if there:
        target.write_text("old")
    check_writable(str(link))
    assert link.is_symlink() and target.exists() is there
    write(link)
    assert link.is_symlink() and not target.is_symlink() and target.read_text() == WRITTEN
    assert len(list(tmp_path.rglob("*"))) == 4


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")

    def full(self: Path, text: str) -> int:
        with self.open("w") as file:
            file.write(text[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_json({"a": 1}, str(path))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "to-folder").symlink_to("folder")
    (tmp_path / "nowhere").symlink_to("gone/out.json")
    (tmp_path / "loop").symlink_to("loop")
    for name, words in (
        ("folder", "is a folder"),
        ("to-folder", "is a folder"),
        ("nowhere", "no such folder"),
        ("gone/out.json", "no such folder"),
        ("loop", "cannot be written"),
        ("a" * 300, "cannot be written"),
        ("s3://bucket/out.json", "an address"),
    ):
        asked = name if ":" in name else str(tmp_path / name)
        with pytest.raises(UsageError, match=f"--json .*{words}"):
            check_writable(asked)
    assert len(list(tmp_path.iterdir())) == 4 and (tmp_path / "nowhere").is_symlink()


def test_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 120 + ".json")
    write(path)
    assert path.read_text() == WRITTEN


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("linked", [True, False])
def test_a_pipe_stays_one(linked: bool, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    asked = tmp_path / "link" if linked else pipe
    if linked:
        asked.symlink_to(pipe)
    # In a process of its own: without a reader it would wait.
    code = (
        "import sys; from mmerank.commands.results import check_writable as c, write_json as w; "
        "c(sys.argv[1]); print('checked', flush=True); w({'a': 1}, sys.argv[1])"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(asked)], stdout=subprocess.PIPE, text=True)
    kill = threading.Timer(60, child.kill)
    kill.start()
    try:
        assert child.stdout is not None and child.stdout.readline() == "checked\n"
        assert pipe.read_text() == WRITTEN and child.wait() == 0
    finally:
        kill.cancel()
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(sys.platform == "win32", reason="no such devices")
def test_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("/dev/null", "/dev/stdout", "-"):
        check_writable(name)
        alone = write_json({"a": 1}, name)
        assert alone is (name != "/dev/null") and capsys.readouterr().out == (WRITTEN if alone else "")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


ADDRESSES = [
    "s3://bucket/x",
    "gs://bucket/x",
    "hdfs://host/x",
    "https://host/x",
    "file:///tmp/x",
    "hf://datasets/a/b",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_are_refused_everywhere(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mmerank.inputs.load", None)  # nothing is read, or imported, before
    for command in (
        ("align", "m", "--data", "demo", "--out", address),
        ("align", "m", "--data", "demo", "--json", address),
        ("perturb", "m", "--data", "demo", "--out", address),
        ("diff", "m", "--data", "text:x", "--out", address),
        ("demo", "--out", address),
        ("demo", "--export", address),
        ("doctor", "m", "--json", address),
        ("reproduce", "table2", "--out", address),
        ("report", "run", "--out", address),
    ):
        status, line = failure(*command)
        option = next(word for word in command if word.startswith("--") and word != "--data")
        assert status == 2 and line.startswith(f"error: {option} {address[:2]}") and "local folders" in line
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="an address"):
        align(LLAVA.adapter, load_data("demo"), out=address, limit=2)
    with pytest.raises(UsageError, match="an address"):
        report(["run"], address)
    with pytest.raises(UsageError, match="an address"):
        export([], Path(address))
    assert not list(tmp_path.iterdir())


def test_an_export_is_written_through_no_link(tmp_path: Path) -> None:
    kept, outside = tmp_path / "kept", tmp_path / "outside"
    kept.write_text("mine")
    outside.mkdir()
    first = scene("held-out", 0)
    (tmp_path / "demo" / "images").mkdir(parents=True)
    for name in ("scenes.json", f"images/{first.name}.png"):
        (tmp_path / "demo" / name).symlink_to(kept)
    export([first], tmp_path / "demo")
    assert kept.read_text() == "mine"
    (entry,) = load_data(f"llava:{tmp_path}/demo/scenes.json")
    assert isinstance(entry, Example) and entry.response == first.description
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "images").symlink_to(outside)
    with pytest.raises(UsageError, match="linked: cannot be written to .images is a link"):
        export([first], tmp_path / "linked")
    assert not list(outside.iterdir())


@pytest.mark.parametrize("name", [".lock", ".lock-settings", ".locks", "records", "run.json", "summary.json"])
def test_a_run_is_written_through_no_link(name: str, tmp_path: Path) -> None:
    """A run folder that was received, and is continued."""
    kept, outside, run = tmp_path / "kept", tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    RunFolder(run, {"job": "align"}).add_model("m", {})
    kept.write_text((run / "run.json").read_text())
    if (run / name).is_dir():
        (run / name).rmdir()
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside if name in ("records", ".locks") else kept)
    before = kept.read_text()
    try:
        folder = RunFolder(run, {"job": "align"})
        folder.add_model("other", {})
        with folder.writing(), folder.share("a", wait=False):
            folder.write_summary({})
        refused = False
    except RunFolderError as error:
        assert "is a link" in str(error) and name in str(error)
        refused = True
    assert refused is (name not in ("run.json", "summary.json"))
    assert kept.read_text() == before and not list(outside.iterdir())
