"""Monitors in real training runs: the numbers are those of the saved checkpoint, and training is left alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import mmerank
from mmerank import (
    AlignmentMonitor,
    Convention,
    DiffErankMonitor,
    Example,
    TextConvention,
    align,
    diff,
    load,
    load_text,
    wrap_text,
)
from mmerank.errors import ModelError, UsageError
from mmerank.inputs.demo import examples as scenes
from tests.adapters.text_cases import BERT, OPT, opt_tokenizer
from tests.test_cli import HF_MODEL
from tests.test_diff_erank import texts

NOUNS, VERBS = ("the cat", "a dog", "the old man", "my sister"), ("sees", "likes", "paints")


def sentences(count: int) -> list[str]:
    rng = random.Random(0)
    return [f"{rng.choice(NOUNS)} {rng.choice(VERBS)} {rng.choice(NOUNS)}." for _ in range(count)]


PROBES = [Example(f"{i}", None, "", text) for i, text in enumerate(sentences(4))]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    opt_tokenizer(folder)
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def small_model(seed: int = 5) -> Any:
    torch.manual_seed(seed)
    config = transformers.OPTConfig(**{**OPT.config, "num_hidden_layers": 2, "pad_token_id": 1})
    return transformers.OPTForCausalLM(config)


def trainer(
    out: Path, tokenizer: Any, model: Any, steps: int, build: Callable[[], Any] | None = None, **settings: Any
) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        use_cpu=True,
        seed=1,
        report_to=[],
        disable_tqdm=True,
        **{"save_strategy": "no", "logging_steps": 50, **settings},
    )
    return transformers.Trainer(
        model=model,
        model_init=build,
        args=arguments,
        train_dataset=[{"input_ids": tokenizer(text)["input_ids"]} for text in sentences(64)],
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
    )


def logged(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in history if any(key.startswith("probe_") for key in entry)]


class Tracker(transformers.TrainerCallback):  # type: ignore[misc]
    """Stands where a tracker's callback does: it is handed what is logged."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.seen.append((state.global_step, dict(logs)))


def test_language_model(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    training = trainer(tmp_path, tokenizer, model, 220)
    training.add_callback(tracker := Tracker())
    how: Any = {"layers": "first", "metrics": ["stable_rank"]}
    training.add_callback(DiffErankMonitor(training, iter(PROBES), every=100, **how))
    twins: list[int] = []
    made = type(OPT.adapter).untrained

    def counted(adapter: Any, seed: int) -> Any:
        twins.append(seed)
        return made(adapter, seed)

    monkeypatch.setattr(type(OPT.adapter), "untrained", counted)
    training.train()
    entries = logged(training.state.log_history)
    assert [entry["step"] for entry in entries] == [0, 100, 200, 220]
    assert [(step, {**logs, "step": step}) for step, logs in tracker.seen if "probe_erank" in logs] == [
        (entry["step"], entry) for entry in entries
    ]
    assert twins == [0] and len({entry["probe_erank_untrained"] for entry in entries}) == 1
    assert entries[-1]["probe_loss"] < entries[0]["probe_loss"] - 1

    training.save_model(str(tmp_path / "saved"))
    expected = diff(load_text(tmp_path / "saved", device="cpu"), PROBES, **how)
    last, first = entries[-1], expected.points[0]
    assert {key: last[f"probe_{key}"] for key in ("erank", "erank_untrained", "diff_erank", "loss", "n")} == {
        "erank": pytest.approx(expected.final.erank_trained, rel=1e-9),
        "erank_untrained": pytest.approx(expected.final.erank_untrained, rel=1e-9),
        "diff_erank": pytest.approx(expected.diff_erank, rel=1e-9),
        "loss": pytest.approx(expected.loss_trained, rel=1e-9),
        "n": 4,
    }
    assert last["probe_reduced_loss"] == pytest.approx(expected.reduced_loss, rel=1e-9)
    assert last["probe_layer_1_erank"] == pytest.approx(first.erank_trained, rel=1e-9)
    assert last["probe_layer_1_diff_erank"] == pytest.approx(first.diff_erank, rel=1e-9)
    ranks = {(of["point"], of["input"]): of["value"] for of in (expected.metrics or {})["stable_rank"]}
    assert last["probe_stable_rank/trained"] == pytest.approx(ranks["final", "trained"], rel=1e-9)
    assert last["probe_layer_1/stable_rank/difference"] == pytest.approx(ranks["layer 1", "difference"], rel=1e-9)


def trained(out: Path, tokenizer: Any, every: int | None, **settings: Any) -> tuple[dict[str, Tensor], list[Any]]:
    model = small_model()
    model.model.decoder.layers[0].eval()  # Trainer's own model.train() ends that; the monitor must not
    training = trainer(out, tokenizer, model, 6, logging_steps=1, gradient_accumulation_steps=2, **settings)
    if every:
        convention = TextConvention(untrained_mode="train")  # random numbers are drawn too
        training.add_callback(DiffErankMonitor(training, PROBES, every=every, convention=convention))
    training.train()
    losses = [entry["loss"] for entry in training.state.log_history if "loss" in entry]
    return model.state_dict(), losses


@pytest.mark.parametrize("settings", [{}, {"bf16": True}], ids=["float32", "mixed precision"])
def test_training_is_left_alone(tmp_path: Path, tokenizer: Any, settings: dict[str, Any]) -> None:
    (alone, losses), (watched, others) = (trained(tmp_path, tokenizer, n, **settings) for n in (None, 3))
    assert losses == others and len(losses) == 6
    assert all(torch.equal(watched[name], h) for name, h in alone.items())


def test_modes_gradients_and_generators(tmp_path: Path, tokenizer: Any) -> None:
    model = small_model().train()
    model.model.decoder.layers[0].eval()
    training = trainer(tmp_path, tokenizer, model, 1)
    monitor = DiffErankMonitor(training, PROBES, every=1)
    ids = torch.tensor([[2, 5, 6, 7]])
    model(input_ids=ids, labels=ids).loss.backward()
    modes = [m.training for m in model.modules()]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state(), random.getstate()
    monitor.on_train_begin(training.args, training.state, training.control)
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
    assert [m.training for m in model.modules()] == modes
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)


