from __future__ import annotations

import socket
import subprocess
import sys
from importlib.util import find_spec
from multiprocessing import Manager
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

import mmerank
from mmerank.errors import NoValue, TooFewTokens

HAS_IT = find_spec("torchmetrics") is not None
needs_it = pytest.mark.skipif(not HAS_IT, reason="needs torchmetrics")


def metric(**conventions: Any) -> Any:
    from mmerank.states.torchmetric import EffectiveRank

    return EffectiveRank(**conventions)


def samples(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5 + i, 8, generator=generator, dtype=torch.float64) for i in range(count)]


def of_all(hidden: list[torch.Tensor], **conventions: Any) -> float:
    entropies = [mmerank.matrix_entropy(h, **conventions) for h in hidden]
    return float(torch.stack(entropies).mean().exp())


@needs_it
def test_batches_add_up_to_exp_of_the_mean_entropy() -> None:
    hidden = samples(4)
    found = metric()
    found.update(hidden[0])
    batch = torch.full((3, 8, 8), torch.nan, dtype=torch.float64)
    mask = torch.zeros(3, 8)
    for i, h in enumerate(hidden[1:]):
        batch[i, : len(h)], mask[i, : len(h)] = h, 1
    found.update(batch, mask)
    assert found.compute().dtype == torch.float64
    assert found.compute().item() == pytest.approx(of_all(hidden), rel=1e-12)
    found.reset()
    found.update(hidden[2])
    assert found.compute().item() == pytest.approx(of_all(hidden[2:3]), rel=1e-12)


@needs_it
def test_forward_gives_the_batch_and_keeps_the_rest() -> None:
    hidden = samples(2)
    found = metric(centre="median")
    for h in hidden:
        assert found(h).item() == pytest.approx(of_all([h], centre="median"), rel=1e-12)
    assert found.compute().item() == pytest.approx(of_all(hidden, centre="median"), rel=1e-12)


@needs_it
def test_a_sample_that_cannot_be_measured_adds_nothing() -> None:
    hidden = samples(1)
    found = metric()
    with pytest.warns(UserWarning), pytest.raises(NoValue, match="call update"):
        found.compute()
    found.update(hidden[0])
    with pytest.raises(TooFewTokens, match="sample 1 of the batch"):
        found.update(torch.randn(2, 3, 4), torch.tensor([[1, 1, 1], [1, 0, 0]]))
    assert found.compute().item() == pytest.approx(of_all(hidden), rel=1e-12)


def test_without_torchmetrics_the_extra_is_named() -> None:
    code = (
        "import sys, importlib.util; found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'torchmetrics' else found(name, *a)\n"
        "from mmerank.states.torchmetric import EffectiveRank\n"
        "try: EffectiveRank()\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "mmerank[torchmetrics]"' in done.stdout


def _part(rank: int, port: int, found: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    erank = metric()
    for h in samples(5)[rank::2]:
        erank.update(h)
    found[rank] = erank.compute().item()
    torch.distributed.destroy_process_group()


@needs_it
@pytest.mark.slow
def test_processes_have_the_number_of_all() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Manager() as manager:
        found = manager.dict()
        spawn(_part, args=(port, found), nprocs=2)  # type: ignore[no-untyped-call]
        assert list(found.values()) == pytest.approx([of_all(samples(5))] * 2, rel=1e-12)
