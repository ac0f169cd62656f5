"""Pictures with rows left out, against plain transformers with rows deleted from what the LLM is given."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

import mmerank
from mmerank.analysis.metrics.pruning import interactions
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.analysis.statistics.slope import slope_of
from mmerank.convention import PruneConvention
from mmerank.engine.plans.pruning import Prunings
from mmerank.engine.probe import Probe
from mmerank.errors import DataError, ModelError, RunFolderError, TransformFailed, UsageError
from mmerank.inputs.example import Skipped
from mmerank.models.grids import parted
from mmerank.models.places import Whereabouts
from mmerank.models.shortened import Shortened
from mmerank.runs.columns import DamagedPart
from mmerank.runs.parts import read_part, read_records, write_part
from mmerank.runs.record import Record, to_frame
from mmerank.runs.rules import Rules
from mmerank.runs.settings import read_settings
from mmerank.states.choosers import chosen_by, functions_of
from mmerank.states.selection import by_diversity, by_norm, on_subgrids
from mmerank_adapters.feeding import noise
from tests import reference
from tests.adapters import tiny_models
from tests.kill_loop import forked
from tests.test_cli import failure, run

Floats = NDArray[np.float64]
KEEPS = (0.5, 0.25)
HOW = PruneConvention(keep=KEEPS, draws=2, neighbours=2)
FEW = PruneConvention(keep=(0.25,), by=("random", "downsample", "attention", "diversity"), draws=2)
ASKED, ANSWER = "What is it?", " A thing, or two."


@pytest.fixture(scope="module")
def llava() -> Any:
    return mmerank.load("demo-llava")


@pytest.fixture(scope="module")
def pairs() -> list[mmerank.Example]:
    return [of for of in mmerank.load_data("demo") if isinstance(of, mmerank.Example)][:6]


def measured(adapter: Any, example: mmerank.Example, how: PruneConvention = HOW, **functions: Any) -> list[Record]:
    (found,) = Probe(Prunings(adapter, how, functions)).measure([example])
    assert not isinstance(found, Skipped), found.reason
    return list(found.records)


def nearest(rows: Floats, k: int) -> list[set[int]]:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return [set(np.argsort(-row, kind="stable")[:k].tolist()) for row in cosines]


class Brute:
    """What plain transformers give of a pair: the LLM's embeddings and positions, of which rows are deleted."""

    def __init__(self, name: str, llava: Any, example: mmerank.Example):
        picture: Any = example.image
        self.deep: Any = None
        if name == "demo-llava":
            model = llava.model
            words = [1, *([model.config.image_token_id] * llava.image_tokens)]
            words[0] = llava.tokenizer.bos_token_id
            text = llava.tokenizer(f"{example.instruction} {example.response}", add_special_tokens=False)["input_ids"]
            asked = llava.tokenizer(example.instruction, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*words, *text]])
            pixels = llava.pixels(picture.convert("RGB"), "model")[None]
            rows = model.get_image_features(pixel_values=pixels).pooler_output
            before = next(i for i, (a, b) in enumerate(zip(text, [*asked, None], strict=False)) if a != b)
            first = len(words) + before
        else:
            model, processor, sign = tiny_models.built(name)
            kinds = {"return_mm_token_type_ids": True} if "qwen" in name else {}
            whole = f"{sign}{example.instruction} {example.response}"
            inputs = processor(text=whole, images=picture, return_tensors="pt", **kinds)
            ids = inputs["input_ids"]
            # Of bytes, so each letter is a token; the space before the response is the first that it adds.
            first = ids.shape[1] - len(example.response) - 1
            taken = {key: inputs[key] for key in ("pixel_values", "image_grid_thw") if key in inputs}
            features = model.get_image_features(**taken)
            rows = features.pooler_output
            if name == "qwen3_vl":
                self.deep = [torch.cat(of) for of in features.deepstack_features]
        self.model, self.ids = model, ids
        rows = torch.cat([of.reshape(-1, of.shape[-1]) for of in rows])
        self.own = (ids[0] == model.config.image_token_id).nonzero()[:, 0].tolist()
        assert len(self.own) == len(rows)
        self.rows = rows.double().numpy()
        self.embeddings = model.get_input_embeddings()(ids).clone()
        self.embeddings[0, self.own] = rows
        n = ids.shape[1]
        self.positions = torch.arange(n)[None]
        if "qwen" in name:
            grid = {"image_grid_thw": inputs["image_grid_thw"]}
            self.positions, _ = model.model.get_rope_index(ids, mm_token_type_ids=inputs["mm_token_type_ids"], **grid)
        self.predicted = list(range(first, n))

    def read(self, kept: Sequence[int]) -> tuple[Floats, Tensor]:
        """States of the kept rows of the picture, and logits for each token of the response."""
        gone = {place for i, place in enumerate(self.own) if i not in set(kept)}
        left = [i for i in range(self.ids.shape[1]) if i not in gone]
        inputs: dict[str, Any] = {
            "inputs_embeds": self.embeddings[:, left],
            "position_ids": self.positions[..., left],
            "attention_mask": torch.ones((1, len(left)), dtype=torch.long),
        }
        if self.deep is not None:
            inputs["visual_pos_masks"] = torch.tensor([[i in set(self.own) for i in left]])
            inputs["deepstack_visual_embeds"] = [of[list(kept)] for of in self.deep]
        states = self.model.model.language_model(**inputs).last_hidden_state
        logits = self.model.lm_head(states)[0].double()
        at = [left.index(self.own[i]) for i in kept]
        return states[0, at].double().numpy(), logits[[left.index(i) - 1 for i in self.predicted]]


