"""Metrics of rows that are pooled over a data set: which rows are kept, and each number from the rows by numpy."""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

import mmerank
from mmerank import Convention, Example, align, compare, diff, perturb
from mmerank.analysis.estimates import estimates
from mmerank.analysis.statistics.jackknife import jackknife_limits
from mmerank.errors import UsageError
from mmerank.formulas.asked import asked_for
from mmerank.formulas.geometric import linearity_of_residual_held_out
from mmerank.formulas.table import METRICS
from mmerank.report.write import report
from mmerank.runs.columns import DamagedPart
from mmerank.runs.parts import part_files, read_part, read_records
from mmerank.runs.record import Record
from mmerank.runs.rules import Rules
from mmerank.runs.settings import read_settings
from tests.adapters.cases import LLAVA, examples
from tests.adapters.text_cases import OPT
from tests.definitions import TWO
from tests.formulas.clouds import plain
from tests.test_diff_erank import texts
from tests.test_processes import shared_by

NAMES = ["linearity_held_out", "linearity_residual_held_out", "mir_pooled_nuclear", "mir_pooled_fastmode"]
Floats = NDArray[np.float64]
NOISE = "ignore:the published recurrence of MIR:RuntimeWarning"
T_9 = 2.2621571628  # of 9 degrees, 95 %


def pictures(count: int = 12) -> list[Example]:
    generator = np.random.default_rng(0)
    given = []
    for i in range(count):
        example = examples()[i % 3]
        picture = Image.fromarray(generator.integers(256, size=(56, 56, 3), dtype=np.uint8))
        given.append(replace(example, id=str(i), image=picture, response=f"{example.response} {i * i}"))
    return given


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, list[Floats]], Path]:
    """A run of all layers, and what the blocks of the model put out in its pair passes, by layer."""
    seen: dict[str, list[Floats]] = defaultdict(list)
    llm: Any = LLAVA.adapter.model.get_submodule("model.language_model")
    places = {"layer 1": llm.layers[0], "layer 2": llm.layers[1], "llm": llm.norm}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            of = output[0] if isinstance(output, tuple) else output
            seen[name].extend(of.double().numpy().copy())

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in places.items()]
    folder = tmp_path_factory.mktemp("pooled")
    try:
        result = align(LLAVA.adapter, pictures(), metrics=NAMES, layers="all", out=folder)
    finally:
        for handle in handles:
            handle.remove()
    return result, seen, folder


def rows_of(record: Record) -> tuple[Floats, Floats]:
    assert record.rows_image is not None and record.rows_text is not None
    image, text = (of.astype(np.float64).reshape(-1, record.d) for of in (record.rows_image, record.rows_text))
    return image, text


def by_layer(records: Sequence[Record]) -> dict[str, dict[str, tuple[Floats, Floats]]]:
    """By layer and example: image rows and text rows."""
    found: dict[str, dict[str, tuple[Floats, Floats]]] = defaultdict(dict)
    for record in records:
        if record.rows_image is not None:
            found[record.point][record.example] = rows_of(record)
    return dict(sorted(found.items()))


def explained(x: Floats, y: Floats, x_new: Floats, y_new: Floats) -> float:
    """numpy's least squares with a column of ones, on other rows."""
    fit, new = (np.c_[of, np.ones(len(of))] for of in (x, x_new))
    missed = new @ np.linalg.lstsq(fit, y, rcond=None)[0] - y_new
    return float(1 - (missed**2).sum() / ((y_new - y_new.mean(axis=0)) ** 2).sum())


def test_kept_rows_are_rows_of_the_pair_the_same_at_every_layer(measured: Any) -> None:
    result, seen, _ = measured
    layers = by_layer(result.records + result.layer_records)
    assert list(layers) == ["layer 0", "layer 1", "layer 2", "llm"]
    images = LLAVA.adapter.image_tokens
    for example in layers["llm"]:
        places: dict[str, list[list[int]]] = {}
        for name in seen:
            for h in seen[name]:
                where = [
                    [int(i) for row in part for i in np.flatnonzero((h.astype(np.float32) == row).all(axis=1))]
                    for part in layers[name][example]
                ]
                if all(where):
                    places[name] = where
        image, text = places["llm"]
        assert places["layer 1"] == places["layer 2"] == [image, text]
        # Behind BOS stand the image's, and then the text's; no row twice, and in their order.
        assert len(image) == len(text) == 16
        assert image == sorted({*image}) and text == sorted({*text})
        assert 1 <= image[0] and image[-1] <= images < text[0]
    chosen = [layers["llm"][example][0].shape for example in layers["llm"]]
    assert chosen == [(16, 64)] * 12
    assert all((r.rows_image is not None) == (r.input == "pair") for r in result.records)


