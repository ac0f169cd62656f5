"""Works timed side by side: one after the other, round by round, the order turned round each time."""

from __future__ import annotations

import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Work = Callable[[], object]

# A work is repeated within a round until it has taken this long.
LEAST_S = 0.02
RESET_PEAK = "5"  # proc(5), clear_refs: the peak of the resident set begins again


@dataclass(frozen=True)
class Stage:
    """Where and how often works are timed.

    Attributes:
        device: Where the model is. On the CPU the processor time of this process counts, which others on the machine
            hardly disturb with one thread; on a GPU the wall time until it is idle, which needs a quiet machine.
        rounds: How often each work is timed.
        long_s: One that takes longer is timed once.
        waits: Whether the works wait for something, so that on a CPU too it is the wall time that counts.
    """

    device: torch.device
    rounds: int
    long_s: float = 10.0
    waits: bool = False

    @property
    def clock(self) -> str:
        """The time that counts."""
        return "processor" if self.device.type == "cpu" and not self.waits else "wall"

    def seconds(self, work: Work, repeats: int = 1) -> float:
        """Of one call, on the mean of a few."""
        now = time.process_time if self.clock == "processor" else time.perf_counter
        self._wait()
        start = now()
        for _ in range(repeats):
            work()
        self._wait()
        return (now() - start) / repeats

    def timed(self, works: Mapping[str, Work]) -> dict[str, list[float]]:
        """Seconds of each work in each round, after one call that warms it up.

        Args:
            works: By name. Of a long one the call that would warm it up is all there is.

        Returns:
            Seconds by name; one value for a long work.
        """
        first = {name: self.seconds(work) for name, work in works.items()}
        long = {name for name, taken in first.items() if taken > self.long_s}
        found: dict[str, list[float]] = {name: [first[name]] if name in long else [] for name in works}
        order = [name for name in works if name not in long]
        for i in range(self.rounds):
            for name in order if i % 2 == 0 else order[::-1]:
                found[name].append(self.seconds(works[name], max(1, round(LEAST_S / max(first[name], 1e-6)))))
        return found

    def peak_mb(self, work: Work) -> float | None:
        """Memory that a work needs at most beside what is held before it; None where that cannot be told."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            work()
            return (torch.cuda.max_memory_allocated(self.device) - before) / 2**20
        try:
            ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps would hide what is allocated anew
            Path("/proc/self/clear_refs").write_text(RESET_PEAK)
            held = _resident_kb("VmRSS")
            work()
            return (_resident_kb("VmHWM") - held) / 2**10
        except (OSError, AttributeError):
            return None

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _resident_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of the ratios within rounds.

    Args:
        above: Seconds by round; one value stands for every round.
        below: The same.

    Returns:
        `median`, `low`, `high`, and over how many `rounds`.
    """
    rounds = max(len(above), len(below))
    pairs = zip(list(above) * (rounds // len(above)), list(below) * (rounds // len(below)), strict=True)
    values = [a / b for a, b in pairs]
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": rounds}


def row(
    stage: Stage, what: Mapping[str, Any], works: Mapping[str, Work], pairs: Sequence[tuple[str, str]], memory: bool
) -> dict[str, Any]:
    """One line of a case: works timed side by side, and which is how many times another.

    Args:
        stage: Where and how often.
        what: Names the line.
        works: By name.
        pairs: Which works are divided by which.
        memory: Whether peak memory is looked at too, in one more call of each.

    Returns:
        What `--json` writes.
    """
    found = stage.timed(works)
    return {
        **what,
        "seconds": {name: statistics.median(values) for name, values in found.items()},
        "ratios": {f"{a} / {b}": ratio(found[a], found[b]) for a, b in pairs if a in found and b in found},
        "peak_mb": {name: stage.peak_mb(work) for name, work in works.items()} if memory else {},
    }


def busy_share(stage: Stage, work: Work) -> float:
    """The share of a work's wall time in which the device computes, by torch's profiler.

    On the CPU, where nothing else can be told, the share in which torch computes.

    Args:
        stage: Where.
        work: Once.

    Returns:
        Between 0 and 1.
    """
    kind = stage.device.type.upper()
    activity = getattr(torch.profiler.ProfilerActivity, kind)
    with torch.profiler.profile(activities=[activity]) as profile:
        taken = stage.seconds(work)
    events = [event.time_range for event in profile.events() or () if event.device_type.name == kind]
    return min(covered([(of.start, of.end) for of in events]) / 1e6 / taken, 1.0)


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of what spans cover together, where they overlap once.

    Args:
        spans: Begin and end of each, in any order.

    Returns:
        In their unit.
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were made on."""
    from mmerank.runs.folder import versions

    models = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    processor = models[0].split(":")[1].strip() if models else platform.processor() or platform.machine()
    on_gpu = device.type == "cuda"
    return {
        "processor": processor,
        "cores": len(models) or None,
        "threads": torch.get_num_threads(),
        "load": _lines("/proc/loadavg")[0].split()[0] if _lines("/proc/loadavg") else None,
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        **versions(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
