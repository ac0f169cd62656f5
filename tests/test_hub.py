"""The hub without network: everything but the resolution of a repository's name, on folders laid out like one."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from mmerank import Example, align, load_data
from mmerank.errors import DataError, RunFolderError, UsageError
from mmerank.inputs import hub as hub
from mmerank.inputs.example import Skipped
from mmerank.inputs.pictures import Encoded, open_picture
from tests.test_texts import columns, jsonl, question, texts


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for every repository on the hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hub, "_location", lambda name: str(tmp_path / "repository" / name))
    return tmp_path / "repository"


ROWS = [{"t": text, "q": "Why?", "n": i} for i, text in enumerate(["a", "", "b", "a", "c"])]


def test_column_of_a_split(repository: Path) -> None:
    columns(repository / "me" / "set" / "data" / "train-00000-of-00001.parquet", ROWS)
    columns(repository / "me" / "set" / "data" / "test-00000-of-00001.parquet", ROWS[:1])
    expected = [
        Example("1", None, "", "a"),
        Skipped("2", "row 2: t is empty"),
        Example("3", None, "", "b"),
        Skipped("4", "same text as 1; the first is kept"),
        Example("5", None, "", "c"),
    ]
    for data in ("hub:me/set#t", "hub:me/set:train#t", "hub:me/set?response=t", "hub:me/set:train?first=9#t"):
        assert list(load_data(data)) == expected
    assert list(load_data("hub:me/set?first=3#t")) == expected[:3]
    assert list(load_data("hub:me/set:test?instruction=q#t")) == [Example("1", None, "Why?", "a")]
    assert load_data("hub:me/set?duplicates=keep#t").entries[3] == Example("4", None, "", "a")


def test_sample_of_a_split(repository: Path) -> None:
    columns(repository / "me" / "set" / "train.parquet", [{"t": str(i)} for i in range(50)])
    random.seed(123)
    assert list(texts("hub:me/set?sample=20#t").values()) == [str(i) for i in random.sample(range(50), 20)]


def test_configuration(repository: Path) -> None:
    for name in ("one", "two"):
        columns(repository / "me" / "set" / name / "train-00000-of-00001.parquet", [{"t": name}])
    card = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
        for name in ("one", "two")
    )
    (repository / "me" / "set" / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    assert texts("hub:me/set/two#t") == {"1": "two"}
    with pytest.raises(DataError, match=r"cannot be loaded .*three.*one.*two"):
        load_data("hub:me/set/three#t")


def picture(colour: str, size: tuple[int, int] = (6, 4)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def pairs(repository: Path) -> Path:
    """Pictures and captions in Parquet, the second picture not there, the third broken."""
    contents: list[dict[str, Any] | None] = [
        {"bytes": picture("red"), "path": "a.png"},
        None,
        {"bytes": b"no picture", "path": "c.png"},
        {"bytes": picture("blue"), "path": None},
    ]
    path = repository / "me" / "pairs" / "train.parquet"
    path.parent.mkdir(parents=True)
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    content = {"image": contents, "caption": ["A wall.", "A cat.", "A dog.", "A wall."]}
    datasets.Dataset.from_dict(content, features=features).to_parquet(str(path))
    return path


@pytest.mark.parametrize("options", ["", "&first=4"])
def test_pictures_are_opened_late(pairs: Path, options: str) -> None:
    entries = list(load_data(f"hub:me/pairs:train?image=image&response=caption{options}"))
    images = [entry.image for entry in entries if isinstance(entry, Example)]
    assert [entry.id for entry in entries] == ["1", "2", "3", "4"], "one caption may belong to several pictures"
    red, missing, broken, blue = (image for image in images if isinstance(image, Encoded))
    assert open_picture(red).getpixel((0, 0)) == (255, 0, 0) and open_picture(blue).getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(DataError, match="no image"):
        open_picture(missing)
    with pytest.raises(DataError, match="the picture of row 3: not an image"):
        open_picture(broken)
    with pytest.raises(DataError, match="over the limit"):
        open_picture(red, max_pixels=23)


def test_pictures_beside_a_table(repository: Path) -> None:
    folder = repository / "me" / "folder" / "train"
    folder.mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        (folder / name).write_bytes(picture(colour))
    rows = [{"file_name": "a.png", "text": "A wall."}, {"file_name": "b.png", "text": "The sky."}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for options in ("", "&first=2"):
        entries = list(load_data(f"hub:me/folder?image=image&response=text{options}"))
        found = {entry.text: entry.image for entry in entries if isinstance(entry, Example)}
        assert isinstance(found["The sky."], Encoded)
        assert open_picture(found["The sky."]).getpixel((0, 0)) == (0, 0, 255)


@pytest.fixture
def questions(repository: Path) -> Path:
    """Pictures with a question, an answer, an id, a label and a list."""
    path = repository / "me" / "vqa" / "train.parquet"
    path.parent.mkdir(parents=True)
    text, number = datasets.Value("string"), datasets.Value("int64")
    features = datasets.Features(
        {"id": text, "image": datasets.Image(), "question": text, "answer": text, "label": number, "tags": [text]}
    )
    content = {
        "id": ["a", "b"],
        "image": [{"bytes": picture(colour), "path": None} for colour in ("red", "blue")],
        "question": ["Which colour?", "And this one?"],
        "answer": ["Red, all over the picture.", "Blue, all over the picture."],
        "label": [0, 1],
        "tags": [["x"], ["y"]],
    }
    datasets.Dataset.from_dict(content, features=features).to_parquet(str(path))
    return path


@pytest.mark.parametrize(
    "form", ["image=image&response=answer{}", "image=image{}#answer", "image=image&first=2{}#answer"]
)
def test_an_instruction_is_never_left_out_unsaid(questions: Path, form: str) -> None:
    with pytest.raises(DataError, match=r"&instruction=COLUMN, or &instruction= for none; .* of text: question$"):
        load_data(f"hub:me/vqa?{form.format('')}")
    none, asked = (load_data(f"hub:me/vqa?{form.format(f'&instruction={name}')}") for name in ("", "question"))
    assert [entry.instruction for entry in none if isinstance(entry, Example)] == ["", ""]
    assert [entry.text for entry in asked if isinstance(entry, Example)] == [
        "Which colour? Red, all over the picture.",
        "And this one? Blue, all over the picture.",
    ]
    # A run states both, and neither continues the other or is taken for the same data.
    assert none.name != asked.name and none.fingerprint != asked.fingerprint
    assert "instruction=question" in asked.fingerprint and "instruction" not in none.fingerprint


def test_runs_with_and_without_an_instruction_differ(questions: Path, llava_tiny: Any, tmp_path: Path) -> None:
    for name in ("", "question"):
        data = load_data(f"hub:me/vqa?image=image&response=answer&instruction={name}")
        align(llava_tiny, data, out=tmp_path / f"run-{name}")
    stated = [json.loads((tmp_path / f"run-{name}" / "run.json").read_text())["data"] for name in ("", "question")]
    assert stated[0]["name"].endswith("&instruction=") and stated[1]["name"].endswith("&instruction=question")
    assert stated[0]["fingerprint"] != stated[1]["fingerprint"]
    with pytest.raises(RunFolderError):
        align(llava_tiny, data, out=tmp_path / "run-")


def test_no_other_column_of_text_is_no_question(pairs: Path, repository: Path) -> None:
    (example, *_) = load_data("hub:me/pairs?image=image&response=caption")
    assert isinstance(example, Example) and example.instruction == ""
    columns(repository / "me" / "set" / "train.parquet", ROWS)
    assert len(load_data("hub:me/set#t")) == len(load_data("hub:me/set?instruction=#t")) == 5  # no pictures


def test_pairs_from_the_hub_can_be_measured(pairs: Path, llava_tiny: Any) -> None:
    result = align(llava_tiny, load_data("hub:me/pairs?image=image&response=caption"))
    assert result.n == 2 and [entry.id for entry in result.skipped] == ["2", "3"]


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("me/pairs", "say which column holds the text, as #COLUMN; columns: image, caption"),
        ("me/pairs#text", "no column 'text'; columns: image, caption"),
        ("me/pairs?image=picture#caption", "no column 'picture'; columns: image, caption"),
        ("me/pairs?image=caption&response=caption", "'caption' holds no pictures; those that do: image"),
        ("me/pairs:test#caption", "cannot be loaded .*test.*train"),
        ("me/pairs:test?first=2#caption", "cannot be loaded .*test.*train"),
        ("me/none#caption", "cannot be loaded"),
    ],
)
def test_what_is_not_there(pairs: Path, rest: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(f"hub:{rest}")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("a/b/c/d#t", "expected hub:OWNER/NAME"),
        ("/b#t", "expected hub:OWNER/NAME"),
        ("a/#t", "expected hub:OWNER/NAME"),
        ("a/b?response=t#t", "name the same thing"),
        ("a/b?first=3&sample=3#t", "exclude each other"),
        ("a/b?first=0#t", "first=0; expected a number above 0"),
        ("a/b?sample=x#t", "sample=x; expected a number above 0"),
        ("a/b?image=&response=t", "option 'image' .* has no value"),
        ("a/b?text=t", "unknown option 'text' .* known: image, instruction, response"),
        ("a/b?duplicates=drop#t", "duplicates=drop; known: keep"),
    ],
)
def test_wrong_form(rest: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_data(f"hub:{rest}")


@pytest.mark.parametrize("data", ["hub:a/b#t", "hub:a/b?first=2#t", "dolly-15k", "wikipedia"])
def test_without_network(data: str) -> None:
    with pytest.raises(DataError, match=r"cannot be loaded \(Couldn't reach .*; without network, read a local copy"):
        load_data(data)


def test_loading_scripts_are_not_run(repository: Path) -> None:
    (repository / "me" / "scripted").mkdir(parents=True)
    (repository / "me" / "scripted" / "scripted.py").write_text("raise SystemExit('ran')")
    with pytest.raises(DataError, match=r"scripts are no longer supported.*try \?revision=refs/convert/parquet"):
        load_data("hub:me/scripted#t")


# The paper's data sets: what comes from the hub is what comes from a copy of the repository.


def same_from_both(name: str, folder: Path) -> list[Any]:
    entries = list(load_data(name))
    assert entries and entries == list(load_data(f"{name}:{folder}"))
    return entries


def test_dolly(repository: Path) -> None:
    folder = repository / "databricks" / "databricks-dolly-15k"
    rows = [{"instruction": "i", "context": c, "response": "r", "category": "qa"} for c in ("a", "", "b", "a")]
    jsonl(folder / "databricks-dolly-15k.jsonl", *rows)
    assert [entry.text for entry in same_from_both("dolly-15k", folder)] == ["a", "b", "a"]


def test_hh(repository: Path) -> None:
    folder = repository / "Anthropic" / "hh-rlhf"
    for part in ("helpful-base", "harmless-base", "red-team-attempts", "helpful-rejection-sampled", "helpful-online"):
        jsonl(folder / part / "train.jsonl.gz", {"chosen": "train", "rejected": "r"})
        jsonl(folder / part / "test.jsonl.gz", {"chosen": f"\n\nHuman: {part}", "rejected": "r"})
    parts = [entry.text.split()[-1] for entry in same_from_both("hh-rlhf", folder)]
    assert parts == ["harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"]


def test_wikipedia(repository: Path) -> None:
    folder = repository / "wikimedia" / "wikipedia"
    rows = [{"id": f"p{i}", "url": "u", "title": "t", "text": f"Page {i}."} for i in range(10_100)]
    for i in range(11):
        part = rows[i * 1000 : (i + 1) * 1000]
        columns(folder / "20231101.en" / f"train-{i:05}-of-00011.parquet", part)
    columns(folder / "20231101.de" / "train-00000-of-00001.parquet", rows[:5])
    random.seed(123)
    expected = [rows[i]["id"] for i in random.sample(range(10_100), 10_000)]
    assert [entry.id for entry in same_from_both("wikipedia", folder)] == expected


def test_openwebtext2(repository: Path) -> None:
    folder = repository / "suolyer" / "pile_openwebtext2"
    jsonl(folder / "test.json", {"text": "test"})
    jsonl(folder / "val.json", *({"text": f"Text {i}.", "meta": {"pile_set_name": "x"}} for i in range(30)))
    random.seed(123)
    expected = [f"Text {i}." for i in random.sample(range(30), 30)]
    assert [entry.text for entry in same_from_both("openwebtext2", folder)] == expected


def test_questions(repository: Path) -> None:
    folder = repository / "allenai" / "openbookqa"
    choices = {"text": ["a rock", "a dog"], "label": ["A", "B"]}
    columns(folder / "main" / "test-00000-of-00001.parquet", [question(choices)])
    columns(folder / "main" / "train-00000-of-00001.parquet", [question(choices, "A")])
    columns(folder / "additional" / "test-00000-of-00001.parquet", [question(choices, "A")])
    assert same_from_both("openbookqa", folder) == [Example("8-343", None, "", "Which can bark? a dog")]

    folder = repository / "ybisk" / "piqa"
    row = {"goal": "Open a jar.", "sol1": "Turn the lid.", "sol2": "Sing.", "label": 0}
    for split in ("train", "validation", "test"):
        columns(folder / "plain_text" / split / "0000.parquet", [row] if split == "validation" else [row] * 2)
    assert same_from_both("piqa", folder) == [Example("1", None, "", "Open a jar. Turn the lid.")]

    folder = repository / "allenai" / "winogrande"
    row = {"sentence": "It fit as _ was small.", "option1": "the cup", "option2": "the box", "answer": "1"}
    for size in ("winogrande_xl", "winogrande_xs"):
        columns(folder / size / "validation-00000-of-00001.parquet", [row] * (1 if size.endswith("l") else 2))
    assert same_from_both("winogrande", folder) == [Example("1", None, "", "It fit as the cup was small.")]


def test_fingerprint_of_a_commit(repository: Path) -> None:
    path = repository / "me" / "set" / "train.jsonl"
    jsonl(path, {"t": "a"})
    before = load_data("hub:me/set#t").fingerprint
    assert load_data("hub:me/set?first=1#t").fingerprint == before != "unknown"
