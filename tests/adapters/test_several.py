"""Examples with several pictures, held against what the models themselves return on what their processors give."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mmerank import Alignment, Convention, Example, align, load_data, perturb, wrap
from mmerank.errors import DataError
from mmerank.inputs.contents import content_of, difference, picture_stamp
from mmerank.inputs.example import fingerprint
from mmerank.inputs.pictures import Encoded, open_pictures
from mmerank.inputs.placeholders import USUAL, without_placeholder
from mmerank.inputs.sequence import Role
from mmerank.inputs.transforms.transform import parse
from mmerank.inputs.variants import variant
from mmerank.jobs.clip import check_one_picture
from mmerank.report.write import report
from mmerank.runs.parts import read_records
from tests import reference
from tests.adapters.test_multimodal import EXAMPLES, adapter, flat, noise
from tests.adapters.tiny_models import FAMILIES, built

TWO = (noise(1, (96, 64)), noise(2, (33, 77)))
THREE = (noise(3, (120, 64)), noise(2, (60, 77)), noise(4, (60, 77)))
SEVERAL = [
    Example("two", TWO, "What is it?", "A red ball on a table."),
    Example("three", THREE, "", "Two dogs run."),
]
TAKEN = ["qwen2_5_vl", "llava_next", "internvl"]


def rows_alone(name: str, processor: Any, placeholder: str, picture: Image.Image) -> tuple[int, int]:
    """Tiles or patches of a picture, and its image positions: these families lay it out alike beside others."""
    made = processor(text=placeholder, images=[picture], return_tensors="pt")
    pixels = made["pixel_values"]
    count = pixels.shape[1] if name == "llava_next" else pixels.shape[0]
    return count, int((made["input_ids"] == made["input_ids"].mode().values).sum())


@torch.inference_mode()
def expected(name: str, example: Example) -> dict[tuple[str, str], list[NDArray[np.float32]]]:
    """Rows of each picture, from the model's own forward on all of them."""
    model, processor, placeholder = built(name)
    pictures = [of for of in example.pictures if isinstance(of, Image.Image)]
    inputs = processor(text=placeholder * len(pictures) + example.text, images=pictures, return_tensors="pt")
    alone = processor(text=placeholder * len(pictures), images=pictures, return_tensors="pt")
    states = model(**inputs, output_hidden_states=True).hidden_states[-1][0]
    extra = {key: of for key, of in alone.items() if key not in ("input_ids", "attention_mask", "mm_token_type_ids")}
    features = model.get_image_features(**extra)
    counts = [rows_alone(name, processor, placeholder, picture) for picture in pictures]
    pictured = dict(alone)
    if name == "llava_next":  # without the tiles that fill up the smaller picture
        tiles = [of[:count] for of, (count, _) in zip(pictured["pixel_values"], counts, strict=True)]
        pictured["pixel_values"] = torch.cat(tiles)[None]
    found = {}
    for point, rows in (("vision", FAMILIES[name].vision), ("connector", FAMILIES[name].connector)):
        of = flat(rows(model, pictured, features))
        whole = sum(count for count, _ in counts)
        found[point, "image"] = [
            part.numpy() for part in torch.split(of, [count * len(of) // whole for count, _ in counts])
        ]
    image_id = model.config.image_token_id
    places = [i for i, token in enumerate(inputs["input_ids"][0].tolist()) if token == image_id]
    at_places = torch.split(states[places], [count for _, count in counts])
    if name == "llava_next":  # the ends of rows of patches are none of the picture's
        newline = model.model.image_newline
        put_in = [of for of in getattr(features, "pooler_output", features)]
        at_places = tuple(h[(of != newline).any(dim=-1)] for h, of in zip(at_places, put_in, strict=True))
    found["llm", "pair"] = [part.numpy() for part in at_places]
    return found


@pytest.mark.parametrize("name", TAKEN)
def test_each_picture_and_all_together(name: str) -> None:
    result = align(adapter(name), SEVERAL)
    assert not result.skipped and result.pictures is not None
    found = {(r.example, r.point, r.input): r for r in result.records}
    label = {("vision", "image"): "erank1", ("connector", "image"): "erank2", ("llm", "pair"): "erank5"}
    for example in SEVERAL:
        for where, parts in expected(name, example).items():
            entropies = [reference.entropy(part) for part in parts]
            record = found[(example.id, *where)]
            assert record.entropy_pictures == pytest.approx(entropies, abs=1e-5), where
            assert result.pictures[example.id][label[where]] == pytest.approx(np.exp(entropies), rel=1e-5)
            if where[0] != "llm":
                assert record.n == sum(map(len, parts))
                assert record.entropy == pytest.approx(reference.entropy(np.concatenate(parts)), abs=1e-5)
    (each, *by_place), alone = result.picture_eranks or [], result.pictures
    assert (each["picture"], each["n"]) == (0, 2) and [(of["picture"], of["n"]) for of in by_place] == [
        (1, 2),
        (2, 2),
        (3, 1),
    ]
    for erank in label.values():
        every = [np.log(of[erank]) for of in alone.values()]
        assert each[erank] == pytest.approx(np.exp(np.concatenate(every).mean()))
        for i, of in enumerate(by_place):
            assert of[erank] == pytest.approx(np.exp(np.mean([one[i] for one in every if len(one) > i])))
    others = [r for r in result.records if (r.point, r.input) not in label]
    assert others and all(r.entropy_pictures is None for r in others)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next", "idefics3"])
def test_batches_order_and_separate_passes_change_nothing(name: str) -> None:
    mixed = [*SEVERAL, EXAMPLES[0]]
    alone = align(adapter(name), mixed, batch_tokens=1)
    other = align(adapter(name), mixed[::-1], batch_tokens=100_000, share_prefix=False)
    assert [r.entropy for r in other.records] == pytest.approx([r.entropy for r in alone.records], abs=1e-6)
    for one, another in zip(alone.records, other.records, strict=True):
        assert (one.entropy_pictures is None) == (another.entropy_pictures is None)
        if one.entropy_pictures is not None:
            assert another.entropy_pictures == pytest.approx(one.entropy_pictures, abs=1e-6)


def test_a_list_of_one_is_a_picture(tmp_path: Path) -> None:
    (buffer,) = Example("a", memoryview(b"of a file"), "", "b").pictures  # it has one dimension, and is no list
    assert isinstance(buffer, Encoded) and buffer.read() == b"of a file"
    listed = [Example(of.id, [of.image], of.instruction, of.response) for of in EXAMPLES]
    assert listed == EXAMPLES and fingerprint(listed) == fingerprint(EXAMPLES)
    before = align(adapter("internvl"), EXAMPLES)
    found = align(adapter("internvl"), [*EXAMPLES, SEVERAL[0]], out=tmp_path / "run")
    same = {(r.example, r.point, r.input): r.entropy for r in found.records if r.example != "two"}
    assert same == {(r.example, r.point, r.input): r.entropy for r in before.records}
    assert before.pictures is None and not {"pictures", "picture_eranks"} & before.to_dict().keys()
    assert "entropy_pictures" not in before.to_pandas()


def test_run_folders(tmp_path: Path) -> None:
    """With and without several pictures in a part; gone on with, and read without the model."""
    align(adapter("internvl"), EXAMPLES, out=tmp_path / "run", limit=1)
    (part,) = (tmp_path / "run" / "records").glob("*.parquet")
    assert "entropy_pictures" not in pq.read_schema(part).names
    data = [*SEVERAL, *EXAMPLES]
    whole = align(
        adapter("internvl"),
        data,
        out=tmp_path / "several",
        convention=Convention(rows=True, metrics=("stable_rank",)),
    )
    again = align(
        adapter("internvl"),
        data,
        out=tmp_path / "several",
        convention=Convention(rows=True, metrics=("stable_rank",)),
    )
    stored = Alignment.from_run(tmp_path / "several")
    assert whole.pictures == again.pictures == stored.pictures and set(whole.pictures or ()) == {"two", "three"}
    assert json.loads(json.dumps(whole.to_dict()))["pictures"] == whole.pictures
    assert sum(r.entropy_pictures is not None for r in read_records(tmp_path / "several")) == 6


def test_what_several_pictures_are_known_by(tmp_path: Path) -> None:
    for i, picture in enumerate(TWO):
        picture.save(tmp_path / f"{i}.png")
    files = Example("a", [tmp_path / "0.png", tmp_path / "1.png"], "", "Text.")
    stamp = picture_stamp(files.image)
    known = content_of(files, open_pictures(files.image or (), max_pixels=10**6), stamp)
    assert stamp.count(", ") == 1 and difference(files, known, max_pixels=10**6) is None
    turned = replace(files, image=files.pictures[::-1])
    assert "its picture is another" in (difference(turned, known, max_pixels=10**6) or "")
    assert (
        len({fingerprint([files]), fingerprint([turned]), fingerprint([replace(files, image=files.pictures[0])])})
        == 3
    )
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"picture 2 of 2: 1\.png: empty file"):
        open_pictures(files.pictures)


def test_a_transform_draws_for_each_picture_by_itself() -> None:
    same = Example("a", (TWO[0], TWO[0]), "", "Text.")
    (noisy,) = parse("noise:20")
    made = variant(noisy, [same], seed=3).image.of(same).pictures
    (one,) = variant(noisy, [same], seed=3).image.of(replace(same, image=TWO[0])).pictures
    first, second = (np.asarray(of) for of in made)
    assert (first == np.asarray(one)).all() and (first != second).any()


def test_perturbed() -> None:
    result = perturb(adapter("internvl"), SEVERAL, ["rotate:90", "other"], controls=["independent"], control_draws=1)
    assert not result.base.skipped
    counts = {
        r.transform: len(r.entropy_pictures)
        for r in result.records
        if r.entropy_pictures is not None and r.example == "two"
    }
    assert counts["rotate:90"] == 2 and counts["other"] == 3, "the pictures of the other example, all of them"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mllama", "it has 2 pictures, and mllama reads one (cross-attention model"),
        ("git", "the model itself puts in the rows of a picture"),
        ("blip_2", "what enters the LLM in the places of picture 2 are not its rows"),
    ],
)
def test_why_several_are_not_read(name: str, reason: str) -> None:
    (skipped,) = align(adapter(name), [SEVERAL[0], EXAMPLES[0]]).skipped
    assert skipped.id == "two" and reason in skipped.reason


