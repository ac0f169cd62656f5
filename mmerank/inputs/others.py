"""Pictures of other examples, to be read in the place of an example's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mmerank.errors import DataError, SourceError
from mmerank.inputs.contents import picture_digest
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.pictures import MAX_PIXELS, Opened, open_pictures
from mmerank.inputs.variants import Version, cycle


class Others:
    """The examples of a run as a source of other pictures.

    Seed and ids put them into one random cycle. An example's others are the next ones behind it whose pictures can be
    read, are as many as its own, and show something else than its own and each other. So they follow from seed, ids
    and pictures alone: neither from the order of the data, nor from who measures what and when. But for pictures that
    are passed over, each stands beside equally many responses.

    Args:
        entries: Those of the run, of which the ones without a picture are no others.
        count: How many are wanted of each.
        seed: Of the cycle.
        max_pixels: Pictures with more are passed over.
    """

    def __init__(
        self,
        entries: Iterable[Example | Skipped] = (),
        *,
        count: int,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
    ):
        self._examples = {
            entry.id: entry for entry in entries if isinstance(entry, Example) and entry.image is not None
        }
        self._cycle = cycle(self._examples, seed, "others")
        self._places = {name: i for i, name in enumerate(self._cycle)}
        self._count = count
        self._max_pixels = max_pixels
        self._digests: dict[str, str | None] = {}  # None: cannot be read

    @property
    def versions(self) -> tuple[Version, ...]:
        """An example with each of its other pictures, opened; a DataError where there are fewer than are wanted."""
        return tuple(Version(f"others/{i}", lambda example, i=i: self._shown(example, i)) for i in range(self._count))  # type: ignore[misc]

    def of(self, example: Example) -> tuple[str, ...]:
        """Ids of the examples whose pictures stand in the place of an example's own.

        Args:
            example: With a picture.

        Returns:
            As many as are wanted.

        Raises:
            DataError: There are fewer, or its own picture cannot be read.
            SourceError: A disk or a network did not give a picture.
        """
        if example.id in self._places:
            own, begin = self._digest(example.id), self._places[example.id] + 1
        else:
            own, begin = picture_digest(self._opened(example)), 0
        seen, found = {own}, []
        for step in range(len(self._cycle)):
            name = self._cycle[(begin + step) % len(self._cycle)]
            if name == example.id or len(self._examples[name].pictures) != len(example.pictures):
                continue
            if (digest := self._digest(name)) is not None and digest not in seen:
                seen.add(digest)
                found.append(name)
            if len(found) == self._count:
                return tuple(found)
        raise DataError(
            f"{len(found)} other examples have another picture that can stand here, and {self._count} are asked for"
        )

    def _shown(self, example: Example, place: int) -> Example:
        return replace(example, image=self._opened(self._examples[self.of(example)[place]]))

    def _digest(self, name: str) -> str | None:
        if name not in self._digests:
            try:
                self._digests[name] = picture_digest(self._opened(self._examples[name]))
            except SourceError:
                raise
            except DataError:
                self._digests[name] = None
        return self._digests[name]

    def _opened(self, example: Example) -> Opened:
        assert example.image is not None  # or it would not be here
        try:
            return open_pictures(example.image, max_pixels=self._max_pixels)
        except DataError as error:
            raise type(error)(f"the picture of example {example.id!r}: {error}") from None
