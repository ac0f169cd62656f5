"""A result read back from its run folder is the one that was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmerank import Convention, align, diff, encode, load_data, load_encoder, perturb
from mmerank.analysis.results.diff import Accuracy
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.errors import RunFolderError, UsageError
from mmerank.jobs.align import Alignment, open_align_run
from mmerank.jobs.diff import Diff
from mmerank.jobs.encode import Encoding
from mmerank.jobs.perturb import Perturbation
from mmerank.runs.folder import versions
from tests.adapters.cases import LLAVA, MINIGPT_V2
from tests.adapters.text_cases import OPT
from tests.encoder_models import save_timm
from tests.test_diff_erank import texts

FULL = Convention(
    match_tokens=4, token_curve=(3, 4), rows=True, companions=True, metrics=("stable_rank", "cka_linear_unbiased")
)


def stated(result: Any) -> Any:
    """As JSON has it, so that tuples and lists are the same."""
    return json.loads(json.dumps(result.to_dict()))


@pytest.fixture(scope="module")
def data(golden_pairs: Path, golden: Path) -> Any:
    return load_data(f"llava:{golden_pairs}?images={golden}/images")


def test_alignment(data: Any, tmp_path: Path) -> None:
    measured = align(LLAVA.adapter, data, convention=FULL, layers="all", limit=3, seed=1, out=tmp_path / "run")
    found = Alignment.from_run(tmp_path / "run")
    assert isinstance(found, Alignment) and stated(found) == stated(measured)
    assert found.to_pandas().drop(columns="spectrum").equals(measured.to_pandas().drop(columns="spectrum"))
    assert all((a.spectrum == b.spectrum).all() for a, b in zip(found.records, measured.records, strict=True))
    assert str(found) == str(measured)


def test_perturbation(data: Any, tmp_path: Path) -> None:
    measured = perturb(
        LLAVA.adapter,
        data,
        ["rotate:90", "shuffle-words"],
        controls=["mismatch"],
        control_draws=3,
        out=tmp_path / "run",
    )
    found = Perturbation.from_run(tmp_path / "run")
    assert isinstance(found.base, Alignment) and stated(found) == stated(measured)
    assert [of.transform for of in found.transforms] == ["rotate:90", "shuffle-words"]
    assert found.records[0].transform == "none" and str(found) == str(measured)


def test_diff(tmp_path: Path) -> None:
    measured = diff(OPT.adapter, texts(4), layers="all", seeds=(0, 3), out=tmp_path / "run")
    assert stated(Diff.from_run(tmp_path / "run")) == stated(measured)
    # What a command adds.
    measured = replace(measured, accuracy={"piqa": Accuracy(0.5, math.nan, 8)}, name="mine")
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"results": [measured.to_dict()]}))
    found = Diff.from_run(tmp_path / "run")
    assert stated(found) == stated(measured) and found.accuracy["piqa"].n == 8


def test_encoding(tmp_path: Path) -> None:
    encoder = load_encoder(save_timm(tmp_path / "m.pth", "test_resnet"), device="cpu")
    measured = encode(encoder, load_data("demo"), limit=5, untrained_seed=2, out=tmp_path / "run")
    found = Encoding.from_run(tmp_path / "run")
    assert stated(found) == stated(measured) and found.untrained_seed == 2


def test_it_keeps_what_the_run_was_made_with(data: Any, tmp_path: Path) -> None:
    align(LLAVA.adapter, data, out=tmp_path / "run")
    with changed(tmp_path / "run" / "summary.json") as summary:
        (result,) = summary["results"]
        result["versions"]["torch"] = "1.0"
        result["bootstrap"]["level"] = 0.5
    found = Alignment.from_run(tmp_path / "run")
    assert found.versions == {**versions(), "torch": "1.0"} and found.bootstrap == Bootstrap(level=0.5)


def test_one_of_several_models(data: Any, tmp_path: Path) -> None:
    run = open_align_run(tmp_path / "run", data, Convention(), max_pixels=10**8)
    results = [align(case.adapter, data, out=run) for case in (LLAVA, MINIGPT_V2)]
    run.write_summary({"results": [result.to_dict() for result in results]})
    for result in results:
        assert stated(Alignment.from_run(tmp_path / "run", result.model)) == stated(result)
    with pytest.raises(UsageError, match=f"holds several models, {results[0].model}, .*model="):
        Alignment.from_run(tmp_path / "run")
    with pytest.raises(UsageError, match="no model 'nonsense'; it has"):
        Alignment.from_run(tmp_path / "run", "nonsense")


def test_what_is_no_result(data: Any, tmp_path: Path) -> None:
    align(LLAVA.adapter, data, out=tmp_path / "run")
    with pytest.raises(RunFolderError, match="expected a run of diff, got one of align"):
        Diff.from_run(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"not a run folder \(no run.json\)"):
        Alignment.from_run(tmp_path)
    with changed(tmp_path / "run" / "summary.json") as summary:
        summary["results"][0]["n"] = 2
    with pytest.raises(RunFolderError, match="stands on 2 examples of .*, and there are records of 3"):
        Alignment.from_run(tmp_path / "run")
    with changed(tmp_path / "run" / "summary.json") as summary:
        summary["results"][0] |= {"n": 3, "bootstrap": {"level": 2}}
    with pytest.raises(RunFolderError, match=r"summary.json: not what a run writes \(bootstrap: level"):
        Alignment.from_run(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(RunFolderError, match=r"not finished \(no summary.json\)"):
        Alignment.from_run(tmp_path / "run")


@contextmanager
def changed(path: Path) -> Iterator[Any]:
    content = json.loads(path.read_text())
    yield content
    path.write_text(json.dumps(content))
