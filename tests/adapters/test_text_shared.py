"""What holds for every text adapter, held by the same tests."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmerank import capture, load_text
from mmerank.errors import ModelError, UsageError
from mmerank.models.identity import identity
from mmerank.models.loading import TextAdapter, tokenizer_fingerprint
from tests.adapters.text_cases import BERT, LLAMA, LLAMA_TOKENIZER, OPENELM_CASE, TEXT_CASES, TEXTS, TextCase

every_case = pytest.mark.parametrize("case", TEXT_CASES, ids=lambda case: case.name)
SEED = 7


def batch(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
    n = max(map(len, sequences))
    ids = torch.tensor([ids + [0] * (n - len(ids)) for ids in sequences])
    mask = torch.tensor([[True] * len(ids) + [False] * (n - len(ids)) for ids in sequences])
    return ids, mask


@torch.no_grad()
def states(adapter: TextAdapter, sequences: list[list[int]]) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Of each sequence, what the layers carried and what `forward` returned, without padding."""
    with capture(adapter.model, {str(i): point for i, point in enumerate(adapter.layers)}) as seen:
        final = adapter.forward(*batch(sequences))
    layers = [[seen[str(i)][j, : len(ids)] for i in range(len(adapter.layers))] for j, ids in enumerate(sequences)]
    return layers, [final[j, : len(ids)] for j, ids in enumerate(sequences)]


def copied(case: TextCase, folder: Path) -> Path:
    shutil.copytree(case.folder, folder / "model")
    return folder / "model"


def weights(adapter: TextAdapter) -> dict[str, Tensor]:
    return dict(adapter.model.named_parameters())


def same_weights(one: TextAdapter, other: TextAdapter) -> bool:
    return all(torch.equal(h, weights(other)[name]) for name, h in weights(one).items())


@every_case
def test_token_ids(case: TextCase) -> None:
    for text, reference in zip(TEXTS, case.references, strict=True):
        ids = case.adapter.token_ids(text)
        assert ids == reference.ids
        assert tuple(ids[: len(case.opening)]) == case.opening
        assert not case.ending or tuple(ids[-len(case.ending) :]) == case.ending
    assert case.adapter.token_ids("") == [*case.opening, *case.ending]


@every_case
def test_long_texts_are_not_cut_here(case: TextCase, capfd: pytest.CaptureFixture[str]) -> None:
    assert case.adapter.max_tokens == case.max_tokens
    assert len(case.adapter.token_ids(" ".join(TEXTS * 30))) > case.adapter.max_tokens
    assert "longer than" not in capfd.readouterr().err


@every_case
def test_the_longest_sequence_has_positions(case: TextCase) -> None:
    ids = torch.full((1, case.adapter.max_tokens), 5)
    with torch.no_grad():
        h = case.adapter.forward(ids, torch.ones_like(ids, dtype=torch.bool))
    assert h.shape[1] == case.adapter.max_tokens and h.isfinite().all()


@every_case
def test_layers_are_the_models_own_hidden_states(case: TextCase) -> None:
    adapter = case.adapter
    for reference in case.references:
        (layers,), (final,) = states(adapter, [reference.ids])
        assert torch.equal(final, layers[-1])
        for i, (found, expected) in enumerate(zip(layers, reference.states, strict=True)):
            assert found.shape == expected.shape
            assert (found - expected).abs().max() <= case.tolerance, i


@every_case
def test_logits(case: TextCase) -> None:
    adapter = case.adapter
    assert adapter.predicts_next == case.causal
    for reference in case.references:
        with torch.no_grad():
            h = adapter.forward(*batch([reference.ids]))
            if reference.logits is None:
                with pytest.raises(ModelError, match="an encoder predicts no next token"):
                    adapter.logits(h)
                continue
            whole, chunk = adapter.logits(h)[0], adapter.logits(h[0, 3:9])
        assert (whole - reference.logits).abs().max() <= case.tolerance
        assert (chunk - reference.logits[3:9]).abs().max() <= max(case.tolerance, 5e-6)


@every_case
def test_padding_changes_nothing(case: TextCase) -> None:
    sequences = [reference.ids for reference in case.references]
    together, finals = states(case.adapter, sequences)
    for ids, layers, final in zip(sequences, together, finals, strict=True):
        (alone,), _ = states(case.adapter, [ids])
        for found, expected in zip([*layers, final], [*alone, alone[-1]], strict=True):
            assert (found - expected).abs().max() < 2e-5


