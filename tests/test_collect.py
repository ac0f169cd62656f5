"""What can go wrong in hour three, and that it costs nothing of the first two."""

from __future__ import annotations

import errno
import io
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmerank import Example, align, diff
from mmerank.computing import Computing
from mmerank.engine import collect as collect
from mmerank.engine.batches import Budget
from mmerank.engine.measurement import Measured, Measurement
from mmerank.engine.plans.pairs import Pairs
from mmerank.engine.probe import Probe
from mmerank.errors import DataError, RunFolderError
from mmerank.inputs import pictures as images
from mmerank.inputs.example import Skipped
from mmerank.inputs.pictures import Encoded
from mmerank.runs import folder as runs
from mmerank.runs.parts import write_part
from tests import forked
from tests.adapters.cases import LLAVA, at_the_encoder, examples
from tests.adapters.text_cases import OPT
from tests.conftest import LONGEST_S
from tests.kill_loop import disturbed_runs, pairs, same
from tests.test_cli import HF_MODEL, run
from tests.test_diff_erank import texts

ADAPTER = LLAVA.adapter


@pytest.fixture
def part_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "PART_SECONDS", 0.0)


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "records").glob("*.parquet"))


def pictures_seen(work: Callable[[], Any]) -> int:
    """How many pictures go through the vision encoder meanwhile."""
    seen: list[int] = []
    handle = at_the_encoder(lambda output: seen.append(len(output[0])))
    try:
        work()
    finally:
        handle.remove()
    return sum(seen)


# Killed


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "least"), [(1, 3), pytest.param(2, 2, marks=pytest.mark.long)])
def test_killed_at_random_moments(processes: int, least: int, tmp_path: Path) -> None:
    """`python -m tests.kill_loop` does this hundreds of times."""
    runs_, kills = disturbed_runs(least, processes=processes, seed=1, count=12, longest_s=0.2, where=tmp_path)
    assert runs_ >= 1 and kills >= least


