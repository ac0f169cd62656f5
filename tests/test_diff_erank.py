"""Diff-eRank against the definition in float64, and against the published recipe in its own float32."""

from __future__ import annotations

import errno
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmerank import Diff, Example, TextConvention, diff, load_data, load_text
from mmerank.analysis.results.diff import Accuracy
from mmerank.commands.results import compared
from mmerank.engine.plans.dropout import text_seed
from mmerank.engine.plans.loss import mean_loss
from mmerank.errors import DataError, RunFolderError, UsageError
from mmerank.report.terminal.diff import diff_text
from mmerank.runs.cache import cache_folder
from mmerank.runs.folder import RunFolder
from tests import reference
from tests.adapters.cases import LLAVA
from tests.adapters.text_cases import BERT, LLAMA, OPT, TEXT_CASES, TEXTS, TextCase
from tests.test_cli import failure, process, run

FAMILIES = [case for case in TEXT_CASES if case.name in ("opt-125m", "opt-350m", "cerebras-gpt", "llama")]
GPT2 = FAMILIES[2]
every_family = pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.name)
with_dropout = pytest.mark.parametrize(
    "case", [case for case in FAMILIES if case.dropout], ids=lambda case: case.name
)


def texts(count: int = 3) -> list[Example]:
    words = " ".join(TEXTS).split()
    return [Example(f"{i}", None, "", " ".join(words[i : 8 + 7 * i])) for i in range(count)]


def twin_model(case: TextCase, seed: int) -> Any:
    """The untrained model as the published code builds it: from_config under a seed, nothing else."""
    config = transformers.AutoConfig.from_pretrained(case.folder, trust_remote_code=False)
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def trained_model(case: TextCase) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(case.folder, trust_remote_code=False).eval()


@torch.no_grad()
def forward(case: TextCase, model: Any, text: str) -> tuple[Tensor, float]:
    """Last hidden states and mean loss by transformers alone, one text at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(case.folder, trust_remote_code=False)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    output = model(input_ids=ids, output_hidden_states=True, labels=ids)
    return output.hidden_states[-1][0], float(output.loss)


def published_entropy(z: Tensor) -> float:
    """The paper's formulas as they stand, in float32 with a d x d SVD."""
    centred = z - z.mean(dim=0)
    u = centred / centred.norm(dim=1, keepdim=True)
    singular = torch.linalg.svd(u.T @ u / len(u)).S
    p = singular / singular.sum()
    return float(-(p * p.log()).nansum())


@every_family
def test_values_follow_the_definition(case: TextCase) -> None:
    found = diff(case.adapter, texts())
    before: list[float] = []
    after: list[float] = []
    loss_before: list[float] = []
    loss_after: list[float] = []
    twin, trained = twin_model(case, 0), trained_model(case)
    for example in texts():
        for model, entropies, losses in ((twin, before, loss_before), (trained, after, loss_after)):
            h, loss = forward(case, model, example.text)
            entropies.append(reference.entropy(h.numpy()))
            losses.append(loss)
    erank_before, erank_after = math.exp(np.mean(before)), math.exp(np.mean(after))
    assert found.final.erank_untrained == pytest.approx(erank_before, rel=1e-5)
    assert found.final.erank_trained == pytest.approx(erank_after, rel=1e-5)
    assert found.diff_erank == pytest.approx(erank_before - erank_after, abs=1e-4)
    by_mean = np.mean(np.exp(before)) - np.mean(np.exp(after))
    assert found.final.diff_erank_mean_of_eranks == pytest.approx(by_mean, abs=1e-4)
    assert found.loss_untrained == pytest.approx(np.mean(loss_before), rel=1e-5)
    assert found.loss_trained == pytest.approx(np.mean(loss_after), rel=1e-5)
    assert found.reduced_loss == pytest.approx(np.mean(loss_before) - np.mean(loss_after), abs=1e-4)
    assert found.n == 3 and found.tokens == sum(r.n for r in found.records if r.model == case.adapter.name)


