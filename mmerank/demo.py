"""What needs no download: generated pictures with descriptions, and a small LLaVA with random weights."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from mmerank.inputs import Example

FINGERPRINT = "scenes-1"  # changes whenever the pictures or texts do
COUNT = 16
SIDE = 168  # px
PATCH = 14  # px
COLOURS = {
    "red": (214, 40, 40),
    "orange": (247, 127, 0),
    "yellow": (252, 211, 77),
    "green": (46, 139, 87),
    "blue": (38, 84, 199),
    "purple": (126, 55, 148),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
BACKGROUNDS = {"grey": (128, 128, 128), "sand": (214, 196, 160), "pale blue": (178, 206, 226)}
SHAPES = ("circle", "square", "triangle", "diamond")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")
INSTRUCTION = "Describe this image in detail."


def examples(count: int = COUNT, seed: int = 0) -> list[Example]:
    """Scenes of two to four objects on a plain ground, each with a description.

    Args:
        count: How many.
        seed: Of the drawing; scene i is the same whatever `count` is.

    Returns:
        Examples with pictures in memory.
    """
    return [_scene(f"scene-{i:04d}", random.Random(f"{seed}/{i}")) for i in range(count)]


def _scene(name: str, rng: random.Random) -> Example:
    ground = rng.choice(list(BACKGROUNDS))
    picture = Image.new("RGB", (SIDE, SIDE), BACKGROUNDS[ground])
    draw = ImageDraw.Draw(picture)
    sentences = []
    for cell in sorted(rng.sample(range(9), rng.randint(2, 4))):
        row, column = divmod(cell, 3)
        colour, shape, large = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.random() < 0.5
        _draw(draw, shape, COLOURS[colour], x=column * SIDE // 3, y=row * SIDE // 3, margin=6 if large else 15)
        size = "large" if large else "small"
        sentences.append(f"There is a {size} {colour} {shape} in the {ROWS[row]} {COLUMNS[column]}.")
    response = f"The picture shows {len(sentences)} objects on a {ground} background. {' '.join(sentences)}"
    return Example(name, picture, INSTRUCTION, response)


def _draw(draw: ImageDraw.ImageDraw, shape: str, fill: tuple[int, int, int], *, x: int, y: int, margin: int) -> None:
    left, top, right, bottom = x + margin, y + margin, x + SIDE // 3 - margin, y + SIDE // 3 - margin
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    if shape == "circle":
        draw.ellipse((left, top, right, bottom), fill)
    elif shape == "square":
        draw.rectangle((left, top, right, bottom), fill)
    elif shape == "triangle":
        draw.polygon([(middle_x, top), (right, bottom), (left, bottom)], fill)
    else:
        draw.polygon([(middle_x, top), (right, middle_y), (middle_x, bottom), (left, middle_y)], fill)


@contextmanager
def checkpoint(seed: int = 0) -> Iterator[Path]:
    """A folder with a small LLaVA-1.5 of random weights, in the layout of the published checkpoints.

    About one million parameters; its tokenizer is trained on the descriptions above.

    Args:
        seed: Of the weights.

    Yields:
        The folder, which is gone when the block ends.
    """
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    with tempfile.TemporaryDirectory(prefix="mmerank-demo-") as name:
        folder = Path(name)
        tokenizer = _tokenizer()
        tokenizer.save_pretrained(folder)
        _image_processor().save_pretrained(folder)
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=96,
                intermediate_size=192,
                num_hidden_layers=4,
                num_attention_heads=4,
                image_size=SIDE,
                patch_size=PATCH,
                projection_dim=32,
            ),
            text_config=LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=128,
                intermediate_size=344,
                num_hidden_layers=4,
                num_attention_heads=4,
                max_position_embeddings=2048,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            LlavaForConditionalGeneration(config).save_pretrained(folder)
        yield folder


def _tokenizer() -> Any:
    """Byte-level BPE with Llama's special tokens, trained on a hundred descriptions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel()
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((example.text for example in examples(100, seed=1)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def _image_processor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