@every_case
def test_what_padding_holds_does_not_matter(case: TextCase) -> None:
    ids, mask = batch([reference.ids for reference in case.references])
    with torch.no_grad():
        zeros = case.adapter.forward(ids, mask)[mask]
        others = case.adapter.forward(ids.masked_fill(~mask, 9), mask)[mask]
    assert (zeros - others).abs().max() < 1e-6


@every_case
def test_forward_leaves_the_head_alone(case: TextCase) -> None:
    heads = [m for path, m in case.adapter.model.named_modules() if path.endswith(("lm_head", "embed_out", "pooler"))]

    def fail(*_: Any) -> None:
        raise AssertionError("the head was called")

    handles = [head.register_forward_hook(fail) for head in heads]
    try:
        states(case.adapter, [case.references[0].ids])
    finally:
        for handle in handles:
            handle.remove()
    assert len(heads) == (0 if case in (BERT, OPENELM_CASE) else 1)


@every_case
def test_eval_mode_and_the_same_states_again(case: TextCase) -> None:
    assert not any(module.training for module in case.adapter.model.modules())
    ids = case.references[1].ids
    assert torch.equal(states(case.adapter, [ids])[1][0], states(case.adapter, [ids])[1][0])


@every_case
def test_a_second_load_is_the_same_and_other_weights_are_not(case: TextCase) -> None:
    again = load_text(case.folder, device="cpu")
    assert identity(again) == identity(case.adapter) and again.name == case.adapter.name == str(case.folder)
    assert json.loads(json.dumps(again.source)) == again.source
    half = load_text(case.folder, dtype="bfloat16", device="cpu")
    assert identity(half)["weights"] != identity(again)["weights"]
    assert identity(half)["configuration"] == identity(again)["configuration"]


@every_case
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes(case: TextCase, dtype: str) -> None:
    adapter = load_text(case.folder, dtype=dtype, device="cpu")
    number = getattr(torch, dtype)
    assert adapter.source["dtype"] == dtype and {h.dtype for h in weights(adapter).values()} == {number}
    ids = case.references[0].ids
    _, (final,) = states(adapter, [ids])
    assert final.dtype == number
    error = (final.float() - case.references[0].states[-1]).abs().max()
    assert error < (1.0 if dtype == "bfloat16" else 1e-4)
    if case.causal:
        assert adapter.logits(final).dtype == number


@every_case
def test_auto_places_it_somewhere(case: TextCase) -> None:
    adapter = load_text(case.folder, device="auto")
    ids = case.references[2].ids
    (final,) = states(adapter, [ids])[1]
    assert (final.cpu() - states(case.adapter, [ids])[1][0]).abs().max() < 1e-4
    twin = adapter.untrained(SEED)
    assert states(twin, [ids])[1][0].device == final.device


@every_case
def test_untrained_twin(case: TextCase) -> None:
    adapter = case.adapter
    twin, again, other = adapter.untrained(SEED), adapter.untrained(SEED), adapter.untrained(SEED + 1)
    assert same_weights(twin, again) and twin.source == again.source
    assert not same_weights(twin, other) and not same_weights(twin, adapter)
    assert {n: (h.shape, h.dtype, h.device) for n, h in weights(twin).items()} == {
        n: (h.shape, h.dtype, h.device) for n, h in weights(adapter).items()
    }
    assert twin.tokenizer is adapter.tokenizer and twin.layers == adapter.layers
    assert (twin.max_tokens, twin.predicts_next) == (adapter.max_tokens, adapter.predicts_next)
    assert not any(module.training for module in twin.model.modules())
    assert twin.source["untrained"] is True and twin.source["seed"] == SEED
    assert twin.source["tokenizer"] == tokenizer_fingerprint(adapter.tokenizer)
    for key in ("adapter", "configuration", "dtype"):
        assert identity(twin)[key] == identity(adapter)[key], key
    assert len({adapter.name, twin.name, other.name}) == 3
    (final,) = states(twin, [case.references[0].ids])[1]
    assert final.isfinite().all() and final.std() > 1e-3


@every_case
def test_untrained_twin_leaves_every_generator_alone(case: TextCase) -> None:
    adapter = case.adapter
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = torch.rand(3).tolist(), random.random(), np.random.rand()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    first = adapter.untrained(SEED)
    assert (torch.rand(3).tolist(), random.random(), np.random.rand()) == expected
    assert same_weights(first, adapter.untrained(SEED))


