"""What an edit of a study's file means for what its folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from mmerank.__main__ import main
from mmerank.jobs.cells import Cell, is_taken, write_cells
from mmerank.jobs.edited import ABSENT, Edit, edits, set_aside, take_back, to_take_back

ARGUMENT = {"align": "models", "perturb": "model"}


def cell(model: str = "a", data: str = "x", job: str = "align", **options: Any) -> Cell:
    return Cell(job, model, data, options)


def begun(folder: Path, *cells: Cell, done: bool = True) -> None:
    write_cells(list(cells), folder, ARGUMENT)
    for one in cells:
        (folder / one.name).mkdir()
        (folder / one.name / "run.json").write_text("{}")
        if done:
            (folder / one.name / "summary.json").write_text("{}")


def said(found: list[Edit]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (
            "" if one.earlier is None else f"{one.earlier.name} {one.earlier.state}",
            one.now.name if one.now else "",
            dict(one.changed),
        )
        for one in found
    ]


def test_what_changed_what_is_new_and_what_is_gone(tmp_path: Path) -> None:
    kept, old, half, gone = cell(limit=4), cell("b", limit=4, dtype="float32"), cell("c"), cell(data="y")
    assert edits([kept, old], tmp_path / "s") == []
    begun(tmp_path / "s", kept, old, gone)
    begun(tmp_path / "s", half, done=False)
    assert edits([kept, old, half, gone], tmp_path / "s") == []
    now, again, new = cell("b", limit=8, seed=1), cell("c", layers="all"), cell("d")
    assert said(edits([kept, now, again, new], tmp_path / "s")) == [
        (f"{half.name} begun", again.name, {"layers": (ABSENT, "all")}),
        (f"{old.name} done", now.name, {"limit": (4, 8), "dtype": ("float32", ABSENT), "seed": (ABSENT, 1)}),
        ("", new.name, {}),
        (f"{gone.name} done", "", {}),
    ]


def test_of_several_that_differ_the_nearest_are_one_edit(tmp_path: Path) -> None:
    bare, template = cell(sequence="bare", limit=4), cell(sequence="template", limit=4)
    begun(tmp_path / "s", bare, template)
    now = [cell(sequence="template", limit=8), cell(sequence="bare", limit=8)]
    found = {one.earlier.name: (one.now, one.changed) for one in edits(now, tmp_path / "s") if one.earlier}
    assert found == {template.name: (now[0], {"limit": (4, 8)}), bare.name: (now[1], {"limit": (4, 8)})}


def test_what_a_folder_does_not_understand_is_named(tmp_path: Path) -> None:
    begun(tmp_path / "s", odd := cell(), unrun := cell("b"))
    (tmp_path / "s/cells" / f"{odd.name}.yaml").write_text("a: [")
    for file in (tmp_path / "s" / unrun.name).iterdir():
        file.unlink()
    (tmp_path / "s" / unrun.name).rmdir()
    found = [one.earlier for one in edits([cell("c")], tmp_path / "s") if one.earlier]
    assert {(one.name, one.state, bool(one.asked)) for one in found} == {
        (odd.name, "done", False),
        (unrun.name, "left", True),
    }


def test_runs_are_set_aside_and_taken_back(tmp_path: Path) -> None:
    folder, (old, other, busy) = tmp_path / "s", (cell(limit=4), cell("b"), cell("c"))
    begun(folder, old, other, busy)
    (folder / "cells" / f"{old.name}.log").write_text("what it said")
    now = [cell(limit=8), other]
    with FileLock(folder / "cells" / f".{busy.name}.lock"):
        assert is_taken(folder, busy.name)
        assert set_aside(edits(now, folder), folder) == [old.name]
    assert {path.name for path in folder.iterdir()} == {"cells", other.name, busy.name}
    assert (tmp_path / "s-earlier" / old.name / "summary.json").is_file()
    assert {path.name for path in (tmp_path / "s-earlier/cells").iterdir()} == {f"{old.name}.log", f"{old.name}.yaml"}
    assert to_take_back(now, folder) == [] and to_take_back([old], folder) == [old.name]
    take_back([old.name], folder)
    assert (folder / old.name / "summary.json").is_file() and (folder / "cells" / f"{old.name}.log").is_file()
    assert not (tmp_path / "s-earlier" / old.name).exists() and to_take_back([old], folder) == []


def study(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str, **content: Any) -> tuple[str, Any]:
    """What the command says of an edited file, and its JSON."""
    common = {"models": ["a"], "data": "demo", "jobs": ["align"]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**common, **content}))
    with pytest.raises(SystemExit):
        main(["study", str(tmp_path / "s.yaml"), *options, "--json", str(tmp_path / "s.json")])
    return capsys.readouterr().err, json.loads((tmp_path / "s.json").read_text())


def test_the_command_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], *_: Any) -> int:
        out = Path(command[command.index("--out") + 1])
        out.mkdir(exist_ok=True)
        (out / "summary.json").write_text("{}")
        return 0

    monkeypatch.setattr("mmerank.jobs.cells._status", run)
    err, found = study(tmp_path, capsys, limit=4)
    assert "edited" not in err and found["edits"] == []
    (first,) = (path for path in (tmp_path / "s").iterdir() if path.name != "cells")
    err, found = study(tmp_path, capsys, "--dry-run", limit=8, layers="all")
    (edit,) = found["edits"]
    assert edit["changed"] == {"limit": {"from": 4, "to": 8}, "layers": {"from": "-", "to": "all"}}
    assert f"s.yaml was edited since {tmp_path / 's'} was begun:" in err
    assert f"changed: align of a on demo: limit 4 -> 8, layers - -> all; run anew as {edit['now']['name']}; " in err
    assert f"its run, which is done, stays as {first.name}" in err and "--set-aside` moves them to" in err
    assert first.is_dir() and not (tmp_path / "s" / edit["now"]["name"]).exists()
    study(tmp_path, capsys, "--set-aside", limit=8, layers="all")
    assert not first.exists() and (tmp_path / "s" / edit["now"]["name"] / "summary.json").is_file()
    err, found = study(tmp_path, capsys, limit=4)
    assert f"taken back as {first.name}" in err and [cell["state"] for cell in found["cells"]] == ["done"]
    assert first.is_dir()
