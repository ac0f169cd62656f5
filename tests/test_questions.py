"""Questions from the files of benchmarks as they are published, and from one's own."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmerank import Question, load_questions
from mmerank.errors import DataError, UsageError
from mmerank.inputs.example import Skipped
from mmerank.inputs.pictures import open_pictures


def png(colour: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for colour in ("red", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(png(colour))
    return tmp_path


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def asked(data: str, **options: Any) -> list[Question]:
    entries = list(load_questions(data, **options))
    assert all(isinstance(entry, Question) for entry in entries), entries
    return [entry for entry in entries if isinstance(entry, Question)]


def reasons(data: str) -> list[str]:
    return [entry.reason for entry in load_questions(data) if isinstance(entry, Skipped)]


def test_pope(folder: Path) -> None:
    """Lines as POPE's coco_pope_adversarial.json has them, pictures elsewhere."""
    (folder / "pictures").mkdir()
    (folder / "red.png").rename(folder / "pictures" / "red.png")
    file = lines(
        folder / "coco_pope_adversarial.json",
        {"question_id": 1, "image": "red.png", "text": "Is there a cat in the image?", "label": "no"},
        {"question_id": 2, "image": "red.png", "text": "Is there a dog in the image?", "label": "yes"},
    )
    first, second = asked(f"pope:{file}?images={folder}/pictures")
    assert first.instruction == "Is there a cat in the image?\nAnswer the question using a single word or phrase."
    assert first.choices == ("Yes", "No") and (first.right, second.right) == (1, 0)
    assert first.id == "1" and first.picture == second.picture == "red.png"
    assert asked(f"pope:{file}?images={folder}/pictures", answers="texts")[0].instruction == first.instruction


def test_scienceqa(folder: Path) -> None:
    """As ScienceQA's problems.json has them; those without a picture are not asked."""
    (folder / "test" / "7").mkdir(parents=True)
    (folder / "red.png").rename(folder / "test" / "7" / "image.png")
    shared = {"question": "Which?", "choices": ["cat", "dog", "cow"], "answer": 2, "hint": "It moos."}
    problems = {
        "7": {**shared, "image": "image.png", "split": "test", "subject": "natural science"},
        "8": {**shared, "image": None, "split": "test", "subject": "social science"},
    }
    (folder / "problems.json").write_text(json.dumps(problems))
    question, skipped = load_questions(f"scienceqa:{folder}/problems.json")
    assert isinstance(question, Question) and isinstance(skipped, Skipped) and skipped.reason.endswith("no image")
    assert question.instruction == (
        "Context: It moos.\nWhich?\nA. cat\nB. dog\nC. cow\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert question.choices == ("A", "B", "C") and question.right == 2 and question.response == "C"
    assert question.category == "natural science"
    assert open_pictures(question.image).getpixel((0, 0)) == (255, 0, 0)  # type: ignore[arg-type, union-attr]


def test_mmbench(folder: Path) -> None:
    """A table of tabs with pictures in base64, one of them named by the index of the row that has it."""
    picture = base64.b64encode(png("blue")).decode()
    rows = [
        ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"],
        ["5", "What?", "nan", "one\ttwo", "three", "", "", "B", "logic", picture],
        ["6", "And?", "A hint.", "x", "y", "z", "", "A", "logic", "5"],
        ["7", "Or?", "", "x", "y", "z", "", "A", "logic", "no base64!"],
    ]
    table = "\n".join("\t".join(f'"{cell}"' if "\t" in cell else cell for cell in row) for row in rows)
    (folder / "mmbench_dev.tsv").write_text(table)
    first, second, third = load_questions(f"mmbench:{folder}/mmbench_dev.tsv")
    assert isinstance(first, Question) and isinstance(second, Question)
    assert first.instruction.startswith("What?\nA. one\ttwo\nB. three\nAnswer") and first.choices == ("A", "B")
    assert second.instruction.startswith("A hint.\nAnd?\nA. x\nB. y\nC. z\n") and second.id == "6"
    assert open_pictures(second.image).getpixel((0, 0)) == (0, 0, 255)  # type: ignore[arg-type, union-attr]
    assert first.picture == second.picture, "one picture, two questions"
    assert isinstance(third, Skipped) and "base64" in third.reason


@pytest.mark.parametrize("kind", ["parquet", "hub"])
def test_pictures_in_a_table(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    where = folder / "me" / "set" / "test.parquet"
    where.parent.mkdir(parents=True)
    rows = {
        "question": ["Which?", "Which?"],
        "choices": [["cat", "dog"], ["cat", "dog"]],
        "answer": [1, 0],
        "image": [{"bytes": png("red"), "path": None}, None],
    }
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.to_parquet(str(where))
    monkeypatch.setattr("mmerank.inputs.hub._location", lambda repository: str(folder / repository))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    data = "choices:hub:me/set:test" if kind == "hub" else f"choices:{where}"
    first = next(iter(load_questions(data, answers="texts")))
    assert isinstance(first, Question) and first.choices == ("cat", "dog") and first.right == 1
    assert first.instruction == "Which?"
    assert open_pictures(first.image).getpixel((0, 0)) == (255, 0, 0)  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize(("answer", "right"), [("B", 1), ("dog", 1), ("Dog", 1), (0, 0), ("cat", 0), (1.0, 1)])
def test_ways_to_name_the_answer(folder: Path, answer: Any, right: int) -> None:
    row = {"question": "Which?", "choices": ["cat", "dog"], "answer": answer, "image": "red.png"}
    (question,) = asked(f"choices:{lines(folder / 'own.jsonl', row)}")
    assert question.right == right


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"answer": "cow"}, "its answer 'cow' is not among the choices: cat, dog"),
        ({"answer": 2}, "its answer 2 is none of the 2 choices, which are counted from 0"),
        ({"answer": "C"}, "its answer 'C' is not among the choices"),
        ({"answer": None}, "its answer is null"),
        ({"answer": 0.5}, "its answer is a number (0.5)"),
        (
            {"choices": ["B", "A"], "answer": "A"},
            "its answer 'A' is the letter of one choice and the text of another",
        ),
        ({"choices": None, "A": "cat", "C": "cow", "answer": "C"}, "its choices are A, C, and one before the last"),
        ({"choices": ["cat"]}, "1 choices, expected at least 2"),
        ({"choices": ["cat", "cat"]}, "the choice 'cat' is there twice"),
        ({"choices": "cat, dog"}, "choices is text"),
        ({"choices": [str(i) for i in range(27)], "answer": 0}, "27 choices, and there are 26 letters"),
        ({"image": None}, "no image"),
        ({"image": "../red.png"}, "points outside"),
        ({"image": 3}, "image is a number (3)"),
        ({"question": " "}, "question is empty"),
        ({"question": 4}, "question is a number (4), expected text"),
    ],
)
def test_what_cannot_be_asked(folder: Path, changed: dict[str, Any], reason: str) -> None:
    row = {"question": "Which?", "choices": ["cat", "dog"], "answer": "cat", "image": "red.png", **changed}
    (found,) = reasons(f"choices:{lines(folder / 'own.jsonl', row)}")
    assert found.startswith("line 1: ") and reason in found


