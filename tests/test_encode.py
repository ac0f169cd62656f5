"""Encoders alone: numbers against float64 numpy of states that hooks by hand have caught."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

import mmerank
from mmerank import Example, encode, load_data, load_encoder
from mmerank.analysis.results.encoding import NUMBERS
from mmerank.errors import DataError, ModelError, RunFolderError, UsageError
from mmerank.jobs.encode import Encoding
from mmerank.models.encoders.encoder import Encoder
from tests.encoder_models import MAX_TOKENS, save_clip, save_open_clip, save_siglip, save_siglip2, save_timm
from tests.reference import entropy
from tests.test_cli import failure, results, run

Rows = NDArray[np.float64]
N = 8


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [entry for entry in load_data("demo") if isinstance(entry, Example)][:N]


@dataclass
class Made:
    """An encoder, its result, and how its states are found by hand."""

    encoder: Encoder
    result: Encoding
    image_blocks: list[Any]
    text_blocks: list[Any]
    skip: int  # class tokens before the patches


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Made:
    encoder = load_encoder(str(save_clip(tmp_path_factory.mktemp("clip"))), device="cpu")
    model: Any = encoder.model
    images, texts = (list(side.encoder.layers) for side in (model.vision_model, model.text_model))
    return Made(encoder, encode(encoder, examples), images, texts, skip=1)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Made:
    encoder = load_encoder(str(save_siglip(tmp_path_factory.mktemp("siglip"))), device="cpu")
    model: Any = encoder.model
    images, texts = (list(side.encoder.layers) for side in (model.vision_model, model.text_model))
    return Made(encoder, encode(encoder, examples), images, texts, skip=0)


@pytest.fixture(scope="module")
def of_open_clip(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Made:
    encoder = load_encoder(save_open_clip(tmp_path_factory.mktemp("open_clip") / "model"), device="cpu")
    model: Any = encoder.model
    images, texts = (list(of.transformer.resblocks) for of in (model.visual, model))
    return Made(encoder, encode(encoder, examples), images, texts, skip=1)


@pytest.fixture(scope="module")
def of_timm(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Made:
    encoder = load_encoder(save_timm(tmp_path_factory.mktemp("timm") / "vit.pth"), device="cpu")
    model: Any = encoder.model
    return Made(encoder, encode(encoder, examples[:4], layers="first,middle"), list(model.blocks), [], skip=1)


@pytest.fixture(params=["clip", "siglip", "of_open_clip", "of_timm"])
def made(request: pytest.FixtureRequest) -> Made:
    found: Made = request.getfixturevalue(request.param)
    return found


def caught(blocks: list[Any], run: Callable[[], Any]) -> list[Rows]:
    """What leaves each block, (rows, width), and last what `run` returns, by hooks of torch's own."""
    states: list[Rows] = []

    def keep(_module: Any, _args: Any, out: Any) -> None:
        h = out[0] if isinstance(out, tuple) else out
        states.append(h[0].detach().double().numpy() if h.ndim == 3 else h.detach().double().numpy())

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        with torch.no_grad():
            vector = run()
    finally:
        for handle in handles:
            handle.remove()
    return [*states, vector[0].double().numpy()]


def by_hand(made: Made, examples: list[Example]) -> tuple[list[list[Rows]], list[list[Rows]]]:
    """States of pictures and of texts by example: patches of each block, and the embedding."""
    model: Any = made.encoder.model
    images, texts = [], []
    for example in examples:
        pixels = made.encoder.pixels(example.image)  # type: ignore[arg-type]
        if isinstance(pixels, dict):
            of_image = lambda: model.get_image_features(pixels["pixel_values"][None]).pooler_output  # noqa: B023, E731
        elif hasattr(model, "encode_image"):
            of_image = lambda: model.encode_image(pixels[None])  # noqa: B023, E731
        else:
            of_image = lambda: model.forward_head(model.forward_features(pixels[None]), pre_logits=True)  # noqa: B023, E731
        *states, vector = caught(made.image_blocks, of_image)
        images.append([*(h[made.skip :] for h in states), vector])
        if not made.text_blocks:
            continue
        tokenizer: Any = made.encoder.tokenizer  # type: ignore[attr-defined]
        if hasattr(model, "encode_text"):
            ids = tokenizer([example.response])
            real = int(ids[0].argmax()) + 1  # the end of the text has the highest id
            of_text = lambda: model.encode_text(ids)  # noqa: B023, E731
        else:
            fed = tokenizer(example.response, padding="max_length", truncation=True, return_tensors="pt")
            real = len(tokenizer(example.response, truncation=True)["input_ids"])
            of_text = lambda: model.get_text_features(**fed).pooler_output  # noqa: B023, E731
        *states, vector = caught(made.text_blocks, of_text)
        texts.append([*(h[:real] for h in states), vector])
    return images, texts


