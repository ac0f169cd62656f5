r"""Compare multimodal models on data sets in one table, in the shape of the paper's Table 2.

    python scripts/compare_mllms.py llava-hf/llava-1.5-7b-hf minigpt_v2.yaml \
        --data "llava:detail_23k.json?images=train2017" minigpt:cc_sbu_align --out runs/table2 --json table2.json

Where the paper has a model on a data set, its number stands beside ours in round brackets: for the published
LLaVA-1.5 checkpoints, MiniGPT-v2 at its published size, and data that lies in detail_23k.json or in a folder
cc_sbu_align. `mmerank reproduce table2` is for those alone; this is for other models beside them. A 7B model takes
15 GB of GPU memory in half precision. Each run is kept in a folder of its own under --out, and continued when the
script is called again.
"""

import argparse
from pathlib import Path

from rich.console import Console

import mmerank
from mmerank.__main__ import guarded
from mmerank.commands.results import check_writable, write_json
from mmerank.models.adapter import check_model
from mmerank.report.paper.printed import printed_alignment
from mmerank.report.terminal.alignment import alignment_table, standing
from mmerank.runs.cache import folder_name


def main() -> None:
    """Measure each model on each data set, loading a model once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--limit", type=int, metavar="N")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--sequence", choices=["bare", "template"], default="bare")
    parser.add_argument("--dtype")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    check_writable(options.json)
    data = [mmerank.load_data(name) for name in options.data]
    results = []
    for name in options.models:
        check_model(name)
    for name in options.models:
        model = mmerank.load(name, dtype=options.dtype, device=options.device)
        results += [
            mmerank.align(
                model,
                examples,
                convention=mmerank.Convention(sequence=options.sequence),
                limit=options.limit,
                seed=options.seed,
                out=options.out and options.out / f"{folder_name(name)}--{folder_name(examples.name)}",
                progress=True,
            )
            for examples in data
        ]
    beside = [printed_alignment(result.model, result.source, result.data) for result in results]
    Console().print(alignment_table(results, beside=beside))
    print("\n".join(line for result in results for line in standing(result)))
    if options.json:
        rows = [{**result.to_dict(), "paper": paper} for result, paper in zip(results, beside, strict=True)]
        write_json({"results": rows}, options.json)


if __name__ == "__main__":
    guarded(main)