@every_family
def test_near_the_published_recipe_in_its_own_float32(case: TextCase) -> None:
    found = diff(case.adapter, texts())
    for model, erank in (
        (twin_model(case, 0), found.final.erank_untrained),
        (trained_model(case), found.final.erank_trained),
    ):
        entropies = [published_entropy(forward(case, model, example.text)[0]) for example in texts()]
        assert erank == pytest.approx(math.exp(np.mean(entropies)), rel=5e-4)


@with_dropout
def test_dropout_left_on_as_in_the_published_code(case: TextCase) -> None:
    found = diff(case.adapter, texts(), convention=TextConvention(untrained_mode="train"), seeds=(7,))
    entropies = []
    model = twin_model(case, 7).train()
    for example in texts():
        torch.manual_seed(text_seed(7, example.id))
        entropies.append(published_entropy(forward(case, model, example.text)[0]))
    assert found.final.erank_untrained == pytest.approx(math.exp(np.mean(entropies)), rel=5e-4)
    off = diff(case.adapter, texts(), seeds=(7,))
    assert abs(found.final.erank_untrained - off.final.erank_untrained) > 1e-3
    assert found.final.erank_trained == off.final.erank_trained
    assert not case.adapter.model.training


def test_dropout_depends_neither_on_order_nor_on_what_was_drawn_before() -> None:
    convention = TextConvention(untrained_mode="train")
    one = diff(OPT.adapter, texts(), convention=convention)
    torch.rand(5)
    state = torch.get_rng_state()
    other = diff(OPT.adapter, texts()[::-1], convention=convention, batch_tokens=10_000)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.final.erank_untrained == other.final.erank_untrained


@every_family
@pytest.mark.parametrize("batch_tokens", [64, 10_000])
def test_batching_changes_nothing(case: TextCase, batch_tokens: int) -> None:
    one, many = (diff(case.adapter, texts(6), batch_tokens=size, layers="all") for size in (0, batch_tokens))
    for a, b in zip(one.points, many.points, strict=True):
        assert (b.erank_untrained, b.erank_trained) == pytest.approx((a.erank_untrained, a.erank_trained), rel=3e-6)
    assert many.loss_trained == pytest.approx(one.loss_trained, rel=1e-6)


