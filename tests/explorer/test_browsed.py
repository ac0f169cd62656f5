"""A run that is looked through shows the numbers it holds, and nothing that its data say can run."""

from __future__ import annotations

from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmerank import (
    Convention,
    Example,
    PruneConvention,
    align,
    diff,
    encode,
    generate,
    load,
    load_data,
    load_encoder,
    load_text,
    perturb,
    prune_study,
)
from mmerank.convention import GenerationConvention
from mmerank.errors import DataError, RunFolderError
from mmerank.jobs.explorer.browsed import Browsed
from mmerank.runs.folder import RunFolder
from mmerank.runs.parts import parts_by_example, records_in
from tests.adapters.cases import CASES, LLAVA, examples
from tests.adapters.text_cases import OPT

EVIL = "<img src=x onerror=alert(1)>"


def hostile() -> list[Example]:
    first, second, third = examples()
    return [first, Example(EVIL, second.image, "", f"{EVIL} {second.text}"), third]


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "aligned"
    align(LLAVA.adapter, hostile(), out=folder, layers="all", convention=Convention(patches=True))
    return folder


def value(label: str, number: float, decimals: int = 2) -> str:
    return f'<span class="value" data-label="{label}">{number:.{decimals}f}</span>'


def test_its_table_and_an_example_have_the_numbers_of_the_run(aligned: Path) -> None:
    browsed = Browsed(aligned)
    expected = {one.id: align(LLAVA.adapter, [one]) for one in hostile()}
    assert sorted(browsed.table["id"]) == sorted(expected)
    for row in browsed.table.itertuples(index=False):
        shown, of = browsed.looked_at(list(row)), expected[str(row.id)]
        assert row.eRank5 == pytest.approx(of.erank5, abs=1e-4)
        assert value("erank1", of.erank1) in shown and value("erank5", of.erank5) in shown
        assert value("image_text_alignment", of.image_text_alignment, 4) in shown
        assert "Where the rank lies" in shown and "layer of the LLM" in shown
        assert "<img src=x" not in shown
    assert "Without texts and pictures" in browsed.head


def test_a_transform_stands_beside_the_untouched_picture(tmp_path: Path) -> None:
    result = perturb(LLAVA.adapter, examples(), ["rotate:90"], out=tmp_path / "run")
    browsed = Browsed(tmp_path / "run")
    turned = browsed.table[browsed.table["transform"] == "rotate:90"]
    frame = result.to_pandas()
    for row in turned.itertuples(index=False):
        shown = browsed.looked_at(list(row))
        alone = frame[(frame["example"] == row.id) & (frame["point"] == "vision")].set_index("transform")["erank"]
        assert value("erank1", alone["rotate:90"]) in shown and f"before {alone['none']:.2f}" in shown


def test_all_models_of_a_run_stand_side_by_side(tmp_path: Path) -> None:
    from mmerank.inputs.pictures import MAX_PIXELS
    from mmerank.inputs.selection import ALL
    from mmerank.jobs.align import open_align_run

    folder: RunFolder = open_align_run(tmp_path, examples(), Convention(), max_pixels=MAX_PIXELS, selection=ALL)
    results = [align(case.adapter, examples(), out=folder) for case in CASES[:2]]
    folder.write_summary({"results": [result.to_dict() for result in results]})
    browsed = Browsed(tmp_path)
    shown = browsed.looked_at(list(browsed.table.iloc[0]))
    assert [shown.count(f"<h2>{result.model}</h2>") for result in results] == [1, 1]


