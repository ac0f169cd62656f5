from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmerank import Example, load_data
from mmerank.errors import DataError, UsageError
from mmerank.inputs.example import Skipped, check_usable, unique


def record(
    name: Any = "a", image: Any = "a.jpg", human: Any = "<image>\nWhat?", gpt: Any = "A cat."
) -> dict[str, Any]:
    turns = [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    return {"id": name, "image": image, "conversations": turns}


def llava(tmp_path: Path, *records: Any, query: str = "") -> list[Example | Skipped]:
    (tmp_path / "data.json").write_text(json.dumps([record("first"), *records]))
    return list(load_data(f"llava:{tmp_path}/data.json{query}"))[1:]


@pytest.mark.parametrize("human", ["<image>\nWhat?", "What?\n<image>", "What?", " <image> What? "])
def test_llava_record(tmp_path: Path, human: str) -> None:
    (entry,) = llava(tmp_path, record(human=human))
    assert entry == Example("a", tmp_path / "images" / "a.jpg", "What?", "A cat.")
    assert entry.text == "What? A cat."


def test_text_without_instruction() -> None:
    assert Example("a", None, "", "A cat.").text == "A cat."
    assert Example("a", None, "", "\n\nHuman: A cat. ").text == "\n\nHuman: A cat. "
    assert Example("a", None, "What?", "").text == "What?"


def test_image_folder_can_be_named(tmp_path: Path) -> None:
    (entry,) = llava(tmp_path, record(), query=f"?images={tmp_path}/elsewhere")
    assert isinstance(entry, Example) and entry.image == tmp_path / "elsewhere" / "a.jpg"


def test_first_exchange_of_a_longer_conversation(tmp_path: Path) -> None:
    long = record()
    long["conversations"] += [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "A dog."}]
    (entry,) = llava(tmp_path, long)
    assert isinstance(entry, Example) and entry.text == "What? A cat."


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(gpt=""), "the response is empty"),
        (record(gpt="  \n"), "the response is empty"),
        (record(gpt=12345), r"the gpt turn's value is a number (12345), expected text"),
        (record(gpt=None), "the gpt turn's value is null, expected text"),
        (record(human=[1]), "the human turn's value is a list, expected text"),
        ({"id": "a", "image": "a.jpg"}, "no list of conversations"),
        ({"id": "a", "image": "a.jpg", "conversations": 3}, "conversations is a number (3)"),
        ({"id": "a", "image": "a.jpg", "conversations": []}, "no turn from 'human' in conversations"),
        (record(image=[]), "image lists no picture"),
        (record(human="<image> What?", image=["a.jpg", "b.jpg"]), "the instruction holds a sign for 1 of 2 pictures"),
        (
            record(human="In <image> what?", image=["a.jpg", "b.jpg"]),
            "the instruction holds <image>, the sign for a picture, inside of it; it may stand once for each, before "
            "the text or behind the instruction or, once for each, within the instruction",
        ),
        (record(image=["a.jpg", 3]), "image is a number (3), expected a file name"),
        (record(image=[3]), "image is a number (3), expected a file name"),
        ({k: v for k, v in record().items() if k != "image"}, "no image"),
        (record(image=None), "image is null, expected a file name"),
        (record(image=""), "image is text (''), expected a file name"),
        (record(image="../../etc/passwd"), "image '../../etc/passwd' points outside the image folder (IMAGES)"),
        (
            record(image="/etc/passwd"),
            "image '/etc/passwd' points outside the image folder (IMAGES; ?images=DIR behind its file, or "
            "&images=DIR behind other options, may name one above all of them)",
        ),
        (record(image="a\0.jpg"), "image is text ('a\\x00.jpg'), expected a file name"),
    ],
)
def test_bad_llava_record_is_skipped_with_its_reason(tmp_path: Path, bad: Any, reason: str) -> None:
    assert llava(tmp_path, bad) == [Skipped("a", reason.replace("IMAGES", str(tmp_path / "images")))]


