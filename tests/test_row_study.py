"""Rows drawn, rows by role, all but one: as records tell them, against the golden hidden states."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mmerank import Convention, Example, align, perturb
from mmerank.errors import UsageError
from mmerank.runs.record import Record
from mmerank.states.reductions import orders
from tests import reference
from tests.adapters.cases import CASES, LLAVA, Case, examples

every_case = pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.name)

CURVE = (4, 8, 16, 32, 64)
EVERYTHING = Convention(match_tokens=12, match_repeats=3, token_curve=CURVE, rows=True, companions=True)


def golden_states(case: Case, record: Record) -> NDArray[Any]:
    """Of the published model code, in place of ours."""
    if record.point == "llm":
        return case.expected_hidden("bare", record.input, "model", int(record.example))  # type: ignore[arg-type]
    name, skip = case.tensors[record.point]
    suffix = case.layouts["model"][0]
    rows: NDArray[Any] = case.golden[f"{name}{suffix}"][int(record.example), skip:]
    return rows


def entropy_or_nan(states: NDArray[Any]) -> float:
    return reference.entropy(states) if len(states) > 1 else float("nan")


def same(a: Sequence[float] | NDArray[Any], b: Sequence[float], **tolerance: float) -> bool:
    return bool(a == pytest.approx(b, nan_ok=True, **tolerance))


@every_case
def test_every_number_follows_from_the_golden_states(case: Case) -> None:
    for record in align(case.adapter, examples(), convention=EVERYTHING).records:
        h = golden_states(case, record)
        where = f"0/{record.example}/{record.point}/{record.input}"
        order = [random.Random(f"{where}/{i}").sample(range(len(h)), len(h)) for i in range(3)]
        assert record.matched is not None and record.curve is not None and record.mean_state is not None
        assert same(record.matched, [reference.entropy(h[rows[:12]]) for rows in order], rel=1e-4)
        curve = [
            float(np.mean([reference.entropy(h[rows[:n]]) for rows in order])) if n <= len(h) else float("nan")
            for n in CURVE
        ]
        assert same(record.curve, curve, rel=1e-4)

        first_image = 0 if record.point != "llm" else 1  # BOS stands before
        images = 0 if record.input == "text" else len(h) - first_image
        if record.input == "pair":
            images = case.adapter.image_tokens
        image, text = h[first_image:][:images], h[first_image:][images:]
        assert same(
            [record.entropy_image, record.entropy_text, record.entropy_modality],
            [entropy_or_nan(image), entropy_or_nan(text), reference.entropy(h[first_image:])],
            rel=1e-4,
        )
        assert record.mean_state == pytest.approx(h[first_image:].mean(axis=0, dtype=np.float64), abs=1e-4)

        strongest = int(np.linalg.norm(h - h.mean(axis=0, dtype=np.float64), axis=1).argmax())
        assert record.strongest_row == strongest
        without = [reference.entropy(np.delete(h, i, axis=0)) for i in (strongest, record.decisive_row)]
        assert same([record.entropy_without_strongest, record.entropy_without_decisive], without, rel=1e-4)
        if record.example != "0":  # a covariance for each row is slow
            continue
        whole, *without_each = (
            -np.log((reference.covariance(rows) ** 2).sum())
            for rows in (h, *(np.delete(h, i, axis=0) for i in range(len(h))))
        )
        collision = np.abs(np.array(without_each) - whole)
        assert collision[record.decisive_row] == pytest.approx(collision.max(), rel=1e-3)


@every_case
def test_rows_are_named(case: Case) -> None:
    (example, *_) = examples()
    for record in align(case.adapter, [example], convention=Convention(rows=True)).records:
        sequence = case.adapter.sequence(example, record.input, "bare")  # type: ignore[arg-type]
        for row, name in (
            (record.strongest_row, record.strongest_token),
            (record.decisive_row, record.decisive_token),
        ):
            if record.point != "llm":
                assert name == f"image row {row}"
            elif row == 0:
                assert name == "bos '<s>'"
            elif 1 <= row <= case.adapter.image_tokens and record.input != "text":
                assert name == f"image row {row - 1}"
            else:
                assert name == f"text {case.adapter.tokenizer.decode([sequence.ids[row]])!r}"


def test_a_massive_token_is_found_and_named() -> None:
    """One position of the LLM's states, blown up: it alone decides, and without it the entropy is as before."""
    norm = LLAVA.adapter.points["llm"].module
    assert isinstance(norm, str)

    def blow_up(module: Any, args: Any, output: Any) -> Any:
        output = output.clone()
        output[:, 5] *= 1000
        return output

    handle = LLAVA.adapter.model.get_submodule(norm).register_forward_hook(blow_up)
    try:
        records = align(LLAVA.adapter, examples(), convention=Convention(rows=True)).records
    finally:
        handle.remove()
    for record in records:
        if record.point == "llm":
            assert record.strongest_row == record.decisive_row == 5
            if record.input != "text":
                assert record.strongest_token == "image row 4"
            h = np.delete(golden_states(LLAVA, record), 5, axis=0)
            assert record.entropy < 0.2 < 2 < record.entropy_without_strongest
            assert record.entropy_without_strongest == pytest.approx(reference.entropy(h), rel=1e-4)


def drawn(result: Any) -> dict[tuple[str, str, str], list[float]]:
    found = defaultdict(list)
    for r in result.records:
        numbers = [*r.matched, *r.curve, r.entropy_image, r.entropy_text, r.entropy_without_strongest]
        found[r.example, r.point, r.input] = [*numbers, r.strongest_row]
    return found