def test_llava_files(tmp_path: Path) -> None:
    def record(name: str, value: Any) -> dict[str, Any]:
        turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "Dogs."}]
        return {"id": name, "image": ["a.jpg", "b.jpg"], "conversations": turns}

    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which?"}]
    records = [record("first", "<image>\n<image>\nWhich?"), record("none", "Which?"), record("parts", parts)]
    (tmp_path / "file.json").write_text(json.dumps(records))
    pictures = (tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.jpg")
    found = list(load_data(f"llava:{tmp_path}/file.json"))
    assert found == [Example(name, pictures, "Which?", "Dogs.") for name in ("first", "none", "parts")]


INTERLEAVED = Example("between", TWO, "Here is <image> and, behind it, <image>\nWhich is red?", "The ball is red.")


def test_where_pictures_stand_in_a_text(tmp_path: Path) -> None:
    own = Example("x", TWO, "A B", "C", places=(1, 3))
    assert without_placeholder(USUAL, replace(own, instruction="A <image> B\n<|image|>", places=())) == own
    read = without_placeholder(USUAL, INTERLEAVED)
    assert isinstance(read, Example)
    assert (read.instruction, read.places) == ("Here is and, behind it, Which is red?", (7, 23))
    assert content_of(own) != content_of(replace(own, places=())) and fingerprint([own]) != fingerprint(
        [replace(own, places=())]
    )
    turns = [{"from": "human", "value": INTERLEAVED.instruction}, {"from": "gpt", "value": "The ball is red."}]
    parts = [{"type": "text", "text": "A"}, {"type": "image"}, {"type": "text", "text": "B"}, {"type": "image"}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": "C"}]
    records: list[dict[str, Any]] = [{"id": "a", "image": ["a.jpg", "b.jpg"], "conversations": turns}]
    records.append({"id": "b", "images": ["a.jpg", "b.jpg"], "messages": chat})
    (tmp_path / "file.json").write_text(json.dumps(records))
    found = [of for of in load_data(f"llava:{tmp_path}/file.json") if isinstance(of, Example)]
    assert [(of.instruction, of.places) for of in found] == [
        ("Here is and, behind it, Which is red?", (7, 23)),
        ("A B", (1, 3)),
    ]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "idefics3"])
