"""Adapters of one's own: the one of the documents, and what it may do without."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mmerank import Convention, align, load_data
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
