from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from mmerank import align, load, load_data
from mmerank.__main__ import main
from mmerank.errors import RunFolderError, UsageError
from mmerank.jobs import cells as cells_of_studies
from mmerank.jobs.cells import Cell, standing, write_cells
from mmerank.jobs.study import read_study, run_study
from mmerank.jobs.where.local import one_by_one
from mmerank.processes import TOO_LARGE, Rank, rank

KNOWN = {
    "align": ["models", "data", "limit", "layers", "sequence", "dtype"],
    "perturb": ["model", "data", "limit", "transform", "dtype"],
    "diff": ["models", "data", "limit"],
    "encode": ["models", "data", "limit"],
}
ARGUMENT = {"align": "models", "perturb": "model", "diff": "models", "encode": "models"}


def cells(folder: Path, content: Any) -> list[Cell]:
    (folder / "s.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return read_study(folder / "s.yaml", KNOWN)


def test_the_grid_of_a_file(tmp_path: Path) -> None:
    found = cells(
        tmp_path,
        {
            "models": ["a", {"model": "b", "dtype": "bfloat16"}],
            "data": ["x", "y"],
            "limit": 5,
            "layers": "last",
            "jobs": [
                {"align": {"each": {"sequence": ["bare", "template"]}}},
                {"perturb": {"transform": ["blank"], "limit": 2, "data": "x"}},
                {"diff": {"models": ["c"]}},
            ],
        },
    )
    assert [(c.job, c.model, c.data, dict(c.options)) for c in found] == [
        ("align", model, data, {"limit": 5, "layers": "last", **more, "sequence": sequence})
        for model, more in (("a", {}), ("b", {"dtype": "bfloat16"}))
        for data in "xy"
        for sequence in ("bare", "template")
    ] + [
        ("perturb", "a", "x", {"limit": 2, "transform": ["blank"]}),
        ("perturb", "b", "x", {"limit": 2, "transform": ["blank"], "dtype": "bfloat16"}),
        ("diff", "c", "x", {"limit": 5}),
        ("diff", "c", "y", {"limit": 5}),
    ]
    assert len({c.name for c in found}) == len(found) == 12
    assert found[1].name.startswith("align-a-x-template-")


def test_anchors(tmp_path: Path) -> None:
    found = cells(
        tmp_path,
        "x-same: &same {limit: 3, layers: last}\nmodels: [a, &b {model: b, dtype: float32}, {<<: *b, model: c}]\n"
        "data: x\njobs: [align: {<<: *same, limit: 4}]\n",
    )
    assert [(of.model, dict(of.options)) for of in found] == [
        ("a", {"limit": 4, "layers": "last"}),
        ("b", {"limit": 4, "layers": "last", "dtype": "float32"}),
        ("c", {"limit": 4, "layers": "last", "dtype": "float32"}),
    ]


def test_a_cell_is_there_once_and_known_by_what_it_asks_for(tmp_path: Path) -> None:
    twice = {"models": ["a", "a"], "data": ["x"], "jobs": ["align", "align"]}
    (one,) = cells(tmp_path, twice)
    (other,) = cells(tmp_path, {**twice, "limit": 3})
    assert one.name != other.name and one.name.startswith("align-a-x-")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "expected keys, among them models, data and jobs, got list"),
        ({"models": ["a"], "data": ["x"]}, "jobs: expected a list of at least one, got None"),
        ({"models": [], "data": ["x"], "jobs": ["align"]}, "models: expected a list of at least one, got []"),
        ("models: [a]\ndata: [x]\njobs: [align]\njobs: [diff]", "not valid YAML (line 4: 'jobs' stands there twice)"),
        ("models: [a]\ndata: [x]\njobs: {align: {limit: 3}}", "jobs: expected a list, got keys; put a - in front"),
        (
            "d: &d {limit: 3}\nmodels: [a]\ndata: [x]\njobs: [align: *d]",
            "no job has 'd'; what only has anchors begins",
        ),
        ("models: [a]\ndata: [x\njobs: [align]\n", "not valid YAML (line 3: "),
        ({"models": ["a"], "data": ["x"], "jobs": [{"perturb": {"model": "b"}}]}, "perturb: model is no option here"),
        (
            {"models": [{"model": "a", "data": "y"}], "data": ["x"], "jobs": ["align"]},
            "align: data is no option here",
        ),
        (
            {"models": ["a"], "data": ["x"], "jobs": [{"align": {"out": "y"}}]},
            "out is no option here: each cell is a",
        ),
        ({"models": [3], "data": ["x"], "jobs": ["align"]}, "models: expected a MODEL or {model: MODEL"),
        ({"models": ["a"], "data": ["x"], "jobs": ["aling"]}, "got 'aling'; did you mean align?"),
        ({"models": ["a"], "data": ["x"], "jobs": [{"align": 3}]}, "jobs: align: expected OPTION: VALUE, got 3"),
        (
            {"models": ["a"], "data": ["x"], "jobs": ["align"], "limits": 3},
            "no job has 'limits'; did you mean limit?",
        ),
        (
            {"models": ["a"], "data": ["x"], "jobs": [{"align": {"each": {"sequence": "bare"}}}]},
            "each: expected OPTION: [VALUE, ...]",
        ),
    ],
)
def test_what_a_file_cannot_say(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(UsageError, match="s.yaml") as raised:
        cells(tmp_path, content)
    assert said in str(raised.value)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-in for the processes: what runs, and fails where the model is called so."""
    started: list[str] = []

    def run(command: list[str], log: Any, environment: Any) -> int:
        asked = yaml.safe_load(Path(command[command.index("--config") + 1]).read_text())
        out = Path(command[command.index("--out") + 1])
        model = asked["models"]
        started.append(model)
        if model == "bad":
            log.write(b"warning: x\nerror: bad: no such model\n")
            return 1
        if model == "large":
            log.write(b"error: does not fit\n")
            return TOO_LARGE
        if model == "killed":
            out.mkdir(exist_ok=True)
            return -9
        out.mkdir(exist_ok=True)
        (out / "summary.json").write_text("{}")
        return 0

    monkeypatch.setattr("mmerank.jobs.cells._status", run)
    return started


def test_a_failed_cell_stops_no_other_and_is_tried_again(tmp_path: Path, ran: list[str]) -> None:
    found = cells(tmp_path, {"models": ["bad", "killed", "good"], "data": ["x"], "jobs": ["align"]})
    folder = tmp_path / "s"
    assert [standing(cell, folder).state for cell in found] == ["left"] * 3
    write_cells(found, folder, ARGUMENT)
    bad, killed, good = run_study(found, folder, one_by_one)
    assert (bad.state, bad.reason) == ("failed", "bad: no such model")
    assert killed.state == "failed" and killed.reason.startswith("ended by signal 9; ")
    assert good.state == "done" and ran == ["bad", "killed", "good"]
    assert [of.state for of in run_study(found, folder, one_by_one)] == ["failed", "failed", "done"]
    assert ran[3:] == ["bad", "killed"]


def test_a_cell_that_another_study_is_at_is_left_to_it(tmp_path: Path, ran: list[str]) -> None:
    found = cells(tmp_path, {"models": ["good", "bad", "other"], "data": ["x"], "jobs": ["align"]})
    folder = tmp_path / "s"
    write_cells(found, folder, ARGUMENT)
    mine = run_study(found, folder, one_by_one)
    assert next(mine).state == "done"
    with FileLock(folder / "cells" / f".{found[1].name}.lock"):
        assert next(mine).state == "running" and ran == ["good"]
    assert next(mine).state == "done" and ran == ["good", "other"]
    assert [of.state for of in run_study(found, folder, one_by_one)] == ["done", "failed", "done"]


def test_nobody_is_at_a_cell_on_a_disk_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a finished study on one can still be looked at; what has no locks at all is refused."""
    found = cells(tmp_path, {"models": ["a"], "data": ["x"], "jobs": ["align"]})
    write_cells(found, tmp_path / "s", ARGUMENT)
    (tmp_path / "s" / "cells" / f".{found[0].name}.lock").touch()
    number = errno.EROFS

    def refuse(self: FileLock, **_: Any) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert standing(found[0], tmp_path / "s").state == "left"
    number = errno.ENOLCK
    with pytest.raises(RunFolderError, match="cannot be locked"):
        standing(found[0], tmp_path / "s")


def test_tasks_of_one_launch_run_cells_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    found = cells(tmp_path, {"models": ["good"], "data": ["x"], "jobs": ["align"]})
    write_cells(found, tmp_path / "s", ARGUMENT)
    given: dict[str, str] = {}
    run = vars(cells_of_studies)["_status"]

    def seen(command: list[str], log: Any, environment: dict[str, str]) -> int:
        given.update(environment)
        status: int = run(command, log, environment)
        return status

    monkeypatch.setattr("mmerank.jobs.cells._status", seen)
    for name, value in {"PROCID": 1, "STEP_NUM_TASKS": 2, "LOCALID": 1}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert rank().count == 2
    assert [of.state for of in run_study(found, tmp_path / "s", one_by_one)] == ["done"]
    for variable, stated in given.items():
        monkeypatch.setenv(variable, stated)
    assert rank() == Rank()


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    return int(stopped.value.code or 0)


def test_cells_are_checked_before_any_runs(
    tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("models: [good]\ndata: demo\njobs: [align, perturb: {transform: blank, limits: 3}]\n")
    assert status_of("study", str(file)) == 2
    assert f"{file}: perturb of good on demo: limits: mmerank perturb has no 'limits'" in capsys.readouterr().err
    file.write_text("models: [good]\ndata: demo\njobs: [perturb: {transform: [rotate:90, blur:1,2]}]\n")
    assert status_of("study", str(file)) == 2  # the list has three entries for YAML
    assert f"{file}: perturb of good on demo: transform: unknown transform '2'" in capsys.readouterr().err
    assert not ran and not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("job", "data", "said"),
    [
        ("align: {limit: 0}", "demo", "limit: Input should be greater than or equal to 1"),
        ("align: {metrics: stabel_rank}", "demo", "metrics: no metric 'stabel_rank'; did you mean stable_rank"),
        ("align: {metrics: no}", "demo", "YAML reads no, off, on and yes as these"),
        (
            "align: {sequence: tempalte}",
            "demo",
            "sequence: 'tempalte'; known: bare, template",
        ),
        ("align: {each: {seed: [1]}}", "demo", "demo, seed 1: seed 1 draws a sample, so it needs a limit"),
        ("align: {clip: ViT-B-32}", "demo", "clip ViT-B-32: names no weights; as in ViT-B-32:"),
        ("align: {limit: 2}", "lava:x.json", "lava:x.json: unknown data 'lava:x.json'; did you mean llava?"),
        ("align: {limit: 2}", "hub:a/b?first=no", "first=no; expected a number above 0"),
        ("perturb: {transform: spin}", "demo", "transform: unknown transform 'spin'"),
        ("generate: {limit: 2, temperature: -1}", "demo", "demo: temperature must be above 0, got -1.0"),
        ("generate: {top-p: 2}", "demo", "demo: top_p must be above 0 and at most 1, got 2.0"),
        ("prune-study: {keep: 1.5}", "demo", "keep: '1.5': expected shares above 0 and below 1"),
        ("prune-study: {by: brightest}", "demo", "by: unknown way to choose rows 'brightest'"),
        ("prune-study: {by: 'none.such:f'}", "demo", "by none.such:f: none.such cannot be imported"),
        ("diff: {init-range: -1}", "demo", "init-range: expected standard deviations above 0"),
        ("diff: {inside: all, limit: 3, untrained-mode: train}", "demo", "demo: inside, untrained-mode: "),
        ("diff: {accuracy: no_such.yaml}", "demo", "accuracy: "),  # no such file, or no lm-eval
        ("encode: {layers: lats}", "demo", "layers: unknown layer 'lats'"),
        ("score: {circular: true}", "pope:a.json", "circular: pope:a.json: its choices are not listed by letters"),
        ("score: {answers: texts}", "popo:a.json", "unknown questions 'popo:a.json'; did you mean pope?"),
    ],
)
def test_every_job_is_held_against_its_options_before_it_reads_data(
    tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str], job: str, data: str, said: str
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"models: [{tmp_path / 'nowhere'}]\ndata: ['{data}']\njobs: [{job}]\n")
    assert status_of("study", str(file), "--dry-run") == 2
    found = capsys.readouterr().err.replace(f"of {tmp_path / 'nowhere'} on ", "")
    assert found.startswith(f"error: {file}: {job.partition(':')[0]} {data}") and said in found.replace("--", "")
    assert not ran and not (tmp_path / "s").exists()