def unit(rows: list[Rows]) -> Rows:
    stacked = np.stack(rows)
    return np.asarray(stacked / np.linalg.norm(stacked, axis=1, keepdims=True))


def recall(queries: Rows, wanted: Rows, k: int) -> float:
    order = np.argsort(-(queries @ wanted.T), axis=1)[:, :k]
    return float(np.mean([i in order[i] for i in range(len(queries))]))


def test_numbers_are_those_of_the_definition(made: Made, examples: list[Example]) -> None:
    images, texts = by_hand(made, examples[: made.result.n])
    for of in made.result.layers:
        states = [each[of.layer - 1] for each in (images if of.side == "image" else texts)]
        assert of.trained.value == pytest.approx(np.exp(np.mean([entropy(h) for h in states])), rel=1e-6)
        assert of.rows == np.mean([len(h) for h in states]) and of.width == states[0].shape[1]
    numbers = {name: number.value for name, number in made.result.numbers.items()}
    x = unit([each[-1] for each in images])
    assert numbers["erank_images"] == pytest.approx(np.exp(entropy(x)), rel=1e-5)
    if not texts:
        assert set(numbers) == {"erank_images", "erank_images_untrained"}
        return
    y = unit([each[-1] for each in texts])
    assert numbers["erank_texts"] == pytest.approx(np.exp(entropy(y)), rel=1e-5)
    assert numbers["erank_joint"] == pytest.approx(np.exp(entropy(np.concatenate([x, y]))), rel=1e-5)
    assert numbers["modality_gap"] == pytest.approx(np.linalg.norm(x.mean(0) - y.mean(0)), rel=1e-5)
    assert numbers["matched_cosine"] == pytest.approx((x * y).sum(1).mean(), rel=1e-5, abs=1e-6)
    for k in (1, 5):
        assert numbers[f"image_to_text_at_{k}"] == recall(x, y, k)
        assert numbers[f"text_to_image_at_{k}"] == recall(y, x, k)


def test_patches_that_only_pad_a_picture_do_not_count(tmp_path: Path, examples: list[Example]) -> None:
    encoder = load_encoder(str(save_siglip2(tmp_path)), device="cpu")
    model: Any = encoder.model
    result = encode(encoder, examples[:2], layers="last")
    states = []
    for example in examples[:2]:
        fed = {name: of[None] for name, of in encoder.pixels(example.image).items()}  # type: ignore[arg-type]
        run_it = partial(model.get_image_features, **fed, return_dict=False)
        *of_blocks, _ = caught([model.vision_model.encoder.layers[-1]], run_it)
        height, width = fed["spatial_shapes"][0].tolist()
        assert height * width < len(of_blocks[0])
        states.append(of_blocks[0][: height * width])
    expected = np.exp(np.mean([entropy(h) for h in states]))
    assert result.layers[0].trained.value == pytest.approx(expected, rel=1e-6) and result.layers[0].layer == 3


def test_every_number_has_an_interval_and_stands_beside_an_untrained_twin(made: Made) -> None:
    found = json.loads(json.dumps(made.result.to_dict()))
    assert found["n"] == made.result.n
    for of in (found, found["untrained"]):
        there = {name for name in NUMBERS if of[name] is not None}
        moved = {name for name in there if "_at_" not in name}  # leaving out may not move a share
        assert moved <= of["intervals"].keys() <= there
        assert all(low <= of[name] <= high for name, (low, high) in of["intervals"].items())
    assert found["untrained"]["seed"] == 0 and found["untrained"]["erank_images"] != found["erank_images"]
    for layer in found["layers"]:
        assert layer["erank_interval"][0] <= layer["erank"] <= layer["erank_interval"][1]
        assert layer["erank_untrained"] != layer["erank"] and layer["erank_untrained_interval"] is not None


def test_a_seed_draws_the_same_twin_again_and_another_another(clip: Made) -> None:
    weights = [clip.encoder.untrained(seed).model.state_dict() for seed in (0, 0, 1)]
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(weights[0][name], weights[1][name]) and not torch.equal(weights[0][name], weights[2][name])


