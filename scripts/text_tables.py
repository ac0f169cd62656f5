r"""Reproduce a text table of the paper: ours beside the printed number, with the relative difference.

    python scripts/text_tables.py 6 --models 125M 1.3B --limit 1000        # minutes on one GPU
    python scripts/text_tables.py 4 --data dolly-15k:databricks-dolly-15k.jsonl

Tables 1 and 6 (OPT), 7 (OpenELM), 8 (Cerebras-GPT): Diff-eRank and reduced loss; 4: by layer; 9: by both algorithms;
11: by number of texts. Each is measured with dropout off and on in the untrained model, since the published code
leaves it on. OPT-1.3B on all of dolly-15k took the authors about an hour on one A800. `--models-from FILE` (YAML,
size -> hub id or directory) puts other checkpoints in the places of the published ones.
"""

import argparse
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

import mmerank
from mmerank import paper
from mmerank.__main__ import guarded
from mmerank.runs import cache_folder

# table -> family, data sets, further layers
TABLES = {
    1: ("OPT", ("openbookqa", "piqa"), ""),
    4: ("OPT", ("dolly-15k",), "first,middle"),
    6: ("OPT", ("dolly-15k", "wikipedia", "openwebtext2", "hh-rlhf"), ""),
    7: ("OpenELM", ("dolly-15k",), ""),
    8: ("Cerebras-GPT", ("dolly-15k",), ""),
    9: ("OPT", ("dolly-15k",), ""),
    11: ("OPT", ("wikipedia",), ""),
}


def rows(number: int, family: str, data: str, size: str, result: mmerank.Diff) -> list[tuple[str, float, float]]:
    """What the table says of one model: label, ours, the paper's."""
    if number == 4:
        points = result.points  # with few blocks the first is also the middle one
        labels = {"first": points[0], "middle": points[-2], "last": points[-1]}
        return [(f"{k} layer", p.diff_erank, paper.LAYER_DIFF_ERANK[k][size]) for k, p in labels.items()]
    if number == 9:
        b = result.final.diff_erank_mean_of_eranks
        a = ("algorithm (a)", result.diff_erank, paper.DIFF_ERANK[family, data][size])
        return [("algorithm (b)", b, paper.DIFF_ERANK_MEAN_OF_ERANKS[size]), a]
    if number == 11:
        return [(f"{result.n} texts", result.diff_erank, paper.SAMPLE_SIZE_DIFF_ERANK.get(result.n, float("nan")))]
    loss = ("reduced loss", result.reduced_loss, paper.REDUCED_LOSS[family, data][size])
    return [("Diff-eRank", result.diff_erank, paper.DIFF_ERANK[family, data][size]), loss]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=int, choices=TABLES)
    parser.add_argument("--models", nargs="+", metavar="SIZE", help="only these sizes")
    parser.add_argument("--models-from", type=Path, metavar="FILE")
    parser.add_argument("--data", nargs="+", help="in place of the table's data sets, in their order")
    parser.add_argument("--limit", type=int, metavar="N", help="texts; table 11 uses its own numbers up to N")
    parser.add_argument("--tokenizer", help="for OpenELM, whose repositories carry none: a Llama-2 tokenizer")
    parser.add_argument("--device")
    options = parser.parse_args()
    family, names, layers = TABLES[options.table]
    models = yaml.safe_load(options.models_from.read_text()) if options.models_from else paper.FAMILIES[family]
    sizes = options.models or (["1.3B"] if options.table == 11 else list(models))
    limits = [options.limit]
    if options.table == 11:
        limits = [n for n in paper.SAMPLE_SIZE_DIFF_ERANK if n <= (options.limit or n)] or limits
    table = Table("model", "data", "", "dropout", "ours", "paper", "difference", title=f"Table {options.table}")
    for size in sizes:
        model = mmerank.load_text(models[size], dtype="float32", device=options.device, tokenizer=options.tokenizer)
        for name, source in zip(names, options.data or names, strict=True):
            texts = mmerank.load_data(source)
            for mode in ("eval", "train"):
                convention = mmerank.TextConvention(untrained_mode=mode)
                for limit in limits:
                    result = mmerank.diff(
                        model,
                        texts,
                        convention=convention,
                        layers=layers,
                        limit=limit,
                        cache=cache_folder(),
                        progress=True,
                    )
                    for label, ours, theirs in rows(options.table, family, name, size, result):
                        numbers = (f"{ours:.3f}", f"{theirs:.3f}", f"{ours / theirs - 1:+.1%}")
                        table.add_row(f"{family} {size}", name, label, "off" if mode == "eval" else "on", *numbers)
    Console().print(table)


if __name__ == "__main__":
    guarded(main)
