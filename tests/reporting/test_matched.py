"""Numbers on equally many rows in a report: beside the others, and the only ones that are marked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmerank import Convention, align, compare, load_data, perturb
from mmerank.analysis.estimates import estimates, run_records
from mmerank.analysis.finished import read_runs
from mmerank.jobs.align import open_align_run
from mmerank.report.cautions import cautions
from mmerank.report.figures.numbers import drawings
from mmerank.report.figures.style import styled
from mmerank.report.numbers import all_numbers
from mmerank.report.tables import printed_tables
from mmerank.report.write import FORMATS, report
from tests.adapters.cases import LLAVA, MINIGPT_V2
from tests.test_cli import run

RATIOS = ("image_reduction_ratio", "image_text_alignment")
SHOWN = {"image_reduction_ratio": "Image Reduction Ratio", "image_text_alignment": "Image-Text Alignment"}


@pytest.fixture(scope="module")
def data(golden_pairs: Path, golden: Path) -> str:
    return f"llava:{golden_pairs}?images={golden}/images"


def both_models(folder: Path, data: str, convention: Convention) -> Path:
    """Two models whose pictures have different numbers of rows, in one run."""
    entries = load_data(data)
    opened = open_align_run(folder, entries, convention, max_pixels=10**8)
    results = [
        align(case.adapter, entries, convention=convention, max_pixels=10**8, out=opened)
        for case in (LLAVA, MINIGPT_V2)
    ]
    opened.write_summary({"results": [result.to_dict() for result in results]})
    return folder


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory, data: str) -> Path:
    return both_models(tmp_path_factory.mktemp("runs") / "m", data, Convention(match_tokens=8))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, data: str) -> Path:
    return both_models(tmp_path_factory.mktemp("runs") / "p", data, Convention())


def test_they_are_those_of_the_summary(matched: Path) -> None:
    table = estimates(matched).set_index(["model", "quantity"])
    for result in json.loads((matched / "summary.json").read_text())["results"]:
        for name, limits in result["matched"]["intervals"].items():
            row: Any = table.loc[(result["model"], f"matched_{name}")]
            assert row["value"] == pytest.approx(result["matched"][name], rel=1e-12)
            assert (row["low"], row["high"]) == pytest.approx(tuple(limits), rel=1e-12)
            assert row["n"] == result["matched"]["n"]
        assert set(result["matched"]["intervals"]) == {*(f"erank{i}" for i in range(1, 6)), *RATIOS}


def test_marks_are_of_matched_numbers(matched: Path, plain: Path) -> None:
    read = read_runs([matched])
    table = all_numbers(read)
    marked = table[table["mark"] != ""]
    # Of the two ratios one alone has a better direction.
    assert set(marked["quantity"]) == {f"matched_{RATIOS[1]}"} and set(marked["rows"]) == {"8"}
    frames = list(run_records(matched).values())
    for name in RATIOS[1:]:
        rows: Any = marked[marked["quantity"] == f"matched_{name}"].set_index("mark")
        assert rows.loc["best", "value"] == rows["value"].max()
        (other,) = rows.index.difference(["best"])
        test = compare(*frames, quantities=[name], matched=True)[name]
        assert rows.loc[other, "q"] >= test.p and other == ("other" if rows.loc[other, "q"] < 0.05 else "tied")
    # Without them nothing is marked, since the models have different numbers of rows.
    assert not all_numbers(read_runs([plain]))["mark"].any()
    mixed = all_numbers(read_runs([plain, matched]))
    assert set(mixed.loc[mixed["mark"] != "", "run"]) == {"m"}


def test_every_table_has_them(matched: Path, tmp_path: Path) -> None:
    report([matched], tmp_path)
    page, latex = ((tmp_path / name).read_text() for name in ("report.html", "tables.tex"))
    first = (tmp_path / "tables.md").read_text().split("\n### ")[0]
    lines = [line for line in first.splitlines() if line.startswith("| llava:")]
    assert [line.split(" | ")[2] for line in lines] == ["all", "8 each"] * 2
    results = json.loads((matched / "summary.json").read_text())["results"]
    for result, line in zip(results, lines[1::2], strict=True):
        for i in range(1, 6):
            number = f"{result['matched'][f'erank{i}']:.2f}"
            assert all(number in text for text in (line, latex, page))
        for name in RATIOS:
            number = f"{abs(result['matched'][name]):.4f}"
            assert all(number in text for text in (line, latex, page))
    assert "**" not in "".join(lines[::2]) and sum(line.count("**") for line in lines[1::2]) == 2
    numbers = pd.read_csv(tmp_path / "numbers.csv")
    assert list(numbers.loc[numbers["quantity"] == "matched_erank3", "rows"].astype(str)) == ["8", "8"]
    assert (tmp_path / "figures" / "eranks-matched.png").is_file()


def test_the_caution_stays(matched: Path, plain: Path) -> None:
    names = [Path(case.adapter.name).name for case in (LLAVA, MINIGPT_V2)]
    for folder, words in ((matched, "on equally many rows"), (plain, "--match-tokens")):
        (line,) = [line for line in cautions(read_runs([folder])) if "mostly follows" in line]
        assert words in line and all(name in line for name in names)
        counts = [
            np.mean([r.n for r in read_runs([folder])[0].of(case.adapter.name) if r.point == "vision"])
            for case in (LLAVA, MINIGPT_V2)
        ]
        assert counts[0] != counts[1] and all(f"{count:.6g}" in line for count in counts)


def test_transforms_on_equally_many_rows(tmp_path: Path, data: str) -> None:
    result = perturb(
        LLAVA.adapter,
        load_data(data),
        ["rotate:90"],
        controls=["mismatch"],
        control_draws=2,
        convention=Convention(match_tokens=8, match_repeats=2, rows=True, companions=True),
        out=tmp_path / "run",
    )
    (read,) = read_runs([tmp_path / "run"])
    table = all_numbers([read]).set_index(["transform", "quantity"])
    for found in result.tests_matched["rotate:90"].differences:
        row: Any = table.loc[("rotate:90", f"matched_{found.quantity}")]
        assert (row["change"], row["change_low"]) == pytest.approx((found.difference, found.low), abs=1e-12)
        assert row["change_q"] == pytest.approx(found.q, nan_ok=True)
    printed, *_ = printed_tables([read], table.reset_index())
    assert [names[2:] for names, _, _ in printed.rows] == [
        ("base", "all"), ("base", "8 each"), ("rotate:90", "all"), ("rotate:90", "8 each")
    ]  # fmt: skip


def test_examples_without_as_many_rows(tmp_path: Path, data: str) -> None:
    """One text has four tokens; with more rows than any text has there are no such numbers, and that is said."""
    entries = load_data(data)
    for k in (8, 36):
        align(LLAVA.adapter, entries, convention=Convention(match_tokens=k), out=tmp_path / f"{k}")
        (read,) = read_runs([tmp_path / f"{k}"])
        summary = json.loads((tmp_path / f"{k}" / "summary.json").read_text())["results"][0]["matched"]
        left, n = summary["left_out"], summary["n"]
        lines = [line for line in cautions([read]) if f"fewer than {k} rows somewhere" in line]
        assert len(lines) == (left > 0) and all(f"{left} of {left + n} examples" in line for line in lines)
        printed, *_ = printed_tables([read], all_numbers([read]))
        assert printed.rows[1][1] == n and read.n(LLAVA.adapter.name) == left + n
        report([tmp_path / f"{k}"], tmp_path / f"out-{k}", formats=FORMATS)  # with each figure, but no files of them


def test_layers_take_no_example_away(tmp_path: Path, data: str) -> None:
    entries = load_data(data)
    align(LLAVA.adapter, entries, convention=Convention(match_tokens=3), layers="all", out=tmp_path / "run")
    (read,) = read_runs([tmp_path / "run"])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["results"][0]["matched"]["left_out"] == 0
    assert not [line for line in cautions([read]) if "rows somewhere" in line]


def test_the_terminal_compares_them(data: str, tmp_path: Path) -> None:
    models = [case.adapter.name for case in (LLAVA, MINIGPT_V2)]
    done = run("align", *models, "--data", data, "--match-tokens", "8", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert (
        "equally many rows, n = " in " ".join(done.stdout.split()) and "caution: eRank mostly follows" in done.stdout
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (all_rows,), (found,) = summary["comparisons"], summary["comparisons_matched"]
    a, b = (result["matched"] for result in summary["results"])
    assert found["matched"] and not all_rows["matched"] and found["n"] == a["n"]
    for difference in found["differences"]:
        name = difference["quantity"]
        assert difference["difference"] == pytest.approx(a[name] - b[name], abs=1e-12)


def test_what_is_not_on_the_page_is_named(tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tiny model has no row that decides a tenth.
    monkeypatch.setattr("mmerank.analysis.metrics.rows.SINGLE_ROW", 1e-6)
    asked = Convention(rows=True, companions=True)
    align(LLAVA.adapter, load_data(data), convention=asked, out=tmp_path / "run")
    (read,) = read_runs([tmp_path / "run"])
    rows = json.loads((tmp_path / "run" / "summary.json").read_text())["results"][0]["rows"]
    decided = [line for line in cautions([read]) if "without one row" in line]
    # What the terminal warns of.
    changes = {
        label: max(abs(of[f"change_without_{name}"] or 0) for name in ("strongest", "decisive"))
        for label, of in rows.items()
    }
    assert len(decided) == sum(change > 1e-6 for change in changes.values()) > 0
    report([tmp_path / "run"], formats=["html"])
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    (told,) = re.findall(r"Measured, and not on this page but in summary.json: ([^<]*)", page)
    assert "(companions)" in told and "CLIPScore" not in told
    for title in (
        "eRank by rows",
        "Linear CKA of image and text",
        "Mutual k-NN of image and text",
        "Participation ratio",
    ):
        assert f"<summary>{title}</summary>" in page
    (tmp_path / "run" / "summary.json").unlink()
    report([tmp_path / "run"], formats=["html"])
    assert "not on this page: permutation nulls" in (tmp_path / "run" / "report" / "report.html").read_text()


def what_is_there(runs: list[Path]) -> Iterator[Any]:
    """Figures with their titles and lines, tables with their rows, cautions and numbers, whatever their order."""
    read = read_runs(runs)
    numbers = all_numbers(read)
    named = list(drawings(read, numbers))
    yield sorted(drawing.name for drawing in named)
    with styled():
        drawn = [drawing.figure() for drawing in named]
    titles = [axes.get_title() for figure in drawn for axes in figure.axes]
    yield sorted(titles)
    yield sorted(len(axes.lines) + len(axes.containers) for figure in drawn for axes in figure.axes)
    legends = [text.get_text() for figure in drawn for legend in figure.legends for text in legend.get_texts()]
    yield sorted(legends)
    for table in printed_tables(read, numbers):
        yield table.title, table.heads, table.names, table.legend
        yield sorted(table.rows, key=str)
    yield sorted(sorted(line) for line in cautions(read))
    columns = [name for name in numbers.columns]
    yield sorted(map(str, numbers[columns].itertuples(index=False, name=None)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, data: str, matched: Path, plain: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("order")
    entries = load_data(data)
    align(LLAVA.adapter, entries, convention=Convention(token_curve=(4, 8)), layers="all", out=folder / "curve")
    align(LLAVA.adapter, entries, out=folder / "again")
    perturb(
        LLAVA.adapter, entries, ["blur:1,2", "grey"], controls=["mismatch"], control_draws=2, out=folder / "perturb"
    )
    return {**{path.name: path for path in folder.iterdir()}, "matched": matched, "plain": plain}


@pytest.mark.parametrize("pair", [*pairwise(("curve", "again", "perturb", "curve", "matched", "plain", "perturb"))])
def test_order_of_folders_changes_nothing_that_is_there(folders: dict[str, Path], pair: tuple[str, str]) -> None:
    """The base numbers of these are equal to the last digit, so that one could take another's place."""
    first, second = (folders[name] for name in pair)
    there = list(what_is_there([first, second]))
    assert there == list(what_is_there([second, first]))
    together = {name.rpartition("-")[0] or name for name in there[0]}
    assert {name.rpartition("-")[0] or name for name in (*drawn_of(first), *drawn_of(second))} <= together


@cache
def drawn_of(run: Path) -> tuple[str, ...]:
    """Figures of a run that is alone."""
    read = read_runs([run])
    return tuple(drawing.name for drawing in drawings(read, all_numbers(read)))