@pytest.mark.parametrize("name", ["demo-llava", "qwen2_5_vl", "qwen3_vl", "internvl"])
@torch.inference_mode()
def test_as_rows_deleted_by_hand(name: str, llava: Any, pairs: list[mmerank.Example]) -> None:
    if name == "demo-llava":
        adapter, example, tolerance = llava, pairs[0], 2e-4
    else:
        model, processor, _ = tiny_models.built(name)
        adapter, tolerance = mmerank.wrap(model, processor, name=name), 1e-4
        size = (96, 64) if name == "internvl" else (200, 150)
        example = mmerank.Example("e", noise(3, *size), ASKED, ANSWER.strip())
    found, brute = measured(adapter, example), Brute(name, llava, example)
    by = {(of.point, of.input): of for of in found}
    everything = list(range(len(brute.own)))
    states, first = brute.read(everything)
    before = first.log_softmax(dim=-1)
    wanted = brute.ids[0, brute.predicted]

    def loss(logits: Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(logits, wanted))

    whole = by["llm", "whole"]
    assert whole.predicted == len(brute.predicted) and whole.n == len(everything)
    assert whole.loss == pytest.approx(loss(first), abs=tolerance)
    assert whole.entropy == pytest.approx(reference.entropy(states), abs=tolerance)
    assert by["connector", "whole"].entropy == pytest.approx(reference.entropy(brute.rows), abs=tolerance)
    moved = []
    for kept in HOW.choices:
        one = by["llm", kept.name]
        assert one.kept is not None and one.n == len(one.kept) == math.floor(len(everything) * kept.keep + 0.5)
        after, logits = brute.read(one.kept.tolist())
        logs = logits.log_softmax(dim=-1)
        assert one.entropy == pytest.approx(reference.entropy(after), abs=tolerance)
        assert one.entropy_before == pytest.approx(reference.entropy(states[one.kept]), abs=tolerance)
        assert one.loss == pytest.approx(loss(logits), abs=tolerance)
        divergence = (before.exp() * (before - logs)).sum(dim=-1).mean()
        assert one.divergence == pytest.approx(float(divergence), abs=tolerance)
        same = (before.argmax(dim=-1) == logs.argmax(dim=-1)).double().mean()
        assert one.agreement == pytest.approx(float(same))
        k = min(HOW.neighbours, (len(after) - 1) // 2)
        near = zip(nearest(states[one.kept], k), nearest(after, k), strict=True)
        assert one.neighbours == pytest.approx(np.mean([len(a & b) / k for a, b in near]))
        connector = by["connector", kept.name]
        assert connector.entropy == pytest.approx(reference.entropy(brute.rows[one.kept]), abs=tolerance)
        moved.append(abs(one.loss - whole.loss))
    assert min(moved) > 10 * tolerance  # leaving rows out is seen at all
    # What was chosen, from the rows by hand.
    lengths = np.linalg.norm(brute.rows, axis=1)
    for keep in KEEPS:
        m = math.floor(len(everything) * keep + 0.5)
        longest = sorted(everything, key=lambda i: (-lengths[i], i))[:m]
        assert by["llm", f"norm@{keep:g}"].kept.tolist() == sorted(longest)  # type: ignore[union-attr]


@torch.inference_mode()
def test_attention_is_what_the_model_gives(pairs: list[mmerank.Example]) -> None:
    model, processor, sign = tiny_models.built("internvl")
    adapter = mmerank.wrap(model, processor, name="internvl")
    example = mmerank.Example("e", noise(3, 96, 64), ASKED, ANSWER.strip())
    how = PruneConvention(keep=(0.5,), by=("attention",), draws=1, attention_layer=1)
    (found,) = [of for of in measured(adapter, example, how) if of.point == "llm" and of.input == "attention@0.5"]
    usual = model.config._attn_implementation
    inputs = processor(text=f"{sign}{ASKED} {ANSWER.strip()}", images=example.image, return_tensors="pt")
    model.set_attn_implementation("eager")
    try:
        weights = model(**inputs, output_attentions=True).attentions[0][0]
    finally:
        model.set_attn_implementation(usual)
    own = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    asks = inputs["input_ids"].shape[1] - len(ANSWER.strip()) - 2  # what stands before the response and its space
    received = weights[:, asks].mean(dim=0)[own].numpy()
    assert sorted(np.argsort(-received)[: len(own) // 2].tolist()) == found.kept.tolist()  # type: ignore[union-attr]
    assert model.model.language_model.config._attn_implementation == usual


@pytest.mark.parametrize("name", ["gemma3", "glm4v", "llava_next", "blip_2"])
@torch.inference_mode()
def test_other_families_agree_with_masked_rows(name: str) -> None:
    model, processor, _ = tiny_models.built(name)
    adapter = mmerank.wrap(model, processor, name=name)
    example = mmerank.Example("e", noise(3, 200, 150), ASKED, ANSWER)
    sequence = adapter.sequence(example, "pair", "bare")
    (image,) = adapter.encode_images([adapter.pixels(example.image, "model")])  # type: ignore[arg-type]
    llm = Shortened(adapter)
    call = llm.read(sequence, image)
    kept = [i for i, role in enumerate(sequence.roles) if role.name != "IMAGE" or i % 2]
    llm.check(call, kept, sequence, image)  # raises where they differ
    whole, short = llm.states(call)[kept], llm.states(call, kept)
    assert float((whole - short).norm() / whole.norm()) > 0.05


def test_families_that_are_refused(llava: Any, pairs: list[mmerank.Example]) -> None:
    for name, why in {
        "mllama": "cross-attention model",
        "kosmos_2": "not called with embeddings of all",
        "paligemma": "reads what stands behind a token",
    }.items():
        model, processor, _ = tiny_models.built(name)
        adapter = mmerank.wrap(model, processor, name=name)
        with pytest.raises(ModelError, match=why):
            mmerank.prune_study(adapter, [mmerank.Example("e", noise(3, 96, 64), ASKED, ANSWER)], convention=FEW)
    model, processor, _ = tiny_models.built("aya_vision")
    adapter = mmerank.wrap(model, processor, name="aya")
    with pytest.raises(DataError, match="some layers of the LLM look back"):
        mmerank.prune_study(adapter, [mmerank.Example("e", noise(3, 96, 64), ASKED, ANSWER * 9)], convention=FEW)
    with pytest.raises(UsageError, match="no attention of layer 99; its LLM has"):
        mmerank.prune_study(llava, pairs[:1], convention=PruneConvention(attention_layer=99))
    with pytest.raises(DataError, match=r"0.05 of its 36 rows are 2; at least 3 are needed"):
        mmerank.prune_study(llava, pairs[:1], convention=PruneConvention(keep=(0.5, 0.05)))
    with pytest.raises(DataError, match="it has no response"):
        mmerank.prune_study(llava, [mmerank.Example("e", pairs[0].image, "What?", "")])


def test_a_family_whose_rows_add_more_than_attention(llava: Any, pairs: list[mmerank.Example]) -> None:
    """A layer that mixes neighbours: rows left out are then not rows that nothing attends to."""
    model, processor, _ = tiny_models.built("internvl")
    adapter = mmerank.wrap(model, processor, name="mixing")

    def mix(module: Any, args: Any, output: Any) -> Any:
        return output + output.roll(1, dims=1)

    handle = model.model.language_model.layers[0].mlp.register_forward_hook(mix)
    try:
        with pytest.raises(ModelError, match="not the same as rows that nothing attends to"):
            mmerank.prune_study(adapter, [mmerank.Example("e", noise(3, 96, 64), ASKED, ANSWER)], convention=FEW)
    finally:
        handle.remove()


def test_choices_by_hand() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 5))
    order = by_diversity(rows)
    assert sorted(order.tolist()) == list(range(30))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    apart = 1 - unit @ unit.T
    others = apart + np.diag([np.inf] * 30)
    assert order[0] == others.min(axis=1).argmax()
    for m in range(1, 30):  # each is the farthest from those before it
        reach = apart[:, order[:m]].min(axis=1)
        reach[order[:m]] = -1
        assert reach[order[m]] == pytest.approx(reach.max())
    assert by_norm(np.array([[3.0], [-4.0], [4.0]])).tolist() == [1, 2, 0]
    for count, grids in ((36, [(6, 6)]), (576, [(24, 24)]), (60, [(5, 12)]), (60, []), (28, [(2, 2), (4, 6)])):
        for kept in range(1, count):
            found = on_subgrids(count, kept, grids)
            assert len(set(found.tolist())) == kept and 0 <= found.min() <= found.max() < count
    assert on_subgrids(576, 144, [(24, 24)]).tolist() == [
        24 * i + j for i in range(1, 24, 2) for j in range(1, 24, 2)
    ]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "mistral3", "internvl", "llava_next"])