def test_pictures_anywhere_below_a_folder_above_them(tmp_path: Path) -> None:
    """Tables often name pictures by their whole path."""
    picture = tmp_path / "a" / "b.jpg"
    picture.parent.mkdir()
    Image.new("RGB", (4, 4)).save(picture)
    (tmp_path / "table").mkdir()
    table = tmp_path / "table" / "rows.csv"
    table.write_text(f"image,response\n{picture},A square.\n")
    columns = "image=image&response=response&instruction="
    with pytest.raises(DataError, match="images=DIR"):
        check_usable(load_data(f"csv:{table}?{columns}"), pictures=True)
    (entry,) = load_data(f"csv:{table}?{columns}&images={tmp_path}")
    assert isinstance(entry, Example) and entry.image == picture


def test_record_that_is_no_object(tmp_path: Path) -> None:
    assert llava(tmp_path, 3) == [Skipped("#1", "record is a number (3), expected an object")]


def test_link_out_of_the_image_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "images" / "a.jpg").symlink_to(tmp_path / "secret")
    (entry,) = llava(tmp_path, record())
    assert isinstance(entry, Skipped) and "outside the image folder" in entry.reason


def test_image_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "images").symlink_to(tmp_path / "disk")
    (entry,) = llava(tmp_path, record())
    assert isinstance(entry, Example)


def test_only_the_first_of_an_id_is_kept() -> None:
    a, b, again = (Example(name, None, "", text) for name, text in (("a", "1"), ("b", "2"), ("a", "3")))
    assert list(unique([a, b, again])) == [a, b, Skipped("a", "the id occurs twice; the first record is kept")]


def test_minigpt(tmp_path: Path) -> None:
    annotations = [
        {"image_id": "2", "caption": "A cat."},
        {"image_id": 3, "caption": "A dog."},
        {"image_id": "4", "caption": None},
        {"image_id": "5", "caption": " "},
        {"caption": "x"},
        {"image_id": "../6", "caption": "x"},
    ]
    (tmp_path / "filter_cap.json").write_text(json.dumps({"annotations": annotations}))
    entries = list(load_data(f"minigpt:{tmp_path}"))
    instruction = "Describe this image in detail."
    assert entries[:2] == [
        Example("2", tmp_path / "image" / "2.jpg", instruction, "A cat."),
        Example("3", tmp_path / "image" / "3.jpg", instruction, "A dog."),
    ]
    assert entries[2:] == [
        Skipped("4", "the caption is null, expected text"),
        Skipped("5", "the caption is empty"),
        Skipped("#4", "record without image_id"),
        Skipped("../6", f"image '../6.jpg' points outside the image folder ({tmp_path}/image)"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"id": "a", "ima', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply|not valid JSON"),
        (b'{"version": 2, "data": []}', "expected a JSON list .* got an object with the keys 'version', 'data'"),
        (b'[{"img": "a.jpg", "text": "x"}]', "got a list of 1, the first an object with the keys 'img', 'text'"),
        (b"[]", "got a list of 0"),
        (b"3", "got a number"),
    ],
)
def test_broken_manifest(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_data(f"llava:{tmp_path}/data.json")


def test_a_manifest_that_is_larger_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(content: bytes) -> Any:
        raise MemoryError

    (tmp_path / "data.json").write_bytes(b"[]")
    monkeypatch.setattr("mmerank.inputs.manifests.json.loads", loads)
    with pytest.raises(DataError, match=r"data.json: 0.0 GB of JSON are too much for the memory there is; cut it"):
        load_data(f"llava:{tmp_path}/data.json")


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        load_data(f"llava:{tmp_path}/none.json")
    with pytest.raises(DataError, match=r"filter_cap.json"):
        load_data(f"minigpt:{tmp_path}")


@pytest.mark.parametrize("data", ["coco", "llava", "llava:", "coco:/x", "llava:/x.json?image=/y"])
def test_unknown_form(data: str) -> None:
    with pytest.raises(UsageError, match="known: "):
        load_data(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(record())) | st.text(), inner),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=4))
