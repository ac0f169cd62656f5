"""Pairs of a picture and a text, and variants of them: what is measured of each, and the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mmerank.convention import Convention
from mmerank.engine.batches import Budget, budget_for
from mmerank.engine.measurement import Measured, no_spectrum, unreadable
from mmerank.engine.plans.margin import COLUMN as MARGIN
from mmerank.engine.plans.margin import asks_for_margin, margin
from mmerank.engine.plans.needs import Needs
from mmerank.engine.plans.pair_passes import Loaded, PairPasses
from mmerank.engine.plans.passes import key
from mmerank.engine.plans.pictures import of_versions, opened, waiting
from mmerank.engine.plans.plan import Ask
from mmerank.engine.plans.prefix import Prefix
from mmerank.engine.plans.reading import Prepared, Reader
from mmerank.engine.window import Finish
from mmerank.eranks import ERANKS
from mmerank.errors import DataError, NoSpectrum, SourceError
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.others import Others
from mmerank.inputs.pictures import MAX_PIXELS, Opened
from mmerank.inputs.placeholders import as_fed, placeholders
from mmerank.inputs.variants import BASE, Variant, Version
from mmerank.models.adapter import Adapter

# Of an adapter that says nothing of several.
ONE_PICTURE = "its adapter takes no more"


@dataclass
class Pairs:
    """What is measured of pairs: eRank1 to eRank5, of variants, and of the pair at further layers.

    The image input is read from the prefix of a pair pass where it is one and the model is causal, which is verified
    on the first example.

    Attributes:
        adapter: The model.
        convention: The choices in force.
        variants: What is measured of each example; the base is the first of them.
        layers: Further layers at which the pair is measured, in the same pass: all rows, image rows and text rows;
            and layers of the vision encoder, where they are known (`mmerank.models.tower`), of the same numbers.
            See `mmerank.models.layers.layer_points`.
        inside: Blocks whose updates of the residual stream are measured in that pass, by the same rows. See
            `mmerank.models.updates.block_paths`.
        max_pixels: Pictures with more are skipped.
        share_prefix: Whether the image input may be read from the pair pass.
        others: Where pictures of other examples come from, for `match_margin`.
        placeholders: What stands for a picture in a text, see `mmerank.inputs.placeholders`.
        needs: What follows from these: hook points and passes.
        prefix: What is known of the model's prefixes.
        reader: Makes the sequences.

    Raises:
        ModelError: `match_margin` is asked of a model that predicts no responses.
        UsageError: The adapter has no vision point of that name, fewer rows for a picture than are to be matched, or
            no such layer or block.
    """

    adapter: Adapter
    convention: Convention = field(default_factory=Convention)
    variants: Sequence[Variant] = (BASE,)
    layers: str = ""
    max_pixels: int = MAX_PIXELS
    share_prefix: bool = True
    others: Others | None = None
    inside: str = ""

    def __post_init__(self) -> None:
        others: Sequence[Version] = ()
        if asks_for_margin(self.convention):
            others = (self.others or Others(count=self.convention.match_others)).versions
        self.needs = Needs(self.adapter, self.convention, self.variants, self.layers, others, self.inside)
        self.prefix = Prefix(self.adapter, self.share_prefix)
        self.placeholders = placeholders(self.adapter.model, self.adapter.tokenizer)
        self.reader = Reader(self.adapter, self.convention.sequence, self.needs.passes, self.max_pixels)

    def afresh(self, max_pixels: int) -> Pairs:
        """The same of untouched examples alone, without metrics.

        Args:
            max_pixels: Pictures with more are skipped.

        Returns:
            Another plan.
        """
        convention = replace(self.convention, metrics=())
        return Pairs(self.adapter, convention, max_pixels=max_pixels, share_prefix=self.prefix.shared)

    def budget(self, device: torch.device, asked: int | None) -> Budget:
        """For the LLM's positions."""
        return budget_for(device, asked, 1 + len(self.needs.points) + self.needs.blocks.states)

    def usable(self, example: Example) -> Example | Skipped:
        """The example without what stands in its text for the picture."""
        if example.image is None:
            return Skipped(example.id, "no image")
        if (count := len(example.pictures)) > 1 and (why := getattr(self.adapter, "one_picture", ONE_PICTURE)):
            return Skipped(example.id, f"it has {count} pictures, and {self.adapter.name} reads one ({why})")
        plain = as_fed(self.placeholders, example, self.convention.sequence)
        if not isinstance(plain, Skipped) and not plain.text.strip():
            return Skipped(example.id, "the text is empty")
        return plain

    def text(self, example: Example) -> str:
        """Instruction and response."""
        return example.text

    def prepare(self, example: Example) -> Prepared | Skipped:
        """Its sequences."""
        return self.reader.prepared(example)

    def length(self, item: Prepared) -> int:
        """Of the longest pass."""
        return item.longest

    def load(self, item: Prepared) -> Loaded:
        """The encoder's input for each version of the picture; one that cannot be made is told with the results."""
        picture, content = opened(item.example, self.max_pixels)
        example = replace(item.example, image=picture)
        versions = [*self.needs.passes.pairs, *self.needs.passes.others]
        made, unreadable = of_versions(example, versions, self._pixels, refused=item.refused)
        loaded = Loaded(item, content, made, unreadable)
        loaded.size = None if isinstance(picture, tuple) else picture.size
        return loaded

    def _pixels(self, picture: Opened) -> Any:
        pixels = self.adapter.pixels(picture, self.convention.image_layout)  # type: ignore[arg-type]  # of several, too
        return waiting(pixels, next(self.adapter.model.parameters()).device)

    def start(self, batch: list[Loaded], ask: Ask) -> Finish:
        """Run the passes of a batch."""
        PairPasses(self.needs, self.prefix, batch, ask).run()
        return lambda: map(self._result, batch)

    def _result(self, loaded: Loaded) -> Measured | Skipped:
        """The records of an example, or why one of them is missing."""
        records = []
        untold = [loaded.unreadable[other] for other in self.needs.others if other in loaded.unreadable]
        if failed := next((error for error in untold if isinstance(error, SourceError)), None):
            return unreadable(loaded.item.id, failed)
        for variant in self.variants:
            where = "" if variant == BASE else f"{variant.name}: "
            if error := loaded.unreadable.get(variant.image):
                return unreadable(loaded.item.id, error, where)
            whole = [*self.needs.measured, *((point, "image") for point in self.needs.in_tower)]
            for point, kind in whole if variant.read == "all" else [ERANKS["erank5"]]:
                outcome = loaded.outcomes[key(point, kind, variant)].result()
                if isinstance(outcome, NoSpectrum):
                    return no_spectrum(loaded.item.id, outcome, where)
                if self.needs.others and (point, kind) == ERANKS["erank5"] and variant.read == "all":
                    number = self._margin(loaded, variant, untold)
                    outcome = replace(outcome, metrics={**outcome.metrics, MARGIN: number})
                records.append(replace(outcome, transform=variant.name, **loaded.content._asdict()))
        return Measured(loaded.item.id, tuple(records), loaded.tokens)

    def _margin(self, loaded: Loaded, variant: Variant, untold: Sequence[DataError]) -> float | str:
        """`match_margin` of a variant: its own picture as it is measured, others as they are."""
        if isinstance(reason := loaded.item.responses[variant.text], str):
            return reason
        if untold:
            return str(untold[0])
        found = [loaded.losses[image, variant.text] for image in (variant.image, *self.needs.others)]
        own, *others = [loss for loss in found if loss is not None]
        return margin(own, others)
