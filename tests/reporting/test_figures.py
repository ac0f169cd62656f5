"""Figures: each number is that of the analysis, files have whole fonts, and widths are those of a page."""

from __future__ import annotations

import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from mmerank import Convention, Results, align, load_data, perturb
from mmerank.analysis.finished import read_runs
from mmerank.analysis.statistics.effects import standardised_limits
from mmerank.errors import UsageError
from mmerank.report.figures.glyphs import missing_letters_said_once
from mmerank.report.figures.style import EXPORTED, STYLES, save, shortened, shortened_apart, styled
from mmerank.report.figures.training import trajectories
from mmerank.report.write import report
from tests.adapters.cases import LLAVA, MINIGPT_V2, examples

ASKED = Convention(match_tokens=4, token_curve=(3, 4), patches=True)
RATIOS = ("image_reduction_ratio", "image_text_alignment")
NAMES = ("demo-llava", "a-model-of-a-longer-name-7b")
TRANSFORMS: Any = ["rotate:90", "blur:1,2", "shuffle-words"]


@pytest.fixture(scope="module")
def aligned() -> Any:
    return [align(case.adapter, examples(), convention=ASKED, layers="all") for case in (LLAVA, MINIGPT_V2)]


@pytest.fixture(scope="module")
def changed() -> Any:
    return perturb(LLAVA.adapter, load_data("demo"), TRANSFORMS, limit=6)


def drawn(axes: Any) -> dict[str, Any]:
    """Containers of error bars by their names."""
    return {str(found.get_label()): found for found in axes.containers}


def test_both_ratios(aligned: Any) -> None:
    """Of all rows and of equally many, with their intervals."""
    both = Results(aligned)
    axes = both.plot(Figure().subplots(), "ratios")
    names = [front + name for name in RATIOS for front in ("", "matched_")]
    assert [tick.get_text().split("\n")[-1] for tick in axes.get_xticklabels()] == ["all rows", "4 rows"] * 2
    for result, found in zip(aligned, drawn(axes).values(), strict=True):
        table = result.summary().set_index("quantity").loc[names]
        line, _, (bars,) = found.lines
        assert list(line.get_ydata()) == pytest.approx(list(table["value"]))
        assert np.stack(bars.get_segments())[:, :, 1] == pytest.approx(table[["low", "high"]].to_numpy())


def test_where_transforms_act(changed: Any) -> None:
    axes = changed.plot(Figure().subplots(), "changes")
    rows = [tick.get_text() for tick in axes.get_yticklabels()]
    assert rows == list(changed.tests) and axes.get_ylim() == (3.5, -0.5)  # the first above
    marks = {}
    for found in axes.containers:
        line, _, (bars,) = found.lines
        if len(line.get_xdata()):
            (x,), (y,) = line.get_xdata(), line.get_ydata()
            marks[round(float(y), 6)] = (float(x), bars.get_segments()[0][:, 0], line.get_markerfacecolor())
    seen = 0
    for i, (name, comparison) in enumerate(changed.tests.items()):
        for k in range(5):
            test, place = comparison[f"erank{k + 1}"], round(i + (k - 2) * 0.15, 6)
            if f"erank{k + 1}" in comparison.fixed:
                assert place not in marks, name
                continue
            x, (low, high), face = marks[place]
            assert x == pytest.approx(test.d_z)
            assert (low, high) == pytest.approx(standardised_limits(test.d_z, comparison.n))
            told = test.q < 0.05 and (test.low > 0 or test.high < 0)
            assert (face != "none") == told
            seen += 1
    assert seen == len(marks) == 3 * 4 + 2  # eRank4 does not see pictures, nor do the first three texts


@pytest.mark.parametrize(("d_z", "n"), [(0.5, 30), (-0.5, 30), (0.0, 2), (2.5, 5), (6.0, 24), (-1.2, 400)])
def test_limits_of_a_standardised_change(d_z: float, n: int) -> None:
    """Under each limit, by drawing from the definition, the share of larger or smaller values is 2.5 %."""
    rng = np.random.default_rng(0)
    low, high = standardised_limits(d_z, n)
    assert low < d_z < high
    size = 400_000
    spread = np.sqrt(stats.chi2.rvs(n - 1, size=size, random_state=rng) / (n - 1))
    z = rng.standard_normal(size) / np.sqrt(n)
    assert ((z + low) / spread >= d_z).mean() == pytest.approx(0.025, abs=0.0015)
    assert ((z + high) / spread <= d_z).mean() == pytest.approx(0.025, abs=0.0015)


def test_no_limits_of_a_standardised_change() -> None:
    assert np.isnan(standardised_limits(1.0, 1)).all() and np.isnan(standardised_limits(np.nan, 9)).all()