@every_family
def test_layers_are_those_of_transformers(case: TextCase) -> None:
    found = diff(case.adapter, texts(1), layers="all")
    depth = len(case.adapter.layers) - 1
    assert [p.point for p in found.points] == [f"layer {i}" for i in range(depth)] + ["final"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(case.folder, trust_remote_code=False)
    with torch.no_grad():
        output = trained_model(case)(**tokenizer(texts(1)[0].text, return_tensors="pt"), output_hidden_states=True)
    for point, h in zip(found.points, output.hidden_states, strict=True):
        assert point.erank_trained == pytest.approx(math.exp(reference.entropy(h[0].numpy())), rel=1e-5), point.point
    chosen = [p.point for p in diff(case.adapter, texts(1), layers="first,0").points]
    assert chosen == ["layer 0", "layer 1", "final"]
    assert [p.point for p in diff(case.adapter, texts(1), layers="last").points] == ["final"]


def test_long_loss_is_summed_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = diff(OPT.adapter, texts(6))
    monkeypatch.setattr("mmerank.engine.plans.loss.LOGIT_POSITIONS", 3)
    assert diff(OPT.adapter, texts(6)).loss_trained == pytest.approx(whole.loss_trained, rel=1e-6)


def test_several_twins() -> None:
    found = diff(OPT.adapter, texts(), seeds=(3, 4))
    singles = [diff(OPT.adapter, texts(), seeds=(s,)).final.erank_untrained for s in (3, 4)]
    assert found.final.erank_untrained_by_seed == tuple(singles) and singles[0] != singles[1]
    assert found.final.erank_untrained == pytest.approx(np.mean(singles))


def test_encoders_have_no_loss() -> None:
    found = diff(BERT.adapter, texts())
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["reduced_loss"] is None and content["diff_erank"] == found.diff_erank
    assert "loss" not in str(found)


@every_family
def test_without_losses_the_eranks_are_the_same_and_the_head_is_not_run(case: TextCase) -> None:
    whole, alone = diff(case.adapter, texts()), diff(case.adapter, texts(), loss=False)
    assert [(r.model, r.example, r.entropy) for r in alone.records] == [
        (r.model, r.example, r.entropy) for r in whole.records
    ]
    assert all(math.isnan(r.loss) and r.predicted == 0 for r in alone.records)
    printed = alone.to_dict()
    assert printed["diff_erank"] == whole.diff_erank
    assert [printed[name] for name in ("loss_untrained", "loss_trained", "reduced_loss")] == [None] * 3
    with pytest.raises(UsageError, match="another choice of losses"):
        diff(case.adapter, texts(), untrained=alone)


def test_a_run_with_losses_does_not_continue_one_without(tmp_path: Path) -> None:
    diff(OPT.adapter, texts(), loss=False, out=tmp_path / "run", cache=tmp_path / "cache")
    with pytest.raises(RunFolderError, match="loss: false there"):
        diff(OPT.adapter, texts(), out=tmp_path / "run", cache=tmp_path / "cache")
    assert diff(OPT.adapter, texts(), cache=tmp_path / "cache").loss_untrained > 0  # not the cached twin without


def test_leading_tokens_can_be_left_out() -> None:
    found = diff(OPT.adapter, texts(1), convention=TextConvention(skip_first=2))
    h, loss = forward(OPT, trained_model(OPT), texts(1)[0].text)
    assert found.final.erank_trained == pytest.approx(math.exp(reference.entropy(h[2:].numpy())), rel=1e-5)
    assert found.loss_trained == pytest.approx(loss, rel=1e-5)
    assert found.tokens == len(h)


def test_long_text_is_cut_and_counted() -> None:
    long = Example("long", None, "", " ".join(TEXTS * 10))
    found = diff(OPT.adapter, [long, *texts()])
    assert found.text_cut == 1 and max(r.n for r in found.records) == OPT.adapter.max_tokens
    shorter = diff(OPT.adapter, [long], convention=TextConvention(max_tokens=16))
    assert {r.n for r in shorter.records} == {16}


def test_short_text_is_skipped() -> None:
    entries = [Example("empty", None, "", ""), *texts(), Example("0", None, "", "again")]
    found = diff(LLAMA.adapter, entries, convention=TextConvention(skip_first=1))
    assert {s.id: s.reason for s in found.skipped} == {
        "empty": "the text is empty",
        "0": "the id occurs twice; the first record is kept",
    }
    with pytest.raises(DataError, match="no text could be measured, 1 skipped; first: 'empty': the text is empty"):
        diff(LLAMA.adapter, entries[:1])
    few = diff(LLAMA.adapter, texts(), convention=TextConvention(skip_first=38))
    assert few.n == 1 and "at least 2 are needed" in few.skipped[0].reason
    with pytest.raises(DataError, match="strict"):
        diff(LLAMA.adapter, entries, strict=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (5, "the response is a number (5), expected text"),
        (None, "the response is null, expected text"),
        ("\ud800 half", "the response holds half of a surrogate pair"),
        (" \n ", "the text is empty"),
        ("", "the text is empty"),
    ],
)
def test_bad_text_is_skipped_with_its_reason(text: Any, reason: str) -> None:
    found = diff(OPT.adapter, [Example("bad", None, "", text), *texts()])
    assert found.n == 3 and [s.id for s in found.skipped] == ["bad"] and reason in found.skipped[0].reason
    assert numbers(found) == numbers(diff(OPT.adapter, texts()))


def test_one_token_is_too_few() -> None:
    assert len(BERT.adapter.token_ids("the")) == 3 and len(GPT2.adapter.token_ids("e")) == 1
    found = diff(GPT2.adapter, [Example("one", None, "", "e"), *texts()])
    assert [(s.id, s.reason) for s in found.skipped] == [("one", "1 tokens; at least 2 are needed")]


@pytest.mark.parametrize("wrong", ["facebook/opt-125m", None, LLAVA.adapter])
def test_what_is_no_language_model_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"mmerank.load_text\(MODEL\) returns, got {type(wrong).__name__};"):
        diff(wrong, texts())