def test_a_vision_model_leaves_text_numbers_out_with_the_reason(of_timm: Made) -> None:
    found = of_timm.result.to_dict()
    assert found["undefined"] == {"text": "a vision model, which reads no text"}
    assert (
        found["modality_gap"] is None and found["image_to_text_at_1"] is None and found["retrieval_by_chance"] == {}
    )
    assert [(of.side, of.layer) for of in of_timm.result.layers] == [("image", 1), ("image", 3), ("image", 6)]
    assert "text is undefined: a vision model" in str(of_timm.result)


def test_layers_with_fewer_than_two_rows_are_left_out(tmp_path: Path, examples: list[Example]) -> None:
    encoder = load_encoder(save_timm(tmp_path / "r.pth", "test_resnet", num_classes=7), device="cpu")
    assert all(len(h) > 1 for h in encoder.images([encoder.pixels(examples[0].image)]).layers[0].values())  # type: ignore[arg-type]
    assert encode(encoder, examples[:2]).n == 2  # a head of other classes than the published one is not measured


def test_batching_changes_nothing(clip: Made, examples: list[Example]) -> None:
    batched = encode(clip.encoder, examples, batch_tokens=10_000)
    for one, other in zip(clip.result.layers, batched.layers, strict=True):
        assert one.trained.value == pytest.approx(other.trained.value, rel=1e-6)
    for name, number in clip.result.numbers.items():
        assert number.value == pytest.approx(batched.numbers[name].value, rel=1e-5, abs=1e-6)


def test_texts_that_are_too_long_are_cut_and_counted(clip: Made, of_open_clip: Made, examples: list[Example]) -> None:
    for of, most in ((clip, MAX_TOKENS), (of_open_clip, 77)):
        for words, cut in ((most - 2, 0), (most - 1, 1), (most + 98, 100)):
            read = of.encoder.tokens(" ".join(["cat"] * words))
            assert (len(read.ids), read.cut) == (most, cut)
    short = [Example(e.id, e.image, "", "a cat") for e in examples[:2]]
    long = Example("long", examples[0].image, "", " ".join(["cat"] * 100))
    result = encode(clip.encoder, [long, *short])
    assert result.text_cut == 1 and {r.text_cut for r in result.records if r.input == "text"} == {0, 102 - MAX_TOKENS}
    assert result.to_dict()["text_cut"] == result.text_cut and "the text of 1 cut at the encoder's limit" in " ".join(
        str(result).split()
    )


def test_a_token_of_the_id_that_open_clip_pads_with_is_one_of_the_text(of_open_clip: Made) -> None:
    assert of_open_clip.encoder.tokens("wow !~").ids[2:4] == (0, 349)


def test_examples_that_cannot_be_measured_are_skipped_with_the_reason(clip: Made, examples: list[Example]) -> None:
    image = examples[0].image
    bad = [
        Example("no picture", None, "", "a cat"),
        Example("no text", image, "what?", " "),
        Example("gone", Path("/nowhere.png"), "", "a cat"),
    ]
    result = encode(clip.encoder, [*examples, *bad])
    reasons = {entry.id: entry.reason for entry in result.skipped}
    assert result.n == N and reasons["no picture"] == "no image" and "no such file" in reasons["gone"]
    assert reasons["no text"] == "the response, which is what a text encoder reads, is empty"
    with pytest.raises(DataError, match="'no picture': no image"):
        encode(clip.encoder, bad, strict=True)


