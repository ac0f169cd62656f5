"""Transforms of a person's own, beside the built-in ones."""

from __future__ import annotations

import functools
import json
import linecache
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import mmerank
from mmerank import Example, perturb
from mmerank.analysis.finished import read_runs
from mmerank.digests import digest_of
from mmerank.errors import DataError, RunFolderError, TransformFailed, UsageError
from mmerank.inputs.transforms import own as own_module
from mmerank.inputs.transforms.transform import parse
from mmerank.inputs.variants import asked_for
from tests.test_alignment import ADAPTER
from tests.test_hub import picture as png


@pytest.fixture(autouse=True)
def none_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_module, "_own", {})


def upside_down(picture: Image.Image) -> Image.Image:
    picture.paste((1, 2, 3), (0, 0, 1, 1))  # on its own copy
    return ImageOps.flip(ImageOps.flip(picture))


def fog(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    grey = rng.integers(0, 256, (picture.height, picture.width, 3), dtype=np.uint8)
    return Image.blend(picture, Image.fromarray(grey), strength / 10)


def turned(picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.ROTATE_270)


def shout(text: str) -> str:
    return text.upper()


def examples() -> list[Example]:
    colours = ["red", "blue", "lime", "white"]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)
    return [
        Example(i, Image.fromarray(p), "What is it?", f"A {c} wall and a cat.")
        for i, (p, c) in enumerate(zip(pixels, colours, strict=True))
    ]


def test_beside_the_built_in_ones(tmp_path: Path) -> None:
    steps: list[Any] = ["rotate:90", turned, mmerank.transform("fog", fog, strengths=[1, 5]), shout, "fog:5+grey"]
    result = perturb(ADAPTER, examples(), steps, out=tmp_path / "run", seed=3)
    names = ["rotate:90", "turned", "fog:1", "fog:5", "shout", "fog:5+grey"]
    assert [changed.transform for changed in result.transforms] == names == list(result.tests)
    by_name = {changed.transform: changed.delta for changed in result.transforms}
    # The same turn by the table's rotate, which is another implementation of the call.
    assert by_name["turned"] == pytest.approx(by_name["rotate:90"])
    assert by_name["fog:1"]["erank1"] != by_name["fog:5"]["erank1"]
    assert by_name["shout"]["erank1"] == 0 != by_name["shout"]["erank4"] and by_name["turned"]["erank4"] == 0
    # One q over all of them: what a picture's transform cannot move has none.
    assert "erank4" in result.tests["turned"].fixed and "erank1" in result.tests["shout"].fixed
    assert all(result.tests[name]["erank5"].q is not None for name in names)
    stated = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stated["transforms"] == names and {*stated["own_transforms"]} == {"turned", "fog", "shout"}
    # A report has the names alone, and the same numbers.
    own_module._own.clear()
    (run,) = read_runs([tmp_path / "run"])
    there = run.tests["alignment"][ADAPTER.name]
    assert {n: (t.fixed, t["erank5"].q) for n, t in there.items()} == {
        n: (t.fixed, t["erank5"].q) for n, t in result.tests.items()
    }


def test_a_run_is_not_continued_with_another_function_of_the_name(tmp_path: Path) -> None:
    perturb(ADAPTER, examples(), [turned], out=tmp_path / "run")
    first = perturb(ADAPTER, examples(), [turned], out=tmp_path / "run")

    def another(picture: Image.Image) -> Image.Image:
        return ImageOps.mirror(picture)

    with pytest.raises(RunFolderError, match=r"own_transforms.turned: .* there, .* here"):
        perturb(ADAPTER, examples(), [mmerank.transform("turned", another)], out=tmp_path / "run")
    assert first.base.n == 4


def test_randomness_belongs_to_seed_name_and_example() -> None:
    mmerank.transform("fog", fog, strengths=[2, 4])
    two, four = parse("fog")
    assert [two.name, four.name] == ["fog:2", "fog:4"]
    black = Image.new("RGB", (8, 8))

    def of(transform: Any, example: str = "a", seed: int = 0) -> Any:
        return np.asarray(transform.picture(black, example=example, seed=seed)).astype(int)

    assert np.array_equal(of(two), of(two)) and not np.array_equal(of(two), of(two, "b"))
    assert not np.array_equal(of(two), of(two, seed=1))
    assert np.abs(of(four) - 2 * of(two)).max() <= 2, "a sweep scales one pattern, up to rounding"


def test_the_original_is_left_alone() -> None:
    before = Image.new("RGB", (5, 4), "red")
    (own,) = asked_for([upside_down], [], 1)[0]
    assert own.picture(before, example="a").getpixel((0, 0)) == (1, 2, 3)
    assert before.getpixel((0, 0)) == (255, 0, 0)


def test_hidden_randomness_is_refused() -> None:
    def noisy(picture: Image.Image) -> Image.Image:
        return Image.new("RGB", picture.size, tuple(np.random.randint(0, 256, 3)))

    (own,) = asked_for([noisy], [], 1)[0]
    with pytest.raises(
        UsageError, match="gives another picture when it is called again; let its function take `rng`"
    ):
        own.picture(Image.new("RGB", (5, 4)), example="a")