@pytest.mark.filterwarnings(NOISE)
def test_mir_is_log10_of_the_sum_over_layers_of_the_distances_of_pooled_rows(measured: Any) -> None:
    result, _, _ = measured
    layers = by_layer(result.records + result.layer_records)

    def mir(ids: Sequence[str]) -> float:
        clouds = [[np.concatenate([of[i][side] for i in ids]) for side in (0, 1)] for of in layers.values()]
        return math.log10(sum(TWO["mir_fid_one_layer_nuclear_identity"](*pair) for pair in clouds))

    (found,) = result.metrics["mir_pooled_nuclear"]
    ids = sorted(layers["llm"])
    assert (found["point"], found["input"], found["n"]) == ("4 layers", "pair", 12)
    assert found["value"] == pytest.approx(mir(ids), abs=1e-6)
    group = np.random.default_rng(0).permutation(12) % 10
    left = np.array([mir([of for of, g in zip(ids, group, strict=True) if g != out]) for out in range(10)])
    reach = T_9 * math.sqrt(9 / 10 * ((left - left.mean()) ** 2).sum())
    assert found["interval"] == pytest.approx([found["value"] - reach, found["value"] + reach], abs=1e-6)
    (released,) = result.metrics["mir_pooled_fastmode"]
    clouds = [[np.concatenate([of[i][side] for i in ids]) for side in (0, 1)] for of in layers.values()]
    one = mmerank.metric("mir_fid_one_layer_fastmode")
    assert released["value"] == pytest.approx(math.log10(sum(one(*pair) for pair in clouds)), rel=1e-9)
    assert "null" not in found


@pytest.mark.parametrize("name", NAMES[:2])
def test_linearity_is_fitted_to_half_of_the_examples_and_measured_on_the_others(name: str, measured: Any) -> None:
    result, _, _ = measured
    layers = by_layer(result.records + result.layer_records)
    ids = sorted(layers["llm"])
    keys = {of: random.Random(f"held out/{of}").random() for of in ids}
    fit = sorted(sorted(ids, key=keys.__getitem__)[:6])
    halves = fit, [of for of in ids if of not in fit]
    group = dict(zip(ids, np.random.default_rng(0).permutation(12) % 10, strict=True))

    def value(a: str, b: str, out: int = -1) -> float:
        arrays = [
            np.concatenate([part for of in half if group[of] != out for part in layers[point][of]])
            for half in halves
            for point in (a, b)
        ]
        if "residual" in name:
            arrays = [arrays[0], arrays[1] - arrays[0], arrays[2], arrays[3] - arrays[2]]
        return explained(*arrays)

    found = {of["point"]: of for of in result.metrics[name]}
    assert list(found) == ["layer 0 to layer 1", "layer 1 to layer 2", "layer 2 to llm"]
    for point, of in found.items():
        a, _, b = point.partition(" to ")
        assert of["value"] == pytest.approx(value(a, b), rel=1e-8)
        assert of["value"] < 1
        left = np.array([value(a, b, out) for out in range(10)])
        reach = T_9 * math.sqrt(9 / 10 * ((left - left.mean()) ** 2).sum())
        assert of["interval"] == pytest.approx([of["value"] - reach, min(1, of["value"] + reach)], rel=1e-6)


def test_the_linearity_of_what_is_added_is_that_of_the_difference() -> None:
    x, y, added = plain(60, 5), plain(60, 5, 1), plain(60, 5, 2)
    expected = explained(x[:40], (y - x)[:40], x[40:], (y - x)[40:])
    assert linearity_of_residual_held_out(x[:40], y[:40], x[40:], y[40:]) == pytest.approx(expected, abs=1e-9)
    # Each half on the scale of the other, whatever its own is.
    assert linearity_of_residual_held_out(x[:40], x[:40] * 3, 8 * x[40:], 24 * x[40:]) == pytest.approx(1)
    with pytest.raises(ValueError, match="x_new and y_new"):
        linearity_of_residual_held_out(x[:40], y[:40], x[40:], added[41:])


