"""A picture with some of its rows left out of what the LLM reads: what that does to what is left, and to the text."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from mmerank.convention import LEAST_ROWS, Kept, PruneConvention
from mmerank.engine.batches import Budget
from mmerank.engine.measurement import Measured, no_spectrum, unreadable
from mmerank.engine.plans.loss import Prediction, logits_of, predictions
from mmerank.engine.plans.passes import Passes
from mmerank.engine.plans.pictures import opened, waiting
from mmerank.engine.plans.plan import Ask, Outcome
from mmerank.engine.plans.reading import Prepared, Reader
from mmerank.engine.window import Finish
from mmerank.errors import DataError, NoSpectrum, NoValue, UsageError
from mmerank.formulas.similarity import mutual_knn
from mmerank.inputs.contents import Content
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.pictures import MAX_PIXELS
from mmerank.inputs.placeholders import as_fed, placeholders
from mmerank.inputs.sequence import Role
from mmerank.inputs.variants import BASE, ORIGINAL
from mmerank.models.adapter import Adapter
from mmerank.models.places import Whereabouts
from mmerank.models.shortened import Call, Shortened
from mmerank.runs.record import Record
from mmerank.states.choosers import Function, chosen_by
from mmerank.states.selection import (
    Floats,
    Indices,
    by_chance,
    by_diversity,
    by_norm,
    by_weight,
    count_kept,
    on_subgrids,
)
from mmerank.transfer import Arriving, for_each_tensor, sent

# What records call all rows of a picture; those that are kept by how they were chosen.
WHOLE = "whole"


@dataclass(frozen=True)
class Loaded:
    """An example with what the vision encoder is fed."""

    item: Prepared
    pixels: Any
    content: Content
    size: tuple[int, int]

    @property
    def id(self) -> str:
        """Of the example."""
        return self.item.id


@dataclass
class Prunings:
    """What is measured of pairs when rows of the picture are left out, one pair at a time.

    The rows are those that enter the LLM in the picture's places. Some are left out, the others and the text keep
    their position ids; see `mmerank.models.shortened`.

    Attributes:
        adapter: A multimodal model with an LM head.
        convention: The choices in force.
        functions: Those that choose rows by names which are not mmerank's own.
        max_pixels: Pictures with more are skipped.

    Raises:
        ModelError: The model predicts no responses, or has no rows of a picture that could be left out.
        UsageError: The adapter has no vision point of that name, or a function is missing.
    """

    adapter: Adapter
    convention: PruneConvention = field(default_factory=PruneConvention)
    functions: Mapping[str, Function] = field(default_factory=dict)
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        adapter, convention = self.adapter, self.convention
        if convention.vision_point not in adapter.vision_points:
            raise UsageError(
                f"{adapter.name}: unknown vision point {convention.vision_point!r}; known: "
                f"{', '.join(adapter.vision_points)}"
            )
        if missing := [name for name in convention.by if ":" in name and name not in self.functions]:
            raise UsageError(f"no function was given for {', '.join(missing)}")
        self._logits = logits_of(adapter)
        self._llm = Shortened(adapter)
        self._signs = placeholders(adapter.model, adapter.tokenizer)
        passes = replace(Passes.of((BASE,)), predicted=(ORIGINAL,))
        self._reader = Reader(adapter, convention.sequence, passes, self.max_pixels)
        self._whereabouts = Whereabouts(adapter, convention.image_layout, convention.vision_point)
        self._device = next(adapter.model.parameters()).device
        self._points = [of for of in ("vision", "connector") if _ERANK[of] not in adapter.undefined]

    def budget(self, device: torch.device, asked: int | None) -> Budget:
        """One pair at a time, whatever is asked for."""
        return Budget(0)

    def usable(self, example: Example) -> Example | Skipped:
        """The example without what stands in its text for the picture."""
        if example.image is None:
            return Skipped(example.id, "no image")
        if (count := len(example.pictures)) > 1:
            return Skipped(example.id, f"it has {count} pictures; rows are left out of one")
        plain = as_fed(self._signs, example, self.convention.sequence)
        if not isinstance(plain, Skipped) and not plain.response.strip():
            return Skipped(example.id, "it has no response, whose loss could be read")
        return plain

    def text(self, example: Example) -> str:
        """Instruction and response."""
        return example.text

    def prepare(self, example: Example) -> Prepared | Skipped:
        """Its sequences, and which tokens are predicted."""
        prepared = self._reader.prepared(example)
        if not isinstance(prepared, Skipped) and isinstance(reason := prepared.responses[ORIGINAL], str):
            return Skipped(example.id, reason)
        return prepared

    def length(self, item: Prepared) -> int:
        """Of the pass with all rows."""
        return item.longest

    def load(self, item: Prepared) -> Loaded:
        """The encoder's input."""
        picture, content = opened(item.example, self.max_pixels)
        assert not isinstance(picture, tuple)  # `usable` saw to it
        pixels = waiting(self.adapter.pixels(picture, self.convention.image_layout), self._device)
        return Loaded(item, pixels, content, picture.size)

    def start(self, batch: list[Loaded], ask: Ask) -> Finish:
        """Run the passes of each pair: with all rows, and with those that are kept."""
        return partial(_results, [self._pruned(loaded, ask) for loaded in batch])

    def _pruned(self, loaded: Loaded, ask: Ask) -> _Pruned | Skipped:
        item = loaded.item
        pixels = for_each_tensor(loaded.pixels, partial(sent, device=self._device))
        (image,) = self.adapter.encode_images([pixels], self.convention.vision_point)
        reading = item.reading(ORIGINAL, ORIGINAL)
        pair = reading.sequences["pair"]
        if image.filled is not None:
            pair = pair.with_places(image.filled)
        own = [i for i, role in enumerate(pair.roles) if role is Role.IMAGE]
        texts = [i for i, role in enumerate(pair.roles) if role is Role.TEXT]
        predicted = [texts[place] for place in item.responses[ORIGINAL] if isinstance(place, int)]
        fewest = count_kept(len(own), min(self.convention.keep))
        if fewest < LEAST_ROWS:
            share = f"{min(self.convention.keep):g}"
            return Skipped(item.id, f"{share} of its {len(own)} rows are {fewest}; at least {LEAST_ROWS} are needed")
        if own[-1] > predicted[0]:
            return Skipped(item.id, "rows of its picture stand behind its response")
        try:
            call = self._llm.read(pair, image)
            chosen = self._chosen(loaded, call, own, predicted[0])
        except DataError as error:
            return unreadable(item.id, error)
        asked = [ask(getattr(image, point), item.id, point, WHOLE) for point in self._points]
        whole = self._llm.states(call)
        asked.append(ask(whole[own], item.id, "llm", WHOLE, text_cut=reading.text_cut))
        rows, read = call.embeddings[own], [whole[[i - 1 for i in predicted]]]
        found, tokens = list[_OneKept](), call.n
        for kept, indices in chosen.items():
            at, left = [own[i] for i in indices], _left(call.n, own, indices)
            self._llm.check(call, left, pair, image)
            states, where = self._llm.states(call, left), {place: i for i, place in enumerate(left)}
            after, before = states[[where[i] for i in at]], whole[at]
            outcomes = (
                ask(rows[indices], item.id, "connector", kept.name),
                ask(before, item.id, "llm", WHOLE),
                ask(after, item.id, "llm", kept.name, text_cut=reading.text_cut),
            )
            found.append(_OneKept(kept, indices, outcomes, Arriving(before, after)))
            read.append(states[[where[i] - 1 for i in predicted]])
            tokens += len(left)
        ids = torch.tensor([pair.ids[i] for i in predicted])
        response = Arriving(*predictions(self._logits, torch.stack(read), ids))
        k = self.convention.neighbours
        return _Pruned(loaded, tuple(asked), tuple(found), response, len(predicted), tokens, k)

    def _chosen(self, loaded: Loaded, call: Call, own: Sequence[int], first: int) -> dict[Kept, Indices]:
        """Which of a picture's rows are kept, ascending, by each way."""
        convention, count = self.convention, len(own)
        (arrived,) = Arriving(call.embeddings[own]).wait()
        rows: Floats = arrived.double().numpy()
        orders: dict[tuple[str, int], Indices] = {
            ("random", draw): by_chance(count, _drawing(convention.draw_seed, loaded.id, draw))
            for draw in range(convention.draws)
        }
        if "norm" in convention.by:
            orders["norm", 0] = by_norm(rows)
        if "diversity" in convention.by:
            orders["diversity", 0] = by_diversity(rows)
        if "attention" in convention.by:
            weights = self._llm.attention(call, convention.attention_layer, first - 1)
            orders["attention", 0] = by_weight(weights[own].cpu().double().numpy())
        grids = self._whereabouts.grids(loaded.size)
        if sum(lines * columns for lines, columns in grids) != count:
            grids = ()
        found = {}
        for kept in convention.choices:
            m = count_kept(count, kept.keep)
            if (order := orders.get((kept.by, kept.draw))) is not None:
                indices = order[:m]
            elif kept.by == "downsample":
                indices = on_subgrids(count, m, grids)
            else:
                indices = chosen_by(self.functions, kept.by, rows, m)
            found[kept] = np.sort(indices)
        return found


