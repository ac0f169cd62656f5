"""Dual encoders of open_clip."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmerank.errors import ModelError, UsageError
from mmerank.models.encoders.checks import TEXT, check_features, nearest, picture
from mmerank.models.encoders.encoder import Features, ReadText, Side
from mmerank.models.encoders.named import OPEN_CLIP, WHOLE
from mmerank.models.soundness import check_finite
from mmerank.models.stored import file_of, json_object, stored_in
from mmerank.models.untrained import drawn_with, place_like

_STATED, _LOCAL = "open_clip_config.json", "local-dir:"


def check_open_clip(name: str, said: str) -> tuple[str, str]:
    """Refuse a name that open_clip has no model or weights for.

    Args:
        name: `MODEL:PRETRAINED`, PRETRAINED a tag of open_clip or a checkpoint file; or `hf-hub:OWNER/NAME`, or
            `local-dir:PATH`.
        said: What the person wrote, for the message.

    Returns:
        Model, and weights; the latter empty where the model's name says both.

    Raises:
        UsageError: The name says no weights, or not which model.
    """
    import open_clip

    if name.startswith(WHOLE):
        return name, ""
    architecture, _, weights = name.partition(":")
    known = open_clip.list_models()
    if architecture not in known:
        near = nearest(architecture, known)
        raise UsageError(f"{said}: open_clip has no model {architecture!r}; {near or 'it has ' + ', '.join(known)}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not Path(weights).is_file() and weights not in tags:
        raise UsageError(
            f"{said}: name the weights, as in {architecture}:FILE or {architecture}:TAG; tags: "
            f"{', '.join(tags) or '(none)'}"
        )
    return architecture, weights


def load_open_clip(name: str, said: str, device: torch.device) -> tuple[Any, Any, Any]:
    """A model of open_clip with its preprocessing and its tokenizer.

    Args:
        name: As for `check_open_clip`.
        said: What the person wrote, for the messages.
        device: Where to put it.

    Returns:
        The model in eval mode, in float32; preprocessing of a picture; tokenizer.

    Raises:
        UsageError: The name says no weights, or not which model.
        ModelError: It cannot be loaded, weights are missing or not used, of another shape, or not finite.
    """
    import open_clip

    architecture, weights = check_open_clip(name, said)
    try:
        model, preprocess = open_clip.create_model_from_pretrained(
            architecture, pretrained=weights or None, device=device
        )
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:  # each of the libraries below has errors of its own
        raise ModelError(f"{said}: cannot be loaded ({str(error).strip()})") from error
    _check_not_resized(model, architecture, weights, said)
    check_finite(dict(model.named_parameters()), said)
    return model.eval(), preprocess, tokenizer


def _check_not_resized(model: nn.Module, architecture: str, weights: str, said: str) -> None:
    """open_clip loads strictly, but stretches position embeddings of another length without a word."""
    files = [Path(weights)] if Path(weights).is_file() else []
    if architecture.startswith(_LOCAL):
        inside = sorted(Path(architecture.removeprefix(_LOCAL)).iterdir())
        files = [file for file in inside if file.suffix in (".safetensors", ".bin", ".pth")]
    shapes = {key: tuple(h.shape) for key, h in model.state_dict().items()}
    for key, stored in stored_in(files).items():
        expected = shapes.get(key, shapes.get(f"text.{key}"))
        if expected is not None and "positional_embedding" in key and expected != stored.shape:
            raise ModelError(
                f"{said}: the checkpoint is of another size of picture or text: {key} is {stored.shape}, expected "
                f"{expected}; it would be stretched"
            )


class OpenClip:
    """A dual encoder of open_clip, read by its own `forward_intermediates`.

    Text towers that are models of transformers have none, and their `hidden_states` are taken.
    """

    def __init__(
        self, model: Any, preprocess: Any, tokenizer: Any, *, name: str, config: Any, source: Mapping[str, Any]
    ):
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self._preprocess = preprocess
        self._config = config
        self.max_tokens = int(getattr(tokenizer, "context_length", None) or model.context_length)
        self.undefined: Mapping[str, str] = {}
        self.layers: Mapping[Side, Sequence[int]]
        self.layers, self.undefined, given = check_features(self)
        self._check_forward(given["image"].embeddings, given["text"].embeddings)
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.source = {
            **source,
            "configuration": digest,
            "layers": {side: list(of) for side, of in self.layers.items()},
        }

    @classmethod
    def check(cls, model: str) -> None:
        """Refuse names that open_clip does not have.

        Args:
            model: `open_clip:NAME:PRETRAINED`.

        Raises:
            UsageError: Unknown name or weights.
        """
        check_open_clip(model.removeprefix(OPEN_CLIP), model)

    @classmethod
    def load(cls, model: str, *, dtype: str | None, device: str) -> OpenClip:
        """Load a model of open_clip.

        Args:
            model: `open_clip:NAME:PRETRAINED`, `open_clip:hf-hub:OWNER/NAME` or `open_clip:local-dir:PATH`.
            dtype: A torch dtype by name; None for float32.
            device: A torch device.

        Returns:
            The encoder, its model in eval mode.

        Raises:
            UsageError: Unknown name or weights.
            ModelError: It cannot be loaded, or weights are missing or not used.
        """
        words = model.removeprefix(OPEN_CLIP)
        loaded, preprocess, tokenizer = load_open_clip(words, model, torch.device("cpu"))
        loaded.to(device, getattr(torch, dtype or "float32"))
        config = _configuration(words)
        source = {"adapter": "open_clip", "checkpoint": words, "dtype": dtype or "float32"}
        return cls(loaded, preprocess, tokenizer, name=model, config=config, source=source)

    def pixels(self, picture: Image.Image) -> Tensor:
        """What the model's own preprocessing makes of a picture.

        Args:
            picture: RGB.

        Returns:
            (c, h, w), float32, on the CPU.
        """
        pixels: Tensor = self._preprocess(picture)
        return pixels

    def tokens(self, text: str) -> ReadText:
        """What is read of a text, by the model's own tokenizer. It pads, so where the text ends is found by halving.

        Args:
            text: Any.

        Returns:
            Ids, cut in the tokenizer's own way.
        """
        longest = len(text.encode()) + self.max_tokens
        whole = self.tokenizer([text], context_length=longest)[0]
        shortest, most = 1, longest
        while shortest < most:  # the least length at which nothing is cut
            middle = (shortest + most) // 2
            if torch.equal(self.tokenizer([text], context_length=middle)[0], whole[:middle]):
                most = middle
            else:
                shortest = middle + 1
        if most <= self.max_tokens:
            return ReadText(tuple(whole[:most].tolist()), 0)
        return ReadText(
            tuple(self.tokenizer([text], context_length=self.max_tokens)[0].tolist()), most - self.max_tokens
        )

    @torch.inference_mode()
    def images(self, pixels: Sequence[Tensor]) -> Features:
        """Run the image encoder.

        Args:
            pixels: Of pictures, (c, h, w) each.

        Returns:
            Patches by layer, and embeddings.
        """
        batch = torch.stack(list(pixels)).to(self._weight())
        out = self.model.forward_intermediates(image=batch, normalize=False, image_output_fmt="NCHW")
        return Features(rows_of_maps(out["image_intermediates"]), out["image_features"])

    @torch.inference_mode()
    def texts(self, read: Sequence[ReadText]) -> Features:
        """Run the text encoder, on texts padded as far as it reads.

        Args:
            read: Of texts.

        Returns:
            Tokens by layer, and embeddings.
        """
        ids = self._padded(read)
        inner: Any = getattr(getattr(self.model, "text", None), "transformer", None)
        if hasattr(inner, "config") and hasattr(inner, "get_input_embeddings"):
            mask = (ids != self.model.text.config.pad_token_id).long()
            states = inner(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[1:]
            embeddings = self.model.encode_text(ids, normalize=False)
        else:
            out = self.model.forward_intermediates(text=ids, normalize=False)
            states, embeddings = out["text_intermediates"], out["text_features"]
        counts = [len(of.ids) for of in read]
        return Features([{i + 1: h[at, :n] for i, h in enumerate(states)} for at, n in enumerate(counts)], embeddings)

    def untrained(self, seed: int) -> OpenClip:
        """The same architecture with the weights that open_clip's own initialisation draws.

        Args:
            seed: Of the weights, which are drawn in float32 on the CPU.

        Returns:
            The twin, in eval mode.
        """
        with drawn_with(seed):
            model = _built(self._config)
        model = place_like(model, self.model).eval()
        source = {"adapter": "open_clip", "untrained": True, "seed": seed}
        name = f"{self.name} untrained (seed {seed})"
        return OpenClip(model, self._preprocess, self.tokenizer, name=name, config=self._config, source=source)

    def _weight(self) -> Tensor:
        """A weight, whose dtype and device are the model's."""
        found: Tensor = next(p for p in self.model.parameters() if p.ndim > 1)
        return found

    def _padded(self, read: Sequence[ReadText]) -> Tensor:
        """Ids, padded with what the tokenizer pads with, (b, m)."""
        pad = int(self.tokenizer([""], context_length=self.max_tokens)[0, -1])
        rows = [[*of.ids, *[pad] * (self.max_tokens - len(of.ids))] for of in read]
        return torch.tensor(rows, device=self._weight().device)

    @torch.inference_mode()
    def _check_forward(self, *found: Tensor) -> None:
        """Hold embeddings of `picture()` and `TEXT` against those of the model's own forward."""
        own = (
            self.model.encode_image(self.pixels(picture())[None].to(self._weight()), normalize=False),
            self.model.encode_text(self._padded([self.tokens(TEXT)]), normalize=False),
        )
        for ours, theirs in zip(found, own, strict=True):
            if not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max()), equal_nan=True):
                raise ModelError(f"{self.name}: its embeddings are not those of its own forward")


def rows_of_maps(maps: Sequence[Tensor]) -> list[dict[int, Tensor]]:
    """Rows of pictures by layer.

    Args:
        maps: What leaves each block, (b, c, h, w).

    Returns:
        For each picture (h w, c) by layer, counted from 1.
    """
    flat = [of.flatten(2).mT for of in maps]
    return [{i + 1: h[at] for i, h in enumerate(flat)} for at in range(len(flat[0]))]


def _configuration(words: str) -> dict[str, Any]:
    """What open_clip builds a model from."""
    import open_clip

    scheme = next((scheme for scheme in WHOLE if words.startswith(scheme)), "")
    if not scheme:
        return dict(open_clip.get_model_config(words.partition(":")[0]))
    return dict(json_object(file_of(words.removeprefix(scheme), _STATED))["model_cfg"])


def _built(config: Mapping[str, Any]) -> Any:
    """A model of random weights, as `open_clip.create_model` builds it."""
    import tempfile

    import open_clip

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _STATED).write_text(json.dumps({"model_cfg": copy.deepcopy(config), "preprocess_cfg": {}}))
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)  # that it has no weights
        try:
            return open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
        finally:
            logging.disable(before)
