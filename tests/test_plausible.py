"""Received checkpoints: refused by name before memory is taken, nothing fetched, and no code of the folder run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mmerank.errors import ModelError
from mmerank.models.adapter import load
from mmerank.models.loading import load_text
from mmerank.models.plausible import Held, check_fields, check_folder, held_in
from tests import forked
from tests.adapters.text_cases import LLAMA, OPT
from tests.conftest import LONGEST_S

GOLDEN = Path(__file__).parent / "golden"
LLAVA, OPENELM, MINIGPT = GOLDEN / "llava_tiny/hf_model", GOLDEN / "openelm_tiny", GOLDEN / "minigpt_v2_tiny"
# Loads in a process of its own, which may hang, or take all the memory there is. As much address space as it needs
# for the libraries, and 4 GB.
LOADER = """
import json, resource, sys
from pathlib import Path
import torch, transformers
from mmerank.models.adapter import check_model, load
from mmerank.errors import MmerankError
from mmerank.models.loading import load_text
import mmerank_adapters.causal_lm, mmerank_adapters.llava, mmerank_adapters.minigpt_v2
status = Path("/proc/self/status")
used = next((int(s.split()[1]) for s in status.read_text().splitlines() if s.startswith("VmSize")), 0) * 1000
resource.setrlimit(resource.RLIMIT_AS, (used + 4_000_000_000, -1))
for name in sys.argv[1:]:
    try:
        (load if "llava" in name or name.endswith("minigpt_v2.yaml") else load_text)(name, device="cpu")
        answer = "loaded"
    except MmerankError as error:
        answer = str(error)
    print(json.dumps([name, answer]), flush=True)
"""
needs_limits = pytest.mark.skipif(sys.platform != "linux", reason="address space is limited")


def loaded_apart(*models: Path) -> dict[str, str]:
    done = forked.run(["-c", LOADER, *map(str, models)], timeout=LONGEST_S)
    answers = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    assert done.returncode == 0 and len(answers) == len(models), done.stderr[-3000:]
    return answers


def changed(original: Path, there: Path, file: str, **values: Any) -> Path:
    """A copy of a checkpoint with other values in one JSON file; `a__b` is a field of an object."""
    shutil.copytree(original, there)
    content = json.loads((there / file).read_text()) if (there / file).exists() else {}
    for name, value in values.items():
        *parts, last = name.split("__")
        inside = content
        for part in parts:
            inside = inside[part]
        inside[last] = value
    (there / file).write_text(json.dumps(content))
    return there


def with_bin(folder: Path) -> Path:
    """The checkpoint in the format of torch.save."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


HUGE: list[tuple[Path, str, dict[str, Any]]] = [
    (LLAMA.folder, "num_hidden_layers", {"num_hidden_layers": 10**9}),
    (LLAMA.folder, "hidden_size", {"hidden_size": 10**12}),
    (LLAMA.folder, "vocab_size", {"vocab_size": 10**10}),
    (LLAMA.folder, "intermediate_size", {"intermediate_size": 10**12}),
    (LLAMA.folder, "intermediate_size", {"intermediate_size": 400_000}),
    (OPT.folder, "num_hidden_layers", {"num_hidden_layers": 10**9}),
    (OPT.folder, "max_position_embeddings", {"max_position_embeddings": 10**9}),
    (OPT.folder, "max_position_embeddings", {"max_position_embeddings": 10**30}),
    (OPT.folder, "ffn_dim", {"ffn_dim": 10**6}),
    (LLAVA, "text_config.num_hidden_layers", {"text_config__num_hidden_layers": 10**9}),
    (LLAVA, "vision_config.num_hidden_layers", {"vision_config__num_hidden_layers": 10**9}),
    (LLAVA, "vision_config.hidden_size", {"vision_config__hidden_size": 10**12}),
    (LLAVA, "vision_config.image_size", {"vision_config__image_size": 12_000}),
    (LLAVA, "text_config.vocab_size", {"text_config__vocab_size": 10**10}),
    (OPENELM, "num_transformer_layers", {"num_transformer_layers": 10**9}),
    (OPENELM, "vocab_size", {"vocab_size": 10**10}),
    (OPENELM, "model_dim", {"model_dim": 10**12}),
]


