"""Questions with a picture and several answers, of which one is right: the schemas of benchmarks -> questions."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmerank.errors import DataError, UsageError, did_you_mean
from mmerank.inputs.columns import Columns
from mmerank.inputs.example import DataSet, Example, Skipped, kind, no_picture
from mmerank.inputs.rows import examples_of, usable
from mmerank.inputs.sources import as_list, picture_sources

# What is scored: the letter of an answer, the answers listed in the question; or its text, behind the question alone.
Answers = Literal["letters", "texts"]
LETTERS = string.ascii_uppercase


@dataclass(frozen=True, init=False)
class Question(Example):
    """A question about a picture; `response` is the right one of its choices.

    Attributes:
        choices: What may be answered, as it is scored; at least two, all different.
        right: Which of them is right, from 0.
        category: Of its benchmark, where it has some; else empty.
        picture: What its picture is known by, so that questions about one picture are told from others.
        options: The texts that letters stand for, as the prompt lists them; none where no letters are asked for.
        circle: The question that this is, its choices moved on; empty where they stand as the benchmark has them.
    """

    choices: tuple[str, ...]
    right: int
    category: str
    picture: str
    options: tuple[str, ...]
    circle: str

    def __init__(
        self,
        id: str | int,
        image: Any,
        instruction: str,
        response: str,
        choices: Sequence[str],
        right: int,
        category: str = "",
        picture: str = "",
        places: Sequence[int] = (),
        options: Sequence[str] = (),
        circle: str = "",
    ):
        super().__init__(id, image, instruction, response, places)
        for name, value in (
            ("choices", tuple(choices)),
            ("right", right),
            ("category", category),
            ("picture", picture),
            ("options", tuple(options)),
            ("circle", circle),
        ):
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Benchmark:
    """How the questions of a benchmark are asked.

    Attributes:
        question: Names that the field of the question may have, the first one there being taken.
        answer: The same of the right answer.
        id: The same of what a question is known by.
        hint: The same of a text that stands before the question; none where there is none.
        context: What stands before the hint.
        category: The same of its kind.
        yes_no: Whether the answers are Yes and No.
        lettered: Whether the right answer is always named by its letter.
        ask: Last line of the prompt, where letters or Yes and No are asked for.
    """

    question: tuple[str, ...] = ("question", "text")
    answer: tuple[str, ...] = ("answer", "label")
    id: tuple[str, ...] = ("id", "question_id", "index")
    hint: tuple[str, ...] = ("hint",)
    context: str = ""
    category: tuple[str, ...] = ("category",)
    yes_no: bool = False
    lettered: bool = False
    ask: str = "Answer with the option's letter from the given choices directly."


# The wording is that of LLaVA-1.5's evaluation, which lmms-eval and VLMEvalKit keep for models that name no other.
BENCHMARKS: dict[str, Benchmark] = {
    "pope": Benchmark(yes_no=True, ask="Answer the question using a single word or phrase."),
    "scienceqa": Benchmark(context="Context: ", category=("subject",)),
    "mmbench": Benchmark(lettered=True),
    "choices": Benchmark(),
}
YES_OR_NO = ("Yes", "No")
_NO_ORDER = (
    "its choices are not listed by letters, so that there is no order to move them on in (CircularEval is for "
    "mmbench, scienceqa and choices, with letters as answers)"
)
_HOW = "KIND:FILE.jsonl, .ndjson, .json, .parquet or .tsv, KIND:hub:OWNER/NAME[/CONFIG][:SPLIT]"


def is_benchmark(data: str) -> bool:
    """Whether a DATA argument names questions."""
    return data.partition(":")[0] in BENCHMARKS


def load_questions(data: str, *, answers: Answers = "letters") -> DataSet:
    """The questions that a DATA argument names.

    `pope:PLACE`, `scienceqa:PLACE`, `mmbench:PLACE` with the fields of their benchmarks, and `choices:PLACE` for
    questions of your own: `question`, `choices` (a list, or fields `A`, `B`, ...), `answer` (a letter, the text of a
    choice, or its place from 0), `image`, and where there are some `hint`, `category` and `id`. PLACE is a file
    (`.jsonl`, `.ndjson`, `.json`, `.parquet`, `.tsv` as of MMBench, `problems.json` of ScienceQA) with `?images=DIR`
    where its pictures lie elsewhere, or `hub:OWNER/NAME[/CONFIG][:SPLIT]`, whose split is `test` if none is named.

    Args:
        data: One of these.
        answers: `letters`: the choices are listed in the prompt, and their letters are scored; `texts`: the texts of
            the choices behind the question alone. Yes and No are scored as they are.

    Returns:
        The questions, all of them `Question`; what cannot be asked is a `Skipped`, with the reason.

    Raises:
        UsageError: The argument is no such form.
        DataError: The data are missing, or have another schema.
    """
    from mmerank.inputs.question_files import rows_of

    check_questions(data, answers=answers)
    name, _, place = data.partition(":")
    how = BENCHMARKS[name]
    table, within = rows_of(data, place)
    known = table.fields()
    missing = [of for of in (how.question, how.answer) if not set(of) & set(known)]
    if missing:
        expected = " or ".join(missing[0])
        raise DataError(f"{data}: no field {expected}, which {name} has; its fields: {', '.join(known)}")
    own_id = Columns(id=next((of for of in how.id if of in known), None)).own_id

    def question(name: str, row: dict[str, Any]) -> Question:
        return _question(name, row, how, answers, within)

    entries: Iterator[Example | Skipped] = examples_of(table, question, own_id=own_id)
    return DataSet(data, f"{table.fingerprint} {name} {answers}", tuple(entries))


def check_questions(data: str, *, answers: str = "letters", circular: bool = False) -> None:
    """Refuse questions that cannot be meant, without a look at them.

    Args:
        data: DATA argument.
        answers: As for `load_questions`.
        circular: Whether they are to be asked with each choice first in turn.

    Raises:
        UsageError: It is no form of `load_questions`, or its choices are not listed by letters.
    """
    name, _, place = data.partition(":")
    if name not in BENCHMARKS or not place:
        meant = did_you_mean(name, BENCHMARKS)
        raise UsageError(
            f"unknown questions {data!r}{meant or '; known: ' + ', '.join(f'{of}:PLACE' for of in BENCHMARKS)}; "
            f"as {_HOW}, or lm-eval:TASK"
        )
    if answers not in ("letters", "texts"):
        raise UsageError(f"answers: expected letters or texts, got {answers!r}")
    if circular and (BENCHMARKS[name].yes_no or answers == "texts"):
        raise UsageError(f"{data}: {_NO_ORDER}")


def _question(name: str, row: Mapping[str, Any], how: Benchmark, answers: Answers, within: Any) -> Question:
    """The question in a row; DataError says why there is none."""
    asked = _text(row, how.question)
    assert asked is not None  # one of the fields is there
    options = YES_OR_NO if how.yes_no else _options(row)
    right = _right(_first(row, how.answer), options, lettered=how.lettered)
    if (value := row.get("image")) is None or value == "":
        raise DataError("no image")
    source = picture_sources(value, within)
    if source is None:
        raise DataError(f"image is {no_picture(as_list(value))}, expected a path, the content of a file or a picture")
    hint = _text(row, how.hint, needed=False)
    lines = [*([how.context + hint] if hint else []), asked]
    lettered = answers == "letters" and not how.yes_no
    if lettered:
        lines.append(_listed(options))
    if lettered or how.yes_no:
        lines.append(how.ask)
    scored = tuple(LETTERS[: len(options)]) if lettered else tuple(options)
    category = _text(row, how.category, needed=False) or ""
    known = value if isinstance(value, str) else str(row.get("image_source") or getattr(source, "name", name))
    return Question(
        name,
        source,
        "\n".join(lines),
        scored[right],
        scored,
        right,
        category,
        known,
        options=options if lettered else (),
    )


def circular(question: Question) -> list[Question]:
    """The question, and the same with its choices moved on by one, two, ... places (MMBench, arXiv:2307.06281).

    Args:
        question: Of which letters are scored.

    Returns:
        As many as it has choices, it first; the others have `circle` and ids of their own.

    Raises:
        UsageError: Its choices are not listed by letters, so that they have no order.
    """
    k = len(question.options)
    if not k:
        raise UsageError(f"{question.id!r}: {_NO_ORDER}")
    before, _, behind = question.instruction.rpartition(_listed(question.options))
    found = [question]
    for step in range(1, k):
        options = question.options[step:] + question.options[:step]
        right = (question.right - step) % k
        found.append(
            Question(
                f"{question.id}/moved-{step}",
                question.image,
                before + _listed(options) + behind,
                question.choices[right],
                question.choices,
                right,
                question.category,
                question.picture,
                question.places,
                options,
                str(question.id),
            )
        )
    return found


def _listed(options: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _text(row: Mapping[str, Any], names: Sequence[str], *, needed: bool = True) -> str | None:
    value = _first(row, names)
    if not needed and (value is None or str(value).strip().lower() in ("", "nan")):
        return None
    if not isinstance(value, str):
        raise DataError(f"{names[0]} is {kind(value)}, expected text")
    return usable(value, names[0]).strip()


def _options(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The choices of a row: a list, or those of its fields A, B, ... that hold text."""
    listed = as_list(row.get("choices", row.get("options")))
    if listed is None:
        there = [letter for letter in LETTERS if _is_text(row.get(letter))]
        if there != list(LETTERS[: len(there)]):
            raise DataError(f"its choices are {', '.join(there)}, and one before the last of them is missing")
        listed = [row[letter] for letter in there]
    if not isinstance(listed, (list, tuple)):
        raise DataError(f"choices is {kind(listed)}, expected a list of texts")
    found = tuple(usable(str(of), "a choice").strip() for of in listed)
    if len(found) < 2:
        raise DataError(f"{len(found)} choices, expected at least 2, in a list or in fields A, B, ...")
    if len(found) > len(LETTERS):
        raise DataError(f"{len(found)} choices, and there are {len(LETTERS)} letters")
    if len(set(found)) < len(found):
        twice = next(of for of in found if found.count(of) > 1)
        raise DataError(f"the choice {twice!r:.60} is there twice")
    return found


def _right(answer: Any, options: Sequence[str], *, lettered: bool) -> int:
    """Which choice an answer names: by its place from 0, by its letter, or by its text; not by two that differ."""
    if isinstance(answer, float) and answer.is_integer():  # what pandas makes of whole numbers beside missing ones
        answer = int(answer)
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(options):
            return answer
        raise DataError(f"its answer {answer} is none of the {len(options)} choices, which are counted from 0")
    if not isinstance(answer, str) or not answer.strip():
        raise DataError(f"its answer is {kind(answer)}, expected a choice, its letter or its place from 0")
    plain = answer.strip()
    letter = LETTERS.index(plain) if len(plain) == 1 and plain in LETTERS[: len(options)] else None
    texts, wanted = list(options), plain
    if plain not in options:
        texts, wanted = [option.casefold() for option in options], plain.casefold()
    text = texts.index(wanted) if wanted in texts else None
    if letter is not None and (lettered or text in (None, letter)):
        return letter
    if letter is not None:
        raise DataError(
            f"its answer {plain!r} is the letter of one choice and the text of another; give the place from 0"
        )
    if text is not None:
        return text
    raise DataError(f"its answer {plain!r:.60} is not among the choices: {', '.join(options):.120}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.strip().lower() != "nan"