@every_case
def test_batching_order_and_shared_prefix_change_nothing(case: Case) -> None:
    pairs = examples() + [Example(f"more {e.id}", e.image, "", e.response * 2) for e in examples()]
    alone = drawn(align(case.adapter, pairs, convention=EVERYTHING, batch_tokens=0))
    shuffled = random.Random(0).sample(pairs, len(pairs))
    for entries, options in (
        (shuffled, {"batch_tokens": 10_000}),
        (pairs, {"batch_tokens": 0, "share_prefix": False}),
        (shuffled[:4], {"batch_tokens": 500}),
    ):
        other = drawn(align(case.adapter, entries, convention=EVERYTHING, **options))  # type: ignore[arg-type]
        for key, numbers in other.items():
            assert numbers == pytest.approx(alone[key], abs=1e-5, nan_ok=True)


def test_nothing_is_asked_for_by_default_and_asking_changes_no_erank() -> None:
    plain, asked = (align(LLAVA.adapter, examples(), convention=c).records for c in (Convention(), EVERYTHING))
    assert [r.entropy for r in plain] == [r.entropy for r in asked]
    for record in plain:
        assert record.matched is None and record.curve is None and record.mean_state is None
        assert np.isnan([record.entropy_image, record.entropy_without_strongest]).all() and record.strongest_row == -1


def test_only_rows_that_count_are_drawn() -> None:
    """Under `modality` the BOS is no row of the covariance."""
    convention = Convention(tokens="modality", match_tokens=36, match_repeats=1, rows=True)
    for record in align(LLAVA.adapter, examples(), convention=convention).records:
        assert record.matched is not None
        if record.input == "image":
            assert record.matched == pytest.approx([record.entropy], rel=1e-9)  # all 36 of them
        assert record.entropy_modality == pytest.approx(record.entropy, rel=1e-9)
        assert not record.strongest_token.startswith("bos")


def test_draws_are_nested_permutations_and_differ_by_key() -> None:
    assert sorted(orders("0/a/llm/text/0", 50)) == list(range(50))
    assert len({tuple(orders(f"{seed}/a/llm/text/{i}", 50)) for seed in range(5) for i in range(5)}) == 25
    assert orders("a", 50) == orders("a", 50)


def test_another_seed_draws_other_rows() -> None:
    a, b = (
        align(LLAVA.adapter, examples(), convention=Convention(match_tokens=12, match_seed=seed)).records
        for seed in (0, 1)
    )
    for first, second in zip(a, b, strict=True):
        assert first.matched is not None and second.matched is not None
        assert first.entropy == second.entropy and not np.array_equal(first.matched, second.matched)


def test_more_rows_than_a_picture_has_is_refused_before_the_run() -> None:
    with pytest.raises(
        UsageError, match="37 rows cannot be drawn to match, a picture has only 36 behind the connector"
    ):
        align(LLAVA.adapter, examples(), convention=Convention(match_tokens=37))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"match_tokens": 2}, "match_tokens must be at least 3, got 2: two centred rows"),
        ({"token_curve": (2, 8)}, "token_curve must be at least 3, got 2"),
        ({"token_curve": (8, 4)}, "token_curve must ascend, got 8, 4"),
        ({"token_curve": (8, 8)}, "token_curve must ascend, got 8, 8"),
        ({"match_tokens": 8, "match_repeats": 0}, "match_repeats must be at least 1, got 0"),
    ],
)
def test_choices_are_checked(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Convention(**choice)


def test_what_is_not_asked_for_is_not_in_the_convention() -> None:
    """A run of before these choices has the same convention, and so can be continued."""
    names = {"sequence", "image_layout", "tokens", "vision_point", "centre", "precision", "aggregate"}
    assert set(Convention().to_dict()) == names == set(Convention(match_repeats=9).to_dict())
    assert set(Convention(rows=True).to_dict()) == names | {"rows"}
    asked = Convention(token_curve=(4, 8)).to_dict()
    assert asked["token_curve"] == [4, 8] and asked["match_repeats"] == 8 and asked["match_seed"] == 0


def test_transforms_and_controls_are_studied_on_the_same_rows() -> None:
    result = perturb(
        LLAVA.adapter,
        examples(),
        ["identity", "rotate:90"],
        controls=["mismatch", "independent"],
        control_draws=1,
        convention=EVERYTHING,
    )
    base = {(r.example, r.point, r.input): r for r in result.base.records}
    alone = {
        (r.example, r.point, r.input): r for r in align(LLAVA.adapter, examples(), convention=EVERYTHING).records
    }
    identity, rotated = (changed.result for changed in result.transforms)
    assert identity.matched == result.base.matched and identity.rows == result.base.rows
    assert result.base.matched is not None and rotated.matched is not None
    assert rotated.matched["erank4"] == result.base.matched["erank4"]
    assert rotated.matched["erank1"] != result.base.matched["erank1"]
    assert result.to_dict()["transforms"][1]["matched"] == rotated.matched
    for key, r in base.items():
        assert r.matched == pytest.approx(alone[key].matched, abs=1e-5)
    for r in result.records:
        if r.transform.startswith("independent"):  # another example's text behind this one's image rows
            image = base[r.example, "llm", "image"]
            assert r.entropy_image == pytest.approx(image.entropy_image, abs=1e-6)
            others = [base[k].entropy_text for k in base if k[1:] == ("llm", "text") and k[0] != r.example]
            assert any(r.entropy_text == pytest.approx(other, abs=1e-6) for other in others)
            assert r.matched is not None and r.mean_state is not None
