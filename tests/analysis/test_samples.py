from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from mmerank.analysis.metrics.alignment import ALIGNMENT, alignment, alignment_sample
from mmerank.analysis.metrics.diff_erank import DIFF_ERANK, LOSS, diff_sample
from mmerank.analysis.metrics.known import main_sample
from mmerank.eranks import ERANKS
from mmerank.runs.record import Record
from tests.analysis.simulated import MEANS, deviations, frame, text_frame
from tests.test_records import record

both = pytest.mark.parametrize("aggregate", ["entropy", "erank"])
Aggregate = Literal["entropy", "erank"]
COLUMNS = ("model", "example", "point", "input", "transform", "n", "d", "entropy", "loss", "predicted")


def records(of: pd.DataFrame) -> list[Record]:
    return [record(**row) for row in of[list(COLUMNS)].to_dict("records")]  # type: ignore[arg-type]


def texts(n: int = 9, twins: int = 2, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return text_frame(rng.normal(3, 0.4, (n, 1 + twins)), rng.gamma(9, 0.4, (n, 1 + twins)), rng.integers(5, 99, n))


@both
def test_numbers_are_those_of_the_definitions(aggregate: Aggregate) -> None:
    pairs = frame(MEANS + deviations(np.random.default_rng(0), 9))
    found = alignment_sample(pairs.sample(frac=1, random_state=1), aggregate=aggregate)
    by_place = {where: of["entropy"].to_numpy() for where, of in pairs.groupby(["point", "input"])}
    entropies = [by_place[where] for where in ERANKS.values()]
    e = [np.exp(h.mean()) if aggregate == "entropy" else np.exp(h).mean() for h in entropies]
    expected = [*e, 1 - e[1] / e[0], (e[2] + e[3] + e[4]) / 3 / max(e[2:])]
    assert found.quantities == ALIGNMENT and found.n == 9
    assert found.estimates == pytest.approx(expected, rel=1e-13)
    assert list(alignment(records(pairs), aggregate=aggregate).values()) == pytest.approx(expected, rel=1e-13)


@both
def test_numbers_of_texts(aggregate: Aggregate) -> None:
    given = texts()
    found = dict(zip(*(lambda s: (s.quantities, s.estimates))(main_sample(given, aggregate=aggregate)), strict=True))
    h = {model: of.sort_values("example")["entropy"].to_numpy() for model, of in given.groupby("model")}
    trained, twins = h["m"], [of for model, of in h.items() if model != "m"]

    def erank(of: np.ndarray[Any, Any]) -> float:
        return float(np.exp(of.mean()) if aggregate == "entropy" else np.exp(of).mean())

    before = np.mean([erank(of) for of in twins])
    assert found["erank_untrained"] == pytest.approx(before, rel=1e-12)
    assert found["diff_erank"] == pytest.approx(before - erank(trained), rel=1e-12)
    assert found["erank_ratio"] == pytest.approx(before / erank(trained), rel=1e-12)
    mean_of_eranks = np.mean([np.exp(of).mean() for of in twins]) - np.exp(trained).mean()
    assert found["diff_erank_mean_of_eranks"] == pytest.approx(mean_of_eranks, rel=1e-12)
    mine, its = given[given["model"] == "m"], given[given["model"] != "m"]
    losses = (its["loss"].mean(), mine["loss"].mean(), its["loss"].mean() - mine["loss"].mean())
    per_token = (np.average(of["loss"], weights=of["predicted"]) for of in (its, mine))
    assert [found[name] for name in LOSS] == pytest.approx([*losses, *per_token], rel=1e-12)


def test_texts_without_a_loss_do_not_count_in_it() -> None:
    given = texts(5)
    given.loc[given["example"] == "00002", ["loss", "predicted"]] = (math.nan, 0)
    found = main_sample(given)
    rest = given[(given["model"] == "m") & (given["predicted"] > 0)]
    assert found.estimates[found.quantities.index("loss_trained")] == pytest.approx(rest["loss"].mean())
    none = given.assign(loss=math.nan, predicted=0)
    assert main_sample(none).quantities == DIFF_ERANK


def test_only_texts_of_all_models_count() -> None:
    given = texts(6)
    last_twin = (given["model"].str.startswith("untrained seed 1")) & (given["example"] == "00003")
    assert main_sample(given[~last_twin]).examples == ("00000", "00001", "00002", "00004", "00005")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[1:], "vision/image 2, connector/image 3"),
        (
            lambda f: f[(f["point"] != "llm") | (f["example"] != f["example"].max())],
            "llm/image 2, llm/text 2, llm/pair 2",
        ),
        (lambda f: pd.concat([f, f[:1]]), "got some twice"),
        (lambda f: pd.concat([f, f.assign(model="other")]), "records of one model, got m, other"),
        (lambda f: pd.concat([f, f.assign(transform="flip")]), "records of one transform, got none, flip"),
    ],
)
def test_what_no_number_can_stand_on(change: object, message: str) -> None:
    given = frame(np.ones((3, 5)))
    with pytest.raises(ValueError, match=message):
        alignment_sample(change(given))  # type: ignore[operator]


def test_what_is_not_a_trained_model_and_its_twins() -> None:
    given = texts()
    with pytest.raises(ValueError, match="expected records of an untrained model beside those of m"):
        diff_sample(given[given["model"] == "m"])
    with pytest.raises(ValueError, match="one trained model, got none"):
        diff_sample(given[given["model"] != "m"])
    with pytest.raises(ValueError, match="no record of hook point 'layer 1'; known: final"):
        diff_sample(given, point="layer 1")