def test_killed_before_anything_was_stated(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock-settings").touch()
    (folder / ".run.json.0a1b2c3d.unfinished").write_text('{"jo')
    assert align(ADAPTER, examples(), out=folder).n == 3
    assert not list(folder.glob("*.unfinished"))


def test_killed_while_a_part_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    align(ADAPTER, examples()[:2], out=folder)
    (part,) = parts(folder)
    left = part.with_name(f".{part.name}.0a1b2c3d.unfinished")
    left.write_bytes(part.read_bytes()[:100])
    part.unlink()
    assert align(ADAPTER, examples()[:2], out=folder).n == 2
    assert not left.exists() and len(parts(folder)) == 1


def test_a_part_written_twice_counts_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole = align(ADAPTER, examples(), out=folder)
    (part,) = parts(folder)
    part.with_name(part.name.replace("000000", "000001")).write_bytes(part.read_bytes())
    assert same(align(ADAPTER, examples(), out=folder), whole)


# Damaged


@pytest.mark.parametrize("damage", ["cut in half", "empty", "one bit"])
def test_a_damaged_part_is_set_aside_and_measured_again(damage: str, tmp_path: Path, part_each_batch: None) -> None:
    folder = tmp_path / "run"
    whole = align(ADAPTER, examples(), out=folder)
    first, *others = parts(folder)
    sound = first.read_bytes()
    flipped = bytearray(sound)
    flipped[len(sound) // 4] ^= 4
    content = {"cut in half": sound[: len(sound) // 2], "empty": b"", "one bit": bytes(flipped)}[damage]
    first.write_bytes(content)

    def again() -> None:
        with pytest.warns(UserWarning, match=f"{first.name} is damaged .* set aside as {first.name}.damaged"):
            assert same(align(ADAPTER, examples(), out=folder), whole)

    assert pictures_seen(again) == 1
    assert first.with_name(f"{first.name}.damaged").read_bytes() == content
    assert set(others) < set(parts(folder))


def test_a_part_that_cannot_be_read_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    align(ADAPTER, examples(), out=folder)

    def stale(*_: Any) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(runs, "read_part", stale)
    with pytest.raises(RunFolderError, match="cannot be read .Stale file handle"):
        align(ADAPTER, examples(), out=folder)
    assert len(parts(folder)) == 1


# The disk


def test_a_full_disk(tmp_path: Path, part_each_batch: None) -> None:
    """RLIMIT_FSIZE stands for it here: a write beyond the limit fails in the middle of the file."""
    folder = tmp_path / "run"
    align(ADAPTER, examples()[:1], out=tmp_path / "probe")
    size = parts(tmp_path / "probe")[0].stat().st_size
    whole = align(ADAPTER, examples())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(
            RunFolderError, match=r"cannot be written \(File too large\); .*the same command continues"
        ):
            align(ADAPTER, examples(), out=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert parts(folder) == [] and not list(folder.rglob("*.unfinished"))
    assert same(align(ADAPTER, examples(), out=folder), whole)


def test_a_disk_that_fills_up_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_each_batch: None) -> None:
    folder = tmp_path / "run"

    def full(path: Path, *rest: Any, **of: Any) -> None:
        if path.name == "000002.parquet":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_part(path, *rest, **of)

    whole = align(ADAPTER, examples())
    with monkeypatch.context() as patched:
        patched.setattr(runs, "write_part", full)
        with pytest.raises(RunFolderError, match="No space left on device"):
            align(ADAPTER, examples(), out=folder)
    assert len(parts(folder)) == 2
    results: list[Any] = []
    assert pictures_seen(lambda: results.append(align(ADAPTER, examples(), out=folder))) == 1
    assert same(results[0], whole)


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an ordinary user meets it: root may write everywhere, and another user may not read this clone."""
    folder = tmp_path / "run"
    whole = align(ADAPTER, examples(), out=folder)
    opened = os.open

    def refused(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and folder in Path(os.fsdecode(path)).parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, flags, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refused)
        with pytest.raises(RunFolderError, match=re.escape(f"{folder}: cannot be locked (Permission denied)")):
            align(ADAPTER, examples(), out=folder)
    assert same(align(ADAPTER, examples(), out=folder), whole)


# Interrupted


INTERRUPTED_WHILE_WRITING = f"""
import sys, time
from mmerank.computing import Computing
from mmerank.engine import collect as collect
from mmerank.engine.batches import Budget
from mmerank.engine.measurement import Measured
from mmerank.runs import folder as runs
from mmerank.__main__ import main
write = runs.write_part
def slow(*what, **of):
    print("writing", flush=True)
    time.sleep({LONGEST_S})
    write(*what, **of)
runs.write_part = slow
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_the_second_interruption_ends_at_once(tmp_path: Path, data: str) -> None:
    command = ["align", HF_MODEL, "--data", data, "--out", str(tmp_path / "run")]
    child = forked.Started(["-c", INTERRUPTED_WHILE_WRITING, *command])
    assert child.stdout is not None and child.stdout.readline() == "writing\n"
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "writing\n"  # the way out writes once more
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=LONGEST_S)
    assert child.returncode == 130 and "the same command continues" in stderr


@pytest.fixture
def data(golden_pairs: Path, golden: Path) -> str:
    return f"llava:{golden_pairs}?images={golden}/images"


# Out of memory


def limited(monkeypatch: pytest.MonkeyPatch, adapter: Any, method: str, most: int, error: Exception) -> list[int]:
    """Make a method of an adapter run out of memory above so many positions; those that it was given."""
    original = getattr(type(adapter), method)
    given: list[int] = []

    def forward(self: Any, ids: Any, *rest: Any) -> Any:
        # A language model is given ids, (b, n); a multimodal one sequences, which it pads to the longest.
        size = ids.numel() if isinstance(ids, torch.Tensor) else len(ids) * max(len(of.ids) for of in ids)
        given.append(size)
        if size > most:
            raise error
        return original(self, ids, *rest)

    monkeypatch.setattr(type(adapter), method, forward)
    return given


def hooks() -> int:
    """How many there are; transformers adds some of its own in the first forward."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in ADAPTER.model.modules())


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
    MemoryError(),
]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_grow_to_what_is_found_to_fit(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, rows = pairs(20), list[int]()
    singly = Probe(Pairs(ADAPTER)).measure(entries)
    whole = {m.id: [r.entropy for r in m.records] for m in singly if isinstance(m, Measured)}
    decode = type(ADAPTER).decode

    def counted(self: Any, *inputs: Any) -> None:
        rows.append(len(inputs[0]))
        decode(self, *inputs)

    class Vast:
        def look(self) -> tuple[int, int]:
            return 1, 10**9

    monkeypatch.setattr(type(ADAPTER), "decode", counted)
    monkeypatch.setattr("mmerank.engine.plans.pairs.budget_for", lambda *_: Budget(50, Vast()))
    found = list(Probe(Pairs(ADAPTER), Computing(workers=workers)).measure(entries))
    assert len({one.id for one in found}) == len(found) == 20
    measured = [one for one in found if isinstance(one, Measured)]
    assert {one.id for one in measured} == whole.keys()
    for one in measured:
        assert [r.entropy for r in one.records] == pytest.approx(whole[one.id], abs=1e-5)
    assert rows[0] == 1 and max(rows) > 4


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: type(e).__name__)
def test_a_batch_that_does_not_fit_is_halved(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = pairs(20)
    whole = align(ADAPTER, entries, batch_tokens=0)
    longest, before = max(r.n for r in whole.records if r.input == "pair"), hooks()
    given = limited(monkeypatch, ADAPTER, "decode", 3 * longest, error)
    with pytest.warns(UserWarning, match="out of memory with .* going on with at most"):
        result = align(ADAPTER, entries, batch_tokens=100_000)
    assert result.skipped == whole.skipped
    assert [(r.example, r.point, r.input) for r in result.records] == [
        (r.example, r.point, r.input) for r in whole.records
    ]
    assert [r.entropy for r in result.records] == pytest.approx([r.entropy for r in whole.records], abs=1e-5)
    too_much = [n for n in given if n > 3 * longest]
    assert too_much == sorted(too_much, reverse=True) and len(too_much) <= 5  # halved, and not tried again
    assert hooks() == before


def test_an_example_that_does_not_fit_alone_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entries = [*examples(), replace(examples()[0], id="long", response="word " * 60)]
    lengths, before = {r.example: r.n for r in align(ADAPTER, entries).records if r.input == "pair"}, hooks()
    with monkeypatch.context() as patched:
        limited(patched, ADAPTER, "decode", lengths["long"] - 1, OUT_OF_MEMORY[0])
        result = align(ADAPTER, entries, out=tmp_path / "run")
    reason = f"out of memory with its {lengths['long']} tokens alone in a batch"
    assert result.skipped == (Skipped("long", reason),) and result.n == 3
    assert hooks() == before
    assert align(ADAPTER, entries, out=tmp_path / "run").n == 4, "with more memory it is measured after all"


def test_bad_pictures_of_a_batch_that_does_not_fit_are_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entries = [Example("gone", tmp_path / "gone.png", "What?", "Nothing."), *pairs(6)]
    limited(monkeypatch, ADAPTER, "decode", 120, OUT_OF_MEMORY[0])
    with pytest.warns(UserWarning, match="out of memory"):
        result = align(ADAPTER, entries, batch_tokens=100_000)
    assert [entry.id for entry in result.skipped] == ["gone"] and result.n == 6


def test_memory_that_runs_out_in_a_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the spectra are computed, when the batch is half measured."""
    entries, calls = pairs(6), iter(range(1000))
    whole = align(ADAPTER, entries)

    def short_of_memory(*rest: Any, **named: Any) -> Any:
        if next(calls) == 8:
            raise OUT_OF_MEMORY[0]
        return Measurement(*rest, **named)

    monkeypatch.setattr("mmerank.engine.probe.Measurement", short_of_memory)
    before = hooks()
    with pytest.warns(UserWarning, match="out of memory"):
        result = align(ADAPTER, entries, batch_tokens=100_000)
    assert result.n == whole.n and len(result.records) == len(whole.records) and hooks() == before


def test_texts_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [*texts(8), Example("long", None, "", texts(8)[-1].response + " and more" * 30)]
    whole = diff(OPT.adapter, texts(8))
    lengths = [r.n for r in whole.records]
    limited(monkeypatch, OPT.adapter, "forward", max(lengths), OUT_OF_MEMORY[0])
    with pytest.warns(UserWarning, match="out of memory"):
        result = diff(OPT.adapter, entries, batch_tokens=100_000)
    assert [entry.id for entry in result.skipped] == ["long"] and result.n == 8
    assert result.diff_erank == pytest.approx(whole.diff_erank, abs=1e-4)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, ADAPTER, "decode", 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        align(ADAPTER, examples())


# A source that fails


class Share:
    """A network share that fails a number of times before it gives a picture."""

    def __init__(self, failures: int, number: int = errno.EIO):
        self.failures, self.number, self.reads = failures, number, 0

    def __call__(self) -> bytes:
        self.reads += 1
        if self.reads <= self.failures:
            raise OSError(self.number, os.strerror(self.number))
        return PICTURE.read_bytes()


PICTURE = Path(__file__).parent / "golden" / "images" / "img2_56x56.png"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET])
def test_a_picture_is_read_again(number: int, pauses: list[float]) -> None:
    share = Share(2, number)
    with Image.open(PICTURE) as picture:
        expected = np.asarray(picture.convert("RGB"))
    assert np.array_equal(np.asarray(images.open_picture(Encoded("x.png", share))), expected)
    assert share.reads == 3 and pauses == list(images.RETRY_AFTER_S[:2])


def test_a_file_is_read_again(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    opened = Image.open
    errors = [OSError(errno.EIO, "Input/output error"), TimeoutError("timed out")]

    def failing(*arguments: Any, **named: Any) -> Any:
        if errors:
            raise errors.pop()
        return opened(*arguments, **named)

    monkeypatch.setattr(Image, "open", failing)
    assert images.open_picture(PICTURE).size == (56, 56) and len(pauses) == 2


def test_what_stays_wrong_is_not_tried_again(tmp_path: Path, pauses: list[float]) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(PICTURE.read_bytes()[:200])
    for path in (tmp_path / "gone.png", cut, Path(__file__), tmp_path):
        with pytest.raises(DataError, match=path.name):
            images.open_picture(path)
    forbidden = Share(9, errno.EACCES)
    with pytest.raises(DataError, match=r"cannot be decoded \(Permission denied\)"):
        images.open_picture(Encoded("x.png", forbidden))
    assert pauses == [] and forbidden.reads == 1


def test_a_picture_that_is_never_given_is_skipped_and_tried_in_the_next_run(
    tmp_path: Path, pauses: list[float]
) -> None:
    share = Share(len(images.RETRY_AFTER_S) + 1)
    entries = [*examples(), Example("far", Encoded("far.png", share), "What?", "A picture.")]
    result = align(ADAPTER, entries, out=tmp_path / "run")
    assert [(s.id, s.reason) for s in result.skipped] == [("far", "far.png: cannot be read (Input/output error)")]
    assert pauses == list(images.RETRY_AFTER_S)
    assert align(ADAPTER, entries, out=tmp_path / "run").n == 4


def test_a_share_that_is_gone_stops_the_run(tmp_path: Path, pauses: list[float]) -> None:
    """Skipping the rest would give a result of whatever came first, and take hours."""
    shares = [Share(0), Share(0), *(Share(10**6) for _ in range(2 * collect.SUSPECT_IN_A_ROW))]
    entries = [Example(f"{i}", Encoded(f"{i}.png", share), "What?", "A picture.") for i, share in enumerate(shares)]
    with pytest.raises(DataError, match="8 examples in a row could not be read, the last, '9': 9.png"):
        align(ADAPTER, entries, out=tmp_path / "run")
    for share in shares:
        share.failures = 0
    result: list[Any] = []
    assert pictures_seen(lambda: result.append(align(ADAPTER, entries, out=tmp_path / "run"))) == len(entries) - 2
    assert result[0].n == len(entries)


@pytest.mark.parametrize("batch_tokens", [0, 100_000])
def test_pictures_that_fail_here_and_there_in_a_batch_stop_nothing(batch_tokens: int, pauses: list[float]) -> None:
    picture, content = examples()[2].image, io.BytesIO()
    assert isinstance(picture, Image.Image)
    picture.save(content, "PNG")
    entries = [
        Example(f"{i}", Encoded(f"{i}.png", Share(9) if i % 3 == 0 else content.getvalue), "What?", "A picture.")
        for i in range(30)
    ]
    result = align(ADAPTER, entries, batch_tokens=batch_tokens)
    assert [entry.id for entry in result.skipped] == [f"{i}" for i in range(0, 30, 3)]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("batch_tokens", [0, 100_000])
def test_a_finished_run_with_many_unreadable_examples_can_be_run_again(
    batch_tokens: int, processes: int, tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 of 40 done: what is done stands between those that are tried again. Their texts are the shortest, so that
    batches take them one after the other."""
    content = PICTURE.read_bytes()
    entries = [
        Example(
            f"{i}", Encoded(f"{i}.png", Share(10**6) if i % 4 == 0 else lambda: content), "", "A" + " b" * (i % 4)
        )
        for i in range(40)
    ]
    for process in range(processes):
        if processes > 1:
            for name, value in {"RANK": process, "WORLD_SIZE": processes, "LOCAL_RANK": process}.items():
                monkeypatch.setenv(name, str(value))
        result = align(ADAPTER, entries, out=tmp_path / "run", batch_tokens=batch_tokens)
        assert result.n == 30 and [entry.id for entry in result.skipped] == [f"{i}" for i in range(0, 40, 4)]
    again = align(ADAPTER, entries, out=tmp_path / "run", batch_tokens=batch_tokens)
    assert same(again, result) and len(again.skipped) == 10


def test_what_is_in_a_row_is_so_by_the_data_whatever_the_batches(tmp_path: Path, pauses: list[float]) -> None:
    """Texts of other lengths, so that the batches take none of them one after the other."""
    content = PICTURE.read_bytes()
    entries = [
        Example(
            f"{i}",
            Encoded(f"{i}.png", Share(10**6) if 16 <= i < 24 else lambda: content),
            "",
            "A" + " b" * (2 * (i - 16) if 16 <= i < 24 else 2 * (i % 16) + 1),
        )
        for i in range(40)
    ]
    with pytest.raises(DataError, match="8 examples in a row could not be read"):
        align(ADAPTER, entries, out=tmp_path / "run")


def test_many_on_end_stop_the_run_wherever_they_stand(pauses: list[float]) -> None:
    """Each has a longer text than the last, but for the picture that is well, which comes at the end."""
    content, count = PICTURE.read_bytes(), 3 * collect.SUSPECT_ON_END
    pictures = [(lambda: content) if i % 3 else Share(10**6) for i in range(count)]
    entries = [
        Example(f"{i}", Encoded(f"{i}.png", picture), "", "A" + " b" * (i % 3)) for i, picture in enumerate(pictures)
    ]
    with pytest.raises(DataError, match="32 examples in a row could not be read"):
        align(ADAPTER, entries)


def test_single_pictures_that_fail_stop_nothing(pauses: list[float]) -> None:
    shares = [Share(10**6 if i % 2 else 0) for i in range(4 * collect.SUSPECT_IN_A_ROW)]
    entries = [Example(f"{i}", Encoded(f"{i}.png", share), "What?", "A picture.") for i, share in enumerate(shares)]
    assert align(ADAPTER, entries).n == len(entries) // 2


# The same every time


def test_the_same_to_the_last_bit(data: str) -> None:
    first, second = (
        run("align", HF_MODEL, "--data", data, "--seed", "3", "--limit", "2", "--json", "-") for _ in "ab"
    )
    assert first.returncode == 0 and first.stdout == second.stdout


@pytest.mark.parametrize("batch_tokens", [200, 900, 100_000])
def test_batches_change_nothing_that_matters(batch_tokens: int) -> None:
    entries = [*pairs(12), *examples()]
    alone, together = (align(ADAPTER, entries, batch_tokens=tokens) for tokens in (0, batch_tokens))
    numbers = [f"erank{i}" for i in range(1, 6)] + ["image_reduction_ratio", "image_text_alignment"]
    for name in numbers:
        assert getattr(together, name) == pytest.approx(getattr(alone, name), rel=1e-6)
