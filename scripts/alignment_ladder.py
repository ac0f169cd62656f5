"""Which metric sees alignment? Small models that are aligned to a known degree, and every metric of each.

    python -m scripts.alignment_ladder train --fast    # goes on where it stopped
    python -m scripts.alignment_ladder page            # remakes page, table and figure from the records
    python -m scripts.alignment_ladder checkpoints DIR # some rungs as checkpoints, for studies/alignment-ladder.yaml

The rungs are in `scripts/ladder/rungs.py`. Each starts from a shipped demo model whose connector is drawn anew;
`scripts/ladder/training.py` says what makes that cheap. A rung takes one to three minutes on one core, and leaves a
folder of records in `benchmarks/ladder/`: `rung.json` (what was done, the truth, seconds, machine) and
`metrics.parquet` (every number of `mmerank align` and `mmerank perturb`). Weights are not kept. What the connector
reads of training pictures is, in `--cache`.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers.utils import logging

import mmerank
from mmerank.durable import whole
from mmerank.formulas.on_ladder import FILE, OnLadder
from mmerank.inputs.demo import scenes
from scripts.ladder import analysis, figure, keeping, measuring, page, records, training, truth
from scripts.ladder.rungs import Budget, Rung, ladder

RECORDS = Path("benchmarks/ladder")
CACHE = Path.home() / ".cache" / "mmerank-ladder"
TWINS = "untrained"
# Those of studies/alignment-ladder.yaml.
STUDIED = tuple(
    f"llava_{step}_seed-0" for step in ("steps-0", "steps-0.05", "steps-0.2", "full", "wrong-50pc", "wrong-100pc")
)
PARAGRAPH = r"(?s)\*\*Which number sees alignment\?.*?\n\n"


def measure_rung(rung: Rung, budget: Budget, data: training.Scenes, out: Path, *, fast: bool) -> None:
    """Train one rung, ask for its truth and its metrics, and write both."""
    start = time.monotonic()
    student = training.trained(rung, budget, data, fast=fast)
    trained = time.monotonic()
    asked = [scenes.scene("held-out", budget.pairs + i) for i in range(budget.truth)]
    known = truth.truth(student, asked)
    table = measuring.measured(student, [scenes.scene("held-out", i) for i in range(budget.pairs)])
    seconds = {"training": round(trained - start), "all": round(time.monotonic() - start)}
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread"
    stated = {
        "rung": asdict(rung),
        "step": rung.step,
        "truth": known,
        "budget": asdict(budget),
        "fast": fast,
        "seconds": seconds,
        "machine": machine,
        "torch": torch.__version__,
        "mmerank": mmerank.__version__,
    }
    write(out / rung.name, stated, table)
    print(f"DONE {rung.name}: accuracy {known['accuracy']:.3f}, gain {known['loss_gain']:.3f}, {seconds}", flush=True)


def measure_twin(shape: str, seed: int, budget: Budget, out: Path) -> None:
    """The same numbers of a model of this shape that has never been trained."""
    adapter = mmerank.load(f"demo-{shape}", dtype="float32", device="cpu").untrained(seed)
    pairs = [scenes.scene("held-out", i).example() for i in range(budget.pairs)]
    table = measuring.table(measuring.of_adapter(adapter, pairs))
    write(out / f"{TWINS}-{shape}-seed-{seed}", {"twin": {"shape": shape, "seed": seed}}, table)


def write(folder: Path, stated: object, table: object) -> None:
    """One folder of records, whole or not at all: the JSON comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / "metrics.parquet") as unfinished:
        table.to_parquet(unfinished, compression="zstd", index=False)  # type: ignore[attr-defined]
    with whole(folder / "rung.json") as unfinished:
        unfinished.write_text(json.dumps(stated, indent=1) + "\n")


def prepared(options: argparse.Namespace) -> Budget:
    """How much is trained, when all is quiet."""
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return Budget(**json.loads(options.budget))


