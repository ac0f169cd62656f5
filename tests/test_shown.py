"""What results can be turned into: the same numbers in every form, with names of one's own."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from mmerank import Convention, Results, align, compare, diff, encode, estimates, load_data, load_encoder, perturb
from mmerank.analysis.finished import read_runs
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.errors import UsageError
from mmerank.jobs.shown import Shown
from mmerank.report.how_to import how_to_report
from mmerank.report.names import short_data
from tests.adapters.cases import LLAVA, MINIGPT_V2
from tests.adapters.text_cases import OPT
from tests.encoder_models import save_timm
from tests.test_cli import failure
from tests.test_cli import run as command
from tests.test_diff_erank import texts

EVIL = "50 % & $x$_1 \\ #{}~^ | <b> ---c"
COLUMNS = ["image_text_alignment", "erank5"]


@pytest.fixture(scope="module")
def data(golden_pairs: Path, golden: Path) -> Any:
    return load_data(f"llava:{golden_pairs}?images={golden}/images")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shown")


@pytest.fixture(scope="module")
def results(data: Any, folder: Path) -> dict[str, Any]:
    asked = Convention(match_tokens=4, metrics=("stable_rank",))
    encoder = load_encoder(save_timm(folder / "m.pth", "test_resnet"), device="cpu")
    transforms: Any = ["rotate:90", "blur:2"]
    controls: Any = ["mismatch"]
    found: dict[str, Any] = {
        "align": align(LLAVA.adapter, data, convention=asked, out=folder / "align"),
        "perturb": perturb(
            LLAVA.adapter, data, transforms, controls=controls, control_draws=3, out=folder / "perturb"
        ),
        "diff": diff(OPT.adapter, texts(4), layers="all", out=folder / "diff"),
        "encode": encode(encoder, load_data("demo"), limit=4, out=folder / "encode"),
    }
    other = align(MINIGPT_V2.adapter, data)
    return {**found, "several": Results([found["align"], other]), "comparison": compare(found["align"], other)}


JOBS = ["align", "perturb", "diff", "encode"]


@pytest.mark.parametrize("job", JOBS)
def test_estimates_are_those_of_the_folder(results: dict[str, Any], folder: Path, job: str) -> None:
    pd.testing.assert_frame_equal(results[job].estimates(), estimates(folder / job))
    (run,) = read_runs([folder / job])
    assert results[job].how_to_report() == "\n\n".join(how_to_report(run))


def test_summary(results: dict[str, Any]) -> None:
    result = results["align"]
    table = result.summary().set_index("quantity")
    assert list(table.columns) == ["value", "low", "high", "n", "point", "input", "mean_rows"]
    for label, (low, high) in result.intervals.items():
        assert tuple(table.loc[label, ["value", "low", "high", "n"]]) == (getattr(result, label), low, high, 3)
    assert tuple(table.loc["erank2", ["point", "input"]]) == ("connector", "image")
    records = [r for r in result.records if (r.point, r.input) == ("llm", "text")]
    assert table.loc["erank4", "mean_rows"] == sum(r.n for r in records) / 3
    assert table.loc["matched_erank4", "mean_rows"] == 4 and table.loc["stable_rank/llm/text", "point"] == "llm"
    assert math.isnan(table.loc["image_text_alignment", "mean_rows"])
    ratio = table.loc["participation_ratio4"]
    assert list(ratio[["point", "input", "mean_rows"]]) == ["llm", "text", table.loc["erank4", "mean_rows"]]

    changes = results["perturb"].summary().set_index(["transform", "quantity"])
    test = results["perturb"].tests["rotate:90"]["erank1"]
    assert tuple(changes.loc[("rotate:90", "erank1"), ["change", "change_low", "change_q"]]) == (
        test.difference,
        test.low,
        test.q,
    )
    layers = results["diff"].summary().set_index(["point", "quantity"])
    assert layers.loc[("final", "diff_erank"), "value"] == results["diff"].diff_erank
    assert set(results["several"].summary()["model"]) == {LLAVA.adapter.name, MINIGPT_V2.adapter.name}
    compared = results["comparison"]
    assert compared.summary().set_index("quantity").loc["erank1", "p"] == compared["erank1"].p


def test_an_interval_of_ones_own(results: dict[str, Any]) -> None:
    result = replace(results["align"], bootstrap=Bootstrap(level=0.5))
    row = result.summary().set_index("quantity").loc["erank5"]
    assert (row["low"], row["high"]) == result.intervals["erank5"] != results["align"].intervals["erank5"]
    assert "50 % intervals" in result.to_markdown() and "50 % intervals" in result.how_to_report()


@pytest.mark.parametrize("job", [*JOBS, "several", "comparison"])
def test_every_form(results: dict[str, Any], job: str) -> None:
    result: Shown = results[job]
    shown = result.to_markdown().replace("\N{MINUS SIGN}", "-")
    main = {"diff": "diff_erank", "encode": "erank_images", "comparison": "erank5"}.get(job, "erank5")
    value = result.summary().set_index("quantity").loc[main]
    value = value.iloc[-1] if isinstance(value, pd.DataFrame) else value
    assert f"{value['a' if job == 'comparison' else 'value']:.2f}" in shown
    assert result.to_latex(label="tab:a_1").count(r"\label{tab:a_1}") == 1
    html = result._repr_html_()
    assert "&lt;" not in html.replace("q &lt; ", "").replace("&lt;0.001", "") and "<table" in html
    axes = Figure().subplots()
    assert result.plot(axes) is axes and axes.has_data() and axes.get_ylabel()
    assert len(repr(result)) < 1000 and repr(result).startswith(type(result).__name__)


def test_latex_of_ones_own(results: dict[str, Any]) -> None:
    result = results["align"]
    written = result.to_latex(
        label="tab:x", caption=EVIL.replace(" ", "\n\n"), names={result.model: EVIL}, columns=COLUMNS
    )
    assert written.count(r"\begin{table*}") == written.count(r"\end{table*}") == 1
    caption = (
        r"50 \% \& \$x\$\_1 \textbackslash{} \#\{\}\textasciitilde{}\textasciicircum{} \textbar{} $<$b$>$ -{}-{}-c"
    )
    assert f"\\caption{{{caption}}}\n\\label{{tab:x}}" in written and f"& {caption} & 3 &" in written
    heads = next(line for line in written.splitlines() if line.startswith("data &"))
    assert heads.index("Alignment") < heads.index("eRank5") and "eRank4" not in heads
    cells = next(line for line in written.splitlines() if caption in line and "&" in line)
    assert f"{result.image_text_alignment:.4f} & {result.erank5:.2f}" in cells
    body = re.sub(r"\\[%&$#_{}]", "", "\n".join(line for line in written.splitlines() if not line.startswith("%")))
    assert body.count("{") == body.count("}") and body.count("$") % 2 == 0 and "%\n" in body and "#" not in body
    with pytest.raises(UsageError, match="label: expected letters"):
        result.to_latex(label="a}b")


def test_names_and_columns(results: dict[str, Any]) -> None:
    result = results["perturb"]
    names = {result.base.model: "ours", "rotate:90": "turned", "Image-Text Alignment": "ITA"}
    shown = result.to_markdown(names=names, columns=["image_text_alignment"])
    assert "| ours | turned | 3 |" in shown and "| ITA |" in shown and "eRank1" not in shown
    asked = results["align"].to_markdown(columns=["stable_rank", "matched"])
    assert "Stable rank" in asked and "4 each" in asked
    with pytest.raises(UsageError, match=r"no number 'erank9'; did you mean erank\d.*; there are erank1, "):
        result.to_markdown(columns=["erank9"])
    with pytest.raises(UsageError, match="names: nothing is called 'nobody'; there are "):
        result.to_latex(names={"nobody": "x"})
    comparison = results["comparison"]
    assert "ours" in comparison.to_markdown(names={comparison.a: "ours"}, columns=["erank5"])
    with pytest.raises(UsageError, match="columns: no number 'erank9'"):
        comparison.to_markdown(columns=["erank9"])


def test_several(results: dict[str, Any], folder: Path) -> None:
    several = results["several"]
    named = Results(several, names={several[0].model: "ours"})
    assert "| ours |" in named.to_markdown() and set(named.summary()["model"]) == {"ours", several[1].model}
    assert len(named) == 2 and "ours" not in several.to_markdown()
    read = Results.from_run(folder / "align", folder / "diff")
    assert [type(of).__name__ for of in read] == ["Alignment", "Diff"] and "Diff-eRank" in read.to_markdown()
    with pytest.raises(UsageError, match="results of one job in a figure, got align, diff"):
        read.plot(Figure().subplots())
    with pytest.raises(UsageError, match=r"names: nothing is called 'eRank6'; did you mean eRank\d\?; there are "):
        Results(several, names={"eRank6": "x"})
    with pytest.raises(TypeError, match="expected results of mmerank.align"):
        Results(["runs/llava"])


def test_names_of_everything_are_taken_by_results_too(results: dict[str, Any]) -> None:
    perturbed = results["perturb"]
    base = perturbed.base
    short = short_data(base.data)
    for data in {base.data, short}:
        names = {
            base.model: "ours",
            data: "photos",
            "rotate:90": "turned",
            "Image-Text Alignment": "ITA",
            "base": "b",
        }
        several = Results([perturbed], names=names)
        shown = several.to_markdown(columns=["image_text_alignment"])
        assert shown == perturbed.to_markdown(columns=["image_text_alignment"], names=names)
        assert "| photos | ours | turned | 3 |" in shown and "| ITA |" in shown and "| b |" in shown
        assert "turned" in set(several.summary()["transform"])
    assert f"on {short}: before and after" in str(perturbed) and f"{base.model} on {short}: n = 3" in str(base)


def test_how_to_report(results: dict[str, Any]) -> None:
    told = results["perturb"].how_to_report()
    base = results["perturb"].base
    test = results["perturb"].controls[0].tests["image_text_alignment"]
    for part in (
        "n = 3 image-text pairs",
        f"eRank4 {base.mean_tokens('erank4'):.1f}",
        "image layout model",
        f"Image-Text Alignment {base.image_text_alignment:.4f}",
        "exp of the mean entropy",
        f"mismatch: {test.null_mean:.4f}",
        "over 3 draws",
        "rotate:90",
    ):
        assert part in told
    assert "No null was measured" in results["align"].how_to_report()
    assert "random weights of seed 0" in results["diff"].how_to_report()


def test_names_of_a_command(tmp_path: Path) -> None:
    asked = ("align", "demo-llava", "--data", "demo", "--limit", "2", "--out", str(tmp_path / "run"))
    done = command(*asked, "--name", "ours=demo-llava")
    assert "ours" in done.stdout.splitlines()[2] and (tmp_path / "run").is_dir()
    assert '"name": "ours"' in (tmp_path / "run" / "summary.json").read_text()
    command("report", str(tmp_path / "run"), "--markdown")
    assert "| demo | ours | 2 |" in (tmp_path / "run" / "report" / "tables.md").read_text()
    command("report", str(tmp_path / "run"), "--markdown", "--name", "theirs=demo-llava")
    assert "| demo | theirs | 2 |" in (tmp_path / "run" / "report" / "tables.md").read_text()
    assert "expected NAME=MODEL" in failure(*asked, "--name", "ours")[1]
    assert "no model 'nobody' here; there are demo-llava" in failure(*asked, "--name", "ours=nobody")[1]


def test_arguments_of_another_type_are_answered_in_words(results: dict[str, Any]) -> None:
    one, both = results["align"], results["several"]
    for shown in (one, both, results["comparison"]):
        for names in (["Ours"], "Ours", {"llava": 3}):
            with pytest.raises(TypeError, match="names: expected a dictionary"):
                shown.to_markdown(names=names)
        with pytest.raises(TypeError, match=r"columns: .* write \['erank5'\]"):
            shown.to_latex(columns="erank5")
        with pytest.raises(UsageError, match="columns: expected at least one number"):
            shown.to_latex(columns=[])
        with pytest.raises(TypeError, match="ax: expected matplotlib's Axes, one of them, got ndarray"):
            shown.plot(Figure().subplots(1, 2))
    with pytest.raises(TypeError, match="expected a list of results, got one Alignment"):
        Results(one)
    with pytest.raises(TypeError, match="tracker: expected a name, as 'wandb'"):
        one.track(None)
    with pytest.raises(TypeError, match="names: expected two"):
        compare(*both, names={"llava": "Ours"})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"quantities: .* write \['erank5'\]"):
        compare(*both, quantities="erank5")
    with pytest.raises(TypeError, match="limit: expected an int, got '3'"):
        align(LLAVA.adapter, load_data("demo"), limit="3")  # type: ignore[arg-type]
