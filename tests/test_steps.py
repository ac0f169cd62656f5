"""Checkpoints in the order of their steps; whatever else there is stays where it was put."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mmerank.analysis.steps import by_step, stated_step
from tests.adapters.text_cases import OPT
from tests.test_cli import run
from tests.test_diff_erank import other_weights, texts


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["c/checkpoint-100", "c/checkpoint-20"], ["c/checkpoint-20", "c/checkpoint-100"]),
        (["m@step16000", "m@main", "m@step512"], ["m@step512", "m@main", "m@step16000"]),
        (["m@s1-step1000-tokens5B", "m@s1-step900-tokens4B"], ["m@s1-step900-tokens4B", "m@s1-step1000-tokens5B"]),
        (["b/ckpt_10/", "a/ckpt_9", "b/ckpt_2/", "a/ckpt_1"], ["b/ckpt_2/", "a/ckpt_1", "b/ckpt_10/", "a/ckpt_9"]),
        (["iter_0010", "iter_0009", "e.epoch-9"], ["iter_0009", "iter_0010", "e.epoch-9"]),
        (["opt-350m", "opt-125m", "seed-2", "seed-1"], ["opt-350m", "opt-125m", "seed-2", "seed-1"]),
        ([], []),
    ],
)  # fmt: skip
def test_order(given: list[str], expected: list[str]) -> None:
    assert by_step(given) == expected


def test_names_without_a_step() -> None:
    assert stated_step("gpt2") is None and stated_step("a/seed-1") is None and stated_step("step") is None


def test_models_of_one_command_are_compared_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given as a shell lists them; what a shared untrained model brings is no test."""
    monkeypatch.setenv("MMERANK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "texts.txt").write_text("\n".join(example.text for example in texts()) + "\n")
    monkeypatch.chdir(tmp_path)  # the words of long paths may begin a line anywhere
    folders = [
        Path(other_weights(OPT, tmp_path / f"checkpoint-{step}", 1 + step / 1000)).name
        for step in (100, 1000, 20, 200, 3)
    ]
    done = run("diff", *folders, "--data", f"text:{tmp_path}/texts.txt", "--json", str(tmp_path / "all.json"))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if re.match(r"checkpoint-\d+  ", line)]  # of the first table
    assert [line.split()[0] for line in lines] == [f"checkpoint-{step}" for step in (3, 20, 100, 200, 1000)]
    found = json.loads((tmp_path / "all.json").read_text())["comparisons"]
    steps = [(int(c["a"].rpartition("-")[2]), int(c["b"].rpartition("-")[2])) for c in found]
    assert steps == [(3, 20), (20, 100), (100, 200), (200, 1000)]
    # Of the twelve numbers four are of the untrained model alone.
    shared = {"erank_untrained", "erank_fraction_untrained", "loss_untrained", "loss_untrained_per_token"}
    for comparison in found:
        assert set(comparison["fixed"]) == shared and comparison["tests"] == 4 * (12 - 4)
        for difference in comparison["differences"]:
            assert (difference["q"] is None) is (difference["quantity"] in shared)
    assert "over 32 tests" in done.stdout and "q -: equal in every example" in done.stdout
