"""What is averaged over the examples of a data set, and what is made of the means.

Every number of a data set here is a smooth function of means over its examples: exp of a mean entropy, a ratio of
such, a mean loss. So a resample of the examples, or a swap of labels, needs the means alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmerank.analysis.diff_erank import TWIN
from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS

Floats = NDArray[np.float64]

ALIGNMENT = (*ERANKS, "image_reduction_ratio", "image_text_alignment")
DIFF_ERANK = (
    "erank_untrained",
    "erank_trained",
    "diff_erank",
    "diff_erank_mean_of_eranks",
    "erank_ratio",
    "erank_fraction_untrained",
    "erank_fraction_trained",
)
LOSS = (
    "loss_untrained",
    "loss_trained",
    "reduced_loss",
    "loss_untrained_per_token",
    "loss_trained_per_token",
)


@dataclass(frozen=True)
class Sample:
    """The examples of one model on one data set.

    Attributes:
        quantities: Names of the q quantities of the data set.
        examples: Ids, sorted; n of them.
        columns: What is averaged, (n, k).
        of_means: Means (..., k) -> quantities (..., q).
    """

    quantities: tuple[str, ...]
    examples: tuple[str, ...]
    columns: Floats
    of_means: Callable[[Floats], Floats]

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.examples)

    @property
    def means(self) -> Floats:
        """Of the columns, (k,)."""
        return np.asarray(self.columns.mean(axis=0))

    @property
    def estimates(self) -> Floats:
        """The quantities, (q,)."""
        return self.of_means(self.means)

    def of(self, examples: Sequence[str]) -> Sample:
        """The same of some of its examples.

        Args:
            examples: Ids, each in `examples`.

        Returns:
            The sample, its examples in the order given.
        """
        rows = pd.Index(self.examples).get_indexer(pd.Index(examples))
        return replace(self, examples=tuple(examples), columns=self.columns[rows])


def alignment_sample(frame: pd.DataFrame, *, aggregate: Aggregate = "entropy") -> Sample:
    """eRank1 to eRank5 and the two ratios, which are taken of the five data-set eRanks.

    Args:
        frame: Records of one model under one transform, as from `mmerank.records.to_frame`; rows in any order.
        aggregate: See `mmerank.analysis.alignment.dataset_erank`.

    Returns:
        The sample; quantities as in `ALIGNMENT`.

    Raises:
        ValueError: A measurement is missing or there twice, or there are several models or transforms.
    """
    _expect_one("model", frame["model"])
    _expect_one("transform", frame["transform"])
    there = set(zip(frame["point"], frame["input"], strict=True))
    # What no example has, its model does not have.
    wanted = [where for where in ERANKS.values() if where in there]
    entropies = _wide(frame, ["point", "input"], wanted).reindex(columns=pd.MultiIndex.from_tuples(ERANKS.values()))
    exponential = aggregate == "entropy"

    def of_means(means: Floats) -> Floats:
        eranks = np.exp(means) if exponential else means
        e1, e2 = eranks[..., 0], eranks[..., 1]
        llm = eranks[..., 2:5]
        ratios = ((e1 - e2) / e1, llm.mean(axis=-1) / llm.max(axis=-1))
        return np.concatenate([eranks, np.stack(ratios, axis=-1)], axis=-1)

    columns = entropies.to_numpy(dtype=np.float64)
    return Sample(ALIGNMENT, tuple(entropies.index), columns if exponential else np.exp(columns), of_means)


def diff_sample(frame: pd.DataFrame, *, point: str = "final", aggregate: Aggregate = "entropy") -> Sample:
    """Diff-eRank and its terms at one hook point, and at `final` the losses, where there are any.

    Args:
        frame: Records of one trained model and its untrained twins, as from `mmerank.records.to_frame`.
        point: The hook point.
        aggregate: Of `erank_*` and `diff_erank`, see `mmerank.analysis.alignment.dataset_erank`.

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
    trained = _expect_one("trained model", here.loc[~is_twin, "model"])
    if not twins:
        raise ValueError(f"expected records of an untrained model beside those of {trained}")
    models = [trained, *twins]
    common = here.groupby("example")["model"].transform("nunique") == len(models)
    here = here[common]
    here = here.assign(possible=np.minimum(here["n"] - 1, here["d"]), has=here["predicted"] > 0)
    entropies, possible, losses, predicted = (
        _wide(here, ["model"], models, value=value) for value in ("entropy", "possible", "loss", "predicted")
    )
    h = entropies.to_numpy(dtype=np.float64)
    eranks = np.exp(h)
    blocks = [h if aggregate == "entropy" else eranks, eranks, eranks / possible.to_numpy(dtype=np.float64)]
    counts = predicted.to_numpy(dtype=np.float64)[:, :1]
    lossy = point == "final" and bool((counts > 0).any())
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


def sample(frame: pd.DataFrame, *, aggregate: Aggregate = "entropy", point: str = "final") -> Sample:
    """The sample of records of either kind: of image-text pairs, or of texts with untrained models.

    Args:
        frame: As from `mmerank.records.to_frame`.
        aggregate: See `mmerank.analysis.alignment.dataset_erank`.
        point: Of texts: the hook point.

    Returns:
        `alignment_sample` or `diff_sample`.
    """
    if set(frame["input"]) == {"text"}:
        return diff_sample(frame, point=point, aggregate=aggregate)
    return alignment_sample(frame, aggregate=aggregate)


def _ends(values: Floats) -> tuple[Floats, Floats]:
    """Of the trained model, which comes first, and the mean over its twins."""
    return values[..., 0], values[..., 1:].mean(axis=-1)


def _wide(frame: pd.DataFrame, by: list[str], wanted: Sequence[Hashable], value: str = "entropy") -> pd.DataFrame:
    """A row per example in the order of the ids, a column per measurement."""
    if frame.duplicated(["example", *by]).any():
        raise ValueError(f"expected one record per example and {' and '.join(by)}, got some twice")
    wide = frame.pivot(index="example", columns=by, values=value).sort_index()
    missing = [name for name in wanted if name not in wide.columns]
    if missing or (value == "entropy" and wide[list(wanted)].isna().any(axis=None)):
        counts = ", ".join(f"{_said(name)} {wide[name].count() if name in wide else 0}" for name in wanted)
        raise ValueError(f"expected every measurement of every example, got {counts}")
    return wide[list(wanted)]


def _said(name: Hashable) -> str:
    return "/".join(name) if isinstance(name, tuple) else str(name)


def _expect_one(what: str, column: pd.Series[str]) -> str:
    found = list(map(str, column.unique()))
    if len(found) != 1:
        raise ValueError(f"expected the records of one {what}, got {', '.join(found) or 'none'}; choose its rows")
    return found[0]
