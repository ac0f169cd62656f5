r"""Train a causal language model further until it overfits, for Table 10 of the paper.

    python scripts/continue_training.py facebook/opt-1.3b --data wikipedia --limit 10000 --out further
    mmerank reproduce table10 --models-from further/models.yaml

A tenth of the texts is held out. After every epoch the model is saved, and the loss on what is held out is printed:
the epoch where it is lowest is `fully trained`, the last one `overfitting`. The paper names no hyperparameters; here
AdamW at a constant learning rate, a text a window, dropout as the checkpoint has it. Hours on a GPU for OPT-1.3B.
"""

import argparse
import random
from pathlib import Path
from typing import Any

import torch
import yaml

import mmerank
from mmerank.__main__ import guarded
from mmerank.errors import DataError
from mmerank.inputs.sequence import Role, tokens_of
from mmerank.models.sequences import padded

BATCH, CONTEXT = 8, 512


def loss_of(model: Any, windows: list[list[int]]) -> torch.Tensor:
    """Mean next-token loss over a batch, padding left out."""
    ids, mask = padded([tokens_of(window, Role.TEXT) for window in windows])
    device = next(model.parameters()).device
    labels = ids.masked_fill(~mask, -100)
    loss: torch.Tensor = model(
        input_ids=ids.to(device), attention_mask=mask.long().to(device), labels=labels.to(device)
    ).loss
    return loss


@torch.no_grad()
def held_out_loss(model: Any, windows: list[list[int]]) -> float:
    """Mean over windows, one by one."""
    model.eval()
    return sum(float(loss_of(model, [window])) for window in windows) / len(windows)


def main() -> None:
    """Train, save every epoch, and say which one is which."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="hub id or directory")
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, metavar="N", help="texts")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--device")
    options = parser.parse_args()
    adapter = mmerank.load_text(options.model, dtype="float32", device=options.device)
    model: Any = adapter.model
    texts = [entry.text for entry in mmerank.load_data(options.data) if isinstance(entry, mmerank.Example)]
    windows = [adapter.token_ids(text)[:CONTEXT] for text in texts[: options.limit]]
    windows = [window for window in windows if len(window) > 1]
    held_out, trained = windows[::10], [window for i, window in enumerate(windows) if i % 10]
    if not trained:
        raise DataError(f"{options.data}: {len(windows)} texts to train on, at least 2 are needed")
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    rng = random.Random(0)
    torch.manual_seed(0)
    losses = {0: held_out_loss(model, held_out)}
    for epoch in range(1, options.epochs + 1):
        print(f"epoch {epoch - 1}: held-out loss {losses[epoch - 1]:.4f}", flush=True)
        rng.shuffle(trained)
        model.train()
        for start in range(0, len(trained), BATCH):
            torch.autograd.backward(loss_of(model, trained[start : start + BATCH]))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        losses[epoch] = held_out_loss(model, held_out)
        folder = options.out / f"epoch-{epoch}"
        model.save_pretrained(folder)
        adapter.tokenizer.save_pretrained(folder)
    print(f"epoch {options.epochs}: held-out loss {losses[options.epochs]:.4f}")
    best = min(range(1, options.epochs + 1), key=losses.__getitem__)
    if losses[best] > losses[0]:
        print("no epoch is better than the checkpoint it began with: lower the learning rate, or give more texts")
    stages = {"initial": options.model, "fully trained": str(options.out / f"epoch-{best}")}
    if best < options.epochs:
        stages["overfitting"] = str(options.out / f"epoch-{options.epochs}")
    else:
        print("the last epoch is the best one: it does not overfit yet, so train for more epochs")
    (options.out / "models.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))


if __name__ == "__main__":
    guarded(main)
