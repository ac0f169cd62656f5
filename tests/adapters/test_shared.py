"""What holds for every adapter, held by the same tests."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch

from mmerank import Convention, Example, align, capture, load
from mmerank.convention import ImageLayout, SequenceForm
from mmerank.engine import collect as collect
from mmerank.engine.measurement import Measured
from mmerank.engine.plans.pairs import Pairs
from mmerank.engine.probe import Probe
from mmerank.eranks import ERANKS
from mmerank.errors import DataError, UsageError
from mmerank.inputs.sequence import KINDS, Role
from mmerank.models.identity import identity
from tests.adapters.cases import CASES, Case, examples
from tests.conftest import GOLDEN

CONNECTOR_TOLERANCE, LLM_TOLERANCE = 2e-5, 5e-5
FORMS: tuple[SequenceForm, ...] = ("bare", "template")

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_form = pytest.mark.parametrize("form", FORMS)


def eranks(result: Any) -> list[float]:
    return [getattr(result, label) for label in ERANKS]


def pixels(case: Case, layout: ImageLayout) -> torch.Tensor:
    return torch.stack([case.adapter.pixels(example.image, layout) for example in examples()])  # type: ignore[arg-type]


@every_case
def test_pixels(case: Case) -> None:
    for layout, (suffix, _) in case.layouts.items():
        assert np.array_equal(pixels(case, layout).numpy(), case.golden[f"pixel_values{suffix}"]), layout


@every_case
@pytest.mark.parametrize("batched", [False, True])
def test_states_that_a_picture_passes(case: Case, batched: bool) -> None:
    for layout, (suffix, _) in case.layouts.items():
        inputs = pixels(case, layout)
        for batch in [range(3)] if batched else [[0], [1], [2]]:
            points = {name: case.adapter.points[name] for name in case.tensors}
            with torch.no_grad(), capture(case.adapter.model, points) as seen:
                case.adapter.encode_images(list(inputs[list(batch)]))
            for name, (golden, skip) in case.tensors.items():
                expected = case.golden[f"{golden}{suffix}"][list(batch), skip:]
                assert np.abs(seen[name].numpy() - expected).max() < CONNECTOR_TOLERANCE, (layout, name)


@every_case
@every_form
def test_token_ids(case: Case, form: SequenceForm) -> None:
    for kind in KINDS:
        for i, example in enumerate(examples()):
            assert list(case.adapter.sequence(example, kind, form).ids) == case.expected_ids(form, kind, i), kind


@every_case
@every_form
def test_roles(case: Case, form: SequenceForm) -> None:
    for example in examples():
        roles = {kind: case.adapter.sequence(example, kind, form).roles for kind in KINDS}
        for kind in KINDS:
            assert roles[kind][0] is Role.BOS and roles[kind].count(Role.BOS) == 1
            assert roles[kind].count(Role.IMAGE) == (0 if kind == "text" else case.adapter.image_tokens)
            assert (Role.TEMPLATE in roles[kind]) == (form == "template")
        assert Role.TEXT not in roles["image"]
        # The segments are cut at other places with a picture, so a prefix space may be one token more.
        assert abs(roles["text"].count(Role.TEXT) - roles["pair"].count(Role.TEXT)) <= 1


@every_case
@every_form
@pytest.mark.parametrize("batched", [False, True])
def test_final_states(case: Case, form: SequenceForm, batched: bool) -> None:
    adapter = case.adapter
    for layout in case.layouts:
        with torch.no_grad():
            images = adapter.encode_images(list(pixels(case, layout)))
        for kind in KINDS:
            sequences = [adapter.sequence(example, kind, form) for example in examples()]
            for batch in [[0, 1, 2]] if batched else [[0], [1], [2]]:
                with torch.no_grad(), capture(adapter.model, {"llm": adapter.points["llm"]}) as seen:
                    of = None if kind == "text" else [images[i] for i in batch]
                    adapter.decode([sequences[i] for i in batch], of)
                for states, i in zip(seen["llm"], batch, strict=True):
                    expected = case.expected_hidden(form, kind, layout, i)
                    assert np.abs(states[: len(expected)].numpy() - expected).max() < LLM_TOLERANCE, (layout, kind, i)


@every_case
def test_golden_effective_ranks(case: Case) -> None:
    for (form, layout), family in case.families.items():
        result = align(case.adapter, examples(), convention=case.convention(form, layout))
        expected = case.eranks["families"][family]
        assert result.n == 3
        assert eranks(result) == pytest.approx([expected[f"eRank{i}"] for i in range(1, 6)], rel=1e-5), family
        for ratio in ("image_reduction_ratio", "image_text_alignment"):
            assert getattr(result, ratio) == pytest.approx(expected[ratio], rel=1e-5)


@every_case
def test_golden_effective_ranks_per_sample(case: Case) -> None:
    result = align(case.adapter, examples())
    hooks = case.eranks["families"]["bare_full"]["hooks"]
    for label, (point, kind) in ERANKS.items():
        expected = case.eranks["per_sample"][hooks[label.replace("erank", "eRank")]]
        found = [r for r in result.records if (r.point, r.input) == (point, kind)]
        assert [r.n for r in found] == expected["N"]
        assert np.exp([r.entropy for r in found]) == pytest.approx(np.exp(expected["entropy_f64"]), rel=1e-5)


@every_case
def test_only_rows_of_the_modalities(case: Case) -> None:
    result = align(case.adapter, examples(), convention=Convention(tokens="modality"))
    golden = case.eranks["dataset"]
    variants = case.variants
    assert result.erank3 == pytest.approx(golden[f"{variants['bare', 'image']}:image_rows"]["erank_f64"], rel=1e-5)
    assert result.erank4 == pytest.approx(golden[f"{variants['bare', 'text']}:no_bos_row"]["erank_f64"], rel=1e-5)
    assert result.erank5 == pytest.approx(golden[f"{variants['bare', 'pair']}:no_bos_row"]["erank_f64"], rel=1e-5)


@every_case
@every_form
def test_batching_order_and_shared_prefix_change_nothing(case: Case, form: SequenceForm) -> None:
    convention = Convention(sequence=form)
    pairs = examples() + [Example(f"more {e.id}", e.image, "", e.response * 2) for e in examples()]
    alone = align(case.adapter, pairs, convention=convention, batch_tokens=0)
    shuffled = random.Random(0).sample(pairs, len(pairs))
    for options in (
        {"batch_tokens": 10_000},
        {"batch_tokens": 500},
        {"batch_tokens": 0, "share_prefix": False},
        {"batch_tokens": 10_000, "share_prefix": False},
    ):
        for entries in (pairs, shuffled):
            other = align(case.adapter, entries, convention=convention, **options)  # type: ignore[arg-type]
            assert eranks(other) == pytest.approx(eranks(alone), rel=1e-6), options
            assert [r.entropy for r in other.records] == pytest.approx([r.entropy for r in alone.records], abs=2e-6)


@every_case
def test_shared_prefix_saves_a_pass(case: Case) -> None:
    (example, *_) = examples()
    with_prefix, without = (
        sum(
            r.tokens
            for r in Probe(Pairs(case.adapter, share_prefix=shared)).measure([example])
            if isinstance(r, Measured)
        )
        for shared in (True, False)
    )
    image = len(case.adapter.sequence(example, "image", "bare"))
    assert without - with_prefix == image


@every_case
def test_a_model_that_looks_ahead_gets_separate_passes(case: Case) -> None:
    """The adapter says causal; the engine checks, and here finds it untrue."""
    adapter = case.adapter

    def look_ahead(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        embeddings = kwargs["inputs_embeds"]
        return args, {**kwargs, "inputs_embeds": embeddings + embeddings.mean(dim=1, keepdim=True)}

    norm = adapter.points["llm"].module
    assert isinstance(norm, str)
    decoder = adapter.model.get_submodule(norm.rpartition(".")[0])
    handle = decoder.register_forward_pre_hook(look_ahead, with_kwargs=True)
    try:
        separate = align(adapter, examples(), share_prefix=False)
        with pytest.warns(UserWarning, match="depend on the text behind it"):
            checked = align(adapter, examples())
        assert eranks(checked) == eranks(separate)
    finally:
        handle.remove()


@every_case
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_models(case: Case, dtype: str) -> None:
    adapter = load(GOLDEN / case.name / case.checkpoint, dtype=dtype, device="cpu")
    assert {p.dtype for p in adapter.model.parameters() if p.ndim > 1} == {getattr(torch, dtype)}
    assert adapter.source["dtype"] == dtype
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the prefix is found to be shared here too
        half = align(adapter, examples())
    assert eranks(half) == pytest.approx(eranks(align(case.adapter, examples())), rel=0.02)


@every_case
def test_spread_over_devices(case: Case) -> None:
    """`auto` places the model with accelerate; here there is one place to put it."""
    spread = load(GOLDEN / case.name / case.checkpoint, device="auto")
    assert eranks(align(spread, examples())) == pytest.approx(eranks(align(case.adapter, examples())), rel=1e-6)


@contextmanager
def broken(case: Case, point: str, samples: Callable[[int], bool]) -> Iterator[None]:
    """Inside, the states at a hook point are NaN for those pictures of a run, counted from 0, that `samples` says."""
    where = case.adapter.points[point]
    assert isinstance(where.module, str)
    module = case.adapter.model.get_submodule(where.module)
    passes = count()

    def holed(h: torch.Tensor) -> torch.Tensor:
        bad = samples(next(passes))
        return torch.full_like(h, torch.nan) if bad else h

    def before(module: Any, args: Any) -> Any:
        return holed(args[0]), *args[1:]

    def after(module: Any, args: Any, output: Any) -> Any:
        return holed(output)

    handle = (
        module.register_forward_pre_hook(before) if where.side == "input" else module.register_forward_hook(after)
    )
    try:
        yield
    finally:
        handle.remove()


@every_case
@pytest.mark.parametrize("point", ["vision", "connector", "llm"])
def test_states_that_are_not_finite(case: Case, point: str) -> None:
    with broken(case, point, lambda i: True), pytest.raises(DataError) as caught:
        align(case.adapter, examples()[:1])
    assert f"1 skipped; first: '0': hook point '{point}', " in str(caught.value)
    assert "input: hidden states hold NaN or infinity in " in str(caught.value)


@every_case
def test_one_broken_example_does_not_cost_the_others(case: Case) -> None:
    """The first one, on which prefixes would be verified: they are on the second, and not before."""
    whole = align(case.adapter, examples())
    with broken(case, "connector", lambda i: i == 0), warnings.catch_warnings():
        warnings.simplefilter("error")
        result = align(case.adapter, examples())
    (skipped,) = result.skipped
    assert skipped.suspect == "model" and result.n == 2
    expected = {(r.example, r.point, r.input): r.entropy for r in whole.records if r.example != skipped.id}
    assert {(r.example, r.point, r.input): r.entropy for r in result.records} == expected


@every_case
def test_a_broken_model_does_not_run_for_hours(case: Case) -> None:
    # All alike, so that they are measured in the order of the data, in which a row is counted.
    entries = [replace(examples()[0], id=str(i)) for i in range(27)]
    most = collect.SUSPECT_IN_A_ROW
    with broken(case, "vision", lambda i: i % most < most - 1):
        assert align(case.adapter, entries).n == len(entries) // most
    with (
        broken(case, "vision", lambda i: i >= 3),
        # A row is seen when the example between two others is known, so it may be longer than the least.
        pytest.raises(DataError, match=r"^\d+ examples in a row could not be measured, the last, ") as raised,
    ):
        align(case.adapter, entries)
    assert int(str(raised.value).split()[0]) >= most


@every_case
@every_form
def test_long_text_is_cut_and_counted(case: Case, form: SequenceForm) -> None:
    (first, *others) = examples()
    long = Example(first.id, first.image, first.instruction, first.response * 200)
    result = align(case.adapter, [long, *others], convention=Convention(sequence=form))
    records = {(r.point, r.input): r for r in result.records if r.example == first.id}
    assert result.n == 3 and result.text_cut == 1
    assert records["llm", "pair"].n == case.adapter.max_tokens
    assert records["llm", "text"].text_cut == records["llm", "pair"].text_cut > 0
    assert records["llm", "image"].text_cut == 0
    end = case.adapter.sequence(long, "pair", form)
    cut = end.without_last_text(records["llm", "pair"].text_cut)
    if form == "template":
        assert cut.ids[-1] == end.ids[-1] and cut.roles[-1] is Role.TEMPLATE


@every_case
def test_vision_points(case: Case) -> None:
    names = list(case.adapter.vision_points)
    assert names[0] == "default" and case.adapter.vision_points["default"] == case.adapter.points["vision"]
    results = {name: align(case.adapter, examples(), convention=Convention(vision_point=name)) for name in names}
    assert len({round(result.erank1, 6) for result in results.values()}) == len(names)
    assert len({result.erank2 for result in results.values()}) == 1
    with pytest.raises(UsageError, match=r"unknown vision point 'nose'; known: default"):
        align(case.adapter, examples(), convention=Convention(vision_point="nose"))


@every_case
def test_a_second_load_has_the_same_fingerprint_and_other_weights_another(case: Case) -> None:
    again = load(GOLDEN / case.name / case.checkpoint, device="cpu")
    before = identity(again)
    assert before == identity(case.adapter)
    for name in dir(again):  # what is made when it is asked for, as a processor for generation
        if not name.startswith("_"):
            getattr(again, name)
    assert identity(again) == before
    half = load(GOLDEN / case.name / case.checkpoint, dtype="bfloat16", device="cpu")
    assert identity(half)["weights"] != identity(again)["weights"]


@every_case
def test_an_untrained_twin_has_the_shapes_and_other_weights(case: Case) -> None:
    before = torch.get_rng_state()
    twin, same, other = (case.adapter.untrained(seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    trained = dict(case.adapter.model.named_parameters())
    drawn = dict(twin.model.named_parameters())
    assert {name: p.shape for name, p in trained.items()} == {name: p.shape for name, p in drawn.items()}
    assert not twin.model.training
    matrices = [name for name, p in drawn.items() if p.ndim > 1]
    assert all(not torch.equal(drawn[name], trained[name]) for name in matrices)
    assert identity(twin)["weights"] == identity(same)["weights"] != identity(other)["weights"]
    assert twin.source["untrained"] and twin.source["seed"] == 0 and "untrained" in twin.name
    for name in matrices:  # nothing is left as memory happened to be
        assert 0.003 < float(drawn[name].detach().std()) < 0.4 and float(drawn[name].detach().mean().abs()) < 0.02, (
            name
        )


@every_case
def test_an_untrained_twin_is_fed_like_its_model(case: Case) -> None:
    twin = case.adapter.untrained(3)
    for kind in KINDS:
        assert twin.sequence(examples()[0], kind, "bare") == case.adapter.sequence(examples()[0], kind, "bare")
    result = align(twin, examples())
    assert result.n == 3 and result.mean_tokens("erank5") == align(case.adapter, examples()).mean_tokens("erank5")
    assert eranks(result) != eranks(align(case.adapter, examples()))