def test_what_is_no_example() -> None:
    strings: Any = ["a text"]
    with pytest.raises(TypeError, match="got str among them"):
        diff(OPT.adapter, strings)
    with pytest.raises(TypeError, match="got str"):
        diff(OPT.adapter, "a text")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no text could be measured, 0 skipped"):
        diff(OPT.adapter, [])


def test_median_and_skipping_resist_a_massive_activation() -> None:
    """A first token a thousand times as long collapses the mean-centred eRank, and neither of the other two."""
    adapter = load_text(LLAMA.folder, device="cpu")
    calm = diff(adapter, texts(4), convention=TextConvention(skip_first=1)).final.erank_trained
    with torch.no_grad():
        weight = adapter.model.get_input_embeddings().weight  # type: ignore[operator]
        direction = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0))
        weight[1] = 1000 * direction  # <s>
    conventions = {
        "mean": TextConvention(),
        "median": TextConvention(centre="median"),
        "skip": TextConvention(skip_first=1),
    }
    found = {
        name: diff(adapter, texts(4), layers="0", convention=convention).points[0]
        for name, convention in conventions.items()
    }
    assert {point.point for point in found.values()} == {"layer 0"}
    assert found["mean"].erank_trained < 1.5
    assert found["median"].erank_trained > 4 * found["mean"].erank_trained and calm > 4
    ids = [adapter.token_ids(example.text) for example in texts(4)]
    embedded = [adapter.model.get_input_embeddings().weight[i[1:]].detach().numpy() for i in ids]  # type: ignore
    expected = math.exp(np.mean([reference.entropy(h) for h in embedded]))
    assert found["skip"].erank_trained == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_must_differ(seeds: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="one or more different seeds"):
        diff(OPT.adapter, texts(), seeds=seeds)


@pytest.mark.parametrize("layers", ["nose", "99", "-1"])
def test_unknown_layer(layers: str) -> None:
    with pytest.raises(UsageError, match="known: all, first, middle, last, 0 to 3"):
        diff(OPT.adapter, texts(), layers=layers)


