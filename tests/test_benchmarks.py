"""The benchmarks run from end to end at their smallest size; what they time is not looked at here."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from benchmarks import recipe
from benchmarks.__main__ import CASES, main
from benchmarks.clock import covered, ratio
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
        if case in ("text", "layers", "llava", "minigpt", "pair-layers"):
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


def test_equal_work_is_compared_with_equal_work(content: dict[str, Any]) -> None:
    """Without losses the published code, with losses a script that has them; never one with the other."""
    for case in ("text", "layers"):
        (line,) = content["cases"][case]
        for name in line["ratios"]:
            above, below = name.split(" / ")
            assert above.endswith("with losses") == below.endswith("with losses"), name
        assert {"mmerank / published", "mmerank with losses / script with losses"} <= line["ratios"].keys()


def test_the_published_code_computes_no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is `AutoModel`, at whose last hidden states it looks; the script with losses has a head and labels."""
    from tests.adapters.text_cases import OPT

    adapter: Any = OPT.adapter
    of_head = list[int]()
    head = adapter.model.get_output_embeddings().register_forward_hook(lambda *_: of_head.append(1))
    looked_at = list[torch.Tensor]()

    def look(h: torch.Tensor) -> torch.Tensor:
        looked_at.append(h)
        return torch.zeros(())

    monkeypatch.setattr(recipe, "recipe_entropy", look)
    recipe.published_passes([adapter.model.base_model], adapter.tokenizer, ["a text of a few words"])
    assert not of_head and len(looked_at) == 1
    ids = adapter.token_ids("a text of a few words")
    recipe.script_passes([adapter.model], adapter.tokenizer, ["a text of a few words"])
    head.remove()
    assert of_head == [1]
    assert torch.equal(looked_at[0], looked_at[1]) and len(looked_at[0]) == len(ids)


def test_time_in_which_several_kernels_run_counts_once() -> None:
    assert covered([(5, 9), (0, 2), (1, 3), (6, 7)]) == 3 + 4
    assert covered([]) == 0


def test_ratio_is_taken_within_rounds() -> None:
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == {"median": 2.0, "low": 1.0, "high": 3.0, "rounds": 3}
    assert ratio([6.0], [1.0, 2.0, 3.0]) == {"median": 3.0, "low": 2.0, "high": 6.0, "rounds": 3}


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["kernels"])
    assert "unknown case 'kernels'; known: kernel, eigenvalues, text" in capsys.readouterr().err
