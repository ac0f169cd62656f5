"""What is asked of pairs: hook points, versions, and what is kept of the rows there."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mmerank.convention import Convention
from mmerank.engine.metrics import Metrics, keeps_mean_states, refuse_without_layers
from mmerank.engine.plans.inside import InsideBlocks
from mmerank.engine.plans.margin import margin_logits
from mmerank.engine.plans.passes import Key, Passes, key
from mmerank.eranks import ERANKS, vision_layer, vision_layers
from mmerank.errors import UsageError
from mmerank.inputs.sequence import TokenSequence
from mmerank.inputs.variants import Variant, Version
from mmerank.models.adapter import Adapter
from mmerank.models.layers import encoder_layers, layer_points
from mmerank.models.places import Floats, Whereabouts
from mmerank.models.tower import Tower
from mmerank.states.reductions import RowStudy


@dataclass
class Needs:
    """What a run needs of a model: which numbers of which variants, and so which passes.

    Attributes:
        adapter: The model.
        convention: The choices in force.
        variants: What is measured of each example.
        layers: See `mmerank.engine.plans.pairs.Pairs`.
        others: Pictures of other examples, where `match_margin` is asked for.
        inside: See there, too.
        logits: The LM head, where it is.
        points: The further layers, by name.
        blocks: Those that are looked into.
        measured: Hook point and input of all that is measured of a variant that is read as a whole.
        passes: Those that the variants need.
        whereabouts: Of rows in pictures.

    Raises:
        ModelError: `match_margin` is asked of a model that predicts no responses.
        UsageError: The adapter has no vision point of that name, fewer rows for a picture than are to be matched, no
            such layer, or a metric from one layer to the next and one layer.
    """

    adapter: Adapter
    convention: Convention
    variants: Sequence[Variant]
    layers: str
    others: Sequence[Version] = ()
    inside: str = ""

    def __post_init__(self) -> None:
        self.logits = margin_logits(self.adapter) if self.others else None
        known = self.adapter.vision_points
        if self.convention.vision_point not in known:
            raise UsageError(
                f"{self.adapter.name}: unknown vision point {self.convention.vision_point!r}; "
                f"known: {', '.join(known)}"
            )
        least = self.adapter.image_tokens
        if least and (self.convention.match_tokens or 0) > least:
            raise UsageError(
                f"{self.adapter.name}: {self.convention.match_tokens} rows cannot be drawn to match, a picture has "
                f"only {least} behind the connector"
            )
        try:
            self.points = layer_points(self.adapter.layers, self.layers, last="llm")
        except ValueError as error:
            raise UsageError(f"{self.adapter.name}: {error}") from None
        del self.points["llm"]  # measured anyway
        self.blocks = InsideBlocks(self.adapter, self.adapter.layers, self.inside, self.convention.centre)
        missing = [ERANKS[label] for label in self.adapter.undefined]
        everywhere = [*ERANKS.values(), *((point, "pair") for point in self.points)]
        taken = [where for where in everywhere if where not in missing]
        self.measured = [*taken, *((point, "pair") for point in self.blocks.points)]
        if not self.points:
            refuse_without_layers(self.convention.metrics)
        self.passes = Passes.of(self.variants, self.others)
        self.whereabouts = Whereabouts(self.adapter, self.convention.image_layout, self.convention.vision_point)
        drawn = {name: getattr(self.convention, name) for name in ("match_tokens", "match_repeats", "match_seed")}
        self._at_layers = Convention(**drawn)
        self._keep_means = keeps_mean_states(self.convention)
        whole = [variant for variant in self.variants if variant.read == "all"]
        self._with_metrics = {key(*where, variant) for where in taken for variant in whole}

    @cached_property
    def tower(self) -> Tower | None:
        """The vision encoder, where its layers are asked for and known; found when it is first looked for."""
        if not self.points:
            return None
        found = Tower(self.adapter, self.convention.image_layout, self.convention.vision_point)
        if found.blocks:
            return found
        warnings.warn(
            f"{self.adapter.name}: layers of its vision encoder are not measured ({found.why})", stacklevel=2
        )
        return None

    @cached_property
    def in_tower(self) -> dict[str, int]:
        """The layers of the vision encoder that are measured, by name, each with its place among the blocks."""
        if self.tower is None:
            return {}
        chosen = encoder_layers(range(1, len(self.tower.blocks) + 1), self.layers)
        return dict(zip(vision_layers(chosen), (number - 1 for number in chosen), strict=True))

    def study(
        self,
        rows: TokenSequence,
        point: str,
        kind: str,
        pictures: tuple[int, ...] = (),
        places: Floats | str | None = None,
    ) -> RowStudy | None:
        """What else is asked of rows; of a layer's only what its curves are of, which the last one has, too.

        Args:
            rows: What they are.
            point: Where.
            kind: Of which input.
            pictures: How many of the image rows each of several pictures has.
            places: Of the image rows, where patches are asked for.

        Returns:
            None where nothing is.
        """
        by_role = bool(self.points) and kind == "pair"
        at_layer = point in self.points or vision_layer(point) is not None
        asked = self._at_layers if at_layer else self.convention
        keep_mean = self._keep_means and not at_layer
        if not (by_role or keep_mean or asked.studies_rows or pictures or places is not None):
            return None
        decode = getattr(self.adapter.tokenizer, "decode", str)
        return RowStudy(asked, rows, decode, by_role, keep_mean, pictures, places)

    def metrics(self, rows: TokenSequence, of: Key, behind: int | None = None) -> Metrics | None:
        """The metrics of rows, of which the connector makes so many; none of what is measured for a null alone."""
        if not self.convention.metrics or of not in self._with_metrics:
            return None
        return Metrics(self.convention, rows.roles if of[1] == "pair" else None, behind)
