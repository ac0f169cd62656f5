"""CLIPScore, with a small open_clip model of random weights in a local file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import mmerank.jobs.clip
from mmerank import Alignment, Example, align
from mmerank.errors import DataError, ModelError, RunFolderError, UsageError
from mmerank.jobs.clip import Clip
from tests.adapters.cases import LLAVA, examples
from tests.test_cli import failure

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
NORMALISED = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in open_clip's own layout, and its weights in a file of their own."""
    path = tmp_path_factory.mktemp("clip")
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": NORMALISED}))
    (path / "tiny-clip.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path / "tiny-clip.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("tiny-clip")
    torch.save(model.state_dict(), path / "open_clip_pytorch_model.bin")
    return path


@pytest.fixture(scope="module")
def names(folder: Path) -> list[str]:
    return [f"local-dir:{folder}", f"tiny-clip:{folder}/open_clip_pytorch_model.bin"]


def by_definition(folder: Path) -> list[float]:
    """2.5 * max(cos(c, v), 0), from the model's raw features."""
    model: Any = open_clip.create_model("tiny-clip")
    model.load_state_dict(torch.load(folder / "open_clip_pytorch_model.bin", weights_only=True))
    model.eval()
    preprocess = open_clip.image_transform(32, is_train=False, **NORMALISED)
    scores = []
    for example in examples():
        with torch.no_grad():
            v = model.encode_image(preprocess(example.image)[None])[0].double().numpy()
            tokens = open_clip.tokenize(["A photo depicts " + example.response], context_length=77)
            c = model.encode_text(tokens)[0].double().numpy()
        scores.append(2.5 * max(float(v @ c / np.linalg.norm(v) / np.linalg.norm(c)), 0.0))
    return scores


def test_clip_score_is_that_of_the_definition(folder: Path, names: list[str]) -> None:
    for name in names:
        result = align(LLAVA.adapter, examples(), clip=name)
        assert result.companions is not None and set(result.companions) == {"clip_score"}
        found = result.companions["clip_score"]
        assert found["value"] == pytest.approx(np.mean(by_definition(folder)), rel=1e-5)
        assert found["model"] == name and found["texts_cut"] == 0
        assert json.loads(json.dumps(result.to_dict()))["companions"]["clip_score"] == found
        assert "CLIPScore" in str(result)


def test_texts_that_are_cut_are_counted(names: list[str]) -> None:
    clip = Clip(names[0], torch.device("cpu"))
    (example, *_) = examples()
    prompt = len(open_clip.tokenizer.SimpleTokenizer().encode("A photo depicts "))
    fits = 77 - 2 - prompt  # beside start and end; a cat is one token
    for words, cut in ((1, False), (fits, False), (fits + 1, True), (500, True)):
        text = type(example)(example.id, example.image, "", " ".join(["cat"] * words))
        assert clip.embed(text)[2] == cut


def test_run_folder_keeps_the_embeddings(names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    first = align(LLAVA.adapter, examples(), clip=names[0], out=run)
    kept = pq.read_table(run / "clip.parquet")
    assert kept["example"].to_pylist() == ["0", "1", "2"]

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(Clip, "embed", never)
    assert Alignment.from_run(run).to_dict() == first.to_dict()
    again = align(LLAVA.adapter, examples(), clip=names[0], out=run)
    assert again.companions == first.companions
    with pytest.raises(RunFolderError, match=r"clip.parquet: embeddings by local-dir:.*, not by tiny-clip:"):
        align(LLAVA.adapter, examples(), clip=names[1], out=run)


def other_vector(table: pa.Table) -> pa.Table:
    vectors = [[0.0] * 15 + [1.0], *table["image"].to_pylist()[1:]]
    return table.set_column(1, "image", pa.array(vectors, pa.list_(pa.float32())))


DAMAGE: dict[str, Callable[[pa.Table], pa.Table]] = {
    "its content is not what was written": other_vector,
    "an example stands there twice": lambda t: pa.concat_tables([t, t.slice(0, 1)]),
    "no unit vector": lambda t: t.set_column(2, "text", pa.array([[2.0]] * 3, pa.list_(pa.float32()))),
    "of different lengths": lambda t: t.set_column(2, "text", pa.array([[1.0], [1.0], []], pa.list_(pa.float32()))),
    "other columns": lambda t: t.drop_columns(["text_cut"]),
    "other columns than those of": lambda t: t.replace_schema_metadata({}),
    "a value is missing": lambda t: t.set_column(3, "text_cut", pa.nulls(3, pa.bool_())),
}


@pytest.mark.parametrize("reason", [*DAMAGE, "file size"])
def test_damaged_embeddings_are_set_aside_and_computed_again(reason: str, names: list[str], tmp_path: Path) -> None:
    first = align(LLAVA.adapter, examples(), clip=names[0], out=tmp_path)
    file = tmp_path / "clip.parquet"
    if reason in DAMAGE:
        pq.write_table(DAMAGE[reason](pq.read_table(file)), file)
    else:
        file.write_bytes(b"PAR1")
    with pytest.warns(UserWarning, match=f"clip.parquet is damaged .*{reason}.* computed again"):
        again = align(LLAVA.adapter, examples(), clip=names[0], out=tmp_path)
    assert again.companions == first.companions
    assert file.with_name("clip.parquet.damaged").exists()


def test_embeddings_of_an_earlier_version_have_no_digest(names: list[str], tmp_path: Path) -> None:
    first = align(LLAVA.adapter, examples(), clip=names[0], out=tmp_path)
    file = tmp_path / "clip.parquet"
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({"clip": names[0]}), file)
    assert align(LLAVA.adapter, examples(), clip=names[0], out=tmp_path).companions == first.companions
    assert not (tmp_path / "clip.parquet.damaged").exists()


@pytest.mark.parametrize("every", [0.0, 60.0])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, DataError])
def test_what_is_embedded_is_kept(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: float, stop: type[BaseException]
) -> None:
    whole = align(LLAVA.adapter, examples(), clip=names[0])
    monkeypatch.setattr(mmerank.jobs.clip, "WRITE_EVERY_S", every)
    original, embedded = Clip.embed, list[str]()

    def embed(self: Clip, example: Example, **given: Any) -> Any:
        if len(embedded) == 2:
            assert (tmp_path / "run" / "clip.parquet").exists() == (every == 0)
            raise stop
        embedded.append(example.id)
        return original(self, example, **given)

    with monkeypatch.context() as patched:
        patched.setattr(Clip, "embed", embed)
        with pytest.raises(stop):
            align(LLAVA.adapter, examples(), clip=names[0], out=tmp_path / "run")
    assert pq.read_table(tmp_path / "run" / "clip.parquet")["example"].to_pylist() == embedded == ["0", "1"]
    again = align(LLAVA.adapter, examples(), clip=names[0], out=tmp_path / "run")
    assert again.companions == whole.companions


