"""CLIP's embeddings of pictures and texts, through open_clip: what CLIPScore is computed from."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mmerank.analysis.metrics.clip_score import ClipEmbeddings
from mmerank.durable import whole
from mmerank.engine.progress import Meter
from mmerank.errors import DataError, RunFolderError
from mmerank.files import NotAFileError, regular_bytes
from mmerank.inputs.example import Example, Skipped, unique
from mmerank.inputs.pictures import MAX_PIXELS, open_picture
from mmerank.models.encoders.with_open_clip import load_open_clip
from mmerank.runs.columns import DamagedPart
from mmerank.runs.parts import read_table

FILE = "clip.parquet"
# What an interruption that nothing can catch may cost; the whole file is written anew.
WRITE_EVERY_S = 60.0
# Hessel et al., Sec. 3: what stands before a caption.
PROMPT = "A photo depicts "
_SCHEMA = pa.schema(
    [
        ("example", pa.string()),
        ("image", pa.list_(pa.float32())),
        ("text", pa.list_(pa.float32())),
        ("text_cut", pa.bool_()),
    ]
)
# How far from 1 the length of an embedding may be: some models compute in half precision.
_UNIT = 0.02


def check_one_picture(examples: Iterable[Example | Skipped]) -> None:
    """Refuse examples with several pictures, before anything is measured.

    Args:
        examples: Any.

    Raises:
        DataError: One has several; it is named.
    """
    for example in examples:
        if isinstance(example, Example) and len(example.pictures) > 1:
            raise DataError(
                f"example {example.id!r} has {len(example.pictures)} pictures, and CLIP's score is of one beside its "
                "text; leave out --clip, or these examples"
            )


class Clip:
    """A dual encoder of open_clip.

    Args:
        name: `MODEL:PRETRAINED`, PRETRAINED a tag of open_clip or a checkpoint file; or `hf-hub:OWNER/NAME`, or
            `local-dir:PATH`.
        device: Where to run it.

    Raises:
        UsageError: The name says no weights, or not which model.
        ModelError: It cannot be loaded, or weights are missing or not used.
    """

    def __init__(self, name: str, device: torch.device):
        self.name = name
        self._model, self._preprocess, self._tokenizer = load_open_clip(name, f"--clip {name}", device)
        self._device = device

    @torch.inference_mode()
    def embed(self, example: Example, *, max_pixels: int = MAX_PIXELS) -> tuple[Any, Any, bool]:
        """Unit embeddings of picture and response, and whether the text was cut.

        The picture goes through the model's own preprocessing; the text is `A photo depicts ` and the response.

        Args:
            example: With a picture.
            max_pixels: Most pixels of a picture.

        Returns:
            (e,) and (e,), float32 numpy arrays, and whether the text is longer than the model reads.

        Raises:
            DataError: The picture cannot be read, or there are several.
        """
        check_one_picture([example])
        (source,) = example.pictures
        picture = self._preprocess(open_picture(source, max_pixels=max_pixels))[None].to(self._device)
        text = PROMPT + example.response
        ids = self._tokenizer([text])
        whole = self._tokenizer([text], context_length=len(text.encode()) + ids.shape[1])
        cut = not torch.equal(ids, whole[:, : ids.shape[1]])
        image = self._model.encode_image(picture, normalize=True)[0]
        words = self._model.encode_text(ids.to(self._device), normalize=True)[0]
        return image.float().cpu().numpy(), words.float().cpu().numpy(), cut


def clip_embeddings(
    clip: Clip,
    examples: Iterable[Example | Skipped],
    ids: Iterable[str],
    *,
    folder: Path | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: bool = False,
) -> ClipEmbeddings:
    """Embeddings of those examples that have been measured; `clip.parquet` in the run folder keeps them.

    Args:
        clip: The model.
        examples: The data.
        ids: Which of them.
        folder: The run folder; what it has is not computed again.
        max_pixels: Most pixels of a picture.
        progress: Show progress on stderr.

    Returns:
        The embeddings, in the order of ids.

    Raises:
        DataError: A picture is not there any more.
        RunFolderError: The folder has embeddings by another model, or cannot be written.
    """
    wanted = set(ids)
    found = _read(folder / FILE, clip.name) if folder is not None else {}
    if missing := wanted - found.keys():
        written = time.monotonic()
        try:
            with Meter(f"clip {clip.name}", len(missing), shown=progress) as meter:
                for example in unique(examples):
                    if example.id in missing and isinstance(example, Example):
                        found[example.id] = clip.embed(example, max_pixels=max_pixels)
                        meter.advance(0)
                        if folder is not None and time.monotonic() - written > WRITE_EVERY_S:
                            _write(folder / FILE, clip.name, found)
                            written = time.monotonic()
        finally:  # also what an interruption, or a picture that is gone, leaves
            if folder is not None and found:
                _write(folder / FILE, clip.name, found)
    return _of_ids(clip.name, wanted, found)


def clip_in(folder: Path, ids: Iterable[str]) -> ClipEmbeddings | None:
    """The embeddings that a finished run keeps.

    Args:
        folder: The run folder.
        ids: The examples that its result stands on.

    Returns:
        As from `clip_embeddings`; None where the run was not asked for them.

    Raises:
        RunFolderError: The file is damaged, or lacks an example.
    """
    path, wanted = folder / FILE, set(ids)
    if not path.exists():
        return None
    try:
        name, found = _rows(path)
        return _of_ids(name, wanted, found)
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(
            f"{path}: damaged or not whole ({error}); the command that wrote it computes it again"
        ) from None


def _of_ids(name: str, ids: set[str], found: Mapping[str, tuple[Any, Any, bool]]) -> ClipEmbeddings:
    order = sorted(ids)
    return ClipEmbeddings(
        model=name,
        ids=tuple(order),
        images=np.array([found[i][0] for i in order]),
        texts=np.array([found[i][1] for i in order]),
        texts_cut=sum(found[i][2] for i in order),
    )


def _rows(path: Path) -> tuple[str, dict[str, tuple[Any, Any, bool]]]:
    """By which model the embeddings of a file are, and they by example."""
    found = read_table(regular_bytes(path), sound=False)
    name = _checked(found)
    columns = (found["example"].to_pylist(), found["image"].to_pandas(), found["text"].to_pandas())
    rows = zip(*columns, found["text_cut"].to_pylist(), strict=True)
    return name, {example: (image, text, cut) for example, image, text, cut in rows}


def _read(path: Path, name: str) -> dict[str, tuple[Any, Any, bool]]:
    if not path.exists():
        return {}
    try:
        there, found = _rows(path)
    except (ValueError, NotAFileError) as error:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        said = error.strerror if isinstance(error, OSError) else error
        reason = f"{path} is damaged ({said}); it is set aside as {aside.name}"
        warnings.warn(f"{reason}, and what it held is computed again", stacklevel=3)
        return {}
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error.strerror or error})") from error
    if there != name:
        raise RunFolderError(f"{path}: embeddings by {there}, not by {name}; delete it, or name another run folder")
    return found


def _checked(table: pa.Table) -> str:
    """By which model the embeddings in a file are; DamagedPart if they are none."""
    metadata = table.schema.metadata or {}
    # Files of earlier versions have no digest.
    if not table.schema.remove_metadata().equals(_SCHEMA) or {*metadata, b"digest"} != {b"clip", b"digest"}:
        raise DamagedPart("other columns than those of embeddings")
    if any(column.null_count for column in table.columns):
        raise DamagedPart("a value is missing")
    if len(set(table["example"].to_pylist())) != table.num_rows:
        raise DamagedPart("an example stands there twice")
    for kind in ("image", "text"):
        column = table[kind].combine_chunks()
        widths = {*np.diff(column.offsets.to_numpy()).tolist()}
        if len(widths) > 1 or column.values.null_count:
            raise DamagedPart(f"embeddings of {kind}s of different lengths")
        vectors = column.values.to_numpy().reshape(table.num_rows, -1)
        if not (np.abs(np.linalg.norm(vectors, axis=1) - 1) < _UNIT).all():
            raise DamagedPart(f"an embedding of a{'n' * (kind == 'image')} {kind} that is no unit vector")
    name: str = metadata[b"clip"].decode()
    if metadata.get(b"digest", _digest(table, name)) != _digest(table, name):
        raise DamagedPart("its content is not what was written: its digest is of something else")
    return name


def _digest(table: pa.Table, name: str) -> bytes:
    """Of all that a file says."""
    digest = hashlib.sha256(json.dumps([name, table["example"].to_pylist(), table["text_cut"].to_pylist()]).encode())
    for kind in ("image", "text"):
        digest.update(table[kind].combine_chunks().values.to_numpy().tobytes())
    return digest.hexdigest()[:16].encode()


def _write(path: Path, name: str, found: dict[str, tuple[Any, Any, bool]]) -> None:
    images, texts, cut = zip(*found.values(), strict=True)
    table = pa.table(
        {"example": list(found), "image": images, "text": texts, "text_cut": [bool(c) for c in cut]}, schema=_SCHEMA
    )
    table = table.replace_schema_metadata({"clip": name, "digest": _digest(table, name)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    try:
        with whole(path) as unfinished:
            unfinished.write_bytes(sink.getvalue())
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be written ({error.strerror or error})") from error
