"""Texts: eRank at any layers and the loss, in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from mmerank.convention import TextConvention
from mmerank.engine.batches import Budget, budget_for
from mmerank.engine.measurement import Measured, no_spectrum
from mmerank.engine.metrics import Metrics, refuse_without_layers
from mmerank.engine.plans.dropout import dropout
from mmerank.engine.plans.inside import InsideBlocks
from mmerank.engine.plans.loss import mean_loss
from mmerank.engine.plans.plan import Ask, Outcome
from mmerank.engine.window import Finish
from mmerank.eranks import FINAL
from mmerank.errors import NoSpectrum, UsageError
from mmerank.inputs.contents import content_of
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.sequence import Role, TokenSequence, tokens_of
from mmerank.models.hooks import Point, capture
from mmerank.models.loading import TextAdapter
from mmerank.models.sequences import padded
from mmerank.runs.record import Record
from mmerank.states.reductions import UpdateStudy
from mmerank.transfer import Arriving

_Outcomes = dict[str, Outcome]


@dataclass(frozen=True)
class Prepared:
    """A text with its tokens, as many as are measured."""

    id: str
    sequence: TokenSequence
    text_cut: int
    text_digest: str

    @property
    def sequences(self) -> tuple[TokenSequence]:
        """The one there is."""
        return (self.sequence,)


@dataclass
class Texts:
    """What is measured of texts with a language model.

    Attributes:
        adapter: The model.
        convention: The choices in force.
        points: Hook points by name; `final` is one of them. Default: it alone.
        loss: Whether the loss is computed beside the eRank, where the model predicts the next token. It needs the LM
            head, which may take as long as a third of a small model.
        dropout_seed: Leave dropout on, as the published code does in the untrained model, with random numbers
            that follow from this seed and the text's id, so that neither order nor batching matters; texts run
            one by one then. None: dropout is off.
        inside: Blocks whose updates of the residual stream are measured, too. See
            `mmerank.models.updates.block_paths`.
        blocks: What follows from that.

    Raises:
        UsageError: There is no such block, or dropout is on, with which it cannot be told what a block adds; or a
            metric is from one layer to the next, and one layer is measured.
    """

    adapter: TextAdapter
    convention: TextConvention = field(default_factory=TextConvention)
    points: Mapping[str, Point] = field(default_factory=dict)
    loss: bool = True
    dropout_seed: int | None = None
    inside: str = ""

    def __post_init__(self) -> None:
        self.points = self.points or {FINAL: self.adapter.layers[-1]}
        self.blocks = InsideBlocks(self.adapter, self.adapter.layers, self.inside, self.convention.centre)
        if self.blocks and self.dropout_seed is not None:
            raise UsageError("with dropout on, what blocks add cannot be told; leave out --untrained-mode train")
        if len(self.points) < 2:
            refuse_without_layers(self.convention.metrics)

    def budget(self, device: torch.device, asked: int | None) -> Budget:
        """For positions; with dropout one text at a time."""
        return budget_for(device, asked if self.dropout_seed is None else 0, len(self.points) + self.blocks.states)

    def usable(self, example: Example) -> Example | Skipped:
        """Whether there is a text; pictures are not looked at."""
        return example if example.text.strip() else Skipped(example.id, "the text is empty")

    def text(self, example: Example) -> str:
        """Instruction and response."""
        return example.text

    def prepare(self, example: Example) -> Prepared | Skipped:
        """Its tokens, cut at the limit."""
        ids = self.adapter.token_ids(example.text)
        limit = min(self.convention.max_tokens, self.adapter.max_tokens)
        kept = ids[:limit]
        counted = len(kept) - self.convention.skip_first
        if counted < 2:
            behind = f" behind the first {self.convention.skip_first}" if self.convention.skip_first else ""
            return Skipped(example.id, f"{max(counted, 0)} tokens{behind}; at least 2 are needed")
        digest = content_of(example).text_digest
        return Prepared(example.id, tokens_of(kept, Role.TEXT), len(ids) - len(kept), digest)

    def length(self, item: Prepared) -> int:
        """Tokens that are measured or lead to them."""
        return len(item.sequence)

    def load(self, item: Prepared) -> Prepared:
        """Nothing is loaded for a text."""
        return item

    def start(self, batch: list[Prepared], ask: Ask) -> Finish:
        """One pass, and the loss from its last hidden states."""
        outcomes: list[_Outcomes] = [{} for _ in batch]
        ids, mask = padded([item.sequence for item in batch])
        if self.blocks:
            self.blocks.look(
                lambda: self.adapter.forward(ids[:1, : self.length(batch[0])], mask[:1, : self.length(batch[0])])
            )
        with ExitStack() as stack:
            for name, point in self.points.items():
                reduce = self._reduce(name, batch, outcomes, ask)
                stack.enter_context(capture(self.adapter.model, {name: point}, reduce=reduce))
            if self.dropout_seed is not None:
                stack.enter_context(dropout(self.adapter.model, self.dropout_seed, batch[0].id))
            if self.blocks:
                stack.enter_context(self._each_update(batch, outcomes, ask))
            states = self.adapter.forward(ids, mask)
        losses = None
        if self.loss and self.adapter.predicts_next:
            texts = zip(states, ids, map(self.length, batch), strict=True)
            losses = Arriving(torch.stack([mean_loss(self.adapter.logits, h[:n], row[:n]) for h, row, n in texts]))
        return partial(_results, batch, outcomes, losses)

    def _each_update(
        self, batch: Sequence[Prepared], outcomes: Sequence[_Outcomes], ask: Ask
    ) -> AbstractContextManager[None]:
        def rows(item: Prepared, states: Tensor) -> Tensor:
            return states[self.convention.skip_first : len(item.sequence)]

        def ask_for(i: int, point: str, h: Tensor, study: UpdateStudy) -> None:
            item = batch[i]
            outcomes[i][point] = ask(h, item.id, point, "text", text_cut=item.text_cut, study=study)

        return self.blocks.reading([(partial(rows, item), ()) for item in batch], ask_for)

    def _reduce(
        self, name: str, batch: Sequence[Prepared], outcomes: Sequence[_Outcomes], ask: Ask
    ) -> Callable[[Tensor], None]:
        skipped = self.convention.skip_first

        def reduce(h: Tensor) -> None:
            for item, found, states in zip(batch, outcomes, h, strict=True):
                rows = states[skipped : len(item.sequence)]
                roles = item.sequence.roles[skipped:]
                metrics = Metrics(self.convention, roles) if self.convention.metrics else None
                found[name] = ask(rows, item.id, name, "text", text_cut=item.text_cut, metrics=metrics)

        return reduce


def _results(
    batch: Sequence[Prepared], outcomes: Sequence[_Outcomes], losses: Arriving | None
) -> Iterator[Measured | Skipped]:
    of_each = [None] * len(batch) if losses is None else losses.wait()[0].tolist()
    for item, found, loss in zip(batch, outcomes, of_each, strict=True):
        n = len(item.sequence)
        records: list[Record] = []
        bad: NoSpectrum | None = None
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
