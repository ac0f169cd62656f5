"""Options that commands take together, and what they are turned into."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import typer

from mmerank.commands import measured as measured
from mmerank.commands import options as options
from mmerank.commands.checking import checked_so_far
from mmerank.commands.config import is_stated, write_config
from mmerank.convention import AnyConvention, Convention, EncoderConvention
from mmerank.errors import UsageError
from mmerank.runs.answers import STATED as SCORED
from mmerank.runs.settings import STATED

if TYPE_CHECKING:
    from mmerank.inputs.example import DataSet


_Convention = TypeVar("_Convention", bound=AnyConvention)
# Ways to run a model that encoders have, too.
_OF_ENCODERS = {"device", "dtype", "batch_tokens", "max_megapixels"}


@dataclass(frozen=True)
class Keeping:
    """What becomes of the results, and of errors."""

    out: options.Out = None
    json_file: options.Json = None
    strict: options.Strict = False
    debug: options.Debug = False


@dataclass(frozen=True)
class DataColumns:
    """Which column of the data is which."""

    image: options.ImageColumn = None
    response: options.ResponseColumn = None
    instruction: options.InstructionColumn = None
    id: options.IdColumn = None

    def check(self, data: str) -> None:
        """Refuse a DATA argument that is none, without a look at the data."""
        from mmerank.inputs.columns import Columns
        from mmerank.inputs.load import check_form

        check_form(data, Columns(self.image, self.response, self.instruction, self.id))

    def load(self, data: str) -> DataSet:
        """The examples that a DATA argument names; here ends a command that is only asked whether it would run."""
        from mmerank.inputs.load import load_data

        checked_so_far()
        return load_data(data, image=self.image, response=self.response, instruction=self.instruction, id=self.id)


@dataclass(frozen=True)
class Loading:
    """How a model is loaded and run."""

    device: options.Device = None
    dtype: options.Dtype = None
    load_in: options.LoadIn = None
    wrap: options.Wrap = None
    batch_tokens: options.BatchTokens = None

    @property
    def how(self) -> dict[str, str | None]:
        """Keywords of `mmerank.load` and `load_text`."""
        return {"dtype": self.dtype, "device": self.device, "load_in": self.load_in, "wrap": self.wrap}


@dataclass(frozen=True)
class PairLoading(Loading):
    """The same for image-text pairs."""

    separate_passes: options.SeparatePasses = False
    max_megapixels: options.MaxMegapixels = 100

    @property
    def max_pixels(self) -> int:
        """Pictures with more are skipped."""
        return int(self.max_megapixels * 1e6)


@dataclass(frozen=True)
class Beside:
    """What is measured beside eRank1 to eRank5."""

    match_tokens: measured.MatchTokens = None
    match_repeats: measured.MatchRepeats = 8
    match_seed: measured.MatchSeed = 0
    match_others: measured.MatchOthers = 4
    token_curve: measured.TokenCurve = ""
    rows: measured.Rows = False
    companions: measured.Companions = False
    metrics: measured.Metrics = ""


@dataclass(frozen=True)
class ExampleChoices:
    """The choices that the paper leaves open, as far as they concern a single example."""

    sequence: measured.Sequence = "bare"
    image_layout: measured.ImageLayout = "model"
    tokens: measured.Tokens = "all"
    vision_point: measured.VisionPoint = "default"
    centre: measured.Centre = "mean"
    precision: measured.Precision = "float64"


@dataclass(frozen=True)
class Choices(ExampleChoices):
    """All of them."""

    aggregate: measured.Aggregate = "entropy"


def convention(choices: ExampleChoices, beside: Beside | None = None) -> Convention:
    """The convention that options state.

    Args:
        choices: Those the paper leaves open.
        beside: What else is measured.

    Returns:
        The convention.
    """
    studied: dict[str, Any] = {}
    if beside is not None:
        studied = {**asdict(beside), "token_curve": measured.row_counts(beside.token_curve)}
        studied["metrics"] = metric_names(beside.metrics, pictures=True)
    return stated(Convention, **asdict(choices), **studied)


def encoder_convention(choices: Choices, *others: Any) -> EncoderConvention:
    """The convention that options state for an encoder.

    Args:
        choices: Those the paper leaves open.
        others: Further groups of options.

    Returns:
        The convention.

    Raises:
        UsageError: An option is given that encoders do not have.
    """
    own = {field.name for field in fields(EncoderConvention)} | _OF_ENCODERS
    for group in (choices, *others):
        for field in fields(group):
            if field.name not in own and getattr(group, field.name) != field.default:
                named = field.name.replace("_", "-")
                raise UsageError(f"--{named}: an encoder alone has none; it is for models with an LLM")
    return stated(EncoderConvention, **{name: of for name, of in asdict(choices).items() if name in own})


def stated(kind: type[_Convention], **choices: Any) -> _Convention:
    """A convention of options.

    Args:
        kind: Of convention.
        choices: By the names of its fields.

    Returns:
        It.

    Raises:
        UsageError: A choice cannot be.
    """
    try:
        return kind(**choices)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None


def ranges(argument: str) -> list[float | None]:
    """What --init-range says.

    Args:
        argument: Numbers joined by commas.

    Returns:
        These; None alone, for what the configuration says, where there are none.

    Raises:
        UsageError: One is no number above 0, or there twice.
    """
    found: list[float | None] = []
    for word in listed(argument):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise UsageError(f"--init-range: expected standard deviations above 0, as 0.02,0.04, got {word!r}")
        if value in found:
            raise UsageError(f"--init-range: {word} stands there twice")
        found.append(value)
    return found or [None]


def metric_names(words: str, *, pictures: bool) -> tuple[str, ...]:
    """The metrics that `--metrics` names.

    Args:
        words: Joined by commas; empty for none.
        pictures: See `mmerank.formulas.asked.asked_for`.

    Returns:
        Their names.
    """
    if not words:
        return ()
    from mmerank.formulas.asked import asked_for

    return asked_for(listed(words), pictures=pictures)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command for typer, which knows no groups: their fields stand where the group stood.

    Every command also has `--config`, and leaves in its run folder the file that `--config` takes.

    Args:
        command: Some of its parameters are groups, which is to say dataclasses of options.

    Returns:
        The same with the groups' fields as parameters.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name]))
            continue
        within = get_type_hints(groups[name], include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, parameter.KEYWORD_ONLY, default=field.default, annotation=within[field.name]
            )
            for field in fields(groups[name])
        ]

    parameters += [
        inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=options.Config),
        inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
    ]

    @wraps(command)
    def with_options(**values: Any) -> None:
        ctx: typer.Context = values.pop("ctx")
        del values["config"]  # read already
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        kept = next((of.out for of in values.values() if isinstance(of, Keeping)), None)
        through = False
        try:
            command(**values)
            through = True
        except typer.Exit:  # of a study with cells that failed
            through = True
            raise
        finally:
            if kept is not None and any((kept / name).is_file() for name in (STATED, SCORED)):
                write_config(ctx, kept)
            made = values.get("out")  # of what is no run: reports, studies, the demo, the paper
            dry = values.get("dry_run")
            if through and not dry and is_stated(ctx, "out") and isinstance(made, Path) and made.is_dir():
                with suppress(OSError):  # what was asked for is there
                    write_config(ctx, made)

    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def listed(words: str) -> list[str]:
    """Words joined by commas, each once.

    Args:
        words: As an option has them.

    Returns:
        Without white space around them.
    """
    return list(dict.fromkeys(filter(None, (word.strip() for word in words.split(",")))))
