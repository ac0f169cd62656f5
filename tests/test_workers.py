"""Threads beside the model change when things are done, and nothing else."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch

from mmerank import Convention, Example
from mmerank.computing import Computing
from mmerank.engine import window
from mmerank.engine.batches import Budget, windows
from mmerank.engine.measurement import Measured
from mmerank.engine.plans.pairs import Pairs
from mmerank.engine.plans.texts import Texts
from mmerank.engine.probe import Probe
from mmerank.engine.window import in_batches
from mmerank.engine.workers import Workers, default_workers
from mmerank.inputs.example import Skipped
from mmerank.inputs.pictures import Encoded
from mmerank.inputs.transforms.transform import parse
from mmerank.inputs.variants import BASE, variant
from mmerank.runs.record import Record
from mmerank.states.eigenvalues import shares
from mmerank.states.spectrum import PendingGram, spectrum
from tests.adapters.cases import CASES, LLAVA, Case, examples
from tests.adapters.text_cases import OPT
from tests.kill_loop import pairs
from tests.test_collect import OUT_OF_MEMORY, limited
from tests.test_diff_erank import texts

Results = dict[str, Any]


def by_id(found: Iterator[Measured | Skipped]) -> Results:
    """Skips, and what records hold; no example comes twice."""
    results: Results = {}
    for entry in found:
        assert entry.id not in results
        results[entry.id] = entry if isinstance(entry, Skipped) else [plain(record) for record in entry.records]
    return results


def plain(record: Record) -> dict[str, Any]:
    """To be compared: arrays by their bytes, and NaN equal to itself."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: v.tobytes() if isinstance(v, np.ndarray) else repr(v) for name, v in values.items()}


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that some examples are prepared while others run."""
    monkeypatch.setattr(window, "windows", lambda entries: windows(entries, 5))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("convention", [Convention(), Convention(rows=True, match_tokens=8, companions=True)])
def test_pairs_are_the_same_to_the_last_bit(case: Case, convention: Convention) -> None:
    entries = [*pairs(23), Skipped("known", "before")]
    made = [
        variant(parse(text)[0], [e for e in entries if isinstance(e, Example)]) for text in ("rotate:90", "blank")
    ]
    alone, *others = (
        by_id(Probe(Pairs(case.adapter, convention, (BASE, *made)), Computing(300, n)).measure(entries))
        for n in (0, 1, 3)
    )
    assert len(alone) == 24 and sum(isinstance(found, Skipped) for found in alone.values()) == 3
    assert all(other == alone for other in others)


def test_texts_are_the_same_to_the_last_bit() -> None:
    entries = [*texts(17), Example("short", None, "", "")]
    alone, other = (by_id(Probe(Texts(OPT.adapter), Computing(200, n)).measure(entries)) for n in (0, 2))
    assert alone == other and len(alone) == 18 and isinstance(alone["short"], Skipped)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_opened_is_told_once(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    entries = [*pairs(6), Example("far", Encoded("far.png", fail), "What?", "A picture.")]
    limited(monkeypatch, LLAVA.adapter, "decode", 120, OUT_OF_MEMORY[0])
    with pytest.warns(UserWarning, match="out of memory"):
        found = by_id(Probe(Pairs(LLAVA.adapter), Computing(100_000, workers)).measure(entries))
    assert found["far"] == Skipped("far", "far.png: cannot be read (Input/output error)", suspect="source")
    assert sum(not isinstance(entry, Skipped) for entry in found.values()) == 6


def test_memory_that_runs_out_behind_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = pairs(7)
    whole = by_id(Probe(Pairs(LLAVA.adapter), Computing(0)).measure(entries))
    original, calls = PendingGram.arrived, iter(range(10_000))

    def short_of_memory(self: PendingGram) -> Any:
        if next(calls) == 12:
            raise OUT_OF_MEMORY[1]
        return original(self)

    monkeypatch.setattr(PendingGram, "arrived", short_of_memory)
    with pytest.warns(UserWarning, match="out of memory"):
        found = by_id(Probe(Pairs(LLAVA.adapter), Computing(200, 2)).measure(entries))
    assert found.keys() == whole.keys() and not any(isinstance(entry, Skipped) for entry in found.values())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_example_that_fits_only_alone_is_measured(workers: int) -> None:
    """On a device that holds what a batch needs until its results are made, and has room for one example."""
    room = Lock()

    def length(example: Example) -> int:
        return len(example.text)

    def start(batch: list[Example]) -> Any:
        (example,) = batch
        if not room.acquire(blocking=False):
            raise OUT_OF_MEMORY[0]

        def measured() -> Measured:
            time.sleep(0.002)
            room.release()
            return Measured(example.id, (), 1)

        outcome = threads.submit(measured)
        return lambda: [outcome.result()]

    texts = [Example(f"{i}", None, "", "word") for i in range(12)]
    with Workers(workers) as threads:
        found = in_batches(
            texts,
            prepare=lambda example: example,
            length=length,
            load=lambda example: example,
            start=start,
            budget=Budget(0),
            workers=threads,
        )
        assert sorted(int(entry.id) for entry in found if isinstance(entry, Measured)) == list(range(12))


def test_states_that_are_not_finite() -> None:
    norm: Any = LLAVA.adapter.model.get_submodule("model.language_model.norm")
    sound, norm.weight = norm.weight, torch.nn.Parameter(torch.full_like(norm.weight, torch.nan))
    try:
        found = by_id(Probe(Pairs(LLAVA.adapter), Computing(workers=2)).measure(examples()))
    finally:
        norm.weight = sound
    assert {entry.suspect for entry in found.values()} == {"model"}


def test_an_error_comes_out_and_the_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: PendingGram) -> Any:
        raise ArithmeticError("no convergence")

    before = threading.active_count()
    monkeypatch.setattr(PendingGram, "arrived", fail)
    with pytest.raises(ArithmeticError, match="no convergence"):
        list(Probe(Pairs(LLAVA.adapter), Computing(workers=2)).measure(examples()))
    assert threading.active_count() == before


def test_left_in_the_middle_the_threads_end() -> None:
    before = threading.active_count()
    found = Probe(Pairs(LLAVA.adapter), Computing(workers=2)).measure(pairs(20))
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_each_thread_computes_on_one_core() -> None:
    mine = torch.get_num_threads()
    with Workers(2) as workers:
        assert [workers.submit(torch.get_num_threads).result() for _ in range(4)] == [1] * 4
    assert torch.get_num_threads() == mine
    others: list[int] = []
    later = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert others == [mine]


def test_ahead_of_who_asks_but_not_further() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item * item

    with Workers(1) as workers:
        found = workers.ahead(work, range(10), depth=2)
        assert next(found) == 0
        workers.submit(lambda: None).result()  # the one thread has done what it was asked for
        assert begun == [0, 1, 2]
        assert list(found) == [i * i for i in range(1, 10)]
    begun.clear()
    found = Workers(0).ahead(work, range(10), depth=2)
    assert next(found) == 0 and begun == [0]


def test_a_model_on_the_cpu_has_the_cores_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert default_workers(torch.device("cpu")) == 0 and default_workers(cuda) == 15
    for name, value in {"RANK": 3, "WORLD_SIZE": 16, "LOCAL_RANK": 3, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    assert default_workers(cuda) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert default_workers(cuda) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_gpu_is_not_waited_for(dtype: torch.dtype, tmp_path: Path) -> None:
    h = torch.randn(300, 700, device="cuda").to(dtype)
    busy = torch.randn(8192, 8192, device="cuda")
    PendingGram(h).arrived()  # libraries are loaded
    torch.cuda.synchronize()
    for _ in range(20):
        busy = busy @ busy / 8192
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = PendingGram(h)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    gram, _ = pending.arrived()
    assert torch.allclose(shares(gram), spectrum(h.cpu()), atol=1e-12)
