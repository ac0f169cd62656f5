"""One picture and one text, changed and measured: the numbers behind the page, the same that `align` gives."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, fields, replace

from PIL import Image

from mmerank.computing import Computing
from mmerank.convention import Convention
from mmerank.engine.measurement import Measured
from mmerank.engine.plans.pairs import Pairs
from mmerank.engine.probe import Probe
from mmerank.errors import DataError
from mmerank.inputs.example import Example
from mmerank.inputs.pictures import Encoded, open_picture
from mmerank.inputs.transforms.transform import parse
from mmerank.jobs.align import Alignment
from mmerank.models.adapter import Adapter, check_adapter

# What one upload may be; more pixels than a model looks at make a slider slow.
MAX_PIXELS = 16_000_000
MAX_BYTES = 10_000_000
LONGEST_TEXT = 2000  # characters
ID = "explored"
# Beside the thread that a page is served by, torch's own threads get into each other's way at many small matrices.
_WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Changes:
    """What is done to a picture, in this order, by the transforms of `mmerank perturb`.

    Attributes:
        rotate: Degrees clockwise; 0 changes nothing.
        crop: Share of each side that is kept; 1 changes nothing.
        blur: Standard deviation in pixels of the picture; 0 changes nothing.
        noise: Standard deviation in 8-bit steps; 0 changes nothing.
    """

    rotate: float = 0
    crop: float = 1
    blur: float = 0
    noise: float = 0

    @property
    def written(self) -> str:
        """As `--transform` takes it, without what changes nothing; empty where nothing is changed.

        Example:
            >>> Changes(rotate=90, blur=2).written
            'rotate:90+blur:2'
        """
        given = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        return "+".join(f"{name}:{strength:g}" for name, strength, nothing in given if strength != nothing)

    def applied(self, example: Example) -> Example:
        """The example with its picture changed.

        Args:
            example: With one picture.

        Returns:
            Its picture is opened, upright, RGB.

        Raises:
            DataError: There is no picture, or it cannot be read, or would become too large.
            UsageError: A strength is out of range.
        """
        if len(example.pictures) != 1:
            raise DataError(f"expected an example with one picture, got {len(example.pictures)}")
        picture = open_picture(example.pictures[0], max_pixels=MAX_PIXELS)
        if self.written:
            (transform,) = parse(self.written)
            picture = transform.picture(picture, example=example.id)
        return Example(example.id, picture, example.instruction, example.response)


@dataclass(frozen=True)
class Explored:
    """What was found of one model, picture and text.

    Attributes:
        picture: As it was measured.
        changes: What was done to it before.
        result: Of this one example, with its layers and with what each row adds (`result.patches(ID)`).
    """

    picture: Image.Image
    changes: Changes
    result: Alignment


class Explorer:
    """One model, ready to measure one example after another; calls of several threads wait for each other.

    Args:
        adapter: A loaded model, from `mmerank.load`.
        convention: The choices that the paper leaves open. What each row adds is measured in any case.

    Raises:
        TypeError: It is no multimodal model.
        UsageError: It has no such vision point, or fewer rows for a picture than are to be matched.
    """

    def __init__(self, adapter: Adapter, *, convention: Convention | None = None):
        check_adapter(adapter)
        self.name = adapter.name
        asked = replace(convention or Convention(), patches=True)
        self._plan = Pairs(adapter, asked, layers="all", max_pixels=MAX_PIXELS)
        self._probe = Probe(self._plan, Computing(workers=_WORKERS))
        self._lock = threading.Lock()

    def explored(self, example: Example, changes: Changes | None = None) -> Explored:
        """The numbers of an example after its picture is changed, as `align` gives them for the changed picture.

        Args:
            example: With one picture and a text.
            changes: Default: none.

        Returns:
            Numbers, spectra, layers and maps.

        Raises:
            DataError: The picture cannot be read, or the model cannot measure the example; the message says why.
            UsageError: A strength is out of range.
        """
        changes = changes or Changes()
        changed = changes.applied(example)
        with self._lock:
            (found,) = self._probe.measure([changed])
        if not isinstance(found, Measured):
            raise DataError(f"{self.name}: {found.reason}")
        result = Alignment.of(
            found.records,
            [],
            model=self.name,
            data=ID,
            convention=self._plan.convention,
            source=self._probe.source,
            undefined=self._plan.adapter.undefined,
        )
        assert isinstance(changed.image, Image.Image)
        return Explored(changed.image, changes, result)


def example_of(content: bytes | Image.Image, text: str) -> Example:
    """An example of a picture and a text of one's own.

    Args:
        content: Of a picture's file, as it was uploaded, or an opened picture.
        text: Read behind the picture.

    Returns:
        It; its picture is opened when it is measured.

    Raises:
        DataError: The file or the text is too large, or the text is empty.
    """
    if isinstance(content, bytes) and len(content) > MAX_BYTES:
        raise DataError(f"the picture's file has {len(content) / 1e6:.1f} MB, over the limit of {MAX_BYTES / 1e6:g}")
    if len(text) > LONGEST_TEXT:
        raise DataError(f"the text has {len(text)} characters, over the limit of {LONGEST_TEXT}; shorten it")
    if not text.strip():
        raise DataError("the text is empty; write what is in the picture")
    image = Encoded("the picture", lambda: content) if isinstance(content, bytes) else content
    return Example(ID, image, "", text)