@pytest.mark.parametrize("values", [{"untrained_mode": "test"}, {"max_tokens": 1}, {"skip_first": -1}])
def test_convention_is_checked(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        TextConvention(**values)


def numbers(found: Diff) -> list[float]:
    return [found.final.erank_untrained, found.final.erank_trained, found.loss_untrained, found.loss_trained]


class Counter:
    """Counts the forwards of every model that is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = type(OPT.adapter).forward

        def counted(adapter: Any, *arguments: Any) -> Any:
            self.count += 1
            return original(adapter, *arguments)

        monkeypatch.setattr(type(OPT.adapter), "forward", counted)


def test_twins_are_kept_between_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = diff(OPT.adapter, texts(), cache=tmp_path)
    counter = Counter(monkeypatch)
    assert numbers(diff(OPT.adapter, texts(), cache=tmp_path)) == numbers(first) and counter.count == 3
    for changed in (
        {"examples": texts(4)},
        {"seeds": (1,)},
        {"convention": TextConvention(centre="median")},
        {"layers": "first"},
    ):
        counter.count = 0
        arguments = {"examples": texts(), **changed}
        count = len(arguments["examples"])  # type: ignore[arg-type]
        diff(OPT.adapter, cache=tmp_path, **arguments)  # type: ignore[arg-type]
        assert counter.count == 2 * count, changed


@pytest.mark.parametrize("fault", ["no folder", "full disk", "another run"])
def test_a_cache_that_cannot_be_used_costs_a_warning(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = numbers(diff(OPT.adapter, texts()))
    cache = tmp_path / "cache"
    reason = {
        "no folder": "Not a directory",
        "full disk": "No space left on device",
        "another run": "not valid JSON",
    }[fault]
    if fault == "no folder":
        cache.write_text("a file")
    elif fault == "another run":
        diff(OPT.adapter, texts(), cache=cache)
        for stated in cache.glob("*/run.json"):
            stated.write_text("{")
    else:
        original = RunFolder.write

        def write(folder: RunFolder, records: list[Any]) -> None:
            if records and folder.path.is_relative_to(cache):
                with folder._explained("written"):
                    raise OSError(errno.ENOSPC, "No space left on device")
            original(folder, records)

        monkeypatch.setattr(RunFolder, "write", write)
    with pytest.warns(
        UserWarning, match=f"^no cache \\({cache}.*{reason}.*untrained models are measured for this run"
    ):
        found = diff(
            OPT.adapter, texts(), cache=cache / "below" if fault == "no folder" else cache, out=tmp_path / "run"
        )
    assert numbers(found) == expected
    counter = Counter(monkeypatch)
    assert numbers(diff(OPT.adapter, texts(), out=tmp_path / "run")) == expected and counter.count == 0


def other_weights(case: TextCase, folder: Path, factor: float) -> Path:
    """Another checkpoint of the same configuration."""
    shutil.copytree(case.folder, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: factor * h for name, h in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_checkpoints_of_a_configuration_share_a_twin_that_is_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    original = type(OPT.adapter).untrained

    def untrained(adapter: Any, seed: int) -> Any:
        built.append(seed)
        return original(adapter, seed)

    monkeypatch.setattr(type(OPT.adapter), "untrained", untrained)
    bad: Any = 5
    # What is skipped builds none, either.
    entries = [*texts(), Example("empty", None, "", ""), texts(1)[0], Example("number", None, "", bad)]
    other = load_text(other_weights(OPT, tmp_path / "other", 2.0), device="cpu")
    first, second, again = (
        diff(adapter, entries, cache=tmp_path / "cache", out=out, seeds=(4, 5))
        for adapter, out in ((OPT.adapter, None), (other, None), (other, tmp_path / "run"))
    )
    assert built == [4, 5]
    assert first.final.erank_untrained_by_seed == second.final.erank_untrained_by_seed
    assert first.final.erank_trained != second.final.erank_trained
    assert numbers(second) == numbers(again) == numbers(diff(other, entries, seeds=(4, 5)))
    built.clear()
    assert numbers(diff(other, entries, seeds=(4, 5), out=tmp_path / "run")) == numbers(second) and built == []
    half = load_text(OPT.folder, dtype="bfloat16", device="cpu")
    diff(half, entries, cache=tmp_path / "cache", seeds=(4, 5))
    diff(GPT2.adapter, entries, cache=tmp_path / "cache", seeds=(4,))
    assert built == [4, 5, 4]


def test_sweep_over_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a cache as the hub client writes it, offline."""
    repository = tmp_path / "hub" / "models--maker--opt"
    (repository / "refs").mkdir(parents=True)
    commits = {"main": "a" * 40, "step1000": "b" * 40, "step2000": "c" * 40}
    for factor, (revision, commit) in enumerate(commits.items(), start=1):
        other_weights(OPT, repository / "snapshots" / commit, factor)
        (repository / "refs" / revision).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MMERANK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "texts.txt").write_text("\n".join(example.text for example in texts()) + "\n")
    command = ("diff", "maker/opt", "--data", f"text:{tmp_path}/texts.txt", "--no-cache")
    counter = Counter(monkeypatch)
    done = run(*command, "--revisions", "step1000, step2000,main", "--json", str(tmp_path / "sweep.json"))
    assert done.returncode == 0, done.stderr
    assert counter.count == 3 * (3 + 1) and not (tmp_path / "cache").exists()
    found = json.loads((tmp_path / "sweep.json").read_text())["results"]
    assert [result["model"] for result in found] == [f"maker/opt@{name}" for name in ("step1000", "step2000", "main")]
    assert [result["source"]["commit"] for result in found] == ["b" * 40, "c" * 40, "a" * 40]
    data = load_data(f"text:{tmp_path}/texts.txt")
    for result, commit in zip(found, "bca", strict=True):
        alone = diff(load_text(repository / "snapshots" / (40 * commit), device="cpu"), data)
        assert (result["diff_erank"], result["loss_trained"]) == (alone.diff_erank, alone.loss_trained)
    status, line = failure(*command, "--revisions", "step1000,step3000")
    assert status == 1 and "maker/opt" in line and "at revision step3000" in line
    status, line = failure("diff", str(OPT.folder), *command[2:], "--revisions", "step1000")
    assert status == 1 and "only a model on the hub has revisions" in line


