"""The benchmarks run from end to end at their smallest size; what they time is not looked at here."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from benchmarks.__main__ import CASES, main
from benchmarks.clock import ratio
from benchmarks.recipe import recipe_entropy
from tests import reference


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("benchmarks") / "speed.json"
    main(["--size", "tiny", "--rounds", "1", "--examples", "1", "--json", str(path)])
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_every_case_is_written_with_the_machine(content: dict[str, Any]) -> None:
    assert tuple(content["cases"]) == CASES and content["clock"] == "processor"
    assert content["machine"].keys() >= {"processor", "threads", "gpu", "python", "torch", "transformers", "mmerank"}


@pytest.mark.parametrize("case", CASES)
def test_ratios_are_finite_and_positive(content: dict[str, Any], case: str) -> None:
    for line in content["cases"][case]:
        assert line["ratios"]
        for found in line["ratios"].values():
            assert 0 < found["low"] <= found["median"] <= found["high"] < math.inf and found["rounds"] >= 1
        values = [*line.get("seconds", {}).values(), *line.get("tflops", {}).values()]
        assert values and all(0 < value < math.inf for value in values)
        if case in ("text", "layers", "llava", "minigpt"):
            assert line["peak_mb"].keys() >= {"bare", "mmerank"}


def test_passes_that_are_shared_save_operations(content: dict[str, Any]) -> None:
    """By counting tokens alone: without transforms, all positions over those of text and pair; then text once."""
    image, text = 576 + 1, 120 + 1
    pair = image + text - 1
    found = {
        line["transforms"]: line["ratios"]["naive / mmerank"]["median"]
        for line in content["cases"]["flops"]
        if line["model"].startswith("LLaVA-1.5-7B")
    }
    # The encoder's share and attention make a few percent.
    assert found[0] == pytest.approx((image + text + pair) / (text + pair), rel=0.06)
    assert found[10] == pytest.approx(11 * (image + text + pair) / (text + 11 * pair), rel=0.06)


def test_the_recipe_is_the_published_one() -> None:
    h = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
    assert float(recipe_entropy(h)) == pytest.approx(reference.entropy(h.numpy()), rel=1e-4)


def test_ratio_is_taken_within_rounds() -> None:
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == {"median": 2.0, "low": 1.0, "high": 3.0, "rounds": 3}
    assert ratio([6.0], [1.0, 2.0, 3.0]) == {"median": 3.0, "low": 2.0, "high": 6.0, "rounds": 3}


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["kernels"])
    assert "unknown case 'kernels'; known: kernel, text" in capsys.readouterr().err
