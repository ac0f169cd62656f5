from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from mmerank import Convention, Example, align, load_data, perturb
from mmerank.errors import DataError, RunFolderError, UsageError
from mmerank.inputs.example import Skipped
from mmerank.report.cautions import cautions
from tests.adapters.cases import LLAVA, at_the_encoder, examples
from tests.adapters.text_cases import OPT

ADAPTER = LLAVA.adapter


def test_result_says_what_it_stands_on(tmp_path: Path) -> None:
    bad: list[Example | Skipped] = [
        Example("no picture", None, "a", "b"),
        Example("no text", Image.new("RGB", (9, 9)), " ", ""),
        Example("no file", tmp_path / "gone.jpg", "a", "b"),
        Example("0", Image.new("RGB", (9, 9)), "a", "b"),
        Skipped("unread", "for a reason"),
    ]
    result = align(ADAPTER, [bad[0], *examples(), *bad[1:]])
    assert result.n == 3 and {r.example for r in result.records} == {"0", "1", "2"}
    assert {s.id: s.reason for s in result.skipped} == {
        "no picture": "no image",
        "no text": "the text is empty",
        "no file": f"gone.jpg: no such file in {tmp_path}",
        "0": "the id occurs twice; the first record is kept",
        "unread": "for a reason",
    }
    assert [getattr(result, f"erank{i}") for i in range(1, 6)] == [
        getattr(align(ADAPTER, examples()), f"erank{i}") for i in range(1, 6)
    ]
    printed = json.loads(json.dumps(result.to_dict()))
    assert printed["n"] == 3 and len(printed["skipped"]) == 5
    assert printed["convention"] == Convention().to_dict() and printed["source"]["dtype"] == "float32"
    assert "n = 3 of 8 examples, 5 skipped" in str(result)
    frame = result.to_pandas()
    assert len(frame) == 15 and frame["example"].is_monotonic_increasing


def test_strict_stops_at_the_first() -> None:
    with pytest.raises(DataError, match=r"'no picture': no image \(strict"):
        align(ADAPTER, [*examples(), Example("no picture", None, "a", "b")], strict=True)


def test_nothing_usable() -> None:
    with pytest.raises(DataError, match="no example could be measured, 1 skipped; first: 'x': no image"):
        align(ADAPTER, [Example("x", None, "a", "b")])
    with pytest.raises(DataError, match="no example could be measured, 0 skipped"):
        align(ADAPTER, [])


def test_degenerate_states_skip_the_example_whole() -> None:
    """A model that maps every picture token to the same vector has no spectrum there, but goes on elsewhere."""
    connector = ADAPTER.model.get_submodule("model.multi_modal_projector")
    marked = examples()[1]

    def flatten(module: Any, args: Any, output: Any) -> Any:
        flat = output.clone()
        flat[:] = output[:, :1]
        return flat

    handle = connector.register_forward_hook(flatten)
    try:
        with pytest.raises(DataError, match="hook point 'connector', image input: all 36 tokens are equal"):
            align(ADAPTER, [marked])
    finally:
        handle.remove()


def test_a_model_in_train_mode_is_measured_in_eval_mode_and_given_back_as_it_was() -> None:
    expected = align(ADAPTER, examples()).erank5
    connector = ADAPTER.model.get_submodule("model.multi_modal_projector")

    def drop(module: Any, args: Any, output: Any) -> Any:
        return torch.nn.functional.dropout(output, 0.5, training=module.training)

    handle = connector.register_forward_hook(drop)
    try:
        ADAPTER.model.train()
        ADAPTER.model.get_submodule("model.vision_tower").eval()  # as frozen parts are
        modes = [module.training for module in ADAPTER.model.modules()]
        assert align(ADAPTER, examples()).erank5 == expected
        assert [module.training for module in ADAPTER.model.modules()] == modes and {*modes} == {True, False}
        with pytest.raises(DataError, match="strict"):
            align(ADAPTER, [*examples(), Example("x", None, "a", "b")], strict=True)
        assert [module.training for module in ADAPTER.model.modules()] == modes
    finally:
        handle.remove()
        ADAPTER.model.eval()


