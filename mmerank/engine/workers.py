"""Threads for what goes on beside the model: inputs ahead of it, eigenvalues behind it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from mmerank.processes import rank

Item = TypeVar("Item")
Result = TypeVar("Result")

# A model on a GPU is fed by one thread; more than these have never anything to do.
MOST_WORKERS = 16


def default_workers(device: torch.device) -> int:
    """Threads where none are asked for: none beside a model on the CPU, which takes all cores itself.

    Args:
        device: Where the model is.

    Returns:
        Elsewhere this process's share of the cores, but one for the model, at least 1.
    """
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // rank().beside - 1, 1), MOST_WORKERS)


class Workers:
    """A few threads, each of which computes on one core; or none, and everything is done at once by who asks for it.

    Used as a context manager; when the block ends, what has not begun is dropped.

    Args:
        count: How many threads.
    """

    def __init__(self, count: int):
        self.count = count
        self._pool: ThreadPoolExecutor | None = None
        self._asked: set[Future[Any]] = set()

    def __enter__(self) -> Workers:
        if self.count:
            # The number of threads that torch uses is one of each thread; the caller's stays as it is.
            self._pool = ThreadPoolExecutor(
                self.count, thread_name_prefix="mmerank", initializer=torch.set_num_threads, initargs=(1,)
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            # Whoever interrupts wants what is measured to be written, and not to wait for a share that hangs.
            interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            self._pool.shutdown(wait=not interrupted, cancel_futures=True)
            self._pool = None
            # Threads that others start later take over the number that was set last, whoever set it.
            torch.set_num_threads(torch.get_num_threads())

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """What `work` will give, or gave where there are no threads; an error comes out of `result()`."""
        if self._pool is not None:
            future = self._pool.submit(work)
            self._asked.add(future)
            future.add_done_callback(self._asked.discard)
            return future
        done: Future[Result] = Future()
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)
        return done

    def drain(self) -> None:
        """Wait until everything that was asked for is done, so that nothing is held for it any more."""
        wait(list(self._asked))

    def ahead(self, work: Callable[[Item], Result], items: Iterable[Item], depth: int) -> Iterator[Result]:
        """Results in the order of the items, up to `depth` of them made before they are asked for.

        Args:
            work: Item -> result.
            items: Any number; taken in the caller's thread.
            depth: How far to go ahead; without threads nothing is done before it is asked for.

        Yields:
            One result for each item.
        """
        if not self.count:
            yield from map(work, items)
            return
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self.submit(lambda item=item: work(item)))  # type: ignore[misc]
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
