"""Models x data sets at a glance, and one model that was loaded in two ways."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mmerank
from mmerank.analysis.finished import Finished, read_runs
from mmerank.analysis.scores.read import read_scores
from mmerank.errors import DataError
from mmerank.report.agreement import agreement, scores_of
from mmerank.report.cautions import cautions
from mmerank.report.names import model_names
from mmerank.report.numbers import all_numbers
from mmerank.report.overview import overviews, ratios_of_many
from mmerank.report.readings import readings
from mmerank.report.score_tables import beside_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two families, one of them also in bfloat16, on two data sets, as a study makes them: a folder each."""
    folder = tmp_path_factory.mktemp("study")
    pairs = [of for of in mmerank.load_data("demo") if isinstance(of, mmerank.Example)]
    sets = {"demo": pairs[:4], "others": pairs[4:8]}
    for i, (name, dtype) in enumerate((("demo-llava", None), ("demo-minigpt-v2", None), ("demo-llava", "bfloat16"))):
        model = mmerank.load(name, dtype=dtype)
        for data, examples in sets.items():
            rows = [{"image": of.image, "text": of.response, "id": of.id} for of in examples]
            named = mmerank.load_data(rows, image="image", response="text", instruction="", name=data)
            mmerank.align(model, named, convention=mmerank.Convention(match_tokens=4), out=folder / f"{i}-{data}")
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[Finished]:
    return read_runs(sorted(folder.iterdir()))


@pytest.fixture(scope="module")
def numbers(runs: list[Finished]) -> pd.DataFrame:
    return all_numbers(runs)


def test_models_and_data_sets(runs: list[Finished], numbers: pd.DataFrame) -> None:
    """Matched numbers with ranks among those of a data set, as numpy ranks the estimates; families stand together."""
    table = overviews(runs, numbers)["align"]
    assert table.title == "Image-Text Alignment of models and data sets, on 4 rows each"
    assert table.heads == ("demo", "others", "mean rank") and table.names == ("family", "model")
    assert {names for names, _ in table.rows} == {
        ("llava", "demo-llava (float32)"),
        ("llava", "demo-llava (bfloat16)"),
        ("minigpt-v2", "demo-minigpt-v2"),
    }
    families = [names[0] for names, _ in table.rows]
    assert families in (["llava", "llava", "minigpt-v2"], ["minigpt-v2", "llava", "llava"])
    called = model_names(runs)
    for i, data in enumerate(table.heads[:2]):
        known = {}
        for run in (of for of in runs if of.data == data):
            (model,) = run.frames
            of = run.estimates[run.estimates["quantity"] == "matched_image_text_alignment"]
            known[called[run.name, model]] = float(of["value"].iloc[0])
        ranks = dict(zip(known, 1 + np.argsort(np.argsort([-value for value in known.values()])), strict=True))
        for (_, model), cells in table.rows:
            value, rank = re.fullmatch(r"([\d.]+)†? \((\d)\)", cells[i]).groups()  # type: ignore[union-attr]
            assert (value, int(rank)) == (f"{known[model]:.4f}", ranks[model])
    for _, cells in table.rows:
        assert float(cells[2]) == np.mean([int(of.rpartition("(")[2][0]) for of in cells[:2]])


def test_there_is_none_of_one_model_and_no_ranks_on_unlike_rows(folder: Path, runs: list[Finished]) -> None:
    assert not overviews(runs[:2], all_numbers(runs[:2]))
    unmatched = all_numbers(runs)
    unmatched = unmatched[unmatched["rows"] == "all"].assign(mark="")
    table = overviews(runs, unmatched)["align"]
    assert table.heads == ("demo", "others") and table.legend.startswith("no ranks: the models were not measured")
    assert all(re.fullmatch(r"[\d.]+", cell) for _, cells in table.rows for cell in cells)
    assert ratios_of_many(runs, unmatched) == []  # two models, one of them twice


def test_what_is_said_of_many_is_said_once(runs: list[Finished], numbers: pd.DataFrame) -> None:
    few = [line for line in cautions(runs) if "is few" in line]
    assert (
        len(few) == 1 and "n = 4 examples of" in few[0] and few[0].startswith("0-demo, 0-others, 1-demo and 3 more")
    )
    assert not any(f"({run.name})" in line for run in runs for line in (*cautions(runs), *readings(runs, numbers)))


def test_scores_of_one_model_in_two_ways(runs: list[Finished], numbers: pd.DataFrame, tmp_path: Path) -> None:
    """As a study has them that scores a model as it is and quantised."""
    file = tmp_path / "scores.csv"
    head = "model,benchmark,value,unit,loaded\n"
    file.write_text(
        f"{head}demo-llava,POPE,0.9,fraction,float32\ndemo-llava,POPE,0.7,fraction,bfloat16\n"
        "demo-minigpt-v2,POPE,0.8,fraction,float16\n"
    )
    scores = read_scores([file])
    found = {key: [of.value for of in some] for key, some in scores_of(runs, scores).items()}
    assert found["0-demo", "demo-llava"] == [0.9] and found["2-demo", "demo-llava"] == [0.7]
    assert found["1-demo", "demo-minigpt-v2"] == [0.8]  # the only one, however it was loaded
    beside = beside_table(agreement(runs, numbers, scores))
    told = {names: cells[-1].value for names, _, cells in beside.rows}
    assert told == {
        (data, model): value
        for data in ("demo", "others")
        for model, value in {
            "demo-llava (float32)": "0.900",
            "demo-llava (bfloat16)": "0.700",
            "demo-minigpt-v2": "0.800",
        }.items()
    }
    assert [names[0] for names, _, _ in beside.rows] == ["demo"] * 3 + ["others"] * 3
    file.write_text(f"{head}demo-llava,POPE,0.9,,float32\ndemo-llava,POPE,0.7,,float32\n")
    with pytest.raises(DataError, match="stands already"):
        read_scores([file])
