"""Numbers of benchmarks and one model's answers against another's, held against what is counted by hand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import mmerank
from mmerank.analysis.results.answers import Answer, compared_answers, numbers_of
from mmerank.analysis.results.score import ScoreResult
from mmerank.errors import RunFolderError, UsageError
from mmerank.inputs.questions import Question, circular, load_questions
from tests.test_cli import failure, run


def yes_no(right: list[int], said: list[float], per_picture: int = 1) -> list[Answer]:
    """Answers to questions of POPE: 0 is Yes; of what is said 1 is Yes, 0 No, and a half that both are as likely."""
    return [
        Answer(str(i), truth, (yes, 1 - yes), (1, 1), (3, 2), picture=str(i // per_picture), yes_no=True)
        for i, (truth, yes) in enumerate(zip(right, said, strict=True))
    ]


def test_f1_of_yes_as_counted() -> None:
    rng = np.random.default_rng(0)
    truth, said = rng.permutation([0, 1] * 30), rng.choice([0.0, 0.5, 1.0], 60, p=[0.35, 0.1, 0.55])
    found = numbers_of(yes_no(truth.tolist(), said.tolist(), 3))
    hits, wrong = said[truth == 0].sum(), said[truth == 1].sum()
    missed = (1 - said[truth == 0]).sum()
    assert found["precision"].value == pytest.approx(hits / (hits + wrong))
    assert found["recall"].value == pytest.approx(hits / (hits + missed))
    harmonic = stats.hmean([found["precision"].value, found["recall"].value])
    assert found["f1"].value == pytest.approx(harmonic)
    assert found["yes_rate"].value == pytest.approx(said.mean())
    assert found["acc"].value == pytest.approx(np.where(truth == 0, said, 1 - said).mean())
    assert next(iter(found)) == "acc"
    for name in ("f1", "precision", "recall", "yes_rate"):
        assert 0 <= found[name].low < found[name].value < found[name].high <= 1.1
        assert found[name].n == (30 if name == "recall" else 60)


def test_intervals_of_f1_hold_it() -> None:
    """Of 120 data sets of 40 pictures with 6 questions each, whose answers go together."""
    rng = np.random.default_rng(1)
    held, tries = 0, 120
    for _ in range(tries):
        skill = np.repeat(rng.beta(6, 2, 40), 6)
        truth = np.tile([0, 1], 120)
        right = rng.random(240) < skill
        found = numbers_of(yes_no(truth.tolist(), np.where(right, truth == 0, truth == 1).astype(float).tolist(), 6))
        held += found["f1"].low <= 0.75 <= found["f1"].high  # P(right) is 0.75 for Yes and No alike
    assert 0.89 <= held / tries <= 0.99


def test_nothing_answered_yes() -> None:
    found = numbers_of(yes_no([0, 1, 0, 1], [0.0] * 4))
    assert np.isnan(found["precision"].value) and np.isnan(found["precision"].low)
    assert found["recall"].value == 0 and found["f1"].value == 0 and found["yes_rate"].value == 0
    assert np.isnan(found["f1"].high), "four pictures that are alike tell nothing of others"
    assert found["yes_rate"].high > 0.4 and found["recall"].high > 0.4
    result = ScoreResult.of(yes_no([0, 1], [0, 0]), model="m", data="d", skipped=[], convention={})
    assert result.to_dict()["numbers"]["precision"] == {"value": None, "low": None, "high": None, "n": 2}


def lettered(id: str, right: int, likeliest: int, circle: str = "", picture: str = "") -> Answer:
    logs = tuple(-0.1 if i == likeliest else -3.0 for i in range(3))
    return Answer(id, right, logs, (1, 1, 1), (1, 1, 1), picture=picture, circle=circle)


def test_circular_counts_what_is_right_every_time() -> None:
    answers = [
        *(lettered("a", 0, 0), lettered("a1", 2, 2, "a"), lettered("a2", 1, 1, "a")),
        *(lettered("b", 1, 1), lettered("b1", 0, 0, "b"), lettered("b2", 2, 0, "b")),  # A whenever it can be
        *(lettered("c", 2, 2), lettered("c1", 1, 1, "c")),  # one order of it was not answered
    ]
    found = numbers_of(answers)
    assert found["acc_circular"].value == 0.5 and found["acc_circular"].n == 2
    assert found["acc"].value == 1 and found["acc"].n == 3, "as the benchmark asks"
    assert next(iter(found)) == "acc_circular"
    result = ScoreResult.of(answers, model="m", data="d", skipped=[], convention={})
    assert result.chance == pytest.approx(3**-3) and result.n == 2


def test_p_is_that_of_mcnemar() -> None:
    """Where each picture has one question, swapping sides is McNemar's exact test."""
    truth = [0] * 12
    a = yes_no(truth, [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1])
    b = yes_no(truth, [1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0])
    found = compared_answers(a, b, names=("a", "b"), quantities=["acc"])
    only_a, only_b = 8, 1
    assert found.exact and found.n == 12 and found.groups == 0
    assert found["acc"].difference == pytest.approx((only_a - only_b) / 12)
    assert found["acc"].p == pytest.approx(stats.binomtest(only_b, only_a + only_b).pvalue)


