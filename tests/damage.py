"""Damaged run folders: whatever becomes of the bytes of a part, the run ends with the numbers of an undisturbed one.

    python -m tests.damage --every 1 --runs 400

Each bit of a real part is flipped, once under its name, with the digest, and once under the name of an earlier
version, without; then parts, `run.json` and `summary.json` are damaged at random in a run folder of the golden LLaVA,
which is continued. A damaged `run.json` is refused, by name.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

from mmerank import align, diff
from mmerank.analysis.finished import read_runs
from mmerank.errors import RunFolderError
from mmerank.runs.columns import DamagedPart
from mmerank.runs.parts import part_files, read_part
from mmerank.runs.record import Record, records_of
from mmerank.runs.rules import Rules
from mmerank.runs.settings import read_settings
from tests.adapters.cases import LLAVA, examples
from tests.adapters.text_cases import OPT
from tests.kill_loop import same
from tests.test_diff_erank import texts


def fields(record: Record) -> list[str]:
    """All of a record, to the last bit; NaN equals NaN."""
    values = (getattr(record, name) for name in Record.__slots__)
    return [repr(value.tolist() if hasattr(value, "tolist") else value) for value in values]


def flipped(where: Path, *, every: int, dated: bool, job: str = "align") -> Counter[str]:
    """Flip bits of a part: it must be called damaged, or hold what it held.

    Args:
        where: An empty folder.
        every: Flip each so-many-th bit.
        dated: Whether the part has the name of an earlier version, without a digest.
        job: `align` or `diff`.

    Returns:
        How often each was the case.
    """
    if job == "align":
        align(LLAVA.adapter, examples()[:2], out=where / "run")
    else:
        diff(OPT.adapter, texts(2), out=where / "run")
    part = part_files(where / "run")[0]
    if dated:
        part = part.rename(part.with_name("000000.parquet"))
    rules = Rules(where / "run", read_settings(where / "run"))
    content = part.read_bytes()
    whole = list(map(fields, records_of(read_part(part, rules))))
    answers: Counter[str] = Counter()
    for bit in range(0, 8 * len(content), every):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        part.write_bytes(damaged)
        try:
            found = list(map(fields, records_of(read_part(part, rules))))
        except DamagedPart:
            answers["damaged"] += 1
        except Exception as error:
            raise AssertionError(f"bit {bit}: {type(error).__name__}: {error}") from error
        else:
            assert found == whole, f"bit {bit} changed a record"
            answers["nothing changed"] += 1
    return answers


def damage(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """One kind of damage, and what it leaves."""
    data = bytearray(content)
    at = draw.randrange(len(data))
    end = at + draw.choice((1, 16, 512, 4096))
    other = draw.randrange(len(data))
    kind = draw.choice(("a bit", "three bits", "cut", "zeros", "swapped", "doubled", "lost", "appended", "empty"))
    match kind:
        case "a bit" | "three bits":
            for place in [at, *(draw.randrange(len(data)) for _ in range(2 * (kind == "three bits")))]:
                data[place] ^= 1 << draw.randrange(8)
        case "cut":
            del data[at:]
        case "zeros":
            data[at:end] = bytes(len(data[at:end]))
        case "swapped":
            size = min(end - at, len(data) - max(at, other), abs(at - other))
            data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
        case "doubled":
            data[at:at] = data[at:end]
        case "lost":
            del data[at:end]
        case "appended":
            data += draw.randbytes(end - at)
        case _:
            data.clear()
    return kind, bytes(data)


def continued(where: Path, *, runs: int, seed: int) -> Counter[tuple[str, str]]:
    """Damage files of a finished run and continue it.

    Args:
        where: An empty folder.
        runs: How often.
        seed: Of the damage.

    Returns:
        How often each answer came, by what was damaged.
    """
    draw = random.Random(seed)
    whole = align(LLAVA.adapter, examples(), out=where / "whole")
    answers: Counter[tuple[str, str]] = Counter()
    for i in range(runs):
        folder = where / "run"
        shutil.copytree(where / "whole", folder)
        part = part_files(folder)[0]
        if draw.random() < 0.3:
            part = part.rename(part.with_name("000000.parquet"))
        victim = draw.choice((part, part, part, folder / "run.json", folder / "summary.json"))
        kind, content = damage(victim.read_bytes(), draw)
        changed = content != victim.read_bytes()
        victim.write_bytes(content)
        what = victim.suffix if victim == part else victim.name
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                try:
                    read_runs([folder])
                except RunFolderError as error:
                    assert str(folder) in str(error) and "\n" not in str(error), error
                result = align(LLAVA.adapter, examples(), out=folder)
            assert same(result, whole), "other numbers"
            aside = any("measured again" in str(warning.message) for warning in warned)
            answers[what, "measured again" if aside else "the same" if changed else "not damaged"] += 1
        except RunFolderError as error:
            assert victim.name == "run.json" and str(folder) in str(error) and "\n" not in str(error), error
            answers[what, "refused"] += 1
        except Exception as error:
            raise AssertionError(f"run {i}, {kind} in {victim.name}: {type(error).__name__}: {error}") from error
        shutil.rmtree(folder)
    return answers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--every", type=int, default=1, help="Flip each so-many-th bit of a part.")
    parser.add_argument("--runs", type=int, default=400, help="Damaged folders that are continued.")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for job in ("align", "diff"):
        for dated in (False, True):
            with tempfile.TemporaryDirectory() as scratch:
                found = flipped(Path(scratch), every=given.every, dated=dated, job=job)
            name = "without a digest" if dated else "with a digest"
            told = ", ".join(f"{answer} {count}" for answer, count in sorted(found.items()))
            sys.stdout.write(f"{job}, {name}: {sum(found.values())} bits flipped: {told}\n")
            sys.stdout.flush()
    with tempfile.TemporaryDirectory() as scratch:
        for (what, answer), count in sorted(continued(Path(scratch), runs=given.runs, seed=given.seed).items()):
            sys.stdout.write(f"{what:14} {answer:15} {count}\n")
    sys.stdout.write("no other number, no other error\n")
