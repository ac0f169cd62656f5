"""A run folder from somebody else: where it may send a report to, and what it may have written over."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmerank import TextConvention, align, diff, load_data
from mmerank.errors import UsageError
from mmerank.jobs.diff import open_diff_run
from mmerank.report.write import report
from tests import forked
from tests.adapters.cases import LLAVA
from tests.adapters.text_cases import OPT
from tests.conftest import LONGEST_S

SECRET = "the secret word is xyzzy"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of pairs in a folder with its data: `home/received/run`, `home/received/data`."""
    folder = tmp_path_factory.mktemp("pictures") / "received"
    (folder / "data" / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    records = []
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / "data/images" / f"{i}.png")
        turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": f"{SECRET} {'word ' * (i + 3)}"}]
        records.append({"id": f"{i}", "image": f"{i}.png", "conversations": turns})
    (folder / "data" / "x.json").write_text(json.dumps(records))
    align(LLAVA.adapter, load_data(f"llava:{folder}/data/x.json"), out=folder / "run")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "x.txt").write_text("\n".join(f"{SECRET} {'word ' * i}" for i in range(1, 5)))
    data = load_data(f"text:{folder}/x.txt")
    run = open_diff_run(folder / "run", data, TextConvention(), layers="")
    run.write_summary({"results": [diff(OPT.adapter, data, out=run).to_dict()]})
    return folder


def received(original: Path, there: Path, data: str | None = None) -> Path:
    """A copy of a run that names other data."""
    shutil.copytree(original, there, ignore=shutil.ignore_patterns("report"))
    if data is not None:
        content = json.loads((there / "run.json").read_text())
        content["data"]["name"] = data
        (there / "run.json").write_text(json.dumps(content))
    return there


def page(run: Path, *, with_data: bool = False) -> str:
    (path,) = report([run], formats=["html"], with_data=with_data)
    return path.read_text()


def test_data_elsewhere_are_read_when_asked_for(pictures: Path, texts: Path) -> None:
    for run in (pictures / "run", texts / "run"):
        found = page(run)
        assert SECRET not in found and "data:image/jpeg" not in found
        assert "neither in the run&#39;s folder nor in the current one" in found and "--with-data" in found
        found = page(run, with_data=True)
        assert SECRET in found and "Without texts and pictures" not in found
        assert ("data:image/jpeg" in found) is (run.parent == pictures)


@pytest.mark.parametrize("place", [".", "..", "data"])
def test_data_below_the_current_folder_are_read(place: str, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures / place)
    found = page(pictures / "run")
    assert SECRET in found and "data:image/jpeg" in found
    monkeypatch.chdir("/")  # below which everything lies
    assert SECRET not in page(pictures / "run")


def test_data_in_the_folder_of_the_run_are_read(pictures: Path, tmp_path: Path) -> None:
    run = received(pictures / "run", tmp_path / "run", f"llava:{tmp_path}/run/data/x.json")
    shutil.copytree(pictures / "data", run / "data")
    found = page(run)
    assert SECRET in found and "data:image/jpeg" in found


def test_pictures_elsewhere_stay_where_they_are(pictures: Path, tmp_path: Path) -> None:
    """The manifest is the sender's own, with the right fingerprint; the pictures are not."""
    outside = tmp_path / "private"
    shutil.copytree(pictures / "data" / "images", outside)
    ways = {"option": f"llava:{tmp_path}/option/x.json?images={outside}", "link": f"llava:{tmp_path}/link/x.json"}
    for name, data in ways.items():
        run = received(pictures / "run", tmp_path / name, data)
        shutil.copy(pictures / "data" / "x.json", run)
        if name == "link":
            (run / "images").symlink_to(outside)
        found = page(run)
        assert "data:image/jpeg" not in found and "--with-data" in found
    run = received(pictures / "run", tmp_path / "single", f"llava:{tmp_path}/single/x.json")
    shutil.copy(pictures / "data" / "x.json", run)
    (run / "images").mkdir()
    for i in range(4):
        (run / "images" / f"{i}.png").symlink_to(outside / f"{i}.png")
    assert "data:image/jpeg" not in page(run) and "data:image/jpeg" not in page(run, with_data=True)


def test_a_link_to_a_text_elsewhere(texts: Path, tmp_path: Path) -> None:
    run = received(texts / "run", tmp_path / "run", f"text:{tmp_path}/run/x.txt")
    (run / "x.txt").symlink_to(texts / "x.txt")
    assert SECRET not in page(run) and SECRET in page(run, with_data=True)


