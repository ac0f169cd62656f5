from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmerank import load, load_text
from mmerank.errors import ModelError, UsageError
from mmerank.models.checkpoints import check_named
from mmerank.models.located import LANGUAGE, MULTIMODAL, check_device, check_located


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "opt"}')
    return folder


@pytest.mark.parametrize("word", ["true", "False", "yes", "no", "on", "1", "0"])
def test_what_a_flag_was_given_is_no_model(word: str) -> None:
    with pytest.raises(UsageError, match=r"is no MODEL; flags, as --strict, take no value"):
        check_located(word)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such/folder", "/no/such/folder: no such folder$"),
        ("./opt", "no such folder$"),
        ("~/opt", "no such folder$"),
        ("models/opt/small", "no such folder$"),
        ("opt/", "no such folder$"),
        ("gpt2x", r"no hub id, which is OWNER/NAME; did you mean gpt2\?"),
        ("opt-125m", "no hub id, which is OWNER/NAME$"),
        ("me/my model", "no hub id, which is OWNER/NAME$"),
        ("model.gguf", "no such file; a MODEL is a folder"),
        ("me/model.safetensors", "no such file"),
        ("config.json", "no such file"),
        ("nobody/nothing", "no such folder, and not to be had from the hub .not in the local cache"),
        ("gpt2-medium", "not in the local cache"),
        ("google-bert/bert-base-uncased", "not in the local cache"),
        ("bert-base-uncased", "not in the local cache"),
    ],
)
def test_a_name_that_names_nothing(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=words):
        check_located(name)
    for loaded in (load, load_text):
        with pytest.raises(ModelError, match=words):
            loaded(name)


def test_a_folder_like_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path / "opt-125m")
    with pytest.raises(ModelError, match=r"no such folder; did you mean opt-125m\?"):
        check_located(tmp_path / "opt-15m")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"which is OWNER/NAME; did you mean opt-125m\?"):
        check_located("opt-12m")


def test_checkpoints_in_a_folder_are_named_by_their_steps(tmp_path: Path) -> None:
    for step in (1000, 200, 20):
        checkpoint(tmp_path / "trainer" / f"checkpoint-{step}")
    (tmp_path / "trainer" / "runs").mkdir()
    named = ", ".join(str(tmp_path / "trainer" / f"checkpoint-{step}") for step in (20, 200, 1000))
    with pytest.raises(ModelError, match="name one of them, or several") as caught:
        load_text(tmp_path / "trainer")
    assert f"checkpoints in it: {named}; name" in str(caught.value)
    for step in range(30, 40):
        checkpoint(tmp_path / "trainer" / f"checkpoint-{step}")
    with pytest.raises(ModelError, match="checkpoint-36 and 5 more; name one"):
        check_located(tmp_path / "trainer")


@pytest.mark.parametrize(
    ("files", "given", "words"),
    [
        ({"m.gguf": b"GGUF\x03"}, "m.gguf", "m.gguf is a GGUF file, quantised for llama.cpp"),
        ({"m": b"GGUF\x03"}, "m", "m is a GGUF file"),
        ({"m.gguf": b"GGUF\x03"}, "", "no config.json in this folder, and m.gguf is a GGUF file"),
        ({"model.safetensors": b""}, "model.safetensors", "a file of weights alone; name the folder"),
        ({"pytorch_model.bin": b""}, "pytorch_model.bin", "a file of weights alone"),
        ({"model.safetensors": b"", "config.json": b"{}"}, "model.safetensors", "a file of a checkpoint; name its"),
        ({"config.json": b"{}"}, "config.json", "a file of a checkpoint; name its folder"),
        ({"notes.txt": b""}, "notes.txt", "a file; a MODEL is a folder, a hub id, or a YAML file"),
        ({"adapter_config.json": b"{}"}, "", "a LoRA or other adapter without the model it belongs to"),
        ({"run.json": b"{}"}, "", "a run folder, not a checkpoint; `mmerank report` reads it"),
        ({"model.safetensors": b""}, "", "no config.json in this folder, so it is not a checkpoint of transformers"),
        ({}, "", "no config.json in this folder"),
    ],
)
def test_what_is_something_else_is_called_by_its_name(
    files: dict[str, bytes], given: str, words: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=words):
        check_located(tmp_path / given)


def test_what_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors as hub

    asked: list[tuple[str, float]] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    kinds: dict[type[Exception], str] = {
        hub.RepositoryNotFoundError: "no such repository",
        hub.GatedRepoError: "access must be granted",
        hub.RevisionNotFoundError: "at revision step9 .no such revision",
        hub.EntryNotFoundError: "it has no config.json",
        ConnectionError: "the hub gives no answer: ConnectionError",
    }
    for kind, words in kinds.items():
        error = kind.__new__(kind)  # the client's own want an answer of the server

        def ask(url: str, *, timeout: float, error: Exception = error) -> None:
            asked.append((url, timeout))
            raise error

        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", ask)
        with pytest.raises(ModelError, match=words):
            check_located("me/model", "step9")
    assert len(asked) == 5 and all("me/model/resolve/step9/config.json" in url and 0 < t < 10 for url, t in asked)


def test_yaml_files_are_looked_into(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    with pytest.raises(ModelError, match="cannot be read"):
        check_named(MULTIMODAL, file)
    file.write_text(json.dumps({"adapter": "minigpt-v3"}))
    with pytest.raises(UsageError, match="unknown adapter 'minigpt-v3'; known: llava, minigpt-v2"):
        check_named(MULTIMODAL, file)


def test_models_that_come_with_mmerank() -> None:
    check_named(MULTIMODAL, "demo-llava")
    with pytest.raises(UsageError, match=r"unknown model 'demo-lava'; did you mean demo-llava\?"):
        check_named(MULTIMODAL, "demo-lava")
    for name in ("demo", "demo-lava"):
        with pytest.raises(UsageError, match="read pictures"):
            check_named(LANGUAGE, name)


@pytest.mark.parametrize("device", ["toaster", "cuda:x", "cuda:", "gpu", ""])
def test_devices_of_no_kind(device: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        check_device(device)