@pytest.mark.parametrize("lacks", ["image_tokens", "vision_points", "decode", "untrained"])
def test_what_an_adapter_lacks_is_named(lacks: str) -> None:
    kept = [name for name in dir(ADAPTER) if not name.startswith("_") and name != lacks]
    partial = SimpleNamespace(**{name: getattr(ADAPTER, name) for name in kept})
    with pytest.raises(TypeError, match=f"SimpleNamespace is no adapter yet: it lacks {lacks};"):
        align(partial, examples())


def test_tables_in_memory_are_told_how_to_become_examples() -> None:
    frame = pd.DataFrame({"picture": [None], "answer": ["a"]})
    tables: list[tuple[Any, str]] = [(frame, "DATA"), (pa.Table.from_pandas(frame), "DATA.to_pandas()")]
    for table, named in tables:
        with pytest.raises(TypeError, match="a table of the columns picture, answer; mmerank.load_data") as caught:
            align(ADAPTER, table)
        assert f"load_data({named}, image=COLUMN" in str(caught.value)
    with pytest.raises(TypeError, match="or a table, got Table, a table of the columns picture"):
        load_data(tables[1][0])
    with pytest.raises(DataError, match="say which column holds the text, response=COLUMN; columns: picture, answer"):
        load_data(frame)
    splits: Any = {"train": frame, "test": frame}
    with pytest.raises(TypeError, match="tables by name: train, test; choose one of them"):
        align(ADAPTER, splits)
    with pytest.raises(TypeError, match="which mmerank.align, perturb and diff take as they are"):
        load_data(examples())
    with pytest.raises(TypeError, match="or a table, got the path data.json; write 'llava:FILE"):
        load_data(Path("data.json"))


def test_limit_and_seed() -> None:
    pairs = [Example(f"{i}", examples()[0].image, "What?", f"Number {i} of ten.") for i in range(10)]
    assert {r.example for r in align(ADAPTER, pairs, limit=4).records} == {"0", "1", "2", "3"}
    drawn = {r.example for r in align(ADAPTER, pairs, limit=4, seed=123).records}
    assert len(drawn) == 4 and drawn != {"0", "1", "2", "3"}
    assert drawn == {r.example for r in align(ADAPTER, pairs, limit=4, seed=123).records}
    assert align(ADAPTER, pairs, limit=99, seed=1).n == 10


def test_pixel_limit() -> None:
    result = align(ADAPTER, examples(), max_pixels=5000)
    assert result.n == 1 and [s.reason for s in result.skipped] == [
        "the picture: 96 x 64 px is over the limit of 0.005 megapixels (--max-megapixels)",
        "the picture: 64 x 96 px is over the limit of 0.005 megapixels (--max-megapixels)",
    ]


class Interrupted(Exception):
    pass


def interrupted(count: int) -> Iterator[Example]:
    for i, example in enumerate(examples()):
        if i == count:
            raise Interrupted
        yield example


def test_run_folder_is_continued(tmp_path: Path, golden_pairs: Path, golden: Path) -> None:
    data = load_data(f"llava:{golden_pairs}?images={golden}/images")
    whole = align(ADAPTER, data)
    folder = tmp_path / "run"
    part = align(ADAPTER, data, out=folder)
    (records,) = (folder / "records").glob("*.parquet")
    assert part.erank5 == whole.erank5
    seen: list[str] = []
    handle = at_the_encoder(lambda _: seen.append("picture"))
    try:
        again = align(ADAPTER, data, out=folder)
    finally:
        handle.remove()
    assert seen == [] and again.erank5 == whole.erank5 and again.n == 3
    assert list((folder / "records").glob("*.parquet")) == [records]
    with pytest.raises(RunFolderError, match="convention.tokens"):
        align(ADAPTER, data, out=folder, convention=Convention(tokens="modality"))
    with pytest.raises(RunFolderError, match="data.limit: null there, 2 here"):
        align(ADAPTER, data, out=folder, limit=2)