def limited(clip: Made, monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> list[int]:
    """Let the image encoder fail on more pictures at once; how many it was given each time."""
    images, given = clip.encoder.images, list[int]()

    def counted(pixels: Any) -> Any:
        given.append(len(pixels))
        if len(pixels) > most:
            raise error
        return images(pixels)

    monkeypatch.setattr(clip.encoder, "images", counted)
    return given


def test_a_first_batch_that_does_not_fit_is_halved(
    clip: Made, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = limited(clip, monkeypatch, 3, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.warns(UserWarning, match="out of memory with .* going on with at most"):
        result = encode(clip.encoder, examples, batch_tokens=8 * 41)  # 16 patches and at most 24 tokens each
    # One to learn its length; then a batch of all, since they are no longer than that, its half, and what fits.
    assert given == [1, 8, 4, 2, 2, 2, 2] and not result.skipped
    assert [r.entropy for r in result.records] == pytest.approx([r.entropy for r in clip.result.records], abs=1e-5)


def test_what_the_encoder_refuses_is_skipped_with_its_reason(
    clip: Made, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, tokens = clip.encoder.images, clip.encoder.tokens
    bad = clip.encoder.pixels(examples[2].image)["pixel_values"]  # type: ignore[arg-type]

    def refuse(pixels: Any) -> Any:
        if any(torch.equal(of["pixel_values"], bad) for of in pixels):
            raise ValueError("a picture of this kind")
        return images(pixels)

    def fail(text: str) -> Any:
        return tokens(text) if text != examples[5].response else 1 / 0

    monkeypatch.setattr(clip.encoder, "images", refuse)
    monkeypatch.setattr(clip.encoder, "tokens", fail)
    result = encode(clip.encoder, examples, batch_tokens=10_000)
    assert {entry.id: entry.reason for entry in result.skipped} == {
        examples[2].id: "the model fails on it (a picture of this kind)",
        examples[5].id: "its tokenizer fails on the text (division by zero)",
    }


def test_a_run_folder_is_continued(
    clip: Made, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode(clip.encoder, examples, out=tmp_path / "run")
    assert whole.numbers == clip.result.numbers
    part, _ = sorted((tmp_path / "run" / "records").glob("*.parquet"))
    part.unlink()
    read: list[str] = []
    original = type(clip.encoder).tokens
    monkeypatch.setattr(type(clip.encoder), "tokens", lambda self, text: read.append(text) or original(self, text))  # type: ignore[func-returns-value]
    again = encode(clip.encoder, examples, out=tmp_path / "run")
    assert again.numbers == whole.numbers and again.to_dict()["layers"] == whole.to_dict()["layers"]
    assert sum(text in {e.response for e in examples} for text in read) == N  # of the trained one alone
    with pytest.raises(RunFolderError, match="untrained_seed: 0 there, 1 here"):
        encode(clip.encoder, examples, out=tmp_path / "run", untrained_seed=1)


def test_records_that_a_run_cannot_have_written_are_set_aside(
    clip: Made, examples: list[Example], tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    from mmerank.runs.parts import write_part
    from mmerank.runs.record import records_of

    encode(clip.encoder, examples, out=tmp_path / "run")
    part = min((tmp_path / "run" / "records").glob("*.parquet"))
    records = [record for record in records_of(pq.read_table(part)) if record.point != "layer 2"]
    part.unlink()
    write_part(part.with_name("000000.parquet"), records)
    with pytest.warns(UserWarning, match="no measurement none, layer 2"):
        assert encode(clip.encoder, examples, out=tmp_path / "run").numbers == clip.result.numbers


def test_a_copy_of_the_weights_is_stated(tmp_path: Path) -> None:
    folder = save_clip(tmp_path)
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    assert load_encoder(str(folder), device="cpu").source["unread"] == ["consolidated.safetensors"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("open_clip:ViT-B-3:openai", UsageError, "open_clip has no model 'ViT-B-3'; nearest: ViT-B-32"),
        ("open_clip:ViT-B-32:nonsense", UsageError, "name the weights, as in ViT-B-32:FILE or ViT-B-32:TAG; tags: "),
        ("open_clip:ViT-B-32", UsageError, "names no weights"),
        ("timm:vit_base_patch16_225", UsageError, "timm has no model 'vit_base_patch16_225'; nearest: "),
        ("timm:vit_tiny_patch16_224.nonsense", UsageError, "timm has no weights 'nonsense' of vit_tiny_patch16_224"),
        ("timm:vit_tiny_patch16_224:/nowhere.pth", UsageError, "no such file, /nowhere.pth"),
        ("timm:local-dir:/nowhere", UsageError, "no such folder, /nowhere"),
        ("/nowhere/clip", ModelError, "no such folder"),
    ],
)
def test_names_that_name_nothing(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_encoder(name, device="cpu")


def test_weights_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said then measures random weights."""
    with pytest.raises(ModelError, match="cannot be loaded.*; for random weights, torch.save") as refused:
        load_encoder("timm:test_vit", device="cpu")
    said, _, name = str(refused.value).partition("; for random weights, ")[2].rpartition(" and ")
    monkeypatch.chdir(tmp_path)
    exec(said, {"torch": torch, "timm": pytest.importorskip("timm")})
    assert load_encoder(name, device="cpu").name == "timm:test_vit:random.pth"


def test_a_picture_and_a_text_go_through_an_encoder_once_at_load(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []

    def noted(side: str) -> Any:
        own = getattr(type(made.encoder), side)

        def run(self: Encoder, fed: Any) -> Any:
            runs.append(side)
            return own(self, fed)

        return run

    for side in ("images", "texts"):
        monkeypatch.setattr(type(made.encoder), side, noted(side))
    made.encoder.untrained(0)
    assert runs == ["images", "texts"][: 1 if "text" in made.encoder.undefined else 2]


def test_tokens_around_a_text_are_those_of_transformers_own_tokenizer(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"add_bos_token": False}))
    own = transformers.AutoTokenizer.from_pretrained(folder)("a red ball")["input_ids"]
    encoder = load_encoder(str(folder), device="cpu")
    assert encoder.tokens("a red ball").ids == tuple(own)


def test_checkpoints_that_are_not_wholly_used_or_lack_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_clip(tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    for change, message in (
        ({"nonsense.weight": torch.zeros(2)}, "1 weights are not understood .*nonsense.weight"),
        ({"visual_projection.weight": None}, "1 weights are not in the checkpoint .*visual_projection.weight"),
    ):
        left = {k: v for k, v in (weights | change).items() if v is not None}
        save_file(left, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=message):
            load_encoder(str(folder), device="cpu")
    name = save_timm(tmp_path / "vit.pth")
    stored = torch.load(tmp_path / "vit.pth", weights_only=True)
    for changed in ({**stored, "nonsense": torch.zeros(2)}, {k: v for k, v in stored.items() if k != "pos_embed"}):
        torch.save(changed, tmp_path / "vit.pth")
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_encoder(name, device="cpu")
    name = save_open_clip(tmp_path / "oc")
    file = tmp_path / "oc" / "open_clip_pytorch_model.bin"
    stored = torch.load(file, weights_only=True)
    torch.save({k: v for k, v in stored.items() if k != "text_projection"}, file)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_encoder(name, device="cpu")
    torch.save({**stored, "visual.positional_embedding": torch.randn(26, 32)}, file)
    with pytest.raises(ModelError, match="is of another size of picture or text: visual.positional_embedding"):
        load_encoder(name, device="cpu")


def test_other_models_are_told_where_to_go(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not embed pictures and texts in one space; .*`mmerank align`"):
        load_encoder(str(golden / "llava_tiny" / "hf_model"), device="cpu")
    folder = save_open_clip(tmp_path / "oc").removeprefix("open_clip:local-dir:")
    with pytest.raises(UsageError, match="a folder of open_clip; name it open_clip:local-dir:"):
        load_encoder(folder, device="cpu")
    with pytest.raises(TypeError, match="expected an encoder that mmerank.load_encoder"):
        encode(object(), [])  # type: ignore[arg-type]


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs open_clip, which is not installed; pip install open_clip_torch"):
        load_encoder("open_clip:ViT-B-32:openai")


def test_command_line(clip: Made, of_timm: Made, tmp_path: Path) -> None:
    names = [clip.encoder.name, of_timm.encoder.name]
    out = str(tmp_path / "run")
    done = run("encode", *names, "--data", "demo", "--limit", "3", "--layers", "first", "--out", out, "--json", "-")
    first, second = results(done)
    assert first["n"] == second["n"] == 3 and second["undefined"]["text"].startswith("a vision model")
    assert [(of["side"], of["layer"]) for of in first["layers"]] == [
        ("image", 1),
        ("image", 3),
        ("text", 1),
        ("text", 2),
    ]
    expected = encode(clip.encoder, load_data("demo"), limit=3, layers="first").to_dict()
    assert first["modality_gap"] == expected["modality_gap"] and first["untrained"] == expected["untrained"]
    shown = run("encode", *names, "--data", "demo", "--limit", "3", "--layers", "first", "--out", out)
    assert shown.returncode == 0 and len(shown.stdout.splitlines()) < 40 and "untrained" in shown.stdout
    status, line = failure("encode", "timm:resnet19", "--data", "demo")
    assert status == 2 and "timm has no model 'resnet19'; nearest: resnet1" in line
    status, line = failure("encode", names[0], "--data", "demo", "--layers", "last", "--device", "auto")
    assert status == 2 and "encoders run on one device" in line


def test_public_names() -> None:
    assert {"encode", "Encoding", "load_encoder"} <= set(mmerank.__all__)
