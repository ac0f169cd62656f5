"""`--scores`: files and folders -> scores, checked, in one unit for each benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmerank.analysis.scores.entry import Scored
from mmerank.analysis.scores.harnesses import is_vlmevalkit, of_harness, of_vlmevalkit
from mmerank.analysis.scores.own import of_content, of_table
from mmerank.errors import DataError, first_line
from mmerank.files import regular_bytes
from mmerank.yaml_files import yaml_value

# What is looked for in a folder: `mmerank score`, lm-eval, lmms-eval, VLMEvalKit.
_IN_FOLDERS = (
    "**/scores.csv",
    "**/results_*.json",
    "**/*_results.json",
    "**/results.json",  # as lmms-eval wrote it before 0.2
    "**/*_acc.csv",
    "**/*_score.csv",
    "**/*_score.json",
)
_KINDS = (
    "a .csv, .tsv, .xlsx, .yaml or .json with model, benchmark and value, results of lm-eval, lmms-eval or VLMEvalKit"
)


def read_scores(paths: Iterable[str | Path]) -> list[Scored]:
    """The scores in some files.

    Args:
        paths: Files of one's own (CSV, YAML, JSON), result files of lm-eval (`results_*.json`), lmms-eval
            (`*_results.json`) and VLMEvalKit (`*_acc.csv`, `*_score.csv`, `*_score.json`), or folders of such and of
            `mmerank score`.

    Returns:
        Each score once; of a benchmark all in one unit: where some are stated as fractions and others as percent,
        all as fractions.

    Raises:
        DataError: A file is missing or not understood, has no scores, one that is no number, two of one model and
            benchmark, or units that are mixed without saying so.
    """
    found: list[Scored] = []
    for path in paths:
        files = _files(Path(path))
        before = len(found)
        for file in files:
            found += _of_file(file)
        if len(found) == before:
            raise DataError(f"{path}: no scores in it")
    _check_once(found)
    return _in_one_unit(found)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    # VLMEvalKit links the newest results beside the folders that they lie in.
    inside = {file.resolve(): file for pattern in _IN_FOLDERS for file in sorted(path.glob(pattern))}
    if not inside:
        raise DataError(f"{path}: no file of scores in this folder; expected {', '.join(_IN_FOLDERS)}")
    return sorted(inside.values())


def _of_file(path: Path) -> Iterator[Scored]:
    try:
        content = regular_bytes(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not content.strip():
        raise DataError(f"{path}: empty file")
    kind = path.suffix.lower()
    parsed: Any = None
    if kind in (".json", ".yaml", ".yml"):
        parsed = _parsed(path, content)
    if kind == ".json" and isinstance(parsed, dict) and isinstance(parsed.get("results"), dict):
        return of_harness(path, parsed)
    if is_vlmevalkit(path, content, parsed):
        return of_vlmevalkit(path, content, parsed)
    if kind in (".csv", ".tsv", ".xlsx"):
        return of_table(path, content)
    if parsed is None:
        raise DataError(f"{path}: not understood; expected {_KINDS}")
    return of_content(path, parsed)


def _parsed(path: Path, content: bytes) -> Any:
    try:
        if path.suffix.lower() == ".json":
            return json.loads(content)
        return yaml_value(content)
    except Exception as error:  # of YAML, what int(), float() and others raise comes through, and RecursionError
        raise DataError(f"{path}: not valid {path.suffix[1:].upper()} ({first_line(error)})") from None


def _check_once(found: list[Scored]) -> None:
    first: dict[tuple[str, str, str], Scored] = {}
    for of in found:
        other = first.setdefault((of.model, of.name, of.loaded), of)
        if other is not of:
            raise DataError(
                f"{of.where}: {of.model} on {of.name} stands already in {other.where} ({other.value:g} there, "
                f"{of.value:g} here); leave one"
            )


def _in_one_unit(found: list[Scored]) -> list[Scored]:
    by_name: dict[str, list[Scored]] = {}
    for of in found:
        by_name.setdefault(of.name, []).append(of)
    converted: dict[int, Scored] = {}
    for name, scores in by_name.items():
        units = {of.unit for of in scores}
        if units == {"fraction", "percent"}:
            for of in scores:
                if of.unit == "percent":
                    in_fractions = {key: getattr(of, key) / 100 for key in ("value", "low", "high")}
                    converted[id(of)] = replace(of, unit="fraction", **in_fractions)
        elif len(units) > 1:
            stated = ", ".join(sorted(unit or "none" for unit in units))
            one = next((of for of in scores if not of.unit), scores[0])
            raise DataError(
                f"{one.where}: the scores on {name} have several units ({stated}); state unit (fraction, percent or "
                "points) of all of them"
            )
        elif units == {""}:
            small = [of for of in scores if 0 < of.value <= 1]
            large = [of for of in scores if of.value > 1.5]
            if small and large:
                raise DataError(
                    f"{small[0].where}: {small[0].value:g} on {name} beside {large[0].value:g} ({large[0].where}): "
                    "fractions beside percentages? State unit (fraction, percent or points) of each"
                )
    return [converted.get(id(of), of) for of in found]