def test_the_command(tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("models: [good, bad]\ndata: demo\njobs: [align]\n")
    assert status_of("study", str(file), "--dry-run") == 0 and not ran
    assert "2 left" in capsys.readouterr().out
    assert status_of("study", str(file), "--json", str(tmp_path / "s.json")) == 1
    out, log = capsys.readouterr()
    assert "1 done, 1 failed" in out
    good, bad = log.splitlines()[-2:]
    assert good.startswith("1 of 2: done: align-good") and bad.startswith("2 of 2: failed: align-bad")
    found = json.loads((tmp_path / "s.json").read_text())["cells"]
    assert [(of["model"], of["state"], of["reason"]) for of in found] == [
        ("good", "done", ""),
        ("bad", "failed", "bad: no such model"),
    ]


def test_a_model_that_does_not_fit_is_skipped_and_said(tmp_path: Path, ran: list[str]) -> None:
    found = cells(tmp_path, {"models": ["large", "good"], "data": ["x"], "jobs": ["align"]})
    write_cells(found, tmp_path / "s", ARGUMENT)
    large, good = run_study(found, tmp_path / "s", one_by_one)
    assert (large.state, large.reason, good.state) == ("skipped", "does not fit", "done")
    assert standing(found[0], tmp_path / "s") == large


def test_a_cell_is_the_run_that_its_command_makes(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("models: [demo-llava]\ndata: demo\nlimit: 2\ndevice: cpu\njobs: [align]\n")
    assert status_of("study", str(file)) == 0
    (run,) = (tmp_path / "s").glob("align-*")
    (cell,) = json.loads((run / "summary.json").read_text())["results"]
    alone = align(load("demo-llava", device="cpu"), load_data("demo"), limit=2)
    assert json.loads(json.dumps(alone.to_dict())) == cell
