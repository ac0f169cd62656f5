"""The notebooks run, and give the outputs that stand in them."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tests.test_docs import NUMBER

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_give_the_outputs_that_stand_in_them(path: Path) -> None:
    namespace: dict[str, Any] = {}
    printed = 0
    assert path.stat().st_size < 50_000
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        out = io.StringIO()
        with redirect_stdout(out):
            exec(compile("".join(cell["source"]), str(path), "exec"), namespace)
        stated = "".join("".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")
        assert NUMBER.sub("#", out.getvalue()).split() == NUMBER.sub("#", stated).split()
        found, expected = ([float(x) for x in NUMBER.findall(text)] for text in (out.getvalue(), stated))
        assert found == pytest.approx(expected, rel=0.02, abs=0.02)
        printed += len(expected)
    assert printed


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) == 2
