"""What the records of a run can be: the measurements its job makes of an example, and numbers that are possible."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmerank.convention import (
    Convention,
    EncoderConvention,
    GenerationConvention,
    PruneConvention,
    TextConvention,
)
from mmerank.eranks import ERANKS, UPDATES, update_at, update_points, vision_layer
from mmerank.errors import RunFolderError
from mmerank.models.layers import block_numbers, encoder_layers, layer_numbers
from mmerank.runs.columns import ROUNDING, SLACK, Column, Columns, DamagedPart
from mmerank.runs.record import INSIDE, PATCHES, PICTURES, open_fields
from mmerank.runs.settings import STATED, convention_in, data_fingerprint, record_fingerprint

# No model has more layers; `all` and `middle` name others for each number of them.
MOST_LAYERS = 1024


class Rules:
    """What the settings of a run say of its records.

    Args:
        folder: The run folder, for the errors.
        settings: As from `mmerank.runs.settings.read_settings`.

    Attributes:
        of: What the data are known by, see `mmerank.runs.settings.data_fingerprint`.
        metrics: The columns of the metrics that the settings state.
        fingerprints: What records of each model know it by; records of earlier versions by any of them, others by
            the first.

    Raises:
        RunFolderError: The settings name no layers that a model could have.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.of = data_fingerprint(settings)
        self._convention = convention_in(folder, settings)
        matched = getattr(self._convention, "match_tokens", None) is not None
        self.metrics = open_fields(getattr(self._convention, "metrics", ()), matched=matched)
        self._models: dict[str, dict[str, Any]] = settings["models"]
        stated = settings.get("convention", {})
        # Records of a trained model do not depend on the twin's mode, and earlier versions copied them as they were.
        others = ("eval", "train") if "untrained_mode" in stated else ()
        modes = [stated, *({**stated, "untrained_mode": mode} for mode in others)]
        self.fingerprints = {
            model: [record_fingerprint(source, mode) for mode in modes] for model, source in self._models.items()
        }
        self._chosen: str = settings.get("layers", "")
        try:
            self._layers = _layer_sets("" if isinstance(self._convention, EncoderConvention) else self._chosen)
        except ValueError as error:
            raise RunFolderError(f"{folder / STATED}: not the settings of a run (layers: {error})") from None
        self._inside: str = settings.get("inside", "")
        try:
            self._blocks = _block_sets(self._inside)
        except ValueError as error:
            raise RunFolderError(f"{folder / STATED}: not the settings of a run (inside: {error})") from None
        self._transforms: list[str] = settings.get("transforms", [])
        self._keys: set[tuple[str, ...]]
        self._draws = 0
        if isinstance(self._convention, EncoderConvention):
            self._keys = set()  # each model has its own
        elif isinstance(self._convention, TextConvention):
            self._keys = {("none", "final", "text")}
        elif isinstance(self._convention, GenerationConvention):
            self._keys = {("none", "llm", kind) for kind in ("prompt", "response")}
        elif isinstance(self._convention, PruneConvention):
            chosen = [of.name for of in self._convention.choices]
            self._keys = {("none", point, name) for point in ("connector", "llm") for name in ("whole", *chosen)}
            self._keys.add(("none", "vision", "whole"))
        else:
            whole = ["none", *self._transforms]
            self._keys = {(name, *where) for name in whole for where in ERANKS.values()}
            self._draws = settings.get("control_draws", 0)
        self._controls = settings.get("controls", [])

    def check(self, table: pa.Table, *, older: bool) -> None:
        """Hold the records of one part against the rules.

        Args:
            table: They, with the columns and types of one of the versions.
            older: Whether the part was written before parts had digests.

        Raises:
            DamagedPart: One cannot be.
        """
        if not table.num_rows:
            raise DamagedPart("no records")
        part = Columns(table)
        self._check_models(part, older=older)
        of_encoders = isinstance(self._convention, EncoderConvention)
        at_layer = self._check_encoded(part) if of_encoders else self._check_whole(part)
        part.check_numbers(centred=self._convention.centre == "mean")
        if not part.lacks(PICTURES.name):
            of_pictures = part.equals("point", "vision") | part.equals("point", "connector")
            of_pictures |= part.equals("point", "llm") & part.equals("input", "pair")
            part.check_pictures(PICTURES.name, of_pictures & isinstance(self._convention, Convention))
        self._check_patches(part)
        self._check_inside(part)
        if not of_encoders and not part.lacks("embedding"):
            part.check_lists("embedding", None, at_layer, most=None)
        if not part.lacks("rows_image"):
            of_texts = isinstance(self._convention, TextConvention)
            part.check_rows(part.equals("input", "text" if of_texts else "pair") & bool(self.metrics))
        self._check_written(part)
        self._check_kept(part)
        if isinstance(self._convention, TextConvention):
            self._check_losses(part)
        elif isinstance(self._convention, Convention):
            self._check_rows(part, at_layer, self._convention)
        if self.metrics:
            part.check_metrics([field.name for field in self.metrics[:-1]])

    def _check_patches(self, part: Columns) -> None:
        asked = isinstance(self._convention, Convention) and self._convention.patches
        there = [not part.lacks(of.name) for of in PATCHES if pa.types.is_list(of.type)]
        if any(there) != asked or any(there) != all(there):
            raise DamagedPart("no columns of what each row adds" if asked else "what each row adds, unasked for")
        if asked:
            where = part.equals("input", "image") & (
                part.equals("point", "vision") | part.equals("point", "connector")
            )
            where |= part.equals("input", "pair") & part.equals("point", "llm")
            part.check_contributions(where & part.equals("transform", "none"))

    def _check_inside(self, part: Columns) -> None:
        there = [not part.lacks(of.name) for of in INSIDE]
        if any(there) != bool(self._inside) or any(there) != all(there):
            raise DamagedPart("no columns of what blocks add" if self._inside else "what blocks add, unasked for")
        if self._inside:
            points, keys = part.coded("point")
            part.check_inside(np.array([update_at(point) is not None for (point,) in keys])[points])

    def _check_models(self, part: Columns, *, older: bool) -> None:
        pairs = pa.table({name: part.table[name] for name in ("model", "fingerprint")}).group_by(
            ["model", "fingerprint"]
        )
        for pair in pairs.aggregate([]).to_pylist():
            name, found = pair["model"], pair["fingerprint"]
            if name not in self._models:
                raise DamagedPart(f"records of {name!r}, which is no model of this run")
            known = self.fingerprints[name]
            # What earlier versions knew a twin by is not stated.
            if found not in known[: None if older else 1] and not (older and self._models[name].get("untrained")):
                raise DamagedPart(f"records of {name!r} under another convention, or of other weights ({found})")

    def _lacking(self, model: str) -> set[tuple[str, ...]]:
        """Measurements that a model does not have, as it says itself."""
        stated = self._models[model].get("undefined", {})
        where = {ERANKS[label] for label in stated if label in ERANKS} if isinstance(stated, Mapping) else set()
        where |= {(point, "whole") for point, kind in where if kind == "image" and point != "llm"}
        return {key for key in self._keys if key[1:] in where}

    def _check_whole(self, part: Columns) -> Column:
        """Each example of a model has every measurement once; which rows are of further layers."""
        columns = ("transform", "point", "input")
        codes, found = part.coded(*columns)
        kind = "text" if isinstance(self._convention, TextConvention) else "pair"
        within = [key for key in found if key[0] == "none" and key[2] == kind]
        named = {key: re.fullmatch(r"layer (0|[1-9]\d{0,3})", key[1], re.ASCII) for key in within}
        layers = {key: int(of[1]) for key, of in named.items() if of}
        updates = {key: of for key in within if (of := update_at(key[1]))}
        pictures = [key for key in found if key[0] == "none" and key[2] == "image"]
        tower = {key: number for key in pictures if (number := vision_layer(key[1]))}
        if self._draws > part.table.num_rows:  # whoever states more than there can be: they are not listed
            raise DamagedPart(f"fewer records than the run has draws of controls ({self._draws})")
        draws = {(f"{kind}/{draw}", "llm", "pair") for kind in self._controls for draw in range(self._draws)}
        made = self._keys | draws
        if unknown := set(found) - made - layers.keys() - updates.keys() - tower.keys():
            raise DamagedPart(f"a measurement that this run does not make ({', '.join(sorted(unknown)[0])})")
        examples, of_example = part.coded("model", "example")
        lacking = {model: self._lacking(model) for model, _ in of_example}
        wanted = set().union(*(made - keys for keys in lacking.values()))
        if missing := wanted - set(found):
            raise DamagedPart(f"no measurement {', '.join(sorted(missing)[0])} of any example")
        if frozenset(layers.values()) not in self._layers:
            raise DamagedPart(f"other layers than this run measures ({', '.join(sorted(key[1] for key in layers))})")
        if tower and (not layers or frozenset(tower.values()) not in _tower_sets(self._chosen)):
            raise DamagedPart(f"other layers than this run measures ({', '.join(sorted(key[1] for key in tower))})")
        blocks = frozenset(number for _, number in updates.values())
        if blocks not in self._blocks or len(updates) != len(UPDATES) * len(blocks):
            raise DamagedPart(f"updates of other blocks than this run measures ({', '.join(update_points(blocks))})")
        counts = np.bincount(examples * len(found) + codes, minlength=(int(examples.max()) + 1) * len(found))
        expected = np.array([[key not in lacking[model] for key in found] for model, _ in of_example]).ravel()
        if (counts != expected).any():
            place = int((counts != expected).argmax())
            row = int((examples == place // len(found)).argmax())
            times = "no" if counts[place] == 0 else str(counts[place])
            key = ", ".join(found[place % len(found)])
            raise DamagedPart(f"{times} measurement{'s' * (times != 'no')} {key} of example {part.example(row)!r}")
        return np.array([key in layers or key in updates or key in tower for key in found])[codes]

    def _check_encoded(self, part: Columns) -> Column:
        """Each example has every layer of its encoders once a transform, and embeddings at the last; which rows."""
        if part.lacks("embedding"):
            raise DamagedPart("no column embedding")
        columns = ("transform", "point", "input")
        codes, found = part.coded(*columns)
        examples, of_example = part.coded("model", "example")
        counts = np.bincount(examples * len(found) + codes, minlength=len(of_example) * len(found))
        expected, last = [], {}
        whole = ["none", *self._transforms]
        for model in {model for model, _ in of_example}:
            last[model] = self._layers_of(model)
        for model, _ in of_example:
            wanted = {
                (name, f"layer {i}", side) for name in whole for side, layers in last[model].items() for i in layers
            }
            if missing := wanted - set(found):
                raise DamagedPart(f"no measurement {', '.join(sorted(missing)[0])} of any example")
            expected.append([key in wanted for key in found])
        if (counts != np.array(expected).ravel()).any():
            place = int((counts != np.array(expected).ravel()).argmax())
            row = int((examples == place // len(found)).argmax())
            key = ", ".join(found[place % len(found)])
            raise DamagedPart(f"{counts[place]} measurements {key} of example {part.example(row)!r}")
        ends = {(model, f"layer {layers[-1]}", side) for model, of in last.items() for side, layers in of.items()}
        places, keys = part.coded("model", "point", "input")
        at_end = np.array([key in ends for key in keys])[places]
        part.check_embeddings(at_end)
        return at_end

    def _layers_of(self, model: str) -> dict[str, list[int]]:
        """The layers that were to be measured of a model, by side."""
        stated = self._models[model].get("layers")
        if not isinstance(stated, Mapping) or not all(
            isinstance(layers, list) and layers and all(type(i) is int for i in layers) for layers in stated.values()
        ):
            raise DamagedPart(f"records of {model!r}, of which the run does not say which layers it has")
        try:
            return {side: encoder_layers(layers, self._chosen) for side, layers in stated.items()}
        except ValueError as error:
            raise DamagedPart(f"no layers that could be measured ({error})") from None

    def _check_written(self, part: Columns) -> None:
        """Of responses alone: entropies as they grew, and one of the logits for each token."""
        asked = self._convention
        of_runs = isinstance(asked, GenerationConvention)
        if part.lacks("trajectory"):
            if of_runs:
                raise DamagedPart("no column trajectory")
            return
        responses = part.equals("input", "response") & of_runs
        most = np.log(np.maximum(part["n"], 1.0)) + SLACK
        stride = asked.stride if isinstance(asked, GenerationConvention) else 1
        if not part.lacks("stride"):
            part.require(part["stride"] == np.where(responses, stride, 0), "stride")
        part.check_lists("trajectory", part["n"] // stride, responses, most=float(most.max()))
        part.check_lists("logit_entropies", part["n"] + 1, responses, most=None)

    def _check_kept(self, part: Columns) -> None:
        """Of kept rows at the LLM alone: which they are, and what leaving out the others does."""
        asked = isinstance(self._convention, PruneConvention)
        if part.lacks("kept"):
            if asked:
                raise DamagedPart("no column kept")
            return
        if not asked:
            raise DamagedPart("rows that were kept, unasked for")
        whole, llm = part.equals("input", "whole"), part.equals("point", "llm")
        kept = llm & ~whole
        part.check_lists("kept", part["n"], kept, most=None)
        part.require(np.where(llm, part["loss"] >= -ROUNDING, np.isnan(part["loss"])), "loss")
        part.require((part["predicted"] > 0) == llm, "predicted")
        most = np.log(np.maximum(part["n"], 1.0)) + SLACK
        holds = {
            "divergence": part["divergence"] >= -SLACK,
            "agreement": part.between("agreement", 1),
            "neighbours": part.between("neighbours", 1) | np.isnan(part["neighbours"]),
            "entropy_before": part.between("entropy_before", most),
            "participation_before": (part["participation_before"] >= 1 - SLACK)
            & (part["participation_before"] <= part["n"]),
        }
        for name, fine in holds.items():
            part.require(np.where(kept, fine, np.isnan(part[name])), name)

    def _check_losses(self, part: Columns) -> None:
        convention = self._convention
        assert isinstance(convention, TextConvention)
        if part.lacks("loss"):
            raise DamagedPart("no column loss")
        loss, predicted = part["loss"], part["predicted"]
        none = predicted == 0
        part.require((predicted == part["n"] + convention.skip_first - 1) | none, "predicted")
        part.require(np.where(none, np.isnan(loss), np.isfinite(loss) & (loss >= -ROUNDING)), "loss")
        models, _ = part.coded("model")
        if len(np.unique(models * 2 + none)) != len(np.unique(models)):
            raise DamagedPart("a loss of some texts and none of others, by one model")

    def _check_rows(self, part: Columns, at_layer: Column, asked: Convention) -> None:
        """What else is measured of the rows is there where it was asked for, and nowhere else."""
        if not part.lacks("loss"):
            part.require(np.isnan(part["loss"]) & (part["predicted"] == 0), "loss")
        study = asked.studies_rows or bool(at_layer.any())
        if part.lacks("matched"):
            if study:
                raise DamagedPart("no columns of what else was to be measured of the rows")
            return
        n, base = part["n"], ~at_layer
        most = np.log(np.maximum(n, 1.0)) + SLACK
        few = n < (asked.match_tokens or 0)
        lengths = np.where(few, 0, asked.match_repeats) if asked.match_tokens else None
        # Runs of earlier versions drew no rows at further layers.
        drawn = base | (at_layer & part.there("matched"))
        part.check_lists("matched", lengths, drawn, most=_entropy([asked.match_tokens or 1]))
        steps = len(asked.token_curve)
        part.check_lists("curve", np.full(len(n), steps) if steps else None, base, most=_entropy(asked.token_curve))
        # Some metrics are taken of mean states; which, is theirs to know.
        keeps = asked.companions or (bool(asked.metrics) and bool(part.table["mean_state"].is_valid()[0].as_py()))
        part.check_lists("mean_state", part["d"] if keeps else None, base, most=None)
        by_role = (base & asked.rows) | (bool(at_layer.any()) & (part.equals("input", "pair")))
        for name in ("entropy_image", "entropy_text", "entropy_modality"):
            part.require(np.isnan(part[name]) | (by_role & part.between(name, most)), name)
        for name in ("strongest", "decisive"):
            row, nameless, entropy = f"{name}_row", part.equals(f"{name}_token", ""), f"entropy_without_{name}"
            there = ~nameless & (part[row] >= 0) & (part[row] < n)
            there &= np.isnan(part[entropy]) | part.between(entropy, most)
            part.require(
                np.where(base & asked.rows, there, nameless & (part[row] == -1) & np.isnan(part[entropy])), row
            )


def _entropy(rows: Sequence[int]) -> float:
    """The most that an entropy of so many rows, the largest of these numbers, can be."""
    return math.log(max(rows, default=1)) + SLACK


@lru_cache
def _layer_sets(chosen: str) -> frozenset[frozenset[int]]:
    """The further layers that a choice may name, in a model of any size; ValueError where it names none."""
    if not chosen:
        return frozenset([frozenset[int]()])
    return _in_any(lambda end: frozenset(layer_numbers(end, chosen)) - {end})


@lru_cache
def _tower_sets(chosen: str) -> frozenset[frozenset[int]]:
    """The layers of a vision encoder that a choice may name, in one of any size."""
    return _in_any(lambda end: frozenset(encoder_layers(range(1, end + 1), chosen)))


@lru_cache
def _block_sets(chosen: str) -> frozenset[frozenset[int]]:
    """The blocks that a choice may name, in a model of any size; ValueError where it names none."""
    return _in_any(lambda end: frozenset(block_numbers(end, chosen)))


def _in_any(numbers: Callable[[int], frozenset[int]]) -> frozenset[frozenset[int]]:
    """What numbers there are in models of so many layers; ValueError where the largest has none."""
    found = {numbers(MOST_LAYERS)}
    for end in range(MOST_LAYERS - 1, 0, -1):
        try:
            found.add(numbers(end))
        except ValueError:  # a smaller model has fewer
            break
    return frozenset(found)