_ERANK = {"vision": "erank1", "connector": "erank2"}


@dataclass(frozen=True)
class _OneKept:
    kept: Kept
    indices: Indices
    outcomes: tuple[Outcome, Outcome, Outcome]  # connector rows, and states with all rows and with these alone
    states: Arriving


@dataclass(frozen=True)
class _Pruned:
    loaded: Loaded
    whole: tuple[Outcome, ...]
    found: tuple[_OneKept, ...]
    response: Arriving
    predicted: int
    tokens: int
    neighbours: int


def _left(n: int, own: Sequence[int], indices: Indices) -> list[int]:
    """Positions that are read: all but the picture's, and of these the ones that are kept."""
    gone = set(own) - {own[i] for i in indices}
    return [i for i in range(n) if i not in gone]


def _drawing(seed: int, example: str, draw: int) -> np.random.Generator:
    """Of one example's draw, which neither order nor other examples change."""
    return np.random.default_rng([*hashlib.sha256(f"{seed}/{example}/{draw}".encode()).digest()])


def _overlap(states: Arriving, most: int) -> float:
    """Share of nearest neighbours that rows keep; NaN where rows have no direction of their own."""
    before, after = (of.double().numpy() for of in states.wait())
    k = min(most, (len(before) - 1) // 2)
    try:
        return mutual_knn(before, after, k)
    except (NoValue, ValueError):
        return math.nan


def _results(found: Sequence[_Pruned | Skipped]) -> Iterator[Measured | Skipped]:
    for of in found:
        yield of if isinstance(of, Skipped) else _result(of)


def _result(of: _Pruned) -> Measured | Skipped:
    name, known = of.loaded.id, of.loaded.content._asdict()
    each = Prediction(*(values.double().numpy() for values in of.response.wait()))
    if not all(np.isfinite(values).all() for values in each):
        return Skipped(name, "the logits of a token are not finite", suspect="model")
    records = []
    for outcome in of.whole:
        record = outcome.result()
        if isinstance(record, NoSpectrum):
            return no_spectrum(name, record)
        records.append(replace(record, **known))
    records[-1] = replace(records[-1], loss=float(each.loss[0]), predicted=of.predicted)
    for i, one in enumerate(of.found, 1):
        three = [outcome.result() for outcome in one.outcomes]
        if bad := next((record for record in three if isinstance(record, NoSpectrum)), None):
            return no_spectrum(name, bad, f"{one.kept.name}: ")
        connector, before, after = (record for record in three if isinstance(record, Record))
        records.append(replace(connector, **known))
        records.append(
            replace(
                after,
                loss=float(each.loss[i]),
                predicted=of.predicted,
                kept=one.indices.astype(np.int32),
                divergence=float(each.divergence[i]),
                agreement=float(each.agreement[i]),
                neighbours=_overlap(one.states, of.neighbours),
                entropy_before=before.entropy,
                participation_before=before.participation_ratio,
                **known,
            )
        )
    return Measured(name, tuple(records), of.tokens)