def test_many_models_get_a_row_each() -> None:
    found = diff(OPT.adapter, texts())
    right = {"piqa": Accuracy(0.625, 0.01, 1838)}
    results = [replace(found, model=f"a/model@step{i}", accuracy=right if i else {}) for i in range(5)]
    text = diff_text(results)
    lines = [line for line in text.splitlines() if re.match(r"step\d ", line)]
    assert text.splitlines()[0] == "Diff-eRank a/model"
    assert len(lines) == 5 and all(f"{found.diff_erank:.2f}" in line for line in lines)
    assert ["0.6250" in line for line in lines] == [False, True, True, True, True]
    assert "piqa: over 1,838 questions, standard error 0.0100" in diff_text(results[:2])
    assert "accuracy, piqa" in diff_text(results[:2])


def test_models_that_read_texts_as_other_tokens_are_not_held_against_each_other() -> None:
    opt, llama = (diff(case.adapter, texts()) for case in (OPT, LLAMA))
    counts = [{r.example: r.n for r in found.records if r.model == found.model} for found in (opt, llama)]
    assert counts[0] != counts[1]
    assert "caution: the models read the same texts as different numbers of tokens" in diff_text([opt, llama])
    assert "caution" not in diff_text([opt, _named(opt, "again")]) and "caution" not in diff_text([llama])


def test_of_many_models_each_is_compared_with_the_next() -> None:
    found = diff(OPT.adapter, texts())
    pairs = [[(c.a, c.b) for c in compared([_named(found, f"m{i}") for i in range(count)])] for count in (1, 3, 6)]
    assert pairs[0] == []
    assert pairs[1] == [("m0", "m1"), ("m0", "m2"), ("m1", "m2")]
    assert pairs[2] == [(f"m{i}", f"m{i + 1}") for i in range(5)]


def _named(found: Diff, name: str) -> Diff:
    records = (replace(record, model=name) if record.model == found.model else record for record in found.records)
    return replace(found, model=name, records=tuple(records))


def test_run_folder_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = diff(OPT.adapter, texts(), out=tmp_path / "run", cache=tmp_path / "cache")
    counter = Counter(monkeypatch)
    assert numbers(diff(OPT.adapter, texts(), out=tmp_path / "run")) == numbers(whole) and counter.count == 0
    with pytest.raises(RunFolderError, match="layers: "):
        diff(OPT.adapter, texts(), out=tmp_path / "run", layers="all")