def test_what_was_measured_before_an_error_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = ADAPTER.encode_images
    calls = iter(range(10))

    def fail_at_the_third(*args: Any) -> Any:
        if next(calls) == 2:
            raise Interrupted
        return encode(*args)

    whole = align(ADAPTER, examples())
    monkeypatch.setattr(ADAPTER, "encode_images", fail_at_the_third)
    with pytest.raises(Interrupted):
        align(ADAPTER, examples(), out=tmp_path / "run")
    resumed = align(ADAPTER, examples(), out=tmp_path / "run")
    assert next(calls) == 4  # three, and the one that was missing
    assert [r.entropy for r in resumed.records] == [r.entropy for r in whole.records]
    assert all(np.array_equal(a.spectrum, b.spectrum) for a, b in zip(resumed.records, whole.records, strict=True))


def test_records_tell_the_rest_of_the_spectrum() -> None:
    for record in align(ADAPTER, examples()).records:
        p = record.spectrum.astype(np.float64)
        assert p.sum() == pytest.approx(1, abs=1e-5) and len(p) == min(record.n, record.d)
        p = p[p > 0]
        assert record.entropy == pytest.approx(-(p * np.log(p)).sum(), abs=1e-5)
        assert record.participation_ratio == pytest.approx(1 / (p**2).sum(), rel=1e-5)
        assert record.top_share == pytest.approx(p[0], rel=1e-5)


def test_run_folder_knows_data_given_as_a_list(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    align(ADAPTER, examples()[:2], out=folder)
    swapped = [replace(example, response="Something else.") for example in examples()[:2]]
    for other in (examples(), examples()[1:], swapped, examples()[:1]):
        with pytest.raises(RunFolderError, match="data.fingerprint"):
            align(ADAPTER, other, out=folder)
    turned = [replace(example, image=example.image.rotate(90)) for example in examples()[:2]]  # type: ignore[union-attr]
    with pytest.raises(RunFolderError, match="data.fingerprint"):
        align(ADAPTER, turned, out=folder)
    with pytest.raises(RunFolderError, match="max_pixels"):
        align(ADAPTER, examples()[:2], out=folder, max_pixels=5)
    assert align(ADAPTER, iter(examples()[:2]), out=folder).n == 2
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["results"][0]["n"] == 2


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"limit": -2}, {"seed": 3}])
def test_limit_and_seed_are_checked(arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="limit"):
        align(ADAPTER, examples(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["demo", Path("demo"), 3, None])
def test_examples_are_checked(wrong: Any) -> None:
    with pytest.raises(TypeError, match="expected mmerank.Example objects, got .*; mmerank.load_data"):
        align(ADAPTER, wrong)


@pytest.mark.parametrize("wrong", ["demo", None, OPT.adapter])
def test_what_is_no_multimodal_model_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"mmerank.load\(MODEL\) returns, got {type(wrong).__name__};"):
        align(wrong, examples())
    with pytest.raises(TypeError, match=rf"mmerank.load\(MODEL\) returns, got {type(wrong).__name__};"):
        perturb(wrong, examples(), ["rotate:90"])


@pytest.mark.parametrize("with_folder", [False, True])
def test_what_is_no_example_is_refused(with_folder: bool, tmp_path: Path) -> None:
    wrong: Any = [1, 2]
    with pytest.raises(TypeError, match=r"expected mmerank.Example objects, got int among them; Example\(ID"):
        align(ADAPTER, wrong, out=tmp_path / "run" if with_folder else None)
    with pytest.raises(TypeError, match="got int among them"):
        perturb(ADAPTER, wrong, ["rotate:90"])


def test_a_choice_of_examples_is_said() -> None:
    assert "n = 2 of 2 examples (the first 2)" in str(align(ADAPTER, examples(), limit=2))
    assert f"n = {len(examples())} of {len(examples())} examples\n" in str(align(ADAPTER, examples(), limit=1000))
    drawn = align(ADAPTER, examples(), limit=2, seed=1)
    assert "(drawn with seed 1)" in str(drawn) and (drawn.to_dict()["limit"], drawn.to_dict()["seed"]) == (2, 1)


