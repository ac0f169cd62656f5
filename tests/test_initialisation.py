"""What untrained twins are drawn with is named in results, and where it is a default, that is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmerank import diff, load_text
from mmerank.jobs.doctor import examine
from mmerank.models.initialisation import initialisation
from mmerank.report.terminal.doctor import examination_view
from mmerank.report.terminal.intervals import plain
from tests.adapters.cases import LLAVA, examples
from tests.adapters.text_cases import OPT, TEXT_CASES
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
    result = diff(load_text(folder), texts(1))
    expected = 0.05 if stated else 0.02  # of transformers' OPTConfig
    assert result.to_dict()["initialisation"] == {"init_std": expected, "stated": stated}
    assert f"init_std {expected}" in str(result) and ("config.json does not state it" in str(result)) is not stated


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