@torch.inference_mode()
def test_pictures_keep_their_places_in_the_template(name: str) -> None:
    model, processor, _ = built(name)
    texts = ("Here is", "and, behind it,", "Which is red?")
    said = [{"type": "text", "text": text} for text in texts]
    turn = {"role": "user", "content": [said[0], {"type": "image"}, said[1], {"type": "image"}, said[2]]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "The ball is red."}]}
    written = processor.apply_chat_template([turn, answer], tokenize=False)
    around = {"add_special_tokens": False} if written.startswith(processor.tokenizer.bos_token or "?") else {}
    states = model(
        **processor(text=written, images=[*TWO], return_tensors="pt", **around), output_hidden_states=True
    ).hidden_states[-1][0]
    of, form = adapter(name), Convention(sequence="template", tokens="modality")
    front = replace(INTERLEAVED, id="front", instruction="<image><image> Here is and, behind it, Which is red?")
    result = align(of, [INTERLEAVED, front], convention=form)
    assert not result.skipped
    found = {(r.example, r.point, r.input): r for r in result.records}
    for point, kind in (("vision", "image"), ("llm", "text")):
        assert found["between", point, kind].entropy == pytest.approx(found["front", point, kind].entropy, abs=1e-9)
    example = without_placeholder(USUAL, INTERLEAVED)
    assert isinstance(example, Example)
    sequence = of.sequence(example, "pair", "template")
    own = [i for i, role in enumerate(sequence.roles) if role in (Role.TEXT, Role.IMAGE)]
    assert found["between", "llm", "pair"].entropy == pytest.approx(reference.entropy(states[own].numpy()), abs=1e-5)
    runs = ["".join(part) for part in _runs(of.tokenizer, sequence)]
    assert runs == [*texts, "The ball is red."]


