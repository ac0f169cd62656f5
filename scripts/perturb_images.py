r"""What transforms of the pictures do to several multimodal models; the paper's Table 3 with its defaults.

    python scripts/perturb_images.py llava-hf/llava-1.5-7b-hf minigpt_v2.yaml \
        --data "llava:detail_23k.json?images=train2017" --limit 1000 --out runs/table3 --json table3.json

The paper's own numbers are printed at the end; it says "rotated clockwise" and not how far. A 7B model takes 15 GB of
GPU memory in half precision, and each transform about as long as the base. Each model has a run folder of its own
under --out, and continues there when the script is called again.
"""

import argparse
from pathlib import Path

from rich.console import Console

import mmerank
from mmerank.__main__ import guarded
from mmerank.commands.results import check_writable, write_json
from mmerank.models.adapter import check_model
from mmerank.report.paper.tables import TABLE_2, TABLE_3
from mmerank.report.terminal.alignment import perturbation_view
from mmerank.runs.cache import folder_name


def main() -> None:
    """Measure each model before and after each transform."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--data", required=True)
    parser.add_argument("--transform", nargs="+", default=["rotate:90", "rotate:180", "rotate:270", "identity"])
    parser.add_argument("--control", nargs="+", default=[])
    parser.add_argument("--control-draws", type=int, default=39, metavar="R")
    parser.add_argument("--limit", type=int, metavar="N")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--dtype")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    check_writable(options.json)
    examples = mmerank.load_data(options.data)
    results = []
    for name in options.models:
        check_model(name)
    for name in options.models:
        result = mmerank.perturb(
            mmerank.load(name, dtype=options.dtype, device=options.device),
            examples,
            options.transform,
            controls=options.control,
            control_draws=options.control_draws,
            limit=options.limit,
            seed=options.seed,
            out=options.out and options.out / folder_name(name),
            progress=True,
        )
        Console().print(perturbation_view(result))
        results.append(result.to_dict())
    print("The paper, LLaVA-1.5 on detail_23k:")
    for title, row in (("base", TABLE_2["LLaVA-1.5", "detail_23k"]), ("rotated", TABLE_3)):
        print(f"  {title:8}", *(f"{value:8g}" for value in row.values()))
    if options.json:
        write_json({"results": results}, options.json)


if __name__ == "__main__":
    guarded(main)
