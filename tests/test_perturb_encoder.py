"""Transforms through encoders alone, against fresh runs on examples that were changed by hand."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from scipy.stats import false_discovery_control

import mmerank
from mmerank import Example, encode, load_data, load_encoder, perturb
from mmerank.analysis.results.encoding import NUMBERS
from mmerank.errors import DataError, RunFolderError, UsageError
from mmerank.inputs.pictures import open_picture
from mmerank.inputs.transforms.transform import parse
from mmerank.jobs.perturb import EncoderPerturbation
from mmerank.models.encoders.encoder import Encoder
from mmerank.report.write import report
from tests.encoder_models import save_clip, save_timm
from tests.test_cli import failure, run

TRANSFORMS = ["rotate:90", "shuffle-words", "rotate:90+shuffle-words"]


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Short enough that a text is not cut, so that other words in front are the same words."""
    found = [entry for entry in load_data("demo") if isinstance(entry, Example)][:6]
    return [replace(e, response=" ".join(e.response.split()[:8])) for e in found]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_encoder(str(save_clip(tmp_path_factory.mktemp("clip"))), device="cpu")


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_encoder(save_timm(tmp_path_factory.mktemp("timm") / "vit.pth"), device="cpu")


@pytest.fixture(scope="module")
def result(clip: Encoder, examples: list[Example]) -> EncoderPerturbation:
    return perturb(clip, examples, TRANSFORMS)


def turned(example: Example) -> Example:
    return replace(example, image=open_picture(example.pictures[0]).transpose(Image.Transpose.ROTATE_270))


def of_record(result: Any, **wanted: str) -> dict[tuple[str, str], float]:
    return {
        (r.example, r.input): r.entropy
        for r in result.records
        if all(getattr(r, name) == value for name, value in wanted.items())
    }


def test_every_transform_equals_a_fresh_run_on_changed_examples(
    clip: Encoder, examples: list[Example], result: EncoderPerturbation
) -> None:
    (words,) = parse("shuffle-words")
    shuffled = [replace(e, response=words.response(e.response, example=e.id, seed=0)) for e in examples]
    assert all(e.response != other.response for e, other in zip(examples, shuffled, strict=True))
    both = [turned(e) for e in shuffled]
    changed = {"none": examples, "rotate:90": [turned(e) for e in examples], "shuffle-words": shuffled}
    for name, some in {**changed, "rotate:90+shuffle-words": both}.items():
        fresh = encode(clip, some, layers="last")
        own = result.base if name == "none" else next(t.result for t in result.transforms if t.transform == name)
        expected = of_record(fresh, model=clip.name)
        assert of_record(result, transform=name) == pytest.approx(expected, abs=1e-9), name
        for number in NUMBERS:
            assert own.numbers[number].value == pytest.approx(fresh.numbers[number].value, abs=1e-6), (name, number)
        for ours, theirs in zip(own.layers, fresh.layers, strict=True):
            assert ours.trained.value == pytest.approx(theirs.trained.value, rel=1e-9)
    assert result.checks.reuse < 1e-9 and result.checks.text == 0


def test_changes_and_joint_q(result: EncoderPerturbation) -> None:
    stated = result.to_dict()
    assert "untrained" not in stated["base"] and stated["controls"] == []
    told = [of for t in stated["transforms"] for of in t["tests"]["differences"]]
    assert {of["quantity"] for of in told} == {*NUMBERS, "erank_image", "erank_text"}
    for changed in stated["transforms"]:
        values, base = (
            {**of, **{f"erank_{at['side']}": at["erank"] for at in of["layers"]}} for of in (changed, stated["base"])
        )
        for test in changed["tests"]["differences"]:
            name = test["quantity"]
            assert test["difference"] == pytest.approx(values[name] - base[name], abs=1e-12)
            assert changed["delta"][name] == pytest.approx(test["difference"], abs=1e-12)
    tested = [of for of in told if of["q"] is not None]
    q = false_discovery_control([of["p"] for of in tested])
    assert [of["q"] for of in tested] == pytest.approx(list(q))
    fixed = {t["transform"]: set(t["tests"]["fixed"]) for t in stated["transforms"]}
    assert {"erank_text", "erank_texts"} <= fixed["rotate:90"]
    assert {"erank_image", "erank_images"} <= fixed["shuffle-words"]
    assert len(tested) == len(told) - sum(map(len, fixed.values()))


