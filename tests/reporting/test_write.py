"""Reports: their numbers are those of the records, nothing of the data runs or is requested, torch stays away."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from scipy.stats import false_discovery_control

from mmerank import Example, TextConvention, align, compare, diff, estimates, load_data, load_text, perturb
from mmerank.analysis.estimates import run_records
from mmerank.analysis.finished import read_runs
from mmerank.analysis.perturbation import Null
from mmerank.analysis.statistics.null import null_test
from mmerank.errors import RunFolderError, UsageError
from mmerank.jobs.diff import open_diff_run
from mmerank.report.cautions import cautions
from mmerank.report.examples import by_example
from mmerank.report.figures.numbers import drawings
from mmerank.report.figures.style import LOOKS, look, styled
from mmerank.report.names import data_names, short_data
from mmerank.report.numbers import all_numbers
from mmerank.report.paper import tables as paper
from mmerank.report.paper.printed import printed_alignment, printed_diff
from mmerank.report.printed import Cell, Printed
from mmerank.report.render.formats import csv, latex, markdown
from mmerank.report.render.html import _left_out
from mmerank.report.tables import null_table, printed_tables
from mmerank.report.write import report
from mmerank.runs.parts import read_records
from mmerank.runs.record import records_of
from tests.adapters.cases import LLAVA
from tests.adapters.text_cases import LLAMA, OPT
from tests.test_cli import failure, run
from tests.test_diff_erank import other_weights, texts

EVIL = "</script><script>alert('id')</script>\"'&<img src=x onerror=alert(1)>|$_{}%"
FILES = {"numbers.csv", "examples.csv", "tables.md", "tables.tex", "report.html"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with an id and texts that would run in a careless page, and a picture that is missing."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    records: list[dict[str, Any]] = []
    for i, name in enumerate([EVIL, "two", "three", "four"]):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        turns = [
            {"from": "human", "value": f"<image>\nWhat? {EVIL}"},
            {"from": "gpt", "value": f"{EVIL} {'word ' * (i + 3)}"},
        ]
        records.append({"id": name, "image": f"{i}.png", "conversations": turns})
    records.append({**records[0], "id": "<b>gone</b>", "image": "missing.png"})
    (folder / "evil.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    data = load_data(f"llava:{pairs}/evil.json?images={pairs}")
    align(LLAVA.adapter, data, out=folder / "align")
    perturb(LLAVA.adapter, data, ["rotate:90"], controls=["mismatch"], control_draws=3, out=folder / "perturb")
    opened = open_diff_run(folder / "diff", texts(5), TextConvention(), layers="all")
    results = [diff(case.adapter, texts(5), layers="all", out=opened) for case in (OPT, LLAMA)]
    opened.write_summary({"results": [result.to_dict() for result in results]})
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def written(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    report(list(runs.values()), out, with_data=True)
    return out


class Page(HTMLParser):
    """Every tag with its attributes, and the text of scripts."""

    def __init__(self, content: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page((written / "report.html").read_text())


def test_nothing_of_the_data_becomes_markup(page: Page) -> None:
    assert len(page.scripts) == 2  # the data, and the page's own
    names = {name for _, attributes in page.tags for name in attributes}
    assert not {name for name in names if name.startswith("on")}
    assert not [
        attributes
        for tag, attributes in page.tags
        if tag == "img" and not attributes["src"].startswith("data:image/jpeg")
    ]
    # It is there as text, in the cards and in the data.
    assert EVIL in page.text and "<b>gone</b>" in page.text
    (found,) = [part for part in json.loads(page.scripts[0]) if part["run"] == "align"]
    assert EVIL in found["ids"] and any(text.startswith(f"What? {EVIL}") for text in found["texts"])


def test_the_page_asks_for_nothing(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:")), (tag, name, value)
        assert tag not in ("iframe", "object", "embed", "base", "form")
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "url(" not in re.sub(
        r"url\(#\w+\)", "", (Path(__file__).parents[2] / "mmerank/report/page/report.css").read_text()
    )


def test_the_page_says_what_it_stands_on(page: Page, runs: dict[str, Path]) -> None:
    stated = json.loads((runs["align"] / "run.json").read_text())
    for words in ("n = 4", "1 skipped", *stated["convention"], *stated["versions"].values(), "2401.17139", "mmerank"):
        assert words in page.text
    assert "not told from" in page.text or "mismatch" in page.text


def test_tables_hold_the_numbers_of_the_records(written: Path, runs: dict[str, Path], page: Page) -> None:
    table = pd.read_csv(
        written / "numbers.csv", keep_default_na=False, na_values={"value": [""], "low": [""], "high": [""]}
    )
    for name, path in runs.items():
        expected = estimates(path)
        found = table[table["run"] == name]
        assert list(found["quantity"]) == list(expected["quantity"]) and list(found["n"]) == list(expected["n"])
        for column in ("value", "low", "high"):
            np.testing.assert_allclose(found[column].astype(float), expected[column], rtol=1e-12)
    summary = json.loads((runs["align"] / "summary.json").read_text())["results"][0]
    for text in ((written / "tables.md").read_text(), (written / "tables.tex").read_text(), page.text):
        assert f"{summary['erank3']:.2f}" in text and f"{summary['image_text_alignment']:.4f}" in text


def test_examples_by_themselves(written: Path, runs: dict[str, Path]) -> None:
    """By the definition: exp of the record's entropy, ratios of the five, entropy moved by the transform."""
    (run_read,) = read_runs([runs["perturb"]])
    table = by_example(run_read).set_index(["id", "transform"])
    entropies = {(r.example, r.transform, r.point, r.input): r.entropy for r in records_of(run_read.table)}

    def entropy(transform: str, where: tuple[str, str]) -> float:
        return entropies[("two", transform, *where)]

    stages = {"erank1": ("vision", "image"), "erank2": ("connector", "image"), "erank3": ("llm", "image"),
              "erank4": ("llm", "text"), "erank5": ("llm", "pair")}  # fmt: skip
    row: Any = table.loc[("two", "rotate:90")]
    for label, where in stages.items():
        assert row[label] == pytest.approx(np.exp(entropy("rotate:90", where)))
    llm = [row["erank3"], row["erank4"], row["erank5"]]
    assert row["image_text_alignment"] == pytest.approx(np.mean(llm) / np.max(llm))
    moved = [abs(entropy("rotate:90", where) - entropy("none", where)) for where in stages.values()]
    assert row["mean_entropy_change"] == pytest.approx(np.mean(moved))
    assert len(table) == 8 and set(table.index.get_level_values("transform")) == {
        "none",
        "rotate:90",
    }  # no null draws
    everything = pd.read_csv(written / "examples.csv")
    assert len(everything) == 4 + 8 + 2 * 5


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models of one tokenizer on the same texts."""
    folder = tmp_path_factory.mktemp("sweep")
    opened = open_diff_run(folder / "sweep", texts(5), TextConvention(), layers="")
    for name, factor in (("a", 1.0), ("b", 1.1), ("c", 1.3)):
        diff(load_text(other_weights(OPT, folder / name, factor), device="cpu"), texts(5), out=opened)
    return folder / "sweep"


def test_the_best_and_what_is_not_told_from_it(sweep: Path, runs: dict[str, Path]) -> None:
    table = all_numbers(read_runs([sweep]))
    rows: Any = table[(table["quantity"] == "diff_erank") & (table["point"] == "final")].set_index("model")
    best, other = str(rows["value"].idxmax()), str(rows["value"].idxmin())
    frames = run_records(sweep)
    # Over each two models and all quantities, as a command has it.
    tests = [
        (pair, found)
        for pair in combinations(frames, 2)
        for comparison in [compare(*(frames[name] for name in pair))]
        for found in comparison.differences
        if found.quantity not in comparison.fixed
    ]
    controlled = false_discovery_control([of.p for _, of in tests])
    q = {(pair, of.quantity): value for (pair, of), value in zip(tests, controlled, strict=True)}
    (pair,) = (pair for pair in combinations(frames, 2) if {*pair} == {best, other})
    assert rows.loc[best, "mark"] == "best" and rows.loc[other, "q"] == pytest.approx(
        q[pair, "diff_erank"], rel=1e-12
    )
    assert rows.loc[other, "tests"] == len(tests)
    assert rows.loc[other, "mark"] == ("tied" if rows.loc[other, "q"] >= 0.05 else "other")
    beside = all_numbers(read_runs([sweep, runs["align"], runs["perturb"]]))
    assert beside.loc[beside["run"] == "sweep", "q"].to_numpy() == pytest.approx(table["q"].to_numpy(), nan_ok=True)
    losses: Any = table[table["quantity"] == "loss_trained"].set_index("model")
    assert losses.loc[str(losses["value"].idxmin()), "mark"] == "best"
    assert not table.loc[table["quantity"] == "erank_trained", "mark"].any()


def test_models_of_other_tokens_have_no_best(runs: dict[str, Path]) -> None:
    read = read_runs([runs["diff"]])
    table = all_numbers(read)
    assert not table["mark"].any() and table["q"].isna().all()
    assert any("none is marked as the best" in line for line in cautions(read))
    printed, *_ = printed_tables(read, table)
    assert "bold" not in printed.legend


def test_the_same_model_is_as_good_as_itself(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["align"], tmp_path / "again")
    table = all_numbers(read_runs([runs["align"], tmp_path / "again"]))
    rows = table[table["quantity"] == "image_text_alignment"]
    # Neither is better, and there is nothing to test.
    assert list(rows["mark"]) == ["best", "best"] and rows["q"].isna().all()
    printed, *_ = printed_tables(read_runs([runs["align"], tmp_path / "again"]), table)
    assert {names[1] for names, _, _ in printed.rows} == {"hf_model (align)", "hf_model (again)"}


def test_what_is_tied_has_a_dagger() -> None:
    row = (("demo", "model"), 5, (Cell("1.00", mark="best"), Cell("0.90", mark="tied")))
    printed = Printed("align", "Image-text alignment", ("a", "b"), (row,))
    assert "0.90†" in markdown(printed) and r"0.90$^\dagger$" in latex(printed) and "bold" in printed.legend


def test_beside_the_paper() -> None:
    llava, data = "llava-hf/llava-1.5-7b-hf", "llava:/data/detail_23k.json?images=train2017"
    assert printed_alignment(llava, {}, data) == paper.TABLE_2["LLaVA-1.5", "detail_23k"]
    assert printed_alignment(llava, {}, data, "rotate:90")["erank1"] == 19.20
    assert not printed_alignment(llava, {}, data, "rotate:180")
    assert not printed_alignment("other", {"adapter": "llava"}, data)
    published = {"adapter": "minigpt-v2", "image_size": 448, "vit_depth": 39}
    assert printed_alignment("x", published, "minigpt:cc_sbu_align")["erank5"] == 93.29
    assert printed_diff("facebook/opt-1.3b", "dolly-15k") == {
        "diff_erank": 76.39, "reduced_loss": 8.322, "diff_erank_mean_of_eranks": 103.78,
    }  # fmt: skip
    assert not printed_diff("facebook/opt-1.3b", "text:notes.txt") and not printed_diff("gpt2", "dolly-15k")


def test_changes_are_those_of_the_summary(runs: dict[str, Path], written: Path) -> None:
    """The table of a perturbation has what `mmerank perturb` printed: changes, intervals, q, and the nulls."""
    summary = json.loads((runs["perturb"] / "summary.json").read_text())
    (tests,) = [transform["tests"] for transform in summary["transforms"]]
    table = pd.read_csv(written / "numbers.csv", keep_default_na=False, na_values={"change": [""], "change_q": [""]})
    rows: Any = table[(table["run"] == "perturb") & (table["transform"] == "rotate:90")].set_index("quantity")
    for found in tests["differences"]:
        row = rows.loc[found["quantity"]]
        assert row["change"] == pytest.approx(found["difference"], abs=1e-12)
        assert float(row["change_low"]) == pytest.approx(found["low"], abs=1e-12)
        if found["quantity"] in tests["fixed"]:
            assert np.isnan(row["change_q"])
        else:
            assert row["change_q"] == pytest.approx(found["q"])
    assert table.loc[table["transform"] == "none", "change"].isna().all()
    (read,) = read_runs([runs["perturb"]])
    printed, *_ = printed_tables([read], all_numbers([read]))
    (_, _, cells) = next(row for row in printed.rows if row[0][2] == "rotate:90")
    by_head = dict(zip(printed.heads, cells, strict=True))
    assert by_head["eRank4"].change == "=" and not by_head["eRank4"].change_q
    assert by_head["eRank1"].change_q == f"{rows.loc['erank1', 'change_q']:.3f}"
    assert printed.shared == ["data llava:evil.json", "model hf_model"] and "change from the base" in printed.legend
    (control,) = summary["controls"]
    against = null_table([read])
    assert against is not None and null_table([*read_runs([runs["align"]])]) is None
    for (_, name, number), (here, *_, draws) in against.rows:
        decimals, quantity = (2, "erank5") if number == "eRank5" else (4, "image_text_alignment")
        assert (name, here, draws) == ("mismatch", f"{control[quantity]['value']:.{decimals}f}", "3")


def test_a_long_table_goes_on_in_another() -> None:
    rows = tuple(
        (("demo", "model", f"blur:{i}"), 5, (Cell("1.00", change="+0.10", change_q="0.5"),)) for i in range(40)
    )
    text = latex(Printed("perturb", "Before and after a change", ("eRank1",), rows))
    tables = text.split(r"\begin{table*}")[1:]
    assert len(tables) == 4 and all("demo & model & blur" in table for table in tables)
    assert text.count("demo") == 4 and text.count("blur:") == 40 and text.count("Continued") == 3
    assert all(len(table.splitlines()) < 62 for table in tables)


def test_runs_that_agree_in_some_numbers(runs: dict[str, Path], tmp_path: Path) -> None:
    """What was measured at another vision point has the same eRank4: both are drawn, each with all five."""
    from mmerank import Convention, load_data

    data = load_data(json.loads((runs["align"] / "run.json").read_text())["data"]["name"])
    align(LLAVA.adapter, data, convention=Convention(vision_point="last"), out=tmp_path / "last")
    read = read_runs([runs["align"], tmp_path / "last"])
    with styled():
        drawn = {drawing.name: drawing.figure() for drawing in drawings(read, all_numbers(read))}
    assert {"flow-1", "flow-2"} < set(drawn)
    containers: Any = drawn["eranks"].axes[0].containers
    assert [len(container.lines[0].get_xdata()) for container in containers] == [5, 5]
    # One model, so one colour.
    assert len({container.lines[0].get_color() for container in containers}) == 1
    assert len({container.lines[0].get_marker() for container in containers}) == 2


def test_figures_of_a_study_name_models_and_not_its_cells(runs: dict[str, Path], tmp_path: Path) -> None:
    name = Path(align(LLAVA.adapter, load_data("demo"), limit=4, out=tmp_path / "cell-b5d0aa").model).name
    read = read_runs([runs["align"], tmp_path / "cell-b5d0aa", runs["perturb"]])
    with styled():
        drawn = {drawing.name: drawing.figure() for drawing in drawings(read, all_numbers(read))}
    left, right = drawn["eranks"].axes
    of_demo, of_pairs = (left, right) if left.get_title() == "demo" else (right, left)
    assert len(of_demo.containers) == len(of_pairs.containers) == 1  # the base of the perturbation is that of `align`
    looks = {container.lines[0].get_color() for axes in (left, right) for container in axes.containers}  # type: ignore
    assert len(looks) == 1
    assert [text.get_text() for text in drawn["eranks"].legends[0].get_texts()] == [name]
    titles = {axes.get_title() for axes in drawn["spectra"].axes}
    assert titles == {f"{name} (demo)", f"{name} (llava:evil.json)"}


def test_on_a_page_data_are_groups_and_what_is_asked_for_first_comes_first(
    written: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    align(LLAVA.adapter, load_data("demo"), limit=3, out=tmp_path / "other")
    report([runs["align"], tmp_path / "other"], tmp_path / "out", formats=["html"])
    table = (
        (tmp_path / "out" / "report.html")
        .read_text()
        .partition('<table class="numbers">')[2]
        .partition("</table>")[0]
    )
    heads = ["model", "n", "Image Reduction Ratio", "Image-Text Alignment", *(f"eRank{i}" for i in range(1, 6))]
    assert re.findall(r"<th[^>]*>([^<]*)</th>", table.partition("</thead>")[0]) == heads
    assert re.findall(r'rowgroup"[^>]*>([^<]*)<', table)[:2] == ["llava:evil.json", "demo"]
    page = (written / "report.html").read_text()
    assert "<code>mmerank perturb --control mismatch</code>" in page and "`" not in Page(page).text


def test_latex_is_balanced(written: Path) -> None:
    text = (written / "tables.tex").read_text()
    begun, ended = (re.findall(rf"\\{word}{{([\w*]+)}}", text) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended) and begun.count("tabular") >= 4
    depth = 0
    for sign in re.sub(r"\\[{}]", "", text):
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0 and r"\toprule" in text and r"\bottomrule" in text
    for body in re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line and line != r"\addlinespace"]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1
        assert all(row.endswith(r"\\") for row in rows)


def test_a_bracket_at_the_beginning_of_a_line_of_latex() -> None:
    row = (("[3cm].json", "a_[b]"), 5, (Cell("1.00"),))
    text = latex(Printed("align", "Image-text alignment", ("of ours, twice [3cm]",), (row,)))
    assert "\n{[}3cm].json & a\\_{[}b] & 5 & 1.00" in text
    assert r"\shortstack[r]{of ours, \\ twice {[}3cm]}" in text


def test_nothing_of_a_csv_is_computed() -> None:
    table = pd.DataFrame(
        {
            "id": ['=HYPERLINK("http://x")', "+1+cmd", "@SUM(A1)", "-2+3", "\t=1", "-5", "+.5e3", "a=b", "'=1"],
            "erank1": [-1.0] * 9,
        }
    )
    lines = csv(table).splitlines()
    assert lines[0] == "id,erank1" and lines[1] == '"\'=HYPERLINK(""http://x"")",-1.0'
    assert [line.split(",")[0] for line in lines[2:]] == [
        "'+1+cmd", "'@SUM(A1)", "'-2+3", "'\t=1", "-5", "+.5e3", "a=b", "'=1"
    ]  # fmt: skip


def test_very_long_ids_and_control_characters(runs: dict[str, Path], tmp_path: Path) -> None:
    from dataclasses import replace

    from mmerank.runs.parts import read_records, write_part

    shutil.copytree(runs["align"], tmp_path / "run", ignore=shutil.ignore_patterns("*.parquet"))
    named = {"two": "x" * 1_000_000, "three": "\x1b]0;title\x07\x00\u202etxt", "four": "four", EVIL: EVIL}
    records = [replace(r, example=named[r.example]) for r in read_records(runs["align"])]
    write_part(tmp_path / "run" / "records" / "000000.parquet", records)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    summary["results"][0]["skipped"] = [{"id": "y" * 1_000_000, "reason": "z" * 1_000_000}]
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    (path,) = report([tmp_path / "run"], formats=["html"])
    text = path.read_text()
    assert len(text) < 400_000 and not re.search("[\x00-\x08\x0e-\x1f\u202e]", text)
    (found,) = json.loads(Page(text).scripts[0])
    assert sorted(map(len, found["ids"]))[-1] == 300 and "\\x1b]0;title\\x07\\x00\\u202etxt" in found["ids"]


def test_markdown_is_a_table(written: Path) -> None:
    blocks = re.findall(r"(?:^\|.*\|\n)+", (written / "tables.md").read_text(), re.MULTILINE)
    assert len(blocks) >= 4
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_names_of_data() -> None:
    assert short_data("llava:/a/b/detail.json?images=/c/d") == "llava:detail.json"
    assert short_data("text:/a/dolly.jsonl#context") == "text:dolly.jsonl#context"
    assert short_data("minigpt:/a/cc_sbu_align/") == "minigpt:cc_sbu_align"
    assert short_data("hub:owner/name:test#text") == "hub:owner/name:test#text" and short_data("demo") == "demo"


def test_names_tell_data_sets_apart() -> None:
    folders = ["text:/x/a/t.txt", "text:/x/b/t.txt", "text:t.txt", "text:/x/a/other.txt"]
    names = ["text:a/t.txt", "text:b/t.txt", "text:t.txt", "text:other.txt"]
    assert list(data_names(folders).values()) == names
    options = ["llava:a/d.json", "llava:a/d.json?images=x", "llava:a/d.json?images=y", "llava:b/d.json"]
    assert list(data_names(options)) == options and len(set(data_names(options).values())) == 4
    assert data_names(["demo", "demo", "hub:o/n#text"]) == {"demo": "demo", "hub:o/n#text": "hub:o/n#text"}


def test_data_sets_of_one_file_name_are_told_apart(tmp_path: Path) -> None:
    for place, words in (("a", "one two three four"), ("b", "five six seven eight nine")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "t.txt").write_text(f"{words}\n{words} more\n")
        diff(OPT.adapter, load_data(f"text:{tmp_path}/{place}/t.txt"), out=tmp_path / f"run-{place}")
    diff(LLAMA.adapter, load_data(f"text:{tmp_path}/a/t.txt"), out=tmp_path / "run-c")
    report([tmp_path / "run-a", tmp_path / "run-b", tmp_path / "run-c"], tmp_path / "out")
    lines = (tmp_path / "out" / "tables.md").read_text().split("\n### ")[0].splitlines()
    rows = [line.split(" | ")[0] for line in lines if line.startswith("| text:")]
    assert rows == ["| text:a/t.txt", "| text:a/t.txt", "| text:b/t.txt"]
    shown = Page((tmp_path / "out" / "report.html").read_text()).text
    assert shown.count("text:a/t.txt") >= 2 and shown.count("text:b/t.txt") >= 2


def test_figures(written: Path) -> None:
    figures = {path.name for path in (written / "figures").iterdir()}
    # The base of the perturbation is what `align` measured, and is not drawn again.
    stems = {"ratios", "eranks", "flow-1", "changes", "layers-texts", "spectra"}
    stems |= {"spectra-texts", "spectra-texts-together"}
    assert figures == {f"{stem}.{kind}" for stem in stems for kind in ("pdf", "png")}
    with Image.open(written / "figures" / "eranks.png") as picture:
        assert min(picture.size) > 400
    assert (written / "figures" / "eranks.pdf").read_bytes().startswith(b"%PDF")


def test_colours_that_meet_differ_in_grey_or_in_line() -> None:
    grey = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (to_rgb(one["color"]) for one in LOOKS)]
    assert max(grey) < 0.75  # seen on white
    many = [look(i) for i in range(24)]
    assert len({str(sorted(map(str, one.items()))) for one in many}) == 24
    assert len({str(one["linestyle"]) for one in LOOKS}) == len({one["marker"] for one in LOOKS}) == len(LOOKS)


def test_mean_spectrum(runs: dict[str, Path]) -> None:
    (found,) = read_runs([runs["align"]])
    of_pairs = [r for r in read_records(runs["align"]) if r.input == "pair"]
    (model,) = found.frames
    mean = found.mean_spectra[model, "llm", "pair"]
    expected = np.zeros(max(len(r.spectrum) for r in of_pairs))
    for r in of_pairs:
        expected[: len(r.spectrum)] += r.spectrum / len(of_pairs)
    assert mean == pytest.approx(expected, abs=1e-7) and mean.sum() == pytest.approx(1, abs=1e-5)
    assert mean[0] == pytest.approx(np.mean([r.top_share for r in of_pairs]), rel=1e-5)


def test_what_all_models_skipped_stands_there_once(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["align"], tmp_path / "run")
    file = tmp_path / "run" / "summary.json"
    (result,) = json.loads(file.read_text())["results"]
    (entry,) = result["skipped"]
    other = {**result, "model": "other", "n": 0, "skipped": [entry, {"id": "alone", "reason": "too long"}]}
    file.write_text(json.dumps({"results": [result, other]}))
    (read,) = read_runs([tmp_path / "run"])
    called = {("run", result["model"]): "short"}
    assert _left_out(read, called) == [("all", entry["id"], entry["reason"]), ("other", "alone", "too long")]


def test_what_a_reader_should_know(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["align"], tmp_path / "unfinished")
    (tmp_path / "unfinished" / "summary.json").unlink()
    read = read_runs([tmp_path / "unfinished", runs["perturb"]])
    lines = cautions(read)
    assert any("n = 4 examples" in line and "rough" in line for line in lines)
    assert any("was not finished" in line for line in lines)
    assert any(line.startswith("perturb: 1 example was skipped") for line in lines)
    assert any("has no null of its own" in line for line in cautions(read[:1]))
    assert not any("has no null of its own" in line for line in lines)  # which the run beside has measured
    inside = [line for line in lines if "not told from that of pictures" in line]
    draws = json.loads((runs["perturb"] / "summary.json").read_text())["controls"][0]["image_text_alignment"]
    above = sum(x >= draws["value"] for x in draws["null"])
    assert len(inside) == 1 and f"{draws['value']:.4f}" in inside[0] and 0 <= above <= 3  # 3 draws never suffice


def test_models_on_different_examples(tmp_path: Path) -> None:
    for place, words in (("a", "one two three"), ("b", "four five six seven")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "t.txt").write_text("".join(f"{words} {i}\n" for i in range(4)))
    data = load_data(f"text:{tmp_path}/a/t.txt")
    diff(OPT.adapter, data, out=tmp_path / "all")
    diff(LLAMA.adapter, data, limit=2, out=tmp_path / "two")
    diff(OPT.adapter, data, seeds=(1,), out=tmp_path / "again")
    both = [
        line for line in cautions(read_runs([tmp_path / "all", tmp_path / "two"])) if "different examples" in line
    ]
    opt, llama = (Path(case.adapter.name).name for case in (OPT, LLAMA))
    assert len(both) == 1 and f"({opt}: 4; {llama}: 2)" in both[0]
    assert not any(
        "different examples" in line for line in cautions(read_runs([tmp_path / "all", tmp_path / "again"]))
    )

    (tmp_path / "a" / "t.txt").write_text((tmp_path / "b" / "t.txt").read_text())
    diff(LLAMA.adapter, load_data(f"text:{tmp_path}/a/t.txt"), out=tmp_path / "changed")
    lines = cautions(read_runs([tmp_path / "all", tmp_path / "changed"]))
    assert any("had other content in all than in changed" in line for line in lines)
    assert not any("different examples" in line for line in lines)


def test_models_with_other_tokens(tmp_path: Path) -> None:
    entries = [Example(f"{i}", None, "", f"unbelievable tokenisation, number {i}") for i in range(3)]
    opt = diff(OPT.adapter, entries, out=tmp_path / "opt")
    llama = diff(LLAMA.adapter, entries, out=tmp_path / "llama")
    assert {r.n for r in opt.records} != {r.n for r in llama.records}
    diff(OPT.adapter, entries, seeds=(1,), out=tmp_path / "again")
    for other, told in (("llama", True), ("again", False)):
        lines = cautions(read_runs([tmp_path / "opt", tmp_path / other]))
        assert any("read the same texts as different numbers of tokens" in line for line in lines) is told


def test_conventions_that_differ_are_named(tmp_path: Path) -> None:
    for name, convention in (("a", TextConvention()), ("b", TextConvention(skip_first=1, centre="median"))):
        diff(OPT.adapter, texts(3), convention=convention, out=tmp_path / name)
    lines = [line for line in cautions(read_runs([tmp_path / "a", tmp_path / "b"])) if "conventions" in line]
    assert len(lines) == 1 and re.findall(r"\w+", lines[0].split("(")[1].split(")")[0]) == ["skip_first", "centre"]


def test_alignment_below_its_null(runs: dict[str, Path]) -> None:
    (read,) = read_runs([runs["perturb"]])
    for shift, count in ((0.5, 1), (-0.5, 0)):
        test = null_test(0.6, [0.6 + shift + 0.001 * i for i in range(39)])
        read.__dict__["nulls"] = {"hf_model": (Null("mismatch", {}, {"image_text_alignment": test}),)}
        lines = [line for line in cautions([read]) if "is lower than that of pictures with other" in line]
        assert len(lines) == count and all("0.6000" in line and "p = 0.05" in line for line in lines)


@pytest.mark.parametrize(("draws", "above", "words"), [(39, 0, None), (39, 3, "p = 0.2"), (9, 0, "none below 0.2")])
def test_inside_the_null(runs: dict[str, Path], draws: int, above: int, words: str | None) -> None:
    """With the 39 draws that are the default a value beyond all of them is told from the null."""
    null = [0.5 + 0.01 * i for i in range(draws - above)] + [2.0] * above
    test = null_test(1.0, null)
    (read,) = read_runs([runs["perturb"]])
    read.__dict__["nulls"] = {"hf_model": (Null("mismatch", {}, {"image_text_alignment": test}),)}
    lines = [line for line in cautions([read]) if "not told from that of pictures" in line]
    assert len(lines) == (words is not None) and all(str(words) in line for line in lines)


def test_data_that_are_gone_or_changed(runs: dict[str, Path], pairs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs["align"], tmp_path / "run")
    stated = tmp_path / "run" / "run.json"
    content = json.loads(stated.read_text())
    (tmp_path / "changed.json").write_text((pairs / "evil.json").read_text().replace("word", "words"))
    for name, words in (
        (f"llava:{tmp_path}/changed.json?images={pairs}", "have changed"),
        ("llava:nowhere.json", "not found"),
        ("hub:a/b#c", "fetches"),
    ):
        changed = {**content, "data": {**content["data"], "name": name}}
        stated.write_text(json.dumps(changed))
        report([tmp_path / "run"], formats=["html"], with_data=True)
        found = Page((tmp_path / "run" / "report" / "report.html").read_text())
        assert words in found.text and not [tag for tag, _ in found.tags if tag == "img"]


def test_command_line_without_torch(runs: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys; from mmerank.commands.app import app; "
        f"app(['report', {str(runs['align'])!r}, '--out', {str(tmp_path / 'out')!r}], standalone_mode=False); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules, 'loaded'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    assert {Path(line).name for line in lines} > FILES and all(Path(line).is_file() for line in lines)


ONE = {
    "--html": {"report.html"},
    "--latex": {"tables.tex"},
    "--markdown": {"tables.md"},
    "--csv": {"numbers.csv", "examples.csv"},
}


@pytest.mark.parametrize(("flag", "files"), ONE.items())
def test_one_format(runs: dict[str, Path], tmp_path: Path, flag: str, files: set[str]) -> None:
    run("report", str(runs["align"]), flag, "--out", str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {*files, "command.yaml"}


def test_errors(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--out"):
        report(list(runs.values()))
    with pytest.raises(UsageError, match="known: html"):
        report([runs["align"]], formats=["pdf"])
    with pytest.raises(RunFolderError, match="no run.json"):
        report([tmp_path])
    shutil.copytree(runs["align"], tmp_path / "empty", ignore=shutil.ignore_patterns("*.parquet"))
    with pytest.raises(RunFolderError, match="on 4 examples .* of which parts are gone"):
        report([tmp_path / "empty"])
    (tmp_path / "empty" / "summary.json").unlink()
    with pytest.raises(RunFolderError, match="no records"):
        report([tmp_path / "empty"])
    (part,) = (runs["align"] / "records").glob("*.parquet")
    shutil.copytree(runs["align"], tmp_path / "torn")
    (tmp_path / "torn" / "records" / part.name).write_bytes(part.read_bytes()[:200])
    with pytest.raises(RunFolderError, match="damaged"):
        report([tmp_path / "torn"])
    assert failure("report", str(tmp_path / "nowhere"))[0] == 1


@pytest.mark.slow
def test_five_hundred_examples_stay_below_5_mb(runs: dict[str, Path], tmp_path: Path) -> None:
    """The four examples' records under 500 ids, with the longest texts that are shown."""
    from dataclasses import replace

    from mmerank.runs.parts import read_records, write_part

    shutil.copytree(runs["perturb"], tmp_path / "run", ignore=shutil.ignore_patterns("*.parquet"))
    some = [r for r in read_records(runs["perturb"]) if r.example == "two" and r.transform in ("none", "rotate:90")]
    many = [
        replace(r, example=f"{i}-{'x' * 40}", transform=t)
        for i in range(500)
        for r in some
        for t in _versions(r.transform)
    ]
    stated = json.loads((tmp_path / "run" / "run.json").read_text())
    stated |= {"transforms": _versions("rotate:90"), "controls": [], "control_draws": 0}
    (tmp_path / "run" / "run.json").write_text(json.dumps(stated))
    write_part(tmp_path / "run" / "records" / "000000.parquet", many)
    (path,) = report([tmp_path / "run"], formats=["html"])
    assert 100_000 < path.stat().st_size < 5_000_000


