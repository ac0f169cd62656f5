"""Pictures with rows left out: what each way to choose the others does to the response's loss, and to their eRank."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.sample import Floats, Sample, mean_of_those_there
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.analysis.statistics.slope import Slope, slope_of, slope_sample
from mmerank.convention import ALWAYS_BESIDE, KEPT_BY, Aggregate

_CHOICE = re.compile(r"(.+)@([\d.e-]+?)(?:#(\d+))?")
WHOLE = (
    Quantity("loss_whole", "loss of the response with all rows, nats", "loss, all rows", 3, "lower"),
    Quantity("erank_vision", "eRank of the picture at the vision encoder", "eRank1", differs="log", sees="image"),
    Quantity("erank_connector", "eRank of the picture behind the connector", "eRank2", differs="log", sees="image"),
    Quantity("erank_llm", "eRank of the picture's rows at the LLM", "eRank, LLM", differs="log"),
)
# Of each example: which pictures bear it least.
MEAN_CHANGE = Quantity("mean_loss_change", "change in loss, mean over all choices", "mean change in loss", 3, "lower")
_TEXT = (
    Quantity("loss_change", "change in loss", decimals=3, better="lower"),
    Quantity("over_random", "loss less that of random rows", "less random", 3),
    Quantity("over_downsample", "loss less that of a sub-grid", "less downsample", 3),
    Quantity("divergence", "KL divergence, nats", "KL", 3),
    Quantity("agreement", "same likeliest token", "same token", 3),
    Quantity("draw_sd", "sd of the change over draws", "sd of draws", 3),
)
_ROWS = (
    Quantity("erank_kept", "eRank2 of the kept rows", "eRank2", differs="log", sees="image"),
    Quantity("erank_kept_before", "their eRank at the LLM before", "LLM before", differs="log"),
    Quantity("erank_kept_after", "their eRank at the LLM after", "LLM after", differs="log"),
    Quantity("participation_ratio_kept", "participation ratio behind the connector", "PR2", sees="image"),
    Quantity("participation_ratio_before", "participation ratio at the LLM before", "PR before"),
    Quantity("participation_ratio_after", "participation ratio at the LLM after", "PR after"),
    Quantity("neighbours", "k-NN overlap before and after", "k-NN overlap", 3),
)
# What a difference between two ways to choose is held against, of each picture.
PREDICTORS = {
    "erank_vision": "eRank1",
    "erank_connector": "eRank2",
    "reduction": "eRank2 / eRank1",
}
ONE, OTHER = "attention", "diversity"


def of_prunings(records: pd.DataFrame) -> bool:
    """Whether records are those of pictures with rows left out.

    Args:
        records: Of one model.

    Returns:
        Whether they are.
    """
    return bool((records["input"] == "whole").any())


def choice(by: str, keep: float) -> str:
    """What a way to choose so many rows is called behind the name of a quantity."""
    return f"{by}@{keep:g}"


@dataclass(frozen=True)
class Values:
    """The numbers of each example.

    Attributes:
        examples: Ids, sorted.
        whole: By quantity of all rows, (n,); entropies in the place of eRanks.
        kept: By quantity and choice, (n,), the mean over draws; entropies in the place of eRanks.
        draws: By choice, the loss of each draw, (n, draws).
        choices: Ways to choose, and shares, the largest share first.
    """

    examples: tuple[str, ...]
    whole: dict[str, Floats]
    kept: dict[tuple[str, str], Floats]
    draws: dict[str, Floats]
    choices: tuple[tuple[str, float], ...]


def values_of(records: pd.DataFrame) -> Values:
    """The numbers of each example.

    Args:
        records: Of one model.

    Returns:
        They.

    Raises:
        ValueError: A measurement is missing or there twice.
    """
    if records.duplicated(["example", "point", "input"]).any():
        raise ValueError("expected one record per example, point and choice of rows, got some twice")
    fields = {
        ("connector", "entropy"): "erank_kept",
        ("connector", "participation_ratio"): "participation_ratio_kept",
        ("llm", "entropy_before"): "erank_kept_before",
        ("llm", "participation_before"): "participation_ratio_before",
        ("llm", "entropy"): "erank_kept_after",
        ("llm", "participation_ratio"): "participation_ratio_after",
        ("llm", "neighbours"): "neighbours",
        ("llm", "loss"): "loss",
        ("llm", "divergence"): "divergence",
        ("llm", "agreement"): "agreement",
    }
    wide = records.pivot(
        index="example", columns=["point", "input"], values=sorted({field for _, field in fields})
    ).sort_index()
    inputs = dict.fromkeys(name for point, name in wide["loss"].columns if point == "llm" and name != "whole")
    parsed = {name: told for name in inputs if (told := _CHOICE.fullmatch(str(name)))}
    by_choice: dict[tuple[str, float], list[str]] = {}
    for name, of in parsed.items():
        by_choice.setdefault((of[1], float(of[2])), []).append(str(name))
    order = {by: i for i, by in enumerate(KEPT_BY)}
    choices = tuple(sorted(by_choice, key=lambda of: (-of[1], order.get(of[0], len(order)), of[0])))

    def column(field: str, point: str, name: str) -> Floats:
        return wide[field, point, name].to_numpy(np.float64)

    whole = {"loss_whole": column("loss", "llm", "whole")}
    whole |= {
        f"erank_{point}": column("entropy", point, "whole")
        for point in ("vision", "connector", "llm")
        if ("entropy", point, "whole") in wide.columns
    }
    kept: dict[tuple[str, str], Floats] = {}
    draws = {}
    for (by, keep), names in by_choice.items():
        for (point, field), quantity in fields.items():
            each = np.stack([column(field, point, name) for name in names], axis=1)
            kept[quantity, choice(by, keep)] = each.mean(axis=1)
            if quantity == "loss" and len(names) > 1:
                draws[choice(by, keep)] = each
    found = Values(tuple(map(str, wide.index)), whole, kept, draws, choices)
    missing = [quantity for quantity, of in whole.items() if np.isnan(of).any()]
    missing += [name for (quantity, name), of in kept.items() if quantity != "neighbours" and np.isnan(of).any()]
    if missing:
        raise ValueError(f"expected every measurement of every example, some have none of {missing[0]}")
    return found


def _samples_of_whole(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    if of_prunings(records):
        yield "", example_sample(records, aggregate)


def _samples_of_text(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    if not of_prunings(records):
        return
    of = values_of(records)
    losses = {each: of.kept["loss", choice(*each)] for each in of.choices}
    columns = {f"loss_change/{choice(*each)}": loss - of.whole["loss_whole"] for each, loss in losses.items()}
    columns |= {
        f"over_{beside}/{choice(by, keep)}": loss - losses[beside, keep]
        for beside in ALWAYS_BESIDE
        for (by, keep), loss in losses.items()
        if by != beside and (beside, keep) in losses
    }
    columns |= {
        f"{quantity}/{choice(*each)}": of.kept[quantity, choice(*each)]
        for quantity in ("divergence", "agreement")
        for each in of.choices
    }
    sample = _sample(of.examples, columns, aggregate)
    yield "", _with_draws(sample, of.draws)


def _with_draws(sample: Sample, draws: dict[str, Floats]) -> Sample:
    """The same with the standard deviation of a data set's number over draws."""
    if not draws:
        return sample
    width, columns = sample.columns.shape[1], [sample.columns, *draws.values()]
    ends = np.cumsum([of.shape[1] for of in columns])

    def of_means(means: Floats) -> Floats:
        spreads = [means[..., start:end].std(axis=-1, ddof=1)[..., None] for start, end in pairwise(ends)]
        return np.concatenate([sample.of_means(means[..., :width]), *spreads], axis=-1)

    assert sample.counts is not None
    return replace(
        sample,
        quantities=(*sample.quantities, *(f"draw_sd/{name}" for name in draws)),
        columns=np.concatenate(columns, axis=1),
        of_means=of_means,
        counts=(*sample.counts, *(sample.n for _ in draws)),
    )