@pytest.mark.filterwarnings(NOISE)
def test_the_folder_alone_has_the_numbers_and_so_have_its_report_and_the_order_of_examples(
    measured: Any, tmp_path: Path
) -> None:
    result, _, folder = measured
    table = estimates(folder).set_index("quantity")
    for name in NAMES:
        for of in result.metrics[name]:
            row = table.loc[f"{name}/{of['point']}/{of['input']}"]
            assert [row["value"], row["low"], row["high"]] == pytest.approx([of["value"], *of["interval"]])
    report([folder], tmp_path, formats=["markdown", "csv"])
    assert "| MIR |" in (tmp_path / "tables.md").read_text()
    numbers = pd.read_csv(tmp_path / "numbers.csv")["quantity"]
    assert "linearity_held_out/layer 2 to llm/pair" in {*numbers}
    assert "jackknife over groups" in str(result)
    stored = {(r.example, r.point, r.input): r for r in read_records(folder)}
    for record in result.records + result.layer_records:
        other = stored[record.example, record.point, record.input]
        for name in ("rows_image", "rows_text"):
            np.testing.assert_array_equal(getattr(record, name), getattr(other, name))
    again = align(LLAVA.adapter, pictures()[::-1], metrics=["mir_pooled_nuclear"], layers="all")
    value = again.metrics["mir_pooled_nuclear"][0]["value"]  # type: ignore[index]
    assert value == pytest.approx(result.metrics["mir_pooled_nuclear"][0]["value"], rel=1e-6)
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_run_that_is_continued_is_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmerank.engine.collect.PART_SECONDS", 0)
    at_once = align(LLAVA.adapter, pictures(4), metrics=["mir_pooled_nuclear"], out=tmp_path)
    parts = part_files(tmp_path)
    assert len(parts) > 1
    parts[0].unlink()
    continued = align(LLAVA.adapter, pictures(4), metrics=["mir_pooled_nuclear"], out=tmp_path)
    (found,), (expected,) = (of.metrics["mir_pooled_nuclear"] for of in (continued, at_once))  # type: ignore[index]
    assert found["point"] == "llm" and found["value"] == pytest.approx(expected["value"], rel=1e-6)
    # What no metric asks for is not kept.
    assert {of.rows_text is None for of in align(LLAVA.adapter, pictures(1), metrics=["twonn_mle"]).records} == {True}


@pytest.mark.filterwarnings(NOISE)
def test_processes_that_share_the_work_pool_the_same_rows(tmp_path: Path) -> None:
    out, names = tmp_path / "run", ["linearity_held_out", "mir_pooled_nuclear"]
    whole = align(LLAVA.adapter, pictures(), metrics=names, layers="all")
    shared_by(2, lambda: align(LLAVA.adapter, pictures(), metrics=names, layers="all", out=out), tmp_path)
    assert len({part.stem.split("-")[1] for part in part_files(out)}) == 2, "each did something"
    shared = align(LLAVA.adapter, pictures(), metrics=names, layers="all", out=out)
    assert set(whole.metrics or ()) == set(names) and shared.to_dict() == whole.to_dict()


@pytest.mark.parametrize("what", ["missing", "elsewhere", "half a row", "too many", "not finite"])
def test_rows_that_cannot_be_are_a_damaged_part(what: str, tmp_path: Path) -> None:
    align(LLAVA.adapter, pictures(2), metrics=["mir_pooled_nuclear"], out=tmp_path)
    rules = Rules(tmp_path, read_settings(tmp_path))
    table = read_part(part_files(tmp_path)[0], rules)
    place, rows = table.column_names.index("rows_text"), table["rows_text"].to_pylist()
    first = next(i for i, of in enumerate(rows) if of)
    if what == "elsewhere":
        rows[rows.index(None)] = rows[first]
    else:
        made = {"missing": None, "half a row": rows[first][:-3], "too many": rows[first] * 40}
        rows[first] = made.get(what, [math.inf, *rows[first][1:]])
    part = tmp_path / "000000.parquet"  # without a digest, as of an earlier version
    pq.write_table(table.set_column(place, "rows_text", pa.array(rows, pa.list_(pa.float32()))), part)
    with pytest.raises(DamagedPart, match="rows_text"):
        read_part(part, rules)


