"""The command line as a person meets it: its streams and its exit status."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mmerank.__main__ import main
from tests import forked
from tests.adapters.cases import CASES, Case
from tests.conftest import GOLDEN, LONGEST_S

HF_MODEL = str(GOLDEN / "llava_tiny" / "hf_model")


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str) -> Done:
    """The command line in this process: imports are what most of a fresh one would do."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(list(arguments))
            status: Any = 0
        except SystemExit as exit_:
            status = exit_.code or 0
    return Done(status, out.getvalue(), err.getvalue())


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run(["-m", "mmerank", *arguments], timeout=LONGEST_S)


def results(done: Done) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return found


@pytest.fixture
def data(golden_pairs: Path, golden: Path) -> str:
    return f"llava:{golden_pairs}?images={golden}/images"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_numbers_through_json(case: Case, data: str) -> None:
    for (form, layout), family in case.families.items():
        options = ("--sequence", form, "--image-layout", layout, "--json", "-")
        (result,) = results(run("align", str(GOLDEN / case.name / case.checkpoint), "--data", data, *options))
        expected = case.eranks["families"][family]
        for i in range(1, 6):
            assert result[f"erank{i}"] == pytest.approx(expected[f"eRank{i}"], rel=1e-5)
        for ratio in ("image_reduction_ratio", "image_text_alignment"):
            assert result[ratio] == pytest.approx(expected[ratio], rel=1e-5)
        assert result["n"] == 3 and result["skipped"] == [] and result["data"] == data
        assert result["convention"]["sequence"] == form and result["convention"]["image_layout"] == layout


