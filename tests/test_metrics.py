"""`metrics=[...]` from the hidden states to the report: each number by its definition, and what has none."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import stats

from mmerank import Convention, TextConvention, align, compare, diff, perturb
from mmerank.analysis.estimates import differences, estimates
from mmerank.analysis.finished import read_runs
from mmerank.engine.metrics import Metrics
from mmerank.errors import NoValue, RunFolderError, UsageError
from mmerank.formulas.asked import ELSEWHERE, asked_for
from mmerank.formulas.cloud import Cloud
from mmerank.formulas.entry import Entry
from mmerank.formulas.table import METRICS
from mmerank.inputs.sequence import Role
from mmerank.report.numbers import all_numbers
from mmerank.report.write import report
from mmerank.runs.columns import DamagedPart
from mmerank.runs.parts import part_files, read_part, read_records
from mmerank.runs.record import MATCHED, NO_VALUE, VALUE, Record
from mmerank.runs.rules import Rules
from mmerank.runs.settings import read_settings
from tests import forked
from tests.adapters.cases import LLAVA, examples
from tests.adapters.text_cases import OPT
from tests.conftest import GOLDEN, LONGEST_S
from tests.definitions import ONE, TWO
from tests.test_diff_erank import texts

PRESETS = asked_for(["spectral", "geometric", "between"], pictures=True)
States = dict[tuple[str, str], NDArray[Any]]
# Neighbours are sorted, and their distances are differences.
LOOSER = {"twonn_mle", "twonn_facco_linear_fit_discard10pct", "lid_mle_k10_mean"}


@contextmanager
def hooked() -> Iterator[dict[str, list[NDArray[Any]]]]:
    """What the golden LLaVA puts out where eRank1 to eRank5 are read, by hooks of torch's own."""
    seen: dict[str, list[NDArray[Any]]] = defaultdict(list)
    model = LLAVA.adapter.model
    places = {"connector": "model.multi_modal_projector", "llm": "model.language_model.norm"}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if name == "connector":
                seen["vision"].append(inputs[0][0].double().numpy().copy())
            seen[name].append(output[0].double().numpy().copy())

        return hook

    handles = [model.get_submodule(path).register_forward_hook(keep(name)) for name, path in places.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture(scope="module")
def measured() -> tuple[dict[tuple[str, str], Record], States]:
    """Records of one example, and its hidden states."""
    with hooked() as seen:
        result = align(LLAVA.adapter, examples()[:1], metrics=PRESETS, convention=Convention(match_tokens=12))
    records = {(r.point, r.input): r for r in result.records}
    lengths = {kind: records["llm", kind].n for kind in ("image", "text", "pair")}
    by_length = {len(h): h for h in seen["llm"]}
    # The image input is the beginning of the pair pass, up to rounding what a pass of its own gives.
    states = {("llm", kind): by_length[lengths[kind]] for kind in ("text", "pair")}
    states["llm", "image"] = states["llm", "pair"][: lengths["image"]]
    return records, {**states, ("vision", "image"): seen["vision"][0], ("connector", "image"): seen["connector"][0]}


def test_the_definitions_here_give_the_golden_values() -> None:
    golden = json.loads((GOLDEN / "metrics" / "golden.json").read_text())["values"]
    with np.load(GOLDEN / "metrics" / "golden_input.npz") as arrays:
        image, text = arrays["img"], arrays["txt"]
    found = {name: of(image) for name, of in ONE.items()} | {name: of(image, text) for name, of in TWO.items()}
    for name, value in found.items():
        assert value == pytest.approx(golden[name], rel=1e-6 if name in LOOSER else 1e-9), name
    assert {*ONE, *TWO} == set(PRESETS)


@pytest.mark.parametrize("name", ONE)
def test_every_metric_of_rows_follows_from_hidden_states_of_hooks_placed_by_hand(name: str, measured: Any) -> None:
    records, states = measured
    assert len(states) == 5
    for where, h in states.items():
        found = records[where].metrics[f"{VALUE}{name}"]
        assert found == pytest.approx(ONE[name](h), rel=1e-6 if name in LOOSER else 1e-9), where


@pytest.mark.parametrize("name", TWO)
def test_every_metric_between_modalities_is_of_the_pair_s_image_and_text_rows(name: str, measured: Any) -> None:
    records, states = measured
    pair, images = states["llm", "pair"], LLAVA.adapter.image_tokens
    found = records["llm", "pair"].metrics[f"{VALUE}{name}"]
    # The definition of MIR takes roots of eigenvalues that should be 0.
    expected = TWO[name](pair[1 : 1 + images], pair[1 + images :])
    assert found == pytest.approx(expected, rel=1e-6 if "mir" in name else 1e-9)
    assert not [
        of for where, of in records.items() if where[1] != "pair" and of.metrics[f"{VALUE}{name}"] is not None
    ]


def test_matched_rows_are_those_of_the_matched_erank_and_of_the_metrics_that_follow_the_count(measured: Any) -> None:
    records, _ = measured
    for record in records.values():
        assert record.matched is not None
        found = record.metrics[f"{MATCHED}erank_diff_erank"]
        assert found == pytest.approx(math.exp(record.matched.mean()), rel=1e-9)
        there = [name for name, value in record.metrics.items() if value is not None]
        matched = {name.removeprefix(MATCHED) for name in there if name.startswith(MATCHED)}
        follows = {name for name in PRESETS if METRICS[name].follows_rows}
        assert matched == {name for name in follows if METRICS[name].takes == ("h",) or record.input == "pair"}
        # 12 rows have 11 directions.
        assert "needs 20 singular values" in record.metrics[f"{MATCHED}alpha_req_ols_ranks3to20"]


@pytest.mark.parametrize("convention", [Convention(centre="median"), Convention(precision="mixed")])
def test_metrics_are_by_their_definition_however_the_erank_is_measured(convention: Convention, measured: Any) -> None:
    records, _ = measured
    result = align(LLAVA.adapter, examples()[:1], metrics=["spectral"], convention=convention)
    for record in result.records:
        for name, value in record.metrics.items():
            assert value == pytest.approx(records[record.point, record.input].metrics[name], rel=1e-9), name


def fields(h: NDArray[Any], roles: tuple[Role, ...] | None = None) -> dict[str, float | str]:
    found = Metrics(Convention(metrics=PRESETS), roles).fields(h, None, "here")
    return {name: value for name, value in found.items() if value is not None}


def test_degenerate_rows_have_documented_values_or_a_reason() -> None:
    row = np.arange(1.0, 9)
    cases = {
        "one row": row[None],
        "identical": np.tile(row, (5, 1)),
        "two": np.stack([row, -row]),
        "zero": np.zeros((4, 8)),
        "repeated": np.concatenate([np.eye(8), np.eye(8)[:2]]),
        "far": 1e8 + np.random.default_rng(0).normal(size=(30, 8)),
        "tiny": 1e-200 * np.random.default_rng(0).normal(size=(30, 40)),
        "many": np.random.default_rng(0).normal(size=(60, 8)),
    }
    for name, h in cases.items():
        roles = (Role.IMAGE,) * (len(h) // 2) + (Role.TEXT,) * (len(h) - len(h) // 2)
        found = fields(h, roles)
        assert {*found} == {f"{VALUE}{metric}" for metric in PRESETS}
        for metric, value in found.items():
            assert len(value) > 10 if isinstance(value, str) else math.isfinite(value), (name, metric)
    same = fields(cases["identical"])
    assert same[f"{VALUE}erank_roy_vetterli_raw_sigma"] == pytest.approx(1)
    assert same[f"{VALUE}matrix_entropy_uncentred_unit"] == pytest.approx(0, abs=1e-12)
    assert "all 5 rows are equal" in str(same[f"{VALUE}erank_centred_not_unit_lambda"])
    assert "are equal" in str(same[f"{VALUE}twonn_mle"])
    assert "expected at least 2 rows" in str(fields(cases["one row"])[f"{VALUE}stable_rank"])
    for name in ("far", "many", "tiny"):
        for metric, value in fields(cases[name]).items():
            expected = METRICS[metric.removeprefix(VALUE)].function
            if not isinstance(value, str):
                assert value == pytest.approx(expected(cases[name]), rel=1e-6), (name, metric)


def test_a_pair_without_text_rows_has_no_gap() -> None:
    found = fields(np.random.default_rng(0).normal(size=(12, 8)), (Role.IMAGE,) * 12)
    assert found[f"{VALUE}modality_gap_liang_norm_unit"] == "the text rows: there are no such rows"


def test_near_neighbours_are_measured_on_the_rows_themselves() -> None:
    h = np.random.default_rng(1).normal(size=(20, 30))
    h[1] = h[0] + 1e-9
    assert Cloud(h).value(METRICS["twonn_mle"]) == pytest.approx(ONE["twonn_mle"](h), rel=1e-6)


@pytest.mark.parametrize("shape", [(40, 30), (120, 30), (30, 40), (5, 1), (2, 3)])
def test_rows_far_from_the_origin_keep_their_digits(shape: tuple[int, int]) -> None:
    """Singular values as they are and centred, which come from one reduction, against those of the rows."""
    random = np.random.default_rng(0)
    h = random.normal(size=shape) + 1000 * random.normal(size=shape[1])
    cloud = Cloud(h)
    for form, rows, digits in (("raw", h, 2e-14), ("centred", h - h.mean(axis=0), 1e-11)):
        found, expected = cloud._of(form), np.linalg.svd(rows, compute_uv=False)  # type: ignore[arg-type]
        count = min(shape) - (form == "centred" and shape[0] <= shape[1])  # the last of centred rows is 0
        assert found[:count] / found[0] == pytest.approx(expected[:count] / expected[0], abs=digits)


def test_numbers_of_a_data_set_are_means_with_intervals_and_erank_is_erank(tmp_path: Path) -> None:
    names = ["erank_diff_erank", "twonn_mle", "cos_of_means"]
    result = align(LLAVA.adapter, examples(), metrics=names, out=tmp_path / "run", layers="middle")
    found = result.to_dict()["metrics"]
    assert list(found) == sorted(names)
    json.dumps(found, allow_nan=False)
    eranks = {(of["point"], of["input"]): of for of in found["erank_diff_erank"]}
    assert list(eranks)[:5] == [
        ("vision", "image"),
        ("connector", "image"),
        ("llm", "image"),
        ("llm", "text"),
        ("llm", "pair"),
    ]
    assert eranks["llm", "pair"]["value"] == pytest.approx(result.erank5, rel=1e-9)
    assert eranks["llm", "pair"]["interval"] == pytest.approx(result.intervals["erank5"], rel=1e-9)
    assert ("layer 1", "pair") in eranks
    values = [float(r.metrics[f"{VALUE}twonn_mle"] or 0) for r in result.records if r.point == "vision"]
    assert found["twonn_mle"][0]["value"] == pytest.approx(np.mean(values))
    assert [of["point"] for of in found["cos_of_means"]] == ["llm", "layer 1"]
    # The same of the folder alone, in CSV and in the tables.
    table = estimates(tmp_path / "run")
    row = table[table["quantity"] == "twonn_mle/vision/image"].iloc[0]
    assert (
        row["value"] == pytest.approx(np.mean(values))
        and row["metric"] == "metric:twonn_mle"
        and row["low"] < row["high"]
    )
    report([tmp_path / "run"], tmp_path / "report", formats=["csv", "markdown", "latex", "html"])
    for name in ("tables.md", "tables.tex", "report.html"):
        assert "TwoNN, likelihood" in (tmp_path / "report" / name).read_text()
    assert "twonn_mle/llm/pair" in (tmp_path / "report" / "numbers.csv").read_text()
    assert "TwoNN, likelihood" in str(result)
    # Another run is continued, and one with other metrics is another.
    again = align(LLAVA.adapter, examples(), metrics=reversed(names), out=tmp_path / "run", layers="middle")
    assert again.to_dict()["metrics"] == found
    with pytest.raises(RunFolderError, match=r"convention\.metrics"):
        align(LLAVA.adapter, examples(), metrics=names[:2], out=tmp_path / "run", layers="middle")


def test_what_a_transform_changes_is_tested_for_every_metric(tmp_path: Path) -> None:
    names = ["twonn_mle", "modality_gap_liang_norm_unit"]
    result = perturb(
        LLAVA.adapter,
        examples(),
        ["flip:horizontal"],
        controls=["mismatch"],
        control_draws=1,
        metrics=names,
        convention=Convention(match_tokens=12, match_repeats=2),
        out=tmp_path / "run",
    )
    tests = {name: found["flip:horizontal"] for name, found in result.tests_metrics.items()}
    assert list(tests) == ["modality_gap_liang_norm_unit", "twonn_mle", "matched_twonn_mle"]
    # q is over the tests of all metrics together, and that of the eRanks is their own.
    moved = [d for of in tests.values() for d in of.differences if d.quantity not in of.fixed]
    assert [d.q for d in moved] == pytest.approx(stats.false_discovery_control([d.p for d in moved]).tolist())
    assert {of.tests for of in tests.values()} == {len(moved)} and len(moved) > 6
    alone = perturb(LLAVA.adapter, examples(), ["flip:horizontal"], controls=["mismatch"], control_draws=1)
    assert result.tests["flip:horizontal"].to_dict() == alone.tests["flip:horizontal"].to_dict()
    read = all_numbers(read_runs([tmp_path / "run"])).set_index(["transform", "quantity"])
    for d in moved:
        front = "matched_" if d in tests["matched_twonn_mle"].differences else ""
        assert read.loc[("flip:horizontal", front + d.quantity), "change_q"] == pytest.approx(d.q)
    found = tests["twonn_mle"]["twonn_mle/llm/pair"]
    before, after = (
        np.mean(
            [float(r.metrics[f"{VALUE}twonn_mle"] or 0) for r in of.records if (r.point, r.input) == ("llm", "pair")]
        )
        for of in (result.base, result.transforms[0])
    )
    assert found.difference == pytest.approx(after - before, rel=1e-9)
    assert found.low <= found.difference <= found.high
    assert "twonn_mle/llm/text" in tests["twonn_mle"].fixed  # which a picture does not move
    assert not [r for r in result.records if r.transform.startswith("mismatch") and {*r.metrics.values()} != {None}]
    stored = differences(tmp_path / "run")
    assert {"erank1"} <= {*stored["quantity"]}
    json.dumps(result.to_dict(), allow_nan=False)
    report([tmp_path / "run"], tmp_path / "report", formats=["markdown"])
    assert "Modality gap" in (tmp_path / "report" / "tables.md").read_text()
    against = compare(result.transforms[0], result.base, metric="twonn_mle")
    assert against["twonn_mle/llm/pair"].difference == pytest.approx(found.difference)


def test_texts_have_the_metric_of_the_trained_model_and_of_its_twins(tmp_path: Path) -> None:
    result = diff(
        OPT.adapter,
        texts(3),
        metrics=["twonn_mle", "erank_diff_erank"],
        seeds=(0, 1),
        layers="first",
        out=tmp_path / "run",
    )
    numbers = {(of["point"], of["input"]): of["value"] for of in result.to_dict()["metrics"]["erank_diff_erank"]}
    for point in result.points:
        assert numbers[point.point, "untrained"] == pytest.approx(point.erank_untrained, rel=1e-9)
        assert numbers[point.point, "trained"] == pytest.approx(point.erank_trained, rel=1e-9)
        assert numbers[point.point, "difference"] == pytest.approx(point.diff_erank, rel=1e-6)
    table = estimates(tmp_path / "run")
    assert "twonn_mle/difference" in {*table["quantity"]}
    report([tmp_path / "run"], tmp_path / "report", formats=["markdown"])
    assert "TwoNN" in (tmp_path / "report" / "tables.md").read_text() and "TwoNN" in str(result)
    with pytest.raises(UsageError, match="texts alone"):
        diff(OPT.adapter, texts(1), metrics=["cos_of_means"])


def test_records_come_back_from_a_folder_with_numbers_and_reasons(tmp_path: Path) -> None:
    result = align(
        LLAVA.adapter,
        examples(),
        metrics=["alpha_req_ols_ranks3to20", "cos_of_means"],
        out=tmp_path,
        convention=Convention(match_tokens=12),
    )
    stored = {(r.example, r.point, r.input): r.metrics for r in read_records(tmp_path)}
    assert stored == {(r.example, r.point, r.input): dict(r.metrics) for r in result.records}
    reasons = result.to_dict()["metrics"]["alpha_req_ols_ranks3to20"][-1]["no_value"]
    assert sum(reasons.values()) == 3 and "singular values" in next(iter(reasons))


@pytest.mark.parametrize("what", ["no column", "infinite", "neither", "both", "another", "text", "order"])
def test_a_part_whose_metrics_are_not_those_of_the_run_is_damaged(what: str, tmp_path: Path) -> None:
    align(LLAVA.adapter, examples()[:2], metrics=["stable_rank", "cos_of_means"], out=tmp_path)
    rules = Rules(tmp_path, read_settings(tmp_path))
    table = read_part(part_files(tmp_path)[0], rules)
    column, place = "metric:stable_rank", table.column_names.index("metric:stable_rank")
    numbers, said = table[column].to_pylist(), table[NO_VALUE].to_pylist()
    if what == "no column":
        table = table.drop_columns([column])
    elif what == "order":
        table = table.select([*table.column_names[:-2], NO_VALUE, column])
    elif what in ("infinite", "neither"):
        numbers[3] = math.inf if what == "infinite" else None
        table = table.set_column(place, column, pa.array(numbers, pa.float64()))
    else:
        said[3] = {"both": json.dumps({column: "none"}), "another": json.dumps({"metric:x": "none"}), "text": "{"}[
            what
        ]
        table = table.set_column(len(table.column_names) - 1, NO_VALUE, pa.array(said, pa.string()))
    part = tmp_path / "000000.parquet"  # without a digest, as of an earlier version
    pq.write_table(table, part)
    with pytest.raises(DamagedPart):
        read_part(part, rules)


def test_a_run_without_metrics_has_no_column_of_them_and_states_nothing(tmp_path: Path) -> None:
    result = align(LLAVA.adapter, examples()[:1], out=tmp_path)
    settings = read_settings(tmp_path)
    assert "metrics" not in settings["convention"] and "metrics" not in result.to_dict()
    table = read_part(part_files(tmp_path)[0], Rules(tmp_path, settings))
    assert not [name for name in table.column_names if name.startswith(("metric:", "matched:", "no_value"))]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_one_pass_cannot_give_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}.* see mmerank"):
        asked_for([name], pictures=True)


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean twonn_mle"):
        asked_for(["twonn_mlee"], pictures=True)
    with pytest.raises(TypeError, match="expected a list"):
        asked_for("twonn_mle", pictures=True)
    with pytest.raises(ValueError, match="cannot be a name"):
        Convention(metrics=("a/b",))
    assert asked_for(["all"], pictures=False) == asked_for(["spectral", "geometric"], pictures=False)
    assert TextConvention(metrics=("b", "a", "b")).metrics == ("a", "b")


PAIRED = asked_for(["paired"], pictures=True)


@pytest.fixture(scope="module")
def pairs() -> Any:
    generator = np.random.default_rng(0)
    given = []
    for i in range(14):
        example = examples()[i % 3]
        picture = Image.fromarray(generator.integers(256, size=(56, 56, 3), dtype=np.uint8))
        given.append(replace(example, id=str(i), image=picture, response=f"{example.response} {i * i}"))
    return align(LLAVA.adapter, given, metrics=PAIRED)


def limits(metric: Entry, value: float, reach: float) -> tuple[float, float]:
    """On Fisher's scale between two bounds that are numbers, cut off at one, and as they are with none."""
    least, most = (float(of) if of and of != "ln n" else None for of in (metric.low, metric.high))
    if least is not None and most is not None and least < value < most:
        middle, half = (least + most) / 2, (most - least) / 2
        r = (value - middle) / half
        z, apart = math.atanh(r), reach / half / (1 - r * r)
        return middle + half * math.tanh(z - apart), middle + half * math.tanh(z + apart)
    low = value - reach if least is None else max(least, value - reach)
    return low, value + reach if most is None else min(most, value + reach)


@pytest.mark.parametrize("name", PAIRED)
def test_statistics_of_pairs_are_of_the_mean_states_of_the_records(name: str, pairs: Any) -> None:
    states = {
        (point, kind): np.stack([r.mean_state for r in pairs.records if (r.point, r.input) == (point, kind)]).astype(
            float
        )
        for point, kind in [("vision", "image"), ("connector", "image"), ("llm", "image"), ("llm", "text")]
    }
    found = {(of["point"], of["input"]): of for of in pairs.metrics[name]}
    text = states["llm", "text"]
    for (point, kind), of in found.items():
        if name == "knn_overlap_connector_10":
            arrays = [states["vision", "image"], states["connector", "image"]]
        elif METRICS[name].takes == ("y",):
            arrays = [states[point, kind]]
        else:
            arrays = [states[point, "image"], text]
        if of["value"] is None:
            assert "one space" in next(iter(of["no_value"])) and point == "vision"
            continue
        assert of["value"] == pytest.approx(METRICS[name].function(*arrays), rel=1e-9)
        left = np.array([METRICS[name].function(*(np.delete(a, i, axis=0) for a in arrays)) for i in range(14)])
        error = math.sqrt(13 / 14 * ((left - left.mean()) ** 2).sum())
        if np.ptp(left) == 0:  # leaving out says nothing of it
            assert of["interval"] is None
            continue
        reach = 2.1603686565 * error  # t of 13 degrees
        assert of["interval"] == pytest.approx(limits(METRICS[name], of["value"], reach), rel=1e-6, abs=1e-12)
        assert ("null" in of) == (METRICS[name].better == "higher" and len(arrays) == 2)
    assert found


def test_companions_and_metrics_by_name_are_one_number(pairs: Any) -> None:
    companions = replace(pairs, convention=replace(pairs.convention, companions=True)).companions
    for of in pairs.metrics["cka_linear_biased"]:
        assert companions["cka"][of["point"]] == pytest.approx(of["null"])
    text = str(pairs)
    assert "shuffled pairs" in text


def test_pair_statistics_stand_in_a_folder_and_its_report(tmp_path: Path) -> None:
    names = ["cka_linear_biased", "rsa_pearson_cosine"]
    result = align(LLAVA.adapter, examples(), metrics=names, out=tmp_path / "run")
    stored = {(r.example, r.point, r.input): r for r in read_records(tmp_path / "run")}
    assert all(r.mean_state is not None for r in stored.values())
    table = estimates(tmp_path / "run")
    value = table.loc[table["quantity"] == "rsa_pearson_cosine/llm/pair", "value"].iloc[0]
    assert value == pytest.approx(result.metrics["rsa_pearson_cosine"][2]["value"])  # type: ignore[index]
    report([tmp_path / "run"], tmp_path / "report", formats=["markdown", "csv"])
    assert "| RSA |" in (tmp_path / "report" / "tables.md").read_text()
    numbers = pd.read_csv(tmp_path / "report" / "numbers.csv").set_index("quantity")
    for name in names:
        for of in result.metrics[name]:  # type: ignore[index]
            row = numbers.loc[f"{name}/{of['point']}/{of['input']}"]
            assert row["null_mean"] == pytest.approx(of["null"]["null_mean"], nan_ok=True)
            assert row["null_p"] == pytest.approx(of["null"]["p"])
    assert numbers["null_p"].isna()["erank5"]


def test_a_number_stands_once_in_a_table_where_it_is_asked_for_by_name(tmp_path: Path) -> None:
    align(LLAVA.adapter, examples(), metrics=["cka_linear_biased", "participation_ratio"], out=tmp_path)
    found = {str(name).partition("/")[0] for name in estimates(tmp_path)["quantity"]}
    assert {"cka_linear_biased", "participation_ratio"} <= found
    assert not {"cka_llm", "participation_ratio5"} & found


def test_reasons_name_what_was_measured_and_no_array_of_a_formula() -> None:
    result = align(LLAVA.adapter, examples(), metrics=["mutual_knn_10", "knn_overlap_connector_10", "twonn_mle"])
    found = {name: str(of[0].get("no_value")) for name, of in (result.metrics or {}).items()}
    assert "image and text states, a row for each example: 10 neighbours" in found["mutual_knn_10"]
    assert "states before and behind the connector, a row for each example" in found["knn_overlap_connector_10"]
    assert str(fields(np.ones((5, 8)))[f"{VALUE}twonn_mle"]).startswith("the rows: rows 0 and 1 are equal")


def mean_norm(h: NDArray[Any]) -> float:
    return float(np.linalg.norm(h, axis=1).mean())


class Offset:
    """Of the image rows' mean from the text rows'."""

    label = "Offset of means"
    better = "lower"
    follows_rows = False

    def __call__(self, image: NDArray[Any], text: NDArray[Any], power: float = 2) -> float:
        return float((np.abs(image.mean(axis=0) - text.mean(axis=0)) ** power).sum())


def test_a_metric_of_ones_own_is_like_any_other(tmp_path: Path) -> None:
    with hooked() as seen:
        result = align(LLAVA.adapter, examples()[:1], metrics=[mean_norm, ("offset", Offset)], out=tmp_path / "run")
    norms = {(of["point"], of["input"]): of["value"] for of in result.metrics["mean_norm"]}  # type: ignore[index]
    assert norms["vision", "image"] == pytest.approx(np.linalg.norm(seen["vision"][0], axis=1).mean())
    assert [(of["point"], of["input"]) for of in result.metrics["offset"]] == [("llm", "pair")]  # type: ignore[index]
    assert "Offset of means" in str(result)
    assert read_settings(tmp_path / "run")["own_metrics"].keys() == {"mean_norm", "offset"}
    # A report in another process, and another run of that label or of none, say what this one says.
    code = (
        "import sys; from mmerank.report.write import report; from mmerank import Alignment\n"
        f"report([{str(tmp_path / 'run')!r}], {str(tmp_path / 'out')!r}, formats=['markdown', 'html'])\n"
        f"print(Alignment.from_run({str(tmp_path / 'run')!r}).to_markdown(columns=['offset']))"
    )
    done = forked.run(["-c", code], timeout=LONGEST_S)
    assert done.returncode == 0, done.stderr
    pages = [done.stdout, *((tmp_path / "out" / name).read_text() for name in ("tables.md", "report.html"))]
    assert all("Offset of means" in page for page in pages)
    with pytest.raises(RunFolderError, match=r"own_metrics\.mean_norm"):
        align(
            LLAVA.adapter,
            examples()[:1],
            metrics=[("mean_norm", lambda h: 0.0), ("offset", Offset)],
            out=tmp_path / "run",
        )


def test_a_run_is_read_where_its_own_metric_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    align(LLAVA.adapter, examples(), metrics=[("of_yesterday", mean_norm)], out=tmp_path / "run")
    monkeypatch.setattr("mmerank.formulas.asked._own", {})
    monkeypatch.setattr("mmerank.formulas.asked._remembered", {})
    report([tmp_path / "run"], tmp_path / "report", formats=["markdown"])
    assert "of\\_yesterday" in (tmp_path / "report" / "tables.md").read_text()


def test_a_metric_of_a_package_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("norm_of_package", "tests.test_metrics:mean_norm", "mmerank.metrics")
    broken = EntryPoint("broken", "tests.test_metrics:no_such", "mmerank.metrics")
    known = EntryPoints([point, broken])
    monkeypatch.setattr("mmerank.formulas.asked.entry_points", lambda **by: known.select(**by))
    assert asked_for(["norm_of_package"], pictures=False) == ("norm_of_package",)
    with pytest.raises(UsageError, match=r"broken.*cannot be loaded"):
        asked_for(["broken"], pictures=True)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("stable_rank", mean_norm), "give yours another"),
        (("a b", mean_norm), "cannot be a name"),
        (lambda h: 0.0, "cannot be a name"),
        (
            ("two", lambda a, b: 0.0),
            r"expected a function of \(h\), \(image, text\), \(x, y\), .*, got one of \(a, b\)",
        ),
        (("class", type("Made", (), {"__init__": lambda self, needed: None})), "without arguments"),
        (("class", type("Silent", (), {})), "cannot be called"),
        (("five", 5), "a function or a class"),
    ],
)
def test_what_cannot_be_a_metric_is_refused_before_anything_is_measured(given: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        asked_for([given], pictures=True)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda h: 1 / 0, "failed: ZeroDivisionError"),
        (lambda h: "many", "expected a number"),
        (lambda h: None, "expected a number"),
    ],
)
def test_a_metric_that_fails_stops_the_run_by_its_name(function: Any, why: str) -> None:
    with pytest.raises(UsageError, match=f"'failing'.*{why}"):
        align(LLAVA.adapter, examples()[:1], metrics=[("failing", function)])


def test_a_metric_may_have_no_number_of_an_example() -> None:
    def even(h: NDArray[Any]) -> float:
        if len(h) % 2:
            raise NoValue("an odd number of rows")
        return math.nan if len(h) == 36 else 1.0

    result = align(LLAVA.adapter, examples()[:1], metrics=[even])
    found = {(of["point"], of["input"]): of for of in result.to_dict()["metrics"]["even"]}
    assert found["llm", "image"]["value"] is None and found["llm", "image"]["no_value"] == {
        "an odd number of rows": 1
    }
    assert found["vision", "image"]["no_value"] == {"it gave nan": 1}


def test_what_has_no_number_stands_on_no_example(tmp_path: Path) -> None:
    align(
        LLAVA.adapter, examples(), metrics=["cycle_knn_10"], out=tmp_path / "run"
    )  # of three, where it needs eleven
    found = estimates(tmp_path / "run")
    none = found[found["value"].isna()]
    assert len(none) and (none["n"] == 0).all() and (found.loc[found["value"].notna(), "n"] == 3).all()
