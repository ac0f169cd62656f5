"""A revision of a model, behind its name or apart from it, wherever a model is named; from a cache as the hub client
writes it, offline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from mmerank import load, load_data, load_text
from mmerank.__main__ import main
from mmerank.errors import ModelError, UsageError
from mmerank.jobs.study import read_study
from mmerank.models.encoders.loading import check_encoder, is_encoder_alone, load_encoder
from mmerank.models.identity import identity
from mmerank.models.located import at_revision
from mmerank.models.sizes import weights_of
from tests.adapters.text_cases import OPT
from tests.adapters.tiny_models import saved
from tests.conftest import GOLDEN
from tests.encoder_models import save_clip

MAIN, STEP = "a" * 40, "b" * 40


def put(hub: Path, name: str, revision: str, commit: str, made_from: Path) -> Path:
    """A snapshot of a repository in the cache."""
    repository = hub / f"models--maker--{name}"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(made_from, snapshot)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    return snapshot


def changed(folder: Path) -> None:
    """Other weights, and another template."""
    file = folder / "model.safetensors"
    save_file({key: 1.5 * h for key, h in load_file(file).items()}, file, {"format": "pt"})
    template = folder / "chat_template.jinja"
    known = template.read_text() if template.is_file() else "{{ messages[0]['content'] }}"
    template.write_text(f"In another template: {known}")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repositories with a revision `step1` and, but for `only`, a newer main branch."""
    folder = tmp_path_factory.mktemp("hub")
    sources = {
        "llava": GOLDEN / "llava_tiny" / "hf_model",
        "qwen": saved("qwen2_5_vl", folder / "qwen"),
        "clip": save_clip(folder / "clip"),
        "opt": OPT.folder,
    }
    for name, source in sources.items():
        changed(put(folder / "hub", name, "step1", STEP, source))
        if name != "qwen":  # whose main branch is not in the cache, so that what reads it fails or finds nothing
            put(folder / "hub", name, "main", MAIN, source)
    return folder / "hub"


@pytest.fixture(autouse=True)
def cached(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))


def read_from(source: Any) -> dict[str, Any]:
    return {key: of for key, of in source.items() if key not in ("checkpoint", "commit", "tokenizer")}


@pytest.mark.parametrize(
    ("name", "way"), [("llava", load), ("qwen", load), ("clip", load_encoder), ("opt", load_text)]
)
def test_everything_is_read_at_the_revision(hub: Path, name: str, way: Any) -> None:
    """As of the snapshot's folder, which has no other revision to read."""
    found = way(f"maker/{name}@step1", device="cpu")
    folder = way(str(hub / f"models--maker--{name}" / "snapshots" / STEP), device="cpu")
    assert found.name == f"maker/{name}@step1"
    assert (found.source["checkpoint"], found.source["commit"]) == (f"maker/{name}", STEP)
    assert read_from(identity(found)) == read_from(identity(folder))
    if name != "qwen":
        newest = way(f"maker/{name}", device="cpu")
        assert newest.source["commit"] == MAIN and identity(newest)["weights"] != identity(found)["weights"]
    if way is load:
        assert "In another template: " in found.processor.chat_template
    if way in (load, load_text):
        apart = way(f"maker/{name}", revision=STEP, device="cpu")
        assert apart.name == f"maker/{name}@{STEP}" and apart.source["commit"] == STEP
    assert weights_of(f"maker/{name}@step1") == weights_of(str(hub / f"models--maker--{name}" / "snapshots" / STEP))


def test_two_revisions_in_one_command(tmp_path: Path, hub: Path) -> None:
    main_line = ["align", "maker/llava", "maker/llava@step1", "--data", "demo", "--limit", "2", "--out"]
    try:
        main([*main_line, str(tmp_path / "run")])
    except SystemExit as ended:
        assert not ended.code
    results = json.loads((tmp_path / "run" / "summary.json").read_text())["results"]
    assert [of["model"] for of in results] == ["maker/llava", "maker/llava@step1"]
    assert [of["source"]["commit"] for of in results] == [MAIN, STEP]
    assert results[0]["erank1"] != results[1]["erank1"]
    assert is_encoder_alone("maker/clip@step1")
    check_encoder("maker/clip@step1")
    assert len(load_data("demo")) == 64


def test_in_a_study(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "models: [a/b@v1, {model: a/b, revision: 0123456, dtype: float32}, {model: a/b, revision: 1.10}]\n"
        "data: [demo]\njobs: [align]\n"
    )
    cells = read_study(tmp_path / "s.yaml", {"align": ["models", "data"]})
    assert [(cell.model, dict(cell.options)) for cell in cells] == [
        ("a/b@v1", {}),
        ("a/b@0123456", {"dtype": "float32"}),
        ("a/b@1.10", {}),
    ]
    for wrong, said in (
        ("models: [{model: a/b, revision: [x, y]}]\njobs: [align]", "revision: expected one, as text"),
        ("models: [a/b]\njobs: [align: {revision: x}]", "revision is no option here: it stands with a model"),
    ):
        (tmp_path / "s.yaml").write_text(f"data: [demo]\n{wrong}\n")
        with pytest.raises(UsageError, match="s.yaml") as raised:
            read_study(tmp_path / "s.yaml", {"align": ["models", "data"]})
        assert said in str(raised.value)


def test_what_names_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a@b").mkdir()
    for model in ("a@b", "./x/y@z", "demo-llava", "m.yaml", "open_clip:ViT-B-32:tag@x", str(tmp_path / "c@d")):
        assert at_revision(model) == (model, None)
    assert at_revision("a/b@refs/pr/1") == ("a/b", "refs/pr/1")
    for model, said in (
        ("maker/llava@step2", "not to be had from the hub at revision step2"),
        ("maker/llava@", "no revision behind @"),
        ("demo-llava@x", "comes with mmerank, and has no revision 'x'"),
        ("a@b", "no config.json in this folder"),
    ):
        with pytest.raises((ModelError, UsageError)) as raised:
            load(model, device="cpu")
        assert said in str(raised.value)
    with pytest.raises(UsageError, match="name one"):
        load("maker/llava@step1", revision="main")
    with pytest.raises(ModelError, match="revision 'x' of a YAML file"):
        load("m.yaml", revision="x")