@needs_limits
def test_a_configuration_that_is_larger_than_its_weights(tmp_path: Path) -> None:
    cases = {}
    for i, (original, field, values) in enumerate(HUGE):
        kind = "llava" if original == LLAVA else "text"
        cases[changed(original, tmp_path / f"{i}-{kind}", "config.json", **values)] = field
        if original in (LLAMA.folder, OPT.folder):
            cases[with_bin(changed(original, tmp_path / f"{i}-{kind}-bin", "config.json", **values))] = field
    cases[with_bin(changed(LLAMA.folder, tmp_path / "bin", "config.json"))] = "loaded"
    answers = loaded_apart(*cases)
    for path, field in cases.items():
        answer = answers[str(path)]
        assert field in answer and (field == "loaded" or answer.startswith(str(path))), (path.name, field, answer)
        assert "cannot be loaded" not in answer, (path.name, answer)


@needs_limits
def test_an_image_processor_that_makes_huge_pictures(tmp_path: Path) -> None:
    cases = {}
    for i, (field, value) in enumerate(
        [
            ("size", {"shortest_edge": 12_000}),
            ("size", {"shortest_edge": "x"}),
            ("size", {"height": 10**6, "width": 10**6}),
            ("crop_size", {"height": 12_000, "width": 12_000}),
            ("crop_size", 12_000),
        ]
    ):
        name = f"image_processor__{field}"
        cases[changed(LLAVA, tmp_path / f"{i}-llava", "processor_config.json", **{name: value})] = field
    for path, answer in loaded_apart(*cases).items():
        assert f"processor_config.json: image_processor.{cases[Path(path)]}" in answer


def test_an_image_processor_that_bounds_areas(tmp_path: Path) -> None:
    """Patches are merged: both edges are numbers of pixels then."""
    (config := tmp_path / "config.json").write_text(json.dumps({"vision_config": {"image_size": 336}}))
    file = tmp_path / "preprocessor_config.json"
    for shortest, merge, refused in [(12_544, 2, False), (10**9, 2, True), (12_544, None, True)]:
        size = {"shortest_edge": shortest, "longest_edge": 9_633_792}
        file.write_text(json.dumps({"size": size, "merge_size": merge}))
        if not refused:
            check_folder(config.parent)
            continue
        with pytest.raises(ModelError, match="size.shortest_edge is a number"):
            check_folder(config.parent)


@needs_limits
def test_a_minigpt_v2_that_is_larger_than_its_files(tmp_path: Path) -> None:
    cases = {}
    for i, (values, words) in enumerate(
        [
            ({"vit_depth": 10**9}, "vit_depth is 1000000000"),
            ({"image_size": 28 * 10**6}, "see image_size"),
            ({}, "num_hidden_layers is a number (1000000000)"),
        ]
    ):
        shutil.copytree(MINIGPT, tmp_path / f"{i}")
        file = tmp_path / f"{i}" / "minigpt_v2.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **values}))
        if not values:
            config = tmp_path / f"{i}" / "llama_base" / "config.json"
            config.write_text(json.dumps({**json.loads(config.read_text()), "num_hidden_layers": 10**9}))
        cases[file] = words
    for path, answer in loaded_apart(*cases).items():
        assert cases[Path(path)] in answer


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", [], "config.json: a list, expected a JSON object"),
        ("config.json", {"vision_config": 3}, r"config.json: vision_config is a number \(3\), expected an object"),
        ("config.json", {"text_config": []}, "config.json: text_config is a list, expected an object"),
        ("config.json", {"num_hidden_layers": "x"}, r"config.json: num_hidden_layers is text \('x'\)"),
        ("config.json", {"num_hidden_layers": True}, "config.json: num_hidden_layers is a truth value"),
        ("config.json", {"num_hidden_layers": -1}, "config.json: num_hidden_layers is a number"),
        ("config.json", {"hidden_size": 2.5}, "config.json: hidden_size is a number"),
        ("config.json", {"hidden_size": {}}, "config.json: hidden_size is an object"),
        ("config.json", {"architectures": 3}, r"config.json: architectures is a number"),
        ("config.json", {"rope_parameters": "x"}, "config.json: rope_parameters is text"),
        ("tokenizer_config.json", [], "tokenizer_config.json: a list, expected a JSON object"),
        ("special_tokens_map.json", 3, "special_tokens_map.json: a number"),
        ("processor_config.json", {"image_processor": 3}, "processor_config.json: image_processor is a number"),
        ("model.safetensors.index.json", "x", "model.safetensors.index.json: text"),
        ("preprocessor_config.json", None, "preprocessor_config.json: null, expected a JSON object"),
    ],
)
def test_values_of_another_kind(file: str, content: Any, words: str, tmp_path: Path) -> None:
    folder = shutil.copytree(LLAVA, tmp_path / "llava")
    if file == "config.json" and isinstance(content, dict):
        content = {**json.loads((folder / file).read_text()), **content}
    (folder / file).write_text(json.dumps(content))
    for loads in (load, load_text):
        with pytest.raises(ModelError, match=f"llava/{words}"):
            loads(folder, device="cpu")


