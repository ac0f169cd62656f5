from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from mmerank.batches import batches, default_budget, windows

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
    assert default_budget(torch.device("cpu")) == 0 < default_budget(torch.device("cuda"))
