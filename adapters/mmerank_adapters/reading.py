"""Forward passes of a multimodal model whose hook points are known, and the rows that pass in them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmerank.errors import ModelError
from mmerank.inputs.sequence import Role, TokenSequence
from mmerank.models.encoded import Encoded
from mmerank.transfer import for_each_tensor
from mmerank_adapters.anatomy import Anatomy
from mmerank_adapters.feeding import tensors
from mmerank_adapters.passes import bound, tensors_of, until
from mmerank_adapters.prints import found_in, prints, rows_of
from mmerank_adapters.words import Word


def forward(model: Any, sequence: TokenSequence, inputs: Mapping[str, Any] | None) -> Any:
    """The model's own forward.

    Args:
        model: Of transformers.
        sequence: What the LLM reads.
        inputs: The pictures', by name; None for text alone.

    Returns:
        What it returns.
    """
    cache = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    return model(**model_inputs(model, sequence, inputs), **cache)


def model_inputs(model: Any, sequence: TokenSequence, inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a model is given, on its device and floating point in its dtype.

    Args:
        model: Of transformers.
        sequence: What the LLM reads.
        inputs: The pictures', by name; None for text alone.

    Returns:
        Tensors by name.
    """
    device, dtype = device_of(model), model.dtype

    def placed(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    return {**tensors(sequence, device), **for_each_tensor(inputs or {}, placed)}


def device_of(model: Any) -> torch.device:
    """Where ids go; accelerate moves them on where the embeddings are offloaded."""
    device: torch.device = model.get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device


class Reader:
    """Runs a model an example at a time, and reads the rows at its points.

    Args:
        model: In eval mode.
        found: Its points.
        word: What is said of its family.
        name: The model's, for messages.
        text_by_llm: Whether the LLM alone reads what has no picture, since the model does not.
        reads_text: Whether the connector reads the text.
    """

    def __init__(
        self,
        model: Any,
        found: Anatomy,
        word: Word,
        name: str,
        *,
        text_by_llm: bool = False,
        reads_text: bool = False,
    ):
        self.model = model
        self.found = found
        self.word = word
        self.name = name
        self.text_by_llm = text_by_llm
        self.reads_text = reads_text
        self._modules = dict(model.named_modules())
        self.llm, self.final = self._modules[found.llm], self._modules[found.final]

    def around(self, model: Any, name: str) -> Reader:
        """The same points in another model of the same configuration.

        Args:
            model: This model.
            name: Its name.

        Returns:
            What reads it.
        """
        return Reader(model, self.found, self.word, name, text_by_llm=self.text_by_llm, reads_text=self.reads_text)

    def run(self, sequence: TokenSequence, inputs: Mapping[str, Any] | None) -> None:
        """The model's forward; without a picture, of the LLM alone where the model takes no text alone.

        Args:
            sequence: What the LLM reads.
            inputs: The pictures', by name; None for text alone.
        """
        if inputs is None and self.text_by_llm:
            self.llm(**tensors(sequence, device_of(self.model)))
        else:
            forward(self.model, sequence, inputs)

    def encoded(
        self,
        sequence: TokenSequence,
        inputs: Mapping[str, Any],
        *,
        whole: bool = False,
        placed: list[Tensor] | None = None,
    ) -> Encoded:
        """The rows of pictures that are read with a sequence.

        Args:
            sequence: What the LLM reads.
            inputs: The pictures'.
            whole: Whether the LLM runs up to its final norm.
            placed: Gets prints of what entered the LLM at the image positions.

        Returns:
            The rows of all pictures together.

        Raises:
            ModelError: They did not pass the points.
        """
        found, entered = self.found, list[Tensor]()
        end = until(self.final) if whole else until(self._modules[found.blocks[0]], entered=True)
        with self._read_rows(entered, sequence) as read, end:
            self.run(sequence, inputs)
        if not read["vision"] or not read["connector"]:
            raise ModelError(f"{self.name}: a picture did not pass {found.vision} and {found.connector}")
        vision, connector = (torch.cat(read[point]) for point in ("vision", "connector"))
        real = inputs.get(self.word.mask) if self.word.mask else None
        if real is not None:
            vision = _without_padding(vision, real)
            if not self.word.spliced:
                connector = _without_padding(connector, real)
        own = prints(connector)
        filled = None
        if entered and found.image_ids:
            places = [i for i, token in enumerate(sequence.ids) if token in found.image_ids]
            rows = entered[0][places]
            if found.added:
                rows = rows - self._embedded(sequence)[places]
            known = prints(rows)
            if placed is not None:
                placed.append(known)
            held = found_in(known, own, connector.dtype)
            if bool(held.any()):
                filled = held.tolist()
            if self.word.spliced:
                connector = connector[_taken(known[held], own).to(connector.device)]
        return Encoded(vision, connector, filled, inputs)

    def _embedded(self, sequence: TokenSequence) -> Tensor:
        table = self.model.get_input_embeddings()
        return table(torch.tensor(sequence.ids, device=device_of(self.model)))  # type: ignore[no-any-return]

    @contextmanager
    def _read_rows(self, entered: list[Tensor], sequence: TokenSequence) -> Iterator[dict[str, list[Tensor]]]:
        """Rows at vision point and connector, of all their calls, and what enters the LLM."""
        found = self.found
        own_ids = torch.tensor(sequence.ids, device=device_of(self.model))
        read: dict[str, list[Tensor]] = {"vision": [], "connector": []}

        def vision(carried: Any) -> None:
            if carried is None:
                return  # a call that is not about a picture
            (h, *_) = tensors_of(carried)
            rows = rows_of(h.detach(), channels_first=found.channels_first, width=found.width)
            read["vision"].append(rows.clone())

        def connector(module: Any, args: Any, output: Any) -> None:
            if args and module is self.model.get_input_embeddings() and _any_same(args[0], own_ids):
                return  # the sequence is looked up; the tokens that a picture is made of, in a call of their own
            hs = tensors_of(output)
            same = [h for h in hs if h.shape[-1] == hs[0].shape[-1]] if isinstance(output, (list, tuple)) else hs[:1]
            rows = torch.cat([rows_of(h.detach()) for h in same])
            # A call of its own for indicators beside the picture is left out.
            if not (len(found.still) and bool(found_in(prints(rows), found.still, torch.float64).all())):
                read["connector"].append(rows)

        def enters(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = bound(module, args, kwargs)
            h = given.get("inputs_embeds") if found.entry == "embeddings" else next(iter(tensors_of(given)), None)
            if h is not None and not entered:
                entered.append(rows_of(h.detach()))

        with ExitStack() as hooks:
            at = self._modules[found.vision]
            if found.argument:
                hooks.callback(
                    at.register_forward_pre_hook(
                        lambda of, args, kwargs: vision(bound(of, args, kwargs).get(found.argument)), with_kwargs=True
                    ).remove
                )
            else:
                hooks.callback(at.register_forward_hook(lambda of, args, output: vision(output)).remove)
            hooks.callback(self._modules[found.connector].register_forward_hook(connector).remove)
            if found.entry != "cross":
                entry = found.llm if found.entry == "embeddings" else found.blocks[0]
                hooks.callback(self._modules[entry].register_forward_pre_hook(enters, with_kwargs=True).remove)
            yield read

    def decode(self, sequences: Sequence[TokenSequence], images: Sequence[Encoded] | None) -> None:
        """Run the model on each sequence, up to the LLM's final norm.

        Args:
            sequences: What it reads.
            images: The picture of each, or None.
        """
        pictures: Sequence[Encoded | None] = [None] * len(sequences) if images is None else images
        for sequence, image in zip(sequences, pictures, strict=True):
            if image is not None and self.reads_text and Role.TEXT in sequence.roles:
                image.connector = self.encoded(sequence, image.inputs, whole=True).connector
                continue
            with until(self.final, check=self._of_length(len(sequence))):
                self.run(sequence, None if image is None else image.inputs)

    def last(self, sequence: TokenSequence, image: Encoded | None) -> Tensor:
        """Last hidden states of one sequence.

        Args:
            sequence: What the model reads.
            image: Its picture, or None.

        Returns:
            (n, d) float64, on the CPU.
        """
        states: list[Tensor] = []
        final = self._modules[self.found.final]
        self.final = final
        handle = final.register_forward_hook(lambda of, args, output: states.extend(tensors_of(output)[:1]))
        try:
            self.decode([sequence], None if image is None else [image])
        finally:
            handle.remove()
        return states[0][0].cpu().double()

    def _of_length(self, expected: int) -> Callable[[Any], None]:
        """A check that the LLM read as many positions as are known."""

        def check(output: Any) -> None:
            count = tensors_of(output)[0].shape[-2]
            if count != expected:
                raise ModelError(
                    f"{self.name}: its LLM read {count} positions where its processor gave {expected}, so what "
                    "stands where is not known"
                )

        return check


def _any_same(ids: Tensor, others: Tensor) -> bool:
    return ids.numel() == others.numel() and bool((ids.flatten() == others).any())


def _without_padding(rows: Tensor, real: Tensor) -> Tensor:
    """Rows where a mask of rows, or of tiles of equally many, says that they are real; all if it is not of them."""
    told = (real.any(dim=-1) if real.is_floating_point() else real).flatten().bool().to(rows.device)
    return rows if len(rows) % len(told) else rows[told.repeat_interleave(len(rows) // len(told))]


def _taken(some: Tensor, others: Tensor) -> Tensor:
    """For each row, by its print, which of the others it is, each taken once; in rising order."""
    apart = torch.cdist(some, others, p=float("inf"))
    chosen = []
    for row in apart:
        nearest = int(row.argmin())
        apart[:, nearest] = math.inf
        chosen.append(nearest)
    return torch.tensor(sorted(chosen))