def test_shards_of_another_folder(tmp_path: Path) -> None:
    for i, name in enumerate(["../other.safetensors", "/etc/passwd", "a/../../x.safetensors"]):
        folder = shutil.copytree(LLAMA.folder, tmp_path / f"{i}")
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ModelError, match=r"index.json: .* is no file of this folder"):
            load_text(folder, device="cpu")


def test_what_is_stored_is_counted(tmp_path: Path) -> None:
    """Never less than there is, or good checkpoints would be refused."""
    tensors = {f"{i}": torch.zeros(3, 4) for i in range(200)}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "a.bin")
    torch.save(tensors, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    torch.save(dict.fromkeys(tensors, torch.zeros(1)), tmp_path / "shared.bin")
    for path in tmp_path.iterdir():
        found = held_in([path])
        assert found is not None and found.tensors >= 200 and found.size == path.stat().st_size
    assert held_in([]) is None
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 100)
    assert held_in([tmp_path / "bad.safetensors"]) is None
    both = held_in([tmp_path / "a.safetensors", tmp_path / "a.bin"])
    assert both is not None and both.tensors >= 400


def test_published_shapes_pass() -> None:
    """Of what models have that are much used."""
    for config, stored in (
        ({"num_hidden_layers": 32, "hidden_size": 4096, "vocab_size": 32000}, Held(13_476_839_424, 291)),
        ({"n_layer": 12, "n_embd": 768, "n_inner": None, "n_positions": 1024}, Held(548_105_171, 160)),
        ({"num_local_experts": 128, "num_hidden_layers": 48}, Held(61_000_000_000, 675)),
        ({"type_vocab_size": 0, "max_position_embeddings": 10_485_760}, Held(1000, 10)),
        ({"num_key_value_heads": [3, 3], "intermediate_size": [128, 256]}, Held(1000, 10)),
    ):
        check_fields(config, stored, "config.json")


# How attention is computed

KERNELS = ["kernels-community/flash-attn", "flash_attention_2", "eager"]


def chosen(model: Any) -> set[str]:
    """How the parts of a model compute attention."""
    return {module.config._attn_implementation for module in model.modules() if hasattr(module, "config")}


@pytest.mark.parametrize("asked", KERNELS)
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_file_does_not_choose_how_attention_is_computed(asked: str, key: str, tmp_path: Path) -> None:
    ids, mask = torch.tensor([[1, 2, 3, 4]]), torch.ones(1, 4, dtype=torch.bool)
    expected = load_text(LLAMA.folder, device="cpu")
    found = load_text(changed(LLAMA.folder, tmp_path / "text", "config.json", **{key: asked}), device="cpu")
    for model in (found.model, found.untrained(0).model):
        assert chosen(model) == {"sdpa"}
    assert torch.equal(found.forward(ids, mask), expected.forward(ids, mask))


def test_neither_does_it_for_a_part_of_a_model(tmp_path: Path) -> None:
    values: dict[str, Any] = {"attn_implementation": {"text_config": KERNELS[0], "vision_config": KERNELS[1]}}
    values |= {"text_config__attn_implementation": KERNELS[0], "vision_config___attn_implementation": KERNELS[1]}
    values |= {"output_attentions": True, "experts_implementation": "eager", "return_dict": False}
    found = load(changed(LLAVA, tmp_path / "llava", "config.json", **values), device="cpu")
    for model in (found.model, found.untrained(0).model):
        assert chosen(model) == {"sdpa"}
    shutil.copytree(MINIGPT, tmp_path / "minigpt")
    config = tmp_path / "minigpt" / "llama_base" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "attn_implementation": KERNELS[0]}))
    minigpt: Any = load(tmp_path / "minigpt" / "minigpt_v2.yaml", device="cpu")
    assert chosen(minigpt.model.llama_model) == {"sdpa"}