def test_a_part_of_a_version_without_kept_rows_is_read(tmp_path: Path) -> None:
    align(LLAVA.adapter, pictures(2), metrics=["twonn_mle"], out=tmp_path)
    rules = Rules(tmp_path, read_settings(tmp_path))
    table = read_part(part_files(tmp_path)[0], rules).drop_columns(["rows_image", "rows_text"])
    part = tmp_path / "000000.parquet"
    pq.write_table(table, part)
    assert read_part(part, rules).num_columns == table.num_columns


def test_texts_have_linearity_of_the_trained_model_and_its_twin_and_no_mir() -> None:
    result = diff(OPT.adapter, texts(14), metrics=["linearity_held_out"], layers="all")
    found = {(of["point"], of["input"]): of["value"] for of in result.metrics["linearity_held_out"]}  # type: ignore[index]
    steps = ["layer 0 to layer 1", "layer 1 to layer 2", "layer 2 to final"]
    assert list(dict.fromkeys(point for point, _ in found)) == steps
    for step in steps:
        before, after = found[step, "untrained"], found[step, "trained"]
        assert found[step, "difference"] == pytest.approx(before - after) and max(before, after) <= 1
    rows = {r.example: r.rows_text for r in result.records if r.point == "final"}
    assert max(len(of) for of in rows.values() if of is not None) == 32 * 32  # a text alone has all of them
    with pytest.raises(UsageError, match="texts alone"):
        asked_for(["mir_pooled_nuclear"], pictures=False)


def test_what_cannot_be_fitted_has_a_reason_and_one_layer_is_refused() -> None:
    result = align(LLAVA.adapter, pictures(4), metrics=["linearity_held_out"], layers="all")
    found = result.metrics["linearity_held_out"]  # type: ignore[index]
    assert {of["value"] for of in found} == {None}
    assert "width 64 is fitted to at least 130 rows, and those kept of 2 examples" in str(found[0]["no_value"])
    with pytest.raises(UsageError, match="--layers"):
        align(LLAVA.adapter, pictures(1), metrics=["linearity_held_out"])
    with pytest.raises(UsageError, match="--layers"):
        diff(OPT.adapter, texts(1), metrics=["linearity_residual_held_out"])


def test_a_transform_is_tested_and_two_runs_are_compared() -> None:
    names = ["mir_pooled_nuclear", "twonn_mle"]
    result = perturb(LLAVA.adapter, pictures(5), ["flip:horizontal"], metrics=names)
    found = result.tests_metrics["mir_pooled_nuclear"]["flip:horizontal"]["mir_pooled_nuclear/llm/pair"]
    after, before = (
        of.to_dict()["metrics"]["mir_pooled_nuclear"][0]["value"] for of in (result.transforms[0], result.base)
    )
    assert found.difference == pytest.approx(after - before) and found.low < found.difference < found.high
    against = compare(result.transforms[0], result.base, metric="mir_pooled_nuclear")
    assert against["mir_pooled_nuclear/llm/pair"].difference == pytest.approx(found.difference)


def test_a_metric_of_ones_own_may_take_pooled_rows_and_all_leaves_them_out() -> None:
    def apart(layers: list[tuple[Floats, Floats]]) -> float:
        return float(sum(len(image) + len(text) for image, text in layers))

    result = align(LLAVA.adapter, pictures(3), metrics=[("apart", apart)], layers="all")
    assert result.metrics["apart"][0]["value"] == 4 * 3 * 32  # type: ignore[index]
    assert not {*NAMES} & {*asked_for(["all"], pictures=True)}
    assert {name for name, of in METRICS.items() if of.pooled} == {*NAMES}
    assert Convention(metrics=("apart",)).metrics == ("apart",)


def test_bounds_may_be_those_of_each_number() -> None:
    values, without = np.array([0.9, 0.9]), np.array([[0.7, 0.7], [0.95, 0.95], [0.99, 0.99]])
    low, high = jackknife_limits(values, without, level=0.95, bounds=(0.0, np.array([1.0, math.inf])))
    both = jackknife_limits(values, without, level=0.95, bounds=(0.0, 1.0))
    assert (low[0], high[0]) == (both[0][0], both[1][0]) and 0 < low[0] < high[0] < 1 < high[1]