def test_a_function_that_fails() -> None:
    def failing(picture: Image.Image) -> Image.Image:
        if picture.getpixel((0, 0)) == (255, 0, 0):
            raise KeyError("no red")
        return picture

    red = Example("r", {"bytes": png("red", (40, 50)), "path": None}, "What?", "A wall of red paint.")
    result = perturb(ADAPTER, [red, *examples()], [failing])
    assert result.base.n == 4
    assert result.base.skipped[0].reason == "failing: it failed (KeyError: 'no red')"
    many = [Example(i, red.image, "What?", f"Wall {i} of red paint.") for i in range(9)]
    with pytest.raises(DataError, match="8 examples in a row could not be transformed, the last, '7': failing: it"):
        perturb(ADAPTER, many, [failing])

    def silent(text: str) -> str:
        return "" if "red" in text else text

    assert perturb(ADAPTER, [red, *examples()], [silent]).base.skipped[0].reason == "silent: it leaves no text"
    assert issubclass(TransformFailed, DataError)


@pytest.mark.parametrize(
    ("name", "function", "strengths", "message"),
    [
        ("a+b", turned, (), "no name; give it one of letters"),
        ("", turned, (), "no name"),
        ("<lambda>", turned, (), "no name"),
        ("blur", turned, (), "mmerank has one of that name"),
        ("mismatch", turned, (), "mmerank has one of that name"),
        ("x", turned, [1], "has strengths, and its function takes no `strength`"),
        ("x", fog, "12", "strengths: expected a list"),
        ("x", fog, [float("nan")], "expected a finite number or a word"),
        ("x", fog, ["a,b"], "expected a finite number or a word"),
        ("x", lambda picture, size: picture, (), "its function takes size; expected a picture, or `text`"),
        ("x", lambda: None, (), "takes no picture"),
    ],
)
def test_what_cannot_be_a_transform(name: str, function: Any, strengths: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mmerank.transform(name, function, strengths=strengths)


def test_lists_of_transforms() -> None:
    with pytest.raises(
        UsageError, match=r"'fog': say which strengths, mmerank.transform\(NAME, function, strengths="
    ):
        asked_for([fog], [], 1)
    with pytest.raises(UsageError, match="'same': two functions have this name"):
        asked_for([mmerank.transform("same", turned), mmerank.transform("same", upside_down)], [], 1)
    with pytest.raises(TypeError, match="expected names, as 'rotate:90', or functions, got 3"):
        asked_for([3], [], 1)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="expected a list of names"):
        asked_for(turned, [], 1)  # type: ignore[arg-type]
    mmerank.transform("fog", fog, strengths=[1, 5])
    with pytest.raises(UsageError, match=r"'fog:2': expected one of 1, 5 \(fog:STRENGTH\)"):
        parse("fog:2")
    with pytest.raises(UsageError, match="known: identity, .*fog:STRENGTH"):
        parse("frog:2")

    def array(picture: Image.Image) -> Any:
        return np.asarray(picture)

    (own,) = asked_for([array], [], 1)[0]
    with pytest.raises(UsageError, match="expected a picture, PIL.Image.Image, from it, got ndarray"):
        own.picture(Image.new("RGB", (5, 4)), example="a")


def test_those_of_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints([EntryPoint("mist", f"{__name__}:fog", "mmerank.transforms")])
    monkeypatch.setattr(own_module, "entry_points", lambda **of: points.select(**of))
    (mist,) = parse("mist:0.5")
    assert mist.name == "mist:0.5" and mist.steps[0].known.random
    with pytest.raises(UsageError, match="the strength is missing; write mist:STRENGTH"):
        parse("mist")


def test_digests_tell_functions_apart() -> None:
    def made(by: int) -> Any:
        def function(picture: Image.Image) -> Image.Image:
            return picture.resize((by, by))

        return function

    assert digest_of(made(1)) == digest_of(made(1)) != digest_of(made(2))
    one, two = (functools.partial(fog, strength=by) for by in (1, 2))
    assert digest_of(one) == digest_of(functools.partial(fog, strength=1)) != digest_of(two)
    assert digest_of(fog) != digest_of(turned)

    class Blur:
        def __init__(self, radius: int):
            self.radius = radius

        def __call__(self, picture: Image.Image) -> Image.Image:
            return picture

    assert digest_of(Blur(1)) == digest_of(Blur(1)) != digest_of(Blur(2))
    typed, other = (eval(f"lambda picture: picture.rotate({by})") for by in (1, 2))
    assert digest_of(typed) != digest_of(other)


def test_a_partial_wants_a_name() -> None:
    """Two of one function would be told apart by none."""
    with pytest.raises(UsageError, match=r"no name; .* mmerank\.transform\(NAME, function\)"):
        asked_for([functools.partial(fog, strength=1)], [], 1)


def test_a_file_that_has_changed_since_is_no_source(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def fade(picture):\n    return picture\n")
    held: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), held)
    before = digest_of(held["fade"])
    file.write_text("(an open bracket,\n    and no end\n")
    linecache.checkcache()
    assert digest_of(held["fade"]) and before