def test_what_cannot_be_looked_at_is_refused(aligned: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no example 'nobody'"):
        Browsed(aligned).looked_at(["nobody", "x"])
    with pytest.raises(DataError, match="no example"):
        Browsed(aligned).looked_at([])
    with pytest.raises(RunFolderError, match="no such folder"):
        Browsed(tmp_path / "nothing")


def test_runs_of_every_other_job_are_looked_through(tmp_path: Path) -> None:
    from tests.encoder_models import save_clip

    clip = load_encoder(str(save_clip(tmp_path / "clip")), device="cpu")
    opt = load_text(OPT.folder, device="cpu")
    texts = [Example(of.id, None, "", of.response) for of in examples()]
    how = GenerationConvention(max_new_tokens=9, sequence="bare")
    made: dict[str, Any] = {
        "diff": diff(opt, texts, out=tmp_path / "diff", layers="all", inside="last"),
        "generate": generate(opt, texts, out=tmp_path / "generate", convention=how),
        "encode": encode(clip, examples(), out=tmp_path / "encode", layers="all"),
        "perturbed": perturb(clip, examples(), ["rotate:90"], out=tmp_path / "perturbed"),
    }
    for name, result in made.items():
        browsed = Browsed(tmp_path / name)
        row = list(browsed.table.iloc[-1])
        shown = browsed.looked_at(row)
        given = dict(zip(browsed.table.columns, row, strict=True))
        frame = result.to_pandas()
        here = frame[(frame["example"] == given["id"]) & (frame["transform"] == given.get("transform", "none"))]
        label, point = {
            "diff": ("eRank trained", here[(here["point"] == "final") & ~here["model"].str.startswith("untrained")]),
            "generate": ("eRank of the response", here[here["input"] == "response"]),
        }.get(name, ("eRank images", here[(here["input"] == "image") & ~here["model"].str.startswith("untrained")]))
        number = f"{point['erank'].iloc[-1]:.2f}"
        assert f'<span class="value">{number}</span>' in shown, (name, label)
        assert "eigenvalue" in shown, "its spectra"
        assert ("layer of the model" in shown) == (name not in ("generate",))
    (*_, last) = [of for of in made["generate"].records if of.written]
    assert f"It wrote: {last.written}" in unescape(Browsed(tmp_path / "generate").looked_at([last.example]))
    assert "Faint: before the change" in Browsed(tmp_path / "perturbed").looked_at(
        list(Browsed(tmp_path / "perturbed").table.query("transform != 'none'").iloc[0])
    )


def test_spectra_of_a_run_are_those_that_were_measured(aligned: Path) -> None:
    first = next(iter(examples()))
    measured = {(of.point, of.input): of.spectrum for of in align(LLAVA.adapter, [first]).records}
    browsed = Browsed(aligned)
    parts = parts_by_example(aligned)
    found = records_in(parts[str(first.id)], aligned, str(first.id))
    for record in found:
        if (where := (record.point, record.input)) in measured:
            assert np.allclose(record.spectrum, measured[where], atol=1e-6)
    assert {(of.point, of.input) for of in found} >= set(measured)
    row = list(browsed.table[browsed.table["id"] == str(first.id)].iloc[0])
    assert "rank of the eigenvalue" in browsed.looked_at(row)


def test_what_is_drawn_of_an_example_is_of_all_its_rows(tmp_path: Path) -> None:
    """A layer is no update of a block, and rows that were kept are a part of others."""
    opt = load_text(OPT.folder, device="cpu")
    texts = [Example(of.id, None, "", of.response) for of in examples()]
    diff(opt, texts, out=tmp_path / "with", layers="all", inside="all")
    diff(opt, texts, out=tmp_path / "without", layers="all")
    drawn = [Browsed(tmp_path / name).looked_at([texts[0].id]) for name in ("with", "without")]
    curves = [[part for part in shown.split("<svg") if "layer of the model" in part] for shown in drawn]
    assert curves[0] == curves[1] and len(curves[0]) == 1
    few = PruneConvention(keep=(0.5,), by=("random",), draws=2)
    prune_study(load("demo-llava"), load_data("demo"), convention=few, limit=1, out=tmp_path / "pruned")
    shown = Browsed(tmp_path / "pruned").looked_at(list(Browsed(tmp_path / "pruned").table.iloc[0]))
    assert ">whole</text>" in shown and "random@" not in shown and "layer of the model" not in shown
