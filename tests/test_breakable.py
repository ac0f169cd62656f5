"""Paths in narrow columns."""

from __future__ import annotations

import pytest
from rich.table import Table

from mmerank.report.terminal.breakable import Breakable
from mmerank.report.terminal.intervals import plain
from tests.conftest import GOLDEN
from tests.test_cli import run

PATH = "path: /somewhere/a folder/models/checkpoint.safetensors; tensors: 18"


@pytest.mark.parametrize("width", [8, 17, 30, 80])
def test_lines_fit_and_hold_all_of_the_text(width: int) -> None:
    table = Table(show_header=False, box=None, padding=0, width=width)
    table.add_row(Breakable(PATH))
    lines = plain(table).splitlines()
    assert all(0 < len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == PATH.replace(" ", "")
    if width >= len("safetensors; "):
        assert all(line.endswith(("/", ".", ":", ";", "a", "18")) for line in lines)


def test_doctor_breaks_no_module_path_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = run("doctor", str(GOLDEN / "llava_tiny" / "hf_model"))
    assert done.returncode == 0, done.stderr
    assert sum("│ model.multi_modal_projector │" in line for line in done.stdout.splitlines()) == 2
    assert max(map(len, done.stdout.splitlines())) <= 80