def test_grids_of_families(name: str) -> None:
    model, processor, sign = tiny_models.built(name)
    adapter = mmerank.wrap(model, processor, name=name)
    for size in ((200, 150), (150, 200), (300, 160)):
        found = Whereabouts(adapter).grids(size)
        made = processor(text=sign, images=noise(0, *size), return_tensors="pt")
        expected: Any
        if name == "qwen2_5_vl":
            expected = (tuple((made["image_grid_thw"][0, 1:] // 2).tolist()),)
        elif name == "mistral3":  # what is merged of these patches
            expected = (tuple((made["image_sizes"][0] // (tiny_models.PATCH * 2)).tolist()),)
        elif name == "internvl":
            expected = ((2, 2),) * len(made["pixel_values"])
        else:  # the picture in small, and in detail without the padding of its tiles
            count = made["input_ids"][0].tolist().count(model.config.image_token_id)
            assert found[0] == (4, 4) and found[1][0] * (found[1][1] + 1) == count - 16  # a newline behind each line
            expected = found
        assert found == expected, size


def test_grids_by_hand() -> None:
    lines, columns = np.divmod(np.arange(5 * 12), 12)
    left, upper = columns < 6, lines < 2
    assert parted(left, upper) == ((5, 12),)
    inside = (lines > 0) & (lines < 4)  # padding above and below
    assert parted(left & inside, upper & inside) == ((5, 12),)
    assert parted(np.concatenate([left, left]), np.concatenate([upper, upper])) == ((5, 12),) * 2
    ragged = left.copy()
    ragged[30] ^= True
    assert parted(ragged, upper) == () and parted(np.zeros(60, bool), upper) == ()
    assert parted(np.arange(60) % 2 == 0, np.zeros(60, bool)) == ()


def test_a_sub_grid_of_the_picture(llava: Any, pairs: list[mmerank.Example]) -> None:
    how = PruneConvention(keep=(0.25,), by=(), draws=1)
    (found,) = [of for of in measured(llava, pairs[0], how) if of.kept is not None and "down" in of.input]
    assert found.kept.tolist() == [6 * i + j for i in (1, 3, 5) for j in (1, 3, 5)]  # type: ignore[union-attr]


def kept_by_last_first(rows: Floats, count: int) -> list[int]:
    return list(range(len(rows)))[::-1][:count]


def test_functions_of_ones_own(llava: Any, pairs: list[mmerank.Example], tmp_path: Path) -> None:
    def last(rows: Floats) -> list[int]:
        rows[:] = 0  # a copy
        return [35, 30, 34, *range(20)]

    how = PruneConvention(keep=(0.25,), draws=2)
    named = f"{__name__}:kept_by_last_first"
    result = mmerank.prune_study(llava, pairs[:2], [last, named], convention=how, out=tmp_path / "run")
    assert result.convention.by == ("random", "downsample", f"{__name__}:test_functions_of_ones_own.last", named)
    chosen = {of.input.partition("@")[0]: of.kept.tolist() for of in result.records if of.kept is not None}
    assert chosen[named] == list(range(27, 36))
    assert chosen[result.convention.by[2]] == [0, 1, 2, 3, 4, 5, 30, 34, 35]
    assert f"loss_change/{named}@0.25" in result.numbers

    def other(rows: Floats) -> list[int]:
        return [1, 2]

    other.__qualname__ = last.__qualname__
    with pytest.raises(RunFolderError, match="own"):
        mmerank.prune_study(llava, pairs[:2], [other, named], convention=how, out=tmp_path / "run")
    with pytest.raises(UsageError, match="two functions are called"):
        functions_of([last, other])
    rows = np.ones((4, 2))
    for function, error, why in (
        (lambda rows: [0, 0, 1], UsageError, "each once, got 0 2 times"),
        (lambda rows: [0, 9], UsageError, "from 0 to 3 from it, each once, got 9"),
        (lambda rows: [0.5], UsageError, "whole numbers"),
        (lambda rows: rows[:, 0] > 0, UsageError, "flatnonzero"),
        (lambda rows: None, UsageError, "got None"),
        (lambda rows: [0], DataError, "keeps 1 of 4 rows, and 2"),
        (lambda rows: 1 / 0, TransformFailed, "ZeroDivisionError"),
    ):
        with pytest.raises(error, match=why):
            chosen_by({"f": function}, "f", rows, 2)
    own = tmp_path / "my choosers.py"
    own.write_text("def last(rows, count):\n    return range(len(rows) - count, len(rows))\n")
    assert list(functions_of([f"{own}:last"])[1][f"{own}:last"](rows, 3)) == [1, 2, 3]
    assert PruneConvention(by=(f"{own}:last",)).by[-1] == f"{own}:last"
    for name, why in {
        "nowhere.at_all:f": "cannot be imported",
        "math:pi": "expected a function",
        f"{own}:lost": "has no 'lost'; did you mean last?",
        f"{own}x.py:last": "no such file",
    }.items():
        with pytest.raises(UsageError, match=why):
            functions_of([name])
    with pytest.raises(ValueError, match="unknown way to choose rows 'norms'; did you mean norm"):
        PruneConvention(by=("norms",))
    with pytest.raises(ValueError, match="expected shares above 0 and below 1"):
        PruneConvention(keep=(1.0,))


def test_numbers_of_a_data_set(llava: Any, pairs: list[mmerank.Example]) -> None:
    result = mmerank.prune_study(llava, pairs, convention=FEW)
    numbers = result.numbers
    at: dict[tuple[str, str], list[Record]] = {}
    for record in result.records:
        at.setdefault((record.point, record.input), []).append(record)
    whole = np.array([of.loss for of in at["llm", "whole"]])
    losses = {name: np.array([of.loss for of in at["llm", name]]) for point, name in at if point == "llm"}
    random = (losses["random@0.25#0"] + losses["random@0.25#1"]) / 2
    assert numbers["loss_whole"].value == pytest.approx(whole.mean())
    assert numbers["loss_change/random@0.25"].value == pytest.approx((random - whole).mean())
    assert numbers["over_random/diversity@0.25"].value == pytest.approx((losses["diversity@0.25"] - random).mean())
    draws = [losses[f"random@0.25#{i}"].mean() for i in range(2)]
    assert numbers["draw_sd/random@0.25"].value == pytest.approx(np.std(draws, ddof=1))
    entropies = [of.entropy for of in at["connector", "diversity@0.25"]]
    assert numbers["erank_kept/diversity@0.25"].value == pytest.approx(math.exp(np.mean(entropies)))
    ratios = [of.participation_before for of in at["llm", "attention@0.25"]]
    assert numbers["participation_ratio_before/attention@0.25"].value == pytest.approx(np.mean(ratios))
    every = np.mean([random, *(losses[f"{by}@0.25"] for by in FEW.by[1:])], axis=0) - whole
    assert numbers["mean_loss_change"].value == pytest.approx(every.mean())
    # The interaction, by another implementation of the slope.
    ranks = np.exp([of.entropy for of in at["connector", "whole"]])
    (tested,) = [of for of in result.interactions if of.predictor == "erank_connector"]
    line = stats.linregress(ranks, losses["attention@0.25"] - losses["diversity@0.25"])
    assert tested.found.slope == pytest.approx(line.slope) and tested.found.r == pytest.approx(line.rvalue)
    listed = numbers["slope_erank_connector/0.25"]
    assert listed.value == pytest.approx(line.slope) and listed.interval == pytest.approx(tested.found.interval)
    assert {of["by"] for of in result.to_dict()["kept"]} == set(FEW.by)
    assert "loss less that of random rows" in result.to_markdown() and "n = 6 of 6" in str(result)
    assert all(len(line) <= 105 for line in str(result).splitlines())
    assert "rows" in result.how_to_report() and set(result.summary()["quantity"]) == set(numbers)
    json.dumps(result.to_dict(), allow_nan=False)
    compared = mmerank.compare(llava.untrained(0) and result, result)
    assert compared["loss_change/random@0.25"].difference == 0


def test_slopes_and_their_test() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=40)
    y = 2 * x + rng.normal(size=40)
    found, line = slope_of(x, y, Bootstrap()), stats.linregress(x, y)
    assert found.slope == pytest.approx(line.slope) and found.r == pytest.approx(line.rvalue)
    assert found.interval is not None and found.interval[0] < 2 < found.interval[1]
    again = stats.bootstrap(
        (x, y), lambda a, b: stats.linregress(a, b).slope, paired=True, vectorized=False, n_resamples=2000, rng=0
    ).standard_error
    assert (found.interval[1] - found.interval[0]) / (2 * 2.02 * again) == pytest.approx(1, abs=0.15)
    assert found.p == pytest.approx(1e-4)
    small, other = x[:7], rng.normal(size=7)
    every = stats.permutation_test(
        (other,),
        lambda b: abs(stats.linregress(small, b).slope),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=99_999,  # more than there are
        vectorized=False,
    )
    assert slope_of(small, other, Bootstrap()).p == pytest.approx(every.pvalue, abs=0.02)
    none = slope_of(np.ones(5), np.arange(5.0), Bootstrap())
    assert math.isnan(none.slope) and none.interval is None and math.isnan(slope_of(x[:2], y[:2], Bootstrap()).p)


def test_the_interaction_is_found_where_there_is_one() -> None:
    """Made records: attention loses more on pictures of high eRank."""
    rng = np.random.default_rng(2)
    records = []
    for i in range(60):
        entropy = rng.uniform(1, 2)
        for by, loss in {"whole": 1.0, "attention@0.25": math.exp(entropy) / 4, "diversity@0.25": 1.0}.items():
            for point in ("vision", "connector", "llm"):
                if point == "vision" and by != "whole":
                    continue
                spectrum = np.ones(1, np.float32)
                kept = np.arange(9, dtype=np.int32) if point == "llm" and by != "whole" else None
                known: Any = ("m", f"{i}", point, by, "none", 9, 4, entropy, 2, 0.5, 0, "f", spectrum)
                records.append(replace(Record(*known), loss=loss, kept=kept))
    frame = to_frame(records).assign(divergence=0.0, agreement=1.0, entropy_before=1.0, participation_before=1.0)
    found = {of.predictor: of for of in interactions(frame, Bootstrap())}
    assert found["erank_vision"].found.slope == pytest.approx(1 / 4) and found["erank_vision"].q < 0.001
    assert set(found) == {"erank_vision", "erank_connector", "reduction"}


def test_runs_are_continued_shared_and_read_again(llava: Any, tmp_path: Path, pairs: list[mmerank.Example]) -> None:
    whole = mmerank.prune_study(llava, pairs[::-1], convention=FEW)
    folder = tmp_path / "run"

    def work() -> None:
        mmerank.prune_study(llava, pairs, convention=FEW, out=folder)

    children = [forked(work, i, 2, tmp_path) for i in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0], (tmp_path / "output-0").read_text()
    parts = sorted((folder / "records").glob("*.parquet"))
    parts[0].unlink()
    again = mmerank.prune_study(llava, pairs, convention=FEW, out=folder)
    read = mmerank.Pruning.from_run(folder)
    for found in (again, read):
        assert found.to_dict()["intervals"] == whole.to_dict()["intervals"]
        assert found.to_dict()["interactions"] == whole.to_dict()["interactions"]
        assert [of.kept.tolist() for of in found.records if of.kept is not None] == [
            of.kept.tolist() for of in whole.records if of.kept is not None
        ]
    assert len(read_records(folder)) == len(whole.records)
    estimates = mmerank.estimates(folder).set_index("quantity")
    assert set(estimates.index) == set(whole.numbers)
    slopes = {f"slope_{of.predictor}/{of.keep:g}": of.found for of in whole.interactions}
    assert len(slopes) == 3
    for name, of in slopes.items():
        assert estimates["value"][name] == pytest.approx(of.slope)
        assert tuple(estimates.loc[name, ["low", "high"]]) == pytest.approx(of.interval)
    with pytest.raises(RunFolderError, match="keep"):
        mmerank.prune_study(llava, pairs, convention=PruneConvention(keep=(0.5,)), out=folder)
    rules = Rules(folder, read_settings(folder))
    wrong: dict[str, Any] = {"agreement": 1.5, "kept": np.arange(2, dtype=np.int32), "loss": math.nan}
    for name in wrong:
        changed = [replace(of, **{name: wrong[name]}) if of.kept is not None else of for of in again.records]
        part = write_part(tmp_path / "000000.parquet", changed, rules.metrics, of=rules.of)
        with pytest.raises(DamagedPart, match=name):
            read_part(part, rules)
    done = run("report", str(folder), "--out", str(tmp_path / "page"))
    assert not done.returncode, done.stderr
    page = (tmp_path / "page" / "report.html").read_text()
    assert "Pictures with rows left out" in page and "Loss under attention less that under diversity" in page
    numbers = pd.read_csv(tmp_path / "page" / "numbers.csv").set_index("quantity")
    assert {name: numbers["null_p"][name] for name in slopes} == {name: of.p for name, of in slopes.items()}
    assert page.count("Loss under attention less that under diversity, by") == 1  # no second table of them
    names = {path.name for path in (tmp_path / "page" / "figures").glob("*.png")}
    assert names == {"pruning-1.png", "pruning-eranks-1.png"}


def test_the_command(tmp_path: Path) -> None:
    asked = ("prune-study", "demo-llava", "--data", "demo", "--limit", "2", "--draws", "2", "--keep", "0.5")
    done = run(*asked, "--by", "norm", "--json", "-", "--out", str(tmp_path / "run"))
    assert not done.returncode, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert [of["by"] for of in result["kept"]] == ["random", "downsample", "norm"] and not result["interactions"]
    assert {"loss_change", "divergence", "agreement", "erank_kept_after", "neighbours"} <= result["kept"][0].keys()
    again = run("prune-study", "--config", str(tmp_path / "run" / "command.yaml"))
    assert not again.returncode and "change in loss" in again.stdout, again.stderr
    wrong = run(*asked[:-1], "2")
    assert wrong.returncode == 2 and "expected shares above 0 and below 1" in wrong.stderr
    assert "unknown way to choose rows 'nrom'" in failure(*asked, "--by", "nrom")[1]