def _samples_of_rows(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    if not of_prunings(records):
        return
    of = values_of(records)
    names = [choice(*each) for each in of.choices]
    columns = {f"{quantity.name}/{name}": of.kept[quantity.name, name] for name in names for quantity in _ROWS}
    yield "", _sample(of.examples, columns, aggregate)


def example_sample(records: pd.DataFrame, aggregate: Aggregate) -> Sample:
    """What an example is shown by: its numbers with all rows, and how much it loses on average.

    Args:
        records: Of one model.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.

    Returns:
        The sample.
    """
    of = values_of(records)
    losses = np.stack([of.kept["loss", choice(*each)] for each in of.choices])
    change = losses.mean(axis=0) - of.whole["loss_whole"]
    return _sample(of.examples, {**of.whole, MEAN_CHANGE.name: change}, aggregate)


def _sample(examples: tuple[str, ...], found: dict[str, Floats], aggregate: Aggregate) -> Sample:
    """A sample of these numbers; of entropies, where they are called eRanks."""
    eranks = np.array([name.startswith("erank_") for name in found])
    values = np.stack(list(found.values()), axis=1)
    if aggregate == "erank":
        values = np.where(eranks, np.exp(values), values)
    columns, means_of = mean_of_those_there(values)

    def of_means(means: Floats) -> Floats:
        of = means_of(means)
        return np.where(eranks, np.exp(of), of) if aggregate == "entropy" else of

    counts = tuple(map(int, np.isfinite(values).sum(axis=0)))
    return Sample(tuple(found), examples, columns, of_means, counts)


@dataclass(frozen=True)
class Interaction:
    """Whether what is lost by one way to choose rows and not by another goes with a picture's eRank.

    Attributes:
        predictor: `erank_vision`, `erank_connector` or `reduction` (eRank2 / eRank1), each of an example.
        keep: Share of the rows.
        found: The slope of the loss under `attention` less that under `diversity` on it. Positive: the higher the
            eRank, the more speaks for `diversity`.
        q: Its p after control of the false discovery rate (Benjamini-Hochberg) over all predictors and shares.
    """

    predictor: str
    keep: float
    found: Slope
    q: float

    @property
    def name(self) -> str:
        """Of its number."""
        return _slope_name(self.predictor, self.keep)


def _slope_name(predictor: str, keep: float) -> str:
    return f"slope_{predictor}/{keep:g}"


def difference(of: Values, keep: float) -> Floats | None:
    """Loss under `attention` less that under `diversity`, (n,); None where one was not asked for."""
    one, other = (of.kept.get(("loss", choice(by, keep))) for by in (ONE, OTHER))
    return None if one is None or other is None else one - other


def predictor(of: Values, name: str) -> Floats | None:
    """A number of each picture, (n,); None where the model has none."""
    if name != "reduction":
        entropies = of.whole.get(name)
        return None if entropies is None else np.exp(entropies)
    one, two = (of.whole.get(f"erank_{point}") for point in ("vision", "connector"))
    return None if one is None or two is None else np.exp(two - one)


def interactions(records: pd.DataFrame, bootstrap: Bootstrap) -> tuple[Interaction, ...]:
    """Whether pictures of low eRank speak for attention and those of high eRank for diversity, as AgilePruner has it.

    Args:
        records: Of one model.
        bootstrap: How intervals are made.

    Returns:
        A test for each share and predictor; none without both ways to choose.
    """
    pairs = _tested(values_of(records))
    found = [Interaction(*of, slope_of(x, y, bootstrap), math.nan) for of, (x, y) in pairs.items()]
    tested = [i for i, one in enumerate(found) if math.isfinite(one.found.p)]
    if tested:
        controlled = false_discovery_control([found[i].found.p for i in tested])
        for i, q in zip(tested, controlled, strict=True):
            found[i] = replace(found[i], q=float(q))
    return tuple(found)


def _tested(of: Values) -> dict[tuple[str, float], tuple[Floats, Floats]]:
    """Predictor and difference in loss of each picture, by predictor and share; none without both ways to choose."""
    found = {}
    for keep in dict.fromkeys(keep for _, keep in of.choices):
        for name in PREDICTORS:
            x, y = predictor(of, name), difference(of, keep)
            if x is not None and y is not None:
                found[name, keep] = x, y
    return found


def _samples_of_slopes(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    if of_prunings(records) and (pairs := _tested(of := values_of(records))):
        yield "", slope_sample({_slope_name(*name): pair for name, pair in pairs.items()}, of.examples)


def _slope_named(name: str) -> Quantity | None:
    front, _, keep = name.partition("/")
    known = front.removeprefix("slope_")
    if front == known or known not in PREDICTORS:
        return None
    label, kept = f"slope of the loss under {ONE} less {OTHER} on {PREDICTORS[known]}", f", {keep} kept" * bool(keep)
    return Quantity(name, f"{label}{kept}", f"slope on {PREDICTORS[known]}{kept}", 3)


def _named(quantities: tuple[Quantity, ...]) -> Callable[[str], Quantity | None]:
    known = {quantity.name: quantity for quantity in quantities}

    def named(name: str) -> Quantity | None:
        front, slash, of = name.partition("/")
        if front not in known or not slash:
            return known.get(name)
        if not (found := _CHOICE.fullmatch(of)):
            return None
        quantity, by = known[front], found[1].rpartition(":")[2]
        label = f"{quantity.label}, {by} {found[2]}"
        return replace(quantity, name=name, label=label, short=f"{quantity.head}, {by} {found[2]}")

    return named


ALL = Metric("pruning_whole", "With all rows", (*WHOLE, MEAN_CHANGE), _samples_of_whole, own_place=True)
METRIC = Metric(
    "pruning",
    "What leaving rows out does to the text",
    (),
    _samples_of_text,
    own_place=True,
    named=_named(_TEXT),
    compared="loss_change/",
)
ROWS = Metric(
    "pruning_rows",
    "The kept rows, before and after",
    (),
    _samples_of_rows,
    follows_rows=True,
    own_place=True,
    named=_named(_ROWS),
)
SLOPES = Metric(
    "pruning_slopes",
    "Loss under attention less that under diversity, by the picture's eRank",
    (),
    _samples_of_slopes,
    own_place=True,
    named=_slope_named,
)