# What is no file


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_only_regular_files_are_loaded(kind: str, tmp_path: Path) -> None:
    def instead(path: Path) -> None:
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")

    cases = []
    for original, name in ((LLAMA.folder, "text"), (LLAVA, "llava")):
        for file in ("config.json", "tokenizer.json", "model.safetensors", "generation_config.json", "x.jinja"):
            folder = shutil.copytree(original, tmp_path / f"{name}-{file}")
            instead(folder / file)
            cases.append(folder)
        (folder := shutil.copytree(original, tmp_path / f"{name}-shard") / "shards").mkdir()
        (folder.parent / "model.safetensors").unlink()
        index = {"weight_map": dict.fromkeys(load_file(original / "model.safetensors"), "shards/1.safetensors")}
        (folder.parent / "model.safetensors.index.json").write_text(json.dumps(index))
        instead(folder / "1.safetensors")
        cases.append(folder.parent)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        instead(shutil.copytree(LLAMA.folder, tmp_path / f"words-{file}") / file)
        keys = {"adapter": "causal-lm", "checkpoint": str(LLAMA.folder), "tokenizer": str(tmp_path / f"words-{file}")}
        (tmp_path / f"{file}-text.yaml").write_text(yaml.safe_dump(keys))
        cases.append(tmp_path / f"{file}-text.yaml")
    for file in ("checkpoint.pth", "eva_vit_g.pth", "minigpt_v2.yaml", "llama_base/config.json"):
        folder = shutil.copytree(MINIGPT, tmp_path / file.replace("/", "-").removesuffix(".yaml"))
        instead(folder / file)
        cases.append(folder / "minigpt_v2.yaml")
    for path, answer in loaded_apart(*cases).items():
        assert "expected a file" in answer or "no such file" in answer or "no config.json" in answer, (path, answer)


# Code of the current folder

MODULE = """
from pathlib import Path
Path("ran").touch()
class Evil:
    model_types = ()
    @classmethod
    def load(cls, file, *, name, dtype, device): raise SystemExit(7)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("start", "on_path"), [("-m", False), ("-c", False), ("-m", True)])
def test_an_adapter_is_not_imported_from_the_current_folder(start: str, on_path: bool, tmp_path: Path) -> None:
    (tmp_path / "received.py").write_text(MODULE)
    (tmp_path / "x.yaml").write_text("adapter: received:Evil\n")
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *([str(tmp_path)] if on_path else [])])}
    if not environment["PYTHONPATH"]:
        del environment["PYTHONPATH"]
    code = ["-m", "mmerank"] if start == "-m" else ["-c", "from mmerank.__main__ import main; main()"]
    done = subprocess.run(
        [sys.executable, *code, "align", "x.yaml", "--data", "demo", "--limit", "2"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == (7 if on_path else 2), done.stderr
    assert (tmp_path / "ran").exists() is on_path
    assert on_path or "adapter 'received:Evil': received cannot be imported" in done.stderr


@pytest.mark.parametrize(
    ("original", "file", "field", "value"),
    [
        (LLAMA.folder, "tokenizer_config.json", "model_max_length", ""),
        (LLAMA.folder, "tokenizer_config.json", "model_max_length", [None]),
        (LLAVA, "processor_config.json", "image_processor__resample", "x"),
        (OPENELM, "config.json", "num_gqa_groups", False),
        (OPENELM, "config.json", "qkv_multipliers", 2**63),
    ],
)
def test_values_over_which_a_library_stumbles(
    original: Path, file: str, field: str, value: Any, tmp_path: Path
) -> None:
    folder = changed(original, tmp_path / "model", file, **{field: value})
    with pytest.raises(ModelError) as raised:
        (load if original == LLAVA else load_text)(folder, device="cpu")
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)
