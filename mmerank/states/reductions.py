"""Which and how many of a sample's rows: what a record tells of them beside the entropy of all."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmerank.convention import MOST_MAPPED, Centre, Convention
from mmerank.errors import ModelError, NonFiniteTokens
from mmerank.inputs.sequence import Role, TokenSequence
from mmerank.states.leave_one_out import contributions
from mmerank.states.subspaces import inside, inside_of_those
from mmerank.states.token_set import TokenSet


class Study(Protocol):
    """What is asked of the rows of one measurement."""

    def fields(self, tokens: TokenSet, h: Tensor, *, example: str, point: str, input_kind: str) -> dict[str, Any]:
        """Fields of the record; see `RowStudy.fields`."""
        ...


@dataclass(frozen=True)
class RowStudy:
    """What is asked of the rows of one measurement, and what is known of them.

    Attributes:
        convention: Says what is asked for.
        sequence: The rows that enter the covariance: ids and roles.
        decode: Token ids -> text, the tokenizer's.
        by_role: Whether image rows and text rows are measured even if the convention does not ask for it.
        keep_mean: Whether the mean state is kept even so.
        pictures: How many of the image rows each of several pictures has, in their order; empty of one picture.
        places: Where the image rows lie, (m, 4), or why that is not known; None where it is not asked for, nor what
            each row adds.
    """

    convention: Convention
    sequence: TokenSequence
    decode: Callable[[list[int]], str]
    by_role: bool = False
    keep_mean: bool = False
    pictures: tuple[int, ...] = ()
    places: NDArray[np.float64] | str | None = None

    def fields(self, tokens: TokenSet, h: Tensor, *, example: str, point: str, input_kind: str) -> dict[str, Any]:
        """Fields of the record, by the names that `mmerank.runs.record.Record` has for them.

        Args:
            tokens: The rows.
            h: The same as hidden states, (n, d).
            example: Id of the example.
            point: Name of the hook point.
            input_kind: `image`, `text` or `pair`.

        Returns:
            Those that the convention asks for.
        """
        asked = self.convention
        found: dict[str, Any] = {}
        if asked.match_tokens is not None or asked.token_curve:
            # Neither model nor transform: the same rows are drawn from what is compared.
            where = f"{asked.match_seed}/{example}/{point}/{input_kind}"
            order = [orders(f"{where}/{i}", tokens.n) for i in range(asked.match_repeats)]
            if asked.match_tokens is not None:
                found["matched"] = _drawn(tokens, order, asked.match_tokens)
            if asked.token_curve:
                curve = [_drawn(tokens, order, n) for n in asked.token_curve]
                found["curve"] = np.array([_mean(values) for values in curve])
        if asked.rows or self.by_role:
            found |= self._by_role(tokens)
        if self.pictures:
            found["entropy_pictures"] = self._by_picture(tokens)
        if asked.rows:
            found |= self._without_one(tokens)
        if self.places is not None:
            found |= self._each_row(tokens, self.places)
        if asked.companions or self.keep_mean:
            # On the CPU, since not every device has float64.
            found["mean_state"] = h[self._of(Role.IMAGE, Role.TEXT)].cpu().double().mean(dim=0).float().numpy()
        return found

    def _of(self, *roles: Role) -> list[int]:
        return [i for i, role in enumerate(self.sequence.roles) if role in roles]

    def _by_role(self, tokens: TokenSet) -> dict[str, float]:
        parts = {
            "entropy_image": (Role.IMAGE,),
            "entropy_text": (Role.TEXT,),
            "entropy_modality": (Role.IMAGE, Role.TEXT),
        }
        return {name: float(tokens.entropies(torch.tensor([self._of(*roles)]))) for name, roles in parts.items()}

    def _by_picture(self, tokens: TokenSet) -> np.ndarray[Any, np.dtype[np.float64]]:
        rows = iter(self._of(Role.IMAGE))
        each = [list(islice(rows, count)) for count in self.pictures]
        assert next(rows, None) is None and [*map(len, each)] == [*self.pictures], "rows of no picture, or too few"
        return np.array([float(tokens.entropies(torch.tensor([of]))) if len(of) > 1 else math.nan for of in each])

    def _without_one(self, tokens: TokenSet) -> dict[str, Any]:
        """The longest row, and the one whose removal changes the collision entropy most: entropy without it."""
        change = (tokens.collision_entropies_without() + tokens.spectrum.square().sum().log()).abs()
        rows = {"strongest": int(tokens.lengths.argmax()), "decisive": int(change.nan_to_num(-1).argmax())}
        others = torch.tensor([[i for i in range(tokens.n) if i != row] for row in rows.values()])
        entropies = tokens.entropies(others).tolist()
        found: dict[str, Any] = {}
        for (name, row), entropy in zip(rows.items(), entropies, strict=True):
            found |= {f"{name}_row": row, f"{name}_token": self._named(row), f"entropy_without_{name}": entropy}
        return found

    def _each_row(self, tokens: TokenSet, places: NDArray[np.float64] | str) -> dict[str, Any]:
        """What each row adds, what stands there, and where the image rows lie."""
        roles = self.sequence.roles
        images = len(self._of(Role.IMAGE))
        if isinstance(places, str):
            why, places = places, np.empty((0, 4))
        else:
            why = "" if len(places) == images else f"{len(places)} places were found, and there are {images} rows"
        return {
            "contributions": contributions(tokens).numpy() if tokens.n <= MOST_MAPPED else np.empty(0),
            "row_tokens": ["" if role is Role.IMAGE else self._named(i) for i, role in enumerate(roles)],
            "places": np.empty(0, np.float32) if why else places.astype(np.float32).ravel(),
            "unplaced": why if images else "",
        }

    def _named(self, row: int) -> str:
        """The token, or `image row 17`, counted among the image's, so that a patch has the same name everywhere."""
        role = self.sequence.roles[row]
        if role is Role.IMAGE:
            return f"image row {self.sequence.roles[:row].count(Role.IMAGE)}"
        return f"{role.name.lower()} {self.decode([self.sequence.ids[row]])!r}"


