"""Wrong types anywhere in run.json and summary.json: one line that names the file and what is wrong."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmerank import align, perturb
from mmerank.analysis.estimates import controls, differences, estimates, run_records
from mmerank.convention import Convention
from mmerank.errors import RunFolderError
from mmerank.report.write import report
from mmerank.runs.settings import read_settings, read_summary
from tests.adapters.cases import LLAVA, examples

ASKED: dict[str, Any] = {"transforms": ["identity"], "controls": ["mismatch"], "control_draws": 2}
# Numbers and intervals take longer, and are made now and then.
READ: dict[str, list[Callable[[Path], Any]]] = {
    "run.json": [read_settings, run_records],
    "summary.json": [read_summary],
}
VALUES = [None, True, 3, -1.5, "text", [], ["text"], {}, {"text": 1}]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    where = tmp_path_factory.mktemp("runs")
    align(LLAVA.adapter, examples(), out=where / "align", convention=Convention(match_tokens=4, match_repeats=2))
    perturb(LLAVA.adapter, examples(), **ASKED, out=where / "perturb")
    return {name: where / name for name in ("align", "perturb")}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value there is another."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, found in inner:
        yield from places(found, (*path, key))


def with_value(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = dict(content) if isinstance(content, dict) else list(content)
    changed[path[0]] = with_value(content[path[0]], path[1:], value)
    return changed


@pytest.mark.parametrize("file", ["run.json", "summary.json"])
@pytest.mark.parametrize("job", ["align", "perturb"])
def test_any_value_anywhere_is_read_or_refused_in_one_line(
    job: str, file: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[job], folder)
    content = json.loads((folder / file).read_text())
    refused, draw = 0, random.Random(0)
    for path in places(content):
        # The paths deep in a summary's numbers are not read.
        for value in VALUES if len(path) < 4 else draw.sample(VALUES, 1):
            (folder / file).write_text(json.dumps(with_value(content, path, value)))
            for read in READ[file] if draw.random() < 0.95 else [estimates]:
                try:
                    read(folder)
                except RunFolderError as error:
                    refused += 1
                    assert str(folder) in str(error) and "\n" not in str(error), error
    assert refused


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "models: a list, expected an object": ("run.json", {"models": []}),
    "models.*: null, expected an object": ("run.json", {"models": {"m": None}}),
    "convention: text, expected an object": ("run.json", {"convention": "mean"}),
    "convention: unknown centre 'middle'": ("run.json", {"convention": {"centre": "middle"}}),
    "convention: unknown choice 'centred'": ("run.json", {"convention": {"centred": True}}),
    "convention: rows: text, expected true or false": ("run.json", {"convention": {"rows": "yes"}}),
    "convention: match_repeats: true or false, expected a whole number": (
        "run.json",
        {"convention": {"match_repeats": True}},
    ),
    "convention: token_curve.0.: text, expected a whole number": ("run.json", {"convention": {"token_curve": ["3"]}}),
    "data: null, expected an object": ("run.json", {"data": None}),
    "data.name: a whole number, expected text": ("run.json", {"data": {"name": 3}}),
    "job: a list, expected text": ("run.json", {"job": ["align"]}),
    "unknown job 'aling'; known: align, perturb, diff": ("run.json", {"job": "aling"}),
    "layers: unknown layer 'frist'": ("run.json", {"layers": "frist"}),
    "versions: text, expected an object": ("run.json", {"versions": "1.0"}),
    "results: an object, expected a list": ("summary.json", {"results": {}}),
    "results.0.: text, expected an object": ("summary.json", {"results": ["m"]}),
    "no model": ("summary.json", {"results": [{}]}),
    "results.0..skipped.0.: text, expected an object": (
        "summary.json",
        {"results": [{"model": "m", "skipped": ["7"]}]},
    ),
    "no id, reason": ("summary.json", {"results": [{"model": "m", "skipped": [{}]}]}),
    "results.0..accuracy: a list, expected an object": (
        "summary.json",
        {"results": [{"model": "m", "accuracy": []}]},
    ),
    "results.0..companions: a whole number, expected an object": (
        "summary.json",
        {"results": [{"model": "m", "companions": 3}]},
    ),
    "base: a list, expected an object": ("summary.json", {"base": []}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said(wrong: str, runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs["align"], folder)
    file, changed = WRONG[wrong]
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **changed}))
    with pytest.raises(RunFolderError, match=wrong) as raised:
        report([folder])
    assert str(folder / file) in str(raised.value) and "\n" not in str(raised.value)
    if file == "run.json":
        for again in (lambda: align(LLAVA.adapter, examples(), out=folder), lambda: estimates(folder)):
            with pytest.raises(RunFolderError, match=f"{wrong}|holds another run .*{wrong.split(':')[0]}"):
                again()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "run.json: not valid JSON"),
        (b"", "run.json: not valid JSON"),
        (b"\xff", "run.json: not valid JSON"),
        (b"[" * 100_000, "run.json: not valid JSON"),
        (b"9" * 5000, "run.json: not valid JSON"),
        (b"[]", "run.json: .*a list, expected an object"),
        (b"{}", "run.json: .*no job, convention, models"),
        (None, "no run.json"),
    ],
)
def test_what_is_no_run_json(content: bytes | None, reason: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    for read in (estimates, run_records, differences, controls):
        with pytest.raises(RunFolderError, match=reason):
            read(tmp_path)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(RunFolderError, match=r"run.json: cannot be read \(is a pipe"):
        estimates(tmp_path)
