"""MiniGPT-v2, from the files it was published as: EVA ViT-g, Llama-2, and a checkpoint of what was trained."""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import normalizers
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv
from transformers import LlamaForCausalLM
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mmerank.convention import GenerationConvention, ImageLayout, SequenceForm
from mmerank.errors import ModelError
from mmerank.inputs.example import Example
from mmerank.inputs.pictures import check_area, square
from mmerank.inputs.sequence import Kind, Role, TokenSequence, image_places
from mmerank.models.checkpoints import configuration, folder_or_hub_id, path_beside
from mmerank.models.encoded import Encoded, encoded
from mmerank.models.generation import continued
from mmerank.models.hooks import Point
from mmerank.models.sequences import bare_sequence, begin, end, padded, spliced_embeddings, tokenized
from mmerank.models.soundness import embedding_rows
from mmerank.models.special_tokens import both, check_bos, size_cautions, special_cautions
from mmerank.models.tokenizer import FILE, Loaded, load_tokenizer, probed, stated
from mmerank.models.untrained import drawn_with, place_like
from mmerank.transfer import sent
from mmerank_adapters.eva_vit import PATCH
from mmerank_adapters.minigpt_v2_model import MERGED, MiniGPTv2Model, load_model
from mmerank_adapters.minigpt_v2_weights import llama_head

_SPACE = "\u2581"  # sentencepiece's


