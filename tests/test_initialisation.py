"""What untrained twins are drawn with is named in results, and where it is a default, that is said."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmerank import diff, load_text
from mmerank.__main__ import main
from mmerank.analysis.estimates import estimates
from mmerank.analysis.finished import read_runs
from mmerank.convention import TextConvention
from mmerank.engine.probe import Probe
from mmerank.errors import ModelError, UsageError
from mmerank.jobs.diff import open_diff_run
from mmerank.jobs.doctor import examine
from mmerank.models.initialisation import check_drawn, drawn_at, initialisation
from mmerank.report.cautions import cautions
from mmerank.report.numbers import all_numbers
from mmerank.report.terminal.doctor import examination_view
from mmerank.report.terminal.intervals import plain
from tests.adapters.cases import LLAVA, examples
from tests.adapters.text_cases import LLAMA, OPT, TEXT_CASES
from tests.test_diff_erank import texts


@pytest.mark.parametrize("stated", [True, False])
def test_diff_names_it_and_says_where_it_is_a_default(stated: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(str(OPT.adapter.source["checkpoint"]), folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("init_std", None)
    if stated:
        config["init_std"] = 0.05
    (folder / "config.json").write_text(json.dumps(config))
    result = diff(load_text(folder), texts(2), out=tmp_path / "run")
    expected = 0.05 if stated else 0.02  # of transformers' OPTConfig
    assert result.to_dict()["initialisation"] == {"init_std": expected, "stated": stated}
    assert f"init_std {expected}" in str(result) and ("config.json does not state it" in str(result)) is not stated
    found = [line for line in cautions(read_runs([tmp_path / "run"])) if "does not state what untrained" in line]
    assert bool(found) is not stated and all("init_std 0.02" in line for line in found)


def test_a_family_that_draws_by_its_own_rules_has_none() -> None:
    openelm = next(case for case in TEXT_CASES if "openelm" in case.name.lower())
    assert initialisation(openelm.adapter) == {}


def test_doctor_names_that_of_the_language_model() -> None:
    found = examine(LLAVA.adapter, examples())
    inner: Any = LLAVA.adapter.model.config
    assert found.initialisation["initializer_range"] == inner.text_config.initializer_range
    stated = json.loads((Path(str(LLAVA.adapter.source["checkpoint"])) / "config.json").read_text())["text_config"]
    assert found.initialisation["stated"] == ("initializer_range" in stated)
    assert "initializer_range" in plain(examination_view(found))


def test_twins_are_drawn_with_what_is_asked_for() -> None:
    """The embedding of a Llama twin has the standard deviation of the range, and the config is as it was."""
    model: Any = LLAMA.adapter.model
    before = copy.deepcopy(model.config.to_dict())
    with drawn_at(LLAMA.adapter, 0.3):
        twin: Any = LLAMA.adapter.untrained(0).model
    assert model.config.to_dict() == before
    assert twin.get_input_embeddings().weight.std().item() == pytest.approx(0.3, rel=0.05)
    check_drawn(twin, "it", 0.3)
    with pytest.raises(ModelError, match=r"it: no matrix of its untrained twin has the standard deviation 0\.9"):
        check_drawn(twin, "it", 0.9)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_range_that_cannot_be_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match="standard deviation above 0"):
        diff(LLAMA.adapter, texts(1), init_range=value)


def test_a_family_that_draws_by_its_own_rules_refuses_a_range() -> None:
    openelm = next(case for case in TEXT_CASES if "openelm" in case.name.lower())
    with pytest.raises(UsageError, match="rules of its family"):
        diff(openelm.adapter, texts(1), init_range=0.1)


def test_ranges_are_apart_in_folder_and_cache_and_named_everywhere(tmp_path: Path) -> None:
    """Of one run folder, the numbers of each range are those that a run of it alone gives."""
    few, adapter = texts(3), LLAMA.adapter
    folder = open_diff_run(tmp_path / "run", few, TextConvention(), layers="")
    kept = tmp_path / "cache"
    plain_run = diff(adapter, few, out=folder, cache=kept)
    found = [plain_run]
    for init_range in (0.1, 0.5):
        found.append(diff(adapter, few, out=folder, cache=kept, trained=plain_run, init_range=init_range))
    folder.write_summary({"results": [result.to_dict() for result in found]})
    alone = [diff(adapter, few, init_range=of) for of in (None, 0.1, 0.5)]
    assert [of.diff_erank for of in found] == [of.diff_erank for of in alone]
    assert len({of.diff_erank for of in found}) == 3
    read = estimates(tmp_path / "run")
    of_run = read[read["quantity"] == "diff_erank"].set_index("model")["value"]
    names = [adapter.name, f"{adapter.name}, initializer_range 0.1", f"{adapter.name}, initializer_range 0.5"]
    assert {name: of_run[name] for name in names} == {of.model: of.diff_erank for of in found}
    assert len(of_run) == 3
    wide = found[2]
    assert wide.to_dict()["initialisation"] == {"initializer_range": 0.5, "given": True}
    assert wide.source["known_by"]["initialisation"] == {"initializer_range": 0.5, "given": True}
    assert any(r.model.startswith("untrained seed 0 initializer_range 0.5 [") for r in wide.records)
    assert "initializer_range 0.5 (by --init-range)" in str(wide)
    numbers = all_numbers(read_runs([tmp_path / "run"]))
    assert set(names) <= set(numbers["model"])


def test_records_of_another_model_are_not_taken_for_the_trained_ones() -> None:
    one = diff(LLAMA.adapter, texts(1))
    for adapter, of, said in ((OPT.adapter, texts(1), "model"), (LLAMA.adapter, texts(2)[1:], "texts")):
        with pytest.raises(UsageError, match=f"trained is a result of (another|other) {said}"):
            diff(adapter, of, trained=one, init_range=0.1)


def test_the_command_sweeps_ranges_and_measures_the_trained_model_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts.txt").write_text("A cat sat on the mat.\nTwo dogs ran.\n")
    measured: list[str] = []
    original = Probe.measure

    def measure(self: Probe[Any, Any], examples: Any) -> Any:
        measured.append(str(self.name))
        return original(self, examples)

    monkeypatch.setattr(Probe, "measure", measure)
    checkpoint = str(LLAMA.adapter.source["checkpoint"])
    given = ["diff", checkpoint, "--data", f"text:{tmp_path / 'texts.txt'}", "--no-cache", "--json", "-"]
    with pytest.raises(SystemExit) as left:
        main([*given, "--init-range", "0.02,0.3"])
    assert left.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert [of["initialisation"]["initializer_range"] for of in found["results"]] == [0.02, 0.3]
    assert len(measured) == 3 and len(set(measured)) == 3
    for words in ("0", "x", "0.1,0.10"):
        with pytest.raises(SystemExit) as left:
            main([*given, "--init-range", words])
        assert left.value.code == 2 and "--init-range" in capsys.readouterr().err
