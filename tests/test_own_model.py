"""Adapters of one's own: the one of the documents, and what it may do without."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmerank import Convention, align, load, load_data
from mmerank.__main__ import guarded
from mmerank.errors import ModelError, UsageError
from tests.adapters.cases import LLAVA
from tests.test_docs import FENCE, ROOT


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """The classes of the page."""
    document = (ROOT / "docs" / "own-model.md").read_text()
    namespace: dict[str, Any] = {}
    for language, content in FENCE.findall(document):
        if language == "python" and "class My" in content:
            exec("import torch\n" + re.split(r"^mine =|^texts =", content, flags=re.MULTILINE)[0], namespace)
    return namespace


def test_an_adapter_does_without_a_tokenizer(shown: dict[str, Any], tmp_path: Path) -> None:
    with_one = shown["MyAdapter"](shown["MyModel"](), LLAVA.adapter.tokenizer, "mine")
    pairs, asked = load_data("demo"), Convention(rows=True)
    expected = align(with_one, pairs, convention=asked, limit=3)
    without = shown["MyAdapter"](with_one.model, None, "mine")
    without.sequence = with_one.sequence
    found = align(without, pairs, convention=asked, limit=3, out=tmp_path / "run")
    assert found.erank5 == expected.erank5 and found.n == 3
    # Rows are named by their ids.
    assert "[" in str(found.to_dict()) and found.image_text_alignment == expected.image_text_alignment


def written(shown: dict[str, Any], folder: Path, more: str = "", **keys: str) -> Path:
    """The classes of the page as a module, weights of a model of theirs, a tokenizer, and the page's YAML file."""
    document = (ROOT / "docs" / "own-model.md").read_text()
    code = [
        content for language, content in FENCE.findall(document) if "class MyModel" in content or "(Point(" in content
    ]
    (folder / "my_package").mkdir()
    module = "import torch\n" + re.split(r"^mine =", "\n".join(code), flags=re.MULTILINE)[0]
    (folder / "my_package" / "my_module.py").write_text(f"{module}\n\n{more}")
    torch.save(shown["MyModel"]().state_dict(), folder / "weights.pt")
    LLAVA.adapter.tokenizer.save_pretrained(folder / "tokenizer")
    (told,) = [yaml.safe_load(content) for language, content in FENCE.findall(document) if language == "yaml"]
    (folder / "mine.yaml").write_text(yaml.safe_dump(told | keys))
    return folder / "mine.yaml"


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def test_the_yaml_file_of_the_page_loads_the_adapter_of_the_page(shown: dict[str, Any], on_path: Path) -> None:
    adapter = load(written(shown, on_path), device="cpu")
    stored = torch.load(on_path / "weights.pt")
    assert all(torch.equal(value, stored[name]) for name, value in adapter.model.state_dict().items())
    assert align(adapter, load_data("demo"), limit=2).n == 2


def test_what_is_wrong_with_an_adapter_of_ones_own_is_said(shown: dict[str, Any], on_path: Path) -> None:
    load_it = "@classmethod\n    def load(cls, checkpoint, *, name, dtype, device): ..."
    more = f"class Bare: pass\n\nclass Old(MyAdapter):\n    {load_it}"
    file = written(shown, on_path, more, adapter="my_package.my_module:Bare")
    with pytest.raises(UsageError, match=r"is no adapter: it has no `load`; docs"):
        load(file, device="cpu")
    file.write_text("{adapter: 'my_package.my_module:Old', checkpoint: weights.pt}")
    with pytest.raises(
        ModelError, match=r"unknown key checkpoint \(checkpoint, the first parameter of its load, is the path"
    ):
        load(file, device="cpu")
    file.write_text("{adapter: 'my_packages.my_module:Old'}")
    with pytest.raises(UsageError, match="No module named 'my_packages'; install its package, or name .* PYTHONPATH"):
        load(file, device="cpu")


def test_a_failure_names_the_example(shown: dict[str, Any]) -> None:
    model = shown["MyModel"]()
    model.words = torch.nn.Embedding(20, 64)
    adapter = shown["MyAdapter"](model, LLAVA.adapter.tokenizer, "mine")
    pairs = list(load_data("demo"))[:1]
    with pytest.raises(ModelError, match=r"token \d+ has no row in the model's embedding of 20") as raised:
        align(adapter, pairs)
    assert raised.value.__notes__ == [f"while measuring example {pairs[0].id!r}"]
    adapter.model.words = torch.nn.Embedding(20, 64)
    del adapter.model.words.num_embeddings  # as of a module that is not torch's
    with pytest.raises(IndexError) as index:
        align(adapter, pairs)
    assert index.value.__notes__ == [f"while measuring example {pairs[0].id!r}"]


def test_the_command_line_says_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> None:
        def share(h: Any) -> float:
            return 1 / int(len(h) - len(h))

        align(LLAVA.adapter, list(load_data("demo"))[:1], metrics=[share])

    with pytest.raises(SystemExit):
        guarded(run)
    said = capsys.readouterr().err
    assert "metric 'share' failed: ZeroDivisionError" in said and "; while measuring example '" in said


def test_points_that_are_missing_are_named(shown: dict[str, Any]) -> None:
    adapter = shown["MyAdapter"](shown["MyModel"](), LLAVA.adapter.tokenizer, "mine")
    whole = adapter.points
    adapter.points = {name: point for name, point in whole.items() if name != "llm"}
    with pytest.raises(TypeError, match="MyAdapter is no adapter yet: its points have no llm"):
        align(adapter, load_data("demo"), limit=1)
    adapter.points, adapter.vision_points = whole, {}
    with pytest.raises(TypeError, match="its vision_points have no default"):
        align(adapter, load_data("demo"), limit=1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rows": "yes"}, "rows: expected True or False, got 'yes'"),
        ({"match_tokens": "3"}, "match_tokens: expected a whole number, or None, got '3'"),
        ({"match_repeats": True}, "match_repeats: expected a whole number, got True"),
        ({"token_curve": 4}, "token_curve: expected a list, got 4"),
        ({"metrics": "stable_rank"}, "metrics: expected a list, got 'stable_rank'"),
    ],
)
def test_choices_of_another_type(given: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Convention(**given)
    assert Convention(token_curve=[4, 8]).token_curve == (4, 8)  # type: ignore[arg-type]
