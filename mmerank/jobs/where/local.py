"""Cells on this machine: one after the other, or one on each GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

from mmerank.errors import UsageError
from mmerank.jobs.cells import Cell, run_cell

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def one_by_one(cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, str]]:
    """Run cells in their order.

    Args:
        cells: They.
        folder: Of the study.

    Yields:
        Each cell as it ends, and why it failed.
    """
    for cell in cells:
        yield cell, run_cell(cell, folder)


def one_a_gpu(cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, str]]:
    """Run as many cells at a time as there are GPUs, each of which sees one of them alone.

    Args:
        cells: They.
        folder: Of the study.

    Yields:
        Each cell as it ends, and why it failed.

    Raises:
        UsageError: There is no GPU.
    """
    gpus = visible_gpus()
    free: SimpleQueue[str] = SimpleQueue()
    for gpu in gpus:
        free.put(gpu)

    def run(cell: Cell) -> str:
        gpu = free.get()
        try:
            return run_cell(cell, folder, environment={_VISIBLE: gpu})
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(len(gpus)) as threads:
        running = {threads.submit(run, cell): cell for cell in cells}
        for done in as_completed(running):
            yield running[done], done.result()


def visible_gpus() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them.

    Returns:
        At least one.

    Raises:
        UsageError: There is none.
    """
    stated = os.environ.get(_VISIBLE)
    if stated is None:
        import torch

        found = [str(i) for i in range(torch.cuda.device_count())]
    else:
        found = [name.strip() for name in stated.split(",") if name.strip() not in ("", "-1")]
    if not found:
        said = f" ({_VISIBLE}={stated})" if stated is not None else ""
        raise UsageError(f"--on gpus: this machine shows no GPU{said}; --on local runs one cell after the other")
    return found