@every_case
def test_untrained_twin_in_half_precision_is_the_same_one_rounded(case: TextCase) -> None:
    half = load_text(case.folder, dtype="bfloat16", device="cpu").untrained(SEED)
    whole = weights(case.adapter.untrained(SEED))
    assert half.source["dtype"] == "bfloat16"
    assert all(torch.equal(h, whole[name].bfloat16()) for name, h in weights(half).items())
    # Rotary frequencies stay in float32, as in a model that was loaded.
    frequencies = [b for name, b in half.model.named_buffers() if name.endswith("inv_freq")]
    assert all(b.dtype == torch.float32 for b in frequencies)


@every_case
def test_the_twins_twin(case: TextCase) -> None:
    twin = case.adapter.untrained(SEED)
    assert same_weights(twin.untrained(3), case.adapter.untrained(3))


@every_case
def test_dropout_in_train_mode_only(case: TextCase) -> None:
    twin = case.adapter.untrained(SEED)
    ids = case.references[0].ids
    rates = [module.p for module in twin.model.modules() if isinstance(module, torch.nn.Dropout)]
    settings = getattr(twin.model, "config", None)
    has_rate = bool(rates and max(rates)) or float(getattr(settings, "dropout", 0) or 0) > 0
    assert has_rate == case.dropout
    torch.manual_seed(0)
    calm = states(twin, [ids])[1][0]
    twin.model.train()
    assert twin.model.training
    one, two = states(twin, [ids])[1][0], states(twin, [ids])[1][0]
    torch.manual_seed(0)
    again = states(twin, [ids])[1][0]
    assert torch.equal(again, one)
    twin.model.eval()
    assert torch.equal(calm, states(twin, [ids])[1][0])
    assert torch.equal(one, two) != case.dropout and torch.equal(one, calm) != case.dropout


@every_case
def test_missing_tokenizer_and_one_given(case: TextCase, tmp_path: Path) -> None:
    folder = copied(case, tmp_path)
    elsewhere = tmp_path / "tokenizer"
    elsewhere.mkdir()
    for name in (*LLAMA_TOKENIZER, "vocab.json", "merges.txt", "vocab.txt"):
        if (folder / name).exists():
            shutil.move(folder / name, elsewhere)
    if case is not OPENELM_CASE:  # their class names the tokenizer's
        shutil.copy(folder / "config.json", elsewhere)
    with pytest.raises(ModelError, match="tokenizer"):
        load_text(folder, device="cpu")
    adapter = load_text(folder, device="cpu", tokenizer=elsewhere)
    assert adapter.token_ids(TEXTS[0]) == case.references[0].ids
    assert adapter.source["tokenizer"] == str(elsewhere)
    with pytest.raises(ModelError, match=r"nowhere.*tokenizer cannot be loaded"):
        load_text(folder, device="cpu", tokenizer=tmp_path / "nowhere")