def _runs(tokenizer: Any, sequence: Any) -> list[list[str]]:
    """Texts that stand together, with nothing but places of a picture and what belongs to them between."""
    found: list[list[str]] = [[]]
    for i, role in zip(sequence.ids, sequence.roles, strict=True):
        if role is Role.TEXT:
            found[-1].append(tokenizer.decode([i]))
        elif found[-1]:
            found.append([])
    return [part for part in found if part]


def test_where_places_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    of, sign = adapter("internvl"), built("internvl")[2]
    (skipped,) = align(of, [INTERLEAVED, EXAMPLES[0]]).skipped
    assert skipped.id == "between" and "the bare sequence has pictures before the text" in skipped.reason
    first = "{% for m in messages %}{% for p in m.content %}{% if p.type == 'image' %}SIGN{% endif %}{% endfor %}"
    first += "{% for p in m.content %}{% if p.type == 'text' %} {{ p.text }}{% endif %}{% endfor %}{% endfor %}"
    monkeypatch.setattr(of.processor, "chat_template", first.replace("SIGN", sign))  # type: ignore[attr-defined]
    (skipped,) = align(of, [INTERLEAVED, EXAMPLES[0]], convention=Convention(sequence="template")).skipped
    assert skipped.id == "between" and "the chat template moves them out of it" in skipped.reason


