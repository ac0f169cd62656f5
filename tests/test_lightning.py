"""The monitor under Lightning, which is not installed here: its hooks are called as its Trainer calls them."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

import mmerank
from mmerank.errors import UsageError
from tests.test_monitor import PROBES, small_model, tokenizer

__all__ = ["tokenizer"]


class Logger:
    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.seen.append((step, metrics))


class FSDPStrategy:
    pass


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    package, pytorch = ModuleType("lightning"), ModuleType("lightning.pytorch")
    pytorch.Callback = type("Callback", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning", package)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", pytorch)


class Module(torch.nn.Module):
    """A LightningModule has the model inside."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = small_model()


def around(tokenizer: transformers.PreTrainedTokenizerBase) -> Any:
    return lambda module: mmerank.wrap_text(module.model, tokenizer, name="in training")


def test_a_training(tokenizer: Any, lightning: None) -> None:
    module, logger = Module(), Logger()
    module.train()
    trainer = SimpleNamespace(strategy=object(), global_step=0, is_global_zero=True, loggers=[logger])
    monitor = mmerank.lightning_monitor(iter(PROBES), every=2, adapter=around(tokenizer), metrics=["stable_rank"])
    monitor.on_train_start(trainer, module)
    state = torch.get_rng_state()
    for batch in range(6):  # two batches a step
        if batch % 2:
            with torch.no_grad():
                module.model.lm_head.weight.add_(0.01)
                module.model.model.decoder.layers[0].fc1.weight.mul_(1.5)
            trainer.global_step += 1
        monitor.on_train_batch_end(trainer, module, None, None, batch)
    monitor.on_train_end(trainer, module)
    assert [step for step, _ in logger.seen] == [0, 2, 3]
    assert module.training and torch.equal(torch.get_rng_state(), state)
    found = mmerank.diff(around(tokenizer)(module), PROBES)
    numbers = logger.seen[-1][1]
    assert numbers["probe_diff_erank"] == pytest.approx(found.diff_erank, abs=1e-6) and numbers["probe_n"] == 4
    assert numbers["probe_stable_rank/trained"] != logger.seen[0][1]["probe_stable_rank/trained"]
    assert numbers["probe_erank"] != logger.seen[0][1]["probe_erank"]
    assert numbers["probe_erank_untrained"] == logger.seen[0][1]["probe_erank_untrained"]


def test_only_the_first_process_measures(tokenizer: Any, lightning: None) -> None:
    logger = Logger()
    trainer = SimpleNamespace(strategy=object(), global_step=0, is_global_zero=False, loggers=[logger])
    mmerank.lightning_monitor(PROBES, every=1, adapter=around(tokenizer)).on_train_start(trainer, Module())
    assert not logger.seen


def test_what_it_refuses(tokenizer: Any, lightning: None, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = SimpleNamespace(strategy=FSDPStrategy(), global_step=0, is_global_zero=True, loggers=[])
    monitor = mmerank.lightning_monitor(PROBES, every=1, adapter=around(tokenizer))
    with pytest.raises(UsageError, match=r"lie in shards \(FSDPStrategy\)"):
        monitor.on_train_start(trainer, Module())
    with pytest.raises(UsageError, match="at least 1, got 0"):
        mmerank.lightning_monitor(PROBES, every=0, adapter=around(tokenizer))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(UsageError, match="pip install lightning"):
        mmerank.lightning_monitor(PROBES, every=1, adapter=around(tokenizer))
