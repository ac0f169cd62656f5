"""What a ladder left on disk: models, what is true of them, and every number of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from scripts.ladder.measuring import MISMATCHED
from scripts.ladder.truth import TRUTH

Number = tuple[str, str, str, str]
NUMBER = ["metric", "point", "input", "rows"]
# Caption accuracy, but not below what models of the shape guess that were trained on wrong captions alone: one that
# stutters sees no less than one that guesses fluently.
SEEN = "above_guessing"
SHAPES = {"llava": "LLaVA", "minigpt-v2": "MiniGPT-v2"}
SAME = 1e-5  # relative; records are in single precision


@dataclass(frozen=True)
class Records:
    """A ladder as it was measured.

    Attributes:
        models: A row per model, by name: `shape`, `step`, `axis`, `seed`, and what is true of it.
        values: A row per model and condition, a column per number; single precision, NaN where there is none.
        nulls: p against shuffled pairs of the own pairs, a row per model.
        twins: Own pairs of untrained twins, a row per twin with `shape` in the index.
    """

    models: pd.DataFrame
    values: pd.DataFrame
    nulls: pd.DataFrame
    twins: pd.DataFrame

    @cached_property
    def own(self) -> pd.DataFrame:
        """Numbers of the own pairs, a row per model."""
        return self.under("own")

    @cached_property
    def mismatched(self) -> pd.DataFrame:
        """The same of mismatched pairs."""
        return self.under(MISMATCHED)

    @cached_property
    def gap(self) -> pd.DataFrame:
        """Own less mismatched; 0 where only the order of summation differs, as of what sees one modality alone."""
        gap = self.own - self.mismatched
        return gap.where(~(gap.abs() <= SAME * self.own.abs()), 0.0)

    def under(self, condition: str) -> pd.DataFrame:
        """Numbers under one condition, a row per model."""
        chosen = self.values[self.values.index.get_level_values("condition") == condition]
        return chosen.droplevel("condition").reindex(self.models.index)

    def by_step(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Means over seeds, a row per shape and step."""
        chosen = self.models.loc[frame.index]
        return frame.groupby([chosen["shape"], chosen["step"]]).mean()


def load(folder: Path) -> Records:
    """Read the records of a ladder.

    Args:
        folder: Holds a folder for each rung and twin.

    Returns:
        All that are finished.

    Raises:
        FileNotFoundError: None is.
    """
    models, wide, nulls, twins = {}, {}, {}, {}
    for file in sorted(folder.glob("*/rung.json")):
        stated, table = json.loads(file.read_text()), pd.read_parquet(file.parent / "metrics.parquet")
        table = table.astype({name: str for name in ("condition", *NUMBER)})
        if "twin" in stated:
            twins[stated["twin"]["shape"], file.parent.name] = table.set_index(NUMBER)["value"]
            continue
        name, rung = file.parent.name, stated["rung"]
        models[name] = {**rung, "step": stated["step"], "axis": axis(rung), **stated["truth"], **stated["seconds"]}
        for condition, rows in table.groupby("condition"):
            wide[name, condition] = rows.set_index(NUMBER)["value"]
        own = table[(table["condition"] == "own") & table["null_p"].notna()]
        nulls[name] = own.set_index(NUMBER)["null_p"]
    if not models:
        raise FileNotFoundError(f"{folder}: no records of a ladder; train one first")
    known = pd.DataFrame(models).T.infer_objects()
    guessed = known[known["wrong"] == 1].groupby("shape")[TRUTH].mean().reindex(known["shape"]).fillna(0.0)
    known[SEEN] = np.maximum(known[TRUTH].astype(float), guessed.to_numpy(dtype=float))
    values = pd.DataFrame(wide).T.rename_axis(["model", "condition"])
    return Records(known, values, pd.DataFrame(nulls).T, pd.DataFrame(twins).T.rename_axis(["shape", "twin"]))


def axis(rung: dict[str, object]) -> str:
    """Which side of the ladder a rung stands on: `wrong`, `steps`, `parts`, or `full`, which belongs to each."""
    if rung["wrong"]:
        return "wrong"
    if rung["steps"] != 1:
        return "steps"
    return "full" if (rung["connector"], rung["tower"]) == ("own", "frozen") else "parts"
