"""A wrong name is told before what takes seconds is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from mmerank.commands.app import app
from tests.conftest import LONGEST_S

HEAVY = ("torch", "transformers", "datasets", "scipy", "matplotlib", "lm_eval", "open_clip")
CODE = f"""
import sys
from mmerank.__main__ import main
status = 0
try:
    main(sys.argv[1:])
except SystemExit as ended:
    status = ended.code
print([status, [name for name in {HEAVY} if name in sys.modules]])
"""
WRONG = {
    "align lava --data demo": "no hub id",
    "align demo true --data demo": "'true' is no MODEL",
    "align demo gone/ --data demo": "gone/: no such folder",
    "align nobody/nothing --data demo": "not to be had from the hub",
    "align empty --data demo": "no config.json",
    "align model.yaml --data demo": "unknown adapter",
    "align gone.yaml --data demo": "cannot be read",
    "align demo --data coco:x": "unknown data",
    "align demo --data texts.txt": "say how it is read: text:texts.txt",
    "align demo --data llava:gone.json": "gone.json: cannot be read",
    "align demo --data minigpt:gone": "gone/filter_cap.json: cannot be read",
    "align demo --data text:texts.txt": "texts without pictures",
    "align demo --data demo --dtype int8": "unknown dtype",
    "align demo --data demo --device toaster": "unknown device",
    "align demo --data demo --load-in 2bit": "cannot load in",
    "align demo --data demo --layers frist": "unknown layer",
    "align demo --data demo --token-curve 8,x": "expected numbers",
    "align demo --data demo --seed 3": "needs a limit",
    "align demo --data demo --json gone/x.json": "no such folder to write to",
    "perturb lava --data demo --transform rotate:90": "no hub id",
    "perturb demo --data demo --transform rotat:90": "unknown transform",
    "perturb demo --data demo --transform rotate": "the strength is missing",
    "perturb demo --data demo --transform rotate:x": "expected a number",
    "perturb demo --data demo --control mismatched": "unknown control",
    "perturb demo --data demo": "expected a transform or a control",
    "diff lava --data text:texts.txt": "no hub id",
    "diff demo --data text:texts.txt": "read pictures",
    "diff model --data text:gone.txt": "cannot be read",
    "diff model --data text:texts.txt --tokenizer ./gone": "no such folder",
    "diff model --data text:texts.txt --revisions step1": "only a model on the hub has revisions",
    "diff model --data text:texts.txt --layers frist": "unknown layer",
    "doctor lava": "no hub id",
    "doctor demo --dtype int8": "unknown dtype",
    "report gone": "no such folder",
    "report empty": "not a run folder",
    "reproduce table5": "nothing to reproduce",
    "reproduce table2 --models 7B": "has no model",
    "reproduce table6 --models-from gone.yaml": "cannot be read",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    (folder / "texts.txt").write_text("One text.\nAnother text.\n")
    (folder / "model.yaml").write_text(json.dumps({"adapter": "none-of-that-name"}))
    (folder / "empty").mkdir()
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "opt"}')
    return folder


@pytest.mark.parametrize("arguments", WRONG)
def test_a_wrong_name_is_told_before_heavy_imports(arguments: str, place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments.split()],
        capture_output=True,
        text=True,
        cwd=place,
        timeout=LONGEST_S,
        check=True,
    )
    status, imported = json.loads(done.stdout.splitlines()[-1].replace("'", '"'))
    assert status in (1, 2) and WRONG[arguments] in " ".join(done.stderr.split()) and imported == []


def test_help_shows_flags_without_a_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    commands = list(getattr(get_command(app), "commands"))  # noqa: B009
    assert "align" in commands
    for command in ([], *([name] for name in commands)):
        with pytest.raises(SystemExit):
            app([*command, "--help"], prog_name="mmerank")
        shown = capsys.readouterr().out
        flags = [line for line in shown.splitlines() if "--help" in line or "--debug" in line or "--strict" in line]
        assert flags and "bool" not in shown.lower()
        assert all("<" not in line and max(map(len, shown.splitlines())) <= 80 for line in flags)
