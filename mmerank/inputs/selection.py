"""Which examples of a data set a run measures."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice

from mmerank.errors import UsageError
from mmerank.inputs.example import DataStream, Example, Skipped


@dataclass(frozen=True)
class Selection:
    """The first examples of a data set, or a random sample of them.

    Args:
        limit: How many; None for all.
        seed: None for the first ones; else they are drawn by `random.Random(seed).sample`, as in the published code.
    """

    limit: int | None = None
    seed: int | None = None

    def check(self) -> None:
        """Refuse what selects nothing, or cannot be drawn.

        Raises:
            TypeError: `limit` is no int.
            UsageError: It is below 1, or there is a seed without a limit.
        """
        if self.limit is not None and type(self.limit) is not int:
            raise TypeError(f"limit: expected an int, got {self.limit!r:.100}")
        if self.limit is None and self.seed is not None:
            raise UsageError(f"seed {self.seed} draws a sample, so it needs a limit")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit must be at least 1, got {self.limit}")

    def of(self, examples: Iterable[Example | Skipped]) -> Iterable[Example | Skipped]:
        """Select.

        Args:
            examples: In order.

        Returns:
            The entries; of a stream another one, read as it is asked.

        Raises:
            TypeError: As of `check`.
            UsageError: As of `check`; or a stream would have to be read whole for a sample.
        """
        self.check()
        if self.limit is None:
            return examples
        if self.seed is None:
            # No further: what comes behind may have no end.
            first = islice(examples, self.limit)
            return first if isinstance(examples, DataStream) else list(first)
        if isinstance(examples, DataStream):
            raise UsageError(
                f"{examples.name}: a sample by a seed would read the stream to its end; shuffle the stream itself, "
                "with its own shuffle(seed=..., buffer_size=...), and take the first of it by limit alone"
            )
        listed = list(examples)
        return random.Random(self.seed).sample(listed, min(self.limit, len(listed)))

    def held(self, examples: Iterable[Example | Skipped]) -> list[Example | Skipped]:
        """Select, for a job that must have all examples at once.

        Args:
            examples: In order.

        Returns:
            The entries.

        Raises:
            UsageError: As of `of`; or it is a stream, and nothing says where to stop.
        """
        if isinstance(examples, DataStream) and self.limit is None:
            raise UsageError(
                f"{examples.name}: this job holds all its examples in memory, and a stream may have no end; give a "
                "limit, or the first of it, as list(itertools.islice(DATA, 1000))"
            )
        return list(self.of(examples))

    def to_dict(self) -> dict[str, int | None]:
        """As a run folder states it."""
        return asdict(self)


ALL = Selection()