def train(options: argparse.Namespace) -> None:
    """Every rung that has no records yet."""
    budget = prepared(options)
    rungs = [rung for rung in ladder() if not options.only or options.only in rung.name][: options.first]
    data: training.Scenes | None = None
    for rung in rungs:
        twin = options.out / f"{TWINS}-{rung.shape}-seed-{rung.seed}"
        if not (options.out / rung.name / "rung.json").exists():
            data = data or training.Scenes(budget.scenes, options.cache)
            measure_rung(rung, budget, data, options.out, fast=options.fast)
        if not (twin / "rung.json").exists():
            measure_twin(rung.shape, rung.seed, budget, options.out)


def write_checkpoints(options: argparse.Namespace) -> None:
    """Rungs that are not kept yet, trained once more, and the truth of all that are."""
    budget = prepared(options)
    study = [rung for rung in ladder() if keeping.can_be_kept(rung) and rung.name in options.rungs]
    data: training.Scenes | None = None
    accuracies = {}
    for rung in study:
        folder = options.to / rung.name
        told = folder / "truth.json"
        if not told.exists():
            data = data or training.Scenes(budget.scenes, options.cache)
            student = training.trained(rung, budget, data, fast=options.fast)
            keeping.keep(student, folder)
            asked = [scenes.scene("held-out", budget.pairs + i) for i in range(budget.truth)]
            with whole(told) as unfinished:
                unfinished.write_text(json.dumps(truth.truth(student, asked), indent=1) + "\n")
        accuracies[str(folder)] = json.loads(told.read_text())[truth.TRUTH]
        keeping.write_scores(accuracies, budget.truth, options.to)


def write_page(options: argparse.Namespace) -> None:
    """Page, figure and table of all numbers, from the records alone."""
    ladder_records = records.load(options.out)
    found = analysis.table(ladder_records)
    (options.docs / page.PAGE).write_text(page.page(ladder_records, found))
    (options.docs / FILE.relative_to(Path(mmerank.__file__).parents[1])).write_text(stored(page.summary(found)))
    front = options.docs / "README.md"
    said = textwrap.fill(page.readme(ladder_records, found), 118, break_on_hyphens=False)
    front.write_text(re.sub(PARAGRAPH, lambda _: said + "\n\n", front.read_text(), count=1))
    (options.out / "table.csv").write_text(page.csv(found))
    figure.figure(found, options.docs / page.FIGURE)


def stored(said: dict[str, OnLadder]) -> str:
    """A line per metric."""
    lines = [f" {json.dumps(name)}: {json.dumps(of.to_dict())}" for name, of in said.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked for; `call` does it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RECORDS, metavar="DIR", help="records of all rungs")
    commands = parser.add_subparsers(dest="command", required=True)
    training_options = commands.add_parser("train")
    training_options.add_argument("--only", default="", metavar="TEXT", help="rungs whose name has it")
    training_options.add_argument("--first", type=int, metavar="N", help="so many of them")
    training_options.set_defaults(call=train)
    keeping_options = commands.add_parser("checkpoints")
    keeping_options.add_argument("to", type=Path, metavar="DIR")
    keeping_options.add_argument("--rungs", nargs="+", default=STUDIED, metavar="NAME", help="default: the study's")
    keeping_options.set_defaults(call=write_checkpoints)
    for trains in (training_options, keeping_options):
        trains.add_argument("--cache", type=Path, default=CACHE, metavar="DIR")
        trains.add_argument("--fast", action="store_true", help="bfloat16 and compiled kernels")
        trains.add_argument("--threads", type=int, default=1, metavar="N")
        trains.add_argument("--budget", default="{}", metavar="JSON", help="fields of Budget, to try it out")
    page_options = commands.add_parser("page")
    page_options.add_argument("--docs", type=Path, default=Path(), metavar="DIR", help="in place of the repository")
    page_options.set_defaults(call=write_page)
    return parser.parse_args(arguments)


def main() -> None:
    """Do what is asked for."""
    options = parsed()
    options.call(options)


if __name__ == "__main__":
    main()