def test_mixed_precision_is_measured_as_it_is_saved(tmp_path: Path, tokenizer: Any) -> None:
    model = small_model()
    training = trainer(tmp_path, tokenizer, model, 4, bf16=True)
    training.add_callback(DiffErankMonitor(training, PROBES, every=3))
    training.train()
    entries = logged(training.state.log_history)
    assert [entry["step"] for entry in entries] == [0, 3, 4]
    training.save_model(str(tmp_path / "saved"))
    expected = diff(load_text(tmp_path / "saved", device="cpu"), PROBES)
    assert entries[-1]["probe_erank"] == pytest.approx(expected.final.erank_trained, rel=1e-9)
    assert entries[-1]["probe_loss"] == pytest.approx(expected.loss_trained, rel=1e-9)


class Stop(transformers.TrainerCallback):  # type: ignore[misc]
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 2


def test_stopped_early_and_begun_anew(tmp_path: Path, tokenizer: Any) -> None:
    made = []

    def build() -> Any:
        made.append(small_model())
        return made[-1]

    training = trainer(tmp_path, tokenizer, None, 9, build)
    training.add_callback(DiffErankMonitor(training, PROBES, every=5))
    training.add_callback(Stop())
    training.train()
    entries = logged(training.state.log_history)
    assert [entry["step"] for entry in entries] == [0, 2]
    found = diff(wrap_text(made[-1], tokenizer), PROBES)
    assert entries[-1]["probe_erank"] == pytest.approx(found.final.erank_trained, rel=1e-9)


