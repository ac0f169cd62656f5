"""The page, of gradio's parts: no input of it is a file or a path, and nothing on it is fetched from elsewhere."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from mmerank.errors import DataError, MmerankError
from mmerank.inputs.demo import PAIRS
from mmerank.inputs.demo.scenes import scene
from mmerank.inputs.example import Example
from mmerank.inputs.pictures import open_picture
from mmerank.jobs.explorer.browsed import Browsed
from mmerank.jobs.explorer.measured import MAX_BYTES, MAX_PIXELS, Changes, Explored, Explorer, example_of
from mmerank.report.explored import (
    Side,
    explored_css,
    explored_html,
    heading_html,
    message_html,
    picture_html,
)
from mmerank.report.maps import maps_of

if TYPE_CHECKING:
    import gradio as gr

TITLE = "mmerank explore"
_ABOUT = "Change the picture and see what becomes of the effective rank (eRank) on its way through the model."
_OWN = "your own"
_EXAMPLES = [f"demo {i + 1}" for i in range(PAIRS)]
_UPLOAD = (
    '<label class="choose">Choose a picture<input type="file" accept="image/*" aria-label="Choose a picture"></label>'
)
# Least, most, step, and what is said of each slider; a slider at its default changes nothing.
_SLIDERS: dict[str, tuple[float, float, float, str]] = {
    "rotate": (-180, 180, 5, "Rotation (degrees)"),
    "crop": (0.2, 1, 0.05, "Crop (share kept)"),
    "blur": (0, 10, 0.5, "Blur (pixels)"),
    "noise": (0, 100, 5, "Noise (sigma, of 255)"),
}
# gradio names the filter of a table by its title alone, which not every screen reader tells.
_NAMED = "() => document.querySelector('#examples .search-input').setAttribute('aria-label', 'Filter the examples')"
_NOTHING = [float(getattr(Changes(), name)) for name in _SLIDERS]


@dataclass(frozen=True)
class Chosen:
    """What somebody looks at: an example, and what each model makes of it unchanged."""

    example: Example
    before: tuple[Explored, ...]


class Exploring:
    """What the page does, without the page: every method answers with what is to be shown.

    Args:
        explorers: The models, at least one.
    """

    def __init__(self, explorers: Sequence[Explorer]):
        self._explorers = explorers

    def measured(self, example: Example, changes: Changes) -> tuple[Explored, ...]:
        """By each model, at the same time."""
        with ThreadPoolExecutor(len(self._explorers)) as pool:
            return tuple(pool.map(lambda explorer: explorer.explored(example, changes), self._explorers))

    def chosen(self, example: Example) -> Chosen:
        """Begin with an example."""
        return Chosen(example, self.measured(example, Changes()))

    def shown(self, chosen: Chosen, changes: Changes) -> tuple[str, str]:
        """The picture, and the numbers beside those of the picture unchanged."""
        now = self.measured(chosen.example, changes) if changes.written else chosen.before
        before = [of.result if changes.written else None for of in chosen.before]
        sides = [Side(of.result.model, of.result, was) for of, was in zip(now, before, strict=True)]
        example = replace(chosen.example, image=now[0].picture)
        mapped = maps_of([(of.result.model, of.result.patches(example.id)) for of in now], example, example.id)
        told = f"--transform {changes.written}" if changes.written else "unchanged"
        size = "{} x {} px".format(*now[0].picture.size)
        return picture_html(now[0].picture, f"{size}, {told}"), explored_html(sides, mapped, "tried")


def decoded(upload: object) -> bytes:
    """The content of a picture's file that the browser read.

    Args:
        upload: A data URL.

    Returns:
        Bytes.

    Raises:
        DataError: It is something else, or too large.
    """
    head, comma, content = upload.partition(",") if isinstance(upload, str) else ("", "", "")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise DataError("the upload is no picture's file")
    if len(content) > MAX_BYTES * 4 / 3 + 4:
        raise DataError(f"the picture's file is over the limit of {MAX_BYTES / 1e6:g} MB")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        raise DataError("the upload is no picture's file") from None


def blocks(explorers: Sequence[Explorer], browsed: Browsed | None = None) -> gr.Blocks:
    """The page.

    Args:
        explorers: Models to try pictures with.
        browsed: A run to look through.

    Returns:
        Of gradio, not served yet.
    """
    import gradio as gr

    with gr.Blocks(analytics_enabled=False, title=TITLE, fill_width=True) as page:
        gr.HTML(heading_html(_ABOUT if explorers or not browsed else browsed.head), apply_default_css=False)
        if explorers and browsed:
            with gr.Tab("A picture"):
                _try(page, Exploring(explorers))
            with gr.Tab("The run") as run:
                gr.HTML(message_html(browsed.head), apply_default_css=False)
                _browse(page, browsed)
            run.select(None, js=_NAMED, api_visibility="private")
        elif explorers:
            _try(page, Exploring(explorers))
        elif browsed:
            _browse(page, browsed)
            page.load(None, js=_NAMED, api_visibility="private")
    page.state_session_capacity = 32  # sessions whose pictures are kept
    return page


def _try(page: gr.Blocks, exploring: Exploring) -> None:
    import gradio as gr

    state = gr.State()
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320, elem_id="controls"):
            picture = gr.HTML(apply_default_css=False, elem_id="picture")
            with gr.Row(equal_height=True):
                example = gr.Dropdown([_OWN, *_EXAMPLES], value=_EXAMPLES[0], label="Example", min_width=160)
                script = files("mmerank.report").joinpath("page/explored.js").read_text()
                upload = gr.HTML(
                    html_template=_UPLOAD,
                    js_on_load=script.replace("MAX_BYTES", str(MAX_BYTES)),
                    apply_default_css=False,
                    elem_id="upload",
                    min_width=140,
                )
            text = gr.Textbox(
                label="Text that is read with it", lines=3, max_lines=3, max_length=2000, elem_id="text"
            )
            sliders = [
                gr.Slider(low, high, getattr(Changes(), name), step=step, label=label, elem_id=name)
                for name, (low, high, step, label) in _SLIDERS.items()
            ]
            reset = gr.Button("Undo all changes", size="sm")
        with gr.Column(scale=3, min_width=320):
            numbers = gr.HTML(apply_default_css=False, elem_id="numbers")

    def begin(make: Callable[[], Example]) -> list[Any]:
        """State, text, sliders back at nothing, picture, numbers; of a fault its reason in their place."""
        try:
            chosen = exploring.chosen(make())
            return [chosen, chosen.example.text, *_NOTHING, *exploring.shown(chosen, Changes())]
        except MmerankError as error:
            return [gr.skip()] * (2 + len(sliders)) + [gr.skip(), message_html(str(error))]

    def demo(name: str) -> list[Any]:
        if name not in _EXAMPLES:
            return [gr.skip()] * (4 + len(sliders))
        return begin(lambda: scene("held-out", _EXAMPLES.index(name)).example())

    def own(content: object, written: str) -> list[Any]:
        def make() -> Example:
            given = decoded(content)
            open_picture(example_of(given, written).pictures[0], max_pixels=MAX_PIXELS)  # refused before it is kept
            return example_of(given, written)

        return [_OWN, *begin(make)]

    def change(chosen: Chosen | None, *strengths: float) -> list[Any]:
        if chosen is None:
            return [gr.skip(), gr.skip()]
        try:
            return [*exploring.shown(chosen, Changes(**dict(zip(_SLIDERS, strengths, strict=True))))]
        except MmerankError as error:
            return [gr.skip(), message_html(str(error))]

    def reword(chosen: Chosen | None, written: str, *strengths: float) -> list[Any]:
        if chosen is None or written == chosen.example.text:
            return [gr.skip()] * 3
        try:
            fresh = example_of(b"", written)
            chosen = exploring.chosen(replace(chosen.example, instruction="", response=fresh.response))
        except MmerankError as error:
            return [gr.skip(), gr.skip(), message_html(str(error))]
        return [chosen, *change(chosen, *strengths)]

    shown = [picture, numbers]
    all_of_it = [state, text, *sliders, *shown]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    page.load(demo, example, all_of_it, **quiet)
    example.input(demo, example, all_of_it, **quiet)
    upload.upload(own, [upload, text], [example, *all_of_it], **quiet)
    moved = [slider.input for slider in sliders]
    gr.on(moved, change, [state, *sliders], shown, trigger_mode="always_last", **quiet)
    gr.on([text.blur, text.submit], reword, [state, text, *sliders], [state, *shown], **quiet)
    reset.click(lambda chosen: [*_NOTHING, *change(chosen, *_NOTHING)], state, [*sliders, *shown], **quiet)


def _browse(page: gr.Blocks, browsed: Browsed) -> None:
    import gradio as gr

    table = gr.Dataframe(
        browsed.table,
        interactive=False,
        show_search="filter",
        max_height=420,
        label="Examples: click a heading to sort, a row to look at it",
        elem_id="examples",
        buttons=[],
    )
    found = gr.HTML(apply_default_css=False, elem_id="found")

    def look(event: Any) -> str:
        try:
            return browsed.looked_at(event.row_value)
        except MmerankError as error:
            return message_html(str(error))

    look.__annotations__["event"] = gr.SelectData  # by which gradio knows what to give
    table.select(look, None, found, show_progress="hidden", api_visibility="private")


def theme() -> gr.themes.Base:
    """Fonts that are there already; none is fetched. Subdued texts are dark enough to be read."""
    import gradio as gr

    base = gr.themes.Base(
        primary_hue="blue",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"],
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
    )
    return base.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
    )


def css() -> str:
    """Of the whole page."""
    return explored_css()
