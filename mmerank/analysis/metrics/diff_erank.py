"""Diff-eRank and reduced loss of a trained model and its untrained twins, on the same texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import stdev

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.sample import Floats, Sample, only, wide
from mmerank.convention import Aggregate
from mmerank.eranks import FINAL, update_at
from mmerank.runs.record import Record, to_frame

# What the names of untrained models begin with in the records.
TWIN = "untrained seed "

_ERANKS = (
    Quantity("erank_untrained", "eRank untrained", differs="log", sees="text"),
    Quantity("erank_trained", "eRank trained", differs="log", sees="text"),
    Quantity("diff_erank", "Diff-eRank", better="higher", sees="text"),
    Quantity(
        "diff_erank_mean_of_eranks", "Diff-eRank by mean of eRanks", "by mean of eRanks", 2, "higher", sees="text"
    ),
    Quantity("erank_ratio", "untrained / trained", sees="text"),
    Quantity("erank_fraction_untrained", "of the possible, untrained", decimals=3, sees="text"),
    Quantity("erank_fraction_trained", "of the possible, trained", decimals=3, sees="text"),
)
_LOSSES = (
    Quantity("loss_untrained", "loss, untrained", "loss untrained", 4, sees="text"),
    Quantity("loss_trained", "loss, trained", "loss", 4, "lower", sees="text"),
    Quantity("reduced_loss", "reduced loss", decimals=4, better="higher", sees="text"),
    Quantity("loss_untrained_per_token", "loss of all tokens, untrained", decimals=4, sees="text"),
    Quantity("loss_trained_per_token", "loss of all tokens, trained", decimals=4, sees="text"),
)
DIFF_ERANK = tuple(quantity.name for quantity in _ERANKS)
LOSS = tuple(quantity.name for quantity in _LOSSES)


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """Diff-eRank at each hook point, and the losses after the final norm."""
    if set(records["input"]) == {"text"}:
        for point in layers_in(records):
            yield str(point), diff_sample(records, point=str(point), aggregate=aggregate)


def layers_in(records: pd.DataFrame) -> list[str]:
    """The hook points of records that are on the residual stream, in their order: no updates of it."""
    return [point for point in map(str, records["point"].unique()) if update_at(point) is None]


@dataclass(frozen=True)
class PointDiff:
    """Effective ranks at one hook point over the same texts.

    Attributes:
        point: `final` (after the final norm) or `layer I`.
        erank_untrained: Mean over the untrained twins of their data-set eRank.
        erank_trained: Data-set eRank of the trained model.
        diff_erank: Untrained minus trained, Def. 3.5.
        diff_erank_mean_of_eranks: The same by the mean of the eRanks, Sec. 6.2, "Algorithm (b)".
        erank_ratio: Untrained over trained.
        erank_fraction_untrained: Mean of eRank / min(n - 1, d) over texts and twins.
        erank_fraction_trained: Mean of eRank / min(n - 1, d) over texts.
        erank_untrained_by_seed: One per twin.
        erank_untrained_stdev: Sample standard deviation over twins; NaN with fewer than two.
    """

    point: str
    erank_untrained: float
    erank_trained: float
    diff_erank: float
    diff_erank_mean_of_eranks: float
    erank_ratio: float
    erank_fraction_untrained: float
    erank_fraction_trained: float
    erank_untrained_by_seed: tuple[float, ...]
    erank_untrained_stdev: float


def diff_erank(
    trained: Iterable[Record], untrained: Sequence[Iterable[Record]], *, aggregate: Aggregate = "entropy"
) -> list[PointDiff]:
    """Diff-eRank at every hook point, eRank(untrained) - eRank(trained).

    Diff-eRank (arXiv:2401.17139), Def. 3.4 and 3.5.

    Args:
        trained: Of one model, every point of every text.
        untrained: The same texts and points, for each untrained twin.
        aggregate: Of `erank_*` and `diff_erank`, see `mmerank.analysis.metrics.alignment.dataset_erank`.

    Returns:
        One result per hook point, in the order of the records.

    Raises:
        ValueError: The models did not see the same texts at the same points.
    """
    frames = [to_frame(records, spectrum=False) for records in (trained, *untrained)]
    measured = [set(zip(frame["point"], frame["example"], strict=True)) for frame in frames]
    if len(frames) < 2 or any(there != measured[0] for there in measured):
        raise ValueError("expected the same texts at the same points of the trained and every untrained model")
    # Twins may be called alike where they come from somewhere else.
    called = ["trained", *(f"{TWIN}{i:06d}" for i in range(len(frames) - 1))]
    together = pd.concat([frame.assign(model=name) for frame, name in zip(frames, called, strict=True)])
    return [point_diff(together, str(point), aggregate) for point in frames[0]["point"].unique()]


def point_diff(frame: pd.DataFrame, point: str, aggregate: Aggregate) -> PointDiff:
    """Effective ranks at one hook point.

    Args:
        frame: Records of one trained model and its untrained twins.
        point: The hook point.
        aggregate: As for `diff_erank`.

    Returns:
        The numbers.
    """
    found = diff_sample(frame, point=point, aggregate=aggregate)
    numbers = dict(zip(found.quantities, map(float, found.estimates), strict=True))
    twins = frame.loc[frame["model"].str.startswith(TWIN), "model"].nunique()
    means = found.means[1 : twins + 1]
    by_seed = tuple(map(float, np.exp(means) if aggregate == "entropy" else means))
    return PointDiff(
        point=point,
        **{name: numbers[name] for name in DIFF_ERANK},
        erank_untrained_by_seed=by_seed,
        erank_untrained_stdev=stdev(by_seed) if len(by_seed) > 1 else math.nan,
    )


def diff_sample(frame: pd.DataFrame, *, point: str = FINAL, aggregate: Aggregate = "entropy") -> Sample:
    """Diff-eRank and its terms at one hook point, and at `final` the losses, where there are any.

    Args:
        frame: Records of one trained model and its untrained twins, as from `mmerank.runs.record.to_frame`.
        point: The hook point.
        aggregate: Of `erank_*` and `diff_erank`, see `mmerank.analysis.metrics.alignment.dataset_erank`.

    Returns:
        The sample, over the texts that all models have; quantities as in `DIFF_ERANK`, and `LOSS`.

    Raises:
        ValueError: There is no twin, not exactly one trained model, or no record of that point.
    """
    here = frame[frame["point"] == point]
    if here.empty:
        raise ValueError(f"no record of hook point {point!r}; known: {', '.join(map(str, frame['point'].unique()))}")
    is_twin = here["model"].str.startswith(TWIN)
    twins = sorted(here.loc[is_twin, "model"].unique())
    trained = only("trained model", here.loc[~is_twin, "model"])
    if not twins:
        raise ValueError(f"expected records of an untrained model beside those of {trained}")
    models = [trained, *twins]
    common = here.groupby("example")["model"].transform("nunique") == len(models)
    here = here[common]
    here = here.assign(possible=np.minimum(here["n"] - 1, here["d"]), has=here["predicted"] > 0)
    entropies, possible, losses, predicted = (
        wide(here, ["model"], models, value=value) for value in ("entropy", "possible", "loss", "predicted")
    )
    h = entropies.to_numpy(dtype=np.float64)
    eranks = np.exp(h)
    blocks = [h if aggregate == "entropy" else eranks, eranks, eranks / possible.to_numpy(dtype=np.float64)]
    counts = predicted.to_numpy(dtype=np.float64)[:, :1]
    lossy = point == FINAL and bool((counts > 0).any())
    if lossy:
        nats = np.where(counts > 0, losses.to_numpy(dtype=np.float64), 0.0)
        blocks += [nats, nats * counts, (counts > 0).astype(np.float64), counts]
    ends = np.cumsum([block.shape[1] for block in blocks])[:-1]

    def of_means(means: Floats) -> Floats:
        a, b, fraction, *loss = np.split(means, ends, axis=-1)
        trained_a, untrained_a = _ends(np.exp(a) if aggregate == "entropy" else a)
        trained_b, untrained_b = _ends(b)
        trained_share, untrained_share = _ends(fraction)
        found = [
            untrained_a,
            trained_a,
            untrained_a - trained_a,
            untrained_b - trained_b,
            untrained_a / trained_a,
            untrained_share,
            trained_share,
        ]
        if loss:
            per_text, per_token, texts, tokens = loss
            with np.errstate(invalid="ignore"):  # a resample may hold no text with a loss
                after, before = _ends(per_text / texts)
                after_token, before_token = _ends(per_token / tokens)
            found += [before, after, before - after, before_token, after_token]
        return np.stack(found, axis=-1)

    quantities = DIFF_ERANK + (LOSS if lossy else ())
    return Sample(quantities, tuple(entropies.index), np.concatenate(blocks, axis=1), of_means)


def _ends(values: Floats) -> tuple[Floats, Floats]:
    """Of the trained model, which comes first, and the mean over its twins."""
    return values[..., 0], values[..., 1:].mean(axis=-1)


METRIC = Metric("diff_erank", "Diff-eRank", (*_ERANKS, *_LOSSES), _samples, follows_rows=True, own_place=True)