def test_each_version_goes_through_once(
    clip: Encoder, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: Counter[str] = Counter()

    def count(side: str) -> None:
        run = getattr(clip, side)

        def counted(fed: Any) -> Any:
            passes[side] += 1
            return run(fed)

        monkeypatch.setattr(clip, side, counted)

    count("images")
    count("texts")
    perturb(clip, examples[:1], ["rotate:90", "blur:1", "shuffle-words", "rotate:90+shuffle-words"])
    again = 1  # one transformed example is measured a second time
    assert passes == {"images": 3 + again, "texts": 2 + again}


def test_an_encoder_of_pictures_alone(vision: Encoder, examples: list[Example]) -> None:
    found = perturb(vision, [replace(e, response="") for e in examples], ["rotate:180"])
    assert list(found.transforms[0].delta) == ["erank_image", "erank_images"]
    assert "images" in str(found) and found.base.n == 6


def test_examples_stand_everywhere_or_nowhere(clip: Encoder, examples: list[Example]) -> None:
    def fail(picture: Image.Image) -> Image.Image:
        if picture.size == (20, 30):
            raise ValueError("too slim")
        return picture.rotate(90)

    slim = replace(examples[1], image=Image.effect_noise((20, 30), 40).convert("RGB"))
    some = [examples[0], slim, *examples[2:4], replace(examples[4], response=" ")]
    found = perturb(clip, some, [fail, "rotate:90"])
    reasons = {entry.id: entry.reason for entry in found.base.skipped}
    assert reasons.keys() == {slim.id, examples[4].id} and reasons[slim.id].startswith("fail: ")
    assert {r.example for r in found.records} == {examples[i].id for i in (0, 2, 3)}
    assert len(found.records) == 3 * 3 * 2
    with pytest.raises(DataError, match="no example could be measured"):
        perturb(clip, some[4:], ["identity"])


def test_a_run_goes_on_and_is_read_again(
    clip: Encoder, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = perturb(clip, examples, TRANSFORMS[:2], out=tmp_path / "whole")
    images, left = clip.images, iter(range(5))

    def stops(pixels: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return images(pixels)

    with monkeypatch.context() as patched:
        patched.setattr(clip, "images", stops)
        with pytest.raises(KeyboardInterrupt):
            perturb(clip, examples, TRANSFORMS[:2], out=tmp_path / "run")
    again = perturb(clip, examples, TRANSFORMS[:2], out=tmp_path / "run")
    read = EncoderPerturbation.from_run(tmp_path / "run")
    (listed,) = mmerank.Results.from_run(tmp_path / "run")
    for other in (again, read, listed):
        assert json.dumps(other.to_dict()["transforms"]) == json.dumps(whole.to_dict()["transforms"])
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(json.dumps(read.to_dict()))
    with pytest.raises(RunFolderError, match="other settings|another"):
        perturb(clip, examples, TRANSFORMS[:1], out=tmp_path / "run")
    table = next((tmp_path / "run" / "records").glob("*.parquet"))
    assert "rotate:90" in set(pd.read_parquet(table)["transform"])


def test_reported_beside_a_run_without_transforms(clip: Encoder, examples: list[Example], tmp_path: Path) -> None:
    found = perturb(clip, examples, TRANSFORMS[:2], out=tmp_path / "perturbed")
    encode(clip, examples, out=tmp_path / "plain")
    report([tmp_path / "perturbed", tmp_path / "plain"], tmp_path / "report")
    numbers = pd.read_csv(tmp_path / "report" / "numbers.csv")
    for name, test in found.tests.items():
        for of in test.differences:
            here = (numbers["job"] == "perturb_encoder") & (numbers["transform"] == name)
            (row,) = numbers[here & (numbers["quantity"] == of.quantity)].to_dict("records")
            assert row["change"] == pytest.approx(of.difference, abs=1e-12)
            assert row["change_q"] == pytest.approx(of.q, nan_ok=True)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Encoders before and after a change" in page and "shuffle-words" in page
    assert "q over all tests of the run" in page and "Image-Text Alignment" not in page


def test_what_encoders_do_not_have(clip: Encoder, examples: list[Example]) -> None:
    measure = partial(perturb, clip, examples)
    with pytest.raises(UsageError, match="reads picture and text apart"):
        measure(controls=["mismatch"])
    with pytest.raises(UsageError, match="of encoders there are none"):
        measure(["identity"], metrics=["stable_rank"])
    with pytest.raises(TypeError, match=r"expected mmerank\.EncoderConvention, got Convention"):
        measure(["identity"], convention=mmerank.Convention())


def test_command_line(clip: Encoder, tmp_path: Path) -> None:
    out, file = str(tmp_path / "run"), tmp_path / "found.json"
    arguments = ["perturb", clip.name, "--data", "demo", "--limit", "4", "--transform", "rotate:90"]
    done = run(*arguments, "--out", out, "--json", str(file), "--name", f"ours={clip.name}")
    assert done.returncode == 0, done.stderr
    stated = json.loads(file.read_text())
    assert stated["transforms"][0]["delta"]["erank_image"] != 0 and stated["base"]["name"] == "ours"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["job"] == "perturb_encoder"
    shown = run(*arguments, "--out", out).stdout
    assert "patches" in shown and "rotate:90" in shown
    assert "--match-tokens: an encoder alone has none" in failure(*arguments, "--match-tokens", "4")[1]
    assert "--sequence: an encoder alone has none" in failure(*arguments, "--sequence", "template")[1]
