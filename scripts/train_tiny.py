r"""Train the embedded models from scratch: a small LLaVA-1.5 and a small MiniGPT-v2, in their published layouts.

    python scripts/train_tiny.py llava runs/tiny/llava-0 --seed 0
    python scripts/train_tiny.py minigpt-v2 runs/tiny/minigpt-v2-0 --seed 0

The world is that of `mmerank.inputs.demo.scenes`. Stages, as in the training of the large ones: the vision encoder,
which here learns to name what is in each cell of the picture and to redraw it, in place of image-text contrast; the
language model, on text alone; the connector, with everything else frozen; connector and language model together.
MiniGPT-v2's Llama is then frozen, and LoRA and connector go on. Each stage is written as a checkpoint that
`mmerank.load` reads, measured on the held-out pairs, and added to `trajectory.json`; the last one is in `final/`.
Every step follows from the seed. On processors with bfloat16 matrix units `--fast` is several times as fast;
`--scale 0.01 --batch 16` shows in a minute that all of it runs.
"""

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from einops import rearrange
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import logging

import mmerank
from mmerank.eranks import ERANKS
from mmerank.inputs.demo import scenes
from mmerank.inputs.sequence import Kind, Role, TokenSequence, tokens_of
from mmerank.jobs.demo.captions import caption_scores, causal_lm
from mmerank.models.sequences import padded, spliced_embeddings
from mmerank_adapters.eva_vit import EvaViT

BATCH = 64
SCENES = 40_000
STEPS = {"vision": 900, "text": 300, "connector": 150, "joint": 1600, "lora": 250}
RATES = {"vision": 1.5e-3, "text": 1e-3, "connector": 1e-3, "joint": 1e-3, "lora": 5e-4}
KEPT = (0.1, 0.25, 0.5)  # of the joint stage: where a checkpoint is measured besides its end
LORA_RANK, LORA_ALPHA = 8, 16
# What the conversation templates of both models are made of, for the tokenizer.
TEMPLATES = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: ASSISTANT: [INST] [/INST] <Img> </Img>"
)
CLASSES = (1 + len(scenes.SHAPES), len(scenes.COLOURS), len(scenes.SIZES), len(scenes.GROUNDS))
Scene = scenes.Scene
Trained = nn.Module | nn.Parameter


def tokenizer() -> LlamaTokenizer:
    """Llama's kind of tokenizer: sentencepiece spaces, byte fallback; words learned from captions and templates."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learner = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    captions = [scenes.scene("train", i).text_example().text for i in range(1000)]
    bpe.train_from_iterator([*captions, *[TEMPLATES] * 100], learner)
    content = json.loads(bpe.to_str())["model"]
    return LlamaTokenizer(
        vocab=content["vocab"], merges=[tuple(merge) for merge in content["merges"]], model_max_length=2048
    )


def llama_config(words: int, **more: Any) -> LlamaConfig:
    """The LLM of both models: 1.2 million parameters beside its embeddings."""
    return LlamaConfig(
        vocab_size=words,
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        **more,
    )


def state_half(file: Path) -> None:
    """Let a config.json say in what the weights beside it are stored; transformers writes the model's own dtype."""
    file.write_text(file.read_text().replace('"dtype": "float32"', '"dtype": "float16"'))


