"""Runs go up to the hub without what is private, and come back with the same numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmerank import (
    Alignment,
    Convention,
    Diff,
    Results,
    align,
    diff,
    encode,
    estimates,
    load,
    load_data,
    load_encoder,
)
from mmerank.__main__ import main
from mmerank.errors import RunFolderError, UsageError
from mmerank.inputs.example import DataSet, Example, Skipped
from mmerank.report.push import PushError, push
from mmerank.runs.fetched import run_folder
from mmerank.runs.shared import NOT_SHARED, without_folders
from tests.adapters.text_cases import OPT
from tests.encoder_models import save_timm
from tests.hub_standin import Hub, hub_standin
from tests.test_diff_erank import texts

ROWS = Convention(rows=True, match_tokens=4, metrics=("stable_rank",))
SECRET = "a picture of somebody at home"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, golden: Path, golden_pairs: Path) -> Path:
    """A run of each kind, of a model and data that are named by their folders."""
    folder = tmp_path_factory.mktemp("runs")
    data = load_data(f"llava:{golden_pairs}?images={golden}/images")
    skipped = DataSet(data.name, "with one", (*data, Skipped("4", f"cannot be read: {SECRET}")))
    model = load(golden / "llava_tiny" / "hf_model", device="cpu")
    result = align(model, skipped, convention=ROWS, out=folder / "pairs")
    write(folder / "pairs" / "summary.json", {"results": [result.to_dict()]})
    diff(OPT.adapter, texts(3), layers="all", seeds=(0, 3), out=folder / "texts")
    encoder = save_timm(tmp_path_factory.mktemp("model") / "m.pth", "test_resnet")
    encode(load_encoder(encoder, device="cpu"), load_data("demo"), limit=3, out=folder / "encoder")
    for name in ("pairs", "texts", "encoder"):
        (folder / name / "command.yaml").write_text(f"data: {golden_pairs}\n")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_standin(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def said(files: dict[str, bytes], tmp_path: Path) -> str:
    """All text in files, that in tables too."""
    found = []
    for name, content in files.items():
        found.append(name)
        if name.endswith(".parquet"):
            (tmp_path / "part.parquet").write_bytes(content)
            table = pq.read_table(tmp_path / "part.parquet")
            texts = [column for column in table.column_names if str(table.schema.field(column).type) == "string"]
            found.append(json.dumps([table[column].to_pylist() for column in texts]))
        else:
            found.append(content.decode())
    return "\n".join(found)


def test_what_goes_up_comes_back(runs: Path, hub: Hub) -> None:
    address = push([runs], "me/runs", private=True)
    (commit,) = list(hub.commits["me/runs"])[1:]
    assert address.endswith(f"/datasets/me/runs/commit/{commit}") and hub.private == {"me/runs": True}
    hub.files("me/runs")["runs/pairs/code.py"] = b"print()"
    hub.asked.clear()
    for name in ("pairs", "texts", "encoder"):
        there, here = estimates(f"hub:me/runs/{name}"), estimates(runs / name)
        assert there.drop(columns="model").equals(here.drop(columns="model"))
    mine, its = Alignment.from_run(runs / "pairs"), Alignment.from_run("hub:me/runs/pairs")
    assert its.model == "hf_model" and its.data == "llava:pairs.json?images=images"
    assert its.intervals == mine.intervals and [entry.id for entry in its.skipped] == ["4"]
    for a, b in zip(its.records, mine.records, strict=True):
        assert (a.example, a.entropy, a.metrics) == (b.example, b.entropy, b.metrics)
        assert np.array_equal(a.spectrum, b.spectrum)
    # Tokens are numbered, so that it can be counted how often one is the strongest.
    assert its.rows and mine.rows
    assert [of["strongest_in"] for of in its.rows.values()] == [of["strongest_in"] for of in mine.rows.values()]
    assert Diff.from_run("hub:me/runs/texts").diff_erank == Diff.from_run(runs / "texts").diff_erank
    assert [type(of).__name__ for of in Results.from_run("hub:me/runs")] == ["Encoding", "Alignment", "Diff"]
    assert not [line for line in hub.asked if "code.py" in line or "README" in line]


def test_a_dry_run_shows_what_goes_up_and_sends_nothing(
    runs: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as without, pytest.raises(SystemExit) as stopped:
        without.delenv("HF_TOKEN")
        main(["push", str(runs / "texts"), "--to", "me/runs", "--dry-run"])
    shown = capsys.readouterr().out
    assert not stopped.value.code and not hub.asked and not hub.commits
    card, _, listed = shown.partition("files for me/runs, in bytes:")
    push([runs / "texts"], "me/runs")
    sent = hub.files("me/runs")
    assert card.startswith(sent["README.md"].decode())
    listing = {name: size for size, name in (line.split() for line in listed.splitlines() if line.strip())}
    sizes = {name: f"{len(content):,}" for name, content in sent.items() if name != ".gitattributes"}
    assert listing == sizes


def test_nothing_private_goes_up(runs: Path, hub: Hub, golden: Path, tmp_path: Path) -> None:
    push([runs / "pairs", runs / "encoder"], "me/runs")
    content = said(hub.files("me/runs"), tmp_path)
    mine = Alignment.from_run(runs / "pairs")
    tokens = {record.strongest_token for record in mine.records if "'" in record.strongest_token}
    assert tokens and "text token 1" in content and NOT_SHARED in content and "command.yaml" not in content
    shown = [entry.text for entry in load_data("demo") if isinstance(entry, Example)]
    hidden = [str(golden), str(golden.parents[1]), str(runs), SECRET, *tokens, *shown]
    assert not [text for text in hidden if text in content]


def test_the_card(runs: Path, hub: Hub) -> None:
    push([runs / "pairs", runs / "texts"], "me/runs")
    card = hub.files("me/runs")["README.md"].decode()
    (result,) = json.loads((runs / "pairs" / "summary.json").read_text())["results"]
    (row,) = [line for line in card.splitlines() if line.startswith(r"| llava:pairs.json | hf\_model | all | 3 |")]
    low, high = result["intervals"]["image_text_alignment"]
    assert f"| {result['image_text_alignment']:.4f} [{low:.2f}, {high:.2f}] |" in row
    for text in ("n = 3", '"sequence": "bare"', "1 examples left out", "No null was measured", "torch 2."):
        assert text in card
    assert "hub:me/runs/pairs" in card and "data_files: runs/texts/records/*.parquet" in card


def test_with_data(runs: Path, hub: Hub) -> None:
    push([runs / "encoder", runs / "pairs"], "me/runs", with_data=True)
    files = hub.files("me/runs")
    for path in (runs / "pairs").rglob("*.parquet"):
        assert files[f"runs/pairs/{path.relative_to(runs / 'pairs')}"] == path.read_bytes()
    assert files["runs/pairs/run.json"] == (runs / "pairs" / "run.json").read_bytes()
    assert "data:image/" in files["report.html"].decode() and SECRET in files["report.html"].decode()
    assert not [name for name in files if "command.yaml" in name]
    push([runs / "texts"], "me/runs")
    assert {name.split("/")[1] for name in hub.files("me/runs") if "/" in name} == {"texts"}
    assert "report.html" not in hub.files("me/runs")
    (_, first, _) = hub.commits["me/runs"]  # the first commit is an empty data set's
    assert Alignment.from_run(f"hub:me/runs/pairs@{first}").n == 3


def test_report_of_a_run_on_the_hub(runs: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_ends(["push", str(runs / "pairs"), "--to", "me/runs"])
    main_ends(["report", "hub:me/runs", "--csv", "--out", str(tmp_path / "report")])
    assert (tmp_path / "report" / "numbers.csv").is_file()
    assert main_ends(["report", "hub:me/runs", "--csv"]) == 2
    assert "of a run on the hub, name the folder to write to: --out DIR" in capsys.readouterr().err
    # A stranger's run is looked at as one.
    part = next(name for name in hub.files("me/runs") if name.endswith(".parquet"))
    hub.add("you/runs", {**hub.files("me/runs"), part: b"PAR1"})
    with pytest.raises(RunFolderError, match="a damaged part"):
        Alignment.from_run("hub:you/runs")


def main_ends(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def test_what_cannot_be_pushed(runs: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/public", {})
    hub.add("me/else", {"README.md": b"", "data.csv": b"a"})
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs / "pairs", unfinished)
    (unfinished / "summary.json").unlink()
    short = tmp_path / "pairs"
    shutil.copytree(runs / "pairs", short)
    for of, to, error, message in (
        (runs / "pairs", "runs", UsageError, "--to runs: expected OWNER/NAME"),
        (unfinished, "me/runs", RunFolderError, "unfinished: not finished"),
        (tmp_path / "nothing", "me/runs", RunFolderError, "no such folder"),
        (short, "me/runs", UsageError, "would both be called pairs; rename"),
        (runs / "pairs", "me/else", UsageError, "holds something else than runs of mmerank"),
    ):
        with pytest.raises(error, match=message):
            push([runs / "pairs", of], to)
    with pytest.raises(UsageError, match="this data set is public"):
        push([runs / "pairs"], "me/public", private=True)
    assert not [line for line in hub.asked if line.startswith("POST")]
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(PushError, match="the token may not write there"):
        push([runs / "pairs"], "me/runs")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UsageError, match="no token of the hub: `hf auth login` first"):
        push([runs / "pairs"], "me/runs")
    assert set(hub.commits) == {"me/public", "me/else"} and len(hub.commits["me/else"]) == 1


def test_models_that_would_have_one_name(runs: Path, hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(runs / "pairs", tmp_path / "two")
    stated = json.loads((tmp_path / "two" / "run.json").read_text())
    stated["models"]["/elsewhere/hf_model"] = next(iter(stated["models"].values()))
    write(tmp_path / "two" / "run.json", stated)
    with pytest.raises(RunFolderError, match="two of its models are called 'hf_model'"):
        push([tmp_path / "two"], "me/runs")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("hub:runs", UsageError, "expected hub:OWNER/NAME"),
        ("hub:me/runs/a/b", UsageError, "expected hub:OWNER/NAME"),
        ("hub:me/runs@", UsageError, "expected hub:OWNER/NAME"),
        ("hub:me/set:train", UsageError, "this is how data are named"),
        ("hub:me/nothing", RunFolderError, "cannot be fetched .no such repository"),
        ("hub:me/two@old", RunFolderError, "cannot be fetched .no such revision"),
        ("hub:me/two/aa", RunFolderError, "no run 'aa'; it has a, b"),
        ("hub:me/two", UsageError, "holds several runs, a, b; say which, hub:me/two/a"),
        ("hub:me/empty", RunFolderError, "the data set holds no runs"),
    ],
)
def test_names_of_runs_on_the_hub(hub: Hub, name: str, error: type[Exception], message: str) -> None:
    hub.add("me/two", {f"runs/{run}/run.json": b"{}" for run in "ab"})
    hub.add("me/empty", {"README.md": b""})
    with pytest.raises(error, match=message):
        run_folder(name)
    assert run_folder("hub:me/two/b").name == "b"


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("untrained seed 0 of /home/me/a b/model", "untrained seed 0 of model"),
        (r"C:\Users\me\model", "model"),
        ("/home/me/model/", "model/"),
        ("['/home/me/a', '/home/me/b']", "['a', 'b']"),
        ("file:///home/me/pairs.csv", "pairs.csv"),
        ("ViT-B-32:/home/me/clip.pt", "ViT-B-32:clip.pt"),
        ("csv:s3://bucket/a/b.csv?images=/home/me/b", "csv:s3://bucket/a/b.csv?images=b"),
        ("1 / 2, a/b and ../c/d", "1 / 2, a/b and ../c/d"),
    ],
)
def test_folders_of_this_machine(text: str, without: str) -> None:
    assert without_folders(text) == without