def test_spectra_of_several_on_one_axis(aligned: Any) -> None:
    axes = Results(aligned).plot(Figure().subplots(), "spectra-together", of="eRank5 llm/pair")
    assert len(axes.lines) == 2
    for result, line in zip(aligned, axes.lines, strict=True):
        spectra = [r.spectrum for r in result.records if (r.point, r.input) == ("llm", "pair")]
        mean = np.zeros(max(map(len, spectra)))
        for spectrum in spectra:
            mean[: len(spectrum)] += np.asarray(spectrum) / len(spectra)
        assert np.asarray(line.get_ydata()) == pytest.approx(mean[mean > 1e-9])


def test_layers_of_equally_many_rows(aligned: Any) -> None:
    first = aligned[0]
    (line,) = [line for line in first.plot(Figure().subplots(), "layers").lines if line.get_label() == "4 rows"]
    assert list(line.get_ydata()) == pytest.approx([at["equal"] for at in first.layers])


def test_models_by_two_numbers_and_by_a_score(aligned: Any, tmp_path: Path) -> None:
    both = Results(aligned, names={aligned[0].model: "ours", aligned[1].model: "theirs"})
    axes = both.scatter("erank5", "matched_image_text_alignment", Figure().subplots())
    found = drawn(axes)
    for name, result in zip(("ours", "theirs"), aligned, strict=True):
        line, _, (across, along) = found[name].lines
        assert (line.get_xdata()[0], line.get_ydata()[0]) == (result.erank5, result.matched["image_text_alignment"])
        assert tuple(across.get_segments()[0][:, 0]) == pytest.approx(result.intervals["erank5"])
        limits = result.matched["intervals"]["image_text_alignment"]
        assert list(along.get_segments()[0][:, 1]) == pytest.approx(limits)
    assert axes.get_xlabel() == "eRank5" and axes.get_ylabel() == "Image-Text Alignment, 4 rows each"
    scores = tmp_path / "scores.csv"
    scores.write_text(
        "model,benchmark,metric,value,unit\nours,POPE,acc,0.5,fraction\ntheirs,POPE,acc,0.75,fraction\n"
    )
    axes = both.scatter("erank1", "POPE, acc", Figure().subplots(), scores=[scores])
    assert [found.lines[0].get_ydata()[0] for found in drawn(axes).values()] == [0.5, 0.75]
    assert "n = 2" in axes.get_title()
    for x, y, said in (("erank1", "POP", "no score 'POP'"), ("erank5", "rank5", "did you mean erank5")):
        with pytest.raises(UsageError, match=said):
            both.scatter(x, y, Figure().subplots())


def test_a_map_over_the_picture(aligned: Any, tmp_path: Path) -> None:
    found = {label: of for of_one in examples() for label, of in aligned[0].patches(of_one.id).items()}
    of = next(of for of in found.values() if of.decisive in of.layers[0])
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    for picture in (str(tmp_path / "a.png"), tmp_path / "a.png"):
        assert of.plot(Figure().subplots(), picture=picture).images
    axes = of.plot(Figure().subplots(), picture=Image.new("RGB", (60, 40)))
    boxes = [patch for patch in axes.patches if patch.get_facecolor()[3] > 0 and patch.get_fill()]
    assert axes.get_xlim() == (0, 60) and axes.get_ylim() == (40, 0) and len(boxes) == len(of.layers[0])
    for row, box in zip(of.layers[0], boxes, strict=True):
        left, top, *_ = of.places[np.searchsorted(of.pictured, row)] * (60, 40, 60, 40)
        assert (box.get_x(), box.get_y()) == pytest.approx((left, top))
        red, _, blue, _ = box.get_facecolor()
        assert of.contributions[row] == 0 or (blue > red) == (of.contributions[row] > 0)
    framed = [patch for patch in axes.patches if not patch.get_fill()]
    left, top, *_ = of.places[np.searchsorted(of.pictured, of.decisive)] * (60, 40, 60, 40)
    assert framed and all((box.get_x(), box.get_y()) == pytest.approx((left, top)) for box in framed)
    with pytest.raises(UsageError, match="expected one of 0 to 0"):
        of.plot(Figure().subplots(), layer=1)


def test_every_figure_of_a_report_from_results(aligned: Any, changed: Any) -> None:
    assert not trajectories([])
    for result, names in (
        (Results(aligned), {"ratios", "eranks", "eranks-matched", "flow-1", "token-curve", "layers", "spectra"}),
        (changed, {"ratios", "eranks", "flow-1", "changes", "doses-1", "spectra"}),
    ):
        found = result.figures("slides")
        assert names < set(found) | {""} and all(isinstance(figure, Figure) for figure in found.values())
        for name, drawing in result._drawings().items():
            for of in drawing.panels:
                axes = result.plot(Figure().subplots(), name, of=of)
                assert axes.has_data() or axes.patches
    with pytest.raises(UsageError, match="several panels; name one with of="):
        Results(aligned).plot(Figure().subplots(), "layers")
    with pytest.raises(UsageError, match="no figure 'ratio'; did you mean ratios"):
        aligned[0].plot(Figure().subplots(), "ratio")
    with pytest.raises(UsageError, match="unknown style 'poster'"):
        aligned[0].figures("poster")


