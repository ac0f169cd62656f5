"""A wrong name is told before what takes seconds is imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command

from mmerank import load_data
from mmerank.__main__ import guarded
from mmerank.commands.app import app
from mmerank.errors import DataError
from mmerank.inputs.example import check_usable
from mmerank.inputs.pictures import open_picture
from tests.conftest import LONGEST_S

HEAVY = ("torch", "transformers", "datasets", "scipy", "matplotlib", "lm_eval", "open_clip")
# One command after the other; what the first of them imports, it imports for all.
CODE = f"""
import contextlib, io, json, sys
from mmerank.__main__ import main
for arguments in json.loads(sys.argv[1]):
    status, said = 0, io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            main(arguments.split())
    except SystemExit as ended:
        status = ended.code
    print(json.dumps([arguments, status, said.getvalue(), [name for name in {HEAVY} if name in sys.modules]]))
"""
WRONG = {
    "align lava --data demo": "no hub id",
    "align demo true --data demo": "'true' is no MODEL",
    "align demo gone/ --data demo": "gone/: no such folder",
    "align nobody/nothing --data demo": "not to be had from the hub",
    "align empty --data demo": "no config.json",
    "align demo demo --data demo": "demo: named twice",
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


@pytest.fixture(scope="module")
def answers(place: Path) -> dict[str, tuple[int, str, list[str]]]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps([*WRONG])],
        capture_output=True,
        text=True,
        cwd=place,
        timeout=LONGEST_S,
        check=True,
    )
    told = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    return {arguments: (status, said, imported) for arguments, status, said, imported in told}


@pytest.mark.parametrize("arguments", WRONG)
def test_a_wrong_name_is_told_before_heavy_imports(
    arguments: str, answers: dict[str, tuple[int, str, list[str]]]
) -> None:
    status, said, imported = answers[arguments]
    assert status in (1, 2) and WRONG[arguments] in " ".join(said.split()) and imported == []


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("align demo --data demo --sequence templat", "'templat'; known: bare, template; did you mean template?"),
        ("perturb demo --data demo --transform grey --centre x", "'x'; known: mean, median, none"),
    ],
)
def test_a_word_that_is_no_choice_is_answered_with_those_there_are(words: str, said: str) -> None:
    name, *arguments = words.split()
    with pytest.raises(Exception, match=re.escape(said)) as raised:
        get_command(app).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
    assert "Value error" not in str(raised.value)


def test_pictures_that_are_not_there_are_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,A cat.\n" for i in range(3))
    (tmp_path / "t.csv").write_text(f"image,response\n{rows}")
    data = load_data(f"csv:{tmp_path}/t.csv", image="image", response="response", instruction="")
    said = r"3 of the first 3 pictures are not there, as .*0\.png; .* \?images=DIR"
    with pytest.warns(UserWarning, match=said):
        check_usable(data, pictures=True)
    for i in range(2):
        (tmp_path / f"{i}.png").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_usable(data, pictures=True)


def test_pillow_does_not_speak_of_a_picture_without_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> None:
        with pytest.raises(DataError, match=r"large.png: 12000 x 9000 px is over the limit of 100 meg.* \(--max-meg"):
            open_picture(tmp_path / "large.png")

    Image.new("1", (12000, 9000)).save(tmp_path / "large.png")
    with pytest.warns(Image.DecompressionBombWarning):  # so that there is something to keep quiet
        refused()
    with warnings.catch_warnings():
        guarded(refused)
    assert capsys.readouterr().err == ""
