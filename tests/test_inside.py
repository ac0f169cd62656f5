"""What blocks add to the residual stream: each number is that of modules hooked by hand, in float64 numpy."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from mmerank import Alignment, Diff, align, diff, load, load_text, wrap
from mmerank.convention import TextConvention
from mmerank.errors import ModelError, RunFolderError, UsageError
from mmerank.inputs.example import Example
from mmerank.inputs.sequence import Role
from mmerank.models.taken_apart import added_by
from mmerank.models.updates import Block, reading
from mmerank.report.write import report
from mmerank.runs.parts import part_files, write_part
from mmerank.runs.record import INSIDE, records_of
from mmerank.states.reductions import UpdateStudy
from mmerank.states.subspaces import inside
from mmerank.states.token_set import TokenSet
from tests import reference
from tests.adapters.cases import LLAVA, examples
from tests.adapters.text_cases import BERT, LLAMA, TEXT_CASES, TEXTS, TextCase
from tests.adapters.tiny_models import built
from tests.test_cli import HF_MODEL, run
from tests.test_processes import shared_by

Rows = NDArray[np.float64]
# Of a block by hand: where attention's update is put out, and the MLP's; whose input the MLP's is added to.
PLAIN = ("self_attn", "mlp", "post_attention_layernorm")
NEOX = ("attention", "mlp", "")  # both are added to the block's input
BY_HAND = {
    "llava": ("model.language_model.layers", *PLAIN),
    "qwen2_5_vl": ("model.language_model.layers", *PLAIN),
    "internvl": ("model.language_model.layers", *PLAIN),
    "gemma3": (
        "model.language_model.layers",
        "post_attention_layernorm",
        "post_feedforward_layernorm",
        "pre_feedforward_layernorm",
    ),
    "aya_vision": ("model.language_model.layers", "self_attn", "mlp", ""),
    "llama": ("model.layers", *PLAIN),
    "gpt-neox": ("gpt_neox.layers", *NEOX),
    "openelm": ("transformer.layers", "attn", "ffn", "ffn_norm"),
    "opt-125m": ("model.decoder.layers", "self_attn", "fc2", "final_layer_norm"),
}
NAMES = ("erank", "share", "share_by_chance", "overlap", "overlap_by_chance", "norm_ratio")


def first(carried: Any) -> torch.Tensor:
    found: torch.Tensor = carried[0] if isinstance(carried, (tuple, list)) else carried
    return found


def by_hand(model: Any, name: str, run: Any) -> dict[str, tuple[Rows, Rows]]:
    """Update and what it is added to, of the one sequence that is run, by hook point."""
    at, attention, mlp, before = BY_HAND[name]
    found: dict[str, Rows] = {}

    def keep(key: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any = None) -> None:
            given = output if key[0] == "u" else (args or [kwargs.get("hidden_states")])
            found[key] = first(given).detach().clone().double().numpy().reshape(-1, first(given).shape[-1])

        return hook

    blocks = model.get_submodule(at)
    with ExitStack() as hooks:
        for i, block in enumerate(blocks, 1):
            for key, path in {f"u attention {i}": attention, f"u mlp {i}": mlp}.items():
                of = block.get_submodule(path)
                hooks.callback(of.register_forward_hook(keep(key), with_kwargs=True).remove)
            for key, path in {f"x attention {i}": "", f"x mlp {i}": before}.items():
                of = block.get_submodule(path)
                hooks.callback(of.register_forward_pre_hook(keep(key), with_kwargs=True).remove)
        with torch.inference_mode():
            run()
    points = [f"{part} {i}" for i in range(1, len(blocks) + 1) for part in ("attention", "mlp")]
    return {point: (found[f"u {point}"], found[f"x {point}"]) for point in points}


def numbers(update: Rows, stream: Rows) -> dict[str, float]:
    """From the definitions."""
    spans, entropies = [], []
    for h in (update, stream):
        unit = h - h.mean(axis=0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        entropies.append(reference.entropy(h))
        _, _, directions = np.linalg.svd(unit, full_matrices=False)
        spans.append((unit, directions[: math.ceil(math.exp(entropies[-1]) - 1e-6)]))
    (unit, of_update), (_, of_stream) = spans
    d = update.shape[1]
    cosines = np.linalg.svd(of_update @ of_stream.T, compute_uv=False)
    return {
        "erank": math.exp(entropies[0]),
        "share": float((unit @ of_stream.T @ of_stream * unit).sum() / (unit * unit).sum()),
        "share_by_chance": len(of_stream) / d,
        "overlap": float(np.square(cosines).sum() / min(len(of_update), len(of_stream))),
        "overlap_by_chance": max(len(of_update), len(of_stream)) / d,
        "norm_ratio": float((np.linalg.norm(update, axis=1) / np.linalg.norm(stream, axis=1)).mean()),
    }


def of_data(each: list[dict[str, float]]) -> dict[str, float]:
    """Mean over examples, of eRanks exp of the mean entropy."""
    return {
        name: float(
            np.exp(np.mean([np.log(of[name]) for of in each]))
            if name == "erank"
            else np.mean([of[name] for of in each])
        )
        for name in NAMES
    }


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl", "gemma3", "aya_vision"])
def test_every_number_of_pairs(name: str) -> None:
    if name == "llava":
        adapter = load(HF_MODEL, device="cpu", dtype="float64")
    else:
        model, processor, _ = built(name)
        adapter = wrap(copy.deepcopy(model).double(), processor, name=name)
    pairs = examples()[:2]
    result = align(adapter, pairs, inside="all")
    expected: dict[tuple[str, str], list[dict[str, float]]] = {}
    for example in pairs:
        sequence = adapter.sequence(example, "pair", "bare")
        with torch.inference_mode():
            images = adapter.encode_images([adapter.pixels(example.image, "model")])  # type: ignore[arg-type]
        roles = np.array(sequence.roles)
        for point, (update, stream) in by_hand(
            adapter.model, name, lambda s=sequence, i=images: adapter.decode([s], i)
        ).items():
            assert len(update) == len(roles)
            for rows, which in {"all": roles >= 0, "image": roles == Role.IMAGE, "text": roles == Role.TEXT}.items():
                expected.setdefault((point, rows), []).append(numbers(update[which], stream[which]))
    assert result.inside is not None
    found = {(f"{of['update']} {of['block']}", of["rows"]): of for of in result.inside}
    assert list(found) == list(expected)
    for key, each in expected.items():
        assert {of: found[key][of] for of in NAMES} == pytest.approx(of_data(each), rel=1e-7), key
        assert found[key]["n"] == 2 and found[key]["deviation"] < 1e-12
        low, high = found[key]["intervals"]["share"]
        assert low - 1e-12 <= found[key]["share"] <= high + 1e-12
    plain = align(adapter, pairs)
    assert [r.entropy for r in result.records] == [r.entropy for r in plain.records]


def of_name(name: str) -> TextCase:
    return next(case for case in TEXT_CASES if case.name == name)


@pytest.mark.parametrize("name", ["llama", "gpt-neox", "openelm", "opt-125m"])
def test_every_number_of_texts(name: str) -> None:
    adapter = load_text(of_name(name).folder, device="cpu", dtype="float64")
    texts = [Example(str(i), None, "", text) for i, text in enumerate(TEXTS[:2])]
    result = diff(adapter, texts, inside="1,last", convention=None)
    assert result.inside is not None
    twin = adapter.untrained(0)
    found = {(f"{of['update']} {of['block']}", of["rows"]): of for of in result.inside}
    last = len(adapter.layers) - 1
    assert len(found) == 8 and {int(point.split()[1]) for point, _ in found} == {1, last}
    for rows, model in {"trained": adapter, "untrained": twin}.items():
        expected: dict[str, list[dict[str, float]]] = {}
        for text in texts:
            ids = torch.tensor([model.token_ids(text.text)])
            run = lambda m=model, i=ids: m.forward(i, torch.ones_like(i, dtype=torch.bool))  # noqa: E731
            for point, (update, stream) in by_hand(model.model, name, run).items():
                expected.setdefault(point, []).append(numbers(update, stream))
        for (point, of), got in found.items():
            if of == rows:
                assert {n: got[n] for n in NAMES} == pytest.approx(of_data(expected[point]), rel=1e-7)
    assert {point.point for point in result.points} == {"final"}, "updates are no layers"
    plain = diff(adapter, texts)
    assert (result.diff_erank, result.reduced_loss) == (plain.diff_erank, plain.reduced_loss)


def small(kind: str, dtype: Any = torch.float64, **changed: Any) -> Any:
    """A model of transformers, drawn wide enough that attention is not uniform."""
    plain = {
        "vocab_size": 99,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    config = transformers.AutoConfig.for_model(kind, **{**plain, **changed})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(config, dtype=dtype).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)
            else:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model


FEW = {"num_local_experts": 4, "num_experts_per_tok": 2}
FALCON = {"parallel_attn": True, "multi_query": True, "num_key_value_heads": None}
# Kind, its configuration, path of its blocks, and of each part modules and what their outputs are multiplied by.
MADE: dict[str, Any] = {
    "multiplier": ("granite", {"residual_multiplier": 0.22}, "layers", {"self_attn": 0.22}, {"mlp": 0.22}),
    "experts": ("mixtral", FEW, "layers", {"self_attn": 1}, {"mlp": 1}),
    "experts and a shared one": (
        "granitemoeshared",
        {**FEW, "residual_multiplier": 0.3, "shared_intermediate_size": 24},
        "layers",
        {"self_attn": 0.3},
        {"block_sparse_moe": 0.3, "shared_mlp": 0.3},
    ),
    "sums within modules": (
        "bloom",
        {"n_layer": 2, "n_head": 4},
        "h",
        {"self_attention.dense": 1},
        {"mlp.dense_4h_to_h": 1},
    ),
    "added in place": ("falcon", FALCON, "h", {"self_attention": 1}, {"mlp": 1}),
    "two sandwiched": (
        "gemma2",
        {"head_dim": 8},
        "layers",
        {"post_attention_layernorm": 1},
        {"post_feedforward_layernorm": 1},
    ),
    "norms behind alone": ("olmo2", {}, "layers", {"post_attention_layernorm": 1}, {"post_feedforward_layernorm": 1}),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_added_is_found(name: str) -> None:
    kind, config, at, *parts = MADE[name]
    single = "experts" in name  # torch multiplies those of experts in no other precision
    model, rounding = small(kind, torch.float32 if single else torch.float64, **config), 1e-6 if single else 1e-12
    ids = torch.randint(3, 99, (1, 12), generator=torch.Generator().manual_seed(1))
    paths = {1: f"{at}.0", 2: f"{at}.1"}
    with torch.inference_mode():
        added = added_by(model, paths, lambda: model(input_ids=ids, use_cache=False), name)
        for of in added:
            for part, modules in zip(("attention", "mlp"), parts, strict=True):
                found = {addend.module.removeprefix(f"{of.block}."): addend.factor for addend in of.parts[part]}
                assert found == pytest.approx(modules, rel=1e-5)
            assert (
                of.after == ("" if name == "added in place" else "mlp") and of.kept == 1 and of.deviation < rounding
            )
        seen: dict[int, Block] = {}
        states: dict[int, list[torch.Tensor]] = {1: [], 2: []}
        with ExitStack() as hooks:
            for number, path in paths.items():
                block, keep = model.get_submodule(path), states[number]
                hooks.callback(
                    block.register_forward_pre_hook(
                        lambda m, a, k, keep=keep: keep.append((a[0] if a else k["hidden_states"]).clone()),
                        with_kwargs=True,
                    ).remove
                )
                hooks.callback(
                    block.register_forward_hook(lambda m, a, o, keep=keep: keep.append(first(o).clone())).remove
                )
            hooks.enter_context(reading(model, added, lambda of, block: seen.update({of.number: block})))
            model(input_ids=ids, use_cache=False)
        for number, (entered, left) in states.items():
            total = seen[number].updates["attention"] + seen[number].updates["mlp"]
            assert torch.allclose(total, left - entered, atol=10 * rounding)
            assert seen[number].deviations.max() < rounding
        (doubled, *_) = added
        twice = tuple(replace(addend, factor=2 * addend.factor) for addend in doubled.parts["mlp"])
        wrong = replace(doubled, parts={**doubled.parts, "mlp": twice})
        with reading(model, [wrong], lambda of, block: seen.update({of.number: block})):
            model(input_ids=ids, use_cache=False)
        assert seen[wrong.number].deviations.max() > 0.01


def test_a_block_that_scales_its_stream() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of = nn.Linear(6, 6, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            turned: torch.Tensor = self.of(x.mT).mT
            return turned

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.each = Turned(), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            middle = x + self.mix(x)
            scaled: torch.Tensor = 0.5 * (middle + self.each(middle.tanh()))
            return scaled

    torch.manual_seed(0)
    model = nn.Sequential(Scaled()).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    with torch.inference_mode():
        (added,) = added_by(model, {1: "0"}, lambda: model(x), "made")
    assert added.kept == pytest.approx(0.5) and added.after == "mlp"
    found = {part: {of.module: of.factor for of in addends} for part, addends in added.parts.items()}
    assert found == {"attention": {"0.mix": 1}, "mlp": {"0.each": 1}}


def refused(model: Any, blocks: dict[int, str], run: Any) -> str:
    with torch.inference_mode(), pytest.raises(ModelError) as error:
        added_by(model, blocks, run, "made")
    return str(error.value)


def test_what_cannot_be_taken_apart_is_refused_with_the_reason() -> None:
    ids = torch.randint(3, 99, (1, 12), generator=torch.Generator().manual_seed(1))
    one = small("mamba", state_size=4)
    assert "block 1 cannot be taken apart (so do blocks 2): it adds a single update" in refused(
        one, {1: "layers.0", 2: "layers.1"}, lambda: one(input_ids=ids)
    )
    texts = [Example(str(i), None, "", text) for i, text in enumerate(TEXTS[:2])]
    for case in (BERT, of_name("opt-350m")):
        with pytest.raises(ModelError, match="do not add up to what leaves it .* as with a norm behind the sum"):
            diff(case.adapter, texts, inside="all")
    with pytest.raises(UsageError, match="unknown block '0'; known: all, first, middle, last, 1 to 3"):
        diff(LLAMA.adapter, texts, inside="0")
    with pytest.raises(UsageError, match="unknown block '9'"):
        align(LLAVA.adapter, examples(), inside="9")
    with pytest.raises(UsageError, match="with dropout on"):
        diff(of_name("opt-125m").adapter, texts, inside="1", convention=TextConvention(untrained_mode="train"))
    model, processor, _ = built("mllama")
    with pytest.raises(ModelError, match="block 2 cannot be taken apart.*; blocks 1, 3 can be measured"):
        align(wrap(model, processor, name="mllama"), examples()[:1], inside="all")


def test_the_sum_is_looked_at_in_every_example() -> None:
    h = torch.randn(9, 12, generator=torch.Generator().manual_seed(0))
    study = UpdateStudy((), h + 1, "mean", torch.full((9,), 0.2), 1e-4)
    with pytest.raises(
        ModelError,
        match="example 'a': at 'mlp 3', the block's input.*off by 2.0e-01",
    ):
        study.fields(TokenSet(h), h, example="a", point="mlp 3", input_kind="pair")


def drawn(*shape: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    while True:
        yield torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("n", [40, 200])  # fewer rows than dimensions, and more
def test_where_an_update_lies(n: int) -> None:
    rows = drawn(n, 64)
    few = torch.linalg.qr(next(drawn(64, 8)))[0]
    stream = next(rows)[:, :4] @ few[:, :4].mT
    within, outside = next(rows)[:, :4] @ few[:, :4].mT, next(rows)[:, :4] @ few[:, 4:].mT
    assert inside(within, stream).share == pytest.approx(1) == inside(within, stream).overlap
    assert inside(outside, stream)[::2][:2] == pytest.approx((0, 0), abs=1e-12)
    found = [inside(next(rows), stream) for _ in range(30)]
    assert np.mean([of.share for of in found]) == pytest.approx(4 / 64, abs=0.01)
    assert {of.share_by_chance for of in found} == {4 / 64}
    loose = [inside(next(rows), next(rows)) for _ in range(10)]
    assert np.mean([of.overlap for of in loose]) == pytest.approx(
        np.mean([of.overlap_by_chance for of in loose]), abs=0.03
    )
    turned = torch.linalg.qr(next(drawn(64, 64)))[0]
    moved = inside(3 * next(drawn(n, 64)) @ turned + 1, stream @ turned - 2)
    assert moved[:4] == pytest.approx(inside(next(drawn(n, 64)), stream)[:4])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("inside") / "run"
    align(LLAVA.adapter, examples(), inside="all", layers="first", out=out)
    return out


def test_a_run_is_kept_read_back_continued_and_shared(folder: Path, tmp_path: Path) -> None:
    whole = align(LLAVA.adapter, examples(), inside="all", layers="first")
    assert (
        Alignment.from_run(folder).inside
        == whole.inside
        == align(LLAVA.adapter, examples(), inside="all", layers="first", out=folder).inside
    )
    assert [at["point"] for at in whole.layers or []] == ["layer 1", "llm"]
    for other in ("first", ""):
        with pytest.raises(RunFolderError, match="inside"):
            align(LLAVA.adapter, examples(), inside=other, layers="first", out=folder)
    batched = align(LLAVA.adapter, examples(), inside="all", batch_tokens=8192)
    for a, b in zip(batched.inside or [], whole.inside or [], strict=True):
        assert {name: a[name] for name in NAMES} == pytest.approx({name: b[name] for name in NAMES}, rel=1e-4)
    shared_by(
        2, lambda: align(LLAVA.adapter, examples(), inside="all", layers="first", out=tmp_path / "run"), tmp_path
    )
    assert Alignment.from_run(tmp_path / "run").inside == whole.inside


@pytest.mark.parametrize("harm", ["share", "places", "deviation", "fewer", "without"])
def test_numbers_that_cannot_be_are_not_read(folder: Path, tmp_path: Path, harm: str) -> None:
    shutil.copytree(folder, tmp_path / "run")
    (part,) = part_files(tmp_path / "run")
    records = records_of(pq.read_table(part))
    change: Any = {
        "share": {"span_share": np.array([1.5, 0.1, 0.1])},
        "places": {"overlap": np.array([0.5, 0.1])},
        "deviation": {"deviation": math.nan},
        "without": {of.name: math.nan if of.name == "deviation" else None for of in INSIDE},
        "fewer": {},
    }[harm]
    updates = [record for record in records if record.point == "mlp 1"]
    others = [record for record in records if record.point != "mlp 1"]
    if harm == "without":
        others = [replace(r, **change) for r in others]
    kept = [] if harm == "fewer" else [replace(record, **change) for record in updates]
    part.unlink()
    write_part(tmp_path / "run" / "records" / "000000", [*others, *kept])
    with pytest.raises(RunFolderError):
        report([tmp_path / "run"])


def test_they_stand_in_report_and_command_line(
    folder: Path, golden_pairs: Path, golden: Path, tmp_path: Path
) -> None:
    report([folder], tmp_path / "report", formats=["html", "csv", "markdown", "latex"])
    page, csv = ((tmp_path / "report" / name).read_text() for name in ("report.html", "numbers.csv"))
    assert (
        "What blocks add to the residual stream" in page
        and "attention 1, image" in page
        and "dotted: by chance" in page
    )
    assert "mlp 2/text/share_by_chance" in csv
    data = f"llava:{golden_pairs}?images={golden}/images"
    done = run("align", HF_MODEL, "--data", data, "--inside", "last", "--out", str(tmp_path / "run"), "--json", "-")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["results"]
    assert {of["block"] for of in found["inside"]} == {3}
    again = run("align", "--config", str(tmp_path / "run" / "command.yaml"), "--out", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    assert (
        "what blocks add to the residual stream" in again.stdout
        and "make up what leaves each of 1 block" in again.stdout
    )
    assert max(map(len, again.stdout.splitlines())) <= 100
    assert run("align", HF_MODEL, "--data", data, "--inside", "0").returncode == 2


def test_texts_are_kept_and_shown(tmp_path: Path) -> None:
    texts = [Example(str(i), None, "", text) for i, text in enumerate(TEXTS)]
    result = diff(
        LLAMA.adapter,
        texts,
        inside="all",
        layers="first",
        seeds=(0, 1),
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    assert Diff.from_run(tmp_path / "run").inside == result.inside
    assert (
        diff(LLAMA.adapter, texts, inside="all", layers="first", seeds=(0, 1), untrained=result).inside
        == result.inside
    )
    with pytest.raises(UsageError, match="another choice of layers"):
        diff(LLAMA.adapter, texts, inside="1", seeds=(0, 1), untrained=result)
    assert "untrained" in str(result) and "make up what leaves each of 3 blocks" in str(result)
    report([tmp_path / "run"], formats=["markdown"])
    tables = (tmp_path / "run" / "report" / "tables.md").read_text()
    assert "attention 3, untrained" in tables
    by_layer = tables.partition("by layer")[2].partition("###")[0]
    assert by_layer.count("\n| ") == 3 and "mlp" not in by_layer, "a head, a line, and the row of layer 1"
