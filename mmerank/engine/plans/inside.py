"""What the blocks of an LLM add to the residual stream, read in the passes that are run anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from mmerank.convention import Centre
from mmerank.eranks import update_points
from mmerank.inputs.sequence import Role
from mmerank.models.hooks import Point
from mmerank.models.protocol import LoadedModel
from mmerank.models.taken_apart import added_by
from mmerank.models.updates import Added, Block, block_paths, reading
from mmerank.states.reductions import UpdateStudy

# Asks for one update of one item of a batch: its place there, hook point, the rows, and what is asked of them.
AskUpdate = Callable[[int, str, Tensor, UpdateStudy], None]
# Of one item: the rows of its states that count, and what they are; no roles where they are all of one kind.
Counted = tuple[Callable[[Tensor], Tensor], tuple[Role, ...]]
STATES = 4  # of each block, which are held until they are measured


class InsideBlocks:
    """Those blocks of a model that are looked into; what they add is found out in the first pass.

    Args:
        model: Any.
        layers: Hook points of its LLM.
        chosen: See `mmerank.models.updates.block_paths`.
        centre: Of updates and streams.

    Attributes:
        points: Names of the hook points.

    Raises:
        UsageError: There is no such block.
    """

    def __init__(self, model: LoadedModel, layers: Sequence[Point], chosen: str, centre: Centre):
        self._model = model
        self._paths = block_paths(model.model, layers, chosen, model.name)
        self._centre: Centre = centre
        self._added: list[Added] | None = None
        self.points = update_points(self._paths)

    def __bool__(self) -> bool:
        return bool(self._paths)

    @property
    def states(self) -> int:
        """How many states of each position are held until they are measured."""
        return STATES * len(self._paths)

    def look(self, run: Callable[[], Any]) -> None:
        """Find out what the blocks add, if it is not known yet.

        Args:
            run: One pass of one example.

        Raises:
            ModelError: One cannot be taken apart; says why.
        """
        if self._added is None:
            self._added = added_by(self._model.model, self._paths, run, self._model.name)

    def reading(self, counted: Sequence[Counted], ask: AskUpdate) -> AbstractContextManager[None]:
        """Ask for the updates of each item of a batch, however many of them come at a time.

        Args:
            counted: Of each item, in the order in which the pass has them.
            ask: For one.

        Returns:
            To be around the pass.
        """
        assert self._added is not None
        waiting = {of.number: iter(enumerate(counted)) for of in self._added}

        def read(of: Added, block: Block) -> None:
            for place in range(len(block.deviations)):
                if (item := next(waiting[of.number], None)) is None:
                    return
                i, (rows, roles) = item
                deviations = rows(block.deviations[place, :, None])[:, 0]
                for part, update in block.updates.items():
                    stream = rows(block.streams[part][place])
                    study = UpdateStudy(roles, stream, self._centre, deviations, block.tolerance)
                    ask(i, f"{part} {of.number}", rows(update[place]), study)

        return reading(self._model.model, self._added, read)
