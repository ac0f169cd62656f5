"""What each row adds, in a run: the rows that were measured, kept, read back, shared and shown."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmerank import Alignment, Convention, align, capture, load_data, perturb, wrap
from mmerank.errors import RunFolderError, UsageError
from mmerank.report.write import report
from mmerank.runs.parts import part_files, write_part
from mmerank.runs.record import PATCHES, SCHEMA, Record
from mmerank.runs.shared import share
from tests import reference
from tests.adapters.cases import LLAVA, examples
from tests.adapters.test_several import SEVERAL
from tests.adapters.tiny_models import built
from tests.kill_loop import pairs
from tests.test_cli import HF_MODEL, results, run
from tests.test_processes import shared_by

ASKED = Convention(patches=True)
MAPPED = ("erank1", "erank2", "erank5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, golden: Path, golden_pairs: Path) -> Path:
    out = tmp_path_factory.mktemp("patches") / "run"
    align(LLAVA.adapter, load_data(f"llava:{golden_pairs}?images={golden}/images"), convention=ASKED, out=out)
    return out


def brute(h: Any) -> Any:
    rows = h.double().numpy()
    return np.array(
        [reference.entropy(rows) - reference.entropy(np.delete(rows, i, axis=0)) for i in range(len(rows))]
    )


def test_contributions_are_those_of_the_rows_that_were_measured() -> None:
    (example, *_) = examples()
    model, points = LLAVA.adapter.model, LLAVA.adapter.points
    with capture(model, points, calls=None) as seen:
        result = align(LLAVA.adapter, [example], convention=ASKED)
    maps = result.patches(example.id)
    assert tuple(maps) == MAPPED
    for label, point in zip(MAPPED, points, strict=True):
        n = maps[label].n
        *_, h = (h[0] for h in seen[point] if h.shape[1] == n)  # before, places were looked for
        expected = brute(h)
        assert maps[label].contributions == pytest.approx(expected, abs=1e-9)
        assert maps[label].decisive == np.abs(expected).argmax()
        assert maps[label].erank_ratios == pytest.approx(np.exp(expected), abs=1e-9)


def test_rows_are_named_and_placed() -> None:
    example = examples()[0]
    (of1, of2, of5) = align(LLAVA.adapter, examples(), convention=ASKED).patches(example.id).values()
    sequence = LLAVA.adapter.sequence(example, "pair", "bare")
    assert of1.tokens == ("",) * LLAVA.adapter.image_tokens
    assert of5.tokens[0] == "bos '<s>'" and of5.named(1) == "image row 0"
    assert of5.named(of5.n - 1) == f"text {LLAVA.adapter.tokenizer.decode([sequence.ids[-1]])!r}"
    for of in (of1, of2, of5):
        assert not of.why and of.places is not None and len(of.places) == len(of.pictured) == 36
        (layer,) = of.layers
        boxes = of.places[np.searchsorted(of.pictured, layer)]
        sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        assert sizes.sum() == pytest.approx(1, abs=0.1)
        assert sorted([*layer, *of.elsewhere]) == of.pictured.tolist()
        table = of.to_pandas()
        assert table["contribution"].tolist() == of.contributions.tolist()
        assert table["left"].notna().sum() == len(layer)


def test_nothing_else_changes() -> None:
    plain, asked = align(LLAVA.adapter, examples()), align(LLAVA.adapter, examples(), convention=ASKED)
    assert [r.entropy for r in plain.records] == [r.entropy for r in asked.records]
    assert plain.leave_one_out is None and "patches" not in plain.to_dict()["convention"]
    with pytest.raises(UsageError, match="--patches, asks for it"):
        plain.patches("0")
    with pytest.raises(UsageError, match="no example 'nobody'"):
        asked.patches("nobody")
    assert [r.point for r in asked.records if r.contributions is not None][:3] == ["vision", "connector", "llm"]


def test_batches_change_nothing() -> None:
    one, many = (
        align(LLAVA.adapter, examples(), convention=ASKED, batch_tokens=n, share_prefix=n == 0) for n in (0, 10_000)
    )
    for a, b in zip(one.records, many.records, strict=True):
        if a.contributions is not None and a.places is not None and b.places is not None:
            assert a.contributions == pytest.approx(b.contributions, abs=1e-5)
            assert np.array_equal(a.places, b.places, equal_nan=True)


def test_a_run_is_read_back_and_continued(folder: Path, golden: Path, golden_pairs: Path) -> None:
    data = load_data(f"llava:{golden_pairs}?images={golden}/images")
    fresh, kept = align(LLAVA.adapter, data, convention=ASKED), Alignment.from_run(folder)
    (part,) = part_files(folder)
    table = pq.read_table(part)
    first = [r for r in kept.records if r.example == kept.records[0].example]
    assert table.column_names == [*SCHEMA.names, *(of.name for of in PATCHES)]
    part.unlink()  # a run that ended after its first example
    write_part(part.with_name("000000.parquet"), [replace(r, model=LLAVA.adapter.name) for r in first])
    continued = align(LLAVA.adapter, data, convention=ASKED, out=folder)
    assert len(part_files(folder)) == 2
    for result in (kept, continued, Alignment.from_run(folder)):
        assert result.leave_one_out == fresh.leave_one_out
        for example in {r.example for r in fresh.records}:
            for a, b in zip(fresh.patches(example).values(), result.patches(example).values(), strict=True):
                assert np.array_equal(a.contributions, b.contributions) and a.tokens == b.tokens
                assert a.places is not None and b.places is not None
                assert np.array_equal(a.places, b.places, equal_nan=True)
    assert continued.leave_one_out
    assert continued.leave_one_out["erank5"] == {
        "n": 3,
        "measured": 3,
        "placed": 3,
        "decisive_of_picture": continued.leave_one_out["erank5"]["decisive_of_picture"],
        "without": {},
    }


def test_processes_that_share_the_work_find_the_same(tmp_path: Path) -> None:
    entries = [entry for entry in pairs(12) if entry.image is not None]
    whole = align(LLAVA.adapter, entries, convention=ASKED)
    shared_by(2, lambda: align(LLAVA.adapter, entries, convention=ASKED, out=tmp_path / "run"), tmp_path)
    assert len({part.stem.split("-")[1] for part in part_files(tmp_path / "run")}) == 2, "each did something"
    found = align(LLAVA.adapter, entries, convention=ASKED, out=tmp_path / "run")
    assert found.to_dict() == whole.to_dict() and found.leave_one_out
    for entry in entries:
        for label, of in whole.patches(entry.id).items():
            other = found.patches(entry.id)[label]
            assert np.array_equal(of.contributions, other.contributions) and of.tokens == other.tokens
            assert of.places is not None and other.places is not None
            assert np.array_equal(of.places, other.places, equal_nan=True)


def test_the_command(golden: Path, golden_pairs: Path) -> None:
    data = f"llava:{golden_pairs}?images={golden}/images"
    done = run("align", HF_MODEL, "--data", data, "--patches", "--json", "-")
    (result,) = results(done)
    whole = align(LLAVA.adapter, load_data(data), convention=ASKED)
    assert result["leave_one_out"] == whole.leave_one_out and result["convention"]["patches"]
    assert result["leave_one_out"]["erank5"]["measured"] == result["n"] == 3
    shown = run("align", HF_MODEL, "--data", data, "--patches").stdout
    assert "eRank5: what each row adds in 3 of 3 examples, with its place in the picture in 3" in shown


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"contributions": np.zeros(3)}, "contributions of example"),
        ({"contributions": np.full(36, 99.0)}, "contributions of example"),
        ({"row_tokens": ["text 'a'"]}, "row_tokens of example"),
        ({"places": np.full(4, 1.5, np.float32)}, "places of example"),
        ({"places": np.zeros(6, np.float32)}, "places of example"),
    ],
)
def test_what_cannot_be_is_damage(folder: Path, tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    for name in ("run.json", "summary.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "records").mkdir()
    first, *others = Alignment.from_run(folder).records
    assert first.point == "vision"
    write_part(tmp_path / "records" / "000000.parquet", [replace(first, **changed), *others])
    with pytest.raises(RunFolderError, match=message):
        Alignment.from_run(tmp_path)


def test_too_many_rows_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmerank.states.reductions.MOST_MAPPED", 36)
    result = align(LLAVA.adapter, examples(), convention=ASKED)
    assert result.leave_one_out is not None
    assert result.leave_one_out["erank5"]["measured"] == 0 and result.leave_one_out["erank1"]["measured"] == 3
    assert next(iter(result.leave_one_out["erank5"]["without"])).startswith("more than 1024 rows")
    of = result.patches("0")["erank5"]
    assert of.decisive is None and of.layers and of.to_pandas()["contribution"].isna().all()


def test_rows_of_queries_have_no_map() -> None:
    adapter = wrap(*built("blip_2")[:2], name="blip_2")
    maps = align(adapter, examples()[:1], convention=ASKED).patches(0)
    assert maps["erank1"].layers and not maps["erank2"].layers
    assert "each is made of all of it" in maps["erank2"].why and len(maps["erank2"].elsewhere) == maps["erank2"].n


def test_several_pictures_and_transforms() -> None:
    adapter = wrap(*built("qwen2_vl")[:2], name="qwen2_vl")
    result = align(adapter, SEVERAL, convention=ASKED)
    whys = {of.why for example in SEVERAL if len(example.pictures) > 1 for of in result.patches(example.id).values()}
    assert whys == {"where the rows of several pictures lie is not looked for"}
    changed = perturb(LLAVA.adapter, examples()[:1], ["rotate:90"], convention=ASKED)
    assert {r.transform for r in changed.records if r.contributions is not None} == {"none"}


def test_shared_without_tokens(folder: Path, tmp_path: Path) -> None:
    share(folder, tmp_path / "copy")
    mine, its = Alignment.from_run(folder), Alignment.from_run(tmp_path / "copy")
    for a, b in zip(mine.records, its.records, strict=True):
        if a.contributions is not None and a.row_tokens is not None and b.row_tokens is not None:
            assert np.array_equal(a.contributions, b.contributions)  # type: ignore[arg-type]
            hidden = [f"{token.split()[0]} token {i}" if token else "" for i, token in enumerate(a.row_tokens)]
            assert list(b.row_tokens) == hidden


def words_of(record: Record) -> set[str]:
    if record.row_tokens is None:
        return set()
    return {token for token in record.row_tokens if token.startswith("text") and len(token) > 9}


def test_the_page(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and tokens stand there as far as those of examples do anyway."""
    monkeypatch.chdir(tmp_path)
    shown, hidden = (
        Path(report([folder], tmp_path / str(with_data), formats=["html"], with_data=with_data)[0]).read_text()
        for with_data in (True, False)
    )
    assert all('<section id="maps">' in page and page.count("Heat map, ") >= 6 for page in (shown, hidden))
    for page in (shown, hidden):
        drawn = page.split('<section id="maps">')[1].split("</section>")[0]
        told = re.findall(r'<svg viewBox="[^"]+" role="img" aria-label="([^"]*)">', drawn)
        assert len(told) == drawn.count('<figure class="panel">') >= 6
        number = r"[+-]0\.\d{5}"
        alt = rf"Heat map, \d+ rows over the picture: from {number} to {number} nats|Strip of cells, of no place .+"
        assert not [words for words in told if not re.fullmatch(alt, words)]
    assert "data:image/jpeg" in shown and "<use href=" in shown and "Decisive: " in shown
    assert "data:image/jpeg" not in hidden and "<use href=" not in hidden and "text token 4" in hidden
    tokens = set().union(*(words_of(r) for r in Alignment.from_run(folder).records))
    assert tokens and not [token for token in tokens if json.dumps(token)[1:-1].replace("'", "&#39;") in hidden]
    assert any(token.replace("'", "&#39;") in shown for token in tokens)
