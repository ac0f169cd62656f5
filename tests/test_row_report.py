"""What a person sees of rows and companions, and what a script reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmerank import Convention, align
from mmerank.eranks import ERANKS
from mmerank.report.terminal.intervals import interval_text
from mmerank.runs.folder import RunFolder
from tests.adapters.cases import LLAVA, examples
from tests.conftest import GOLDEN
from tests.test_cli import failure, results, run

HF_MODEL = str(GOLDEN / "llava_tiny" / "hf_model")
OPTIONS = ("--match-tokens", "20", "--match-repeats", "3", "--token-curve", "32, 8,16,8", "--rows", "--companions")


@pytest.fixture
def data(golden_pairs: Path, golden: Path) -> str:
    return f"llava:{golden_pairs}?images={golden}/images"


def test_command_line_and_python_agree(data: str, tmp_path: Path) -> None:
    (printed,) = results(
        run("align", HF_MODEL, "--data", data, *OPTIONS, "--json", "-", "--out", str(tmp_path / "r"))
    )
    convention = Convention(match_tokens=20, match_repeats=3, token_curve=(8, 16, 32), rows=True, companions=True)
    assert printed["convention"] == convention.to_dict()
    result = align(LLAVA.adapter, examples(), convention=convention)
    for name in ("matched", "token_curve", "rows", "companions"):
        assert printed[name] == json.loads(json.dumps(getattr(result, name))), name
    (again,) = results(run("align", HF_MODEL, "--data", data, *OPTIONS, "--json", "-", "--out", str(tmp_path / "r")))
    assert again == printed  # from the records alone
    other = run("align", HF_MODEL, "--data", data, "--out", str(tmp_path / "r"))
    assert other.returncode == 1 and "convention.match_tokens: 20 there, null here" in other.stderr


def test_plain_runs_have_none_of_it(data: str, tmp_path: Path) -> None:
    (printed,) = results(run("align", HF_MODEL, "--data", data, "--json", "-"))
    assert not {"matched", "token_curve", "rows", "companions"} & printed.keys()


def test_a_run_of_before_rows_is_continued(data: str, tmp_path: Path) -> None:
    """Its settings know nothing of them, and its records have no such columns."""
    folder = tmp_path / "r"
    (first,) = results(run("align", HF_MODEL, "--data", data, "--json", "-", "--out", str(folder)))
    settings = json.loads((folder / "run.json").read_text())
    assert set(settings["convention"]) == {
        "sequence", "image_layout", "tokens", "vision_point", "centre", "precision", "aggregate",
    }  # fmt: skip
    (again,) = results(run("align", HF_MODEL, "--data", data, "--json", "-", "--out", str(folder)))
    assert again == first


def test_numbers_of_rows_that_no_example_has(data: str) -> None:
    done = run("align", HF_MODEL, "--data", data, "--token-curve", "8,5000")
    assert done.returncode == 0 and "-: no example has as many rows there" in done.stdout
    assert "no example has" not in run("align", HF_MODEL, "--data", data, "--token-curve", "8").stdout


def test_captions_say_what_the_columns_are(data: str) -> None:
    printed = " ".join(run("align", HF_MODEL, "--data", data, *OPTIONS).stdout.split())
    assert "20 rows: drawn at random" in printed and "standard deviation of a single one" in printed
    assert "strongest: the row furthest from the centre" in printed and "decisive: the row whose removal" in printed


def test_tables(data: str) -> None:
    done = run("align", HF_MODEL, "--data", data, *OPTIONS)
    assert done.returncode == 0, done.stderr
    for words in (
        "on 20 rows each, n = 3",
        "eRank by number of rows",
        "strongest",
        "various rows",  # where the examples do not agree
        "bos '<s>'",
        "linear CKA, connector",
        "mutual 1-NN, llm",
        "20 rows each: n = 3 of 3 examples, mean of 3 draws",
    ):
        assert words in done.stdout, words


def test_matched_stand_beside_all_rows() -> None:
    result = align(LLAVA.adapter, examples(), convention=Convention(match_tokens=20))
    assert result.matched is not None
    lines = str(result).splitlines()
    for i, label in enumerate(ERANKS, start=1):
        _, line = [line for line in lines if line.startswith(f"│ eRank{i} ")]
        interval = interval_text(tuple(result.matched["intervals"][label]), 2)
        cells = [cell.strip() for cell in line.split("│")[2:-1]]
        spread = result.matched["stdev_of_a_draw"][label]
        assert cells == [f"{getattr(result, label):.2f}", f"{result.matched[label]:.2f} {interval}", f"{spread:.2f}"]


def test_left_out_examples_are_said() -> None:
    shortest = min(r.n for r in align(LLAVA.adapter, examples()).records)
    counts = sorted(r.n for r in align(LLAVA.adapter, examples()).records if r.input == "text")
    k = min(counts[1], LLAVA.adapter.image_tokens)
    result = align(LLAVA.adapter, examples(), convention=Convention(match_tokens=k, token_curve=(k,)))
    assert result.matched is not None and (result.matched["n"], result.matched["left_out"]) == (2, 1)
    assert f"{k} rows each: n = 2 of 3 examples" in str(result)
    assert f"the others have fewer rows somewhere; {shortest} rows would leave none out" in str(result)
    assert "[2]" in str(result) and "in brackets: on how many of 3 examples" in str(result)


def test_no_example_can_be_matched() -> None:
    short = [type(example)(example.id, example.image, "", "Two words.") for example in examples()]
    result = align(LLAVA.adapter, short, convention=Convention(match_tokens=30))
    assert result.matched is not None and result.matched["n"] == 0 and result.matched["erank1"] is None
    shown = str(result)
    assert "no example has 30 rows everywhere" in shown and "--match-tokens 7 would leave none out" in shown
    json.dumps(result.to_dict(), allow_nan=False)


def blown_up(point: str, row: int) -> Any:
    where = LLAVA.adapter.points[point].module
    assert isinstance(where, str)

    def blow_up(module: Any, args: Any, output: Any) -> Any:
        output = output.clone()
        output[:, row] *= 1000
        return output

    return LLAVA.adapter.model.get_submodule(where).register_forward_hook(blow_up)


def test_a_row_that_decides_is_warned_of_by_name() -> None:
    handle = blown_up("llm", 0)
    try:
        result = align(LLAVA.adapter, examples(), convention=Convention(rows=True))
    finally:
        handle.remove()
    warnings = [line.strip() for line in str(result).splitlines() if "warning" in line]
    assert [line.split(" changes")[0] for line in warnings] == [
        f"warning: without one row eRank{i}" for i in (3, 4, 5)
    ]
    assert all("in 3 of 3 examples the row is bos '<s>'" in line for line in warnings)
    assert result.rows is not None and result.rows["erank5"]["change_without_strongest"] > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--token-curve", "8,x"), "'x': expected numbers from 3 on"),
        (("--token-curve", "2,8"), "'2': expected numbers from 3 on"),
        (("--match-tokens", "2"), "Invalid value for '--match-tokens'"),
        (("--match-repeats", "0"), "Invalid value for '--match-repeats'"),
    ],
)
def test_wrong_numbers_are_wrong_usage(data: str, options: tuple[str, str], message: str) -> None:
    done = run("align", HF_MODEL, "--data", data, *options)
    assert done.returncode == 2 and message in " ".join(done.stderr.replace("│", " ").split())


def test_more_rows_than_a_picture_has(data: str) -> None:
    status, line = failure("align", HF_MODEL, "--data", data, "--match-tokens", "37")
    assert status == 2 and "a picture has only 36 behind the connector" in line


def test_records_in_a_run_folder_keep_everything(tmp_path: Path) -> None:
    convention = Convention(match_tokens=20, token_curve=(8, 16), rows=True, companions=True)
    first = align(LLAVA.adapter, examples(), convention=convention, out=tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    folder = RunFolder(tmp_path / "run", {key: value for key, value in settings.items() if key != "models"})
    read = {(r.example, r.point, r.input): r for r in folder.records()}
    for written in first.records:
        kept = read[written.example, written.point, written.input]
        for name in ("matched", "curve", "mean_state"):
            assert getattr(kept, name).tolist() == getattr(written, name).tolist()
        for name in ("strongest_row", "strongest_token", "decisive_token", "entropy_without_strongest"):
            assert getattr(kept, name) == getattr(written, name)


def test_perturb_takes_the_same_options(data: str) -> None:
    done = run("perturb", HF_MODEL, "--data", data, "--transform", "rotate:90", *OPTIONS, "--json", "-")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    (rotated,) = printed["transforms"]
    for found in (printed["base"], rotated):
        assert found["matched"]["tokens"] == 20 and found["token_curve"]["tokens"] == [8, 16, 32]
        assert "erank5" in found["rows"] and "cka" in found["companions"]
    shown = run("perturb", HF_MODEL, "--data", data, "--transform", "rotate:90", "--match-tokens", "20", "--all")
    assert "base: on 20 rows each, n = 3" in shown.stdout and "rotate:90: on 20 rows each, n = 3" in shown.stdout
