r"""Train a small OPT family from scratch on the same tokens, to ask whether Diff-eRank rises with size.

    python scripts/train_family.py runs/family --steps 600      # 15 minutes on two CPU cores
    mmerank diff runs/family/opt-* --data text:runs/family/held_out.txt --untrained-seeds 3

The text is the docstrings of Python's standard library, so nothing is downloaded; a twentieth of it is held out. All
models read the same batches in the same order with the same learning-rate schedule, and are saved as transformers
checkpoints, also half-way. Dropout is OPT's 0.1, so that `--untrained-mode train` means something.
"""

import argparse
import ast
import random
import sysconfig
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

# width, layers, heads
SIZES = [(16, 2, 2), (32, 2, 2), (64, 3, 4), (96, 4, 4), (128, 5, 4)]
CONTEXT, BATCH, VOCABULARY = 128, 24, 2048


def docstrings() -> list[str]:
    """Every docstring of the standard library with at least 40 words, shuffled, without repeats."""
    found = set()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                words = (ast.get_docstring(node) or "").split()
                if len(words) >= 40:
                    found.add(" ".join(words))
    texts = sorted(found)
    random.Random(0).shuffle(texts)
    return texts


def tokenizer_of(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with OPT's special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>"]
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="</s>", eos_token="</s>", pad_token="<pad>")


def train(model: OPTForCausalLM, stream: torch.Tensor, steps: int, folder: Path) -> None:
    """Next-token prediction on the same windows for every model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for step in range(1, steps + 1):
        starts = torch.randint(len(stream) - CONTEXT, (BATCH,), generator=generator)
        batch = torch.stack([stream[start : start + CONTEXT] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps:
            print(f"{folder.name} step {step}: loss {loss.item():.3f}", flush=True)
        if step == steps // 2:
            model.save_pretrained(folder.with_name(f"half-{folder.name}"))
    model.save_pretrained(folder)


def main() -> None:
    """Train every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="only the N smallest")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    texts = docstrings()
    held_out = texts[: len(texts) // 20]
    (options.out / "held_out.txt").write_text("\n".join(held_out) + "\n")
    tokenizer = tokenizer_of(texts[len(held_out) :])
    stream = torch.tensor([i for text in texts[len(held_out) :] for i in [2, *tokenizer(text)["input_ids"]]])
    print(f"{len(texts)} texts, {len(stream):,} training tokens")
    for width, layers, heads in SIZES[: options.sizes]:
        torch.manual_seed(0)
        config = OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            word_embed_proj_dim=width,
            ffn_dim=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=1024,
        )
        folder = options.out / f"opt-{width:03d}"
        train(OPTForCausalLM(config), stream, options.steps, folder)
        for target in (folder, folder.with_name(f"half-{folder.name}")):
            tokenizer.save_pretrained(target)


if __name__ == "__main__":
    main()
