from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmerank.engine.batches import batches, default_budget, is_out_of_memory, windows

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
