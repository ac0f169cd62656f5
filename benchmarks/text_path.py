r"""How much does measuring cost? The text path beside bare forwards and beside the published recipe.

    OMP_NUM_THREADS=1 python benchmarks/text_path.py --json text_path.json      # 15 minutes on an idle core

A model of OPT-125M's shape with random weights reads texts of 30 to 724 tokens. In every round, one after the other,
in an order that is turned round each time: (a) the published recipe, per text one forward of each model with all
hidden states and a d x d SVD of the float32 covariance, and the loss from full logits; (b) the bare forwards of both
models and the loss, nothing measured; (c) mmerank.diff, end to end but for loading and for the building of the
untrained twin, which is timed by itself. Ratios are taken within a round, and their medians reported.

Two clocks: the processor time of this process, which other processes hardly disturb with one thread
(OMP_NUM_THREADS=1), and the wall time, which means something on an idle machine only.
"""

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

import mmerank
from mmerank.runs import versions
from mmerank.text_adapter import TextAdapter

# Tokens per text: a spread as of short documents, chosen by hand.
LENGTHS = (30, 58, 78, 97, 117, 139, 167, 205, 262, 342, 466, 724)


def checkpoint(folder: Path) -> None:
    """OPT-125M's shape, random weights, and a tokenizer in which every word is a token."""
    torch.manual_seed(0)
    OPTForCausalLM(OPTConfig()).save_pretrained(folder)
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3} | {f"w{i}": i for i in range(4, 50272)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)


@torch.inference_mode()
def recipe(adapters: list[TextAdapter], batches: list[torch.Tensor]) -> None:
    """What the published code does for each text and model."""
    for adapter in adapters:
        for ids in batches:
            output = adapter.model(input_ids=ids, output_hidden_states=True, use_cache=False, labels=ids)
            z = output.hidden_states[-1][0]
            z = z - z.mean(dim=0)
            u = z / z.norm(dim=1, keepdim=True)
            torch.linalg.svd(u.T @ u / len(u))


@torch.inference_mode()
def bare(adapters: list[TextAdapter], batches: list[torch.Tensor]) -> None:
    """The forwards and the loss alone."""
    for adapter in adapters:
        for ids in batches:
            h = adapter.forward(ids, torch.ones_like(ids, dtype=torch.bool))
            torch.nn.functional.cross_entropy(adapter.logits(h[:, :-1])[0].float(), ids[0, 1:])


def seconds(work: Callable[..., object], *arguments: object) -> dict[str, float]:
    """Processor and wall time of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    work(*arguments)
    return {"processor": time.process_time() - processor, "wall": time.perf_counter() - wall}


def main() -> None:
    """Alternate them, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--without-recipe", action="store_true", help="which takes longest by far")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng = random.Random(0)
    # Every length with the others, however few texts.
    lengths = [LENGTHS[(5 * i) % len(LENGTHS)] for i in range(options.texts)]
    texts = [
        mmerank.Example(f"{i}", None, "", " ".join(f"w{rng.randrange(4, 50272)}" for _ in range(n)))
        for i, n in enumerate(lengths)
    ]
    with tempfile.TemporaryDirectory() as name:
        checkpoint(Path(name))
        adapter: Any = mmerank.load_text(name, device=options.device)
        build = adapter.untrained
        twin = build(0)
        adapter.untrained = lambda seed: twin  # what mmerank.diff finds is built already
        adapters = [adapter, twin]
        batches = [torch.tensor([adapter.token_ids(text.text)]).to(options.device) for text in texts]
        works: dict[str, Callable[[], object]] = {
            "recipe": lambda: recipe(adapters, batches),
            "bare": lambda: bare(adapters, batches),
            "mmerank": lambda: mmerank.diff(adapter, texts),
            "twin": lambda: build(0),
        }
        if options.without_recipe:
            del works["recipe"]
        bare(adapters, batches[:2])  # warm up
        mmerank.diff(adapter, texts[:2])
        rounds: list[dict[str, dict[str, float]]] = []
        for i in range(options.rounds):
            order = list(works) if i % 2 == 0 else list(works)[::-1]
            rounds.append({work: seconds(works[work]) for work in order})
            print(json.dumps(rounds[-1]), flush=True)
    ratios: dict[str, list[float]] = {}
    for clock in ("processor", "wall"):
        for above, below in (("mmerank", "bare"), ("recipe", "bare"), ("recipe", "mmerank"), ("twin", "bare")):
            if above in works:
                values = [r[above][clock] / r[below][clock] for r in rounds]
                ratios[f"{above} / {below}, {clock} time"] = values
    for label, values in ratios.items():
        print(f"{label}: median {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    if options.json:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            **versions(),
        }
        content = {"machine": machine, "device": options.device, "texts": lengths, "rounds": rounds, "ratios": ratios}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
