"""What a probe asks of a plan."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mmerank.convention import AnyConvention
from mmerank.engine.batches import Budget
from mmerank.engine.metrics import Metrics
from mmerank.engine.window import Finish
from mmerank.errors import NoSpectrum
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.sequence import TokenSequence
from mmerank.models.protocol import LoadedModel
from mmerank.runs.record import Record
from mmerank.states.reductions import Study

# The record of some hidden states, or why there is none, when it is computed.
Outcome = Future[Record | NoSpectrum]


class Ask(Protocol):
    """Asks for the record of some rows; a GPU is not waited for."""

    def __call__(
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
        """See `mmerank.engine.measurement.Measurement`."""
        ...


class Read(Protocol):
    """An example with what the model will read of it."""

    @property
    def id(self) -> str:
        """Of the example."""
        ...

    @property
    def sequences(self) -> Iterable[TokenSequence]:
        """All that is looked up in the model's embedding."""
        ...


Item = TypeVar("Item", bound=Read)
Loaded = TypeVar("Loaded")


class Plan(Protocol[Item, Loaded]):
    """What is measured of an example, and by which passes of the model.

    A plan turns what is asked for into passes, and each pass into calls of `Ask`. The probe brings device, threads,
    budget, and whatever else is the same for every kind of model.
    """

    @property
    def adapter(self) -> LoadedModel:
        """The model."""
        ...

    @property
    def convention(self) -> AnyConvention:
        """The choices in force."""
        ...

    def budget(self, device: torch.device, asked: int | None) -> Budget:
        """Tokens of a batch, where so many are asked for, or None."""
        ...

    def usable(self, example: Example) -> Example | Skipped:
        """The example as it is measured, or why it cannot be: a first look, which opens and tokenises nothing."""
        ...

    def text(self, example: Example) -> str:
        """The text that is read of a usable example."""
        ...

    def prepare(self, example: Example) -> Item | Skipped:
        """What is read of a usable example. A DataError says that it cannot be."""
        ...

    def length(self, item: Item) -> int:
        """Tokens of the longest pass."""
        ...

    def load(self, item: Item) -> Loaded:
        """What the model is fed; in any thread. A DataError says why it cannot be."""
        ...

    def start(self, batch: list[Loaded], ask: Ask) -> Finish:
        """Run the passes of a batch. When it raises for lack of memory, it has left nothing behind."""
        ...
