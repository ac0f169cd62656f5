"""Both routes to singular values: of the rows, and of the Gram matrix of rows or of columns."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings

from mmerank.formulas import spectra
from mmerank.formulas.spectra import OF_VALUES, Form, values_of_gram
from mmerank.formulas.table import METRICS
from tests.conftest import GOLDEN
from tests.formulas.clouds import Floats, clouds, plain

VALUES: dict[str, float] = json.loads((GOLDEN / "metrics" / "golden.json").read_text())["values"]


def shaped(h: Floats, form: Form) -> Floats:
    if "centred" in form:
        h = h - h.mean(axis=0)
    return h / np.linalg.norm(h, axis=1, keepdims=True) if "unit" in form else h


@pytest.mark.parametrize("side", ["rows", "columns"])
@pytest.mark.parametrize("name", OF_VALUES)
def test_golden_values_from_gram_and_from_covariance(name: str, side: str) -> None:
    with np.load(GOLDEN / "metrics" / "golden_input.npz") as arrays:
        h = arrays["img"]
    form, function = OF_VALUES[name]
    rows = shaped(h, form)
    values = values_of_gram(rows @ rows.T if side == "rows" else rows.T @ rows)
    if side == "rows":  # more of them than columns: what is left is 0
        assert not values[24:].any()
        values = values[:24]
    assert function(values) == pytest.approx(VALUES[name], abs=1e-9, rel=0)


@settings(max_examples=20)
@given(clouds(least=24, most=30, widths=(40, 50)))
def test_a_gram_matrix_of_fewer_rows_than_columns_has_one_value_that_is_0(h: Floats) -> None:
    for name, (form, function) in OF_VALUES.items():
        rows = shaped(h, form)
        found = function(values_of_gram(rows @ rows.T))
        assert found == pytest.approx(METRICS[name].function(h), rel=1e-6), name


def test_every_spectral_metric_is_one_of_values_but_the_estimate_by_columns() -> None:
    spectral = {name for name, entry in METRICS.items() if entry.kind == "spectral"}
    assert spectral - set(OF_VALUES) == {"matrix_nuclear_norm_L12_over_n"}


def test_of_a_gram_matrix_what_is_rounding_is_0() -> None:
    h = plain(6, 30)
    c = h - h.mean(axis=0)
    values = values_of_gram(c @ c.T)
    assert values[5] == 0 and values[4] > 0
    assert spectra.rank_of_shares(values) == pytest.approx(METRICS["erank_roy_vetterli_centred_sigma"].function(h))
