"""Diff-eRank and reduced loss from the records of a trained model and its untrained twins."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from mmerank.analysis.alignment import dataset_erank
from mmerank.convention import Aggregate
from mmerank.records import Record

# What the names of untrained models begin with in the records.
TWIN = "untrained seed "


def read_alike(models: Sequence[Iterable[Record]]) -> bool:
    """Whether models read the texts that two of them have as equally many tokens, as those of one tokenizer do.

    Where they do not, neither losses per token nor eRanks of one are comparable with another's.

    Args:
        models: Records of each trained model.

    Returns:
        True for one model, and where no text is shared.
    """
    counts: dict[str, set[int]] = {}
    for records in models:
        for record in records:
            if record.point == "final":
                counts.setdefault(record.example, set()).add(record.n)
    return all(len(found) == 1 for found in counts.values())


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
        aggregate: Of `erank_*` and `diff_erank`, see `mmerank.analysis.alignment.dataset_erank`.

    Returns:
        One result per hook point, in the order of the records.

    Raises:
        ValueError: The models did not see the same texts at the same points.
    """
    by_point = _by_point(trained)
    twins = [_by_point(records) for records in untrained]
    if not twins or any(_texts(twin) != _texts(by_point) for twin in twins):
        raise ValueError("expected the same texts at the same points of the trained and every untrained model")
    return [
        _point_diff(point, records, [twin[point] for twin in twins], aggregate) for point, records in by_point.items()
    ]


def _point_diff(point: str, trained: list[Record], twins: list[list[Record]], aggregate: Aggregate) -> PointDiff:
    after = [record.entropy for record in trained]
    before = [[record.entropy for record in twin] for twin in twins]
    by_seed = tuple(dataset_erank(entropies, aggregate=aggregate) for entropies in before)
    erank_untrained, erank_trained = fmean(by_seed), dataset_erank(after, aggregate=aggregate)
    b_untrained = fmean(dataset_erank(entropies, aggregate="erank") for entropies in before)
    return PointDiff(
        point=point,
        erank_untrained=erank_untrained,
        erank_trained=erank_trained,
        diff_erank=erank_untrained - erank_trained,
        diff_erank_mean_of_eranks=b_untrained - dataset_erank(after, aggregate="erank"),
        erank_ratio=erank_untrained / erank_trained,
        erank_fraction_untrained=fmean(_fraction(record) for twin in twins for record in twin),
        erank_fraction_trained=fmean(map(_fraction, trained)),
        erank_untrained_by_seed=by_seed,
        erank_untrained_stdev=stdev(by_seed) if len(by_seed) > 1 else math.nan,
    )


def mean_loss(records: Iterable[Record], *, per: str = "text") -> float:
    """Mean negative log-likelihood in nats per predicted token.

    Args:
        records: Those of one hook point.
        per: `text`: mean of the texts' mean losses, so that a text counts as much as any other; this is what
            the paper's L(U, M) over a set of texts is taken to be. `token`: mean over all predicted tokens.

    Returns:
        The loss; NaN if none was computed.

    Example:
        >>> mean_loss([])
        nan
    """
    losses = [(record.loss, record.predicted) for record in records if record.predicted]
    if not losses:
        return math.nan
    if per == "text":
        return math.fsum(loss for loss, _ in losses) / len(losses)
    return math.fsum(loss * count for loss, count in losses) / sum(count for _, count in losses)


def _by_point(records: Iterable[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.example):
        found.setdefault(record.point, []).append(record)
    return found


def _texts(by_point: dict[str, list[Record]]) -> dict[str, list[str]]:
    return {point: [record.example for record in records] for point, records in by_point.items()}


def _fraction(record: Record) -> float:
    return math.exp(record.entropy) / min(record.n - 1, record.d)
