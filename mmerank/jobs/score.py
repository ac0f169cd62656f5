"""Scores of multimodal models on benchmarks: likelihood of answers, or generation through lm-eval."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmerank.analysis.results.answers import Answer
from mmerank.analysis.results.score import ScoreResult, score_rows
from mmerank.computing import Computing
from mmerank.convention import SequenceForm, loaded_as
from mmerank.engine.collect import SUSPECT_IN_A_ROW
from mmerank.engine.plans.choices import Answered, Choices
from mmerank.engine.probe import Probe
from mmerank.engine.progress import Meter
from mmerank.errors import DataError, MmerankError, RunFolderError, did_you_mean
from mmerank.inputs.example import Example, Skipped, check_examples, first_reason, kept, name_of, unique
from mmerank.inputs.example import fingerprint as fingerprint_of
from mmerank.inputs.pictures import MAX_PIXELS
from mmerank.inputs.questions import YES_OR_NO, Question
from mmerank.inputs.questions import circular as moved_on
from mmerank.inputs.selection import Selection
from mmerank.models.adapter import Adapter, check_adapter
from mmerank.models.identity import identity
from mmerank.processes import rank
from mmerank.runs.answers import AnswerFolder, read_scores
from mmerank.runs.folder import versions


class Score(ScoreResult):
    """What a model scored on a benchmark."""

    @classmethod
    def from_run(cls, folder: str | Path, model: str | None = None) -> Score:
        """What a folder of scores holds, without the model or the data.

        Args:
            folder: What `out` was.
            model: Which of its models; needed where it holds several.

        Returns:
            The scores, with all answers.

        Raises:
            RunFolderError: It is no such folder, holds several models and none was named, or holds no such model, or
                no answers of it, as of a task of lm-eval.
        """
        found = read_scores(Path(folder))
        if model is None and len(found) > 1:
            raise RunFolderError(f"{folder}: holds the scores of {', '.join(found)}; name one (model=...)")
        name = model or next(iter(found), "")
        if name not in found:
            raise RunFolderError(f"{folder}: no scores of {name or 'any model'}{did_you_mean(name, found)}")
        stated, entries, source = found[name]
        answers = [answer_in(of) for of in entries.values() if "right" in of]
        if not answers:
            raise RunFolderError(f"{folder}: no answers of {name} that can be read again; score it into a new folder")
        return cls.of(
            answers,
            model=name,
            data=stated["data"]["name"],
            skipped=[Skipped(id, of["skipped"]) for id, of in entries.items() if "skipped" in of],
            convention={key: value for key, value in stated.items() if key != "data"},
            loaded=loaded_as(source),
        )

    def __str__(self) -> str:
        from mmerank.report.terminal.score import score_text

        return score_text([self])


class NotYet(MmerankError):
    """Other processes of this launch are still answering; the last of them has the scores."""


def score(
    adapter: Adapter,
    questions: Iterable[Example | Skipped],
    *,
    sequence: SequenceForm = "template",
    circular: bool = False,
    limit: int | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    out: str | Path | AnswerFolder | None = None,
    progress: bool = False,
) -> Score:
    """How often the right answer is the likeliest.

    Each choice stands where the response of a pair does, behind the picture and the question; `acc`, the score, takes
    the largest sum of its tokens' log-likelihoods, `acc_norm` that sum over the choice's characters (both as lm-eval
    defines them), `acc_token` over its tokens. Logits are the model's, in its dtype; their log-softmax is taken in
    float32. Of k choices that are equally likely the right one counts 1 / k.

    Args:
        adapter: From `mmerank.load` or `mmerank.wrap`.
        questions: From `mmerank.load_questions`, or any iterable of `Question`.
        sequence: `template`, the model's chat template, or `bare`.
        circular: Ask each question once with each of its choices as the first, the others behind it in their order
            (CircularEval of MMBench); `acc_circular`, the score then, counts those that are right every time.
        limit: Use this many of the questions: the first ones, or with `seed` a random sample.
        seed: Of the sample.
        batch_tokens: As in `mmerank.align`.
        max_pixels: Pictures with more pixels are skipped.
        strict: Raise at the first question that cannot be asked, in place of skipping it.
        out: A folder; when it exists, only what it lacks is asked.
        progress: Show progress on stderr.

    Returns:
        The shares of right answers, with intervals over pictures, and all answers.

    Raises:
        DataError: No question could be asked, or one was skipped and `strict` is set.
        ModelError: The model's adapter has no LM head, or the model no template.
        NotYet: Of several processes, this one was not the last.
        RunFolderError: `out` holds something else.
        TypeError: `adapter` is no loaded model, or `questions` are none.
        UsageError: `limit` is below 1, there is a seed without a limit, or `circular` is set and choices have no
            letters.
    """
    check_adapter(adapter)
    check_examples(questions)
    questions = kept(questions)
    entries = list(unique(Selection(limit, seed).held(questions)))
    if wrong := next((of for of in entries if isinstance(of, Example) and not isinstance(of, Question)), None):
        raise TypeError(f"expected questions from mmerank.load_questions, got the example {wrong.id!r}")
    if circular:
        entries = [one for of in entries for one in (moved_on(of) if isinstance(of, Question) else [of])]
    own_folder = out is not None and not isinstance(out, AnswerFolder)
    if out is not None and not isinstance(out, AnswerFolder):
        out = open_scores(
            out,
            questions,
            sequence=sequence,
            circular=circular,
            max_pixels=max_pixels,
            selection=Selection(limit, seed),
        )
    source = {**identity(adapter), "versions": versions()}
    probe = Probe(Choices(adapter, sequence, max_pixels), Computing(batch_tokens=batch_tokens), adapter.name, source)
    known = _Known(adapter.name, source, out)
    asked = [entry for entry in entries if isinstance(entry, Question)]
    if strict and (left_out := next((entry for entry in entries if isinstance(entry, Skipped)), None)):
        raise DataError(f"{left_out.id!r}: {left_out.reason}")
    known.ask(probe, asked, strict=strict, shown=progress)
    found = known.all()
    if lacking := [of for of in asked if of.id not in found]:
        raise NotYet(f"{len(lacking)} of {len(asked)} questions are with other processes")
    reasons = [of.reason if isinstance(of, Skipped) else found[of.id].get("skipped") for of in entries]
    skipped = [Skipped(of.id, reason) for of, reason in zip(entries, reasons, strict=True) if reason]
    answers = [answer_in(found[question.id]) for question in asked if "skipped" not in found[question.id]]
    if not answers:
        raise DataError(f"{name_of(questions)}: no question could be asked{first_reason(skipped)}")
    convention = {"sequence": sequence, "max_pixels": max_pixels, **({"circular": True} if circular else {})}
    result = Score.of(
        answers,
        model=adapter.name,
        data=name_of(questions),
        skipped=skipped,
        convention=convention,
        loaded=loaded_as(source),
    )
    if out is not None and own_folder:
        write_scores(out, [result])
    return result


def write_scores(folder: AnswerFolder, results: Sequence[ScoreResult]) -> None:
    """Write `scores.csv` and `summary.json` of these results and of those that are there of other models.

    Args:
        folder: Of the benchmark.
        results: At least one.
    """
    import pandas as pd

    from mmerank.report.render.formats import csv

    now = {result.model for result in results}
    every = [*(of for of in folder.results() if of["model"] not in now), *(result.to_dict() for result in results)]
    rows = [row for of in every for row in score_rows(of)]
    folder.write_scores(csv(pd.DataFrame(rows)), {"results": every})


def open_scores(
    out: str | Path,
    questions: Iterable[Example | Skipped],
    *,
    sequence: SequenceForm,
    circular: bool = False,
    max_pixels: int = MAX_PIXELS,
    selection: Selection,
) -> AnswerFolder:
    """The folder for these settings, new or continued. Arguments and errors as in `score`."""
    asked = [(of.id, of.instruction, of.choices, of.right) for of in questions if isinstance(of, Question)]
    data = {
        "name": name_of(questions),
        "fingerprint": fingerprint_of(questions),
        "questions": hashlib.sha256(repr(asked).encode()).hexdigest()[:16],
        **selection.to_dict(),
    }
    moved = {"circular": True} if circular else {}
    return AnswerFolder(Path(out), {"data": data, "sequence": sequence, "max_pixels": max_pixels, **moved})


class _Known:
    """What one model answered, or was not asked and why: in a folder, or in memory."""

    def __init__(self, model: str, source: Mapping[str, Any], folder: AnswerFolder | None):
        self._model, self._source, self._folder = model, source, folder
        self._held: dict[str, Mapping[str, Any]] = {}

    def all(self) -> Mapping[str, Mapping[str, Any]]:
        """JSON values by id: what an `Answer` has, or `skipped`."""
        return self._held if self._folder is None else self._folder.entries(self._model, self._source)

    def ask(self, probe: Probe[Any, Any], entries: Sequence[Question], *, strict: bool, shown: bool) -> None:
        """Ask what is not answered, also what was skipped before; of several processes each its part."""
        done = {name for name, entry in self.all().items() if "right" in entry}
        # By their places in the data, which are the same in all processes whenever each of them begins.
        own = [entry for entry in entries[rank().index :: rank().count] if entry.id not in done]
        keep: Any = self._held.update
        with ExitStack() as stack:
            if self._folder is not None and own:
                keep = stack.enter_context(self._folder.writing(self._model, self._source))
            title = f"score {self._model}"
            meter = stack.enter_context(Meter(title, len(entries), done=len(done), shown=shown and rank().leads))
            in_a_row, by_id = 0, {of.id: of for of in own}
            for found in probe.measure(own):
                if isinstance(found, Skipped) and strict:
                    raise DataError(f"{found.id!r}: {found.reason}")
                if isinstance(found, Skipped):
                    in_a_row = in_a_row + 1 if found.suspect else 0
                    if in_a_row >= SUSPECT_IN_A_ROW:
                        raise DataError(f"{in_a_row} questions in a row could not be asked{first_reason([found])}")
                    keep({found.id: {"skipped": found.reason}})
                    meter.advance(0)
                else:
                    assert isinstance(found, Answered)
                    in_a_row = 0
                    keep({found.id: _entry(by_id[found.id], found)})
                    meter.advance(found.tokens)


def _entry(question: Question, found: Answered) -> dict[str, Any]:
    """All that is known of an answer, as JSON values."""
    answer = Answer(
        id=str(question.id),
        right=question.right,
        loglikelihoods=tuple(found.loglikelihoods),
        tokens=tuple(found.counts),
        characters=tuple(map(len, question.choices)),
        category=question.category,
        picture=question.picture,
        yes_no=question.choices == YES_OR_NO,
        circle=question.circle,
    )
    return {key: value for key, value in asdict(answer).items() if value or key == "right"}


def answer_in(entry: Mapping[str, Any]) -> Answer:
    """The answer that an entry of a folder is."""
    values: dict[str, Any] = {key: tuple(of) if isinstance(of, list) else of for key, of in entry.items()}
    return Answer(**values)