def test_multimodal(tmp_path: Path) -> None:
    adapter = load(HF_MODEL, device="cpu")
    pairs = scenes(2)
    sequences = [adapter.sequence(pair, "text", "bare").ids for pair in pairs]
    width = min(map(len, sequences))
    ids = [{"input_ids": (row := torch.tensor(sequence[:width])), "labels": row} for sequence in sequences]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, learning_rate=1e-2, use_cpu=True, report_to=[], disable_tqdm=True
    )
    training = transformers.Trainer(model=adapter.model, args=arguments, train_dataset=ids)
    how: Any = {"layers": "first", "metrics": ["stable_rank"], "convention": Convention(match_tokens=4)}
    training.add_callback(AlignmentMonitor(training, pairs, every=3, adapter=lambda model: adapter, **how))
    training.train()
    entries = logged(training.state.log_history)
    assert [entry["step"] for entry in entries] == [0, 3, 4]
    expected = align(adapter, pairs, **how)
    assert expected.metrics and expected.layers and expected.matched
    ranks = {(of["point"], of["input"], of["rows"]): of["value"] for of in expected.metrics["stable_rank"]}
    for key, value in (
        ("stable_rank/llm/pair", ranks["llm", "pair", "all"]),
        ("layer_1/image", expected.layers[0]["image"]),
        ("matched_erank5", expected.matched["erank5"]),
    ):
        assert entries[-1][f"probe_{key}"] == pytest.approx(value, rel=1e-9), key
    for key in ("erank1", "erank3", "erank5", "image_reduction_ratio", "image_text_alignment", "n"):
        assert entries[-1][f"probe_{key}"] == pytest.approx(getattr(expected, key), rel=1e-9)
    assert entries[0]["probe_erank4"] != pytest.approx(expected.erank4, rel=1e-4)


def test_what_cannot_be_watched(tmp_path: Path, tokenizer: Any) -> None:
    training = trainer(tmp_path, tokenizer, small_model(), 1)
    with pytest.raises(UsageError, match="every: expected a number of steps"):
        DiffErankMonitor(training, PROBES, every=0)
    training.add_callback(DiffErankMonitor(training, PROBES, every=1, adapter=OPT.adapter))
    with pytest.raises(UsageError, match="measures another model than the Trainer trains"):
        training.train()
    without = trainer(tmp_path, tokenizer, small_model(), 1)
    without.processing_class = None
    without.add_callback(DiffErankMonitor(without, PROBES, every=1))
    with pytest.raises(UsageError, match="no tokenizer; give it `processing_class`"):
        without.train()


def test_model_in_memory(tokenizer: Any) -> None:
    found = diff(wrap_text(transformers.OPTForCausalLM.from_pretrained(OPT.folder), OPT.adapter.tokenizer), texts())
    expected = diff(OPT.adapter, texts())
    assert (found.diff_erank, found.reduced_loss) == (expected.diff_erank, expected.reduced_loss)
    bert = transformers.AutoModel.from_pretrained(BERT.folder)
    assert diff(wrap_text(bert, BERT.adapter.tokenizer), texts()).diff_erank == diff(BERT.adapter, texts()).diff_erank
    assert bert.pooler is not None
    head = transformers.BertForMaskedLM(bert.config)
    with pytest.raises(ModelError, match="got BertForMaskedLM; with a head of another kind"):
        wrap_text(head, tokenizer)
    with pytest.raises(ModelError, match="a Linear in memory cannot be measured"):
        wrap_text(torch.nn.Linear(2, 2), tokenizer)


def test_earlier_twins_must_be_those_that_are_meant() -> None:
    first = diff(OPT.adapter, texts())
    assert diff(OPT.adapter, texts(), untrained=first).diff_erank == first.diff_erank
    other = [Example(entry.id, None, "", entry.text + " and more") for entry in texts()]
    for arguments, word in (
        ({"seeds": (1,)}, "seeds"),
        ({"layers": "first"}, "layers"),
        ({"convention": TextConvention(skip_first=1)}, "convention"),
        ({"examples": other}, "other texts"),
    ):
        with pytest.raises(UsageError, match=word):
            diff(OPT.adapter, **{"examples": texts(), "untrained": first, **arguments})  # type: ignore[arg-type]


