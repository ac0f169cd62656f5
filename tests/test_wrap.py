"""`--wrap`: a function that changes a model once it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from transformers import AutoModelForImageTextToText, AutoProcessor

import mmerank
from mmerank.__main__ import main
from mmerank.errors import ModelError, UsageError
from mmerank.inputs.demo import MODELS
from mmerank.models.changed import change
from tests.adapters.text_cases import OPT
from tests.test_cli import run

ROOT = Path(__file__).parents[1]
COMPRESSION = ROOT / "studies" / "compression.py"
OWN = """
import torch

def halved(model, by=0.5, only=None):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(by)

def another(model):
    return torch.nn.Linear(2, 2)

def same(model):
    return model

def failing(model):
    raise RuntimeError("no room")

nothing = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


def linear(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, of) for name, of in model.named_modules() if isinstance(of, nn.Linear) and name != "lm_head"]


def test_pruned_as_torch_prunes() -> None:
    loaded = mmerank.load("demo-llava", device="cpu", wrap=f"{COMPRESSION}:pruned?amount=0.5")
    model = AutoModelForImageTextToText.from_pretrained(MODELS["demo-llava"], dtype=torch.float32)
    for _, layer in linear(model):
        prune.l1_unstructured(layer, "weight", amount=0.5)  # type: ignore[no-untyped-call]
    by_hand = mmerank.wrap(model, AutoProcessor.from_pretrained(MODELS["demo-llava"]), name="by hand")
    pairs = mmerank.load_data("demo")
    found, expected = (mmerank.align(of, pairs, limit=3) for of in (loaded, by_hand))
    assert [r.entropy for r in found.records] == pytest.approx([r.entropy for r in expected.records], abs=1e-9)
    assert found.model == "demo-llava + pruned(amount=0.5)"
    assert found.source["wrap"] == f"{COMPRESSION}:pruned?amount=0.5"
    assert found.source["weights"] != mmerank.align(mmerank.load("demo-llava"), pairs, limit=2).source["weights"]


def test_rounded_to_a_grid_of_each_output() -> None:
    whole = dict(linear(mmerank.load("demo-llava", device="cpu").model))
    rounded = dict(
        linear(mmerank.load("demo-llava", device="cpu", wrap=f"{COMPRESSION}:rounded?bits=3&part=llm").model)
    )
    for name, layer in rounded.items():
        w = whole[name].weight.detach().double().numpy()
        scale = np.abs(w).max(axis=1, keepdims=True) / 3  # of three bits with a sign
        expected = np.rint(w / scale) * scale if "language_model" in name else w
        np.testing.assert_allclose(layer.weight.detach().numpy(), expected, atol=1e-6)


def test_a_block_that_is_skipped_gives_what_it_is_given() -> None:
    adapter = mmerank.load("demo-minigpt-v2", device="cpu", wrap=f"{COMPRESSION}:skipped?layers=1.2")
    assert [type(block).__name__ == "PassedOn" for block in adapter.model.llama_model.layers] == [  # type: ignore[union-attr]
        i in (1, 2) for i in range(4)
    ]
    with mmerank.capture(
        adapter.model, {"in": ("llama_model.layers.1", "input"), "out": "llama_model.layers.2"}
    ) as h:
        adapter.decode([adapter.sequence(next(iter(mmerank.load_data("demo"))), "text", "bare")], None)  # type: ignore[arg-type]
    assert torch.equal(h["in"], h["out"])


def test_a_language_model_and_not_its_twin(own: Path) -> None:
    loaded = mmerank.load_text(OPT.folder, device="cpu", wrap=f"{own}:halved")
    whole = mmerank.load_text(OPT.folder, device="cpu")
    assert loaded.name == f"{OPT.folder} + halved"
    for ours, theirs in zip(loaded.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs / 2)
    twins = (of.untrained(0).model.parameters() for of in (loaded, whole))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*twins, strict=True))


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ("{own}", "expected FILE.py:NAME or package.module:NAME"),
        ("{own}:halved?by", "got 'by'"),
        ("{own}:halfed", "has no 'halfed'; did you mean halved?"),
        ("{own}:nothing", "expected a function, got int"),
        ("{own}.py:halved", "no such file"),
        ("no.such.module:f", "no.such.module cannot be imported"),
    ],
)
def test_what_cannot_be_meant(own: Path, stated: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    named = stated.format(own=own)
    with pytest.raises(UsageError, match="--wrap") as raised:
        change(named)
    assert said in str(raised.value)
    with pytest.raises(SystemExit) as stopped:
        main(["align", "demo-llava", "--data", "demo", "--wrap", named])
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_what_a_function_may_do(own: Path) -> None:
    class Loaded:
        model, source = nn.Linear(2, 2), {"adapter": "x"}

    for name, said in {"another": "has to be changed in place", "failing": "RuntimeError: no room"}.items():
        with pytest.raises(ModelError, match=said):
            change(f"{own}:{name}").make(Loaded())
    with pytest.raises(ModelError, match="unexpected keyword"):
        change(f"{own}:same?with=1").make(Loaded())
    before = Loaded.model.weight.clone()
    halved = change(f"{own}:halved?by=0.25&only=null")
    assert (halved.name, halved.options) == ("halved(by=0.25, only=None)", {"by": 0.25, "only": None})
    loaded = Loaded()
    halved.make(loaded)
    assert torch.equal(loaded.model.weight, before / 4) and loaded.source["wrap"] == halved.stated
    change(f"{own}:same").make(loaded)


def test_an_encoder_alone_has_none(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["perturb", "timm:vit_tiny", "--data", "demo", "--transform", "blank", "--wrap", f"{own}:same"])
    assert "--wrap: an encoder alone has none" in capsys.readouterr().err


def test_every_command_that_takes_it_changes_the_model(tmp_path: Path) -> None:
    few = ("--data", "demo", "--limit", "1", "--keep", "0.5", "--by", "random", "--draws", "1", "--json", "-")
    wrap = f"{COMPRESSION}:pruned?amount=0.5"
    done = run("prune-study", "demo-llava", *few, "--wrap", wrap)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    loaded = mmerank.load("demo-llava", device="cpu", wrap=wrap)
    assert result["model"] == loaded.name and result["source"]["wrap"] == wrap
