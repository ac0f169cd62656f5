"""How a run is carried out: what changes no number, and is never stored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Computing:
    """What changes how a run goes, but none of its numbers (beyond rounding).

    What does change a number stands in a convention and is stored with every result.

    Attributes:
        batch_tokens: Most positions in a batch, padding included; an example that is longer runs alone. Default: one
            example a batch on a CPU, where batching does not pay, elsewhere up to 8192: see
            `mmerank.engine.batches.Budget`.
        workers: Threads that open pictures and compute eigenvalues beside the model. Default: none on a CPU, where
            the model itself takes all cores, and elsewhere one for each core but one.
        share_prefix: Whether the image input may be read from the prefix of the pair pass.
        strict: Whether the first example that cannot be measured ends the run.
        progress: Whether progress is shown on stderr.
    """

    batch_tokens: int | None = None
    workers: int | None = None
    share_prefix: bool = True
    strict: bool = False
    progress: bool = False
