"""What is refused before anything is loaded, and what help says of DATA."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mmerank.inputs.load import FORMS
from mmerank.inputs.pair_files import KINDS
from mmerank.inputs.text_sets import SETS
from tests.test_cli import failure, run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("align", "demo-lava", "--data", "demo"), "unknown model 'demo-lava'; did you mean demo-llava?"),
        (("doctor", "demo-minigpt2"), "did you mean demo-minigpt-v2?"),
        (("align", "demo", "--data", "dmeo"), "unknown data 'dmeo'; did you mean demo?"),
        (("diff", "no/such-model", "--data", "dolly15k"), "did you mean dolly-15k?"),
        (("align", "demo", "--data", "detail23k:x.json"), "did you mean detail_23k?"),
    ],
)
def test_a_misspelled_name_asks_no_hub(arguments: tuple[str, ...], words: str, no_hub: None) -> None:
    status, line = failure(*arguments)
    assert status == 2 and words in line


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def asked(*arguments: object, **keywords: object) -> None:
        pytest.fail(f"the hub was asked for {arguments}")

    monkeypatch.setattr(transformers.PretrainedConfig, "get_config_dict", asked)


def test_language_models_are_sent_to_diff_and_the_demo_to_align(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "opt"}')
    (tmp_path / "texts.txt").write_text("one text\nanother text\n")
    status, line = failure("doctor", str(tmp_path))
    assert status == 1 and "language models are measured by `mmerank diff`" in line
    status, line = failure("diff", "demo-llava", "--data", f"text:{tmp_path}/texts.txt")
    assert status == 2 and "`mmerank align` measures them" in line


@pytest.mark.parametrize("command", [("align",), ("perturb", "--transform", "rotate:90"), ("doctor",)])
def test_texts_are_refused_where_pictures_are_needed(command: tuple[str, ...], tmp_path: Path, no_hub: None) -> None:
    (tmp_path / "texts.txt").write_text("one text\nanother text\n")
    name, *options = command
    status, line = failure(name, "no/such-model", "--data", f"text:{tmp_path}/texts.txt", *options)
    assert status == 1 and "texts without pictures" in line and "`mmerank diff`" in line


def test_pictures_without_texts_are_refused(tmp_path: Path, no_hub: None) -> None:
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": ""}]
    (tmp_path / "data.json").write_text(json.dumps([{"id": "a", "image": "a.png", "conversations": turns}]))
    for command in ("align", "diff"):
        status, line = failure(command, "no/such-model", "--data", f"llava:{tmp_path}/data.json")
        assert status == 1 and "no example can be used, 1 skipped; first: 'a': the response is empty" in line


def test_help_lists_the_data_that_a_command_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    schemes = {form.partition(":")[0].partition("[")[0] for form in FORMS}
    for command in ("align", "perturb", "doctor", "diff"):
        shown = run(command, "--help").stdout
        assert "…" not in shown
        words = set(re.findall(r"[\w-]+", shown.partition("--data")[2].partition("--help")[0]))
        expected = {"text", "hub", *KINDS, *SETS} if command == "diff" else schemes - {"text", *SETS}
        assert not expected - words and not (schemes - expected) & words - {"demo"}
