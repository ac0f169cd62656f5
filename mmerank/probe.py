"""Adapter x examples -> records. The only place with a batch loop and a device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmerank.adapter import Adapter
from mmerank.batches import default_budget
from mmerank.collect import Measured, in_batches
from mmerank.convention import Convention
from mmerank.errors import DataError, DegenerateTokens, UsageError
from mmerank.hooks import capture
from mmerank.images import MAX_PIXELS, open_picture
from mmerank.inputs import Example, Skipped
from mmerank.measurement import measurement, measurement_fingerprint
from mmerank.records import Record
from mmerank.sequences import Kind, Role, TokenSequence, padded

KINDS: tuple[Kind, ...] = ("image", "text", "pair")
# Largest relative difference between a prefix read from the pair pass and a pass of its own that is still
# rounding. Attention that is not causal differs by 0.1 and more.
PREFIX_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.05}


@dataclass(frozen=True)
class Prepared:
    """An example with what the LLM will read for it."""

    example: Example
    sequences: dict[Kind, TokenSequence]
    text_cut: int


_Read = tuple[Kind, TokenSequence]
# By hook point and input: the record, or why there is none.
_Outcomes = dict[tuple[str, Kind], Record | DegenerateTokens]


@dataclass
class Probe:
    """Measures examples with one model under one convention.

    Vision encoder and connector run once per picture. The image input is read from the prefix of the pair pass
    where it is one and the model is causal, which is verified on the first example. Hidden states become
    spectra inside the hooks and are not kept.

    Attributes:
        adapter: The model.
        convention: The choices in force.
        batch_tokens: Most LLM positions in a batch, padding included; an example that is longer runs alone.
            Default: one example a batch on a CPU, where batching does not pay, 8192 elsewhere.
        share_prefix: Whether the image input may be read from the pair pass.
        max_pixels: Pictures with more are skipped.

    Raises:
        UsageError: The adapter has no vision point of that name.
    """

    adapter: Adapter
    convention: Convention = field(default_factory=Convention)
    batch_tokens: int | None = None
    share_prefix: bool = True
    max_pixels: int = MAX_PIXELS
    _prefix_verified: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        known = self.adapter.vision_points
        if self.convention.vision_point not in known:
            raise UsageError(
                f"{self.adapter.name}: unknown vision point {self.convention.vision_point!r}; "
                f"known: {', '.join(known)}"
            )
        if self.batch_tokens is None:
            self.batch_tokens = default_budget(next(self.adapter.model.parameters()).device)
        self._fingerprint = measurement_fingerprint(self.adapter.source, self.convention)

    def measure(self, examples: Iterable[Example | Skipped]) -> Iterator[Measured | Skipped]:
        """Records of each example, in the order in which batches finish, which is not that of `examples`.

        An example is skipped as a whole if any of its five measurements cannot be made, so that all stand on
        the same examples.

        Args:
            examples: Any number; those already skipped are passed on.

        Yields:
            One result for each of `examples`.

        Raises:
            NonFiniteTokens: Hidden states hold NaN or infinity; names hook point and example.
        """
        assert self.batch_tokens is not None
        yield from in_batches(
            examples, self.prepare, lambda item: len(item.sequences["pair"]), self.batch_tokens, self._run
        )

    def prepare(self, example: Example) -> Prepared | Skipped:
        """Token sequences of an example, the same text in all of them, cut so that the longest fits.

        Args:
            example: With a picture and a text.

        Returns:
            The sequences, or why there are none.
        """
        if example.image is None:
            return Skipped(example.id, "no image")
        if not example.text.strip():
            return Skipped(example.id, "the text is empty")
        sequences = {kind: self.adapter.sequence(example, kind, self.convention.sequence) for kind in KINDS}
        cut = max(len(sequences["pair"]) - self.adapter.max_tokens, 0)
        if cut:
            for kind in KINDS:
                sequences[kind] = sequences[kind].without_last_text(cut)
            if len(sequences["pair"]) > self.adapter.max_tokens:
                limit = self.adapter.max_tokens
                return Skipped(example.id, f"longer than the model's limit of {limit} tokens without any text")
        return Prepared(example, sequences, cut)

    def _run(self, batch: list[Prepared]) -> Iterator[Measured | Skipped]:
        readable, pictures = [], []
        for item in batch:
            assert item.example.image is not None  # prepare saw to it
            try:
                picture = open_picture(item.example.image, max_pixels=self.max_pixels)
                pictures.append(self.adapter.pixels(picture, self.convention.image_layout))
                readable.append(item)
            except DataError as error:
                yield Skipped(item.example.id, str(error))
        if readable:
            yield from self._measure(readable, torch.stack(pictures))

    @torch.inference_mode()
    def _measure(self, batch: list[Prepared], pixels: Tensor) -> list[Measured | Skipped]:
        outcomes: list[_Outcomes] = [{} for _ in batch]
        model = self.adapter.model
        vision = {"vision": self.adapter.vision_points[self.convention.vision_point]}
        connector = {"connector": self.adapter.points["connector"]}
        with (
            capture(model, vision, reduce=self._each_image("vision", batch, outcomes)),
            capture(model, connector, reduce=self._each_image("connector", batch, outcomes)),
        ):
            images = self.adapter.encode_images(pixels)

        shared = [self._may_share(item) for item in batch]
        self._decode(batch, "text", None, outcomes)
        prefix = self._decode(batch, "pair", images, outcomes, also_image=shared)
        if prefix is not None and not self._prefix_holds(batch, shared, images, prefix):
            shared = [False] * len(batch)
        own = [i for i, is_shared in enumerate(shared) if not is_shared]
        if own:
            self._decode([batch[i] for i in own], "image", images[own], [outcomes[i] for i in own])
        return [
            self._result(item, found, kinds=("text", "pair") if is_shared else KINDS)
            for item, found, is_shared in zip(batch, outcomes, shared, strict=True)
        ]

    def _decode(
        self,
        batch: Sequence[Prepared],
        kind: Kind,
        images: Tensor | None,
        outcomes: Sequence[_Outcomes],
        also_image: Sequence[bool] = (),
    ) -> Tensor | None:
        """One pass of the LLM over the `kind` sequences, read also as image input where `also_image` says so.

        Returns:
            The states of the first image prefix, (n, d), until prefixes are known to be safe to read.
        """
        reads: list[list[_Read]] = [[(kind, item.sequences[kind])] for item in batch]
        for i, is_shared in enumerate(also_image):
            if is_shared:
                reads[i].append(("image", batch[i].sequences["image"]))
        prefixes: list[Tensor] = []

        def reduce(h: Tensor) -> None:
            for item, found, read, states in zip(batch, outcomes, reads, h, strict=True):
                for input_kind, sequence in read:
                    rows = states[self._rows(sequence).to(states.device)]
                    found["llm", input_kind] = self._outcome(rows, "llm", input_kind, item)
            if any(also_image) and not self._prefix_verified:
                first = list(also_image).index(True)
                prefixes.append(h[first, : len(batch[first].sequences["image"])].clone())

        with capture(self.adapter.model, {"llm": self.adapter.points["llm"]}, reduce=reduce):
            self.adapter.decode(*padded([item.sequences[kind] for item in batch]), images)
        return prefixes[0] if prefixes else None

    def _each_image(
        self, point: str, batch: Sequence[Prepared], outcomes: Sequence[_Outcomes]
    ) -> Callable[[Tensor], None]:
        def reduce(h: Tensor) -> None:
            for item, found, states in zip(batch, outcomes, h, strict=True):
                found[point, "image"] = self._outcome(states, point, "image", item)

        return reduce

    def _rows(self, sequence: TokenSequence) -> Tensor:
        """Positions of a sequence that enter the covariance."""
        counted = set(Role) if self.convention.tokens == "all" else {Role.IMAGE, Role.TEXT}
        return torch.tensor([i for i, role in enumerate(sequence.roles) if role in counted])

    def _outcome(self, h: Tensor, point: str, kind: Kind, item: Prepared) -> Record | DegenerateTokens:
        try:
            return measurement(
                h,
                model=self.adapter.name,
                example=item.example.id,
                point=point,
                input_kind=kind,
                centre=self.convention.centre,
                precision=self.convention.precision,
                fingerprint=self._fingerprint,
                text_cut=0 if kind == "image" else item.text_cut,
            )
        except DegenerateTokens as error:
            return error

    def _result(self, item: Prepared, found: _Outcomes, kinds: Sequence[Kind]) -> Measured | Skipped:
        """The records of an example whose `kinds` were each fed to the LLM."""
        records = []
        for outcome in found.values():
            if isinstance(outcome, DegenerateTokens):
                return Skipped(item.example.id, str(outcome))
            records.append(outcome)
        return Measured(item.example.id, tuple(records), sum(len(item.sequences[kind]) for kind in kinds))

    def _may_share(self, item: Prepared) -> bool:
        """Whether the image input is a prefix of the pair input, and the LLM is said to be causal."""
        return (
            self.share_prefix and self.adapter.causal and item.sequences["pair"].starts_with(item.sequences["image"])
        )

    def _prefix_holds(
        self, batch: Sequence[Prepared], shared: Sequence[bool], images: Tensor, prefix: Tensor
    ) -> bool:
        """Compare the prefix read from the first pair pass with a pass of its own; done once."""
        first = list(shared).index(True)
        with capture(self.adapter.model, {"llm": self.adapter.points["llm"]}) as seen:
            self.adapter.decode(*padded([batch[first].sequences["image"]]), images[first : first + 1])
        alone = seen["llm"][0].double()
        difference = float((alone - prefix.double()).norm() / alone.norm())
        self._prefix_verified = difference <= PREFIX_TOLERANCE[prefix.dtype]
        if not self._prefix_verified:
            self.share_prefix = False
            warnings.warn(
                f"{self.adapter.name}: the LLM's hidden states of the image depend on the text behind it (relative "
                f"difference {difference:.1e}), so the image input gets a pass of its own",
                stacklevel=2,
            )
        return self._prefix_verified
