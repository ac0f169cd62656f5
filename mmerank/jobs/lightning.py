"""eRanks of a fixed probe set while a model trains under Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from mmerank.convention import Convention, TextConvention
from mmerank.errors import UsageError
from mmerank.formulas.asked import Given
from mmerank.inputs.example import DataSet, Example, Skipped
from mmerank.jobs.align import align
from mmerank.jobs.diff import diff
from mmerank.jobs.monitor import PREFIX, alignment_numbers, as_it_was, diff_numbers
from mmerank.models.adapter import Adapter
from mmerank.models.loading import TextAdapter, check_text_adapter

if TYPE_CHECKING:
    from mmerank.jobs.diff import Diff

_SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")


def lightning_monitor(
    examples: Iterable[Example | Skipped],
    *,
    every: int,
    adapter: Callable[[Any], Adapter | TextAdapter],
    convention: Convention | TextConvention | None = None,
    layers: str = "",
    metrics: Iterable[Given] = (),
    batch_tokens: int | None = None,
) -> Any:
    """A callback for Lightning's Trainer that logs what `AlignmentMonitor` or `DiffErankMonitor` logs.

    Which of them is decided by the adapter. It measures before the first step, at every k-th, and after the last,
    without disturbing the training, and hands the numbers to the Trainer's loggers. Of several processes the first
    one measures.

    Args:
        examples: The probe set: from `mmerank.load_data`, or any `mmerank.Example`; they are kept in memory.
        every: Number of optimizer steps between measurements.
        adapter: Makes the adapter of the LightningModule: `lambda module: mmerank.wrap_text(module.model, tokenizer,
            name="in training")`, or with `mmerank.wrap` that of a multimodal model.
        convention: The choices the paper leaves open.
        layers: Further layers, as in `mmerank.align` and `mmerank.diff`.
        metrics: Also these, as in `mmerank.align` and `mmerank.diff`.
        batch_tokens: As in `mmerank.align` and `mmerank.diff`.

    Returns:
        A `lightning.pytorch.Callback`.

    Raises:
        UsageError: `every` is not positive, or Lightning is not installed.
    """
    if every < 1:
        raise UsageError(f"every: expected a number of steps, at least 1, got {every}")
    try:
        from lightning.pytorch import Callback
    except ImportError:
        raise UsageError("lightning_monitor: Lightning is not installed; pip install lightning") from None
    probes = examples if isinstance(examples, DataSet) else list(examples)
    asked = tuple(metrics)

    class LightningMonitor(Callback):  # type: ignore[misc]
        """See `mmerank.lightning_monitor`."""

        def __init__(self) -> None:
            self._step: int | None = None  # of the last measurement
            self._first: Diff | None = None
            self._adapter: Any = None

        def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
            """Measure before the first step.

            Raises:
                UsageError: The parameters lie in shards.
            """
            strategy = type(trainer.strategy).__name__
            if any(word in strategy for word in _SHARDED):
                raise UsageError(
                    f"lightning_monitor: the model's parameters lie in shards ({strategy}), where no module can run "
                    "by itself; measure the saved checkpoints with `mmerank diff` or `mmerank align`"
                )
            with as_it_was(pl_module):
                self._adapter = adapter(pl_module)
            self._log(trainer, pl_module)

        def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *_: Any, **__: Any) -> None:
            """Measure at every k-th optimizer step."""
            # Between two of them there may be several batches.
            if trainer.global_step % every == 0 and trainer.global_step != self._step:
                self._log(trainer, pl_module)

        def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
            """Measure after the last step."""
            if trainer.global_step != self._step:
                self._log(trainer, pl_module)

        def _log(self, trainer: Any, pl_module: nn.Module) -> None:
            self._step = trainer.global_step
            if not trainer.is_global_zero:
                return
            with as_it_was(pl_module):
                numbers = self._numbers()
            named = {PREFIX + key: value for key, value in numbers.items() if not math.isnan(value)}
            for logger in trainer.loggers:
                logger.log_metrics(named, step=trainer.global_step)

        def _numbers(self) -> dict[str, float]:
            settings: dict[str, Any] = {
                "convention": convention,
                "layers": layers,
                "metrics": asked,
                "batch_tokens": batch_tokens,
            }
            if not isinstance(self._adapter, Adapter):
                check_text_adapter(self._adapter)
                found = diff(self._adapter, probes, untrained=self._first, **settings)
                self._first = self._first or found
                return diff_numbers(found)
            return alignment_numbers(align(self._adapter, probes, **settings))

    return LightningMonitor()