def test_two_models_one_table_and_a_run_folder(data: str, tmp_path: Path) -> None:
    out, file = tmp_path / "run", tmp_path / "out.json"
    done = run("align", HF_MODEL, "demo", "--data", data, "--out", str(out), "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "llava_tiny/hf_model" in done.stdout and "demo" in done.stdout and "eRank5" in done.stdout
    written = json.loads(file.read_text())
    assert written == json.loads((out / "summary.json").read_text())
    assert [r["model"] for r in written["results"]] == [HF_MODEL, "demo"]
    (comparison,) = written["comparisons"]
    assert (comparison["a"], comparison["b"], comparison["n"], comparison["exact"]) == (HF_MODEL, "demo", 3, True)
    difference = {row["quantity"]: row["difference"] for row in comparison["differences"]}["erank5"]
    first, second = written["results"]
    assert difference == pytest.approx(first["erank5"] - second["erank5"])
    assert first["intervals"]["erank5"][0] <= first["erank5"] <= first["intervals"]["erank5"][1]
    assert "all 8 swaps" in done.stdout
    assert len(list((out / "records").glob("*.parquet"))) == 2
    again = run("align", HF_MODEL, "demo", "--data", data, "--out", str(out), "--json", "-")
    assert results(again) == written["results"]
    other = run("align", HF_MODEL, "--data", data, "--out", str(out), "--tokens", "modality")
    assert other.returncode == 1 and "convention.tokens" in other.stderr


def test_demo(tmp_path: Path) -> None:
    options = ("demo", "--out", str(tmp_path / "demo"), "--json", str(tmp_path / "demo.json"))
    done = run(*options)
    assert done.returncode == 0, done.stderr
    for word in ("demo-llava", "demo-minigpt-v2", "Image-Text Alignment", "untrained", "What the numbers mean"):
        assert word in done.stdout
    llava, minigpt = json.loads((tmp_path / "demo.json").read_text())["results"]
    for stop in (llava, minigpt):
        for run_ in (stop["trained"], stop["untrained"]):
            assert run_["base"]["n"] == 64 and run_["base"]["skipped"] == []
            (turned,) = run_["transforms"]
            assert turned["transform"] == "rotate:90" and turned["delta"]["erank4"] == 0 != turned["delta"]["erank1"]
        assert stop["trained"]["base"]["erank4"] != stop["untrained"]["base"]["erank4"]
        assert min(stop["captions"]["accuracy"].values()) > 0.9
        assert stop["captions"]["loss_mismatched"] > 4 * stop["captions"]["loss"]
    # What the words say is what the table says.
    base = llava["trained"]["base"]
    assert f"takes {base['image_reduction_ratio']:.0%} of eRank1 away" in " ".join(done.stdout.split())
    assert sorted(folder.name for folder in (tmp_path / "demo").iterdir()) == [
        "command.yaml",
        "demo-llava",
        "demo-llava-untrained",
        "demo-minigpt-v2",
        "demo-minigpt-v2-untrained",
    ]
    assert run(*options).stdout == done.stdout  # from the records


def test_demo_export_is_a_data_set(tmp_path: Path) -> None:
    done = run("demo", "--export", str(tmp_path / "world"))
    assert done.returncode == 0 and "64 pairs" in done.stdout
    data = done.stdout.split("--data ")[1].strip()
    (exported,) = results(run("align", "demo-llava", "--data", data, "--limit", "4", "--json", "-"))
    (built_in,) = results(run("align", "demo-llava", "--data", "demo", "--limit", "4", "--json", "-"))
    assert exported["erank5"] == built_in["erank5"] and exported["n"] == 4


def failure(*arguments: str) -> tuple[int, str]:
    """Exit status and message of a call that must fail with one line and no traceback."""
    done = run(*arguments)
    assert done.stdout == "" and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return done.returncode, line


def manifest(tmp_path: Path, content: str) -> str:
    (tmp_path / "data.json").write_text(content)
    return f"llava:{tmp_path}/data.json"


@pytest.mark.parametrize("content", ['[{"id": 1', '{"version": 2, "data": []}', "[]"])
def test_broken_manifest(tmp_path: Path, content: str) -> None:
    status, line = failure("align", HF_MODEL, "--data", manifest(tmp_path, content))
    assert status == 1 and "data.json" in line


def test_missing_checkpoint(data: str, tmp_path: Path) -> None:
    status, line = failure("align", str(tmp_path / "gone"), "--data", data)
    assert status == 1 and "gone" in line


def test_checkpoint_of_an_unknown_class(data: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    status, line = failure("align", str(tmp_path), "--data", data)
    assert status == 1 and "'bert'" in line and "llava" in line


def test_non_finite_states(data: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(HF_MODEL, model)
    state = load_file(model / "model.safetensors")
    for name in state:  # finite themselves, while what they make is not
        if "multi_modal_projector.linear_" in name:
            state[name] *= 1e30
    save_file(state, model / "model.safetensors", metadata={"format": "pt"})
    status, line = failure("align", str(model), "--data", data)
    assert status == 1 and "skipped; first: '" in line and "': hook point 'connector'" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("align", HF_MODEL, "--data", "coco:x"), "unknown data 'coco:x'; known: llava"),
        (("align", HF_MODEL, "--data", "demo", "--dtype", "int8"), "unknown dtype 'int8'; known: float32"),
        (("align", HF_MODEL, "--data", "demo", "--device", "toaster"), "unknown device 'toaster'"),
        (("align", HF_MODEL, "--data", "demo", "--vision-point", "nose"), "known: default, last, with_cls"),
        (("align", HF_MODEL, "--data", "demo", "--json", "/no/such/folder/x.json"), "no such folder to write to"),
        (("align", HF_MODEL, "--data", "demo", "--json", "/proc/x.json"), "--json /proc/x.json: cannot be written"),
    ],
)
def test_wrong_usage_names_what_is_known(arguments: tuple[str, ...], words: str) -> None:
    status, line = failure(*arguments)
    assert status == 2 and words in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("align",),
        ("align", "demo"),
        ("align", "demo", "--data", "demo", "--sequence", "chat"),
        ("algin",),
        ("--flag",),
    ],
)
def test_wrong_usage_of_the_command_line(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "Usage" in done.stderr


def test_exit_status_and_streams_of_a_process(tmp_path: Path, data: str) -> None:
    done = process("align", HF_MODEL, "--data", manifest(tmp_path, "["))
    assert done.returncode == 1 and done.stdout == "" and done.stderr.startswith("error: ")
    done = process("align", HF_MODEL, "--data", data, "--json", "-")
    assert done.returncode == 0 and json.loads(done.stdout)["results"][0]["n"] == 3


def test_debug_shows_where(tmp_path: Path) -> None:
    done = process("align", HF_MODEL, "--data", manifest(tmp_path, "["), "--debug")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_help_and_version() -> None:
    assert "align" in run("--help").stdout
    assert run("--version").stdout.startswith("mmerank ")


def test_skipped_examples_are_listed_and_strict_makes_them_fatal(tmp_path: Path, golden: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Noise."}]
    good = {"id": "good", "image": "img0_96x64.png", "conversations": turns}
    bad = {"id": "b\x1b[31mad", "image": "gone.png", "conversations": turns}
    data = manifest(tmp_path, json.dumps([good, bad])) + f"?images={golden}/images"
    done = run("align", HF_MODEL, "--data", data)
    assert done.returncode == 0 and "n = 1 of 2 examples, 1 skipped" in done.stdout
    assert "skipped b\\x1b[31mad: gone.png: no such file" in done.stdout, (
        "control characters must not reach a terminal"
    )
    status, line = failure("align", HF_MODEL, "--data", data, "--strict")
    assert status == 1 and "gone.png" in line


def test_every_bad_input(shared_data: Path) -> None:
    data = f"llava:{shared_data}/bad/detail_bad.json?images={shared_data}/bad"
    (result,) = results(run("align", HF_MODEL, "--data", data, "--json", "-"))
    assert result["n"] == 5 and result["text_cut"] == 1
    assert [(s["id"], s["reason"].split(" (")[0]) for s in result["skipped"]] == [
        ("missing-image-file", f"does_not_exist.jpg: no such file in {shared_data}/bad"),
        ("path-traversal", "image '../../etc/passwd' points outside the image folder"),
        ("empty-response", "the response is empty"),
        ("no-conversations", "no list of conversations"),
        ("twice", "the id occurs twice; the first record is kept"),
        ("number-as-value", "the gpt turn's value is a number"),
        ("null-as-value", "the gpt turn's value is null, expected text"),
    ]
    for name in ("broken.json", "wrong_schema.json"):
        status, line = failure("align", HF_MODEL, "--data", f"llava:{shared_data}/bad/{name}")
        assert status == 1 and name in line


def test_every_bad_picture(shared_data: Path, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A picture of something."}]
    pictures = sorted(p.name for p in (shared_data / "bad").iterdir() if p.suffix in (".jpg", ".png", ".gif"))
    records = [{"id": name, "image": name, "conversations": turns} for name in pictures]
    data = manifest(tmp_path, json.dumps(records)) + f"?images={shared_data}/bad"
    (result,) = results(run("align", HF_MODEL, "--data", data, "--json", "-"))
    unusable = {"truncated.jpg", "not_an_image.jpg", "zero.jpg", "huge_dimensions.png", "huge_dimensions_short.png"}
    assert {s["id"] for s in result["skipped"]} == unusable
    assert result["n"] == len(pictures) - len(unusable)


def test_real_pictures(shared_data: Path) -> None:
    llava, minigpt = f"llava:{shared_data}/pairs_llava/detail.json", f"minigpt:{shared_data}/pairs_minigpt"
    for data, count in ((llava, 21), (minigpt, 11)):
        (result,) = results(run("align", HF_MODEL, "--data", data, "--json", "-"))
        assert result["n"] == count and result["skipped"] == []
        assert all(1 < result[f"erank{i}"] < result["mean_tokens"][f"erank{i}"] for i in range(1, 6))


def test_a_typo_in_the_last_model_costs_nothing(data: str, tmp_path: Path) -> None:
    status, line = failure("align", HF_MODEL, str(tmp_path / "gone"), "--data", data, "--out", str(tmp_path / "run"))
    assert status == 1 and "gone" in line and not (tmp_path / "run").exists()


def test_finished_models_are_shown_when_a_later_one_fails(data: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(HF_MODEL, broken)
    (broken / "model.safetensors").unlink()
    done = run("align", HF_MODEL, str(broken), "--data", data, "--json", str(tmp_path / "out.json"))
    assert done.returncode == 1 and "eRank5" in done.stdout and "broken" in done.stderr
    assert [r["model"] for r in json.loads((tmp_path / "out.json").read_text())["results"]] == [HF_MODEL]


def test_json_must_be_a_file(data: str, tmp_path: Path) -> None:
    status, line = failure("align", HF_MODEL, "--data", data, "--json", str(tmp_path))
    assert status == 2 and "is a folder" in line


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_keeps_its_records(shared_pairs: str, tmp_path: Path, sent: signal.Signals) -> None:
    out = tmp_path / "run"
    command = ["align", HF_MODEL, "--data", shared_pairs, "--out", str(out)]
    child = forked.Started(["-m", "mmerank", *command])
    while not (out / ".lock").exists() and child.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(sent)
    _, stderr = child.communicate(timeout=LONGEST_S)
    assert (
        child.returncode == 130 and f"the same command continues from {out}" in stderr and "Traceback" not in stderr
    )
    (result,) = results(run(*command, "--json", "-"))
    assert result["n"] == 300


def test_perturb_through_json_and_a_run_folder(data: str, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "run"))
    asked = (
        "--transform",
        "rotate:90",
        "--transform",
        "blur:1,2",
        "--control",
        "independent",
        "--control-draws",
        "2",
    )
    arguments = ("perturb", HF_MODEL, "--data", data, *asked, "--seed", "3", *out)
    printed = json.loads(run(*arguments, "--json", "-").stdout)
    assert printed == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert printed == json.loads(run(*arguments, "--json", "-").stdout)
    (plain,) = results(run("align", HF_MODEL, "--data", data, "--json", "-"))
    assert printed["base"] == plain
    assert [t["transform"] for t in printed["transforms"]] == ["rotate:90", "blur:1", "blur:2"]
    for t in printed["transforms"]:
        assert t["n"] == 3 and t["delta"]["erank1"] == t["erank1"] - plain["erank1"] != 0 == t["delta"]["erank4"]
    assert [c["control"] for c in printed["controls"]] == ["independent"] and printed["seed"] == 3
    status, line = failure(*arguments[:-2], "--transform", "grey", *out)
    assert status == 1 and "transforms" in line


@pytest.mark.parametrize("columns", ["80", "120"])
def test_perturb_fits_into_a_terminal(data: str, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    asked = ("--transform", "rotate:90+brightness:0.5+jpeg:20", "--transform", "identity", "--control", "mismatch")
    done = run("perturb", HF_MODEL, "--data", data, *asked, "--all")
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert max(map(len, done.stdout.splitlines())) <= int(columns) and not any("…" in line for line in lines)
    base = next(line for line in lines if line.startswith("base")).split()
    below = lines[next(i for i, line in enumerate(lines) if line.startswith("identity")) + 1].split()
    assert len(base) == 8 and below == ["="] * 7
    short = run("perturb", HF_MODEL, "--data", data, *asked).stdout.splitlines()
    assert len(short) <= 24 and max(map(len, short)) <= int(columns) and not any("…" in line for line in short)
    assert any(line.startswith("identity") and "nowhere" in line for line in short)
    assert "--all" in " ".join(short) and "largest at" in " ".join(short)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "expected a transform or a control, got none; known transforms: identity"),
        (("--transform", "turn:90"), "unknown transform 'turn:90'; known: identity, rotate:DEGREES"),
        (("--transform", "jpeg:101"), "expected a whole number from 1 to 100"),
        (("--control", "none"), "unknown control 'none'; known: mismatch, independent"),
    ],
)
def test_wrong_usage_of_perturb_costs_no_loading(data: str, arguments: tuple[str, ...], words: str) -> None:
    status, line = failure("perturb", "no/such-model", "--data", data, *arguments)
    assert status == 2 and words in line


@pytest.fixture
def shared_pairs(tmp_path: Path, golden: Path) -> str:
    """Enough pairs that a run can be interrupted."""
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Noise, and more of it."}]
    records = [{"id": f"{i}", "image": "img0_96x64.png", "conversations": turns} for i in range(300)]
    return manifest(tmp_path, json.dumps(records)) + f"?images={golden}/images"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--centre", "median"), {"convention": {"centre": "median"}}),
        (("--precision", "mixed"), {"convention": {"precision": "mixed"}}),
        (("--aggregate", "erank"), {"convention": {"aggregate": "erank"}}),
        (("--tokens", "modality"), {"convention": {"tokens": "modality"}}),
        (("--vision-point", "last"), {"convention": {"vision_point": "last"}}),
        (("--limit", "2", "--seed", "5"), {"limit": 2, "seed": 5}),
        (("--dtype", "bfloat16"), {"source": {"dtype": "bfloat16"}}),
    ],
)
def test_options_reach_the_measurement(data: str, option: tuple[str, ...], expected: dict[str, Any]) -> None:
    (plain,), (changed,) = (results(run("align", HF_MODEL, "--data", data, *o, "--json", "-")) for o in ((), option))
    for key, value in expected.items():
        part = {name: changed[key][name] for name in value} if isinstance(value, dict) else changed[key]
        assert part == value
    assert any(plain[f"erank{i}"] != changed[f"erank{i}"] for i in range(1, 6))


@pytest.mark.parametrize(
    ("option", "keyword", "value"),
    [
        (("--separate-passes",), "share_prefix", False),
        (("--batch-tokens", "77"), "batch_tokens", 77),
        (("--max-megapixels", "0.5"), "max_pixels", 500_000),
        (("--strict",), "strict", True),
    ],
)
def test_options_that_change_no_number_reach_the_engine(
    data: str, option: tuple[str, ...], keyword: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmerank.jobs import align as alignment

    seen: dict[str, Any] = {}
    original = alignment.align

    def spy(*arguments: Any, **keywords: Any) -> Any:
        seen.update(keywords)
        return original(*arguments, **keywords)

    monkeypatch.setattr(alignment, "align", spy)
    assert run("align", HF_MODEL, "--data", data, *option).returncode == 0
    assert seen[keyword] == value