def test_answers_about_a_picture_are_swapped_together() -> None:
    truth, per = [0, 1, 0, 1] * 4, 4
    rng = np.random.default_rng(3)
    said = [rng.integers(0, 2, 16).astype(float) for _ in range(2)]
    a, b = (yes_no(truth, of.tolist(), per) for of in said)
    found = compared_answers(a, b, names=("a", "b"))
    assert found.n == 16 and found.groups == 4 and found.exact

    def f1(of: Any) -> float:
        hit = sum(yes for yes, right in zip(of, truth, strict=True) if right == 0)
        return float(2 * hit / (sum(of) + truth.count(0)))

    observed, every = f1(said[0]) - f1(said[1]), []
    for swap in itertools.product([False, True], repeat=4):
        taken = np.repeat(swap, per)
        every.append(f1(np.where(taken, said[1], said[0])) - f1(np.where(taken, said[0], said[1])))
    assert found["f1"].difference == pytest.approx(observed)
    assert found["f1"].p == pytest.approx(np.mean([abs(of) >= abs(observed) - 1e-12 for of in every]))


def test_what_cannot_be_compared() -> None:
    answers = yes_no([0, 1, 0], [1, 0, 1])
    for other, said in (
        ([Answer("x", 0, (0.0, -1.0), (1, 1), (3, 2), yes_no=True)], "questions in common"),
        (yes_no([1, 1, 0], [1, 0, 1]), "others under 1 of the ids"),
    ):
        with pytest.raises(ValueError, match=said):
            compared_answers(answers, other, names=("a", "b"))
    one = ScoreResult.of(answers, model="m", data="pope:a", skipped=[], convention={"sequence": "bare"})
    other_data = ScoreResult.of(answers, model="n", data="pope:b", skipped=[], convention={"sequence": "bare"})
    with pytest.raises(ValueError, match="same questions asked alike"):
        mmerank.compare(one, other_data)
    with pytest.raises(TypeError, match="two results of mmerank.score"):
        mmerank.compare(one, mmerank)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of the demo, each asked about twice; the captions of others are the wrong choices."""
    folder = tmp_path_factory.mktemp("questions")
    pairs: list[Any] = list(mmerank.load_data("demo"))[:6]
    rows = []
    for i, pair in enumerate(pairs):
        picture: Image.Image = pair.image
        picture.save(folder / f"{i}.png")
        for again in range(2):
            choices = [pairs[(i + step + again) % 6].response for step in (1, 2)]
            choices.insert(i % 3, pair.response)
            question = {"id": f"{i}{'ab'[again]}", "question": pair.instruction, "answer": "ABC"[i % 3]}
            rows.append({**question, "choices": choices, "image": f"{i}.png"})
    path = folder / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_choices_are_moved_on(file: Path) -> None:
    question = next(iter(load_questions(f"choices:{file}")))
    assert isinstance(question, Question)
    first, second, third = circular(question)
    assert first is question and {second.circle, third.circle} == {question.id}
    for moved, order in ((second, (1, 2, 0)), (third, (2, 0, 1))):
        listed = [line for line in moved.instruction.splitlines() if line[1:2] == "."]
        assert listed == [f"{letter}. {question.options[i]}" for letter, i in zip("ABC", order, strict=True)]
        assert moved.options[moved.right] == question.options[question.right]
        assert moved.response == "ABC"[moved.right] and moved.choices == question.choices
        assert moved.instruction.replace("\n".join(listed), "") == question.instruction.replace(
            "\n".join(line for line in question.instruction.splitlines() if line[1:2] == "."), ""
        )
    with pytest.raises(UsageError, match="not listed by letters"):
        circular(next(iter(load_questions(f"choices:{file}", answers="texts"))))  # type: ignore[arg-type]


def test_circular_from_the_command_line_and_from_its_folder(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    command = ["score", "demo-llava", "demo-minigpt-v2", "--data", f"choices:{file}", "--circular", "--limit", "8"]
    done = run(*command, "--sequence", "bare", "--out", str(out), "--json", str(tmp_path / "s.json"))
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "s.json").read_text())
    llava, minigpt = told["results"]
    assert llava["n"] == 8 and llava["chance"] == pytest.approx(1 / 27) and llava["convention"]["circular"]
    read = mmerank.Score.from_run(out, llava["model"])
    assert read.to_dict() == {**llava, "skipped": []}
    # By hand, from what the folder keeps of each order.
    answered = {of.id: of.loglikelihoods.index(max(of.loglikelihoods)) == of.right for of in read.answers}
    assert len(answered) == 24
    every = [
        all(right for id, right in answered.items() if id.partition("/")[0] == f"{i}{of}")
        for i in range(4)
        for of in "ab"
    ]
    assert llava["numbers"]["acc_circular"]["value"] == pytest.approx(np.mean(every))
    (against,) = told["comparisons"]
    compared = mmerank.compare(read, mmerank.Score.from_run(out, minigpt["model"]))
    assert compared["acc_circular"].difference == pytest.approx(against["differences"][0]["difference"])
    assert against["n"] == 8 and against["groups"] == 4
    with pytest.raises(RunFolderError, match="holds the scores of"):
        mmerank.Score.from_run(out)
    with pytest.raises(RunFolderError, match="no score.json"):
        mmerank.Score.from_run(tmp_path)
    status, said = failure("score", "demo-llava", "--data", "lm-eval:mmmu_val", "--circular")
    assert status == 2 and "in its own way" in said


def test_two_models_are_told_apart_in_the_terminal(file: Path) -> None:
    done = run(
        "score",
        "demo-llava",
        "demo-minigpt-v2",
        "--data",
        f"choices:{file}",
        "--answers",
        "texts",
        "--sequence",
        "bare",
    )
    assert done.returncode == 0, done.stderr
    assert "n = 12 in 6 groups" in done.stdout and "drawn and swapped together" in done.stdout
