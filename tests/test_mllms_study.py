"""`studies/mllms.yaml`, end to end on tiny checkpoints in the layouts of its models."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from mmerank.__main__ import main
from mmerank.inputs.demo.scenes import export, scene
from scripts import mllm_hours
from tests.adapters.tiny_models import saved
from tests.conftest import GOLDEN

ROOT = Path(__file__).parents[1]
FILE = ROOT / "studies" / "mllms.yaml"
STATED = yaml.safe_load(FILE.read_text())
COUNT = 4
# Of these tiny checkpoints cells are run; what the other models are asked is held against their commands.
STANDINS: dict[str, Callable[[Path], Path]] = {
    "minigpt_v2.yaml": lambda _: GOLDEN / "minigpt_v2_tiny/minigpt_v2.yaml",
    "Qwen/Qwen3-VL-4B-Instruct": lambda there: saved("qwen3_vl", there / "qwen3_vl"),
}


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    return int(stopped.value.code or 0)


def data(there: Path) -> dict[str, str]:
    """Data sets in the layouts of those of the study, made of the demo's scenes."""
    scenes = [scene("held-out", i) for i in range(COUNT)]
    manifest = export(scenes, there / "llava")
    pictures, of_minigpt = manifest.parent / "images", there / "cc_sbu_align"
    (of_minigpt / "image").mkdir(parents=True)
    said, lines, rows = [], [], []
    for i, one in enumerate(scenes):
        content = (pictures / f"{one.name}.png").read_bytes()
        (of_minigpt / "image" / f"{i}.jpg").write_bytes(content)
        said.append({"image_id": str(i), "caption": one.description})
        question = f"Is there a {one.things[0].name} in the image?"
        lines.append({"question_id": i, "image": f"{one.name}.png", "text": question, "label": "yes"})
        listed = {"A": one.things[0].name, "B": "no object at all", "answer": "A", "category": "object"}
        rows.append({"index": i, "image": base64.b64encode(content).decode(), "question": "What is there?", **listed})
    (of_minigpt / "filter_cap.json").write_text(json.dumps({"annotations": said}))
    (there / "pope.json").write_text("\n".join(map(json.dumps, lines)))
    pd.DataFrame(rows).to_csv(there / "mmbench.tsv", sep="\t", index=False)
    return {
        "llava:detail_23k.json?images=train2017": f"llava:{manifest}",
        "minigpt:cc_sbu_align": f"minigpt:{of_minigpt}",
        "pope:hub:lmms-lab/POPE": f"pope:{there / 'pope.json'}?images={pictures}",
        "mmbench:hub:lmms-lab/MMBench/en:dev": f"mmbench:{there / 'mmbench.tsv'}",
    }


def renamed(value: Any, names: dict[str, str]) -> Any:
    """The study with other names in the places of those that stand in it."""
    if isinstance(value, dict):
        return {key: renamed(of, names) for key, of in value.items()}
    if isinstance(value, list):
        return [renamed(of, names) for of in value]
    return names.get(value, value) if isinstance(value, str) else value


def test_every_cell_is_what_its_command_takes(tmp_path: Path) -> None:
    (tmp_path / "minigpt_v2.yaml").write_text((GOLDEN / "minigpt_v2_tiny/minigpt_v2.yaml").read_text())
    (tmp_path / "mllms.yaml").write_text(yaml.safe_dump(renamed(STATED, data(tmp_path))))
    assert run("study", str(tmp_path / "mllms.yaml"), "--dry-run", "--json", str(tmp_path / "s.json")) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    cells = found["cells"]
    assert len({cell["model"] for cell in cells}) == len(STATED["models"]) >= 16
    assert len(cells) == 4 * len(STATED["models"])
    assert all(cell["options"]["limit"] == 1000 and cell["options"]["dtype"] == "bfloat16" for cell in cells)
    assert [of["problem"] for of in found["ahead"]["data"]] == [""] * 4
    assert all(of["examples"] == COUNT for of in found["ahead"]["data"])


def test_two_families_from_the_file_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_this_process(command: list[str], *_: Any) -> int:
        return run(*command[command.index("--config") - 1 :])

    monkeypatch.setattr("mmerank.jobs.cells._status", in_this_process)
    models = {name: str(made(tmp_path)) for name, made in STANDINS.items()}
    align, score = (dict(options) for job in STATED["jobs"] for options in job.values())
    small = {"data": STATED["data"][1:], "limit": COUNT, "device": "cpu"}
    jobs = [{"align": {**align, "match-tokens": 3}}, {"score": {**score, "data": score["data"][:1]}}]
    content = {**STATED, "models": list(models), "jobs": jobs, **small}
    (tmp_path / "mllms.yaml").write_text(yaml.safe_dump(renamed(content, {**data(tmp_path), **models})))
    out = str(tmp_path / "runs")
    assert run("study", str(tmp_path / "mllms.yaml"), "--out", out, "--json", str(tmp_path / "s.json")) == 0
    cells = json.loads((tmp_path / "s.json").read_text())["cells"]
    assert [cell["state"] for cell in cells] == ["done"] * 4
    assert run("report", out, "--scores", out, "--out", str(tmp_path / "page")) == 0
    numbers = pd.read_csv(tmp_path / "page/numbers.csv")
    of_each = numbers[numbers["quantity"].isin(["erank5", "erank5_matched"])]
    assert set(of_each["model"]) == set(models.values()) and of_each["value"].notna().all()
    scored = pd.read_csv(tmp_path / "page/agreement_points.csv")
    assert set(scored["model"]) == set(models.values())


def test_the_hours_are_those_of_the_rule() -> None:
    assert set(mllm_hours.SIZES) == set(STATED["models"]) and set(mllm_hours.TEXT) == set(STATED["data"])
    assert mllm_hours.table() in (ROOT / "docs/mllms.md").read_text()
    # A model of 1 B parameters and no vision encoder to speak of: 100 + 50 positions of a pair, 50 of its text,
    # 4 x 150 beside others, and twice 100 + 80 for a question; 2 FLOP of each, a quarter of 989e12 a second.
    found = mllm_hours.hours(mllm_hours.Size(1, 0, 64, 64, 100, 100), [50], 2)
    flop = 1000 * 2e9 * (150 + 50 + 600) + 2 * 1000 * 2e9 * 180
    assert found.gpu == pytest.approx(flop / 247.25e12 / 3600)
    assert found.reading == pytest.approx(3 * 2 / 3600)
    assert found.cores == pytest.approx(1000 * 8e-11 * (4 * 64**3 + 50**3) / 16 / 3600)
    assert math.isclose(found.all, max(found.gpu, found.cores) + found.reading)
