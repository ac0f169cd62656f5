r"""Reproduce a text table of the paper: ours beside the printed number, with the relative difference.

    python scripts/text_tables.py 6 --models 125M 1.3B --limit 1000        # minutes on one GPU
    python scripts/text_tables.py 4 --data dolly-15k:databricks-dolly-15k.jsonl
    python scripts/text_tables.py 8 --accuracy --json table8.json          # text_figures.py draws it
    python scripts/text_tables.py 10 --models-from further/models.yaml     # as continue_training.py writes it

Tables 1 and 6 (OPT), 7 (OpenELM), 8 (Cerebras-GPT): Diff-eRank and reduced loss; 4: by layer; 9: by both algorithms;
10: training continued; 11: by number of texts. Each is measured with dropout off and on in the untrained model, since
the published code leaves it on. OPT-1.3B on all of dolly-15k took the authors about an hour on one A800.
`--models-from FILE` (YAML, size or stage -> hub id or directory) puts other checkpoints in the places of the
published ones. `--accuracy` needs lm-eval: in Tables 1 and 10 on the data set itself, elsewhere the mean of
winogrande and piqa.
"""

import argparse
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev

import yaml
from rich.console import Console

import mmerank
from mmerank import paper
from mmerank.__main__ import guarded
from mmerank.accuracy import accuracies, check_tasks, fetch_questions
from mmerank.comparison import Compared, comparison_table, write_rows
from mmerank.convention import UntrainedMode
from mmerank.errors import UsageError
from mmerank.runs import cache_folder
from mmerank.text_adapter import TextAdapter

# table -> family, data sets, further layers, tasks whose accuracy stands in it or in the figure of it
TABLES: dict[int, tuple[str, tuple[str, ...], str, tuple[str, ...]]] = {
    1: ("OPT", ("openbookqa", "piqa"), "", ("openbookqa", "piqa")),
    4: ("OPT", ("dolly-15k",), "first,middle", ()),
    6: ("OPT", ("dolly-15k", "wikipedia", "openwebtext2", "hh-rlhf"), "", ("winogrande", "piqa")),
    7: ("OpenELM", ("dolly-15k",), "", ("winogrande", "piqa")),
    8: ("Cerebras-GPT", ("dolly-15k",), "", ("winogrande", "piqa")),
    9: ("OPT", ("dolly-15k",), "", ()),
    10: ("OPT-1.3B", ("openbookqa",), "", ("openbookqa",)),
    11: ("OPT", ("wikipedia",), "", ()),
}
Numbers = Iterator[tuple[str, float, float]]  # label, ours, the paper's


def numbers(table: int, family: str, data: str, size: str, result: mmerank.Diff) -> Numbers:
    """What a table says of one model."""
    printed = {"Diff-eRank": paper.DIFF_ERANK, "reduced loss": paper.REDUCED_LOSS}
    if table == 4:
        points = result.points  # with few blocks the first is also the middle one
        for name, point in {"first": points[0], "middle": points[-2], "last": points[-1]}.items():
            yield f"{name} layer", point.diff_erank, paper.LAYER_DIFF_ERANK[name][size]
    elif table == 9:
        yield "algorithm (a)", result.diff_erank, paper.DIFF_ERANK[family, data][size]
        yield "algorithm (b)", result.final.diff_erank_mean_of_eranks, paper.DIFF_ERANK_MEAN_OF_ERANKS[size]
    elif table == 10:
        yield "Diff-eRank", result.diff_erank, paper.CONTINUAL_TRAINING[size]["Diff-eRank"]
        yield "loss", result.loss_trained, paper.CONTINUAL_TRAINING[size]["loss"]
    elif table == 11:
        yield f"{result.n} texts", result.diff_erank, paper.SAMPLE_SIZE_DIFF_ERANK.get(result.n, float("nan"))
    else:
        yield "Diff-eRank", result.diff_erank, printed["Diff-eRank"][family, data][size]
        yield "reduced loss", result.reduced_loss, printed["reduced loss"][family, data][size]


