"""Where the hook points of an unknown multimodal model are, found in a forward pass and verified in it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmerank.errors import ModelError
from mmerank.inputs.sequence import IMAGE_ID
from mmerank_adapters.anatomy import LISTS, Anatomy, blocks_of, language_model
from mmerank_adapters.calls import Call, calls_of, is_norm, last_norm
from mmerank_adapters.passes import bound, tensors_of, until
from mmerank_adapters.prints import PROJECTIONS, found_in, prints, rows_of, share_in

# Share of rows that must be found again; below it a model is refused.
LEAST = 0.95
# Of the largest list of blocks outside the LLM: with fewer parameters it is a stem, not an encoder.
_SMALL = 0.2


def _still(connector: nn.Module, *pictures: Sequence[Call]) -> Tensor:
    """Prints of rows that the connector puts out for both pictures: of indicators, say, and not of the picture."""
    here, there = (
        torch.cat([rows for call in calls if call.module is connector for _, rows in call.outputs])
        for calls in pictures
    )
    return here[found_in(here, there, torch.float64)]


class Inspector:
    """Looks at a model while it reads a picture and a text.

    Args:
        model: In eval mode.
        run: Runs it on one of two pictures of the same size, or on none: 0, 1, None.
        ids: What it reads then.
    """

    def __init__(self, model: nn.Module, run: Callable[[int], Any], ids: Sequence[int]):
        self.model = model
        self.run = run
        self.ids = ids
        self.paths = {module: path for path, module in model.named_modules()}
        self.llm = language_model(model)
        if self.llm not in self.paths:
            raise ModelError(f"{type(model).__name__}: its LLM is no part of it")
        self.blocks = blocks_of(self.llm)
        self.table = model.get_input_embeddings()  # type: ignore[operator]
        self.dtype = next(p.dtype for p in self.llm.parameters() if p.is_floating_point())
        self.began: dict[nn.Module, int] = {}  # modules in the order in which they first run before the LLM's blocks
        self.encoder: list[nn.Module] = []  # blocks of the vision encoder

    @torch.inference_mode()
    def anatomy(self, vision: str = "") -> Anatomy:
        """Find and verify all points.

        Args:
            vision: End of the path of the module whose output is the vision encoder's; empty to look for it.

        Returns:
            What was found.

        Raises:
            ModelError: A point was not found, or too few rows of it.
        """
        final = self._final()
        encoder = self.encoder = self._encoder_blocks()
        (embeds, first, given), calls = self._entry(0)
        (other_embeds, other_first, other_given), other_calls = self._entry(1)
        entry, cross, added = "", "", False
        rows = torch.zeros(0, PROJECTIONS)
        places = torch.zeros(0, dtype=torch.bool)
        for name, here, there in (("embeddings", embeds, other_embeds), ("block", first, other_first)):
            if here is None or there is None or here.shape != there.shape or entry:
                continue
            own, others = prints(here), prints(there)
            differ = (own - others).abs().amax(dim=1) > 1e-6
            if bool(differ.any()):
                entry, rows, places, states = name, own[differ], differ, here
        if not entry:
            for name, value in given.items():
                if value is not None and (of := other_given.get(name)) is not None and of.shape == value.shape:
                    if not torch.equal(value, of):
                        entry, cross, states = "cross", name, rows_of(value)
                        rows, places = prints(states), places.new_zeros(0)
                        break
        if not entry:
            raise self._lost("no picture was seen to enter its LLM: two pictures made no difference before it")
        ids = torch.tensor(self.ids)
        image_ids = frozenset(ids[places].tolist()) if len(places) == len(ids) else frozenset()
        inserted = None
        if len(places) > len(ids):
            inserted = int(places.long().argmax()), len(places) - len(ids)
            ends = sum(inserted)
            if int(places.sum()) != inserted[1] or not bool(places[inserted[0] : ends].all()):
                raise self._lost(f"its LLM reads {len(places)} positions where its processor gives {len(ids)} tokens")
            image_ids = frozenset([IMAGE_ID])
            ids = torch.cat([ids[: inserted[0]], ids[:1].expand(inserted[1]), ids[inserted[0] :]])
        text = rows[:0]
        if len(places):
            plain = self.model.get_input_embeddings()(ids.to(states.device)).reshape(-1, states.shape[-1])  # type: ignore[operator]
            known = prints(states)
            same = ~places & ((known - prints(plain)).abs().amax(dim=1) < 1e-3)
            text = known[same if bool(same.any()) else ~places]
        connector, share = self._connector(calls, rows, states.shape[-1], text, encoder)
        if share < LEAST and entry == "embeddings":
            beside, beside_share = self._connector(
                calls, prints((states - plain)[places]), states.shape[-1], text, encoder
            )
            if beside_share > share:
                connector, share, added = beside, beside_share, True
        if share < LEAST and entry == "block":  # positions may have been added to them
            for name, value in given.items():
                other = other_given.get(name)
                if other is None or other.shape != value.shape or torch.equal(value, other):
                    continue
                found = self._connector(calls, prints(rows_of(value)), value.shape[-1], text, encoder)
                if found[1] > share:
                    connector, share = found
        if connector is None or share < LEAST:
            where = f"; the nearest is {self.paths[connector]}, with {share:.0%}" if connector else ""
            raise self._lost(f"no module puts out {LEAST:.0%} of the picture's rows that enter its LLM{where}")
        point, argument, channels, width, vision_share = self._vision(calls, connector, encoder, vision)
        of_llm = set(self.llm.modules())
        connector = last_norm(
            connector, [call for call in calls if call.module not in of_llm], rows, self.dtype, LEAST
        )
        return Anatomy(
            llm=self.paths[self.llm],
            final=self.paths[final],
            blocks=tuple(self.paths[block] for block in self.blocks),
            entry=entry,
            cross=cross,
            added=added,
            connector=self.paths[connector],
            vision=self.paths[point],
            argument=argument,
            channels_first=channels,
            width=width,
            image_ids=image_ids,
            inserted=inserted,
            matched={"connector": round(share, 4), "vision": round(vision_share, 4)},
            still=rows[:0] if connector is self.table else _still(connector, calls, other_calls),
        )

    def _lost(self, what: str) -> ModelError:
        return ModelError(
            f"{type(self.model).__name__}: {what}; an adapter of its own can say where its points are, or a line in "
            "mmerank_adapters/words.py (CONTRIBUTING.md)"
        )

    def _final(self) -> nn.Module:
        """The last submodule of the LLM whose output is the last hidden state, to the bit."""
        outputs: deque[tuple[nn.Module, Tensor]] = deque(maxlen=16)  # the last ones are enough
        counts: Counter[nn.Module] = Counter()  # one that runs twice does not tell which time is the last
        inner = {module for block in list(self.blocks)[:-1] for module in block.modules()}
        inner |= set(list(self.blocks)[-1].modules()) - {list(self.blocks)[-1]}
        last: list[Tensor] = []

        def begins(module: nn.Module, args: tuple[Any, ...]) -> None:
            if self.blocks[0] not in self.began:
                self.began.setdefault(module, len(self.began))

        def ran(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            counts[module] += 1
            outputs.extend((module, h) for h in tensors_of(output)[:1])

        with ExitStack() as hooks:
            for module in set(self.paths) - (set(self.blocks.modules()) - {self.blocks[0]}):
                hooks.callback(module.register_forward_pre_hook(begins).remove)
            for module in self.llm.modules():
                if module not in inner and module is not self.llm:
                    hooks.callback(module.register_forward_hook(ran).remove)
            with until(self.llm, check=lambda output: last.extend(tensors_of(output)[:1])):
                self.run(0)
        if not last:
            raise self._lost("its LLM was not run")
        if not bool(last[0].isfinite().all()):
            raise ModelError(
                f"{type(self.model).__name__}: its hidden states of a picture and a text are not finite; weights are "
                "damaged, or too large for their dtype"
            )
        for module, h in reversed(outputs):
            if counts[module] == 1 and h.shape == last[0].shape and torch.equal(h, last[0]):
                return module
        raise self._lost("no module of its LLM puts out its last hidden state")

    def _entry(self, picture: int) -> tuple[tuple[Tensor | None, Tensor | None, dict[str, Tensor]], list[Call]]:
        """What enters the LLM and its first block, (n, d), what else it is given, for one picture; and all calls."""
        embeds: list[Tensor] = []
        given: dict[str, Tensor] = {}
        first: list[Tensor] = []

        def entered(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for name, value in bound(module, args, kwargs).items():
                if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 3:
                    if name == "inputs_embeds":
                        embeds.append(value)
                    else:
                        given[name] = value

        def block(arguments: Any) -> None:
            first.extend(tensors_of(arguments)[:1])

        with ExitStack() as hooks:
            hooks.callback(self.llm.register_forward_pre_hook(entered, with_kwargs=True).remove)
            calls = hooks.enter_context(calls_of(self.paths, self.blocks, self.encoder))
            with until(self.blocks[0], entered=True, check=block):
                self.run(picture)
        states = [rows_of(of[0]) if of else None for of in (embeds, first)]
        return (states[0], states[1], given), calls

    def _encoder_blocks(self) -> list[nn.Module]:
        """The blocks of the vision encoder: the first list of them that runs and is not small."""
        inside = set(self.blocks.modules())
        lists: list[tuple[str, int, int, Any]] = []
        for path, module in self.model.named_modules():
            if module in inside or not isinstance(module, LISTS) or len(module) < 2:
                continue
            if any(path.startswith(f"{outer}.") for outer, *_ in lists):
                continue
            kinds = {type(block) for block in module}
            began = [self.began[of] for block in module for of in block.modules() if of in self.began]
            if began and (len(kinds) == 1 or isinstance(module, nn.ModuleList)):
                lists.append((path, min(began), sum(p.numel() for p in module.parameters()), module))
        if not lists:
            raise self._lost(
                "no blocks of a vision encoder run before its LLM, so there is no vision encoder to read"
            )
        largest = max(size for _, _, size, _ in lists)
        return list(min((entry for entry in lists if entry[2] >= _SMALL * largest), key=lambda entry: entry[1])[3])

    def _connector(
        self, calls: Sequence[Call], rows: Tensor, width: int, text: Tensor, encoder: Sequence[nn.Module]
    ) -> tuple[nn.Module | None, float]:
        """The outermost module that puts out the picture's rows, and the share of them that it does."""
        rows = rows[rows.isfinite().all(dim=1)]
        best: tuple[nn.Module | None, float] = (None, 0.0)
        if not len(rows):
            return best
        of_encoder = {part for block in encoder for part in block.modules()}
        around = {module for module in self.paths if not of_encoder.isdisjoint(module.modules())}
        outside = [call for call in calls if call.module not in around]
        by_module: dict[nn.Module, list[Call]] = {}
        for call in outside:
            if call.module is self.table and self._puts_out(call, text) > 0.5:
                continue  # the sequence's own; a picture made tokens may be looked up in another call
            by_module.setdefault(call.module, []).append(call)
        shares: dict[nn.Module, float] = {}
        for module, of in by_module.items():
            put_out = torch.cat(
                [out for call in of for shape, out in call.outputs if shape[-1] == width] or [rows[:0]]
            )
            share = share_in(rows, put_out, self.dtype)
            if share < LEAST and share <= best[1]:
                continue
            given = [out for call in of for shape, out in call.inputs.values() if shape[-1] == width]
            read = torch.cat(given or [rows[:0]])
            if share_in(rows, read, self.dtype) >= LEAST:
                continue
            if len(text) and share_in(text, put_out, self.dtype) > 0.5:
                continue
            shares[module] = share
            if share > best[1]:
                best = module, share
        good = [module for module in self.paths if shares.get(module, 0) >= LEAST]  # outer ones first
        if good:
            chosen = good[0]
            return chosen, shares[chosen]
        return best

    def _puts_out(self, call: Call, rows: Tensor) -> float:
        """The share of some rows that are among those that a call puts out."""
        put_out = torch.cat([out for _, out in call.outputs] or [rows[:0]])
        return share_in(rows, put_out, self.dtype) if len(rows) else 0.0

    def _vision(
        self, calls: Sequence[Call], connector: nn.Module, encoder: Sequence[nn.Module], named: str
    ) -> tuple[nn.Module, str, bool, int | None, float]:
        """Module, argument, axis and width at which rows of the vision encoder are read, and the share of them."""
        if named:
            for module, path in self.paths.items():
                if path == named or path.endswith(f".{named}"):
                    shapes = {shape for call in calls if call.module is module for shape, _ in call.outputs}
                    channels = any(
                        len(shape) >= 4 and p.ndim >= 4 and p.shape[0] == shape[1]
                        for shape in shapes
                        for p in module.parameters()
                    )
                    return module, "", channels, None, 1.0
            raise self._lost(f"no module {named!r} in it")
        if connector is self.table:
            raise self._lost(
                "its pictures become tokens of its vocabulary, and which module puts out what is made such tokens is "
                "not known"
            )
        tower = self._tower(connector, encoder)
        within = set(tower.modules()) if tower is not None else {of for block in encoder for of in block.modules()}
        boundary = max(
            call.ended
            for call in calls
            if (call.module is tower if tower is not None else call.module in set(encoder) | within)
        )
        put_out = self._encoded(calls, within, connector)
        best: tuple[nn.Module, str, bool, int | None, float] | None = None
        for call in sorted(calls, key=lambda call: call.began):
            if call.began < boundary:
                continue
            if is_norm(call.module):
                continue
            encoded = [out for ended, out in put_out if ended < call.began]
            for name, (shape, rows) in call.inputs.items():
                found = self._read_as(shape, rows, call, name, encoded)
                if found[2] > 0 and (best is None or found[2] > best[4]):
                    best = call.module, name, *found
                if best is not None and best[4] >= LEAST:
                    return best
            if call.module is connector:
                break
        where = f"; the nearest is the input of {self.paths[best[0]]}, with {best[4]:.0%}" if best else ""
        raise self._lost(f"nothing behind its vision encoder reads {LEAST:.0%} rows of its output{where}")

    def _encoded(
        self, calls: Sequence[Call], within: Collection[nn.Module], connector: nn.Module
    ) -> list[tuple[int, tuple[tuple[int, ...], Tensor]]]:
        """What modules of the vision encoder put out before the connector, and norms make of it; when, and what."""
        begins = min(call.began for call in calls if call.module in within)
        ends = max(call.ended for call in calls if call.module is connector)
        found: list[tuple[int, tuple[tuple[int, ...], Tensor]]] = []
        for call in sorted(calls, key=lambda call: call.ended):
            if not begins <= call.began <= call.ended < ends:
                continue
            own = call.module in within
            if not own and is_norm(call.module):
                known = [out for _, out in found]
                shares = (self._read_as(*given, call, name, known)[2] for name, given in call.inputs.items())
                own = max(shares, default=0.0) >= LEAST
            if own:
                found += [(call.ended, out) for out in call.outputs]
        return found

    def _read_as(
        self, shape: tuple[int, ...], rows: Tensor, call: Call, name: str, encoded: Sequence[Any]
    ) -> tuple[bool, int | None, float]:
        """How an input is rows of one output of the encoder: axis, width, share."""

        def share(some: Tensor, width: int) -> float:
            some = some[some.isfinite().all(dim=1)]
            best = 0.0
            for of, out in reversed(encoded) if len(some) else ():
                if of[-1] == width and best < 1:
                    best = max(best, share_in(some, out, self.dtype))
            return best

        tried: list[tuple[bool, int | None, float]] = [(False, None, share(rows, shape[-1]))]
        if name in call.channels:
            tried.append((True, None, share(call.channels[name], shape[1])))
            # A map that is passed on as it is, is the same along both axes: what reads it has weights for its width.
            sizes = {size for p in call.module.parameters() for size in p.shape}
            tried.sort(key=lambda entry: (shape[1] if entry[0] else shape[-1]) not in sizes)
        for (of, width), cut in call.chunks.items():
            if of != name:
                continue
            tried.append((False, width, share(cut, width)))
            count = shape[-1] // width  # several layers side by side are one row
            tried.append((False, None, min(share(cut[i::count], width) for i in range(count))))
        return max(tried, key=lambda entry: entry[2])

    def _tower(self, connector: nn.Module, encoder: Sequence[nn.Module]) -> Any:
        """The outermost model of transformers around the encoder's blocks that has no part of connector or LLM."""
        for module in self.paths:
            inner = set(module.modules())
            if (
                isinstance(module, PreTrainedModel)
                and all(block in inner for block in encoder)
                and connector not in inner
                and self.llm not in inner
            ):
                return module
        return None
