"""Runs that are killed at random moments until they are through, held against one that nobody disturbs.

    python -m tests.kill_loop --kills 300
    python -m tests.kill_loop --kills 300 --processes 3
    python -m tests.kill_loop --kills 300 --workers 2

Each attempt is a fork of this process, so that it begins at once, and is killed with SIGKILL. Parts are written after
every batch, so that many kills hit the writing.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mmerank import Example, align
from mmerank.engine import collect as collect
from mmerank.engine import probe as probe
from mmerank.jobs.align import Alignment
from tests.adapters.cases import LLAVA, examples


def pairs(count: int) -> list[Example | Any]:
    """Enough small examples for a run to be disturbed, a few of which cannot be measured."""
    picture = examples()[2].image
    return [
        Example(f"{i}", None if i % 10 == 7 else picture, "What?", f"Number {i} of {count}, " + "more " * (i % 9))
        for i in range(count)
    ]


def killed_at_random(
    work: Callable[[], Any], folder: Path, draw: random.Random, *, processes: int, longest_s: float
) -> int:
    """Run `work` in forks, killing one of them now and then, until none was killed; the number of kills."""
    kills = 0
    while True:
        children = [forked(work, index, processes, folder) for index in range(processes)]
        victim = draw.choice(children)
        # Later and later, so that a slow machine gets through too.
        time.sleep(draw.uniform(0, longest_s) * (1 + kills / 20))
        os.kill(victim, signal.SIGKILL)
        ended = {child: os.waitpid(child, 0)[1] for child in children}
        assert all(status == 0 for child, status in ended.items() if child != victim), ended
        if ended[victim] == 0:
            return kills
        kills += 1


def forked(work: Callable[[], Any], index: int, processes: int, folder: Path) -> int:
    """Run `work` in a fork, as one of several processes of a launcher; its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if processes > 1:
            os.environ.update(RANK=str(index), WORLD_SIZE=str(processes), LOCAL_RANK=str(index))
        collect.PART_SECONDS = 0.0
        # What a child has to say, it says to a file: a killed one may leave half a line.
        with (folder / f"output-{index}").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            work()
            status = 0
    except BaseException as error:
        print(repr(error), flush=True)
    finally:
        os._exit(status)


def same(one: Alignment, other: Alignment) -> bool:
    """Whether two results agree to the last bit, spectra included."""
    rows = zip(one.records, other.records, strict=True)
    fields = [name for name in type(one.records[0]).__slots__ if name != "spectrum"]
    return one.to_dict() == other.to_dict() and all(
        np.array_equal(a.spectrum, b.spectrum)
        and [repr(getattr(a, f)) for f in fields] == [repr(getattr(b, f)) for f in fields]
        for a, b in rows
    )


def check(folder: Path, whole: Alignment, entries: list[Any], *, processes: int) -> None:
    """The finished folder gives the undisturbed result, and nothing in it was measured twice by one process."""
    result = align(LLAVA.adapter, entries, out=folder)
    assert same(result, whole)
    assert not list(folder.rglob("*.unfinished"))
    rows = sum(pq.read_metadata(part).num_rows for part in (folder / "records").glob("*.parquet"))
    assert rows == len(whole.records) if processes == 1 else rows >= len(whole.records), rows


def disturbed_runs(
    kills: int, *, processes: int, seed: int, count: int, longest_s: float, where: Path
) -> tuple[int, int]:
    """Disturb runs until there were `kills` kills; how many runs and kills it were."""
    draw = random.Random(seed)
    entries = pairs(count)
    whole = align(LLAVA.adapter, entries)
    runs = done = 0
    while done < kills:
        place = where / f"{runs}"
        place.mkdir()
        folder = place / "run"
        done += killed_at_random(
            lambda folder=folder: align(LLAVA.adapter, entries, out=folder),  # type: ignore[misc]
            place,
            draw,
            processes=processes,
            longest_s=longest_s,
        )
        check(folder, whole, entries, processes=processes)
        runs += 1
    return runs, done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=60)
    parser.add_argument("--longest", type=float, default=0.5, help="Seconds until a kill, at most.")
    parser.add_argument("--workers", type=int, default=0, help="Threads beside the model, as with a GPU.")
    given = parser.parse_args()
    vars(probe)["default_workers"] = lambda device: given.workers
    with tempfile.TemporaryDirectory() as scratch:
        runs, kills = disturbed_runs(
            given.kills,
            processes=given.processes,
            seed=given.seed,
            count=given.examples,
            longest_s=given.longest,
            where=Path(scratch),
        )
    sys.stdout.write(
        f"{runs} runs, {kills} kills, {given.processes} process(es): every result equal to the last bit\n"
    )
