"""What a model writes: eRank of prompt and response, how it grows, and how sure the model is of its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.sample import Floats, Sample, mean_of_those_there
from mmerank.convention import Aggregate
from mmerank.formulas.changes import acceleration, velocity

PROMPT, RESPONSE = "erank_prompt", "erank_response"
QUANTITIES = (
    Quantity(PROMPT, "eRank of the prompt", "prompt", differs="log"),
    Quantity(RESPONSE, "eRank of the response", "response", differs="log"),
    Quantity("erank_velocity", "first difference of eRank", "1st difference", 3),
    Quantity("erank_acceleration", "second difference of eRank", "2nd difference", 3),
    Quantity("logit_entropy", "entropy of the logits, nats", "logit entropy", 3),
    Quantity("response_tokens", "tokens of the response", "tokens", 1),
)
_AT = re.compile(r"erank_response_at_(\d+)")


def of_generations(records: pd.DataFrame) -> bool:
    """Whether records are those of what a model wrote.

    Args:
        records: Of one model.

    Returns:
        Whether there is a response.
    """
    return bool((records["input"] == "response").any())


def trajectories(records: pd.DataFrame) -> tuple[list[int], Floats]:
    """Entropies of responses as they grew.

    Args:
        records: Of one model's responses.

    Returns:
        Numbers of rows, and entropies in nats, (n, k), NaN where a response is shorter; examples in the order of the
        ids.

    Raises:
        ValueError: They have several strides.
    """
    each = records[records["input"] == "response"].sort_values("example")
    longest = max((len(of) for of in each["trajectory"]), default=0)
    found = np.full((len(each), longest), np.nan)
    for row, of in zip(found, each["trajectory"], strict=True):
        row[: len(of)] = of
    strides = set(each["stride"])
    if len(strides) > 1:
        raise ValueError(f"responses with several strides ({', '.join(map(str, sorted(strides)))})")
    return [int(next(iter(strides), 1)) * (i + 1) for i in range(longest)], found


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """Over examples; of differences over those whose responses are long enough."""
    if not of_generations(records):
        return
    prompts, responses = (_of(records, kind) for kind in ("prompt", "response"))
    if list(prompts.index) != list(responses.index):
        raise ValueError(f"expected prompt and response of every example, got {len(prompts)} and {len(responses)}")
    _, entropies = trajectories(records)
    grown = [np.exp(row[np.isfinite(row)]) for row in entropies]
    values = np.stack(
        [
            *(_averaged(of["entropy"].to_numpy(np.float64), aggregate) for of in (prompts, responses)),
            np.array([velocity(of) for of in grown]),
            np.array([acceleration(of) for of in grown]),
            np.array([np.mean(of) for of in responses["logit_entropies"]]),
            np.array([len(of) for of in responses["logit_entropies"]], np.float64),
        ],
        axis=1,
    )
    names = tuple(quantity.name for quantity in QUANTITIES)
    yield "", _sample(names, responses, values, aggregate, eranks=2)


def _at_rows(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """The eRank of the first rows of responses, at equal numbers of rows, over those that have as many."""
    if not of_generations(records):
        return
    rows, entropies = trajectories(records)
    # Each twice the one before, so that there are few.
    kept = [2**i - 1 for i in range(len(rows).bit_length()) if 2**i <= len(rows)]
    if kept:
        names = tuple(f"{RESPONSE}_at_{rows[i]}" for i in kept)
        values = _averaged(entropies[:, kept], aggregate)
        yield "", _sample(names, _of(records, "response"), values, aggregate, eranks=len(kept))


def growth(records: pd.DataFrame, aggregate: Aggregate) -> tuple[list[int], Sample] | None:
    """The eRank of the first rows of responses, each time a stride more.

    Args:
        records: Of one model.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.

    Returns:
        Numbers of rows, and the sample with a quantity for each; None where no response is as long as a stride.
    """
    rows, entropies = trajectories(records)
    if not rows:
        return None
    names = tuple(f"{RESPONSE}_at_{n}" for n in rows)
    values = _averaged(entropies, aggregate)
    return rows, _sample(names, _of(records, "response"), values, aggregate, eranks=len(rows))


def logit_entropies(records: pd.DataFrame) -> Floats:
    """Entropy of the logits of each token.

    Args:
        records: Of one model.

    Returns:
        Nats, (n, longest response), NaN where a response is shorter.
    """
    each = list(_of(records, "response")["logit_entropies"])
    found = np.full((len(each), max(map(len, each), default=0)), np.nan)
    for row, of in zip(found, each, strict=True):
        row[: len(of)] = of
    return found


def _sample(
    names: tuple[str, ...], examples: pd.DataFrame, values: Floats, aggregate: Aggregate, *, eranks: int
) -> Sample:
    columns, means_of = mean_of_those_there(values)

    def of_means(means: Floats) -> Floats:
        found = means_of(means)
        if aggregate == "entropy":
            found = np.concatenate([np.exp(found[..., :eranks]), found[..., eranks:]], axis=-1)
        return found

    counts = tuple(map(int, np.isfinite(values).sum(axis=0)))
    return Sample(names, tuple(map(str, examples.index)), columns, of_means, counts)


def _averaged(entropies: Floats, aggregate: Aggregate) -> Floats:
    return entropies if aggregate == "entropy" else np.exp(entropies)


def _of(records: pd.DataFrame, kind: str) -> pd.DataFrame:
    found = records[records["input"] == kind]
    if found["example"].duplicated().any():
        raise ValueError(f"expected one {kind} of every example, got some twice")
    return found.set_index("example").sort_index()


def _named_at(name: str) -> Quantity | None:
    found = _AT.fullmatch(name)
    if found is None:
        return None
    return Quantity(name, f"eRank of its first {found[1]} rows", f"first {found[1]}", differs="log")


METRIC = Metric("generation", "What a model writes", QUANTITIES, _samples, follows_rows=True, own_place=True)
AT_ROWS = Metric(
    "generation_at_rows", "Responses at equal numbers of rows", (), _at_rows, own_place=True, named=_named_at
)