def test_columns_of_lists(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pd = pytest.importorskip("pandas")
    for i, picture in enumerate(TWO):
        picture.save(tmp_path / f"{i}.png")
    paths = [str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    rows = {"files": [paths, paths[:1], None, []], "text": ["a", "b", "c", "d"]}
    features = datasets.Features({"files": datasets.List(datasets.Image()), "text": datasets.Value("string")})
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    for data in (
        [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)],
        pd.read_parquet(tmp_path / "rows.parquet"),
        datasets.Dataset.from_dict(rows),
        datasets.Dataset.from_dict(rows, features=features),
        datasets.Dataset.from_dict(rows, features=features).to_iterable_dataset(),
        f"parquet:{tmp_path}/rows.parquet",
    ):
        both, one, *none = load_data(data, image="files", response="text", instruction="")
        assert isinstance(both, Example) and isinstance(one, Example)
        assert [np.asarray(open_pictures(of)).shape for of in both.pictures] == [(64, 96, 3), (77, 33, 3)]
        assert len(one.pictures) == 1 and not isinstance(one.image, tuple)
        assert [getattr(of, "reason", "").split(": ")[1][:25] for of in none] == [
            "no image",
            "files is an empty list, e",
        ]


@pytest.mark.parametrize(
    "beside",
    [
        Convention(rows=True, companions=True, metrics=("stable_rank", "cka_linear_biased")),
        Convention(match_tokens=4, match_repeats=2, token_curve=(3, 5)),
    ],
    ids=["rows", "matched"],
)
def test_whatever_else_is_measured(beside: Convention, tmp_path: Path) -> None:
    """Further numbers leave those of each picture as they are, in run folders, after transforms, and on the page."""
    data = SEVERAL
    plain = align(adapter("qwen2_5_vl"), data, convention=Convention())
    found = align(adapter("qwen2_5_vl"), data, convention=beside, layers="first", out=tmp_path / "a")
    assert found.pictures == plain.pictures and not found.skipped and found.layers
    changed = perturb(adapter("qwen2_5_vl"), data, ["rotate:90"], convention=beside, out=tmp_path / "b")
    assert changed.base.pictures == plain.pictures != changed.transforms[0].result.pictures
    align(adapter("internvl"), data, out=tmp_path / "c")  # another model beside it
    report([tmp_path / "a", tmp_path / "b", tmp_path / "c"], tmp_path / "report", formats=["html", "csv"])
    numbers = pd.read_csv(tmp_path / "report" / "numbers.csv")
    here = numbers[(numbers["metric"] == "pictures") & (numbers["transform"] == "rotate:90")]
    assert len(here) == 12 and here.loc[here["quantity"] == "picture 1/erank1", "change"].notna().all()
    assert {"picture 3/erank5", "each picture/erank2"} <= set(numbers["quantity"])
    assert "eRank by picture of an example" in (tmp_path / "report" / "report.html").read_text()


def test_half_precision_and_clip() -> None:
    model, processor, _ = built("qwen2_5_vl")
    half = wrap(copy.deepcopy(model).bfloat16(), processor, name="half")
    found, whole = align(half, SEVERAL).pictures, align(adapter("qwen2_5_vl"), SEVERAL).pictures
    assert found is not None and whole is not None
    for name, eranks in whole.items():
        for label, values in eranks.items():
            assert found[name][label] == pytest.approx(values, rel=0.05)
    check_one_picture(EXAMPLES)
    with pytest.raises(DataError, match="'two' has 2 pictures, and CLIP's score is of one"):
        check_one_picture([*EXAMPLES, *SEVERAL])