def with_lora(model: Any, **settings: Any) -> Any:
    """The model of peft around `model`, LoRA at zero as training begins with it."""
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "fc1"], **settings))


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"bf16": True}], ids=str)
def test_lora_in_training(tmp_path: Path, tokenizer: Any, settings: dict[str, Any]) -> None:
    base = small_model()
    model = with_lora(copy.deepcopy(base), lora_dropout=0.3)
    if settings:
        model.enable_input_require_grads()
    training = trainer(tmp_path, tokenizer, model, 6, **settings)
    training.add_callback(DiffErankMonitor(training, PROBES, every=4, layers="first"))
    training.train()
    entries = logged(training.state.log_history)
    assert [entry["step"] for entry in entries] == [0, 4, 6]
    # LoRA begins with zeros: the base model's numbers, and its twin's, to the last bit.
    alone = diff(wrap_text(base, tokenizer), PROBES, layers="first")
    assert entries[0]["probe_diff_erank"] == alone.diff_erank and entries[0]["probe_loss"] == alone.loss_trained
    assert entries[0]["probe_layer_1_erank"] == alone.points[0].erank_trained
    # And ends as what peft itself makes of it: a model without LoRA, whose weights hold it.
    merged = diff(wrap_text(model.merge_and_unload(), tokenizer), PROBES)
    assert entries[-1]["probe_diff_erank"] == pytest.approx(merged.diff_erank, rel=1e-5)
    assert entries[-1]["probe_loss"] == pytest.approx(merged.loss_trained, rel=1e-5)
    assert abs(entries[-1]["probe_erank"] - entries[0]["probe_erank"]) > 1e-3
    assert entries[-1]["probe_erank_untrained"] == entries[0]["probe_erank_untrained"]


def test_lora_in_a_multimodal_training(tmp_path: Path) -> None:
    adapter, pairs = load(HF_MODEL, device="cpu"), scenes(2)
    before = align(adapter, pairs)
    ids = [{"input_ids": (row := torch.tensor(adapter.sequence(pairs[0], "text", "bare").ids)), "labels": row}]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, learning_rate=1e-1, use_cpu=True, report_to=[], disable_tqdm=True
    )
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(adapter.model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    training = transformers.Trainer(model=model, args=arguments, train_dataset=ids)
    training.add_callback(AlignmentMonitor(training, pairs, every=1, adapter=adapter))
    training.train()
    first, *_, last = logged(training.state.log_history)
    for key in ("erank1", "erank3", "erank4", "erank5", "image_text_alignment"):
        assert first[f"probe_{key}"] == getattr(before, key)
    model.merge_adapter()
    merged = align(adapter, pairs)
    assert last["probe_erank5"] == pytest.approx(merged.erank5, rel=1e-4)
    assert abs(merged.erank5 - before.erank5) > 1e-3


def test_prompts_that_are_learned_are_no_model(tmp_path: Path, tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    training = trainer(tmp_path, tokenizer, peft.get_peft_model(small_model(), prompts), 1)
    training.add_callback(DiffErankMonitor(training, PROBES, every=1))
    with pytest.raises(ModelError, match="'default' of peft is PROMPT_TUNING, which is not in the layers"):
        training.train()


def test_the_loop_of_the_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its numbers are those of the model at each step, and it trains what it was given."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from mmerank.inputs.demo import MODELS
    from tests.test_docs import ROOT, blocks

    (code,) = [content for _, content in blocks(ROOT / "README.md") if "def train(" in content]
    shown: dict[str, Any] = {"mmerank": mmerank}
    exec(code.replace("500", "2"), shown)
    model = AutoModelForImageTextToText.from_pretrained(MODELS["demo-llava"], dtype="float32")
    processor = AutoProcessor.from_pretrained(MODELS["demo-llava"])
    probes = list(scenes())[:2]
    fed = processor(images=probes[0].image, text=f"<image> {probes[0].response}", return_tensors="pt")
    batch = {**fed, "labels": fed["input_ids"]}
    before = mmerank.align(mmerank.wrap(model, processor, name="m"), probes).image_text_alignment
    shown["train"](model, processor, [batch] * 3, torch.optim.SGD(model.parameters(), lr=1e-4), probes)
    first, last = (line.split() for line in capsys.readouterr().out.splitlines())
    after = mmerank.align(mmerank.wrap(model, processor, name="m"), probes).image_text_alignment
    assert (first[0], last[0]) == ("0", "2") and float(last[1]) == after != before
    monitor = shown["with_pictures"](SimpleNamespace(), probes, processor)
    assert isinstance(monitor, AlignmentMonitor)
    adapter: Any = monitor._given
    assert adapter(model).model is model


def test_loading_says_nothing_and_leaves_what_transformers_says_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.enable_progress_bar()
    try:
        load("demo-llava", device="cpu")
        assert capsys.readouterr() == ("", "")
        assert logging.is_progress_bar_enabled() and logging.get_verbosity() == verbosity
    finally:
        if not bars:
            logging.disable_progress_bar()
