"""What the records of a run can be: the measurements its job makes of an example, and numbers that are possible."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmerank.convention import Convention, EncoderConvention, TextConvention
from mmerank.eranks import ERANKS
from mmerank.errors import RunFolderError
from mmerank.models.layers import encoder_layers, layer_numbers
from mmerank.runs.record import MATCHED, NO_VALUE, VALUE, open_fields
from mmerank.runs.settings import STATED, convention_in, data_fingerprint, record_fingerprint

# Spectra are stored in float32, so what follows from them agrees with what was computed in float64 to its rounding.
ROUNDING = 1e-6
# An entropy at its upper bound may lie above it by what `precision` mixed leaves of eigenvalues that are 0.
SLACK = 1e-4
# No model has more layers; `all` and `middle` name others for each number of them.
MOST_LAYERS = 1024
# Rows whose spectra are looked at together, so that what is computed of them is small beside them.
SLICE = 10_000

_Column = NDArray[Any]


class DamagedPart(ValueError):
    """A part that does not hold what a run writes; the message says what is wrong, not of which file."""


class Rules:
    """What the settings of a run say of its records.

    Args:
        folder: The run folder, for the errors.
        settings: As from `mmerank.runs.settings.read_settings`.

    Attributes:
        of: What the data are known by, see `mmerank.runs.settings.data_fingerprint`.
        metrics: The columns of the metrics that the settings state.

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
        self._fingerprints = {
            model: [record_fingerprint(source, mode) for mode in modes] for model, source in self._models.items()
        }
        self._chosen: str = settings.get("layers", "")
        try:
            self._layers = _layer_sets("" if isinstance(self._convention, EncoderConvention) else self._chosen)
        except ValueError as error:
            raise RunFolderError(f"{folder / STATED}: not the settings of a run (layers: {error})") from None
        self._keys: set[tuple[str, ...]]
        self._draws = 0
        if isinstance(self._convention, EncoderConvention):
            self._keys = set()  # each model has its own
        elif isinstance(self._convention, TextConvention):
            self._keys = {("none", "final", "text")}
        else:
            whole = ["none", *settings.get("transforms", [])]
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
        part = _Part(table)
        self._check_models(part, older=older)
        of_encoders = isinstance(self._convention, EncoderConvention)
        at_layer = self._check_encoded(part) if of_encoders else self._check_whole(part)
        part.check_numbers(centred=self._convention.centre == "mean")
        if not of_encoders and not part.lacks("embedding"):
            part.check_lists("embedding", None, at_layer, most=None)
        if isinstance(self._convention, TextConvention):
            self._check_losses(part)
        elif isinstance(self._convention, Convention):
            self._check_rows(part, at_layer, self._convention)
        if self.metrics:
            part.check_metrics([field.name for field in self.metrics[:-1]])

    def _check_models(self, part: _Part, *, older: bool) -> None:
        pairs = pa.table({name: part.table[name] for name in ("model", "fingerprint")}).group_by(
            ["model", "fingerprint"]
        )
        for pair in pairs.aggregate([]).to_pylist():
            name, found = pair["model"], pair["fingerprint"]
            if name not in self._models:
                raise DamagedPart(f"records of {name!r}, which is no model of this run")
            known = self._fingerprints[name]
            # What earlier versions knew a twin by is not stated.
            if found not in known[: None if older else 1] and not (older and self._models[name].get("untrained")):
                raise DamagedPart(f"records of {name!r} under another convention, or of other weights ({found})")

    def _lacking(self, model: str) -> set[tuple[str, ...]]:
        """Measurements that a model does not have, as it says itself."""
        stated = self._models[model].get("undefined", {})
        where = {ERANKS[label] for label in stated if label in ERANKS} if isinstance(stated, Mapping) else set()
        return {key for key in self._keys if key[1:] in where}

    def _check_whole(self, part: _Part) -> _Column:
        """Each example of a model has every measurement once; which rows are of further layers."""
        columns = ("transform", "point", "input")
        codes, found = part.coded(*columns)
        layers = {
            key: int(number[1])
            for key in found
            if key[0] == "none"
            and key[2] == ("text" if isinstance(self._convention, TextConvention) else "pair")
            and (number := re.fullmatch(r"layer (0|[1-9]\d{0,3})", key[1], re.ASCII))
        }
        if self._draws > part.table.num_rows:  # whoever states more than there can be: they are not listed
            raise DamagedPart(f"fewer records than the run has draws of controls ({self._draws})")
        draws = {(f"{kind}/{draw}", "llm", "pair") for kind in self._controls for draw in range(self._draws)}
        made = self._keys | draws
        if unknown := set(found) - made - layers.keys():
            raise DamagedPart(f"a measurement that this run does not make ({', '.join(sorted(unknown)[0])})")
        examples, of_example = part.coded("model", "example")
        lacking = {model: self._lacking(model) for model, _ in of_example}
        wanted = set().union(*(made - keys for keys in lacking.values()))
        if missing := wanted - set(found):
            raise DamagedPart(f"no measurement {', '.join(sorted(missing)[0])} of any example")
        if frozenset(layers.values()) not in self._layers:
            raise DamagedPart(f"other layers than this run measures ({', '.join(sorted(key[1] for key in layers))})")
        counts = np.bincount(examples * len(found) + codes, minlength=(int(examples.max()) + 1) * len(found))
        expected = np.array([[key not in lacking[model] for key in found] for model, _ in of_example]).ravel()
        if (counts != expected).any():
            place = int((counts != expected).argmax())
            row = int((examples == place // len(found)).argmax())
            times = "no" if counts[place] == 0 else str(counts[place])
            key = ", ".join(found[place % len(found)])
            raise DamagedPart(f"{times} measurement{'s' * (times != 'no')} {key} of example {part.example(row)!r}")
        return np.array([key in layers for key in found])[codes]

    def _check_encoded(self, part: _Part) -> _Column:
        """Each example has every layer of its encoders once, and embeddings at the last; which rows are those."""
        if part.lacks("embedding"):
            raise DamagedPart("no column embedding")
        columns = ("transform", "point", "input")
        codes, found = part.coded(*columns)
        examples, of_example = part.coded("model", "example")
        counts = np.bincount(examples * len(found) + codes, minlength=len(of_example) * len(found))
        expected, last = [], {}
        for model in {model for model, _ in of_example}:
            last[model] = self._layers_of(model)
        for model, _ in of_example:
            wanted = {("none", f"layer {i}", side) for side, layers in last[model].items() for i in layers}
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

    def _check_losses(self, part: _Part) -> None:
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

    def _check_rows(self, part: _Part, at_layer: _Column, asked: Convention) -> None:
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
        part.check_lists("matched", lengths, base, most=_entropy([asked.match_tokens or 1]))
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


class _Part:
    """The columns of a part, and what is looked at in all of them."""

    def __init__(self, table: pa.Table):
        self.table = table
        for name in table.column_names:
            may_lack = pa.types.is_list(table.schema.field(name).type) or name.startswith((VALUE, MATCHED))
            if not may_lack and table[name].null_count:
                raise DamagedPart(f"no {name} in {table[name].null_count} records")
        self._numbers: dict[str, _Column] = {}

    def __getitem__(self, name: str) -> _Column:
        if name not in self._numbers:
            self._numbers[name] = self.table[name].to_numpy()
        return self._numbers[name]

    def equals(self, name: str, value: str) -> _Column:
        found: _Column = pc.equal(self.table[name], value).to_numpy()
        return found

    def lacks(self, name: str) -> bool:
        return name not in self.table.column_names

    def example(self, row: int) -> str:
        return str(self.table["example"][row].as_py())

    def coded(self, *names: str) -> tuple[_Column, list[Any]]:
        """A number for each row, the same for the same values, and the values by number."""
        codes = np.zeros(self.table.num_rows, np.int64)
        for name in names:
            column = self.table[name].combine_chunks().dictionary_encode()
            codes = codes * len(column.dictionary) + column.indices.to_numpy()
        _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
        kept = self.table.select(list(names)).take(pa.array(first))
        return codes, list(zip(*(column.to_pylist() for column in kept.columns), strict=True))

    def require(self, holds: _Column, name: str) -> None:
        """DamagedPart with the first value for which it does not hold."""
        if not holds.all():
            row = int(holds.argmin())
            found = self.table[name][row].as_py()
            shown = f"{len(found)} numbers" if isinstance(found, list) else repr(found)
            raise DamagedPart(f"{name} of example {self.example(row)!r} cannot be {shown}")

    def between(self, name: str, most: Any) -> _Column:
        found: _Column = (self[name] >= -SLACK) & (self[name] <= most)
        return found

    def check_numbers(self, *, centred: bool) -> None:
        """Sizes, spectrum, and what is computed of it."""
        n, d = self["n"], self["d"]
        self.require(n >= 2, "n")
        self.require(d >= 1, "d")
        self.require(self["text_cut"] >= 0, "text_cut")
        self.require(self.between("entropy", np.log(np.minimum(n - 1 if centred else n, d)) + SLACK), "entropy")
        offsets, values = self._lists("spectrum", np.ones(len(n), bool))
        lengths = np.diff(offsets)
        self.require((lengths >= 1) & (lengths <= np.minimum(n, d)), "spectrum")
        sound = np.empty((4, len(n)), bool)
        for start in range(0, len(n), SLICE):
            rows = slice(start, start + SLICE)
            here = offsets[start : start + SLICE + 1]
            with np.errstate(all="ignore"):
                sound[:, rows] = self._spectra(values[here[0] : here[-1]], here[:-1] - here[0], rows)
        for holds, name in zip(sound, ("spectrum", "entropy", "participation_ratio", "top_share"), strict=True):
            self.require(holds, name)

    def _spectra(self, values: _Column, starts: _Column, rows: slice) -> _Column:
        """Whether each spectrum is one, and entropy, participation ratio and largest share are its own, (4, rows)."""

        def total(of: _Column) -> _Column:
            found: _Column = np.add.reduceat(of, starts, dtype=np.float64)
            return found

        falls = np.ones(len(values), bool)
        falls[1:] = values[1:] <= values[:-1]
        falls[starts] = True
        falls &= values >= 0
        is_one = np.logical_and.reduceat(falls, starts) & (np.abs(total(values) - 1) <= ROUNDING)
        entropy = -total(values * np.log(np.maximum(values, np.finfo(np.float32).tiny)))
        return np.stack(
            [
                is_one,
                np.abs(entropy - self["entropy"][rows]) <= ROUNDING * (1 + entropy),
                np.abs(total(values * values) * self["participation_ratio"][rows] - 1) <= 2 * ROUNDING,
                np.abs(values[starts] - self["top_share"][rows]) <= ROUNDING * values[starts],
            ]
        )

    def check_lists(self, name: str, lengths: _Column | None, where: _Column, *, most: float | None) -> None:
        """A list of so many numbers where it was asked for: entropies up to `most` or NaN, or finite ones."""
        wanted = where if lengths is not None else np.zeros_like(where)
        offsets, values = self._lists(name, wanted)
        if lengths is None:
            return
        self.require(np.diff(offsets) == np.where(wanted, lengths, 0), name)
        fine = np.isfinite(values) if most is None else np.isnan(values) | ((values >= -SLACK) & (values <= most))
        self.require(np.add.reduceat(np.append(~fine, False), offsets[:-1]) * (np.diff(offsets) > 0) == 0, name)

    def check_embeddings(self, where: _Column) -> None:
        """Embeddings of finite numbers at these rows alone, of one width for the models and sides that have one."""
        offsets, values = self._lists("embedding", where)
        widths = np.diff(offsets)
        self.require((widths > 0) == where, "embedding")
        if not np.isfinite(values).all():
            raise DamagedPart("an embedding that is not finite")
        models, keys = self.coded("model")
        for i in range(len(keys)):
            if len({*widths[where & (models == i)].tolist()}) > 1:
                raise DamagedPart(f"embeddings of different lengths of {keys[i][0]!r}")

    def check_metrics(self, names: Sequence[str]) -> None:
        """At each place a metric has a finite number of every example, or a reason for none; or none has either."""
        places, _ = self.coded("transform", "point", "input")
        try:
            reasons = [json.loads(said) if said else {} for said in self.table[NO_VALUE].to_pylist()]
        except ValueError:
            raise DamagedPart(f"{NO_VALUE}: not the reasons of missing numbers") from None
        for row, of_row in enumerate(reasons):
            if not (isinstance(of_row, dict) and of_row.keys() <= {*names} and all(map(_is_text, of_row.values()))):
                raise DamagedPart(f"{NO_VALUE} of example {self.example(row)!r}: not the reasons of missing numbers")
        for name in names:
            numbers = self.table[name].to_numpy()  # NaN where there is none
            there = self.table[name].is_valid().to_numpy()
            self.require(~there | np.isfinite(numbers), name)
            told = np.array([name in of_row for of_row in reasons])
            taken = np.bincount(places, there | told)[places] > 0
            self.require(np.where(taken, there ^ told, True), name)

    def _lists(self, name: str, wanted: _Column) -> tuple[_Column, _Column]:
        """Where each row's list begins, with the end of the last, and all the numbers."""
        column = self.table[name].combine_chunks()
        self.require(column.is_valid().to_numpy(zero_copy_only=False) == wanted, name)
        offsets, values = column.offsets.to_numpy(), column.values
        if values.null_count:
            raise DamagedPart(f"{name}: a number is missing")
        return offsets, values.to_numpy()


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _entropy(rows: Sequence[int]) -> float:
    """The most that an entropy of so many rows, the largest of these numbers, can be."""
    return math.log(max(rows, default=1)) + SLACK


@lru_cache
def _layer_sets(chosen: str) -> frozenset[frozenset[int]]:
    """The further layers that a choice may name, in a model of any size; ValueError where it names none."""
    if not chosen:
        return frozenset([frozenset[int]()])
    found: set[frozenset[int]] = set()
    for end in range(MOST_LAYERS, 0, -1):
        try:
            found.add(frozenset(layer_numbers(end, chosen)) - {end})
        except ValueError:  # a smaller model has fewer
            if not found:
                raise
            break
    return frozenset(found)
