"""The compression study: its questions, what is made of its runs, and the page."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mmerank.inputs.demo import PAIRS
from mmerank.inputs.demo.scenes import described, scene
from mmerank.inputs.questions import load_questions
from mmerank.models.changed import change
from scripts import compression
from scripts.compression_questions import CHOICES, SLOTS, nearly, questions

ROOT = Path(__file__).parents[1]


def test_choices_differ_in_one_slot_of_one_object() -> None:
    for i in range(PAIRS, PAIRS + 6):
        asked = scene("held-out", i)
        others = nearly(asked, random.Random(0))
        assert len({other.description for other in others} | {asked.description}) == CHOICES
        for place, other in enumerate(others):
            ours, theirs = (set(described(of.description).values()) for of in (asked, other))
            (gone,), (new,) = ours - theirs, theirs - ours
            assert [slot for slot in SLOTS if getattr(gone, slot) != getattr(new, slot)] == [SLOTS[place % 4]]


def test_questions_are_read_as_they_are_written(tmp_path: Path) -> None:
    found = list(load_questions(f"choices:{questions(tmp_path, 3)}", answers="texts"))
    scenes = [scene("held-out", PAIRS + i) for i in range(3)]
    assert [of.choices[of.right] for of in found] == [of.description for of in scenes]  # type: ignore[union-attr]


def test_an_answer_is_right_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    given = {"a": [-3.0, -1.0, -5.0], "b": [-4.0, -1.0, -2.5]}
    lines = [{"model": "m"}, *({name: {"loglikelihoods": of, "tokens": [2, 2, 4]}} for name, of in given.items())]
    (tmp_path / "answers/m.0.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "q.jsonl").write_text('{"id": "a", "answer": 1}\n{"id": "b", "answer": 2}\n')
    found = vars(compression)["_answers"](tmp_path, tmp_path / "q.jsonl")
    assert found.loc["a"].tolist() == [1.0, 0.5, 2.0] and found.loc["b"].tolist() == [0.0, 0.625, -1.5]


def test_the_mildest_from_which_on_a_number_differs() -> None:
    def row(way: str, strength: str, value: float, q: float) -> dict[str, object]:
        return {"model": "m", "way": way, "strength": strength, "quantity": "erank1", "value": value, "q": q, "p": q}

    rows = [row("", "", 2.0, 1.0), row("pruned", "0.1", 2.1, 0.01), row("pruned", "0.2", 2.0, 0.5)]
    rows += [row("pruned", "0.3", 2.05, 0.01), row("pruned", "0.4", 2.5, 0.01)]
    rows += [row("rounded", "8", 2.2, 0.01), row("rounded", "2", 2.0, 0.9)]
    found = pd.DataFrame(rows)
    found["difference"] = found["value"] - 2.0
    assert compression.first_moved(found, "m", "pruned", "erank1") == "0.3"
    assert compression.first_moved(found, "m", "pruned", "erank1", 0.05) == "0.4"
    assert compression.first_moved(found, "m", "rounded", "erank1") is None


def test_the_page_is_that_of_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = compression.read()
    assert compression.page(found) == compression.PAGE.read_text()
    stated = yaml.safe_load((ROOT / "studies/compression.yaml").read_text())
    ways = [options["each"]["wrap"] for job in stated["jobs"] for options in job.values()]
    assert ways[0] == ways[1]  # so that each number has its accuracy
    for wrap in filter(None, ways[0]):
        change(wrap)
    assert set(found["model"]) == set(stated["models"])
    assert len(found.groupby(["model", "way", "strength"])) == len(stated["models"]) * len(ways[0])
    # Accuracy and its exact McNemar p, by hand, where none was wrong before: 2 of the same sign have p = 2 / 2^2.
    some = found[(found["quantity"] == "accuracy") & found["value"].between(0.98, 0.99)].iloc[0]
    lost = round((1 - some["value"]) * some["n"])
    assert some["p"] == pytest.approx(min(2 / 2**lost, 1))
