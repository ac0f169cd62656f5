"""Every metric, in the order in which tables have them. A new one is a file beside this and a line here."""

from __future__ import annotations

import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics import (
    alignment,
    cka,
    diff_erank,
    embeddings,
    encoder_layers,
    generation,
    inside,
    layers,
    matched,
    matched_cosine,
    mutual_information,
    mutual_knn,
    participation_ratio,
    pictures,
    pruning,
    reduction,
    retrieval,
    rows,
    vision_layers,
)
from mmerank.analysis.metrics.alignment import alignment_sample
from mmerank.analysis.metrics.diff_erank import diff_sample
from mmerank.analysis.metrics.of_examples import columns_of, known_as, metric_of, named_quantity
from mmerank.analysis.sample import Sample, of_encoders
from mmerank.convention import Aggregate
from mmerank.eranks import FINAL
from mmerank.runs.record import MATCHED, VALUE

METRICS: tuple[Metric, ...] = (
    *(
        module.METRIC
        for module in (
            alignment,
            matched,
            diff_erank,
            participation_ratio,
            reduction,
            rows,
            layers,
            vision_layers,
            inside,
            pictures,
            mutual_information,
            cka,
            mutual_knn,
            embeddings,
            matched_cosine,
            retrieval,
            encoder_layers,
            generation,
        )
    ),
    generation.AT_ROWS,
    pruning.ALL,
    pruning.METRIC,
    pruning.ROWS,
    pruning.SLOPES,
)


# Numbers that a run has anyway, or to which the mean states lead, and that may be asked for by a name of the table.
_ASKED = {"participation_ratio": "participation_ratio", "cka": "cka_linear_biased"}


def metrics_of(records: pd.DataFrame) -> tuple[Metric, ...]:
    """Every metric that records may hold numbers of, each once.

    Args:
        records: As from `mmerank.runs.record.to_frame`.

    Returns:
        Those that every run may have, but for what this one was asked for by name, and that.
    """
    asked = columns_of(records)
    others = (of for of in METRICS if f"{VALUE}{_ASKED.get(of.name, '')}" not in asked)
    return (*others, *map(metric_of, asked))


def listed_metrics(records: pd.DataFrame) -> tuple[Metric, ...]:
    """The metrics whose numbers results list by name: those asked for, and those without a place of their own.

    Args:
        records: As for `metrics_of`.

    Returns:
        In the order of tables.
    """
    return tuple(of for of in metrics_of(records) if not of.own_place)


def on_equal_rows(name: str) -> bool:
    """Whether a metric's numbers are of equally many rows everywhere."""
    return metric(name).prefix == matched.MATCHED


def metric(name: str) -> Metric:
    """A metric by its name.

    Args:
        name: As in `METRICS`; of those that a run may be asked for, as in `mmerank metrics`, or its column.

    Returns:
        It.

    Raises:
        ValueError: There is none.
    """
    for known in METRICS:
        if known.name == name:
            return known
    if name.startswith((VALUE, MATCHED)):
        return metric_of(name)
    if known_as(name) is not None:
        return metric_of(f"{VALUE}{name}")
    raise ValueError(
        f"no metric {name!r}; known: {', '.join(known.name for known in METRICS)}, and those of `mmerank metrics`"
    )


def quantity(name: str) -> Quantity:
    """What is known of a number of a data set.

    Args:
        name: As in JSON and CSV, with the prefix of its metric.

    Returns:
        It; of what no metric knows, as the accuracy on a task, its name as label and four decimals.
    """
    for known in METRICS:
        if name.startswith(known.prefix) and (found := known.quantity(name.removeprefix(known.prefix))):
            return found
    return named_quantity(name) or Quantity(name, name, decimals=4)


def metric_with(quantity: str) -> str:
    """Name of the metric that a number is of, by the number's name; empty for what no metric knows."""
    for known in METRICS:
        if quantity.startswith(known.prefix) and known.quantity(quantity.removeprefix(known.prefix)):
            return known.name
    return quantity.partition("/")[0] if named_quantity(quantity) else ""


def main_metric(records: pd.DataFrame) -> Metric:
    """What a job measures before anything else.

    Args:
        records: Of it.

    Returns:
        eRank1 to eRank5 and the ratios of pairs, Diff-eRank of texts; of encoders retrieval, or their embeddings
        where they read no text; eRanks of what a model wrote; what leaving rows of pictures out does.
    """
    if generation.of_generations(records):
        return generation.METRIC
    if pruning.of_prunings(records):
        return pruning.METRIC
    if of_encoders(records):
        return metric("retrieval" if (records["input"] == "text").any() else "embeddings")
    return metric("diff_erank" if set(records["input"]) == {"text"} else "alignment")


def main_sample(records: pd.DataFrame, *, aggregate: Aggregate = "entropy", point: str = FINAL) -> Sample:
    """What a job measures of an example before anything else: eRank1 to eRank5 of pairs, Diff-eRank of texts.

    Args:
        records: Of one model (of texts: with its untrained twins) and transform.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        point: Of texts: the hook point.

    Returns:
        The sample.

    Raises:
        ValueError: A measurement is missing or there twice.
    """
    if generation.of_generations(records):
        ((_, found),) = generation.METRIC.samples(records, aggregate)
        return found
    if pruning.of_prunings(records):
        return pruning.example_sample(records, aggregate)
    if set(records["input"]) == {"text"}:
        return diff_sample(records, point=point, aggregate=aggregate)
    return alignment_sample(records, aggregate=aggregate)
