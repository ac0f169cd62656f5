"""`match_margin` against plain forwards of transformers, and that its other pictures follow from the data alone."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mmerank
from mmerank import Convention, Example, align, compare, perturb
from mmerank.errors import DataError, ModelError, RunFolderError, SourceError, UsageError
from mmerank.formulas.likelihood import match_margin
from mmerank.inputs.example import DataStream, Skipped
from mmerank.inputs.others import Others
from mmerank.inputs.pictures import open_pictures
from mmerank.models.adapter import Adapter
from mmerank.report.write import report
from mmerank.runs.record import VALUE
from tests.adapters import tiny_models
from tests.adapters.cases import LLAVA, examples
from tests.test_cli import failure, run
from tests.test_processes import shared_by

NAME = "match_margin"
COLUMN = f"{VALUE}{NAME}"


def picture(seed: int, size: tuple[int, int] = (56, 56)) -> Image.Image:
    """Blocks of colour, so that pictures differ in what any encoder sees."""
    blocks = np.random.default_rng(seed).integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def pairs(count: int = 7) -> list[Example]:
    words = ("a red one", "two", "nothing at all here", "blue, green and blue", "left of it", "so", "yes, of course")
    return [
        Example(f"e{i}", picture(i, ((56, 56), (84, 56), (56, 112))[i % 3]), "What is it?", words[i % len(words)])
        for i in range(count)
    ]


def margins(result: Any, transform: str = "none") -> dict[str, float | str | None]:
    return {
        r.example: r.metrics[COLUMN]
        for r in result.records
        if (r.point, r.input, r.transform) == ("llm", "pair", transform)
    }


def asked(count: int = 2, seed: int = 0, **more: Any) -> Convention:
    return Convention(metrics=(NAME,), match_others=count, match_seed=seed, **more)


def last_loss(logits: torch.Tensor, ids: list[int], count: int) -> float:
    """Mean loss of the last tokens of a sequence, in float64."""
    logs = torch.log_softmax(logits[0].double(), dim=-1)
    return -sum(float(logs[i - 1, ids[i]]) for i in range(len(ids) - count, len(ids))) / count


def expected(loss: Any, given: list[Example], chosen: Others) -> dict[str, float]:
    """The margin of each, from a function of example and picture that gives the loss."""
    by_id = {example.id: example for example in given}
    found = {}
    for example in given:
        theirs = [loss(example, by_id[name].image) for name in chosen.of(example)]
        found[example.id] = loss(example, example.image) - float(np.mean(theirs))
    return found


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "idefics3"])
@torch.inference_mode()
def test_families_as_their_own_forward(name: str) -> None:
    """Tokens are bytes there, and nothing stands behind a response. Rows of a picture depend on its size."""
    model, processor, _ = tiny_models.built(name)
    adapter = mmerank.wrap(model, processor, name=name)
    given = pairs(5)

    def loss(example: Example, shown: Any) -> float:
        turns = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": example.instruction}]},
            {"role": "assistant", "content": [{"type": "text", "text": example.response}]},
        ]
        text = processor.apply_chat_template(turns, tokenize=False)
        inputs = processor(text=text, images=shown, return_tensors="pt")
        return last_loss(model(**inputs).logits, inputs["input_ids"][0].tolist(), len(example.response))

    wanted = expected(loss, given, Others(given, count=2))
    assert margins(align(adapter, given, convention=asked(sequence="template"))) == pytest.approx(wanted, abs=2e-4)
    together = align(adapter, given, convention=asked(sequence="template"), batch_tokens=2000)
    assert margins(together) == pytest.approx(wanted, abs=2e-4)
    assert len({round(value, 6) for value in wanted.values()}) == 5


@pytest.mark.parametrize(("form", "behind"), [("bare", 0), ("template", 1)])
@torch.inference_mode()
def test_llava_as_its_own_forward(form: Any, behind: int) -> None:
    """The golden token ids of the published code, with each picture."""
    given = examples()
    model: Any = LLAVA.adapter.model

    def loss(example: Example, shown: Any) -> float:
        ids = LLAVA.expected_ids(form, "pair", [e.id for e in given].index(example.id))
        ids = [i if i >= 0 else model.config.image_token_id for i in ids][: len(ids) - behind]
        pixels = LLAVA.adapter.pixels(shown, "model")[None]
        logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits
        words = LLAVA.adapter.tokenizer
        # A token that stands there without a response, as a space, is no token of it.
        before = example.instruction if form == "bare" else f"{example.instruction} ASSISTANT: "
        whole = f"{before.rstrip()} {example.response}"
        without, texts = (words(text, add_special_tokens=False)["input_ids"] for text in (before, whole))
        common = next((i for i, (a, b) in enumerate(zip(without, texts, strict=False)) if a != b), len(without))
        return last_loss(logits, ids, len(texts) - common)

    wanted = expected(loss, given, Others(given, count=2, seed=3))
    found = margins(align(LLAVA.adapter, given, convention=asked(2, 3, sequence=form)))
    assert found == pytest.approx(wanted, abs=1e-4) and all(abs(value) > 1e-3 for value in wanted.values())


@torch.inference_mode()
def test_several_pictures_give_way_to_as_many() -> None:
    model, processor, _ = tiny_models.built("qwen2_vl")
    adapter = mmerank.wrap(model, processor, name="qwen2_vl")
    given = [Example(f"{i}", [picture(i), picture(i + 10)], "Which?", "the second " * (i + 1)) for i in range(4)]
    given.append(Example("alone", picture(20), "Which?", "the only one"))

    def loss(example: Example, shown: Any) -> float:
        content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": example.instruction}]
        turns = [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": example.response}]},
        ]
        text = processor.apply_chat_template(turns, tokenize=False)
        inputs = processor(text=text, images=list(shown), return_tensors="pt")
        return last_loss(model(**inputs).logits, inputs["input_ids"][0].tolist(), len(example.response))

    found = margins(align(adapter, given, convention=asked(sequence="template")))
    assert str(found.pop("alone")).startswith("0 other examples have another picture")
    wanted = expected(loss, given[:4], Others(given, count=2))
    assert found == pytest.approx(wanted, abs=2e-4)


def test_of_arrays() -> None:
    rng = np.random.default_rng(0)
    own, others = rng.normal(size=6), rng.normal(size=(6, 3))
    found = sum(own[i] - sum(others[i]) / 3 for i in range(6)) / 6
    assert mmerank.metric(NAME)(own, others) == pytest.approx(found, abs=1e-12)
    assert mmerank.metric(NAME)(torch.from_numpy(own), torch.from_numpy(others)) == pytest.approx(found, abs=1e-12)
    with pytest.raises(ValueError, match="own and others: expected one response a row"):
        match_margin(own[1:], others)
    with pytest.raises(ValueError, match=r"own: expected shape \(n,\), got \(6, 3\)"):
        match_margin(others, others)
    with pytest.raises(mmerank.errors.NonFiniteTokens, match="others: NaN or infinity in 1 of 6 rows"):
        match_margin(own, np.where(others == others[2, 1], np.inf, others))


def test_others_are_drawn_by_seed_and_ids_alone() -> None:
    given = pairs(30)
    found = {example.id: Others(given, count=3).of(example) for example in given}
    again = Others(given[::-1], count=3)
    assert {example.id: again.of(example) for example in given[7:] + given[:7]} == found
    for name, others in found.items():
        assert name not in others and len(set(others)) == 3
    # Each picture stands beside equally many responses.
    assert {sum(name in others for others in found.values()) for name in found} == {3}
    assert {example.id: Others(given, count=3, seed=1).of(example) for example in given} != found


def test_others_show_something_else(tmp_path: Path) -> None:
    """The same picture under another path, in another format or in memory is no other."""
    shown = picture(0)
    shown.save(tmp_path / "one.png")
    shown.save(tmp_path / "two.bmp")
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    picture(9, (400, 400)).save(tmp_path / "large.png")
    files: list[Any] = ["one.png", "two.bmp", "damaged.png", "large.png"]
    images = [*(tmp_path / file for file in files), shown, picture(1), picture(1).convert("RGBA"), picture(2), None]
    given = [Example(f"{i}", image, "", "text") for i, image in enumerate(images)]
    for seed in range(20):
        others = Others(given, count=2, seed=seed, max_pixels=100_000)
        for i in (0, 1, 4):
            assert set(others.of(given[i])) in ({"5", "7"}, {"6", "7"})
        assert set(others.of(given[7])) & {"0", "1", "4"} and set(others.of(given[7])) & {"5", "6"}
    with pytest.raises(DataError, match="2 other examples have another picture.*and 3 are asked for"):
        Others(given, count=3, max_pixels=100_000).of(given[0])


def test_a_disk_that_fails_changes_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    given = pairs(6)
    others = Others(given, count=2)
    lost = others.of(given[0])[0]
    image = next(example.image for example in given if example.id == lost)
    whole = open_pictures

    def opened(source: Any, *, max_pixels: int) -> Any:
        if source is image:
            raise SourceError("the disk did not answer")
        return whole(source, max_pixels=max_pixels)

    monkeypatch.setattr("mmerank.inputs.others.open_pictures", opened)
    with pytest.raises(SourceError, match=f"the picture of example '{lost}': the disk"):
        Others(given, count=2).of(given[0])
    result = align(LLAVA.adapter, given, convention=asked())
    assert {of.id: of.suspect for of in result.skipped}[given[0].id] == "source"


def test_order_batches_and_further_metrics_change_nothing() -> None:
    given = pairs()
    plain = align(LLAVA.adapter, given)
    alone = align(LLAVA.adapter, given, convention=asked())
    together = align(
        LLAVA.adapter, given[::-1], convention=asked(), metrics=["stable_rank"], layers="all", batch_tokens=4000
    )
    assert margins(together) == pytest.approx(margins(alone), abs=1e-5)
    for one, other in zip(plain.records, alone.records, strict=True):
        assert (one.example, one.point, one.input, one.entropy) == (
            other.example,
            other.point,
            other.input,
            other.entropy,
        )
    own_pass = align(LLAVA.adapter, given, convention=asked(), share_prefix=False)
    assert margins(own_pass) == pytest.approx(margins(alone), abs=1e-5)


def test_one_extra_pass_for_each_other() -> None:
    given = pairs()
    counted: list[int] = []

    class Counting(type(LLAVA.adapter)):  # type: ignore[misc]
        def decode(self, sequences: Any, images: Any) -> None:
            counted.append(len(sequences))
            super().decode(sequences, images)

    adapter = object.__new__(Counting)
    adapter.__dict__.update(LLAVA.adapter.__dict__)
    totals = []
    for convention in (Convention(), asked(1), asked(3)):
        counted.clear()
        align(adapter, given, convention=convention)
        totals.append(sum(counted))
    assert [total - totals[0] for total in totals] == [0, len(given), 3 * len(given)]


def test_continued_and_shared_by_processes(tmp_path: Path) -> None:
    given = pairs(12)
    whole = align(LLAVA.adapter, given, convention=asked(), out=tmp_path / "whole")
    shared_by(2, lambda: align(LLAVA.adapter, given, convention=asked(), out=tmp_path / "run"), tmp_path)
    assert margins(align(LLAVA.adapter, given, convention=asked(), out=tmp_path / "run")) == margins(whole)
    parts = sorted((tmp_path / "run" / "records").glob("*.parquet"))
    Path(parts[0]).unlink()
    again = align(LLAVA.adapter, given, convention=asked(), out=tmp_path / "run")
    assert margins(again) == margins(whole) == margins(mmerank.Alignment.from_run(tmp_path / "run"))
    for changed in ({"match_others": 3}, {"match_seed": 1}):
        with pytest.raises(RunFolderError, match=next(iter(changed))):
            align(LLAVA.adapter, given, convention=replace(asked(), **changed), out=tmp_path / "run")  # type: ignore[arg-type]


def test_what_a_transform_changes_is_the_own_loss() -> None:
    given = pairs()
    result = perturb(LLAVA.adapter, given, ["identity", "rotate:90", "other", "other-text"], convention=asked())
    base = margins(result)
    assert base == pytest.approx(margins(align(LLAVA.adapter, given, convention=asked())), abs=1e-6)
    assert margins(result, "identity") == pytest.approx(base, abs=1e-6)
    turned = margins(result, "rotate:90")
    assert all(abs(turned[name] - base[name]) > 1e-4 for name in base)  # type: ignore[operator]
    (tested,) = result.tests_metrics[NAME]["rotate:90"].differences
    assert tested.quantity == f"{NAME}/llm/pair" and 0 < tested.p <= tested.q <= 1
    change = [turned[name] - base[name] for name in base]  # type: ignore[operator]
    assert tested.difference == pytest.approx(float(np.mean(change)), abs=1e-9)
    # Under another text: of that text, its own pictures and the same others.
    swapped = perturb(LLAVA.adapter, given, ["other-text"], convention=asked())
    assert margins(swapped, "other-text") == pytest.approx(margins(result, "other-text"), abs=1e-6)
    assert margins(result, "other-text") != pytest.approx(base, abs=1e-3)


def test_it_is_a_number_like_any_other(tmp_path: Path) -> None:
    given = pairs(8)
    convention = asked(sequence="template")
    result = align(LLAVA.adapter, given, convention=convention, out=tmp_path / "one")
    twin: Any = LLAVA.adapter.untrained(0)
    other = align(twin, given, convention=convention, out=tmp_path / "two")
    values = np.array(list(margins(result).values()))
    assert result.metrics is not None
    (number,) = result.metrics[NAME]
    assert number["value"] == pytest.approx(values.mean()) and number["n"] == 8
    low, high = number["interval"]
    assert low < number["value"] < high and (number["point"], number["input"]) == ("llm", "pair")
    assert result.to_dict()["metrics"][NAME][0]["value"] == number["value"] and "Match margin" in str(result)
    (tested,) = compare(result, other, metric=NAME).differences
    theirs = np.array([margins(other)[name] for name in margins(result)])
    assert tested.difference == pytest.approx(float((values - theirs).mean())) and 0 < tested.p <= 1
    report([tmp_path / "one", tmp_path / "two"], tmp_path / "page")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "page" / "numbers.csv").read_text())))
    found = {row["model"]: float(row["value"]) for row in rows if row["quantity"] == f"{NAME}/llm/pair"}
    assert found[result.model] == pytest.approx(number["value"], rel=1e-4) and len(found) == 2
    assert "Match margin" in (tmp_path / "page" / "report.html").read_text()


def test_a_text_that_does_not_fit_beside_another_picture() -> None:
    """It is cut for the loss alone: the numbers of the own pair stay as they are without the metric."""
    model, processor, _ = tiny_models.built("qwen2_5_vl")
    adapter: Any = mmerank.wrap(model, processor, name="qwen")
    given = [Example(f"{i}", picture(i, (56, 56 if i else 224)), "Say.", "abcdefgh" * 4) for i in range(3)]
    adapter.max_tokens = len(adapter.sequence(given[1], "pair", "bare")) + 4
    plain, found = (align(adapter, given, convention=convention) for convention in (Convention(), asked()))
    entropies = [[(r.example, r.point, r.input, r.n, r.entropy) for r in of.records] for of in (plain, found)]
    assert entropies[0] == entropies[1]
    cut = {r.example: r.text_cut for r in found.records if r.input == "pair"}
    assert cut["1"] == 0 < cut["0"]

    @torch.inference_mode()
    def loss(example: Example, shown: Any) -> float:
        sequence = adapter.sequence(replace(example, image=shown), "pair", "bare")
        text = processor.tokenizer.decode(
            [i for i, role in zip(sequence.ids, sequence.roles, strict=True) if role == 3]
        )
        assert text.endswith("abcdefgh")
        sign = "<|vision_start|><|image_pad|><|vision_end|>"
        inputs = processor(text=f"{sign}{example.text}"[: -cut["0"]], images=shown, return_tensors="pt")
        ids = inputs["input_ids"][0].tolist()
        assert ids[-8:] == list(sequence.ids)[-8 - cut["0"] : -cut["0"]]
        return last_loss(model(**inputs).logits, ids, 32 + 1 - cut["0"])

    wanted = expected(loss, given, Others(given, count=2))
    assert margins(found) == pytest.approx(wanted, abs=2e-4)


def test_what_has_no_margin_has_the_reason() -> None:
    given = [*pairs(2), Example("silent", picture(5), "What is it?", "")]
    found = margins(align(LLAVA.adapter, given, convention=asked(3)))
    assert found["silent"] == "no token of its response is read"
    assert str(found["e0"]).startswith(
        "2 other examples have another picture that can stand here, and 3 are asked for"
    )
    listed = align(LLAVA.adapter, given, convention=asked(2)).metrics
    assert listed is not None
    number = listed[NAME][0]
    assert number["n"] == 2 and math.isfinite(number["value"])


def test_families_that_predict_nothing_are_refused() -> None:
    given = pairs(5)

    def without(**changed: Any) -> Any:
        class Changed(type(LLAVA.adapter)):  # type: ignore[misc]
            logits = LLAVA.adapter.logits if "logits" not in changed else None  # type: ignore[attr-defined]

        adapter = object.__new__(Changed)
        adapter.__dict__.update(LLAVA.adapter.__dict__, **{k: v for k, v in changed.items() if k != "logits"})
        return adapter

    with pytest.raises(ModelError, match="metric 'match_margin': .*has no `logits`"):
        align(without(logits=None), given, convention=asked())
    with pytest.raises(ModelError, match="metric 'match_margin': .*reads what stands behind a token"):
        align(without(causal=False), given, convention=asked())
    for name in ("t5gemma2", "paligemma"):
        model, processor, _ = tiny_models.built(name)
        adapter: Adapter = mmerank.wrap(model, processor, name=name)
        with pytest.raises(ModelError, match=f"metric 'match_margin': {name}: its LLM reads what stands behind"):
            align(adapter, given, convention=asked())


def test_a_model_that_turns_out_to_look_ahead_is_refused() -> None:
    def look_ahead(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        embeddings = kwargs["inputs_embeds"]
        return args, {**kwargs, "inputs_embeds": embeddings + embeddings.mean(dim=1, keepdim=True)}

    norm = LLAVA.adapter.points["llm"].module
    assert isinstance(norm, str)
    decoder = LLAVA.adapter.model.get_submodule(norm.rpartition(".")[0])
    handle = decoder.register_forward_pre_hook(look_ahead, with_kwargs=True)
    try:
        with (
            pytest.warns(UserWarning, match="depend on the text behind it"),
            pytest.raises(ModelError, match="metric 'match_margin': .*reads what stands behind a token"),
        ):
            align(LLAVA.adapter, pairs(5), convention=asked())
    finally:
        handle.remove()


def test_a_stream_without_an_end_is_refused() -> None:
    given = pairs(5)
    stream = DataStream("stream", "0" * 16, lambda: iter(given))
    with pytest.raises(UsageError, match="stream: this job holds all its examples"):
        align(LLAVA.adapter, stream, convention=asked())
    found = align(LLAVA.adapter, stream, convention=asked(), limit=5)
    assert margins(found) == margins(align(LLAVA.adapter, given, convention=asked()))
    entries: list[Example | Skipped] = [*given, Skipped("x", "no picture")]
    assert margins(align(LLAVA.adapter, iter(entries), convention=asked())) == margins(found)


def test_command_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--data", "demo", "--limit", "4", "--metrics", NAME, "--match-others", "2", "--out", str(out))
    done = run("align", "demo-llava", *options)
    assert done.returncode == 0 and "Match margin" in done.stdout, done.stderr
    stated = mmerank.Alignment.from_run(out).convention
    assert stated.match_others == 2 and stated.metrics == (NAME,)
    status, said = failure("diff", "gpt2", "--data", "demo", "--metrics", NAME)
    assert status == 2 and "is of pictures and texts, and these examples are texts alone" in said


def test_choices_are_stated_only_where_they_count() -> None:
    assert "match_others" not in Convention(match_tokens=8).to_dict()
    stated = asked(5, 2).to_dict()
    assert (stated["match_others"], stated["match_seed"]) == (5, 2) and "match_repeats" not in stated
    with pytest.raises(ValueError, match="match_others must be at least 1, got 0"):
        asked(0)