def _versions(transform: str) -> list[str]:
    return [transform] if transform == "none" else [f"blur:{i}" for i in range(1, 11)]


def test_against_size_beside_the_paper() -> None:
    from mmerank.report.figures.sizes import against_size, sized

    rows = [
        {"job": "diff", "run": "r", "data": "dolly-15k", "model": model, "transform": "none", "point": "final"}
        | {
            "quantity": name,
            "value": value,
            "low": value - 1,
            "high": value + 2,
            "n": 9,
            "mark": "",
            "q": np.nan,
            "change": np.nan,
        }
        | {"paper": printed_diff(model, "dolly-15k")[name]}
        for model in ("facebook/opt-1.3b", "facebook/opt-125m")
        for name, value in (("diff_erank", 50.0), ("reduced_loss", 8.0))
    ]
    table = pd.DataFrame(rows)
    assert sized(table[table["model"] == "facebook/opt-125m"]) is None
    both = sized(table)
    assert both is not None
    left = against_size(both, {"dolly-15k": "dolly"}).figure().axes[0]
    (line,) = [line for line in left.lines if str(line.get_label()).endswith("(paper)")]
    assert list(np.asarray(line.get_xdata())) == [125e6, 1.3e9] and list(np.asarray(line.get_ydata())) == [
        54.35,
        76.39,
    ]
    printed = printed_tables_of(table)
    assert "54.35" in markdown(printed) and r"\quad paper" in latex(printed)


def printed_tables_of(table: pd.DataFrame) -> Any:
    from mmerank.report.tables import _printed

    table = table.assign(metric="diff_erank", rows="all")
    return _printed(
        "diff", "Diff-eRank", table, {("r", model): model for model in table["model"]}, {"dolly-15k": "dolly-15k"}
    )


def test_a_cell_that_failed_before_it_measured_anything(runs: dict[str, Path], tmp_path: Path) -> None:
    """Of a folder of runs it is left out; by itself it is refused, and so is a folder of nothing else."""
    for name in ("done", "failed"):
        shutil.copytree(runs["align"], tmp_path / "study" / name)
    failed = tmp_path / "study" / "failed"
    (failed / "summary.json").unlink()
    shutil.rmtree(failed / "records")
    (failed / "records").mkdir()
    with pytest.warns(UserWarning, match="left out, since it is not finished: .*failed"):
        report([tmp_path / "study"], tmp_path / "page", formats=["csv"])
    assert set(pd.read_csv(tmp_path / "page" / "numbers.csv")["run"]) == {"done"}
    shutil.rmtree(tmp_path / "study" / "done")
    for named in (failed, tmp_path / "study"):
        with pytest.raises(RunFolderError, match="no records"):
            report([named], tmp_path / "page")
