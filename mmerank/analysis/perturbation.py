"""What a change of the input did to the numbers, and what they would be if picture and text had nothing to do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import pandas as pd

from mmerank.analysis.alignment import dataset_erank, image_text_alignment
from mmerank.analysis.bootstrap import Bootstrap
from mmerank.analysis.null import NullTest, null_test
from mmerank.analysis.paired import Comparison, FalseDiscovery, compare, controlled
from mmerank.analysis.tokens import matched_alignment, matched_rows, unmatched
from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS
from mmerank.records import Record
from mmerank.transforms import parse
from mmerank.variants import BASE, Control

QUANTITIES = (*ERANKS, "image_reduction_ratio", "image_text_alignment")
_OF_PICTURE = {name for name, (_, kind) in ERANKS.items() if kind != "text"} | {*QUANTITIES[-2:]}
_OF_TEXT = {name for name, (_, kind) in ERANKS.items() if kind != "image"} | {"image_text_alignment"}
_OF_PAIR = _OF_PICTURE & _OF_TEXT


@dataclass(frozen=True)
class Null:
    """What eRank5 and the Image-Text Alignment are for pictures with other examples' texts.

    Attributes:
        control: `mismatch` or `independent`.
        draws: Quantity -> its value in each draw.
        tests: Quantity -> where the base's value stands among them.
    """

    control: Control
    draws: dict[str, tuple[float, ...]]
    tests: dict[str, NullTest]

    def to_dict(self, n: int) -> dict[str, Any]:
        """As `--json` prints it.

        Args:
            n: Number of examples.

        Returns:
            JSON values.
        """
        quantities = {name: {**self.tests[name].to_dict(), "null": list(draws)} for name, draws in self.draws.items()}
        return {"control": self.control, "draws": len(self.draws["erank5"]), "n": n, **quantities}


def deltas(base: Mapping[str, float], changed: Mapping[str, float]) -> dict[str, float]:
    """How much higher each quantity is after the change.

    Args:
        base: The seven quantities before.
        changed: The same after.

    Returns:
        Changed minus base, by quantity.

    Example:
        >>> before = dict.fromkeys(QUANTITIES, 1.0)
        >>> deltas(before, {**before, "erank1": 3.5})["erank1"]
        2.5
    """
    return {name: changed[name] - base[name] for name in QUANTITIES}


def matched_deltas(
    base: Iterable[Record], changed: Iterable[Record], *, tokens: int, repeats: int, aggregate: Aggregate = "entropy"
) -> dict[str, float | None]:
    """The same on equally many rows everywhere, over the examples that have as many before and after.

    Args:
        base: Records before, see `mmerank.analysis.tokens.matched_alignment`.
        changed: After.
        tokens: Rows in each draw.
        repeats: Draws.
        aggregate: See `mmerank.analysis.alignment.dataset_erank`.

    Returns:
        `n`, the number of examples, and changed minus base by quantity; None where there is no example.
    """
    both = [list(base), list(changed)]
    short = unmatched(both[0]) | unmatched(both[1])
    before, after = (
        matched_alignment(
            [r for r in records if r.example not in short], tokens=tokens, repeats=repeats, aggregate=aggregate
        )
        for records in both
    )
    found = deltas(before, after) if before["n"] else dict.fromkeys(QUANTITIES)
    return {"n": before["n"], **found}


def fixed_quantities(transform: str) -> tuple[str, ...]:
    """The quantities that a transform cannot move, since they do not see what it changes.

    `other` and `other-text` alone deal the same pictures or texts out anew, so only what sees pairs can move.

    Args:
        transform: Its name.

    Returns:
        In the order of `QUANTITIES`; all of them for `identity`.

    Example:
        >>> fixed_quantities("rotate:90"), fixed_quantities("identity+shuffle-words")
        (('erank4',), ('erank1', 'erank2', 'erank3', 'image_reduction_ratio'))
    """
    (found,) = parse(transform)
    moved: set[str] = set()
    for steps, reach in ((found.picture_steps, _OF_PICTURE), (found.text_steps, _OF_TEXT)):
        if kinds := [step.kind for step in steps if step.kind != "identity"]:
            moved |= reach if set(kinds) - {"other", "other-text"} else _OF_PAIR
    return tuple(name for name in QUANTITIES if name not in moved)


def paired_tests(
    records: pd.DataFrame,
    *,
    aggregate: Aggregate = "entropy",
    bootstrap: Bootstrap | None = None,
    false_discovery: FalseDiscovery = "bh",
    matched: bool = False,
) -> dict[str, Comparison]:
    """Each transform minus the base on the same examples: interval, tests, effect sizes, what could have been seen.

    Args:
        records: Of one model, as from `mmerank.records.to_frame`; those of nulls are passed over.
        aggregate: See `mmerank.analysis.alignment.dataset_erank`.
        bootstrap: Level, resamples, seed and method.
        false_discovery: How `q` is made, over all transforms and of each the quantities that it can move, and does in
            some example.
        matched: The same of equally many rows, over the examples that have as many before and after.

    Returns:
        By transform, in the order of the records; of matched rows only transforms under which an example has as many.
    """
    kept = records[~_control(records).isin(get_args(Control))]
    kept = matched_rows(kept) if matched else kept
    by_transform = {str(name): frame for name, frame in kept.groupby("transform", sort=False)}
    base = by_transform.pop(BASE.name, kept)
    if matched:
        both = set(base["example"])
        by_transform = {name: frame for name, frame in by_transform.items() if both & set(frame["example"])}
        if not by_transform:
            return {}
    compared = []
    for name, frame in by_transform.items():
        found = compare(frame, base, names=(name, "base"), aggregate=aggregate, bootstrap=bootstrap, matched=matched)
        unmoved = {*found.fixed, *fixed_quantities(name)}
        compared.append(replace(found, fixed=tuple(quantity for quantity in QUANTITIES if quantity in unmoved)))
    return dict(zip(by_transform, controlled(compared, false_discovery), strict=True))


def differences_frame(tests: Mapping[str, Comparison]) -> pd.DataFrame:
    """A row per transform and quantity.

    Args:
        tests: From `paired_tests`.

    Returns:
        `transform`, the columns of `mmerank.analysis.paired.PairedDifference` (`a` is after, `b` before), `n`, and
        `fixed`: whether the transform cannot move the quantity.
    """
    rows = [
        {"transform": name, **asdict(found), "n": comparison.n, "fixed": found.quantity in comparison.fixed}
        for name, comparison in tests.items()
        for found in comparison.differences
    ]
    return pd.DataFrame(rows)


def against_nulls(records: pd.DataFrame, *, aggregate: Aggregate = "entropy") -> tuple[Null, ...]:
    """eRank5 and the Image-Text Alignment with other examples' texts, and where the base's stand among them.

    A derangement gives each text to another picture, so eRank3 and eRank4 are those of the base.

    Args:
        records: Of one model, as from `mmerank.records.to_frame`.
        aggregate: See `mmerank.analysis.alignment.dataset_erank`.

    Returns:
        A null for each control that there are records of.
    """
    base = records[records["transform"] == BASE.name]
    e3, e4, e5 = (
        dataset_erank(there, aggregate=aggregate) if there else math.nan
        for there in (
            base[(base["point"] == point) & (base["input"] == kind)]["entropy"].tolist()
            for point, kind in (ERANKS[name] for name in ("erank3", "erank4", "erank5"))
        )
    )
    here = {"erank5": e5, "image_text_alignment": image_text_alignment(e3, e4, e5)}
    found = []
    for control in get_args(Control):
        pairs = records[_control(records) == control]
        if pairs.empty:
            continue
        by_draw = pairs.groupby(pairs["transform"].str.partition("/")[2].astype(int))["entropy"]
        eranks = [dataset_erank(entropies.tolist(), aggregate=aggregate) for _, entropies in by_draw]
        draws = {
            "erank5": tuple(eranks),
            "image_text_alignment": tuple(image_text_alignment(e3, e4, e) for e in eranks),
        }
        draws = {name: values for name, values in draws.items() if not math.isnan(here[name])}
        found.append(Null(control, draws, {name: null_test(here[name], values) for name, values in draws.items()}))
    return tuple(found)


def _control(records: pd.DataFrame) -> pd.Series[str]:
    """What stands before the `/` of a null's transform, `CONTROL/DRAW`."""
    return records["transform"].str.partition("/")[0]