class SmallLlava:
    """A LLaVA-1.5: CLIP of 6 x 6 patches, two-layer MLP, Llama."""

    side = 168  # px; a cell of the scene is 2 x 2 patches
    patch = 28
    grid = (6, 6)

    def __init__(self, folder: Path):
        words = tokenizer()
        words.add_tokens([AddedToken("<image>", special=True, normalized=False)])
        words.add_special_tokens({"pad_token": "<pad>"})
        picture = CLIPImageProcessor(
            size={"shortest_edge": self.side}, crop_size={"height": self.side, "width": self.side}
        )
        LlavaProcessor(
            picture,
            words,
            patch_size=self.patch,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        ).save_pretrained(folder)
        clip = CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=6,  # the connector reads the fifth
            num_attention_heads=4,
            image_size=self.side,
            patch_size=self.patch,
            projection_dim=64,
        )
        config = LlavaConfig(
            vision_config=clip,
            text_config=llama_config(-(len(words) // -64) * 64, pad_token_id=words.pad_token_id),
            image_token_index=words.convert_tokens_to_ids("<image>"),
            image_seq_length=math.prod(self.grid),
        )
        LlavaForConditionalGeneration(config).save_pretrained(folder)
        self.initial = folder
        self.adapter = mmerank.load(folder, dtype="float32", device="cpu")
        self._model = cast("Any", self.adapter.model)
        self._tower = self._model.model.vision_tower
        self.vision: list[nn.Module] = [self._tower]
        self.connector = self._model.model.multi_modal_projector
        self._tower.config._attn_implementation = "eager"  # the fused kernel's backward pass is slower on CPUs
        self.lm = causal_lm(self.adapter)

    def rows(self, pixels: Tensor) -> list[Tensor]:
        """Patches at the layer that the connector reads, and at the last."""
        states = self._tower(pixels, output_hidden_states=True).hidden_states
        return [states[-2][:, 1:], states[-1][:, 1:]]

    def save(self, folder: Path) -> Path:
        """Write what `mmerank.load` takes, in half precision."""
        shutil.copytree(self.initial, folder, dirs_exist_ok=True)
        half = {name: h.half() for name, h in self._model.state_dict().items()}
        self._model.save_pretrained(folder, state_dict=half)
        state_half(folder / "config.json")
        return folder


class LoRA(nn.Module):
    """A frozen linear layer with a trained update of low rank (arXiv:2106.09685, Sec. 4.1), scaled by alpha / r."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(LORA_RANK, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, LORA_RANK))

    def forward(self, h: Tensor) -> Tensor:
        """(.., in) -> (.., out)."""
        update: Tensor = F.linear(F.linear(h, self.a), self.b)
        return self.base(h) + update * (LORA_ALPHA / LORA_RANK)  # type: ignore[no-any-return]


class SmallMiniGPTv2:
    """A MiniGPT-v2: EVA blocks on 12 x 12 patches, strips of four of them, linear connector, Llama with LoRA."""

    side = 168  # px; a cell of the scene is 4 x 4 patches, four strips
    grid = (12, 3)
    depth, heads, dim = 5, 4, 128

    def __init__(self, folder: Path):
        llama = folder / "llama"
        words = tokenizer()
        words.save_pretrained(llama)
        LlamaForCausalLM(llama_config(-(len(words) // -64) * 64)).save_pretrained(llama)
        tower = EvaViT(self.dim, self.depth, self.heads, self.side)
        for parameter in tower.parameters():  # EVA's own: truncated normal, 0.02
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
        torch.save(tower.state_dict(), folder / "eva_vit.pth")
        projection = nn.Linear(4 * self.dim, 160)
        lora = {f"layers.{i}.self_attn.{name}": LoRA(nn.Linear(160, 160)) for i in range(4) for name in "qv"}
        self._write_trained(folder, projection, {f"{name}_proj": part for name, part in lora.items()})
        keys = {"image_size": self.side, "vit_depth": self.depth, "vit_heads": self.heads, "lora_alpha": LORA_ALPHA}
        files = {"llama_model": "llama", "vit_checkpoint": "eva_vit.pth", "checkpoint": "checkpoint.pth"}
        stated = {"adapter": "minigpt-v2", **files, **keys}
        (folder / "minigpt_v2.yaml").write_text(yaml.safe_dump(stated, sort_keys=False))
        self.initial = folder
        self.adapter = mmerank.load(folder / "minigpt_v2.yaml", dtype="float32", device="cpu")
        self._model = cast("Any", self.adapter.model)
        self.vision = [self._model.visual_encoder]  # ln_vision has no weights of its own in the published files
        self.connector = self._model.llama_proj
        self.lm = causal_lm(self.adapter)
        for block in self._model.visual_encoder.blocks:
            block.attn.fused_attn = False  # the fused kernel's backward pass is slower on CPUs
        self._lora: dict[str, LoRA] = {}

    def rows(self, pixels: Tensor) -> list[Tensor]:
        """Strips of four patches, as the connector reads them."""
        patches = self._model.ln_vision(self._model.visual_encoder(pixels))[:, 1:]
        return [patches.reshape(len(patches), -1, 4 * self.dim)]

    def add_lora(self) -> list[nn.Parameter]:
        """Put LoRA beside every q_proj and v_proj, as MiniGPT-v2's code does; its parameters."""
        for i, layer in enumerate(self.lm.model.layers):
            for name in ("q_proj", "v_proj"):
                lora = LoRA(getattr(layer.self_attn, name))
                setattr(layer.self_attn, name, lora)
                self._lora[f"layers.{i}.self_attn.{name}"] = lora
        return [p for lora in self._lora.values() for p in (lora.a, lora.b)]

    def save(self, folder: Path) -> Path:
        """Write what `mmerank.load` takes, in half precision."""
        shutil.copytree(self.initial, folder, dirs_exist_ok=True)
        weights = {name: h.half() for name, h in self.lm.state_dict().items() if not name.endswith((".a", ".b"))}
        state = {name.replace(".base.", "."): h for name, h in weights.items()}
        with torch.device("meta"):
            plain = LlamaForCausalLM(self.lm.config)
        plain.save_pretrained(folder / "llama", state_dict=state)
        state_half(folder / "llama" / "config.json")
        tower = {name: h.half() for name, h in self._model.visual_encoder.state_dict().items()}
        torch.save(tower, folder / "eva_vit.pth")
        if self._lora:
            self._write_trained(folder, self.connector, self._lora)
        else:
            zero = torch.load(folder / "checkpoint.pth", weights_only=True)["model"]
            zero |= {f"llama_proj.{name}": h.half() for name, h in self.connector.state_dict().items()}
            torch.save({"model": zero}, folder / "checkpoint.pth")
        return folder / "minigpt_v2.yaml"

    @staticmethod
    def _write_trained(folder: Path, projection: nn.Module, lora: dict[str, LoRA]) -> None:
        tensors = {f"llama_proj.{name}": h.half() for name, h in projection.state_dict().items()}
        for name, part in lora.items():
            for side, h in (("A", part.a), ("B", part.b)):
                tensors[f"llama_model.base_model.model.model.{name}.lora_{side}.weight"] = h.detach().half()
        torch.save({"model": tensors}, folder / "checkpoint.pth")


class Data:
    """Training scenes, with their pictures scaled to the vision encoder's side."""

    def __init__(self, count: int, side: int):
        self.scenes = [scenes.scene("train", i) for i in range(count)]
        self._pictures = np.empty((count, side, side, 3), np.uint8)
        for i, each in enumerate(self.scenes):
            self._pictures[i] = np.asarray(each.picture().resize((side, side), Image.Resampling.BICUBIC))
        self._mean, self._std = (torch.tensor(c).view(3, 1, 1) for c in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """(b, 3, side, side), as the adapters' own `pixels` gives them."""
        pictures = torch.from_numpy(self._pictures[list(indices)]).permute(0, 3, 1, 2)
        return (pictures / 255 - self._mean) / self._std

    def coarse(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """What lies under each of h x w rows, 4 x 4 per row: (b, h * w, 48)."""
        small = F.adaptive_avg_pool2d(pixels, (4 * grid[0], 4 * grid[1]))
        return rearrange(small, "b c (h i) (w j) -> b (h w) (c i j)", h=grid[0], w=grid[1])

    def cells(self, indices: Sequence[int]) -> Tensor:
        """Class numbers of each cell's shape, colour, size and ground: (b, 9, 4); -100 where there are none."""
        classes = torch.full((len(indices), 9, 4), -100)
        for row, i in zip(classes, indices, strict=True):
            row[:, 0], row[:, 3] = 0, list(scenes.GROUNDS).index(self.scenes[i].ground)
            for t in self.scenes[i].things:
                row[t.cell, 0] = 1 + scenes.SHAPES.index(t.shape)
                row[t.cell, 1] = list(scenes.COLOURS).index(t.colour)
                row[t.cell, 2] = list(scenes.SIZES).index(t.size)
        return classes


def train(
    name: str,
    parts: Iterable[Trained],
    steps: int,
    rate: float,
    loss_of: Callable[[int], Tensor],
    *,
    fast: bool,
    at: dict[int, Callable[[], None]] | None = None,
) -> None:
    """Minimise a loss over the parameters of `parts`: AdamW, linear warm-up, cosine."""
    parameters = [p for part in parts for p in ([part] if isinstance(part, nn.Parameter) else part.parameters())]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)
    warm = min(200, steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warm, 0.02 + 0.49 * (1 + math.cos(math.pi * i / steps)))
    )
    losses, start = [], time.monotonic()
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16) if fast else nullcontext():
            loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % max(steps // 20, 1) == 0:
            recent = np.mean(losses[-max(steps // 20, 1) :])
            print(f"{name} {step + 1}/{steps} loss {recent:.4f} {time.monotonic() - start:.0f} s", flush=True)
        if at and step + 1 in at:
            at[step + 1]()


def shuffled(count: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Batches of indices, epoch after epoch."""
    rng = random.Random(seed)
    while True:
        order = rng.sample(range(count), count)
        yield from (order[i : i + batch] for i in range(0, count - batch + 1, batch))


def vision_loss(heads: Any, rows: Tensor, grid: tuple[int, int], classes: Tensor, coarse: Tensor) -> Tensor:
    """How badly each row says what is in the cell it lies in, and redraws what lies under it.

    Without the drawing, all rows of a cell become one, and hidden states of next to no rank are left.

    Args:
        heads: A linear layer for each of `CLASSES`, and one for the drawing.
        rows: (b, h * w, d), in raster order.
        grid: h and w.
        classes: Of `Data.cells`, (b, 9, 4).
        coarse: Of `Data.coarse`, (b, h * w, 48).

    Returns:
        Cross-entropies and mean square error, added up.
    """
    y, x = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    targets = classes[:, (y * 3 // grid[0] * 3 + x * 3 // grid[1]).flatten()]
    *said, drawn = (head(rows).float() for head in heads)
    losses = [F.cross_entropy(s.mT, targets[..., i]) for i, s in enumerate(said)]
    return torch.stack([*losses, F.mse_loss(drawn, coarse)]).sum()


def with_end(sequence: TokenSequence, end: int) -> TokenSequence:
    """The sequence, closed; `bare` ones are not by themselves, but a model must learn where to stop."""
    return sequence if sequence.ids[-1] == end else sequence + tokens_of([end], Role.TEMPLATE)


def text_loss(small: Any, decoder: Any, some: Sequence[Scene], step: int, images: Tensor | None) -> Tensor:
    """Next-token loss on instruction and description; every third batch in the template of conversations."""
    kind: Kind = "text" if images is None else "pair"
    end = small.adapter.tokenizer.eos_token_id
    form = "template" if step % 3 == 0 else "bare"
    sequences = [with_end(small.adapter.sequence(scene.text_example(), kind, form), end) for scene in some]
    ids, mask = padded(sequences)
    counted = torch.zeros_like(mask)
    for row, sequence in zip(counted, sequences, strict=True):
        row[[i for i, role in enumerate(sequence.roles) if role is Role.TEXT]] = True
        row[len(sequence) - 1] = True
    embeddings = spliced_embeddings(small.lm.get_input_embeddings(), ids, images)
    # Padding stands behind what is read, so the causal mask alone keeps it out.
    h = decoder(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    before = counted[:, 1:]
    return F.cross_entropy(small.lm.lm_head(h[:, :-1][before]).float(), ids[:, 1:][before])


@torch.no_grad()
def features(small: Any, data: Data, fast: bool) -> Tensor:
    """What the connector reads for every picture, (scenes, m, d), half precision: the tower stays as it is."""
    parts = []
    with torch.autocast("cpu", torch.bfloat16) if fast else nullcontext():
        for i in range(0, len(data.scenes), BATCH):
            parts.append(small.rows(data.pixels(range(i, min(i + BATCH, len(data.scenes)))))[0].half())
    return torch.cat(parts)


def measured(stage: str, step: int, model: Path, held_out: Sequence[Scene]) -> dict[str, Any]:
    """A row of the trajectory, from the files of a checkpoint: eRanks and ratios, accuracy and losses of captions."""
    adapter = mmerank.load(model, dtype="float32", device="cpu")
    result = mmerank.align(adapter, [scene.example() for scene in held_out])
    names = (*ERANKS, "image_reduction_ratio", "image_text_alignment")
    scores = asdict(caption_scores(adapter, held_out))
    row = {"stage": stage, "step": step, **{name: getattr(result, name) for name in names}, **scores}
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    """Train one model from one seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["llava", "minigpt-v2"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of steps and scenes")
    parser.add_argument("--batch", type=int, default=BATCH, metavar="N", help="scenes in a step")
    parser.add_argument("--fast", action="store_true", help="matrix products in bfloat16, and compiled")
    parser.add_argument("--held-out", type=int, default=64, metavar="N", help="pairs to measure on")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(options.seed)
    steps = {name: max(int(count * options.scale), 2) for name, count in STEPS.items()}
    data_count = max(int(SCENES * min(options.scale, 1)), 2 * options.batch)
    held_out = [scenes.scene("held-out", i) for i in range(options.held_out)]
    small: Any = (SmallLlava if options.model == "llava" else SmallMiniGPTv2)(options.out / "initial")
    data = Data(data_count, small.side)
    order = shuffled(data_count, options.batch, options.seed)
    trajectory = []

    def keep(stage: str, step: int) -> None:
        model = small.save(options.out / f"{stage}-{step}")
        trajectory.append(measured(stage, step, model, held_out))
        (options.out / "trajectory.json").write_text(json.dumps(trajectory, indent=1) + "\n")

    def stage(name: str, parts: Iterable[Trained], loss_of: Callable[[int], Tensor], **more: Any) -> None:
        train(name, parts, steps[name], RATES[name], loss_of, fast=options.fast, **more)
        keep(name, steps[name])

    small.lm.config._attn_implementation = "eager"
    # The same modules, with what is element by element fused.
    decoder = torch.compile(small.lm.model, dynamic=True) if options.fast else small.lm.model
    keep("initial", 0)
    with torch.no_grad():
        widths = [rows.shape[-1] for rows in small.rows(data.pixels([0, 1]))]
    heads = [nn.ModuleList(nn.Linear(width, n) for n in (*CLASSES, 48)) for width in widths]

    def tower_loss(step: int) -> Tensor:
        some = next(order)
        classes, pixels = data.cells(some), data.pixels(some)
        coarse = data.coarse(pixels, small.grid)
        points = zip(heads, small.rows(pixels), strict=True)
        return torch.stack([vision_loss(h, rows, small.grid, classes, coarse) for h, rows in points]).sum()

    stage("vision", [*small.vision, *heads], tower_loss)

    def lm_loss(step: int) -> Tensor:
        return text_loss(small, decoder, [data.scenes[i] for i in next(order)], step, None)

    stage("text", [small.lm], lm_loss)
    read = features(small, data, options.fast)

    def pair_loss(step: int) -> Tensor:
        some = next(order)
        # Now and then text alone, which is measured too.
        images = None if step % 10 == 9 else small.connector(read[some].float())
        return text_loss(small, decoder, [data.scenes[i] for i in some], step, images)

    stage("connector", [small.connector], pair_loss)
    kept = {int(steps["joint"] * share): share for share in KEPT}
    at = {step: lambda step=step: keep("joint", step) for step in kept if step}
    stage("joint", [small.connector, small.lm], pair_loss, at=at)
    if isinstance(small, SmallMiniGPTv2):
        stage("lora", [small.connector, *small.add_lora()], pair_loss)
    last = options.out / f"{trajectory[-1]['stage']}-{trajectory[-1]['step']}"
    shutil.copytree(last, options.out / "final", dirs_exist_ok=True)


if __name__ == "__main__":
    main()