def test_an_answer_that_is_a_letter_and_a_text(folder: Path) -> None:
    """MMBench names the right one by its letter; elsewhere what is exactly the text comes first."""
    row = {"index": "1", "question": "Which letter?", "A": "C", "B": "B", "C": "A", "answer": "A"}
    picture = base64.b64encode(png("red")).decode()
    table = folder / "letters.tsv"
    table.write_text("\t".join([*row, "image"]) + "\n" + "\t".join([*row.values(), picture]) + "\n")
    (question,) = asked(f"mmbench:{table}")
    assert question.right == 0 and question.response == "A"
    own = {"question": "Which?", "choices": ["yes", "Yes"], "answer": "Yes", "image": "red.png"}
    (question,) = asked(f"choices:{lines(folder / 'own.jsonl', own)}")
    assert question.right == 1


def test_other_numbers_of_choices(folder: Path) -> None:
    row = {"question": "Which?", "answer": "A", "image": "red.png"}
    two, five = {**row, "choices": ["a", "b"]}, {**row, "choices": ["a", "b", "c", "d", "e"], "answer": "E"}
    assert [len(of.choices) for of in asked(f"choices:{lines(folder / 'own.jsonl', two, five)}")] == [2, 5]


def test_what_is_no_benchmark(folder: Path) -> None:
    file = lines(folder / "own.jsonl", {"caption": "A cat.", "image": "red.png"})
    with pytest.raises(DataError, match="no field question or text, which pope has; its fields: caption, image"):
        load_questions(f"pope:{file}")
    with pytest.raises(UsageError, match="unknown questions 'llava:x.json'"):
        load_questions("llava:x.json")
    with pytest.raises(UsageError, match="unknown option 'image'"):
        load_questions(f"pope:{file}?image=x")
    with pytest.raises(UsageError, match="expected hub:OWNER/NAME"):
        load_questions("pope:hub:alone")
    (folder / "problems.json").write_text("[]")
    with pytest.raises(DataError, match="an object of problems"):
        load_questions(f"scienceqa:{folder}/problems.json")
    (folder / "empty.jsonl").touch()
    with pytest.raises(DataError, match="empty"):
        load_questions(f"choices:{folder}/empty.jsonl")


def test_files_that_are_missing_or_of_another_kind(tmp_path: Path) -> None:
    for name in ("nope.csv", "nope.txt"):
        with pytest.raises(DataError, match=f"{name}: no such file$"):
            load_questions(f"choices:{tmp_path / name}")
    (tmp_path / "q.csv").write_text("question,A,B,answer,image\nwhat,x,y,A,0.png\n")
    with pytest.raises(DataError, match=r"q.csv: a table of commas; questions are read from \.jsonl, .*'q.jsonl'"):
        load_questions(f"choices:{tmp_path / 'q.csv'}")
    (tmp_path / "q.txt").write_text("x")
    with pytest.raises(DataError, match=r"ends in \.jsonl, \.ndjson, \.json, each also .*, or in \.parquet"):
        load_questions(f"choices:{tmp_path / 'q.txt'}")
