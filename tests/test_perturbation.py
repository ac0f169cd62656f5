from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmerank import Bootstrap, Convention, Example, Perturbation, align, capture, compare, load_data, perturb
from mmerank.analysis.results.alignment import AlignmentResult
from mmerank.errors import DataError, RunFolderError, UsageError
from mmerank.inputs.sequence import Role
from mmerank.inputs.transforms.transform import parse
from mmerank.inputs.variants import asked_for, derangement, null_pairs, variant
from mmerank.jobs.perturb import _checks
from tests.adapters.cases import LLAVA, MINIGPT_V2, Case
from tests.reference import entropy

CASES = [LLAVA, MINIGPT_V2]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
ERANKS = [f"erank{i}" for i in range(1, 6)]
# One of each kind: pixels moved, filtered, random, another example's, text, and both at once.
TRANSFORMS = ["identity", "rotate:90", "rotate:20", "blur:1,3", "noise:30", "shuffle:3", "blank", "other",
              "shuffle-words", "other-text", "grey+other-text", "rotate:90+shuffle-words"]  # fmt: skip
SIZES = [(60, 40), (30, 50), (44, 44), (70, 30), (25, 64)]
TEXTS = [
    ("What is shown?", "Noise in many colours, wide and not very high."),
    ("Describe it.", "A picture that is higher than it is wide, of nothing one could name, in all colours."),
    ("", "A square."),
    ("What?", "Something long and thin lies across the whole of the picture from left to right."),
    ("Tell me what stands there.", "A tower of coloured dots stands there."),
]