@every_case
def test_tokenizer_of_another_model(case: TextCase, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    words = {"<s>": 0, "</s>": 1, "<unk>": 2} | {f"w{i}": i + 3 for i in range(1000)}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(ModelError, match="a tokenizer of 1003 tokens, but"):
        load_text(case.folder, device="cpu", tokenizer=folder)


@every_case
def test_missing_weight(case: TextCase, tmp_path: Path) -> None:
    folder = copied(case, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    dropped = sorted(name for name in tensors if ".1." in name and "weight" in name)[0]
    del tensors[dropped]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 weights are not in the checkpoint"):
        load_text(folder, device="cpu")


@every_case
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_missing_file(case: TextCase, tmp_path: Path, name: str) -> None:
    folder = copied(case, tmp_path)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=r"cannot be loaded|no config\.json"):
        load_text(folder, device="cpu")


@every_case
def test_truncated_weights(case: TextCase, tmp_path: Path) -> None:
    folder = copied(case, tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_text(folder, device="cpu")


@every_case
def test_yaml(case: TextCase, tmp_path: Path) -> None:
    copied(case, tmp_path)
    file = tmp_path / "model.yaml"
    name = "openelm" if case is OPENELM_CASE else "causal-lm"
    file.write_text(yaml.safe_dump({"adapter": name, "checkpoint": "model", "tokenizer": "model"}))
    adapter = load_text(file, device="cpu")
    assert adapter.name == str(file) and adapter.token_ids(TEXTS[0]) == case.references[0].ids
    assert same_weights(adapter, case.adapter)
    assert adapter.source["checkpoint"] == adapter.source["tokenizer"] == str(tmp_path / "model")


@every_case
def test_remote_code_is_never_run_and_nobody_is_asked(
    case: TextCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(case, tmp_path)
    flag = tmp_path / "ran"
    (folder / "remote.py").write_text(f"open({str(flag)!r}, 'w')\n")
    names = {"AutoConfig": "remote.C", "AutoModel": "remote.M", "AutoModelForCausalLM": "remote.M"}
    for name, key in (("config.json", names), ("tokenizer_config.json", {"AutoTokenizer": ["remote.T", "remote.T"]})):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, "auto_map": key}))

    def asked(*_: Any) -> str:
        raise AssertionError("a question was asked")

    monkeypatch.setattr("builtins.input", asked)
    adapter = load_text(folder, device="cpu")
    assert same_weights(adapter, case.adapter) and not flag.exists()
    adapter.untrained(SEED)
    assert not flag.exists()
    assert identity(adapter)["configuration"] == identity(case.adapter)["configuration"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"adapter": "causal-lm"}, "missing key checkpoint; adapter causal-lm needs it"),
        ({"adapter": "openelm", "checkpoint": "./x"}, "checkpoint: no such folder"),
        ({"adapter": "openelm", "checkpoint": 3}, "checkpoint is 3, expected a path"),
        (
            {"adapter": "openelm", "checkpoint": "x", "weight": 1},
            "unknown key weight; .* knows checkpoint, tokenizer, revision",
        ),
        ({"checkpoint": "x"}, "one of them `adapter: NAME`"),
    ],
)
def test_yaml_mistakes(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(yaml.safe_dump(keys))
    with pytest.raises(ModelError, match=message):
        load_text(file, device="cpu")


def test_unknown_names(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text("{adapter: llava, checkpoint: x}")
    with pytest.raises(UsageError, match="unknown adapter 'llava'; known: causal-lm, openelm"):
        load_text(file)
    with pytest.raises(UsageError, match="unknown dtype 'int8'"):
        load_text("x", dtype="int8")
    with pytest.raises(UsageError, match="unknown device 'nowhere'"):
        load_text("x", device="nowhere")
    with pytest.raises(ModelError, match="no such folder, and not to be had from the hub"):
        load_text("nobody/nothing-of-that-name", device="cpu")


@every_case
def test_a_folder_has_no_revisions(case: TextCase) -> None:
    with pytest.raises(ModelError, match="only a model on the hub has revisions"):
        load_text(case.folder, revision="step1", device="cpu")


def test_revisions_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a cache as the hub client writes it: which commit was read is in the record."""
    commits = {"main": "a" * 40, "step1": "b" * 40}
    for case in (LLAMA, OPENELM_CASE):
        for revision, commit in commits.items():
            repository = tmp_path / "hub" / f"models--maker--{case.name}"
            snapshot = repository / "snapshots" / commit
            shutil.copytree(case.folder, snapshot)
            (repository / "refs").mkdir(exist_ok=True)
            (repository / "refs" / revision).write_text(commit)
            if revision == "step1":
                tensors = load_file(snapshot / "model.safetensors")
                save_file(
                    {name: h * 2 for name, h in tensors.items()}, snapshot / "model.safetensors", {"format": "pt"}
                )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for case in (LLAMA, OPENELM_CASE):
        name = f"maker/{case.name}"
        newest, step = (load_text(name, revision=revision, device="cpu") for revision in (None, "step1"))
        assert (newest.name, newest.source["commit"]) == (name, commits["main"])
        assert (step.name, step.source["commit"]) == (f"{name}@step1", commits["step1"])
        assert same_weights(newest, case.adapter) and not same_weights(newest, step)
        assert step.token_ids(TEXTS[0]) == case.references[0].ids
        with pytest.raises(ModelError, match="not to be had from the hub at revision step2"):
            load_text(name, revision="step2", device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_case
def test_on_a_gpu(case: TextCase) -> None:
    """The twin is the one of the CPU, and the GPU's generator is left alone."""
    adapter = load_text(case.folder, device="cuda")
    (final,) = states(adapter, [case.references[0].ids])[1]
    assert final.is_cuda and (final.cpu() - case.references[0].states[-1]).abs().max() < 1e-2
    torch.cuda.manual_seed(1)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(1)
    twin = adapter.untrained(SEED)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    here = weights(case.adapter.untrained(SEED))
    assert all(h.is_cuda and torch.equal(h.cpu(), here[name]) for name, h in weights(twin).items())
    for device in ("cuda", "auto"):
        half = load_text(case.folder, device=device, dtype="bfloat16")
        for model in (half, half.untrained(SEED)):
            (final,) = states(model, [case.references[0].ids])[1]
            assert final.is_cuda and final.dtype == torch.bfloat16 and final.isfinite().all()
            if case.causal:
                assert model.logits(final).is_cuda
