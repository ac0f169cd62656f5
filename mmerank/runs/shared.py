"""A copy of a finished run that others may have: the numbers, without words of texts and folders of this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmerank.errors import RunFolderError, first_line
from mmerank.files import regular_bytes
from mmerank.runs.columns import DamagedPart
from mmerank.runs.parts import FOLDER, part_files, read_part, write_table
from mmerank.runs.rules import Rules
from mmerank.runs.settings import STATED, SUMMARY, read_settings, read_summary, results_in

# What of a run folder others may have. Of the rest, command.yaml and what a run keeps to be continued are nobody
# else's, and reports are made anew.
FILES = (STATED, SUMMARY, f"{FOLDER}/*.parquet")
# CLIP's embeddings, from which something of a text can be told.
WITH_DATA = ("clip.parquet",)
NOT_SHARED = "not shared, since a reason may quote the data"
_END = r"/\\?#&'\""  # of a folder's name
_FOLDERS = re.compile(
    # /home/me/, ~/, file:///home/me/; no slash behind a word, as in owner/name, or of https://
    rf"(?:file:///(?:[^{_END}]+/)*|(?<![\w/.)\]~*-])(?:~[\w.-]*)?/(?![/\s])(?:[^{_END}]+/)*"
    rf"|(?<!\w)[A-Za-z]:[\\/](?:[^{_END}]+[\\/])*"
    rf"|\\\\(?:[^{_END}]+\\)*)(?=[^{_END}])"  # the last part stays, also before a slash
)
_ACCOUNT = re.compile(r"(?<=://)[^/\s@]+@")
_TOKENS = ("strongest_token", "decisive_token")


def without_folders(text: str) -> str:
    """A text without the folders that a path of this machine names, and without the account of an address.

    Args:
        text: A path, a DATA argument, or a sentence with some.

    Returns:
        The same with the last part of each path. Relative paths, names on a hub and addresses stay.

    Example:
        >>> without_folders("llava:/home/me/detail_23k.json?images=~/train2017")
        'llava:detail_23k.json?images=train2017'
        >>> without_folders("hub:owner/name and https://me:secret@host/a.csv")
        'hub:owner/name and https://host/a.csv'
    """
    return _ACCOUNT.sub("", _FOLDERS.sub("", text))


def share(run: Path, folder: Path, *, as_it_is: bool = False) -> None:
    """Copy what others may have of a finished run.

    The copy is a run folder, of the same numbers to the last digit. It lacks the folders of paths, also in names of
    models and data; the tokens that `--rows` names are numbered; the reasons why examples were skipped are not told.

    Args:
        run: A run folder.
        folder: Where to; does not exist.
        as_it_is: Take nothing out, and take CLIP's embeddings along.

    Raises:
        RunFolderError: It is no finished run, a part is damaged, or two of its models would have one name.
    """
    settings, summary = read_settings(run), read_summary(run)
    if not results_in(summary):
        raise RunFolderError(f"{run}: not finished (no {SUMMARY}); the command that began it goes on with it")
    (folder / FOLDER).mkdir(parents=True)
    try:
        if as_it_is:
            for pattern in (*FILES, *WITH_DATA):
                for path in run.glob(pattern):
                    (folder / path.relative_to(run)).write_bytes(regular_bytes(path))
            return
        _share(run, folder, settings, summary)
    except DamagedPart as error:
        raise RunFolderError(
            f"{run}: a damaged part ({error}); the command that wrote it measures it again"
        ) from None
    except OSError as error:
        raise RunFolderError(f"{run}: cannot be copied ({error.strerror or first_line(error)})") from error


def _share(run: Path, folder: Path, settings: dict[str, Any], summary: dict[str, Any]) -> None:
    called = {name: without_folders(name) for name in settings["models"]}
    if twice := [name for name in called.values() if list(called.values()).count(name) > 1]:
        raise RunFolderError(
            f"{run}: without their folders two of its models are called {twice[0]!r}; measure them into run folders "
            "of their own"
        )
    tokens: dict[str, str] = {}
    stated = _cleaned(settings, tokens)
    before, after = Rules(run, settings), Rules(run, stated)
    for i, part in enumerate(part_files(run)):
        table = _with_names(read_part(part, before), after, called, tokens)
        write_table(folder / FOLDER / f"{i:06d}.parquet", table, of=after.of)
    for name, content in ((STATED, stated), (SUMMARY, _cleaned(summary, tokens))):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")


def _with_names(table: pa.Table, rules: Rules, called: Mapping[str, str], tokens: dict[str, str]) -> pa.Table:
    models = [called[name] for name in table["model"].to_pylist()]
    columns: dict[str, list[Any]] = {"model": models, "fingerprint": [rules.fingerprints[name][0] for name in models]}
    for name in _TOKENS:
        if name in table.column_names:
            columns[name] = [_numbered(token, tokens) for token in table[name].to_pylist()]
    if "row_tokens" in table.column_names:
        # By place alone: numbers that are the same for the same token would be a cipher of the text.
        given = table["row_tokens"].to_pylist()
        columns["row_tokens"] = [of and [_placed(token, i) for i, token in enumerate(of)] for of in given]
    if "unplaced" in table.column_names:
        columns["unplaced"] = [without_folders(why) for why in table["unplaced"].to_pylist()]
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))
    return table


def _numbered(token: str, tokens: dict[str, str]) -> str:
    """`text 'dog'` as `text token 3`: the same for the same token, so that counts of them stay."""
    role, _, quoted = token.partition(" ")
    if quoted[:1] not in ("'", '"'):  # a row of the image, or none
        return token
    return tokens.setdefault(token, f"{role} token {len(tokens) + 1}")


def _placed(token: str, place: int) -> str:
    return f"{token.partition(' ')[0]} token {place}" if token else ""


def _cleaned(content: Any, tokens: dict[str, str]) -> Any:
    if isinstance(content, dict):
        found = {without_folders(key): _cleaned(value, tokens) for key, value in content.items()}
        found |= {key: _numbered(content[key], tokens) for key in content if _is_token(key, content[key])}
        if {"id", "reason"} <= found.keys():
            found["reason"] = NOT_SHARED
        return found
    if isinstance(content, list):
        return [_cleaned(value, tokens) for value in content]
    return without_folders(content) if isinstance(content, str) else content


def _is_token(key: str, value: Any) -> bool:
    return key in _TOKENS and isinstance(value, str)
