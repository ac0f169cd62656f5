from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmerank.engine.batches import Budget, batches, budget_for, default_budget, is_out_of_memory, windows

lengths = st.lists(st.integers(1, 50), max_size=40)


@given(lengths, st.integers(0, 300))
def test_every_item_once_and_no_batch_over_the_budget(items: list[int], budget: int) -> None:
    found = list(batches(items, lambda item: item, budget))
    assert sorted(item for batch in found for item in batch) == sorted(items)
    assert all(len(batch) == 1 or max(batch) * len(batch) <= budget for batch in found)
    flat = [item for batch in found for item in batch]
    assert flat == sorted(items)
    for batch, following in pairwise(found):  # no batch could have taken one more
        assert following[0] * (len(batch) + 1) > budget


@given(lengths, st.integers(1, 7))
def test_windows(items: list[int], size: int) -> None:
    found = list(windows(items, size))
    assert [item for window in found for item in window] == items
    assert all(len(window) == size for window in found[:-1])


def test_a_cpu_takes_one_item_a_batch() -> None:
    assert default_budget(torch.device("cpu")) == default_budget(torch.device("cpu"), 33) == 0
    assert 0 < 2 * default_budget(torch.device("cuda"), 33) < default_budget(torch.device("cuda"))


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1.00 GB)",
    ],
)
def test_what_libraries_say_where_memory_runs_out(said: str) -> None:
    assert is_out_of_memory(RuntimeError(said)) and not is_out_of_memory(ValueError(said))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


class FakeAllocator:
    """A device of `room` bytes beside the model; a batch takes so many bytes a token, and some whatever comes."""

    def __init__(self, room: int, of_a_token: int, constant: int = 0):
        self.room, self._of_a_token, self._constant, self._peak = room, of_a_token, constant, 0

    def run(self, tokens: int) -> None:
        held = self._constant + tokens * self._of_a_token
        if held > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self._peak = max(self._peak, held)

    def look(self) -> tuple[int, int]:
        peak, self._peak = self._peak, 0
        return peak, self.room


def found(budget: Budget, device: FakeAllocator, batches_run: int = 20) -> list[int]:
    """The budgets that full batches run with."""
    seen = []
    for _ in range(batches_run):
        seen.append(budget.tokens)
        try:
            device.run(budget.tokens)
        except torch.OutOfMemoryError:
            with pytest.warns(UserWarning, match="out of memory"):
                budget.halve(budget.tokens)
        else:
            budget.ran(seen[-1])
    return seen


@pytest.mark.parametrize(
    ("room", "begins", "expected"),
    [
        (10**9, 1638, [1638, 3276, 6552, 8192, 8192]),  # many layers on a large device: up to what keeps it busy
        (10**9, 8192, [8192, 8192]),
        (900_000, 8192, [8192, 4096, 4096]),  # 819,200 bytes fit, with too little beside them
        (400_000, 1638, [1638, 2048, 2048]),
        (400_000, 8192, [8192, 4096, 2048, 2048]),  # 4096 tokens do not fit at all; halved until they do
        (50, 8, [8, 4, 2, 1, 0, 0]),  # nothing fits: one example a batch
    ],
)
def test_a_budget_is_found_from_free_memory(room: int, begins: int, expected: list[int]) -> None:
    """Of 100 bytes a token, at most four fifths of the room: by hand."""
    device = FakeAllocator(room, 100)
    seen = found(Budget(begins, device), device, len(expected))
    assert seen == expected


def test_what_did_not_fit_is_not_tried_again() -> None:
    device = FakeAllocator(10**6, 100)
    budget = Budget(8192, device)
    with pytest.warns(UserWarning, match="out of memory"):
        budget.halve(4096)  # another process took memory, and gave it back
    assert found(budget, device) == [2048] * 20


def test_a_little_more_or_less_memory_makes_no_other_batches() -> None:
    free = [600_000, 620_000, 580_000, 601_000]
    last = set()
    for room in free:
        device = FakeAllocator(room, 100, 3000)
        last.add(found(Budget(1638, device), device)[-1])
    assert last == {4096}


def test_a_budget_that_was_asked_for_is_kept() -> None:
    device = torch.device("cpu")
    assert budget_for(device, 100).memory is None and budget_for(device, None) == Budget(0)
    budget = budget_for(device, 100)
    assert not budget.ran(100) and budget.tokens == 100
    empty = Budget(100, FakeAllocator(10, 1))
    assert not empty.ran(0) and empty.tokens == 100  # a batch in which nothing could be read