def test_any_records_become_examples_or_skips(tmp_path_factory: pytest.TempPathFactory, records: list[Any]) -> None:
    entries = llava(tmp_path_factory.getbasetemp(), *records)
    assert len(entries) == len(records)
    assert all(isinstance(entry, Example) or entry.reason for entry in entries)


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    llava(tmp_path, record())
    before = load_data(f"llava:{tmp_path}/data.json").fingerprint
    llava(tmp_path, record(gpt="A dog."))
    assert load_data(f"llava:{tmp_path}/data.json").fingerprint != before


def test_real_pairs(shared_data: Path) -> None:
    for data, count in (
        (f"llava:{shared_data}/pairs_llava/detail.json", 21),
        (f"minigpt:{shared_data}/pairs_minigpt", 11),
    ):
        entries = list(load_data(data))
        assert len(entries) == count and all(isinstance(entry, Example) for entry in entries)
        assert not any("<image>" in entry.text for entry in entries if isinstance(entry, Example))


def said(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {**record(), "conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


QUESTION, ANSWER = ("human", "<image>\nWhat?"), ("gpt", "A cat.")
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
    {"role": "assistant", "content": "A cat."},
]


@pytest.mark.parametrize(
    "conversation",
    [
        said(("gpt", "Hello!"), QUESTION, ANSWER),
        said(("gpt", "Hello!"), ("gpt", "Ask me."), QUESTION, ANSWER, ("human", "And?"), ("gpt", "A dog.")),
        said(("system", "Be brief."), QUESTION, ANSWER),
        said(QUESTION, ANSWER, ("gpt", "Or a dog.")),
        said(("user", "What?"), ("assistant", "A cat.")),
        said(("Human", "What?"), ("GPT", "A cat.")),
        said(("user", "What?"), ("model", "A cat.")),
        {**record(), "images": None},
        {**record(image=None), "images": ["a.jpg"]},
        {"id": "a", "image": "a.jpg", "messages": MESSAGES},
        {"id": "a", "image": "a.jpg", "conversations": MESSAGES},
        record(image=["a.jpg"]),
        {**{k: v for k, v in record().items() if k != "image"}, "images": ["a.jpg"]},
        {**{k: v for k, v in record().items() if k != "image"}, "images": "a.jpg"},
    ],
)
def test_the_first_question_and_the_answer_to_it(tmp_path: Path, conversation: Any) -> None:
    (entry,) = llava(tmp_path, conversation)
    assert entry == Example("a", tmp_path / "images" / "a.jpg", "What?", "A cat.")


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        ({**said(), "conversations": [QUESTION, "What?", ANSWER]}, "a turn in conversations is a list"),
        (said(("human", [{"type": "text", "text": None}]), ANSWER), "the human turn's value is null, expected text"),
        (said(("human", [{"type": "image"}] * 2), ANSWER), "the human turn has 2 pictures, expected one"),
        (
            said(("human", [{"type": "video"}]), ANSWER),
            "a part of the human turn is of type 'video', expected text or",
        ),
        ({**record(), "images": ["b.jpg"]}, "both image and images, expected one of them"),
        (
            said(ANSWER, QUESTION),
            "no turn from 'gpt' behind the first from 'human' in conversations; its turns are from",
        ),
        (
            said(("alice", "What?"), ("bob", "A cat.")),
            "no turn from 'human' in conversations; its turns are from 'alice', 'bob'",
        ),
        (
            said(QUESTION, ("human", "Where?"), ANSWER),
            "between the first turn from 'human' and the answer there are others, from 'human'",
        ),
        (
            said(QUESTION, ("tool", "12"), ANSWER),
            "between the first turn from 'human' and the answer there are others, from 'tool'",
        ),
        (said(("human", ""), ("gpt", ""), QUESTION, ANSWER), "the response is empty"),
    ],
)
def test_an_exchange_that_cannot_be_told_is_skipped(tmp_path: Path, conversation: Any, reason: str) -> None:
    (entry,) = llava(tmp_path, conversation)
    assert isinstance(entry, Skipped) and entry.id == "a" and entry.reason.startswith(reason)
