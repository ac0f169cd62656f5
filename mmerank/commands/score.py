"""`mmerank score`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from mmerank.commands import measured, options
from mmerank.commands.checking import checked_so_far
from mmerank.commands.early import check_models, check_on_hub
from mmerank.commands.groups import Keeping, Loading
from mmerank.commands.results import check_writable, continued_from, given_names, quiet, write_json
from mmerank.errors import UsageError
from mmerank.processes import rank

if TYPE_CHECKING:
    from mmerank.jobs.compare import Comparison
    from mmerank.jobs.score import Score
    from mmerank.runs.answers import AnswerFolder

_GENERATED = "lm-eval:"


def score(
    models: options.Models,
    data: options.Questions,
    *,
    answers: measured.ScoredAnswers = "letters",
    sequence: measured.ScoredSequence = "template",
    circular: measured.Circular = False,
    name: options.Names = [],  # noqa: B006 (typer takes no tuple)
    limit: options.Limit = None,
    seed: options.Seed = None,
    keeping: Keeping,
    computing: Loading,
    max_megapixels: options.MaxMegapixels = 100,
) -> None:
    """Accuracy on a benchmark: likelihood of multiple choice, or a generation task of lm-eval.

    `mmerank report RUN... --scores DIR` sets the scores beside alignment.
    """
    from mmerank.inputs.example import check_usable
    from mmerank.inputs.questions import check_questions, load_questions
    from mmerank.inputs.selection import Selection
    from mmerank.jobs.accuracy import check_tasks
    from mmerank.models.located import MULTIMODAL

    check_writable(keeping.json_file)
    selection = Selection(limit, seed)
    selection.check()
    names = given_names(name, models)
    by_lm_eval = data.startswith(_GENERATED)
    if by_lm_eval:
        _check_of_lm_eval(seed, circular)
        check_tasks([data.removeprefix(_GENERATED)])
    else:
        check_questions(data, answers=answers, circular=circular)
    check_models(MULTIMODAL, models, computing)
    checked_so_far()
    questions: Any = None
    if not by_lm_eval:
        questions = load_questions(data, answers=answers)
        check_usable(questions, pictures=True)
    check_on_hub(MULTIMODAL, models)

    from mmerank.jobs.generated import generated
    from mmerank.jobs.score import NotYet, open_scores
    from mmerank.jobs.score import score as measure
    from mmerank.models.adapter import check_model, load
    from mmerank.runs.answers import AnswerFolder

    max_pixels = int(max_megapixels * 1e6)
    folder: AnswerFolder | None = None
    if keeping.out is not None and by_lm_eval:
        folder = AnswerFolder(keeping.out, {"data": {"name": data, **selection.to_dict()}, "sequence": sequence})
    elif keeping.out is not None:
        folder = open_scores(
            keeping.out, questions, sequence=sequence, circular=circular, max_pixels=max_pixels, selection=selection
        )
    quiet()
    for model in models:  # a typo in the last one must not cost the time of the first
        check_model(model)
    results: list[Score] = []
    try:
        with continued_from(keeping.out):
            for model in models if rank().leads or not by_lm_eval else ():
                adapter = load(model, **computing.how)
                if by_lm_eval:
                    found = generated(adapter, data, limit=limit, template=sequence == "template", progress=True)
                else:
                    found = measure(
                        adapter,
                        questions,
                        sequence=sequence,
                        circular=circular,
                        limit=limit,
                        seed=seed,
                        batch_tokens=computing.batch_tokens,
                        max_pixels=max_pixels,
                        strict=keeping.strict,
                        out=folder,
                        progress=True,
                    )
                results.append(replace(found, name=names.get(model, "")))
                del adapter  # before the next one takes its place
    except NotYet as error:
        typer.echo(f"{error}; the last of them writes the scores", err=True)
        return
    finally:
        _show(results, folder, keeping.json_file)


def _check_of_lm_eval(seed: int | None, circular: bool) -> None:
    if circular:
        raise UsageError("--circular: a task of lm-eval asks in its own way; leave it out")
    if seed is not None:
        raise UsageError("--seed: lm-eval takes the first questions of a task; leave it out")


def _show(results: list[Score], folder: AnswerFolder | None, json_file: str | None) -> None:
    if not results:
        return
    from rich.console import Console

    from mmerank.jobs.score import write_scores
    from mmerank.report.terminal.intervals import comparison_text
    from mmerank.report.terminal.score import score_notes, score_tables

    summary: dict[str, Any] = {"results": [result.to_dict() for result in results]}
    if comparisons := _compared(results):
        summary["comparisons"] = [comparison.to_dict() for comparison in comparisons]
    if folder is not None:
        write_scores(folder, results)
    if rank().leads and not write_json(summary, json_file):
        for table in score_tables(results):
            Console().print(table)
        print("\n".join(score_notes(results)))
        if comparisons:
            print(comparison_text(comparisons))
        if folder is not None:
            print(f"  mmerank report RUN... --scores {folder.path} sets them beside what runs measured")


def _compared(results: list[Score]) -> list[Comparison]:
    """Each two models on the questions that both answered; of more than a table has room for, each with the next."""
    from mmerank.analysis.comparison import each_two
    from mmerank.analysis.statistics.paired import controlled
    from mmerank.jobs.compare import compare

    told = [
        (a, b)
        for a, b in each_two([result for result in results if result.answers])
        if {of.id for of in a.answers} & {of.id for of in b.answers}
    ]
    return controlled(compare(a, b) for a, b in told) if told else []