def test_batches_follow_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []
    decode = type(ADAPTER).decode

    def spy(adapter: Any, sequences: Any, images: Any) -> None:
        shapes.append((len(sequences), max(map(len, sequences))))
        decode(adapter, sequences, images)

    monkeypatch.setattr(type(ADAPTER), "decode", spy)
    align(ADAPTER, examples(), batch_tokens=0)
    assert {rows for rows, _ in shapes} == {1}
    shapes.clear()
    align(ADAPTER, examples(), batch_tokens=10_000)
    assert max(rows for rows, _ in shapes) == 3


def test_one_degenerate_example_leaves_the_others() -> None:
    connector = ADAPTER.model.get_submodule("model.multi_modal_projector")
    calls = iter(range(3))

    def flatten_the_first(module: Any, args: Any, output: Any) -> Any:
        return output[:, :1].expand_as(output) if next(calls) == 0 else None

    handle = connector.register_forward_hook(flatten_the_first)
    try:
        result = align(ADAPTER, examples())
    finally:
        handle.remove()
    (skipped,) = result.skipped
    assert result.n == 2 and "hook point 'connector'" in skipped.reason
    assert {r.example for r in result.records} == {"0", "1", "2"} - {skipped.id} and len(result.records) == 10


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"response": "x \ud800 y"}, "the response holds half of a surrogate pair"),
        ({"id": "\ud800"}, "the id holds half of a surrogate pair"),
        ({"response": 5}, "the response is a number (5), expected text"),
        ({"id": 7.5}, "the id is a number (7.5), expected text"),
        ({"image": 3.5}, "the image is a number (3.5), expected a path, a file's content or a PIL picture"),
        ({"image": (Image.new("L", (9, 9)),) * 2}, "reads one (its adapter takes no more)"),
        ({"image": [Image.new("L", (9, 9)), 7]}, "the image is a list of 2, whose picture 2 is a number (7)"),
        ({"image": []}, "the image is an empty list, expected a path"),
        ({"image": Image.new("1", (300_000, 10))}, "padded to a square, it has 300000 x 300000 px, over the limit"),
    ],
)
def test_examples_that_no_tokenizer_or_table_takes(changed: dict[str, Any], reason: str, tmp_path: Path) -> None:
    bad = replace(examples()[0], **{"id": "bad", **changed})
    result = align(ADAPTER, [bad, *examples()], out=tmp_path / "run")
    assert result.n == 3 and reason in result.skipped[0].reason
    json.dumps(result.to_dict()).encode()


def test_a_very_long_picture_is_not_scaled_for_the_crop() -> None:
    long = Example("long", Image.new("1", (300_000, 10)), "a", "b")
    result = align(ADAPTER, [long, *examples()], convention=Convention(image_layout="crop"))
    assert result.n == 3 and "scaled for the crop" in result.skipped[0].reason


def test_one_example_under_two_ids_is_told(tmp_path: Path) -> None:
    first = examples()[0]
    again = [Example(name, first.image, first.instruction, first.response) for name in ("a", "b", "c")]
    result = align(ADAPTER, [*again, *examples()[1:]], out=tmp_path / "run")
    said = "2 examples have the text and picture of another one, as 'b' those of 'a', and count as others do"
    assert f"  caution: {said}" in str(result)
    assert any(said in line for line in cautions(result._runs))
    assert "of another one" not in str(align(ADAPTER, [*again[:1], *examples()[1:]]))


def test_rows_that_no_example_has_make_no_table() -> None:
    short = [Example(name, examples()[0].image, "", "A cat.") for name in ("a", "b")]
    plain = align(ADAPTER, short)
    image, text = (min(r.n for r in plain.records if r.input == kind) for kind in ("image", "text"))
    assert text < image  # else it is refused before anything is measured
    shown = str(align(ADAPTER, short, convention=Convention(match_tokens=image)))
    assert f"caution: no example has {image} rows everywhere" in shown and f"--match-tokens {text} would" in shown
    assert f"on {image} rows each" not in shown
    assert f"on {text} rows each, n = 2" in str(align(ADAPTER, short, convention=Convention(match_tokens=text)))


def test_texts_that_were_cut_are_named() -> None:
    long = Example("long", examples()[0].image, "", "word " * 5000)
    shown = str(align(ADAPTER, [long, *examples()]))
    assert "text cut at the model's limit: 1 of the examples (long)" in shown
