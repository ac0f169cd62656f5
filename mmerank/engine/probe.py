"""Model x examples -> records, as a plan says. The only place with a device, threads and a budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic

import torch
from torch import Tensor

from mmerank.computing import Computing
from mmerank.engine.measurement import Measured, Measurement, measurement_fingerprint, unreadable
from mmerank.engine.metrics import Metrics
from mmerank.engine.plans.plan import Item, Loaded, Outcome, Plan
from mmerank.engine.window import Finish, in_batches
from mmerank.engine.workers import Workers, default_workers
from mmerank.errors import DataError
from mmerank.inputs.example import Example, Skipped
from mmerank.models.identity import identity
from mmerank.models.sequences import SpecialTokens, outside
from mmerank.models.soundness import embedding_rows
from mmerank.models.wrapped import evaluated
from mmerank.states.reductions import Study


@dataclass
class Probe(Generic[Item, Loaded]):
    """Measures examples with one model, as a plan says.

    The plan knows what is read of an example and which passes that takes; all else is the same for pairs, texts and
    encoders, and is here. Hidden states become spectra and are not kept, but for what the plan holds until a batch is
    through; with workers those of two batches may be held.

    Attributes:
        plan: Of pairs, texts or an encoder, see `mmerank.engine.plans`; it has the model.
        computing: Budget and threads.
        name: What the records call the model. Default: its own name.
        source: What the model is known by. Default: its `mmerank.models.identity`, taken now.
    """

    plan: Plan[Item, Loaded]
    computing: Computing = field(default_factory=Computing)
    name: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        adapter = self.plan.adapter
        self.name = self.name or adapter.name
        self.source = self.source or identity(adapter)
        device = next(adapter.model.parameters()).device
        asked = self.computing
        self._workers = Workers(default_workers(device) if asked.workers is None else asked.workers)
        self._budget = self.plan.budget(device, asked.batch_tokens)
        self._fingerprint = measurement_fingerprint(self.source, self.plan.convention)
        self._tokenizer = getattr(adapter, "tokenizer", None)  # an encoder of pictures has none
        self._special_tokens = SpecialTokens(self._tokenizer)

    def measure(self, examples: Iterable[Example | Skipped]) -> Iterator[Measured | Skipped]:
        """Records of each example, in the order in which batches finish, which is not that of `examples`.

        An example is skipped as a whole if any of its measurements cannot be made, so that all stand on the same
        examples.

        Args:
            examples: Any number; those already skipped are passed on.

        Yields:
            One result for each of `examples`.
        """
        # `evaluated` once: in a model of many modules it takes as long as a short text.
        with evaluated(self.plan.adapter.model), self._workers:
            yield from in_batches(
                examples,
                prepare=self.prepare,
                length=self.plan.length,
                load=self._load,
                start=self._start,
                budget=self._budget,
                workers=self._workers,
            )

    def prepare(self, example: Example) -> Item | Skipped:
        """What the model will read of an example, before its picture is loaded.

        Args:
            example: Any.

        Returns:
            It, or why the example cannot be measured.
        """
        usable = self.plan.usable(example)
        if isinstance(usable, Skipped):
            return usable
        self._special_tokens.look_at(usable.id, self.plan.text(usable))
        try:
            item = self.plan.prepare(usable)
        except DataError as error:
            return unreadable(usable.id, error)
        if isinstance(item, Skipped):
            return item
        for sequence in item.sequences:
            if reason := outside(sequence, self._rows, self._tokenizer):
                return Skipped(item.id, reason)
        return item

    def _load(self, item: Item) -> Loaded | Skipped:
        try:
            return self.plan.load(item)
        except DataError as error:
            return unreadable(item.id, error)

    @torch.inference_mode()
    def _start(self, batch: list[Loaded]) -> Finish:
        return self.plan.start(batch, self._outcome)

    def _outcome(
        self,
        h: Tensor,
        example: str,
        point: str,
        input_kind: str,
        *,
        text_cut: int = 0,
        study: Study | None = None,
        metrics: Metrics | None = None,
    ) -> Outcome:
        """The record of some rows, computed beside the model; see `mmerank.engine.plans.plan.Ask`."""
        measurement = Measurement(
            h,
            model=self.name,
            example=example,
            point=point,
            input_kind=input_kind,
            centre=self.plan.convention.centre,
            precision=self.plan.convention.precision,
            fingerprint=self._fingerprint,
            text_cut=text_cut,
            study=study,
            metrics=metrics,
        )
        return self._workers.submit(measurement.outcome)

    @cached_property
    def _rows(self) -> int | None:
        """Of the embedding; asked for where there is a sequence, since not every encoder can say."""
        return embedding_rows(self.plan.adapter.model)
