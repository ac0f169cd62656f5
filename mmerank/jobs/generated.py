"""Scores on the generation tasks of lm-eval, by its own multimodal model around the one that is loaded."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

from mmerank.analysis.results.answers import Share
from mmerank.analysis.scores.harnesses import Metric, metrics_in
from mmerank.convention import loaded_as
from mmerank.errors import DataError, ModelError, UsageError, first_line
from mmerank.jobs.accuracy import check_tasks, questions_of
from mmerank.jobs.score import Score
from mmerank.models.adapter import Adapter, check_adapter
from mmerank.models.wrapped import evaluated

PREFIX = "lm-eval:"


def generated(
    adapter: Adapter, data: str, *, limit: int | None = None, template: bool = True, progress: bool = False
) -> Score:
    """What a model scores on a task of lm-eval whose answers are generated.

    Questions, prompts, generation settings, filters and metrics are lm-eval's; `HFMultimodalLM` runs the loaded model
    itself, one question at a time, with its own processor. The chat template is used where the processor has one.

    Args:
        adapter: From `mmerank.load` or `mmerank.wrap`.
        data: `lm-eval:TASK`: a name that lm-eval knows, or a YAML file, which may run code (`!function`).
        limit: Use only this many of the questions, the first ones.
        template: Use the chat template; False for plain prompts.
        progress: Show lm-eval's bar on stderr.

    Returns:
        Each metric of the task, with an interval from lm-eval's standard error.

    Raises:
        DataError: The questions are not to be had.
        ModelError: The adapter has no processor of transformers, or lm-eval cannot feed or run the model.
        UsageError: lm-eval is not installed, or there is no such task, or it generates nothing.
    """
    check_adapter(adapter)
    task = data.removeprefix(PREFIX)
    check_tasks([task])
    from lm_eval import evaluate

    asked = questions_of(task)
    kinds = {of.config.output_type for of in asked["tasks"].values()}
    if kinds != {"generate_until"}:
        raise UsageError(
            f"{data}: answers by {', '.join(sorted(kinds))}; only generation tasks run through lm-eval here, and "
            "multiple choice is scored from pope:, scienceqa:, mmbench: and choices:"
        )
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every model that is given loaded
    model = _of_lm_eval(adapter, progress)
    chat = template and bool(getattr(model.processor, "chat_template", None))
    try:
        with evaluated(adapter.model):
            found = evaluate(model, asked, limit=limit, log_samples=False, apply_chat_template=chat)
    except (OSError, DataError) as error:
        raise DataError(f"{data}: {first_line(error)}") from error
    except Exception as error:  # of task, processor and model, whatever they come to
        raise ModelError(f"{adapter.name}: lm-eval fails on {task} ({first_line(error)})") from error
    convention = {"sequence": "template" if chat else "bare", "by": "lm-eval"}
    numbers, categories = _shares(data, found)
    return Score(
        adapter.name, data, numbers, categories=categories, convention=convention, loaded=loaded_as(adapter.source)
    )


def _of_lm_eval(adapter: Adapter, progress: bool) -> Any:
    """lm-eval's model around the loaded one."""
    from lm_eval.models.hf_vlms import HFMultimodalLM

    if not hasattr(adapter, "processor"):
        raise ModelError(f"{adapter.name}: its adapter has no processor of transformers, so lm-eval cannot feed it")
    processor = copy.deepcopy(adapter.processor)  # lm-eval may give it a token to pad with

    class Loaded(HFMultimodalLM):  # type: ignore[misc]
        """Which takes the processor that is there, where lm-eval's own would look for one by name."""

        def _create_tokenizer(self, *_: Any, **__: Any) -> None:
            self.processor = processor
            self.tokenizer = processor.tokenizer

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            answers: list[str] = super().generate_until(requests, disable_tqdm=not progress)
            return answers

    placeholder = adapter.source.get("inspection", {}).get("placeholder") or None
    try:
        return Loaded(adapter.model, image_string=placeholder, batch_size=1)
    except Exception as error:  # assertions among them
        raise ModelError(f"{adapter.name}: lm-eval cannot run it ({first_line(error)})") from error


def _shares(data: str, found: Mapping[str, Any]) -> tuple[dict[str, Share], dict[str, Share]]:
    """Numbers of the task, of several with the task in front, and of the tasks of a group its first one each."""
    metrics = list(metrics_in(found))
    own = [of for of in metrics if not of.within]
    if not own:
        raise UsageError(f"{data}: lm-eval gives no numbers for it")
    several = len({of.task for of in own}) > 1
    categories: dict[str, Share] = {}
    for of in metrics:
        if of.within:
            categories.setdefault(of.task, _share(of))
    return {f"{of.task}: {of.name}" if several else of.name: _share(of) for of in own}, categories


def _share(of: Metric) -> Share:
    return Share(of.value, of.value - of.half, of.value + of.half, of.n)
