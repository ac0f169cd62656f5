"""What matching, curve, rows, companions, layers and blocks add to measuring one example of LLaVA-1.5-7B's sizes.

    python benchmarks/rows.py      # a minute on one CPU core

Random float32 states in the shapes of the five measurements, without a model: seconds of processor time, one thread.
"""

import time

import torch

from mmerank import Convention
from mmerank.engine.measurement import Measurement
from mmerank.inputs.sequence import Role, TokenSequence, image_places, tokens_of
from mmerank.states.reductions import RowStudy, UpdateStudy

PICTURE, TEXT = image_places(576), tokens_of(range(120), Role.TEXT)
BOS = tokens_of([0], Role.BOS)
PLACES = {
    ("vision", "image"): (PICTURE, 1024),
    ("connector", "image"): (PICTURE, 4096),
    ("llm", "image"): (BOS + PICTURE, 4096),
    ("llm", "text"): (BOS + TEXT, 4096),
    ("llm", "pair"): (BOS + PICTURE + TEXT, 4096),
}
ASKED = {
    "eRank1 to eRank5": Convention(),
    "--match-tokens 64": Convention(match_tokens=64),
    "--token-curve 16,32,64,128,256": Convention(token_curve=(16, 32, 64, 128, 256)),
    "--rows": Convention(rows=True),
    "--companions": Convention(companions=True),
}
A_LAYER = "a layer of --layers, alone"
A_BLOCK = "a block of --inside, alone"
ROUNDS = 3


States = dict[tuple[str, str], tuple[torch.Tensor, TokenSequence]]


def measure(states: States, asked: Convention, *, by_role: bool = False) -> float:
    """Processor seconds for one example."""
    start = time.process_time()
    for (point, kind), (h, rows) in states.items():
        Measurement(
            h,
            model="",
            example="0",
            point=point,
            input_kind=kind,
            centre="mean",
            precision=asked.precision,
            fingerprint="",
            study=RowStudy(asked, rows, str, by_role) if asked.studies_rows or by_role else None,
        ).outcome()
    return time.process_time() - start


def measure_block(update: torch.Tensor, stream: torch.Tensor, roles: tuple[Role, ...]) -> float:
    """The same for the two updates of a block, which are of one shape."""
    start = time.process_time()
    for point in ("attention 1", "mlp 1"):
        Measurement(
            update,
            model="",
            example="0",
            point=point,
            input_kind="pair",
            centre="mean",
            precision="float64",
            fingerprint="",
            study=UpdateStudy(roles, stream, "mean", torch.zeros(len(update)), 1e-4),
        ).outcome()
    return time.process_time() - start


def main() -> None:
    """The least of a few rounds, each option after the other within a round."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    states = {where: (torch.randn(len(rows), d), rows) for where, (rows, d) in PLACES.items()}
    pair = {where: found for where, found in states.items() if where == ("llm", "pair")}
    seconds = {name: float("inf") for name in (*ASKED, A_LAYER, A_BLOCK)}
    for _ in range(ROUNDS):
        for name, asked in ASKED.items():
            seconds[name] = min(seconds[name], measure(states, asked))
        seconds[A_LAYER] = min(seconds[A_LAYER], measure(pair, Convention(), by_role=True))
        ((h, rows),) = pair.values()
        seconds[A_BLOCK] = min(seconds[A_BLOCK], measure_block(h, torch.randn(h.shape), rows.roles))
    plain, *_ = seconds.values()
    for name, value in seconds.items():
        print(f"{name:32} {value * 1000:6.0f} ms   {value / plain:.2f}")


if __name__ == "__main__":
    main()
