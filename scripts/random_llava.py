"""Write a full-size LLaVA-1.5 with random bfloat16 weights, to try memory and time before downloading 14 GB.

    python scripts/random_llava.py TOKENIZER_DIR OUT_DIR        # 7B: 14 GB on disk, 15 GB of memory, 2 minutes
    mmerank align OUT_DIR --data demo --limit 3

TOKENIZER_DIR is any folder or hub id with a tokenizer of at most 32,000 ids. The shapes are those of
llava-hf/llava-1.5-7b-hf: CLIP ViT-L/14 at 336 px, Vicuna 7B.
"""

import argparse
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)


def main() -> None:
    """Build on the meta device, so that no weight is drawn twice, and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
            projection_dim=768,
        ),
        text_config=LlamaConfig(vocab_size=32064, max_position_embeddings=4096, rms_norm_eps=1e-5),
        image_token_index=32000,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config).to(torch.bfloat16)
    state = {}
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.state_dict().items():
        if parameter.is_floating_point() and parameter.ndim > 1:
            weights = torch.empty(parameter.shape, dtype=torch.bfloat16)
            state[name] = weights.normal_(0, 0.02, generator=generator)
        elif parameter.is_floating_point():
            state[name] = torch.full(parameter.shape, 0.0 if name.endswith("bias") else 1.0, dtype=torch.bfloat16)
    model.save_pretrained(arguments.out, state_dict=state)
    AutoTokenizer.from_pretrained(arguments.tokenizer).save_pretrained(arguments.out)
    CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}).save_pretrained(
        arguments.out
    )


if __name__ == "__main__":
    main()