class MiniGPTv2:
    """MiniGPT-v2 (arXiv:2310.09478), given by a YAML file.

    Keys: `llama_model` (directory or hub id), `vit_checkpoint` (`eva_vit_g.pth`), `checkpoint` (what MiniGPT-v2's
    training saved), and where they differ from the published model `image_size` (448), `vit_depth` (39),
    `vit_heads` (16) and `lora_alpha` (16). Paths are relative to the YAML file.

    Hook points: `vision` is the output of ln_vision without CLS, before four patches are merged into one row;
    `connector` the output of llama_proj; `llm` the output of the final norm. LoRA is merged into the weights.

    ln_vision is the identity in affine terms (weight 1, bias 0) unless the checkpoint has it: the published code
    loads weights for it nowhere.

    Alternatives for `vision`, with the data-set eRank and the Image Reduction Ratio they give on the tiny random
    model of the tests (connector 7.52):

    | name | where | eRank1 | Image Reduction Ratio |
    |---|---|---|---|
    | `default` | ln_vision, without CLS | 11.07 | 0.320 |
    | `with_cls` | ln_vision, with CLS | 11.36 | 0.338 |
    | `merged` | llama_proj's input: rows of four patches | 8.01 | 0.061 |
    | `vit` | last block, before ln_vision, without CLS | 10.89 | 0.309 |
    """

    model_types = ()  # no config.json names it
    causal = True
    undefined: Mapping[str, str] = {}

    def __init__(self, model: MiniGPTv2Model, tokenizer: Any, *, name: str, source: Mapping[str, Any]):
        self.name = name
        self.source = source
        self.model = model
        self.tokenizer = tokenizer
        self._side: int = model.visual_encoder.patch_embed.img_size[0]
        self.image_tokens = (self._side // PATCH) ** 2 // MERGED
        self.max_tokens: int = model.llama_model.config.max_position_embeddings
        self.points = {
            "vision": Point("ln_vision", "output", skip=1),
            "connector": Point("llama_proj", "output"),
            "llm": Point("llama_model.norm", "output"),
        }
        blocks = [f"llama_model.layers.{i}" for i in range(len(model.llama_model.layers))]
        self.layers = (Point(blocks[0], "input"), *map(Point, blocks[:-1]), self.points["llm"])
        self.vision_points = {
            "default": self.points["vision"],
            "with_cls": Point("ln_vision", "output"),
            "merged": Point("llama_proj", "input"),
            "vit": Point("visual_encoder", "output", skip=1),
        }

    @classmethod
    def load(
        cls,
        file: Path,
        /,
        *,
        name: str,
        dtype: str | None,
        device: str,
        llama_model: str,
        vit_checkpoint: str,
        checkpoint: str,
        image_size: int = 448,
        vit_depth: int = 39,
        vit_heads: int = 16,
        lora_alpha: float = 16,
    ) -> MiniGPTv2:
        """Load the files that a YAML file names.

        Args:
            file: The YAML file.
            name: The name that results carry.
            dtype: A torch dtype by name; None for that of the Llama checkpoint.
            device: A torch device, or `auto` to spread the LLM over all devices.
            llama_model: Directory, relative to `file`, or hub id.
            vit_checkpoint: File with the vision encoder's weights.
            checkpoint: File with LoRA and connector.
            image_size: Side of the square picture, pixels.
            vit_depth: Blocks of the vision encoder.
            vit_heads: Attention heads of the vision encoder.
            lora_alpha: LoRA's alpha; its rank is read from the checkpoint.

        Returns:
            The adapter, its model in eval mode.

        Raises:
            ModelError: A value of the YAML file cannot be meant, or a file is missing, cannot be read, or holds
                other weights than MiniGPT-v2's.
        """
        for key, value in {"image_size": image_size, "vit_depth": vit_depth, "vit_heads": vit_heads}.items():
            if type(value) is not int or value < 1:
                raise ModelError(f"{file}: {key} is {reprlib.repr(value)}, expected a whole number above 0")
        if image_size % (2 * PATCH):
            raise ModelError(f"{file}: image_size is {image_size}, expected a multiple of {2 * PATCH}")
        if type(lora_alpha) not in (int, float) or not 0 < lora_alpha < float("inf"):
            raise ModelError(f"{file}: lora_alpha is {reprlib.repr(lora_alpha)}, expected a number above 0")
        llama = folder_or_hub_id(file, "llama_model", llama_model)
        model, source = load_model(
            llama,
            _file(file, "vit_checkpoint", vit_checkpoint),
            _file(file, "checkpoint", checkpoint),
            image_size=image_size,
            vit_depth=vit_depth,
            vit_heads=vit_heads,
            lora_alpha=lora_alpha,
            dtype=dtype,
            device=device,
        )
        words = _tokenizer(llama)
        content = configuration(llama)
        check_bos(words.tokenizer, content, llama)
        cautions = special_cautions(words.tokenizer, content, llama, fed=both(words.tokenizer))
        said = stated(name, words, *cautions, *size_cautions(words.tokenizer, embedding_rows(model)))
        return cls(model, words.tokenizer, name=name, source={"adapter": "minigpt-v2", **source, **said})

    def untrained(self, seed: int) -> MiniGPTv2:
        """The same configuration with random weights: those of EVA's code, of torch, and of transformers' Llama.

        Args:
            seed: Of the weights.

        Returns:
            The twin, in eval mode.
        """
        vit: Any = self.model.visual_encoder
        with drawn_with(seed):
            model = MiniGPTv2Model(
                copy.deepcopy(self.model.llama_model.config),
                vit_dim=vit.cls_token.shape[-1],
                vit_depth=len(vit.blocks),
                vit_heads=vit.blocks[0].attn.num_heads,
                image_size=self._side,
            )
            model.visual_encoder.draw_weights()
        source = {
            "adapter": "minigpt-v2",
            "untrained": True,
            "seed": seed,
            **{key: self.source[key] for key in ("dtype", "image_size", "vit_depth", "vit_heads")},
        }
        place_like(model, self.model).eval()
        return MiniGPTv2(model, self.tokenizer, name=f"{self.name} untrained (seed {seed})", source=source)

    def pixels(self, picture: Image.Image, layout: ImageLayout) -> Tensor:
        """The vision encoder's input for one picture, scaled by PIL as in the original code.

        Args:
            picture: Mode RGB.
            layout: `model`: squashed to a square, as the model was trained; `pad`: the shorter side first filled
                up with the mean colour; `crop`: the shorter side scaled, the centre cut out.

        Returns:
            (3, s, s), float32.
        """
        bicubic = InterpolationMode.BICUBIC
        if layout == "crop":
            scale = self._side / min(picture.size)
            check_area(picture.width * scale, picture.height * scale, "scaled for the crop")
            picture = tv.center_crop(tv.resize(picture, [self._side], bicubic), [self._side])
        else:
            if layout == "pad":
                picture = square(picture, tuple(int(255 * mean) for mean in OPENAI_CLIP_MEAN))
            picture = tv.resize(picture, [self._side, self._side], bicubic)
        pixels: Tensor = tv.normalize(tv.to_tensor(picture), OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        return pixels

    def sequence(self, example: Example, kind: Kind, form: SequenceForm) -> TokenSequence:
        """What the LLM reads for one example.

        The `template` is the one of training, tokenised in the same pieces: what stands before the picture, what
        stands behind it up to the answer (two spaces before `[/INST]`), and the answer. The image-only input is
        the picture in its tags.

        Args:
            example: The example.
            kind: `image`, `text` or `pair`.
            form: `bare` or `template`.

        Returns:
            Ids and roles, one BOS in front.
        """
        if form == "bare":
            return bare_sequence(self.tokenizer, example.text, kind, self.image_tokens)

        def piece(*parts: tuple[str, Role]) -> TokenSequence:
            return tokenized(self.tokenizer, *parts)

        start, picture = begin(self.tokenizer), image_places(self.image_tokens)
        instruction = (example.instruction, Role.TEXT)
        answer = piece((example.response, Role.TEXT)) + end(self.tokenizer)
        if kind == "image":
            return start + piece(("<Img>", Role.TEMPLATE)) + picture + piece(("</Img>", Role.TEMPLATE))
        if kind == "text":
            return start + piece(("[INST] ", Role.TEMPLATE), instruction, (" [/INST]", Role.TEMPLATE)) + answer
        opening = start + piece(("[INST] <Img>", Role.TEMPLATE)) + picture
        return opening + piece(("</Img> ", Role.TEMPLATE), instruction, ("  [/INST]", Role.TEMPLATE)) + answer

    def encode_images(self, pixels: Sequence[Tensor], vision_point: str = "default") -> list[Encoded]:
        """Run vision encoder and connector.

        Args:
            pixels: One tensor a picture, (3, s, s).
            vision_point: Where the vision encoder is read.

        Returns:
            The rows of each picture.
        """
        batch = torch.stack(tuple(pixels)).to(self.model.llama_proj.weight)
        points = {"vision": self.vision_points[vision_point], "connector": self.points["connector"]}
        return encoded(self.model, points, lambda: self.model.encode_images(batch))

    def decode(self, sequences: Sequence[TokenSequence], images: Sequence[Encoded] | None) -> None:
        """Run the language model up to its final norm.

        Args:
            sequences: What it reads.
            images: The rows of each one's picture, or None.
        """
        llama = self.model.llama_model
        ids, mask = padded(sequences)
        rows = None if images is None else [image.connector for image in images]
        embeddings = spliced_embeddings(llama.get_input_embeddings(), ids, rows)
        llama(inputs_embeds=embeddings, attention_mask=sent(mask, embeddings.device), use_cache=False)

    @cached_property
    def _head(self) -> Tensor:
        """Beside the model, which is measured without it; read where an answer's likelihood is asked for."""
        if "llama_model" not in self.source:
            raise ModelError(f"{self.name}: an untrained twin has no LM head, so it answers no questions")
        embedding = self.model.get_input_embeddings().weight
        return llama_head(self.source["llama_model"]["path"], *embedding.shape).to(self.model.llama_proj.weight.dtype)

    def logits(self, h: Tensor) -> Tensor:
        """The LM head of the Llama model, which the training of MiniGPT-v2 left as it was.

        Args:
            h: Final hidden states, (..., d).

        Returns:
            (..., vocabulary), in the model's dtype.
        """
        if self._head.device != h.device:
            self._head = self._head.to(h.device)
        return h @ self._head.T

    @cached_property
    def _writer(self) -> Any:
        """The Llama that is measured with its head on; nothing is copied."""
        with torch.device("meta"):
            whole = LlamaForCausalLM(self.model.llama_model.config)
        whole.model = self.model.llama_model
        whole.lm_head.weight = nn.Parameter(self._head.to(self.model.llama_proj.weight.device), requires_grad=False)
        return whole.eval()

    def generate(
        self,
        sequence: TokenSequence,
        image: Encoded | None,
        how: GenerationConvention,
        logits: Callable[[Tensor], None],
    ) -> list[int]:
        """Let the model write behind a prompt.

        Args:
            sequence: What it reads.
            image: Its picture.
            how: Most tokens, and how each is chosen.
            logits: Is given those of each step.

        Returns:
            Ids of the new tokens.
        """
        ids, mask = padded([sequence])
        rows = None if image is None else [image.connector]
        embeddings = spliced_embeddings(self.model.llama_model.get_input_embeddings(), ids, rows)
        inputs = {"inputs_embeds": embeddings, "attention_mask": mask.long().to(embeddings.device)}
        return continued(self._writer, inputs, self.tokenizer, how, logits)


def _file(file: Path, key: str, value: str) -> Path:
    path = path_beside(file, key, value)
    if not path.is_file():
        raise ModelError(f"{file}: {key}: no such file, {path}")
    return path


def _tokenizer(llama: str) -> Loaded:
    """The tokenizer of a Llama-2, with a space in front of every segment as sentencepiece has it."""
    loaded = load_tokenizer(llama, around=False)
    tokenizer = loaded.tokenizer
    if _SPACE not in tokenizer.get_vocab():
        raise ModelError(f"{llama}: its tokenizer is not one of Llama or Llama-2, which MiniGPT-v2 was trained with")
    stands = probed(tokenizer)
    # transformers' own adds no space where a segment begins with one, and is a token short there.
    spaces = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.backend_tokenizer.normalizer = spaces
    tokenizer.backend_tokenizer.pre_tokenizer = None
    if other := [text for text, ids in probed(tokenizer).items() if ids != stands[text]]:
        raise ModelError(
            f"{llama}: its {FILE} reads {other[0]!r} in another way than the tokenizer of Llama and Llama-2, which "
            "MiniGPT-v2 was trained with"
        )
    return loaded
