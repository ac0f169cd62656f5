"""Text adapter x texts -> records: eRank at any layers and the loss, in one forward."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmerank.convention import TextConvention
from mmerank.engine.batches import budget_for
from mmerank.engine.collect import Measured, in_batches
from mmerank.engine.measurement import Measurement, measurement_fingerprint, no_spectrum
from mmerank.engine.metrics import Metrics
from mmerank.engine.workers import Workers, default_workers
from mmerank.eranks import FINAL
from mmerank.errors import NoSpectrum
from mmerank.inputs.contents import content_of
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.sequence import Role, TokenSequence, tokens_of
from mmerank.models.hooks import Point, capture
from mmerank.models.identity import identity
from mmerank.models.loading import TextAdapter
from mmerank.models.sequences import SpecialTokens, outside, padded
from mmerank.models.soundness import embedding_rows
from mmerank.models.wrapped import evaluated
from mmerank.runs.record import Record
from mmerank.transfer import Arriving, sent

# Positions whose logits are held at once: the vocabulary is what makes them large.
LOGIT_POSITIONS = 256

_Outcomes = dict[str, Future[Record | NoSpectrum]]


@dataclass(frozen=True)
class _Prepared:
    id: str
    sequence: TokenSequence
    text_cut: int
    text_digest: str


@dataclass
class TextProbe:
    """Measures texts with one language model.

    Attributes:
        adapter: The model.
        name: What the records call it.
        convention: The choices in force.
        points: Hook points by name; `final` is one of them.
        batch_tokens: Most positions in a batch, padding included. Default: one text a batch on a CPU, elsewhere up to
            8192: see `mmerank.engine.batches.Budget`.
        dropout_seed: Leave dropout on, as the published code does in the untrained model, with random numbers
            that follow from this seed and the text's id, so that neither order nor batching matters; texts run
            one by one then. None: dropout is off.
        loss: Whether the loss is computed beside the eRank, where the model predicts the next token. It needs the LM
            head, which may take as long as a third of a small model.
        workers: Threads that compute eigenvalues beside the model. Default: none on a CPU, where the model itself
            takes all cores, and elsewhere one for each core but one. The numbers are equal to rounding.
        source: What the model is known by. Default: its `mmerank.models.identity`, taken now.
    """

    adapter: TextAdapter
    name: str
    convention: TextConvention = field(default_factory=TextConvention)
    points: Mapping[str, Point] | None = None
    batch_tokens: int | None = None
    dropout_seed: int | None = None
    loss: bool = True
    workers: int | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.points is None:
            self.points = {FINAL: self.adapter.layers[-1]}
        device = next(self.adapter.model.parameters()).device
        if self.dropout_seed is not None:
            self.batch_tokens = 0
        self._workers = Workers(default_workers(device) if self.workers is None else self.workers)
        self._special_tokens = SpecialTokens(self.adapter.tokenizer)
        self._rows = embedding_rows(self.adapter.model)
        self._budget = budget_for(device, self.batch_tokens, len(self.points))
        self.source = self.source or identity(self.adapter)
        self._fingerprint = measurement_fingerprint(self.source, self.convention)

    def measure(self, examples: Iterable[Example | Skipped]) -> Iterator[Measured | Skipped]:
        """Records of each text, in the order in which batches finish.

        Args:
            examples: Texts; pictures are not looked at.

        Yields:
            One result for each of `examples`; in `records` one per hook point, with each the loss if it is asked for.
        """
        # Once: in a model of many modules it takes as long as a short text.
        with evaluated(self.adapter.model), self._workers:
            yield from in_batches(
                examples,
                prepare=self._prepare,
                length=lambda item: len(item.sequence),
                load=lambda item: item,
                start=self._start,
                budget=self._budget,
                workers=self._workers,
            )

    def _prepare(self, example: Example) -> _Prepared | Skipped:
        if not example.text.strip():
            return Skipped(example.id, "the text is empty")
        self._special_tokens.look_at(example.id, example.text)
        ids = self.adapter.token_ids(example.text)
        limit = min(self.convention.max_tokens, self.adapter.max_tokens)
        kept = ids[:limit]
        counted = len(kept) - self.convention.skip_first
        if counted < 2:
            behind = f" behind the first {self.convention.skip_first}" if self.convention.skip_first else ""
            return Skipped(example.id, f"{max(counted, 0)} tokens{behind}; at least 2 are needed")
        sequence = tokens_of(kept, Role.TEXT)
        if reason := outside(sequence, self._rows, self.adapter.tokenizer):
            return Skipped(example.id, reason)
        digest = content_of(example).text_digest
        return _Prepared(example.id, sequence, len(ids) - len(kept), digest)

    @torch.inference_mode()
    def _start(self, batch: list[_Prepared]) -> Callable[[], Iterable[Measured | Skipped]]:
        assert self.points is not None
        outcomes: list[_Outcomes] = [{} for _ in batch]
        ids, mask = padded([item.sequence for item in batch])
        with ExitStack() as stack:
            for name, point in self.points.items():
                stack.enter_context(
                    capture(self.adapter.model, {name: point}, reduce=self._reduce(name, batch, outcomes))
                )
            stack.enter_context(self._mode(batch))
            states = self.adapter.forward(ids, mask)
        losses = None
        if self.loss and self.adapter.predicts_next:
            lengths = [len(item.sequence) for item in batch]
            of_each = [self._loss(h[:n], row[:n]) for h, row, n in zip(states, ids, lengths, strict=True)]
            losses = Arriving(torch.stack(of_each))
        return partial(self._results, batch, outcomes, losses)

    def _results(
        self, batch: list[_Prepared], outcomes: list[_Outcomes], losses: Arriving | None
    ) -> Iterator[Measured | Skipped]:
        of_each = [None] * len(batch) if losses is None else losses.wait()[0].tolist()
        for item, found, loss in zip(batch, outcomes, of_each, strict=True):
            n = len(item.sequence)
            records: list[Record] = []
            bad = None
            for outcome in (future.result() for future in found.values()):
                if isinstance(outcome, Record):
                    lost = {} if loss is None else {"loss": loss, "predicted": n - 1}
                    records.append(replace(outcome, text_digest=item.text_digest, **lost))
                else:
                    bad = bad or outcome
            if bad is None and loss is not None and not math.isfinite(loss):
                reason = f"the loss is {loss}; check the model's dtype and weights"
                yield Skipped(item.id, reason, suspect="model")
            else:
                yield no_spectrum(item.id, bad) if bad else Measured(item.id, tuple(records), n)

    def _reduce(
        self, name: str, batch: Sequence[_Prepared], outcomes: Sequence[_Outcomes]
    ) -> Callable[[Tensor], None]:
        metrics = Metrics(self.convention) if self.convention.metrics else None

        def reduce(h: Tensor) -> None:
            for item, found, states in zip(batch, outcomes, h, strict=True):
                measurement = Measurement(
                    states[self.convention.skip_first : len(item.sequence)],
                    model=self.name,
                    example=item.id,
                    point=name,
                    input_kind="text",
                    centre=self.convention.centre,
                    precision=self.convention.precision,
                    fingerprint=self._fingerprint,
                    text_cut=item.text_cut,
                    metrics=metrics,
                )
                found[name] = self._workers.submit(measurement.outcome)

        return reduce

    def _loss(self, h: Tensor, ids: Tensor) -> Tensor:
        """Mean negative log-likelihood of each token given those before it, nats, from logits in chunks.

        Args:
            h: Final hidden states, (n, d).
            ids: Of the tokens, (n,), on the CPU.

        Returns:
            0-dim float64, on the device of `h`.
        """
        total = torch.zeros((), dtype=torch.float64, device=h.device)
        targets = sent(ids[1:], h.device)
        for start in range(0, len(targets), LOGIT_POSITIONS):
            chunk = slice(start, min(start + LOGIT_POSITIONS, len(targets)))
            logits = self.adapter.logits(h[None, chunk])[0].float()
            wanted = targets[chunk].to(logits.device)
            total += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").to(total)
        return total / len(targets)

    def _mode(self, batch: Sequence[_Prepared]) -> ExitStack:
        """Dropout off, or on with the random numbers of the one text in the batch."""
        stack = ExitStack()
        if self.dropout_seed is None:
            return stack
        device = next(self.adapter.model.parameters()).device
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        torch.manual_seed(text_seed(self.dropout_seed, batch[0].id))
        self.adapter.model.train()
        stack.callback(self.adapter.model.eval)
        return stack


def text_seed(seed: int, text_id: str) -> int:
    """The seed of the random numbers for one text: 63 bits of a hash of seed and id."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{text_id}".encode()).digest()[:8], "big") >> 1
