"""What `mmerank metrics` lists."""

from __future__ import annotations

import json

import pytest

from mmerank.formulas.on_ladder import on_ladder
from mmerank.formulas.table import METRICS
from tests.test_cli import run


def test_the_list_names_every_metric_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    done = run("metrics")
    assert done.returncode == 0 and not done.stderr
    for name, entry in METRICS.items():
        assert name in done.stdout and entry.source in done.stdout and entry.needs in done.stdout
        assert str(on_ladder().get(name, "not on it")) in done.stdout


def test_json_has_what_the_table_has() -> None:
    done = run("metrics", "--json", "-")
    listed = json.loads(done.stdout)["metrics"]
    assert [entry["name"] for entry in listed] == list(METRICS)
    assert {entry["name"] for entry in listed if entry["ladder"] is None} == set(METRICS) - set(on_ladder())
    assert listed[0].pop("ladder") == on_ladder()["erank_diff_erank"].to_dict()
    assert listed[0] == {
        "name": "erank_diff_erank",
        "label": "eRank",
        "kind": "spectral",
        "takes": ["h"],
        "low": "1",
        "high": "min(n-1, d)",
        "better": "neither",
        "needs": "spectrum of centred unit rows",
        "follows_rows": True,
        "source": "Diff-eRank, arXiv:2401.17139, Def. 3.1-3.3",
        "cost": "n d min(n, d)",
        "averaged": "log",
    }
