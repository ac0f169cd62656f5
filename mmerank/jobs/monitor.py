"""eRanks of a fixed probe set while a model trains, in the log of transformers' Trainer."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from mmerank.analysis.estimates import values_of
from mmerank.convention import AnyConvention, Convention, TextConvention
from mmerank.eranks import ERANKS
from mmerank.errors import UsageError
from mmerank.formulas.asked import Given
from mmerank.inputs.example import DataSet, Example, Skipped
from mmerank.inputs.selection import ALL
from mmerank.jobs.align import Alignment, align
from mmerank.jobs.diff import Diff, diff
from mmerank.models.adapter import Adapter
from mmerank.models.loading import TextAdapter, wrap_text
from mmerank.models.wrapped import evaluated, unwrapped
from mmerank.runs.record import Record, to_frame

PREFIX = "probe_"


class _Monitor(TrainerCallback, ABC):  # type: ignore[misc]
    """When to measure and how to log; the classes below say what is measured.

    A callback is handed model, tokenizer and state, but no Trainer. What `on_log` adds to the logs comes too late:
    `log_history` is written before, and so are the trackers, whose callbacks stand in front of the user's.
    `Trainer.log` is the public way to both, so a monitor holds its Trainer.
    """

    def __init__(self, trainer: Trainer, examples: Iterable[Example | Skipped], every: int):
        if every < 1:
            raise UsageError(f"every: expected a number of steps, at least 1, got {every}")
        self._trainer = trainer
        self._examples = examples if isinstance(examples, DataSet) else ALL.held(examples)
        self._every = every
        self._step: int | None = None  # of the last measurement

    @abstractmethod
    def _begin(self, model: nn.Module) -> nn.Module:
        """Find the adapter of the model that is about to be trained; the module that it measures."""

    @abstractmethod
    def _numbers(self) -> dict[str, float]:
        """Measure the model as it is now."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure before the first step, or at the one that training is resumed from.

        Raises:
            UsageError: The parameters lie in shards (FSDP, ZeRO-3), or the adapter measures another model.
            ModelError: The model is not understood, or by itself would be another one.
        """
        from transformers.integrations import is_deepspeed_zero3_enabled

        if self._trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled():
            raise UsageError(
                f"{type(self).__name__}: the model's parameters lie in shards (FSDP or ZeRO-3), where no module can "
                "run by itself; measure the saved checkpoints with `mmerank diff` or `mmerank align`"
            )
        # Only now: with `model_init` this is not the model that the Trainer was built with.
        model = self._trainer.model
        unwrapped(model)  # refuses what by itself would be another model
        with as_it_was(model):
            measured = self._begin(model)
        known = {id(parameter) for parameter in model.parameters()}
        if any(id(parameter) not in known for parameter in measured.parameters()):
            raise UsageError(
                f"{type(self).__name__}: the adapter measures another model than the Trainer trains; train "
                "`adapter.model`, or a model of peft around it, or give a function that makes the adapter of the "
                "model that is trained"
            )
        self._log(state.global_step, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure at every k-th step, and at the last one."""
        if state.global_step % self._every == 0 or state.global_step >= state.max_steps:
            self._log(state.global_step, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where training was stopped before its last step."""
        # By now the best checkpoint may be in the place of the last.
        if state.global_step != self._step and not args.load_best_model_at_end:
            self._log(state.global_step, control)

    def _log(self, step: int, control: Any) -> None:
        with as_it_was(self._trainer.model):
            numbers = self._numbers()
        self._step = step
        # After any log the Trainer takes its own of this step for written.
        pending = control.should_log
        # Keys with `eval_` would be taken for those of an evaluation, and `loss` for the training's.
        self._trainer.log({PREFIX + key: value for key, value in numbers.items() if not math.isnan(value)})
        control.should_log = pending


@final
class DiffErankMonitor(_Monitor):
    """Logs eRank, Diff-eRank and loss of a language model while it trains.

    Keys: `probe_erank`, `probe_erank_untrained`, `probe_diff_erank`, `probe_loss`, `probe_loss_untrained`,
    `probe_reduced_loss`, `probe_n` (texts), and of further layers `probe_layer_I_erank` and
    `probe_layer_I_diff_erank`; and of each metric that is asked for `probe_METRIC/trained`, `/untrained` and
    `/difference`, of a layer as `probe_layer_I/METRIC/trained`. The untrained twins (Diff-eRank, arXiv:2401.17139,
    Def. 3.5) have the model's configuration and random weights of their own seeds; they are built and measured once,
    when training begins. The weights are measured in the dtype they are held and saved in, without the casts of mixed
    precision, so the numbers are those that `mmerank.diff` gives for a checkpoint saved at the same step. Of a model
    with LoRA (peft) that is the checkpoint with LoRA merged into it, and the twins are those of the model without.
    Training goes on as if nothing had been measured.

    Args:
        trainer: The Trainer; add the monitor with `trainer.add_callback(monitor)`.
        examples: The probe set: from `mmerank.load_data`, or any `mmerank.Example`; they are kept in memory.
        every: Number of steps between measurements; before the first step and after the last it always measures.
        adapter: Around the model in training, or a function that makes it of the model. Default:
            `mmerank.wrap_text` of the model and the Trainer's `processing_class`.
        convention: The choices the paper leaves open.
        layers: Further layers, see `mmerank.models.layers.layer_points`.
        metrics: Also these, as in `mmerank.diff`.
        seeds: Of the untrained twins.
        batch_tokens: As in `mmerank.diff`.

    Raises:
        UsageError: `every` is not positive.
    """

    def __init__(
        self,
        trainer: Trainer,
        examples: Iterable[Example | Skipped],
        *,
        every: int,
        adapter: TextAdapter | Callable[[nn.Module], TextAdapter] | None = None,
        convention: TextConvention | None = None,
        layers: str = "",
        metrics: Iterable[Given] = (),
        seeds: Sequence[int] = (0,),
        batch_tokens: int | None = None,
    ):
        super().__init__(trainer, examples, every)
        self._given = adapter
        self._convention = convention
        self._layers = layers
        self._metrics = tuple(metrics)
        self._seeds = seeds
        self._batch_tokens = batch_tokens
        self._adapter: TextAdapter
        self._first: Diff | None = None

    def _begin(self, model: nn.Module) -> nn.Module:
        self._first = None
        if self._given is not None:
            self._adapter = self._given(model) if callable(self._given) else self._given
            return self._adapter.model
        tokenizer = self._trainer.processing_class
        if tokenizer is None:
            raise UsageError("DiffErankMonitor: the Trainer has no tokenizer; give it `processing_class`")
        self._adapter = wrap_text(model, getattr(tokenizer, "tokenizer", tokenizer), name="in training")
        return self._adapter.model

    def _numbers(self) -> dict[str, float]:
        found = diff(
            self._adapter,
            self._examples,
            convention=self._convention,
            layers=self._layers,
            metrics=self._metrics,
            seeds=self._seeds,
            batch_tokens=self._batch_tokens,
            untrained=self._first,
        )
        self._first = self._first or found
        return diff_numbers(found)


@final
class AlignmentMonitor(_Monitor):
    """Logs eRank1 to eRank5, Image Reduction Ratio and Image-Text Alignment of a multimodal model while it trains.

    Keys: `probe_erank1` .. `probe_erank5`, `probe_image_reduction_ratio`, `probe_image_text_alignment`, `probe_n`
    (examples), and under its own name whatever else is asked for: `probe_matched_erank1`, `probe_layer_I/image`,
    `probe_METRIC/llm/pair`. Diff-eRank (arXiv:2401.17139), Sec. 5.2. Training goes on as if nothing had been
    measured.

    Args:
        trainer: The Trainer; add the monitor with `trainer.add_callback(monitor)`.
        examples: The probe set: from `mmerank.load_data`, or any `mmerank.Example`; they are kept in memory.
        every: Number of steps between measurements; before the first step and after the last it always measures.
        adapter: Around the model in training, as when `adapter = mmerank.load(...)` and the Trainer trains
            `adapter.model`, or peft's model of it; or a function that makes the adapter of the model.
        convention: The choices the paper leaves open.
        layers: Further layers of the LLM, as in `mmerank.align`.
        metrics: Also these, as in `mmerank.align`.
        batch_tokens: As in `mmerank.align`.

    Raises:
        UsageError: `every` is not positive.
    """

    def __init__(
        self,
        trainer: Trainer,
        examples: Iterable[Example | Skipped],
        *,
        every: int,
        adapter: Adapter | Callable[[nn.Module], Adapter],
        convention: Convention | None = None,
        layers: str = "",
        metrics: Iterable[Given] = (),
        batch_tokens: int | None = None,
    ):
        super().__init__(trainer, examples, every)
        self._given = adapter
        self._convention = convention
        self._layers = layers
        self._metrics = tuple(metrics)
        self._batch_tokens = batch_tokens
        self._adapter: Adapter

    def _begin(self, model: nn.Module) -> nn.Module:
        self._adapter = self._given(model) if callable(self._given) else self._given
        return self._adapter.model

    def _numbers(self) -> dict[str, float]:
        return alignment_numbers(
            align(
                self._adapter,
                self._examples,
                convention=self._convention,
                layers=self._layers,
                metrics=self._metrics,
                batch_tokens=self._batch_tokens,
            )
        )


def diff_numbers(found: Diff) -> dict[str, float]:
    """What `DiffErankMonitor` logs, by key.

    Args:
        found: What was measured.

    Returns:
        Numbers, NaN where there are none.
    """
    numbers = {
        "erank": found.final.erank_trained,
        "erank_untrained": found.final.erank_untrained,
        "diff_erank": found.diff_erank,
        "loss": found.loss_trained,
        "loss_untrained": found.loss_untrained,
        "reduced_loss": found.reduced_loss,
        "n": found.n,
    }
    for point in found.points[:-1]:
        name = point.point.replace(" ", "_")
        numbers |= {f"{name}_erank": point.erank_trained, f"{name}_diff_erank": point.diff_erank}
    return {**_further(found.records, found.convention, but="diff_erank"), **numbers}


def alignment_numbers(found: Alignment) -> dict[str, float]:
    """What `AlignmentMonitor` logs, by key.

    Args:
        found: What was measured.

    Returns:
        Numbers, NaN where there are none.
    """
    ratios = ("image_reduction_ratio", "image_text_alignment")
    numbers = {label: getattr(found, label) for label in (*ERANKS, *ratios)}
    return {
        **_further((*found.records, *found.layer_records), found.convention, but="alignment"),
        **numbers,
        "n": found.n,
    }


def _further(records: Sequence[Record], convention: AnyConvention, *, but: str) -> dict[str, float]:
    """What other metrics give, each number under its own name, in which keys of logs have no space."""
    found = values_of(to_frame(records, spectrum=False), convention.aggregate, but=but)
    return {name.replace(" ", "_"): value for name, value in found.items()}


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Give modules their train or eval mode back, one by one, and all random number generators their state.

    Gradients need nothing: what measures runs in inference mode.

    Args:
        model: The one in training.

    Yields:
        Nothing.
    """
    generators = random.getstate(), np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    cpu = torch.get_rng_state()
    try:
        with evaluated(model):
            yield
    finally:
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)