def smooth(size: tuple[int, int], seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def examples() -> list[Example]:
    pairs = enumerate(zip(SIZES, TEXTS, strict=True))
    return [Example(f"e{i}", smooth(size, i), *text) for i, (size, text) in pairs]


def eranks(result: AlignmentResult) -> list[float]:
    return [getattr(result, name) for name in ERANKS]


def by_name(result: Perturbation) -> dict[str, AlignmentResult]:
    return {perturbed.transform: perturbed.result for perturbed in result.transforms}


@every_case
def test_rotation_equals_rotated_files(case: Case, tmp_path: Path) -> None:
    """The whole way round: files turned beforehand by Pillow, and measured by align."""
    for name, turn in (("before", None), ("after", Image.Transpose.ROTATE_270)):
        records = []
        for example in examples():
            assert isinstance(example.image, Image.Image)
            folder = tmp_path / name / "images"
            folder.mkdir(parents=True, exist_ok=True)
            picture = example.image if turn is None else example.image.transpose(turn)
            picture.save(folder / f"{example.id}.png")
            turns = [{"from": "human", "value": f"<image>\n{example.instruction}"},
                     {"from": "gpt", "value": example.response}]  # fmt: skip
            records.append({"id": example.id, "image": f"{example.id}.png", "conversations": turns})
        (tmp_path / name / "data.json").write_text(json.dumps(records))
    result = perturb(case.adapter, load_data(f"llava:{tmp_path}/before/data.json"), ["rotate:90"])
    before, after = (align(case.adapter, load_data(f"llava:{tmp_path}/{x}/data.json")) for x in ("before", "after"))
    (rotated,) = result.transforms
    for name in (*ERANKS, "image_reduction_ratio", "image_text_alignment"):
        assert getattr(result.base, name) == pytest.approx(getattr(before, name), rel=1e-6)
        assert getattr(rotated.result, name) == pytest.approx(getattr(after, name), rel=1e-6)
        difference = getattr(after, name) - getattr(before, name)
        assert rotated.delta[name] == pytest.approx(difference, abs=1e-5)
    assert rotated.delta["erank4"] == 0 and abs(rotated.delta["erank1"]) > 1e-3


@every_case
@pytest.mark.parametrize("form", ["bare", "template"])
def test_every_transform_equals_a_fresh_run_on_changed_examples(case: Case, form: Any) -> None:
    convention = Convention(sequence=form)
    result = perturb(case.adapter, examples(), TRANSFORMS, convention=convention, seed=3)
    assert eranks(result.base) == eranks(align(case.adapter, examples(), convention=convention))
    assert list(by_name(result)) == [t.name for text in TRANSFORMS for t in parse(text)]
    for name, measured in by_name(result).items():
        (transform,) = parse(name)
        made = variant(transform, examples(), seed=3)
        changed = [made.text.of(made.image.of(example)) for example in examples()]
        fresh = align(case.adapter, changed, convention=convention, share_prefix=False)
        assert eranks(measured) == pytest.approx(eranks(fresh), rel=1e-6), name
        entropies = [[r.entropy for r in of.records] for of in (measured, fresh)]
        assert entropies[0] == pytest.approx(entropies[1], abs=2e-6), name
        assert {r.transform for r in measured.records} == {name} and measured.n == 5
    assert result.checks.examples == 5 and result.checks.text == 0 and result.checks.reuse < 1e-5


@every_case
@pytest.mark.parametrize("batch_tokens", [0, 150, 10_000])
def test_identity_changes_nothing_at_all(case: Case, batch_tokens: int) -> None:
    result = perturb(case.adapter, examples(), ["identity", "grey"], batch_tokens=batch_tokens)
    identity, grey = result.transforms
    assert set(identity.delta.values()) == {0.0} and result.checks.identity == 0
    assert [r.entropy for r in identity.result.records] == [r.entropy for r in result.base.records]
    assert grey.delta["erank1"] != 0 != grey.delta["erank5"]


@every_case
def test_batches_order_and_prefix_change_nothing(case: Case) -> None:
    options: dict[str, Any] = {"controls": ["mismatch", "independent"], "control_draws": 2}
    alone = perturb(case.adapter, examples(), TRANSFORMS, batch_tokens=0, **options)
    shuffled = random.Random(1).sample(examples(), len(examples()))
    for other in (
        perturb(case.adapter, shuffled, TRANSFORMS, batch_tokens=10_000, **options),
        perturb(case.adapter, shuffled, TRANSFORMS, batch_tokens=200, share_prefix=False, **options),
    ):
        keys = [[(r.transform, r.example, r.point, r.input) for r in result.records] for result in (alone, other)]
        assert keys[0] == keys[1]
        entropies = [[r.entropy for r in result.records] for result in (alone, other)]
        assert entropies[0] == pytest.approx(entropies[1], abs=2e-6)


def test_passes_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Per example: a text pass per text, an encoder pass per picture, a pair pass per pair, and no image pass."""
    adapter = LLAVA.adapter
    passes: Counter[str] = Counter()
    decode, encode = type(adapter).decode, type(adapter).encode_images

    def count_decode(self: Any, sequences: Any, images: Any) -> None:
        passes["text" if images is None else "image"] += len(sequences)
        decode(self, sequences, images)

    def count_encode(self: Any, pixels: Any, vision_point: str) -> Any:
        passes["encoder"] += len(pixels)
        return encode(self, pixels, vision_point)

    monkeypatch.setattr(type(adapter), "decode", count_decode)
    monkeypatch.setattr(type(adapter), "encode_images", count_encode)
    monkeypatch.setattr("mmerank.jobs.perturb.CHECKED", 0)
    monkeypatch.setattr("mmerank.jobs.perturb._checked", lambda *_: None)
    perturb(adapter, examples(), ["rotate:90", "blur:1,2", "shuffle-words"], controls=["mismatch"], control_draws=3)
    n, verification = len(examples()), 1
    assert passes == {"text": 2 * n, "encoder": 4 * n, "image": (1 + 3 + 1 + 3) * n + verification}


def test_checking_itself_costs_little_on_small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight transforms on two pairs: 2 text and 18 pair passes; nine runs of `align` would take 18 and 18."""
    adapter = LLAVA.adapter
    decode, passes = type(adapter).decode, Counter[str]()

    def count(self: Any, *arguments: Any) -> None:
        passes["decode"] += len(arguments[0])
        decode(self, *arguments)

    monkeypatch.setattr(type(adapter), "decode", count)
    eight = ["identity", "rotate:90", "blur:1,2", "noise:30", "grey", "blank", "shuffle:3"]
    result = perturb(adapter, examples()[:2], eight)
    assert len(result.transforms) == 8 and result.checks.examples == 2
    measured, again, verifications = 20, 2 * 2, 2
    assert passes["decode"] == measured + again + verifications


@pytest.mark.parametrize(
    ("examples", "transforms", "count"),
    [(1, 1, 1), (2, 8, 2), (3, 1, 1), (64, 8, 8), (64, 2, 8), (500, 40, 40), (0, 3, 0)],
)
def test_how_many_are_measured_again(examples: int, transforms: int, count: int) -> None:
    """An eighth of all that was measured, at least one; at most one of each transform, or eight."""
    assert _checks(examples, min(examples, 8), transforms) == count


def test_a_model_that_looks_ahead_gets_passes_of_its_own() -> None:
    adapter = LLAVA.adapter

    def look_ahead(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        embeddings = kwargs["inputs_embeds"]
        return args, {**kwargs, "inputs_embeds": embeddings + embeddings.mean(dim=1, keepdim=True)}

    norm = adapter.points["llm"].module
    assert isinstance(norm, str)
    decoder = adapter.model.get_submodule(norm.rpartition(".")[0])
    handle = decoder.register_forward_pre_hook(look_ahead, with_kwargs=True)
    transforms, options = ["rotate:90", "other-text"], {"controls": ["independent"], "control_draws": 1}
    try:
        separate = perturb(adapter, examples(), transforms, share_prefix=False, **options)  # type: ignore[call-overload]
        with pytest.warns(UserWarning, match="depend on the text behind it"):
            found = perturb(adapter, examples(), transforms, **options)  # type: ignore[call-overload]
    finally:
        handle.remove()
    assert [r.entropy for r in found.records] == pytest.approx([r.entropy for r in separate.records], abs=1e-9)


@every_case
def test_mismatch_is_a_run_on_other_pairs(case: Case) -> None:
    result = perturb(case.adapter, examples(), controls=["mismatch"], control_draws=3, seed=7)
    (null,) = result.controls
    texts = {example.id: example for example in examples()}
    for draw in range(3):
        partners = derangement(texts, 7, "partner", draw)
        others = [
            replace(e, instruction=texts[partners[e.id]].instruction, response=texts[partners[e.id]].response)
            for e in examples()
        ]
        expected = align(case.adapter, others)
        assert null.draws["erank5"][draw] == pytest.approx(expected.erank5, rel=1e-6)
        assert null.draws["image_text_alignment"][draw] == pytest.approx(expected.image_text_alignment, rel=1e-6)
        assert expected.erank4 == pytest.approx(result.base.erank4, rel=1e-6)
    assert len(set(null.draws["erank5"])) > 1 and result.base.erank5 not in null.draws["erank5"]


@every_case
@pytest.mark.parametrize("tokens", ["all", "modality"])
def test_independent_stacks_rows_of_two_passes(case: Case, tokens: Any) -> None:
    """Against passes fed by hand, and the definition in float64 numpy."""
    adapter, convention = case.adapter, Convention(tokens=tokens)
    result = perturb(adapter, examples(), controls=["independent"], control_draws=2, convention=convention, seed=5)

    def states(example: Example, kind: Any, roles: Sequence[Role]) -> Any:
        sequence = adapter.sequence(example, kind, "bare")
        assert isinstance(example.image, Image.Image)
        with torch.inference_mode(), capture(adapter.model, {"llm": adapter.points["llm"]}) as seen:
            images = adapter.encode_images([adapter.pixels(example.image, "model")]) if kind == "image" else None
            adapter.decode([sequence], images)
        return seen["llm"][0].numpy()[[role in roles for role in sequence.roles]]

    with_bos = [Role.BOS, Role.IMAGE] if tokens == "all" else [Role.IMAGE]
    (null,) = result.controls
    texts = {example.id: example for example in examples()}
    for draw in range(2):
        partners = derangement(texts, 5, "partner", draw)
        entropies = []
        for example in examples():
            rows = [states(example, "image", with_bos), states(texts[partners[example.id]], "text", [Role.TEXT])]
            entropies.append(entropy(np.concatenate(rows)))
        assert null.draws["erank5"][draw] == pytest.approx(np.exp(np.mean(entropies)), rel=1e-5)
    counts = {r.example: r.n for r in result.records if r.transform == "independent/0"}
    mismatched = perturb(adapter, examples(), controls=["mismatch"], control_draws=1, convention=convention, seed=5)
    assert counts == {r.example: r.n for r in mismatched.records if r.transform == "mismatch/0"}


def test_controls_pair_the_same_examples() -> None:
    kinds: list[Any] = ["mismatch", "independent"]
    pairs = null_pairs(kinds, 2, examples())
    assert [pair.name for pair in pairs] == ["mismatch/0", "independent/0", "mismatch/1", "independent/1"]
    for example in examples():
        texts = [pair.text.of(example).response for pair in pairs]
        assert texts[0] == texts[1] and texts[2] == texts[3] and example.response not in texts


def test_examples_stand_everywhere_or_nowhere(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = Example("bad", tmp_path / "bad.png", "What?", "No picture.")
    tiny = Example("tiny", Image.new("RGB", (9, 9)), "What?", "A small one.")
    empty = Example("empty", Image.new("RGB", (9, 9)), "", "")
    pairs = [bad, *examples(), tiny, empty]
    result = perturb(
        LLAVA.adapter, pairs, ["grey", "shuffle:12", "shuffle-words"], controls=["mismatch"], control_draws=1
    )
    assert {entry.id: entry.reason for entry in result.base.skipped} == {
        "bad": "bad.png: not an image in a format that is read: JPEG, PNG, WEBP, GIF, TIFF, BMP, PPM",
        "tiny": "shuffle:12: 9 x 9 px cannot be cut into 12 x 12 patches",
        "empty": "the text is empty",
    }
    ids = {example.id for example in examples()}
    for of in (result.base, *by_name(result).values()):
        assert of.n == 5 and {r.example for r in of.records} == ids and of.skipped == result.base.skipped
    assert {r.example for r in result.records if r.transform == "mismatch/0"} == ids
    assert eranks(result.base) == pytest.approx(eranks(align(LLAVA.adapter, examples())), rel=1e-9)
    with pytest.raises(DataError, match="'tiny': shuffle:12: .*strict"):
        perturb(LLAVA.adapter, pairs[1:-1], ["shuffle:12"], strict=True)
    # In one batch with the others it takes nothing from them.
    together = perturb(LLAVA.adapter, [*examples(), tiny], ["shuffle:12"], batch_tokens=10_000)
    assert together.base.n == 5
    assert eranks(by_name(together)["shuffle:12"]) == pytest.approx(eranks(by_name(result)["shuffle:12"]), rel=1e-6)


def test_an_unreadable_picture_of_another_is_named(tmp_path: Path) -> None:
    gone = Example("gone", tmp_path / "gone.png", "What?", "No picture.")
    result = perturb(LLAVA.adapter, [gone, *examples()], ["other"])
    (one,) = [entry for entry in result.base.skipped if entry.id != "gone"]
    assert one.reason == f"other: the picture of example 'gone': gone.png: no such file in {tmp_path}"
    assert result.base.n == 4


def test_degenerate_states_under_one_transform_skip_the_example() -> None:
    """A connector that maps a plain picture to one vector: the picture itself can be measured, blank cannot."""
    connector = LLAVA.adapter.model.get_submodule("model.multi_modal_projector")
    calls = iter(range(100))

    def flatten_every_second(module: Any, args: Any, output: Any) -> Any:
        return output[:, :1].expand_as(output) if next(calls) % 2 else output

    handle = connector.register_forward_hook(flatten_every_second)
    try:
        with pytest.raises(DataError, match="blank: hook point 'connector', image input: all 36 tokens are equal"):
            perturb(LLAVA.adapter, examples()[:2], ["blank"])
    finally:
        handle.remove()


def test_pictures_stand_upright_before_they_are_transformed(tmp_path: Path) -> None:
    upright = smooth((60, 30), 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise for display
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif)
    texts: dict[str, Any] = {"instruction": "What?", "response": "Colours, wide and low."}
    transforms = ["rotate:90", "crop:0.5", "flip:horizontal"]
    lying = perturb(LLAVA.adapter, [Example("x", tmp_path / "lying.png", **texts)], transforms)
    plain = perturb(LLAVA.adapter, [Example("x", upright, **texts)], transforms)
    assert [r.entropy for r in lying.records] == [r.entropy for r in plain.records]
    assert lying.transforms[0].delta["erank1"] != 0


class Interrupted(Exception):
    pass


def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = MINIGPT_V2.adapter
    options: dict[str, Any] = {"controls": ["mismatch"], "control_draws": 2, "out": tmp_path / "run", "seed": 1}
    whole = perturb(adapter, examples(), TRANSFORMS, **{**options, "out": None})
    pixels, calls = adapter.pixels, iter(range(10_000))

    def fail(*arguments: Any) -> Any:
        if next(calls) == 30:
            raise Interrupted
        return pixels(*arguments)

    monkeypatch.setattr(adapter, "pixels", fail)
    with pytest.raises(Interrupted):
        perturb(adapter, examples(), TRANSFORMS, **options)
    assert not (tmp_path / "run" / "summary.json").exists() and list((tmp_path / "run" / "records").iterdir())
    before = next(calls)
    monkeypatch.setattr("mmerank.jobs.perturb.CHECKED", 1)
    resumed = perturb(adapter, examples(), TRANSFORMS, **options)
    assert [r.entropy for r in resumed.records] == [r.entropy for r in whole.records]
    assert {**resumed.to_dict(), "checks": 0} == {**whole.to_dict(), "checks": 0}
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == resumed.to_dict()
    assert next(calls) - before < 5 * 10 + 20, "finished examples are not measured again"
    for changed, words in (
        ({"seed": 2}, "data.seed: 1 there, 2 here"),
        ({"control_draws": 3}, "control_draws"),
        ({"controls": []}, "controls"),
    ):
        with pytest.raises(RunFolderError, match=words):
            perturb(adapter, examples(), TRANSFORMS, **{**options, **changed})
    with pytest.raises(RunFolderError, match="transforms"):
        perturb(adapter, examples(), ["grey"], **options)


def test_a_text_is_cut_by_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = LLAVA.adapter
    longest = max(len(adapter.sequence(e, "pair", "bare")) for e in examples())
    monkeypatch.setattr(adapter, "max_tokens", longest - 3)
    result = perturb(adapter, examples(), ["grey", "other-text"])
    cut = {name: sorted(r.text_cut for r in of.records if r.input == "pair") for name, of in by_name(result).items()}
    assert cut["grey"] == cut["other-text"] == [0, 0, 1, 2, 3] and result.base.text_cut == 3
    where = {
        name: {r.example: r.text_cut for r in of.records if r.input == "text"} for name, of in by_name(result).items()
    }
    partners = derangement([example.id for example in examples()], 0, "other-text")
    assert where["other-text"] == {name: where["grey"][partners[name]] for name in partners}


def test_result_as_table_json_and_text() -> None:
    result = perturb(
        LLAVA.adapter, iter(examples()), ["rotate:90", "blur:1,2"], controls=["independent"], control_draws=2
    )
    printed = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [t["transform"] for t in printed["transforms"]] == ["rotate:90", "blur:1", "blur:2"]
    for t in printed["transforms"]:
        assert set(printed["base"]) | {"transform", "delta", "tests"} == set(t)
        assert t["delta"] == {name: t[name] - printed["base"][name] for name in t["delta"]} and len(t["delta"]) == 7
        (tests,) = [found for name, found in result.tests.items() if name == t["transform"]]
        assert t["tests"] == json.loads(json.dumps(tests.to_dict())) and t["tests"]["fixed"] == ["erank4"]
        for d in t["tests"]["differences"]:
            assert d["difference"] == pytest.approx(t["delta"][d["quantity"]], abs=1e-12)
            assert (d["q"] is None) == (d["quantity"] == "erank4") and t["tests"]["tests"] == 3 * 6
    frame = result.tests_to_pandas()
    assert len(frame) == 3 * 7 and frame["fixed"].sum() == 3
    (control,) = printed["controls"]
    assert control["control"] == "independent" and len(control["erank5"]["null"]) == control["draws"] == 2
    assert control["erank5"]["value"] == pytest.approx(printed["base"]["erank5"], rel=1e-12)
    assert printed["checks"]["identity_difference"] is None and printed["seed"] == 0
    frame = result.to_pandas()
    assert frame.groupby("transform").size().to_dict() == {
        "none": 25, "rotate:90": 25, "blur:1": 25, "blur:2": 25, "independent/0": 5, "independent/1": 5
    }  # fmt: skip
    text = str(result)
    assert "rotate:90" in text and "n = 5 of 5 examples" in text and "independent" in text
    assert f"{result.base.erank5:.2f}" in text and f"{result.transforms[0].delta['erank1']:+.2f}" in text


def test_tests_are_those_of_two_alignments() -> None:
    result = perturb(LLAVA.adapter, examples(), ["identity", "rotate:90"])
    identity, rotated = (compare(changed.result, result.base) for changed in result.transforms)
    assert compare(result.transforms[1], result.base).to_dict() == rotated.to_dict()
    with pytest.raises(TypeError, match="one of the transforms of mmerank.perturb, .* got Perturbation"):
        compare(result, result.base)  # type: ignore[arg-type]
    for name, alone in (("identity", identity), ("rotate:90", rotated)):
        for found, expected in zip(result.tests[name].differences, alone.differences, strict=True):
            assert replace(found, q=0) == replace(expected, q=0) or np.isnan(found.d_z)
    for found in result.tests["identity"].differences:
        assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
    again = replace(result, bootstrap=Bootstrap(level=0.5))
    one, other = (of.tests["rotate:90"]["erank1"] for of in (result, again))
    assert one.low < other.low < other.high < one.high and one.p == other.p


def test_dealing_out_anew_moves_only_what_sees_pairs() -> None:
    result = perturb(LLAVA.adapter, examples(), ["other", "other-text"])
    for changed in result.transforms:
        tests = result.tests[changed.transform]
        assert set(tests.fixed) == {*ERANKS[:4], "image_reduction_ratio"} and tests.tests == 4
        assert all(abs(changed.delta[name]) < 1e-5 for name in tests.fixed)
        assert abs(changed.delta["erank5"]) > 1e-3


def test_matched_differences() -> None:
    plain = perturb(LLAVA.adapter, examples(), ["rotate:90"]).transforms[0]
    assert plain.delta_matched is None and "delta_matched" not in plain.to_dict()
    result = perturb(
        LLAVA.adapter, examples(), ["rotate:90", "other-text"], convention=Convention(match_tokens=8, match_repeats=2)
    )
    rotated, swapped = result.transforms
    base, after, found = result.base.matched, rotated.result.matched, rotated.delta_matched
    assert base is not None and after is not None and found is not None
    assert base["n"] == after["n"] == found["n"] == 4  # one text is shorter than 8 tokens
    for name in rotated.delta:
        assert found[name] == pytest.approx(after[name] - base[name], abs=1e-12)
    assert rotated.to_dict()["delta_matched"] == found
    # Now another picture has the short text: neither example has enough rows before and after.
    assert swapped.result.matched is not None and swapped.result.matched["n"] == 4
    assert swapped.delta_matched is not None and swapped.delta_matched["n"] == 3
    assert "Differences on 8 rows each" in str(result)
    # Intervals and tests are over the same examples.
    for changed, tests in zip(result.transforms, result.to_dict()["transforms"], strict=True):
        matched = result.tests_matched[changed.transform]
        assert tests["tests_matched"] == matched.to_dict() and matched.matched
        assert changed.delta_matched is not None and matched.n == changed.delta_matched["n"]
        for difference in matched.differences:
            assert difference.difference == pytest.approx(changed.delta_matched[difference.quantity], abs=1e-12)
            assert difference.low - 1e-12 <= difference.difference <= difference.high + 1e-12
    assert "Intervals and tests of the differences, on 8 rows each" in str(result)


def test_seed_and_limit() -> None:
    noise = [perturb(LLAVA.adapter, examples(), ["noise:30"], seed=seed) for seed in (None, 0, 1)]
    assert noise[0].transforms[0].delta == noise[1].transforms[0].delta != noise[2].transforms[0].delta
    assert eranks(noise[0].base) == eranks(noise[2].base) and noise[2].base.seed is None
    drawn = perturb(LLAVA.adapter, examples(), ["grey"], limit=2, seed=4)
    same = align(LLAVA.adapter, examples(), limit=2, seed=4)
    assert eranks(drawn.base) == eranks(same) and drawn.base.seed == 4


def stream() -> Iterator[Example]:
    yield from examples()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "expected a transform or a control, got none; known transforms: identity, rotate:DEGREES"),
        ({"transforms": ["turn"]}, "unknown transform 'turn'"),
        ({"controls": ["random"]}, "unknown control 'random'; known: mismatch, independent"),
        ({"controls": ["mismatch"], "control_draws": 0}, "control_draws must be at least 1"),
        ({"transforms": ["other"], "limit": 1}, "needs at least 2 examples, got 1"),
        ({"transforms": ["grey"], "limit": 0}, "limit must be at least 1"),
    ],
)
def test_wrong_usage(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        perturb(LLAVA.adapter, stream(), **arguments)


@pytest.mark.parametrize(
    ("asked", "measured"),
    [
        (["rotate:0,90,180,270,360"], ["rotate:0", "rotate:90", "rotate:180", "rotate:270"]),
        (["rotate:-90", "rotate:270"], ["rotate:270"]),
        (["blur:1,2", "blur:2,4"], ["blur:1", "blur:2", "blur:4"]),
        (["brightness:1,1.0,1e0"], ["brightness:1"]),
        (["noise:0,-0"], ["noise:0"]),
        (["rotate:-1e-20,0"], ["rotate:0"]),
        (["rotate:360+blur:2", "rotate:0+blur:2.0"], ["rotate:0+blur:2"]),
    ],
)
def test_what_means_the_same_is_measured_once(asked: list[str], measured: list[str]) -> None:
    with pytest.warns(UserWarning, match=r"transform '.*' is asked for more than once.*it is measured once"):
        transforms, _ = asked_for(asked, (), 1)
    assert [transform.name for transform in transforms] == measured


def test_a_sweep_through_a_whole_turn_and_transforms_of_no_strength() -> None:
    nothing = [
        "rotate:0",
        "blur:0",
        "noise:0",
        "brightness:1",
        "contrast:1",
        "zoom:1",
        "crop:1",
        "occlude:0",
        "shuffle:1",
    ]
    with pytest.warns(UserWarning, match="'rotate:0' is asked for more than once"):
        result = perturb(LLAVA.adapter, examples(), ["identity", "rotate:0,90,180,270,360", *nothing[1:]])
    after = {perturbed.transform: perturbed for perturbed in result.transforms}
    assert list(after) == ["identity", "rotate:0", "rotate:90", "rotate:180", "rotate:270", *nothing[1:]]
    for name in nothing:
        assert set(after[name].delta.values()) == {0.0}
    assert after["rotate:90"].delta["erank1"] != 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"transforms": [("rotate", 90)]}, r"got \('rotate', 90\) .tuple."),
        ({"transforms": [90]}, r"got 90 .int."),
        (
            {"transforms": str.upper},
            r"transforms: expected a list of names, as \['rotate:90'\], got method_descriptor",
        ),
        ({"transforms": None}, "transforms: expected a list of names"),
        ({"controls": "mismatch"}, r"controls: expected a list, got the text 'mismatch'; write \['mismatch'\]"),
        ({"controls": [None, 1]}, "controls: expected names, as 'mismatch'"),
    ],
)
def test_transforms_and_controls_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        perturb(LLAVA.adapter, examples(), **arguments)


def test_a_single_transform_is_a_list_of_one() -> None:
    with pytest.raises(TypeError, match=r"write \['rotate:90'\]"):
        perturb(LLAVA.adapter, examples(), "rotate:90")


def test_a_finished_run_needs_its_pictures_no_more(tmp_path: Path) -> None:
    pairs = []
    for example in examples()[:2]:
        assert isinstance(example.image, Image.Image)
        example.image.save(tmp_path / f"{example.id}.png")
        pairs.append(replace(example, image=tmp_path / f"{example.id}.png"))
    first = perturb(LLAVA.adapter, pairs, ["grey"], out=tmp_path / "run")
    for example in pairs:
        assert isinstance(example.image, Path)
        example.image.unlink()
    again = perturb(LLAVA.adapter, pairs, ["grey"], out=tmp_path / "run")
    assert again.transforms[0].delta == first.transforms[0].delta
    assert first.checks.examples == 1 and again.checks.examples == 0
