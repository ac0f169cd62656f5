"""Input that means harm, or means nothing: it costs an example or the start of a run, never more."""

from __future__ import annotations

import ast
import gzip
import io
import json
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmerank.errors import DataError, ModelError, printable
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.manifests import llava, minigpt
from mmerank.inputs.pictures import Encoded, open_picture
from mmerank.inputs.text_sets import text
from mmerank.models.checkpoints import yaml_keys
from tests import forked
from tests.conftest import LONGEST_S
from tests.fuzz import fuzz, read_data, read_picture, read_yaml
from tests.test_cli import HF_MODEL, failure, run

SOURCES = Path(__file__).parents[1]
words = st.one_of(
    st.text(max_size=12), st.sampled_from(["<image>", "human", "gpt", "../x", "/etc/passwd", "\0", "a/b.jpg"])
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
turns = st.lists(
    st.one_of(values, st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": words | values})),
    max_size=4,
)
llava_records = st.fixed_dictionaries(
    {}, optional={"id": values, "image": words | values, "conversations": turns | values, "x": values}
)
minigpt_records = st.fixed_dictionaries({}, optional={"image_id": words | values, "caption": words | values})
short = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@short
@given(st.lists(llava_records | values, max_size=4))
def test_llava_manifests(folder: Path, content: list[Any]) -> None:
    file = folder / "x.json"
    file.write_text(json.dumps(content))
    read_data(lambda: llava("llava:x", str(file)), folder / "images")


@short
@given(st.fixed_dictionaries({"annotations": st.lists(minigpt_records | values, max_size=4) | values}) | values)
def test_minigpt_manifests(folder: Path, content: Any) -> None:
    (folder / "filter_cap.json").write_text(json.dumps(content))
    read_data(lambda: minigpt("minigpt:x", str(folder)), folder / "image")


@short
@given(st.lists(st.fixed_dictionaries({}, optional={"t": words | values, "id": values}) | values, max_size=4))
def test_rows(folder: Path, content: list[Any]) -> None:
    file = folder / "x.jsonl"
    file.write_text("\n".join(map(json.dumps, content)))
    read_data(lambda: text("text:x", f"{file}#t"), None)


@short
@given(st.binary(max_size=200))
def test_any_bytes(folder: Path, content: bytes) -> None:
    for name, read in (
        ("x.txt", lambda p: text("text:x", str(p))),
        ("x.parquet", lambda p: text("text:x", f"{p}#t")),
    ):
        (folder / name).write_bytes(content)
        read_data(lambda path=folder / name, read=read: read(path), None)  # type: ignore[misc]
    (folder / "x.yaml").write_bytes(content)
    read_yaml(folder / "x.yaml")
    read_picture(content)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files(folder: Path) -> None:
    """`python -m tests.fuzz` does this tens of thousands of times."""
    answers = fuzz(300, 0, [], folder)
    assert sum(answers.values()) == 300 and len(answers) > 15


# Pictures


def png_of(width: int, height: int, rows: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="over the limit of 100 megapixels"):
        open_picture(Encoded("bomb.png", lambda: png_of(*size, b"\0" * 100)))


def test_text_chunks_that_unpack_to_much_are_left_packed() -> None:
    """Pillow bounds what it unpacks of a PNG's text; the picture is then read without it."""
    content = png_of(2, 2, b"\0\0\0" * 2)
    packed = b"Comment\0\0" + zlib.compress(b"x" * 100_000_000)
    chunk = struct.pack(">I", len(packed)) + b"zTXt" + packed + struct.pack(">I", zlib.crc32(b"zTXt" + packed))
    bomb = content[:33] + chunk + content[33:]
    tracemalloc.start()
    try:
        assert open_picture(Encoded("bomb.png", lambda: bomb)).size == (2, 2)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_picture_is_not_run() -> None:
    """PostScript would be handed to a program."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n10 10 moveto\nshowpage\n%%EOF\n"
    with Image.open(io.BytesIO(eps)) as opened:
        assert opened.format == "EPS", "Pillow would"
    with pytest.raises(DataError, match="not an image"):
        open_picture(Encoded("program.eps", lambda: eps))


@pytest.mark.parametrize("name", ["link.jpg", "inner/link.jpg", "linked/secret.jpg"])
def test_links_out_of_the_image_folder(name: str, tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere" / "secret.jpg"
    secret.parent.mkdir()
    Image.new("RGB", (9, 9)).save(secret)
    images = tmp_path / "images"
    (images / "inner").mkdir(parents=True)
    (images / "link.jpg").symlink_to(secret)
    (images / "inner" / "link.jpg").symlink_to("../../elsewhere/secret.jpg")
    (images / "linked").symlink_to(secret.parent)
    (images / "loop.jpg").symlink_to("loop.jpg")
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A picture."}]
    manifest = tmp_path / "x.json"
    manifest.write_text(json.dumps([{"image": n, "conversations": turns} for n in (name, "loop.jpg", "a" * 5000)]))
    first, *others = llava("llava:x", str(manifest)).entries
    assert isinstance(first, Skipped) and "points outside the image folder" in first.reason
    for entry in others:
        if isinstance(entry, Example):
            assert isinstance(entry.image, Path)
            with pytest.raises(DataError):
                open_picture(entry.image)


# JSON and YAML


@pytest.mark.parametrize("depth", [500, 900, 5_000, 200_000])
def test_deep_nesting(depth: int, tmp_path: Path) -> None:
    deep = "[" * depth + "]" * depth
    turns = '[{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A picture."}]'
    for content in (
        deep,
        f'[{{"id": {deep}, "image": {deep}, "conversations": {turns}}}]',
        f'[{{"conversations": {deep}}}]',
    ):
        (tmp_path / "x.json").write_text(content)
        read_data(lambda: llava("llava:x", str(tmp_path / "x.json")), tmp_path)
        (tmp_path / "x.jsonl").write_text(f'{{"t": {deep}}}\n{{"t": "x"}}')
        read_data(lambda: text("text:x", f"{tmp_path}/x.jsonl#t"), None)
    (tmp_path / "x.yaml").write_text(f"adapter: {deep}"[:20_000])
    with pytest.raises(ModelError):
        yaml_keys(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    "value", ['!!int ""', "!!bool x", "!!timestamp x", "2000-99-99", "!!python/name:os.system", "9" * 5000]
)
def test_values_that_yaml_trips_over(value: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"adapter: minigpt-v2\ncheckpoint: {value}\n")
    with pytest.raises(ModelError, match="not valid YAML"):
        yaml_keys(tmp_path / "x.yaml")


def test_a_yaml_that_grows_when_it_is_shown(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" if i else "a0: &a0 [x]" for i in range(12)]
    (tmp_path / "x.yaml").write_text("\n".join(["adapter: minigpt-v2", *levels, "checkpoint: *a11"]))
    assert read_yaml(tmp_path / "x.yaml") == "ModelError"


# What reaches the terminal


@pytest.mark.parametrize("harm", ["\x1b[31mred", "\x07", "\x9b2J", "a\rb", "‮", "\x00", "two\nlines"])
def test_nothing_that_moves_the_cursor_is_printed(harm: str) -> None:
    shown = printable(f"start {harm} end")
    assert shown.isprintable() and shown.startswith("start ") and shown.endswith(" end")


def test_names_and_ids_that_mean_harm(tmp_path: Path, golden: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Noise."}]
    names = ["\x1b]0;title\x07", "[/bold]", "x" * 100_000, "[red]", "../../run.json"]
    good = {"id": "x" * 100_000, "image": "img0_96x64.png", "conversations": turns}
    bad = [{"id": name, "image": name, "conversations": turns} for name in names]
    manifest = tmp_path / "x.json"
    manifest.write_text(json.dumps([good, *bad]))
    model = tmp_path / "a[/b]" / "model"
    model.parent.mkdir(parents=True)
    model.symlink_to(HF_MODEL)
    command = (
        "align",
        str(model),
        "--data",
        f"llava:{manifest}?images={golden}/images",
        "--out",
        str(tmp_path / "run"),
    )
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "n = 1 of 6" in done.stdout and "\x1b]" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) < 1500
    assert run(*command).returncode == 0
    status, line = failure(*command[:-2], "--strict")
    assert status == 1 and "\x1b" not in line and len(line) < 2000


# Code in files


def calls(name: str) -> list[tuple[str, dict[str, ast.expr]]]:
    """Calls of anything of that name in the package, the adapters and the scripts, with their keywords."""
    found = []
    for part in ("mmerank", "adapters", "scripts"):
        for path in (SOURCES / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                function = node.func if isinstance(node, ast.Call) else None
                if isinstance(node, ast.Call) and getattr(function, "attr", getattr(function, "id", None)) == name:
                    where = f"{path.relative_to(SOURCES)}:{node.lineno}"
                    found.append((where, {k.arg: k.value for k in node.keywords if k.arg}))
    return found


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_checkpoints_are_read_without_running_code_of_theirs() -> None:
    loads = [call for call in calls("load") if "map_location" in call[1] or "weights_only" in call[1]]
    assert loads, "torch.load is used somewhere; this test must find it"
    for where, keywords in loads:
        assert is_constant(keywords.get("weights_only"), True), where
    sources = [p for part in ("mmerank", "adapters", "scripts") for p in (SOURCES / part).rglob("*.py")]
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                asked = (node.value.id, node.attr)
                assert asked not in {("pickle", "load"), ("pickle", "loads"), ("yaml", "load"), ("joblib", "load")}, (
                    path
                )
                if asked == ("torch", "load"):
                    assert f"{path.relative_to(SOURCES)}:{node.lineno}" in {where for where, _ in loads}


def test_no_code_of_a_repository_is_run() -> None:
    loads = calls("from_pretrained") + calls("from_config")
    assert len(loads) > 5
    for where, keywords in loads:
        assert "trust_remote_code" not in keywords or is_constant(keywords["trust_remote_code"], False), where
    automatic = [p for part in ("mmerank", "adapters", "scripts") for p in (SOURCES / part).rglob("*.py")]
    for path in automatic:
        assert "trust_remote_code=True" not in path.read_text(), path


# What is no regular file


def special(folder: Path, kind: str, name: str) -> Path:
    """Something that cannot be read to its end, under a name that a reader takes for a file."""
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        pipe = folder / f"{name}.pipe" if kind == "link to a pipe" else path
        os.mkfifo(pipe)
        if pipe != path:
            path.symlink_to(pipe.name)
    return path


SPECIAL = ["pipe", "link to a pipe", "device", "socket", "folder"]
# Every reader, tried in a process of its own, which may hang, or take all the memory there is.
READERS = """
import os, resource, sys, warnings
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (12_000_000_000, -1))
os.chdir(sys.argv[1])
from mmerank.jobs.accuracy import _kept
from mmerank.analysis.estimates import estimates
from mmerank.models.checkpoints import yaml_keys
from mmerank.jobs.clip import _read
from mmerank.inputs.load import load_data
from mmerank.errors import MmerankError
from mmerank.inputs.pictures import open_picture
from mmerank.runs.parts import read_part
from mmerank.analysis.finished import read_runs
from mmerank.jobs.paper.studies import _read as read_study
readers = {
    "picture": lambda: open_picture(Path("x.png")),
    "llava": lambda: load_data("llava:x.json"),
    "minigpt": lambda: load_data("minigpt:minigpt"),
    "text": lambda: load_data("text:x.txt", pipe=False),
    "packed": lambda: load_data("text:x.txt.gz", pipe=False),
    "jsonl": lambda: load_data("text:x.jsonl#t"),
    "parquet": lambda: load_data("text:x.parquet#t"),
    "piqa": lambda: load_data("piqa:x.jsonl"),
    "yaml": lambda: yaml_keys(Path("x.yaml")),
    "study": lambda: read_study(Path("x.yaml")),
    "run.json": lambda: read_runs([Path("run")]),
    "estimates": lambda: estimates("run"),
    "part": lambda: read_part(Path("000000.parquet"), None),
    "clip": lambda: _read(Path("clip.parquet"), "clip"),
    "accuracy": lambda: _kept(Path("x.json")),
}
warnings.simplefilter("error", UserWarning)  # what is set aside is warned of
for name, read in readers.items():
    try:
        answer = f"read: {read()}"
    except (MmerankError, OSError, ValueError, UserWarning) as error:
        answer = f"{error}"
    print(f"{name}\\t{answer[:300]}", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_read(kind: str, tmp_path: Path) -> None:
    names = [
        "x.png",
        "x.json",
        "x.txt",
        "x.txt.gz",
        "x.jsonl",
        "x.parquet",
        "x.yaml",
        "000000.parquet",
        "clip.parquet",
    ]
    for name in [*names, "minigpt/filter_cap.json", "run/run.json"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        special(tmp_path, kind, name)
    done = forked.run(["-c", READERS, str(tmp_path)], timeout=LONGEST_S)
    assert done.returncode == 0, done.stderr
    answers = dict(line.split("\t", 1) for line in done.stdout.splitlines())
    assert len(answers) == 15
    reasons = ["expected a file", "not a regular file"] + (["folder", "directory"] if kind == "folder" else [])
    for name, answer in answers.items():
        assert any(reason in answer for reason in reasons) and not answer.startswith("read: "), (name, answer)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Between the look at a file and its opening another may take its place."""
    code = """
import os, sys
from pathlib import Path
from mmerank.files import opened
path = Path(sys.argv[1])
look = Path.stat
def swapped(self, **named):
    found = look(self, **named)
    if str(self) == sys.argv[1] and not os.path.exists(sys.argv[1] + '.was'):
        os.rename(path, sys.argv[1] + '.was')
        os.mkfifo(path)
    return found
Path.stat = swapped
try:
    opened(path)
except OSError as error:
    print(error.strerror)
"""
    (tmp_path / "x").write_text("content")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "is a pipe, expected a file"


def test_a_pipe_is_taken_where_a_person_names_it(tmp_path: Path) -> None:
    """What `text:<(command)` is."""
    code = "from mmerank import load_data; print([e.text for e in load_data('text:/dev/stdin')])"
    done = subprocess.run(
        [sys.executable, "-c", code], input="one\ntwo\n", capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "['one', 'two']"


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmerank.inputs.lines.LONGEST_LINE", 1000)
    (tmp_path / "long.txt").write_text(f"short\n{'x' * 5000}\n")
    with pytest.raises(DataError, match=r"long.txt: line 2 has .* MB and more, expected texts"):
        text("text:x", str(tmp_path / "long.txt"))
    packed = tmp_path / "long.txt.gz"
    packed.write_bytes(gzip.compress(b"x" * 1_000_000))
    with pytest.raises(DataError, match="line 1 has"):
        text("text:x", str(packed))