def test_only_what_was_measured_is_scored(names: list[str], tmp_path: Path) -> None:
    bad = type(examples()[0])("gone", tmp_path / "gone.jpg", "a", "b")
    result = align(LLAVA.adapter, iter([bad, *examples()]), clip=names[0])
    assert result.clip is not None and result.clip.ids == ("0", "1", "2")
    assert result.clip.images.shape == result.clip.texts.shape == (3, 16)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nonsense:openai", UsageError, "open_clip has no model 'nonsense'"),
        ("ViT-B-32", UsageError, "name the weights, as in ViT-B-32:FILE or ViT-B-32:TAG; tags: openai"),
        ("ViT-B-32:gone.pt", UsageError, "name the weights, as in ViT-B-32:FILE"),
        ("local-dir:/nowhere", ModelError, "--clip local-dir:/nowhere: cannot be loaded"),
    ],
)
def test_a_clip_that_is_not_there(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        align(LLAVA.adapter, examples(), clip=name)


def test_weights_of_another_model(folder: Path) -> None:
    (folder / "other.json").write_text(json.dumps({**CONFIG, "embed_dim": 8}))
    open_clip.add_model_config(folder / "other.json")
    with pytest.raises(ModelError, match="cannot be loaded"):
        Clip(f"other:{folder}/open_clip_pytorch_model.bin", torch.device("cpu"))


def test_command_line_says_it_in_one_line(golden_pairs: Path, golden: Path) -> None:
    data = f"llava:{golden_pairs}?images={golden}/images"
    status, line = failure("align", str(golden / "llava_tiny" / "hf_model"), "--data", data, "--clip", "ViT-B-32")
    assert status == 2 and "--clip ViT-B-32: names no weights" in line
