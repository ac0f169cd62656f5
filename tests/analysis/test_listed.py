"""A metric of records that is a file and a line: its numbers stand wherever numbers do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmerank import Results, align, diff, encode, load_encoder, perturb
from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics import known
from mmerank.analysis.sample import Sample, wide
from tests.adapters.cases import LLAVA, examples
from tests.adapters.text_cases import OPT
from tests.encoder_models import save_timm
from tests.test_diff_erank import texts


def _samples(records: pd.DataFrame, aggregate: str) -> Iterator[tuple[str, Sample]]:
    own = records[~records["model"].str.startswith("untrained")]
    values = wide(own, ["point", "input"], [tuple(own[["point", "input"]].iloc[-1])], value="entropy")
    yield "", Sample(("last_bits",), tuple(values.index), values.to_numpy(float), lambda means: means / math.log(2))


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = Metric("bits", "Bits", (Quantity("last_bits", "bits of the last", differs="value"),), _samples)
    monkeypatch.setattr(known, "METRICS", (*known.METRICS, bits))


def _expected(result: Any) -> float:
    frame = result.to_pandas()
    own = frame[~frame["model"].str.startswith("untrained")]
    point, kind = own[["point", "input"]].iloc[-1]
    return float(np.mean(own.loc[(own["point"] == point) & (own["input"] == kind), "entropy"])) / math.log(2)


@pytest.mark.parametrize("job", ["align", "diff", "encode"])
def test_it_is_listed(job: str, tmp_path: Any) -> None:
    if job == "align":
        result: Any = align(LLAVA.adapter, examples())
    elif job == "diff":
        result = diff(OPT.adapter, texts(3))
    else:
        result = encode(load_encoder(save_timm(tmp_path / "vit.pth"), device="cpu"), examples())
    (number,) = result.to_dict()["metrics"]["bits"]
    assert (number["point"], number["input"], number["n"]) == ("", "last_bits", result.n)
    assert number["value"] == pytest.approx(_expected(result), rel=1e-12)
    low, high = number["interval"]
    assert low < number["value"] < high
    assert "bits of the last" in str(result)
    row = result.estimates()[result.estimates()["quantity"] == "last_bits"]
    assert row["value"].item() == number["value"] and row["low"].item() == low
    assert "bits of the last" in Results([result]).to_markdown(columns=["last_bits"])
    assert f"{number['value']:.2f}" in result.to_latex(columns=["last_bits"])


def test_what_a_transform_does_to_it() -> None:
    result = perturb(LLAVA.adapter, examples(), ["rotate:90"])
    (turned,) = result.to_dict()["transforms"]
    (found,) = turned["tests_metrics"]["bits"]["differences"]
    before, after = (of["metrics"]["bits"][0]["value"] for of in (result.to_dict()["base"], turned))
    assert found["difference"] == pytest.approx(after - before, abs=1e-12) and found["q"] is not None
    assert "bits of the last" in str(result)