def streams(pdf: bytes) -> bytes:
    """A PDF with what it compresses beside it."""
    found = [pdf]
    for part in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            found.append(zlib.decompress(part))
        except zlib.error:
            continue
    return b"\n".join(found)


@pytest.mark.parametrize("style", EXPORTED)
def test_files(aligned: Any, tmp_path: Path, style: str) -> None:
    """Fonts are whole and of TrueType, no letters drawn by procedures; the page is as wide as the style says."""
    figures = Results(aligned).figures(style)
    for name in ("eranks", "flow-1", "layers"):
        with styled(style):
            pdf, png = save(figures[name], tmp_path / name)
        content = streams(pdf.read_bytes())
        kinds = set(re.findall(rb"/Subtype\s*/(Type3|Type1|TrueType|CIDFontType2|Type0)\b", content))
        assert kinds and kinds <= {b"CIDFontType2", b"Type0", b"TrueType"}, name
        embedded = re.findall(rb"/FontFile\d?\b", content)
        assert embedded and set(embedded) == {b"/FontFile2"}
        assert len(embedded) == len(set(re.findall(rb"/FontName\s*/(\S+)", content)))
        (box,) = re.findall(rb"/MediaBox\s*\[\s*0\s+0\s+([\d.]+)", content)
        assert float(box) / 72 == pytest.approx(min(STYLES[style].widths, key=lambda of: abs(of - float(box) / 72)))
        with Image.open(png) as picture:
            assert picture.width == pytest.approx(float(box) / 72 * STYLES[style].settings["savefig.dpi"], abs=1)


@pytest.mark.parametrize("style", ["phone", "paper"])
def test_nothing_is_cut_off(aligned: Any, changed: Any, style: str) -> None:
    """What is drawn lies within each figure where there is least room."""
    both = Results(aligned, names={of.model: name for of, name in zip(aligned, NAMES, strict=True)})
    for name, figure in [*both.figures(style).items(), *changed.figures(style).items()]:
        canvas: Any = FigureCanvasAgg(figure)
        with styled(style):
            canvas.draw()
            drawn = figure.get_tightbbox(canvas.get_renderer())
        width, height = figure.get_size_inches()
        assert drawn.x0 > -0.02 and drawn.y0 > -0.02, name
        assert drawn.x1 < width + 0.02 and drawn.y1 < height + 0.02, name


def test_the_report_of_a_folder(aligned: Any, tmp_path: Path) -> None:
    align(LLAVA.adapter, examples(), out=tmp_path / "run")
    report([tmp_path / "run"], tmp_path / "out", style="slides", scatter=["erank1,erank2"])
    with Image.open(tmp_path / "out" / "figures" / "scatter-1.png") as picture:
        assert picture.width == 12 * 160
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('class="on-phone"') == page.count('class="on-page"') == page.count("<figcaption>") > 3
    with pytest.raises(UsageError, match="unknown style"):
        report([tmp_path / "run"], tmp_path / "out", style="poster")
    with pytest.raises(UsageError, match="expected two numbers or scores"):
        report([tmp_path / "run"], tmp_path / "out", scatter=["erank1"])
    assert read_runs([tmp_path / "run"])[0].mean_spectra


def test_long_names_stay_apart() -> None:
    front, back = "organisation-", "-of-a-model-with-a-very-long-name-in-steps"
    names = [f"{front}{'x' * 20}-{i}{back}" for i in range(12)]
    shown = shortened_apart([*names, "short"])
    assert len({*shown.values()}) == 13 and shown["short"] == "short"
    assert all(len(of) <= 42 for of in shown.values()) and all(f"…{i}" in shown[names[i]] for i in range(12))
    ends = [f"{'x' * 10}{i}{'y' * 60}" for i in range(2)]  # told apart at their beginning
    assert [*shortened_apart(ends).values()] == [shortened(name) for name in ends]


def test_letters_that_the_font_lacks_are_said_once(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with missing_letters_said_once():
            for name in ("\U000f0000", "a \U000f0001\U000f0000"):  # of nobody's alphabet
                figure = Figure()
                figure.subplots().set_title(name)
                save(figure, tmp_path / "figure")
            warnings.warn("another", UserWarning, stacklevel=1)
    said = [str(one.message) for one in caught]
    assert len(said) == 2 and said[0] == "another"
    assert "has no \U000f0000\U000f0001: PDF and PNG show boxes" in said[1]