def test_command_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(example.text for example in texts()) + "\n")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMERANK_CACHE", str(tmp_path / "file" / "cache"))
    # In a process of its own: here pytest keeps the warnings.
    command = ("diff", str(OPT.folder), "--data", f"text:{tmp_path}/texts.txt")
    done = process(*command, "--json", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(said) == 1 and f"no cache ({tmp_path}/file/cache: Not a directory)" in said[0]
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert result["diff_erank"] == diff(OPT.adapter, load_data(f"text:{tmp_path}/texts.txt")).diff_erank

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("MMERANK_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", home)
    with pytest.warns(UserWarning, match=r"^no cache \(Could not determine home directory.\): untrained models"):
        assert cache_folder() is None
    with pytest.warns(UserWarning, match="no cache"):
        assert run(*command).returncode == 0


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMERANK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "texts.txt").write_text("\n".join(example.text for example in texts()) + "\n")
    options = ("--data", f"text:{tmp_path}/texts.txt", "--layers", "middle", "--untrained-seeds", "2")
    short = run("diff", str(OPT.folder), str(LLAMA.folder), *options)
    assert short.returncode == 0 and "by layer" not in short.stdout and "--all" in short.stdout
    assert len(short.stdout.splitlines()) <= 32 and "largest Diff-eRank of 2 layers" in short.stdout
    done = run("diff", str(OPT.folder), str(LLAMA.folder), *options, "--all", "--json", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    assert "Diff-eRank" in done.stdout and "by layer" in done.stdout and "n = 3 of 3 texts" in done.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    first, second = written["results"]
    (comparison,) = written["comparisons"]
    by_quantity = {row["quantity"]: row for row in comparison["differences"]}
    for key in ("diff_erank", "reduced_loss"):
        assert by_quantity[key]["difference"] == pytest.approx(first[key] - second[key])
        assert first["intervals"][key] == first["layers"][-1]["intervals"][key]
    data = load_data(f"text:{tmp_path}/texts.txt")
    expected = diff(OPT.adapter, data, seeds=(0, 1), layers="middle")
    keys = ("erank_untrained", "erank_trained", "diff_erank", "diff_erank_mean_of_eranks")
    assert [first[key] for key in keys] == pytest.approx([getattr(expected.final, key) for key in keys])
    assert [first[key] for key in ("loss_untrained", "loss_trained", "reduced_loss")] == pytest.approx(
        [expected.loss_untrained, expected.loss_trained, expected.reduced_loss]
    )
    assert second["model"] == str(LLAMA.folder) and first["n"] == 3 and first["skipped"] == []
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_command_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    status, line = failure("diff", str(OPT.folder), "--data", f"text:{tmp_path}/empty.txt", "--no-cache")
    assert status == 1 and "empty.txt" in line
    status, line = failure("diff", str(OPT.folder), "--data", "text:", "--layers", "99")
    assert status == 2


@pytest.mark.parametrize("case", [OPT, GPT2, LLAMA], ids=lambda case: case.name)
@pytest.mark.parametrize("source", ["dolly_sample.jsonl#context", "hh_sample.jsonl#chosen", "plain.txt"])
def test_real_texts_follow_the_definition_and_the_recipe(case: TextCase, source: str, shared_data: Path) -> None:
    data = load_data(f"text:{shared_data}/texts/{source}")
    found = diff(case.adapter, data)
    tokenizer = transformers.AutoTokenizer.from_pretrained(case.folder, trust_remote_code=False)
    texts = [entry.text for entry in data if isinstance(entry, Example)]
    assert found.n == len(texts) >= 19
    for model, erank, loss in (
        (twin_model(case, 0), found.final.erank_untrained, found.loss_untrained),
        (trained_model(case), found.final.erank_trained, found.loss_trained),
    ):
        exact, published, losses = [], [], []
        for text in texts:
            ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :256]
            with torch.no_grad():
                output = model(input_ids=ids, output_hidden_states=True, labels=ids)
            exact.append(reference.entropy(output.hidden_states[-1][0].numpy()))
            published.append(published_entropy(output.hidden_states[-1][0]))
            losses.append(float(output.loss))
        assert erank == pytest.approx(math.exp(np.mean(exact)), rel=1e-5)
        assert erank == pytest.approx(math.exp(np.mean(published)), rel=5e-4)
        assert loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_real_texts(shared_data: Path) -> None:
    data = load_data(f"text:{shared_data}/texts/dolly_sample.jsonl#context")
    found = diff(OPT.adapter, data, convention=TextConvention(max_tokens=128))
    assert found.n == 48 and len(found.skipped) == 12
    assert all("empty" in entry.reason for entry in found.skipped)


def test_a_loss_that_is_not_finite_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits may overflow where hidden states do not: NaN of one text would be that of the data set."""
    whole, entries = diff(OPT.adapter, texts(5)), texts(6)
    longest = max(len(OPT.adapter.token_ids(entry.text)) for entry in entries)

    def loss(model: Any, h: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return mean_loss(model, h, ids) / (len(ids) != longest)

    monkeypatch.setattr("mmerank.engine.plans.texts.mean_loss", loss)
    for _ in range(2):
        found = diff(OPT.adapter, entries, out=tmp_path / "run")
        assert [(entry.id, entry.reason) for entry in found.skipped] == [
            (entries[-1].id, "the loss is inf; check the model's dtype and weights")
        ]
        assert found.loss_trained == whole.loss_trained and math.isfinite(found.loss_untrained)