@dataclass(frozen=True)
class UpdateStudy:
    """What is asked of an update of the residual stream.

    Attributes:
        roles: Of its rows; empty where they are all of one kind.
        stream: What it is added to, (n, d).
        centre: Of both, see `mmerank.states.spectrum.spectrum`.
        deviations: Of each row how far the block's sum is off, (n,), see `mmerank.models.updates.Block`.
        tolerance: The most that this may be.
    """

    roles: tuple[Role, ...]
    stream: Tensor
    centre: Centre
    deviations: Tensor
    tolerance: float

    def fields(self, tokens: TokenSet, h: Tensor, *, example: str, point: str, input_kind: str) -> dict[str, Any]:
        """Fields of the record, as of `RowStudy.fields`.

        Args:
            tokens: The update's rows.
            h: The same as hidden states, (n, d).
            example: Id of the example.
            point: Name of the hook point.
            input_kind: `pair` or `text`.

        Returns:
            Entropies by role, and where the update lies.

        Raises:
            NonFiniteTokens: What leaves the block is not finite.
            ModelError: The block's input and its updates do not add up to what leaves it.
        """
        deviation = float(self.deviations.amax())
        if math.isnan(deviation):
            raise NonFiniteTokens("what leaves the block is not finite; check the model's dtype and weights")
        if deviation > self.tolerance:
            raise ModelError(
                f"example {example!r}: at {point!r}, the block's input and what it adds do not make up what leaves "
                f"it (off by {deviation:.1e}, rounding leaves {self.tolerance:.0e}), as they did in the first example"
            )
        found: dict[str, Any] = {"deviation": deviation}
        each = [inside(h, self.stream, centre=self.centre)]
        for role in (Role.IMAGE, Role.TEXT):
            rows = torch.tensor([i for i, of in enumerate(self.roles) if of is role], dtype=torch.long)
            each.append(inside_of_those(h, self.stream, rows, centre=self.centre))
        if self.roles:
            found |= {"entropy_image": each[1].entropy, "entropy_text": each[2].entropy}
        names = ("span_share", "span_chance", "overlap", "overlap_chance", "norm_ratio")
        columns = zip(names, zip(*each, strict=True), strict=False)  # the entropy stands in columns of its own
        return found | {name: np.array(of) for name, of in columns}


def orders(key: str, n: int) -> list[int]:
    """The rows 0 .. n - 1 in a random order that follows from `key` alone; the first k are a draw of k."""
    return random.Random(key).sample(range(n), n)


def _drawn(tokens: TokenSet, order: Sequence[list[int]], count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Entropies of the first `count` rows of each order; empty where there are fewer."""
    if count > tokens.n:
        return np.empty(0)
    return tokens.entropies(torch.tensor([rows[:count] for rows in order])).numpy()


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Of those that exist."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
