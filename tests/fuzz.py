"""Readers and pictures on damaged input: whatever a file holds, the answer is data or an error of ours.

    python -m tests.fuzz --inputs 50000

Valid files are damaged at random, byte by byte and by pieces that are known to hurt. `tests/test_hostile.py` does the
same for a moment, and builds nasty JSON from scratch.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from mmerank.errors import DataError, ModelError, UsageError
from mmerank.inputs.example import DataSet, Example, Skipped
from mmerank.inputs.manifests import llava, minigpt
from mmerank.inputs.pictures import Encoded, open_picture
from mmerank.inputs.text_sets import text

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dög."}]
LLAVA = json.dumps([{"id": f"{i}", "image": f"a/{i}.jpg", "conversations": TURNS} for i in range(3)]).encode()
MINIGPT = json.dumps({"annotations": [{"image_id": i, "caption": "A dög."} for i in "12"]}).encode()
LINES = "one line\nanöther\n\nthe last".encode()
ROWS = b'{"id": "1", "t": "one"}\n{"t": "tw\xc3\xb6"}\n\n{"t": null}\n'
YAML = b"adapter: minigpt-v2\nllama_model: a/b\nvit_checkpoint: eva.pth\ncheckpoint: x.pth\nimage_size: 448\n"
HURTING = [
    b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"1e999", b"NaN", b"-Infinity", b"null", b"true", b'"\\ud800"',
    b"\\u0000",
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b"../" * 9, b"/etc/passwd", b"\r", b"\n", b"{}", b"[]", b'""',
    b"a" * 5000, b"&a [*a]", b'!!int ""', b"!!bool x", b"!!timestamp x", b"2000-99-99", b"? [a]\n",
    b"!!python/name:os.system",
    b"\xff\xd8\xff\xe1\xff\xff", b"IHDR\xff\xff\xff\xff\xff\xff\xff\xff",
]  # fmt: skip


def picture(kind: str) -> bytes:
    """A small picture in one format."""
    content = io.BytesIO()
    Image.effect_noise((24, 16), 50).convert("RGB").save(content, kind)
    return content.getvalue()


def damaged(content: bytes, draw: random.Random) -> bytes:
    """`content` with one to four random changes."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        end = at + draw.randint(1, 8)
        match draw.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at:end] = draw.randbytes(end - at)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[draw.randrange(len(data) + 1) :][:64]
            case 4:
                del data[at:]
            case _:
                data[at : at + draw.choice((0, 4))] = draw.choice(HURTING)
    return bytes(data)


def read_data(read: Callable[[], DataSet], images: Path | None) -> str:
    """Read a data set and hold every entry against what it must be."""
    try:
        entries = read().entries
    except (DataError, UsageError) as error:
        return type(error).__name__
    for entry in entries:
        assert isinstance(entry.id, str)
        if isinstance(entry, Skipped):
            assert entry.reason and len(entry.reason) < 2000
            continue
        assert isinstance(entry, Example) and entry.response.strip()
        entry.text.encode(), entry.id.encode()  # what a tokenizer and a table take
        if images is not None:
            assert isinstance(entry.image, Path) and entry.image.resolve().is_relative_to(images.resolve())
    return "data"


def read_picture(content: bytes) -> str:
    """Open a picture; RGB or an error."""
    try:
        found = open_picture(Encoded("fuzzed", lambda: content), max_pixels=1_000_000)
    except DataError:
        return "DataError"
    assert found.mode == "RGB" and found.width * found.height <= 1_000_000
    return "picture"


def read_yaml(file: Path) -> str:
    """Read a YAML file as for a MODEL."""
    from mmerank.models.checkpoints import path_beside, yaml_keys

    try:
        _, keys = yaml_keys(file)
        for key, value in keys.items():
            path_beside(file, str(key), value)
    except ModelError as error:
        assert len(str(error)) < 10_000
        return "ModelError"
    return "keys"


def targets(folder: Path) -> dict[str, tuple[bytes, Callable[[bytes], str]]]:
    """What is fuzzed: a valid input, and how to try another."""

    def file(name: str, content: bytes) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    found: dict[str, tuple[bytes, Callable[[bytes], str]]] = {
        "llava": (
            LLAVA,
            lambda c: read_data(lambda: llava("llava:x", str(file("x.json", c))), folder / "images"),
        ),
        "minigpt": (
            MINIGPT,
            lambda c: read_data(
                lambda: minigpt("minigpt:x", str(file("filter_cap.json", c).parent)), folder / "image"
            ),
        ),
        "lines": (LINES, lambda c: read_data(lambda: text("text:x", str(file("x.txt", c))), None)),
        "jsonl": (ROWS, lambda c: read_data(lambda: text("text:x", f"{file('x.jsonl', c)}#t"), None)),
        "yaml": (YAML, lambda c: read_yaml(file("x.yaml", c))),
    }
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        found[kind] = (picture(kind), read_picture)
    return found


def fuzz(inputs: int, seed: int, names: list[str], folder: Path) -> Counter[tuple[str, str]]:
    """Try so many damaged inputs; how often each answer came."""
    draw = random.Random(seed)
    known: dict[str, Any] = targets(folder)
    answers: Counter[tuple[str, str]] = Counter()
    for i in range(inputs):
        name = names[i % len(names)] if names else draw.choice(list(known))
        valid, attempt = known[name]
        content = damaged(valid, draw)
        try:
            answers[name, attempt(content)] += 1
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error} on {content[:2000]!r}") from error
    return answers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--inputs", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        answers = fuzz(given.inputs, given.seed, given.only, Path(scratch))
    for (name, answer), count in sorted(answers.items()):
        sys.stdout.write(f"{name:8} {answer:10} {count}\n")
    sys.stdout.write(f"{sum(answers.values())} inputs, no other answer\n")
