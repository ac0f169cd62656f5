"""What is said in short: the largest effects first, where they act, what words mean, what can be read of a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmerank import Convention, align, compare, load_data, perturb
from mmerank.analysis.finished import read_runs
from mmerank.eranks import ERANKS
from mmerank.errors import UsageError
from mmerank.report.glossary import GLOSSARY, said_of, terms_of
from mmerank.report.numbers import all_numbers
from mmerank.report.readings import readings
from mmerank.report.terminal.summary import ordered_effects
from mmerank.report.write import report
from tests.adapters.cases import LLAVA, MINIGPT_V2
from tests.test_cli import failure, run


def test_the_largest_effects_come_first(tmp_path: Path) -> None:
    asked: Any = ["noise:1", "rotate:45", "shuffle-words", "identity"]
    result = perturb(LLAVA.adapter, load_data("demo"), asked, limit=8, out=tmp_path / "run")
    effects = ordered_effects(result.tests, tuple(ERANKS))
    sizes = [[abs(of.d_z) for of in found] for found in effects.values()]
    assert all(found == sorted(found, reverse=True) for found in sizes) and not sizes[-1]
    firsts = [found[0] for found in sizes if found]
    assert firsts == sorted(firsts, reverse=True) and list(effects)[-1] == "identity"
    assert {of.quantity for of in effects["shuffle-words"]} == {"erank4", "erank5"}

    (read,) = read_runs([tmp_path / "run"])
    lines = readings([read], all_numbers([read]))
    for name, tests in result.tests.items():
        told = [of for of in tests.differences if of.quantity in ERANKS and of.q < 0.05 and of.low * of.high > 0]
        said = [line for line in lines if line.startswith(f"{name} acts most at eRank")]
        assert len(said) == bool(told), name
        if told:
            most = max(told, key=lambda of: abs(of.d_z))
            assert (
                f"acts most at eRank{most.quantity[-1]} " in said[0]
                and f"d_z {most.d_z:+.2f}".replace("-", "\N{MINUS SIGN}") in said[0]
            )


def test_which_model_is_more_aligned(tmp_path: Path) -> None:
    """Of equally many rows alone where models have others; else it cannot be said."""
    asked = Convention(match_tokens=4, patches=True)
    results = [
        align(case.adapter, load_data("demo"), limit=6, convention=asked, out=tmp_path / case.name)
        for case in (LLAVA, MINIGPT_V2)
    ]
    read = read_runs([tmp_path / case.name for case in (LLAVA, MINIGPT_V2)])
    first, second, *others = readings(read, all_numbers(read))
    values = [result.matched["image_text_alignment"] for result in results]  # type: ignore[index]
    assert first.startswith("By the Image-Text Alignment on 4 rows each (n = 6), ") and "more aligned" not in first
    comparison = compare(*results, matched=True)
    test = comparison["image_text_alignment"]
    assert first.endswith(f"q = {test.q:.3f} over {comparison.tests} tests.")
    ends = sorted((abs(test.low), abs(test.high)))
    assert f"difference of +{abs(test.difference):.4f} [" in first and all(f"{of:.3f}" in first for of in ends)
    assert ("are not told apart" in first) is (test.q >= 0.05 or test.low <= 0 <= test.high)
    assert "was not measured" in second and "--control mismatch" in second
    best, other = (f"{value:.4f} [" for value in sorted(values, reverse=True))
    assert first.index(best) < first.index(other)
    assert sum("the row that decides is a patch in" in line for line in others) == 2
    for case in (LLAVA, MINIGPT_V2):
        align(case.adapter, load_data("demo"), limit=3, out=tmp_path / f"plain-{case.name}")
    plain = read_runs([tmp_path / f"plain-{case.name}" for case in (LLAVA, MINIGPT_V2)])
    (line,) = readings(plain, all_numbers(plain))
    assert "cannot be said" in line and "--match-tokens" in line
    (path,) = report([tmp_path / LLAVA.name], tmp_path / "out", formats=["html"])
    page = path.read_text()
    shown = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page.partition('<dl class="words">')[2]))
    assert set(terms_of({"align"})) <= set(shown)


def test_an_alignment_stands_beside_that_of_other_texts(tmp_path: Path) -> None:
    """On the same rows, from the definition: the mean of a draw's eRank5 with eRank3 and eRank4 of the base."""
    results = [
        perturb(
            case.adapter,
            load_data("demo"),
            [],
            controls=["mismatch"],
            control_draws=3,
            limit=4,
            convention=Convention(match_tokens=4, match_repeats=2),
            out=tmp_path / case.name,
        )
        for case in (LLAVA, MINIGPT_V2)
    ]
    read = read_runs([tmp_path / case.name for case in (LLAVA, MINIGPT_V2)])
    _, line = readings(read, all_numbers(read))
    assert line.startswith("With other examples' texts the Image-Text Alignment on 4 rows each is")
    for result in results:
        drawn: dict[str, list[float]] = {}
        for record in result.records:
            assert record.matched is not None
            where = (record.point, record.input)
            key = record.transform if record.transform != "none" else f"{where}"
            drawn.setdefault(key, []).append(float(np.mean(record.matched)))
        e3, e4 = (np.exp(np.mean(drawn[f"{ERANKS[name]}"])) for name in ("erank3", "erank4"))
        nulls = [
            np.mean((e3, e4, e5)) / max(e3, e4, e5)
            for e5 in (np.exp(np.mean(of)) for name, of in drawn.items() if name.startswith("mismatch/"))
        ]
        assert len(nulls) == 3 and f"{np.mean(nulls):.4f} (here " in line


def test_words() -> None:
    assert list(said_of("ERANK3")) == ["eRank3"] and len(said_of("rows")) == 1 and len(said_of("row")) == 3
    assert {f"eRank{i}" for i in range(1, 6)} < set(GLOSSARY)
    with pytest.raises(UsageError, match="no term 'eRank9'; did you mean eRank"):
        said_of("eRank9")
    done = run("glossary", "matched", "rows")
    assert done.returncode == 0 and "--match-tokens" in done.stdout and "Diff-eRank" not in done.stdout
    status, line = failure("glossary", "banana")
    assert status == 2 and "banana" in line
    assert all(f"{term} " in run("glossary").stdout for term in ("eRank5", "Image-Text Alignment", "Diff-eRank"))
