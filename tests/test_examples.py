"""The commands of the documents run as they stand, in a folder that holds small models and data under their names."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import transformers
import typer

import mmerank
from mmerank.__main__ import main
from mmerank.commands.app import app
from mmerank.inputs import hub
from tests.adapters.text_cases import OPT, opt_tokenizer
from tests.conftest import GOLDEN
from tests.test_docs import DOCUMENTS, FENCE, ROOT, commands, unlaunched
from tests.test_monitor import PROBES, logged, small_model, trainer
from tests.test_texts import jsonl

# What the documents name that no small folder stands for: revisions on the hub, lm-eval's own data, tables of the
# paper (tests/test_reproduction.py), and models of the web.
NOT_HERE = ("--revisions", "--accuracy", "--models-from", "reproduce table6", "reproduce figure1")
README = ROOT / "README.md"
SAMPLES: list[dict[str, Any]] = json.loads((GOLDEN / "samples.json").read_text())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models and data under the names that the documents give them, each in its published layout."""
    monkeypatch.chdir(tmp_path)
    for name, model in {
        "llava-hf/llava-1.5-7b-hf": GOLDEN / "llava_tiny" / "hf_model",
        "facebook/opt-125m": OPT.folder,
        "facebook/opt-1.3b": OPT.folder,
        "model": OPT.folder,
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).symlink_to(model)
    for path in (GOLDEN / "minigpt_v2_tiny").iterdir():
        Path(path.name).symlink_to(path)
    Path("train2017").symlink_to(GOLDEN / "images")
    records, captions, rows = [], [], []
    Path("cc_sbu_align", "image").mkdir(parents=True)
    Path("shards").mkdir()
    with tarfile.open("shards/000.tar", "w") as archive:
        for sample in SAMPLES:
            name, picture = str(sample["id"]), GOLDEN / "images" / sample["image"]
            turns = [("human", f"<image>\n{sample['instruction']}"), ("gpt", sample["response"])]
            said = [{"from": who, "value": text} for who, text in turns]
            records.append({"id": name, "image": sample["image"], "conversations": said})
            captions.append({"image_id": name, "caption": sample["response"]})
            rows.append([f"train2017/{sample['image']}", sample["instruction"], sample["response"]])
            shutil.copy(picture, f"cc_sbu_align/image/{name}.jpg")
            Path("json").write_text(json.dumps({"question": sample["instruction"]}))
            Path("txt").write_text(sample["response"])
            for ending, content in {"jpg": picture, "txt": Path("txt"), "json": Path("json")}.items():
                archive.add(content.resolve(), f"{name}.{ending}")
    for number in range(1, 10):
        tarfile.open(f"shards/{number:03d}.tar", "w").close()
    Path("detail_23k.json").write_text(json.dumps(records))
    Path("cc_sbu_align/filter_cap.json").write_text(json.dumps({"annotations": captions}))
    texts = [sample["response"] for sample in SAMPLES]
    Path("notes.txt").write_text("\n".join(texts))
    study = {"models": ["llava-hf/llava-1.5-7b-hf"], "data": ["demo"], "limit": 2, "jobs": ["align"]}
    Path("mllms.yaml").write_text(json.dumps(study))
    # Links lead out of the folder of a table, and a table may not.
    for i, row in enumerate(rows):
        row[0] = f"cc_sbu_align/image/{SAMPLES[i]['id']}.jpg"
    table = ["file,question,answer,caption", *(",".join([*map(quoted, row), quoted(row[2])]) for row in rows)]
    for name in ("photos.csv", "captions.csv"):
        Path(name).write_text("\n".join(table) + "\n")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    Path("texts.jsonl.zst").write_bytes(pa.compress(lines.encode(), codec="zstd", asbytes=True))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hub, "_location", lambda name: str(tmp_path / "hub" / name))
    dolly = tmp_path / "hub" / "databricks" / "databricks-dolly-15k"
    jsonl(dolly / "databricks-dolly-15k.jsonl", *({"context": text} for text in texts))
    return tmp_path


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def run(words: list[str]) -> None:
    try:
        main(words)
    except SystemExit as end:
        assert not end.code, shlex.join(words)


@pytest.mark.parametrize("document", ["README.md", "your-data.md", "own-model.md", "cluster.md"])
def test_commands_run(folder: Path, document: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those with a launcher as the one process that it would start; tests/test_processes.py starts several."""
    named = [unlaunched(words) for name, words in commands() if name == document]
    ours = [words[1:] for words in named if words[0] == "mmerank"]
    here = [words for words in ours if not any(of in " ".join(words) for of in NOT_HERE)]
    assert len(here) >= 4
    for words in here:
        run(words)
    assert "eRank" in capsys.readouterr().out


def test_the_monitored_trainer_of_the_readme(tmp_path: Path) -> None:
    (block,) = [content for _, content in FENCE.findall(README.read_text()) if "def monitored" in content]
    namespace: dict[str, Any] = {"mmerank": mmerank}
    exec(block, namespace)
    opt_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    training = namespace["monitored"](trainer(tmp_path / "out", tokenizer, small_model(), 1), PROBES)
    training.train()
    assert logged(training.state.log_history)


def test_commands_in_sentences_have_the_options_that_they_name() -> None:
    group: Any = typer.main.get_command(app)
    found = 0
    for document in DOCUMENTS:
        for span in re.findall(r"`mmerank ([^`]+)`", FENCE.sub("", document.read_text())):
            name, *words = shlex.split(" ".join(span.split()))
            if name not in group.commands:  # a phrase
                assert "--" not in span or name.startswith("-"), f"{document.name}: mmerank {span}"
                continue
            known = {option for parameter in group.commands[name].params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known, f"{document.name}: mmerank {span}"
            found += 1
    assert found > 20
