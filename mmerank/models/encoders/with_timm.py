"""Vision models of timm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmerank.errors import ModelError, UsageError
from mmerank.models.encoders.checks import check_features, nearest, picture
from mmerank.models.encoders.encoder import Features, ReadText, Side
from mmerank.models.encoders.named import TIMM, WHOLE
from mmerank.models.encoders.with_open_clip import rows_of_maps
from mmerank.models.soundness import check_finite
from mmerank.models.stored import stored_in
from mmerank.models.untrained import drawn_with, place_like

_NO_TEXT = "a vision model, which reads no text"


class Timm:
    """A vision model of timm, read by its own `forward_intermediates`; its embedding is what its classifier reads."""

    def __init__(self, model: Any, *, name: str, build: Mapping[str, Any], source: Mapping[str, Any]):
        import timm

        self.name = name
        self.model = model
        self._build = dict(build)
        self._data = timm.data.resolve_data_config({}, model=model)
        self._transform = timm.data.create_transform(**self._data, is_training=False)
        self.max_tokens = 0
        self.undefined: Mapping[str, str] = {"text": _NO_TEXT}
        if not hasattr(model, "forward_intermediates"):
            raise ModelError(f"{name}: {type(model).__name__} of timm has no forward_intermediates")
        self.layers: Mapping[Side, Sequence[int]]
        self.layers, self.undefined, given = check_features(self)
        self._check_forward(given["image"].embeddings)
        stated = json.dumps([self._build, type(model).__name__], sort_keys=True, default=str)
        self.source = {
            **source,
            "configuration": hashlib.sha256(stated.encode()).hexdigest()[:16],
            "undefined": dict(self.undefined),
            "layers": {side: list(of) for side, of in self.layers.items()},
        }

    @classmethod
    def check(cls, model: str) -> None:
        """Refuse names that timm does not have.

        Args:
            model: `timm:NAME` or `timm:NAME:FILE`.

        Raises:
            UsageError: Unknown name, or a file that is not there.
        """
        _named(model)

    @classmethod
    def load(cls, model: str, *, dtype: str | None, device: str) -> Timm:
        """Load a model of timm.

        Args:
            model: `timm:NAME`, NAME as in `timm.create_model`, with a tag or without; `timm:NAME:FILE`, a checkpoint;
                `timm:hf-hub:OWNER/NAME` or `timm:local-dir:PATH`.
            dtype: A torch dtype by name; None for float32.
            device: A torch device.

        Returns:
            The encoder, its model in eval mode.

        Raises:
            UsageError: Unknown name, or a file that is not there.
            ModelError: It cannot be loaded, or weights are missing or not used.
        """
        import timm

        name, file = _named(model)
        build: dict[str, Any] = {"model_name": name}
        try:
            if file:
                build |= _head(name, Path(file))
                loaded = timm.create_model(**build, checkpoint_path=file)
            else:
                loaded = timm.create_model(**build, pretrained=True)
        except Exception as error:  # each of the libraries below has errors of its own
            random = ""
            if not file and not name.startswith(WHOLE):
                saved = f"torch.save(timm.create_model({name.partition('.')[0]!r}).state_dict(), 'random.pth')"
                random = f"; for random weights, {saved} and {TIMM}{name.partition('.')[0]}:random.pth"
            raise ModelError(f"{model}: cannot be loaded ({str(error).strip()}){random}") from error
        check_finite(dict(loaded.named_parameters()), model)
        source = {"adapter": "timm", "checkpoint": model.removeprefix(TIMM), "dtype": dtype or "float32"}
        loaded = loaded.to(device, getattr(torch, dtype or "float32")).eval()
        return cls(loaded, name=model, build=build, source=source)

    def pixels(self, picture: Image.Image) -> Tensor:
        """What the model's own preprocessing makes of a picture.

        Args:
            picture: RGB.

        Returns:
            (c, h, w), float32, on the CPU.
        """
        pixels: Tensor = self._transform(picture)
        return pixels

    def tokens(self, text: str) -> ReadText:
        """None.

        Args:
            text: Any.

        Raises:
            ModelError: Always.
        """
        raise ModelError(f"{self.name}: {_NO_TEXT}")

    @torch.inference_mode()
    def images(self, pixels: Sequence[Tensor]) -> Features:
        """Run the encoder.

        Args:
            pixels: Of pictures, (c, h, w) each.

        Returns:
            Patches by layer, and embeddings.
        """
        final, maps = self.model.forward_intermediates(self._batch(pixels), output_fmt="NCHW")
        return Features(rows_of_maps(maps), self.model.forward_head(final, pre_logits=True))

    def texts(self, read: Sequence[ReadText]) -> Features:
        """None.

        Args:
            read: Any.

        Raises:
            ModelError: Always.
        """
        raise ModelError(f"{self.name}: {_NO_TEXT}")

    def untrained(self, seed: int) -> Timm:
        """The same architecture with the weights that timm's own initialisation draws.

        Args:
            seed: Of the weights, which are drawn in float32 on the CPU.

        Returns:
            The twin, in eval mode.
        """
        import timm

        with drawn_with(seed):
            model = timm.create_model(**self._build, pretrained=False)
        model.pretrained_cfg = self.model.pretrained_cfg  # for the same preprocessing
        model = place_like(model, self.model).eval()
        source = {"adapter": "timm", "untrained": True, "seed": seed}
        return Timm(model, name=f"{self.name} untrained (seed {seed})", build=self._build, source=source)

    def _batch(self, pixels: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(pixels)).to(next(self.model.parameters()))

    @torch.inference_mode()
    def _check_forward(self, ours: Tensor) -> None:
        """Hold the embedding of `picture()` against that of the model's own forward."""
        batch = self._batch([self.pixels(picture())])
        own = self.model.forward_head(self.model.forward_features(batch), pre_logits=True)
        if not torch.allclose(ours, own, rtol=1e-2, atol=1e-2 * float(own.abs().max()), equal_nan=True):
            raise ModelError(f"{self.name}: its embedding is not that of its own forward")


def _named(model: str) -> tuple[str, str]:
    """Name for timm, and a checkpoint file or nothing."""
    import timm

    words = model.removeprefix(TIMM)
    if words.startswith(WHOLE):
        return words, ""
    name, _, file = words.partition(":")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = nearest(architecture, timm.list_models())
        raise UsageError(f"{model}: timm has no model {architecture!r}; {near or 'timm.list_models() lists them'}")
    tags = [known.partition(".")[2] for known in timm.models.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UsageError(
            f"{model}: timm has no weights {tag!r} of {architecture}; it has {', '.join(tags) or 'none'}"
        )
    if not tags and not file:
        raise UsageError(f"{model}: timm has no weights of {architecture}; name a file, {TIMM}{architecture}:FILE")
    if file and not Path(file).is_file():
        raise UsageError(f"{model}: no such file, {file}")
    return name, file


def _head(name: str, file: Path) -> dict[str, Any]:
    """The classifier that a checkpoint has, which is not measured: the published one, another, or none."""
    import timm

    with torch.device("meta"):
        published = timm.create_model(name, pretrained=False)
    classifier = published.pretrained_cfg.get("classifier")
    stored = stored_in([file])
    if not isinstance(classifier, str) or not stored:
        return {}
    weight = stored.get(f"{classifier}.weight")
    count = 0 if weight is None else weight.shape[0]
    return {} if count == published.num_classes else {"num_classes": count}
