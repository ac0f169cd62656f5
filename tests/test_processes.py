"""Several processes, one run folder, one result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from mmerank import Example, align, diff, perturb
from mmerank.errors import UsageError
from mmerank.models.devices import chosen_device
from mmerank.processes import Rank, rank
from tests.adapters.cases import LLAVA, at_the_encoder, examples
from tests.adapters.text_cases import OPT
from tests.conftest import LONGEST_S, NO_LOCKS
from tests.kill_loop import forked, pairs, same
from tests.test_cli import HF_MODEL, failure, run
from tests.test_diff_erank import texts

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


def launched(monkeypatch: pytest.MonkeyPatch, *values: object) -> None:
    for name, value in zip(NAMES, values, strict=True):
        monkeypatch.setenv(name, str(value))


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank() == Rank(0, 1, 0) and rank().leads
    monkeypatch.setenv("WORLD_SIZE", "4")  # left by something that starts no processes
    assert rank() == Rank(0, 1, 0)


def test_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, 5, 8, 1)
    assert rank() == Rank(5, 8, 1) and not rank().leads


@pytest.mark.parametrize("values", [(2, 2, 0), (-1, 2, 0), ("one", 2, 0), (0, 2, -1)])
def test_a_place_that_cannot_be(monkeypatch: pytest.MonkeyPatch, values: tuple[object, ...]) -> None:
    launched(monkeypatch, *values)
    with pytest.raises(UsageError, match=f"RANK={values[0]}, WORLD_SIZE=2"):
        rank()


def in_a_step(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    step = {"PROCID": 5, "STEP_NUM_TASKS": 8, "LOCALID": 1, "STEP_TASKS_PER_NODE": "4,2(x2)", "NODEID": 1}
    for name, value in (step | values).items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))


def test_a_task_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_step(monkeypatch)
    assert rank() == Rank(5, 8, 1, beside=2)
    launched(monkeypatch, 0, 1, 0)  # said by the user, or by a launcher within the task
    assert rank() == Rank()


def test_a_batch_script_is_no_task_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert rank() == Rank()


@pytest.mark.parametrize(("nodes", "beside"), [("3", 1), ("4,x", 1), ("", 1), ("1(x2)", 1), ("4(x2)", 4), ("2,7", 7)])
def test_tasks_on_the_node_of_one(monkeypatch: pytest.MonkeyPatch, nodes: str, beside: int) -> None:
    in_a_step(monkeypatch, STEP_TASKS_PER_NODE=nodes)
    assert rank().beside == beside


def test_a_task_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_step(monkeypatch, PROCID=8)
    with pytest.raises(UsageError, match="SLURM_PROCID=8, SLURM_STEP_NUM_TASKS=8"):
        rank()


def test_a_task_of_slurm_takes_the_gpu_it_is_bound_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    in_a_step(monkeypatch)
    for count, place in ((1, "cuda:0"), (2, "cuda:1")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert chosen_device(None) == place


@pytest.mark.parametrize(
    ("command", "model"), [("align", HF_MODEL), ("diff", str(OPT.folder))], ids=["align", "diff"]
)
def test_processes_need_a_folder_to_meet_in(monkeypatch: pytest.MonkeyPatch, command: str, model: str) -> None:
    launched(monkeypatch, 1, 2, 1)
    status, line = failure(command, model, "--data", "demo")
    assert status == 2 and "one of 2 processes" in line and "--out RUN_DIR" in line


def test_each_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen_device(None) == "cuda"
    launched(monkeypatch, 5, 8, 1)
    assert chosen_device(None) == "cuda:1" and chosen_device("cpu") == "cpu"
    launched(monkeypatch, 6, 8, 2)
    with pytest.raises(UsageError, match="finds 2 GPUs; start as many processes as there are GPUs, or say --device"):
        chosen_device(None)


def rows(folder: Path) -> dict[str, int]:
    """Records in the parts of each process."""
    found: dict[str, int] = {}
    for part in (folder / "records").glob("*.parquet"):
        process = part.stem.split("-")[1]  # of one that was alone, the digest
        found[process] = found.get(process, 0) + pq.read_metadata(part).num_rows
    return found


def shared_by(count: int, work: Any, where: Path) -> None:
    children = [forked(work, index, count, where) for index in range(count)]
    for index, child in enumerate(children):
        assert os.waitpid(child, 0)[1] == 0, (where / f"output-{index}").read_text()


@pytest.mark.parametrize("count", [2, 3])
def test_the_work_is_shared_and_the_result_is_the_same(count: int, tmp_path: Path) -> None:
    entries = [entry for entry in pairs(48) if entry.image is not None]
    whole = align(LLAVA.adapter, entries)
    shared_by(count, lambda: align(LLAVA.adapter, entries, out=tmp_path / "run"), tmp_path)
    found = rows(tmp_path / "run")
    assert sum(found.values()) == len(whole.records), "nothing is measured twice"
    assert len(found) == count, "each did something"
    assert same(align(LLAVA.adapter, entries, out=tmp_path / "run"), whole)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["results"] == [
        json.loads(json.dumps(whole.to_dict()))
    ]


def test_skipped_examples_are_known_to_all(tmp_path: Path) -> None:
    entries = pairs(24)
    whole = align(LLAVA.adapter, entries)

    def work() -> None:
        assert align(LLAVA.adapter, entries, out=tmp_path / "run").skipped == whole.skipped != ()

    shared_by(2, work, tmp_path)


def test_one_process_does_the_work_of_one_that_never_came(tmp_path: Path) -> None:
    entries = pairs(24)
    whole = align(LLAVA.adapter, entries)
    child = forked(lambda: align(LLAVA.adapter, entries, out=tmp_path / "run"), 0, 2, tmp_path)
    assert os.waitpid(child, 0)[1] == 0
    assert same(align(LLAVA.adapter, entries, out=tmp_path / "run"), whole)


def test_the_others_go_on_without_the_first(tmp_path: Path) -> None:
    entries = pairs(24)
    child = forked(lambda: align(LLAVA.adapter, entries, out=tmp_path / "run"), 1, 2, tmp_path)
    assert os.waitpid(child, 0)[1] == 0
    assert not (tmp_path / "run" / "summary.json").exists(), "the first one says what came out"
    assert same(align(LLAVA.adapter, entries, out=tmp_path / "run"), align(LLAVA.adapter, entries))


def test_texts_are_shared_too_and_so_is_the_cache(tmp_path: Path) -> None:
    entries = texts(20)
    whole = diff(OPT.adapter, entries)
    shared_by(2, lambda: diff(OPT.adapter, entries, out=tmp_path / "run", cache=tmp_path / "cache"), tmp_path)
    (cached,) = (tmp_path / "cache").iterdir()
    assert sum(rows(cached).values()) == len(entries)
    assert diff(OPT.adapter, entries, out=tmp_path / "run").to_dict() == whole.to_dict()


def test_perturbations_are_shared_and_continued(tmp_path: Path) -> None:
    entries = [*examples(), *(entry for entry in pairs(9) if entry.id not in {e.id for e in examples()})]

    def work(out: Path | None = None) -> Any:
        return perturb(LLAVA.adapter, entries, ["rotate:90"], out=out)

    whole = work()
    child = forked(lambda: interrupted_after(4, lambda: work(tmp_path / "run")), 1, 2, tmp_path)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    kept = sum(rows(tmp_path / "run").values())
    assert 0 < kept < len(whole.records)
    shared_by(2, lambda: work(tmp_path / "run"), tmp_path)
    assert sum(rows(tmp_path / "run").values()) == len(whole.records), "nothing is measured twice"
    assert work(tmp_path / "run").to_dict() == whole.to_dict()


def interrupted_after(count: int, work: Any) -> None:
    """Do some work in this process until so many pictures are seen."""
    seen: list[None] = []

    def stop(*_: Any) -> None:
        seen.append(None)
        if len(seen) > count:
            raise KeyboardInterrupt

    at_the_encoder(stop)
    work()


@pytest.mark.parametrize("values", [(0, 2, 0), (1, 2, 1)])
def test_only_the_first_prints(
    monkeypatch: pytest.MonkeyPatch, values: tuple[int, ...], tmp_path: Path, data: str
) -> None:
    launched(monkeypatch, *values)
    file = tmp_path / "out.json"
    done = run("align", HF_MODEL, "--data", data, "--out", str(tmp_path / "run"), "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert ("eRank5" in done.stdout) == file.exists() == (values[0] == 0)


@pytest.fixture
def data(golden_pairs: Path, golden: Path) -> str:
    return f"llava:{golden_pairs}?images={golden}/images"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "command"),
    [
        pytest.param(("torch.distributed.run", "--nproc-per-node", "2", "-m"), "align", id="torchrun"),
        pytest.param(
            ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m"),
            "diff",
            id="accelerate",  # which starts torchrun's processes
            marks=pytest.mark.long,
        ),
    ],
)
def test_launchers_whose_store_says_who_does_what(
    launcher: tuple[str, ...], command: str, tmp_path: Path, data: str
) -> None:
    """On a disk without locks, where one process alone is refused."""
    model = HF_MODEL if command == "align" else str(OPT.folder)
    asked = (command, model, "--data", data, "--json", "-", *(("--no-cache",) if command == "diff" else ()))
    alone = run(*asked, "--out", str(tmp_path / "alone"))
    (tmp_path / "sitecustomize.py").write_text(NO_LOCKS)
    paths = [tmp_path, *map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
    without = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    together = subprocess.run(
        [sys.executable, "-m", *launcher, "mmerank", *asked, "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        env=without,
    )
    assert together.returncode == 0, together.stderr
    assert json.loads(together.stdout) == json.loads(alone.stdout)
    assert together.stderr.count(f"{tmp_path}/run: cannot be locked (No locks available)") == 1, together.stderr
    assert not (tmp_path / "run/.locks").exists()
    measured = {name: sum(rows(tmp_path / name).values()) for name in ("alone", "run")}
    assert measured["run"] == measured["alone"] > 0, "nothing is measured twice"


def test_ids_of_any_kind_are_shared(tmp_path: Path) -> None:
    entries = [Example(f"{'x' * 300}/../{i}\n", e.image, e.instruction, e.response) for i, e in enumerate(pairs(6))]
    shared_by(2, lambda: align(LLAVA.adapter, entries, out=tmp_path / "run"), tmp_path)
    assert align(LLAVA.adapter, entries, out=tmp_path / "run").n == 6
