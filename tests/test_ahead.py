"""What a dry run says that a study will take."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open

from mmerank.__main__ import main
from mmerank.downloads import download
from mmerank.inputs.demo import MODELS
from mmerank.jobs.ahead import ahead
from mmerank.jobs.cells import Cell, standing, write_cells
from mmerank.jobs.fit import Memory, does_not_fit, memory_of, too_large
from mmerank.models.sizes import Weights, files_taken, weights_of
from tests.conftest import GOLDEN
from tests.hub_standin import hub_standin

TINY = GOLDEN / "llava_tiny/hf_model"
LLAVA = Path(MODELS["demo-llava"])


def counted(folder: Path) -> int:
    """Numbers in a checkpoint, as safetensors gives the tensors."""
    with safe_open(folder / "model.safetensors", framework="np") as file:
        return sum(file.get_tensor(key).size for key in file.keys())


def study(tmp_path: Path, content: dict[str, Any], *options: str) -> dict[str, Any]:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit) as stopped:
        main(["study", str(tmp_path / "s.yaml"), "--dry-run", "--json", str(tmp_path / "s.json"), *options])
    assert not stopped.value.code
    found: dict[str, Any] = json.loads((tmp_path / "s.json").read_text())["ahead"]
    return found


def test_weights_are_counted_without_loading() -> None:
    found = weights_of(str(TINY))
    assert found is not None and found.counts == {"F32": counted(TINY)} and found.in_memory() == 4 * counted(TINY)
    assert found.in_memory("bfloat16") == 2 * counted(TINY)
    assert found.in_memory("bfloat16", "8bit") == counted(TINY) == 2 * found.in_memory(None, "4bit")
    demo = weights_of("demo-llava")
    assert demo is not None and demo.in_memory() == 4 * counted(LLAVA)  # which is measured in float32
    assert weights_of("nobody/has-this") is None and weights_of(str(GOLDEN)) is None


def test_the_files_of_minigpt_v2_are_one_model() -> None:
    def numbers(content: Any) -> int:
        if isinstance(content, torch.Tensor):
            return math.prod(content.shape)
        return sum(map(numbers, content.values())) if isinstance(content, dict) else 0

    folder = GOLDEN / "minigpt_v2_tiny"
    keys = yaml.safe_load((folder / "minigpt_v2.yaml").read_text())
    files = [torch.load(folder / keys[key], weights_only=True) for key in ("vit_checkpoint", "checkpoint")]
    found = weights_of(str(folder / "minigpt_v2.yaml"))
    assert found is not None
    assert found.parameters == counted(folder / keys["llama_model"]) + sum(map(numbers, files))


def test_only_what_loading_takes() -> None:
    beside = ["config.json", "tokenizer.json", "chat_template.jinja", "additional_chat_templates/rag.jinja"]
    no = ["README.md", "LICENSE.txt", "assets/a.png", "onnx/model.onnx", "original/params.json", ".gitattributes"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    old = ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]
    assert set(files_taken([*beside, *no, *shards, *old, "consolidated.safetensors"])) == {*beside, *shards}
    assert set(files_taken([*beside, *no, "model.safetensors", "pytorch_model.bin"])) == {
        *beside,
        "model.safetensors",
    }
    assert set(files_taken([*beside, *no, *old, "tf_model.h5"])) == {*beside, *old}


def test_what_is_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {path.name: path.read_bytes() for path in LLAVA.iterdir()}
    taken = sum(map(len, files.values()))
    content = {
        "models": ["me/llava", {"model": "me/llava", "dtype": "bfloat16"}, "me/none"],
        "data": ["demo", "hub:me/pairs?image=a&response=b&instruction="],
        "limit": 4,
        "device": "cpu",
        "jobs": ["align"],
    }
    with hub_standin(monkeypatch, tmp_path / "cache") as hub:
        hub.add("me/llava", {**files, "README.md": b"much", "pytorch_model.bin": b"as much again"})
        hub.add("me/pairs", {"a.parquet": b"0123", "README.md": b"56"})
        found = study(tmp_path, content)
        llava, none = found["models"]
        assert llava["download"] == {"missing": taken, "cached": 0, "why": ""}
        assert llava["parameters"] == counted(LLAVA) and llava["memory"] == 2 * counted(LLAVA)
        assert none["download"]["missing"] is None and none["download"]["why"].startswith("no such repository")
        assert found["downloads"] == taken + 6  # once, though two cells take it, on two data sets each
        assert hub.asked.count("GET api/models/me/llava/tree/main") == 1

        from huggingface_hub import hf_hub_download

        hf_hub_download("me/llava", "model.safetensors")
        left = taken - len(files["model.safetensors"])
        assert study(tmp_path, content)["downloads"] == left + 6
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    offline = download("me/llava", None, files_taken)
    assert offline.missing is None and offline.why.startswith("offline")
    assert offline.cached == len(files["model.safetensors"])


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def silent(name: str, *_: Any, **__: Any) -> str:
        asked.append(name)
        return "the hub gives no answer: timed out"

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("mmerank.downloads.asked_of_hub", silent)
    cells = [Cell("align", model, "demo", {"limit": 2, "device": "cpu"}) for model in ("me/a", "me/b")]
    found = ahead([standing(cell, tmp_path / "s") for cell in cells], tmp_path / "s")
    assert asked == ["me/a"]
    for model in found.models:
        assert model.download is not None and model.download.missing is None and model.parameters is None
        assert model.download.why.startswith("the hub gives no answer")


def finished(folder: Path, cell: Cell, n: int, lines: list[dict[str, Any]]) -> None:
    write_cells([cell], folder, {cell.job: "models"})
    (folder / cell.name).mkdir()
    (folder / cell.name / "summary.json").write_text(json.dumps({"results": [{"n": n}]}))
    (folder / "cells" / f"{cell.name}.pace").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_time_is_that_of_finished_cells_of_the_model(tmp_path: Path) -> None:
    tiny = str(TINY)
    done = Cell("align", tiny, "demo", {"limit": 10, "device": "cpu"})
    slower = Cell("align", tiny, "demo", {"limit": 10, "device": "cpu", "layers": "all"})
    title = {"title": f"align {tiny}", "total": 10}
    # Interrupted once; of the other a part was killed, which leaves no line.
    finished(tmp_path, done, 10, [{**title, "samples": 4, "seconds": 8}, {**title, "samples": 6, "seconds": 12}])
    finished(tmp_path, slower, 10, [{**title, "samples": 5, "seconds": 50}])
    left = [
        Cell("align", tiny, "demo", {"limit": 30, "device": "cpu"}),
        Cell("align", tiny, "demo", {"device": "cpu", "layers": "all"}),
        Cell("perturb", tiny, "demo", {"limit": 30, "device": "cpu", "transform": ["rotate:90", "blur:1,2"]}),
    ]
    found = ahead([standing(cell, tmp_path) for cell in (done, slower, *left)], tmp_path)
    assert set(found.cells) == {cell.name for cell in left}
    of = [found.cells[cell.name] for cell in left]
    assert [(cell.examples, cell.seconds, cell.by) for cell in of] == [
        (30, 60.0, "measured"),
        (64, 640.0, "measured"),
        (30, None, ""),
    ]
    size = len(json.dumps({"results": [{"n": 10}]}))
    assert of[0].disk == 3 * size and of[2].disk == 30 * 4 * 40_000
    elsewhere = ahead([standing(left[2], tmp_path)], tmp_path, elsewhere=True).cells[left[2].name]
    assert elsewhere.by == "rule"
    assert elsewhere.seconds == pytest.approx(30 * 4 * (2 * counted(TINY) * 1150 / 15e12 + 5 * 0.05))


def test_what_is_not_there_is_said_and_no_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.yaml").write_text(
        f"models: [{TINY}]\ndata: [demo, 'llava:{tmp_path}/none.json']\nlimit: 4\ndevice: cpu\njobs: [align]\n"
    )
    monkeypatch.setattr("mmerank.jobs.ahead.memory_of", lambda _: Memory(1_000_000, "cpu"))
    monkeypatch.setattr("mmerank.jobs.ahead._free", lambda _: 1000)
    with pytest.raises(SystemExit):
        main(["study", str(tmp_path / "s.yaml"), "--dry-run"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"will be skipped: {TINY}: does not fit: 0.00141 GB of weights (352k parameters, as stored)" in said
    assert "will fail, 1 cell: " in said and "none.json" in said
    assert "too little disk: run folders need about" in said


def test_a_model_fits_where_its_weights_do() -> None:
    weights = Weights({"BF16": 1_000_000})
    assert does_not_fit(weights, {}, Memory(2_000_000, "cuda:0")) == ""
    assert does_not_fit(weights, {"dtype": "float32"}, Memory(3_999_999, "cuda:0 (X)")).startswith("does not fit: ")
    assert does_not_fit(weights, {"dtype": "float32", "load-in": "8bit"}, Memory(1_000_000, "cuda:0")) == ""
    assert does_not_fit(None, {}, Memory(1, "cpu")) == does_not_fit(weights, {}, None) == ""
    here = memory_of("cpu")
    assert here is None or here.size > 100_000_000
    assert too_large("demo-llava", {"device": "cpu"}) == ""


def test_a_cell_looks_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmerank.jobs.where import process

    cell = Cell("align", "demo-llava", "demo", {"device": "cpu"})
    write_cells([cell], tmp_path, {"align": "models"})
    file = tmp_path / "cells" / f"{cell.name}.yaml"
    assert vars(process)["_too_large"](file) == ""
    monkeypatch.setattr("mmerank.jobs.fit.memory_of", lambda _: Memory(1, "cpu"))
    assert vars(process)["_too_large"](file).startswith("does not fit: ")