def right(table: int, family: str, data: tuple[str, ...], size: str, found: list[float]) -> Numbers:
    """Accuracy of one model, with the data set it stands beside as label."""
    if table == 10:
        yield data[0], found[0], paper.CONTINUAL_TRAINING[size]["accuracy"]
        return
    for name, value in zip(data, found, strict=True) if table == 1 else [(data[0], fmean(found))]:
        yield name, value, paper.ACCURACY.get((family, name), {}).get(size, float("nan"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=int, choices=TABLES)
    parser.add_argument("--models", nargs="+", metavar="SIZE", help="only these sizes")
    parser.add_argument("--models-from", type=Path, metavar="FILE")
    parser.add_argument("--data", nargs="+", help="in place of the table's data sets, in their order")
    parser.add_argument("--limit", type=int, metavar="N", help="texts; table 11 uses its own numbers up to N")
    parser.add_argument(
        "--accuracy", nargs="*", metavar="TASK", help="too; with names, in place of the table's tasks"
    )
    parser.add_argument("--accuracy-limit", type=int, metavar="N", help="questions of each task")
    parser.add_argument("--tokenizer", help="for OpenELM, whose repositories carry none: a Llama-2 tokenizer")
    parser.add_argument("--device")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, for text_figures.py")
    options = parser.parse_args()
    family, names, layers, tasks = TABLES[options.table]
    known = list(paper.CONTINUAL_TRAINING)[1:] if options.table == 10 else list(paper.FAMILIES[family])
    models = {"initial": "facebook/opt-1.3b"} if options.table == 10 else paper.FAMILIES[family]
    if options.models_from:
        models = yaml.safe_load(options.models_from.read_text())
    sizes = options.models or (["1.3B"] if options.table == 11 else list(models))
    if unknown := [size for size in sizes if size not in known or size not in models]:
        given = " of --models-from" if options.models_from else ""
        raise UsageError(f"table {options.table} has no model {unknown[0]!r}{given}; known: {', '.join(known)}")
    if options.data and len(options.data) != len(names):
        raise UsageError(
            f"table {options.table} has the data sets {', '.join(names)}; --data gives {len(options.data)}"
        )
    if options.accuracy is not None and not tasks:
        raise UsageError(f"table {options.table} has no accuracy")
    tasks = tuple(options.accuracy or tasks) if options.accuracy is not None else ()
    check_tasks(tasks)
    limits = [options.limit]
    if options.table == 11:
        limits = [n for n in paper.SAMPLE_SIZE_DIFF_ERANK if n <= (options.limit or n)] or limits
    sources = [mmerank.load_data(source) for source in options.data or names]
    fetch_questions(tasks)
    rows: list[Compared] = []

    def measure(size: str, model: TextAdapter, modes: dict[UntrainedMode, str]) -> None:
        for name, texts in zip(names, sources, strict=True):
            for mode, limit in product(modes, limits):
                convention = mmerank.TextConvention(untrained_mode=mode)
                result = mmerank.diff(
                    model,
                    texts,
                    convention=convention,
                    layers=layers,
                    limit=limit,
                    cache=cache_folder(),
                    progress=True,
                )
                for label, ours, theirs in numbers(options.table, family, name, size, result):
                    rows.append(Compared(options.table, family, size, name, label, modes[mode], ours, theirs))
        if len(limits) > 1:  # table 11
            for dropout in modes.values():
                samples = [row for row in rows if (row.size, row.dropout) == (size, dropout)]
                complete = {row.paper for row in samples} == {*paper.SAMPLE_SIZE_DIFF_ERANK.values()}
                spread = pstdev(row.ours for row in samples), paper.SAMPLE_SIZE_STDEV if complete else math.nan
                rows.append(Compared(11, family, size, names[0], "standard deviation", dropout, *spread))
        if tasks:
            found = [accuracies(model, [task], limit=options.accuracy_limit, progress=True) for task in tasks]
            values = [next(iter(accuracy.values())).value for accuracy in found]
            for name, ours, theirs in right(options.table, family, names, size, values):
                rows.append(Compared(options.table, family, size, name, "accuracy", "", ours, theirs))

    for i, size in enumerate(sizes):
        model = mmerank.load_text(models[size], dtype="float32", device=options.device, tokenizer=options.tokenizer)
        if options.table == 10 and i == 0:  # against itself, so its Diff-eRank is 0
            measure("random init", model.untrained(0), {"eval": "off"})
        measure(size, model, {"eval": "off", "train": "on"})
    Console().print(comparison_table(f"Table {options.table}", rows))
    if options.json:
        write_rows(options.json, rows)


if __name__ == "__main__":
    guarded(main)