def test_the_home_folder_is_elsewhere(
    pictures: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers take `~` for it, wherever the command is called."""
    monkeypatch.chdir(tmp_path)
    for original, data in ((texts, "text:~/x.txt"), (pictures, "llava:~/data/x.json?images=~/data/images")):
        monkeypatch.setenv("HOME", str(original))
        run = received(original / "run", tmp_path / original.name, data)
        found = page(run)
        assert SECRET not in found and "data:image/jpeg" not in found and "--with-data" in found
        assert SECRET in page(run, with_data=True)


@pytest.mark.parametrize(
    "data", [f"text:{'x' * 5000}", f"llava:{'x' * 5000}", "text:\0", "llava:x?y=1", "minigpt:\0"]
)
def test_data_that_no_reader_takes_cost_no_report(data: str, texts: Path, tmp_path: Path) -> None:
    for with_data in (False, True):
        found = page(received(texts / "run", tmp_path / f"run{with_data}", data), with_data=with_data)
        assert "Without texts and pictures" in found and SECRET not in found


@pytest.mark.parametrize(
    "data",
    [
        "llava:{0}",
        "minigpt:{1}",
        "text:{0}#xyzzy",
        "piqa:{0}",
        "text:{1}/x.jsonl#{0}",
        "text:{1}/x.jsonl?{0}",
        "dolly-15k:{1}",
    ],
)
def test_nothing_of_another_file_is_quoted(
    data: str, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"password-plugh": "xyzzy-7"}))
    for name in ("filter_cap.json", "x.jsonl", "databricks-dolly-15k.jsonl"):
        shutil.copy(secret, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    run = received(texts / "run", tmp_path / "run", data.format(secret, tmp_path))
    for with_data in (False, True):
        found = page(run, with_data=with_data)
        assert "plugh" not in found and "xyzzy-7" not in found
        assert "could not be read again" in found or "not found" in found
    said = capfd.readouterr()
    assert "plugh" not in said.out + said.err


# In a process of its own, which may hang, or take all the memory there is.
REPORT = """
import sys
from mmerank.report.write import report
for with_data in (False, True):
    report([sys.argv[1]], formats=["html"], with_data=with_data)
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize(
    "data",
    ["text:/dev/zero", "text:pipe", "text:zero", "llava:pipe", "llava:/dev/zero", "text:pipe.jsonl#t", "minigpt:."],
)
def test_what_has_no_end_is_not_read(data: str, texts: Path, tmp_path: Path) -> None:
    run = received(texts / "run", tmp_path / "run", data)
    for name in ("pipe", "pipe.jsonl", "filter_cap.json"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zero").symlink_to("/dev/zero")
    limits = {resource.RLIMIT_DATA: (3_000_000_000, -1)}
    done = forked.run(["-c", REPORT, str(run)], cwd=tmp_path, limits=limits, timeout=LONGEST_S)
    assert done.returncode == 0, done.stderr
    assert "could not be read again" in (run / "report" / "report.html").read_text()


def test_files_are_not_written_through_links(texts: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("mine")
    run = received(texts / "run", tmp_path / "run")
    figures = run / "report" / "figures"
    figures.mkdir(parents=True)
    for path in (run / "report" / "numbers.csv", run / "report" / "report.html", figures / "eranks.pdf"):
        path.symlink_to(kept)
    (figures / "spectra-texts.png").symlink_to(kept)
    os.link(kept, figures / "spectra-texts.pdf")
    written = report([run])
    assert kept.read_text() == "mine" and not any(path.is_symlink() for path in written)
    assert {"numbers.csv", "report.html", "spectra-texts.png"} <= {path.name for path in written}


@pytest.mark.parametrize("name", ["report", "report/figures"])
def test_folders_that_are_links_are_refused(name: str, texts: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    run = received(texts / "run", tmp_path / "run")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(outside)
    with pytest.raises(UsageError, match=f"{name}: cannot be written to .{Path(name).name} is a link"):
        report([run])
    assert not list(outside.iterdir())
    if name == "report":  # named by a person it is followed
        report([run], run / name, formats=["csv"])
        assert len(list(outside.iterdir())) == 2


def test_a_folder_in_the_place_of_a_file(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "numbers.csv").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"numbers.csv: cannot be written to"):
        report([texts / "run"], tmp_path / "out")
