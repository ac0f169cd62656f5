"""Accuracy against lm-eval's own way of running a model, on a task in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml

from mmerank.analysis.results.diff import Accuracy
from mmerank.errors import DataError, ModelError, UsageError
from mmerank.jobs.accuracy import accuracies, check_tasks
from tests.adapters.text_cases import BERT, LLAMA, OPENELM_CASE, OPT, TEXTS, TextCase
from tests.test_cli import failure, run

lm_eval = pytest.importorskip("lm_eval")

QUESTIONS = 12
_TASK: dict[str, Any] = {
    "task": "words",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Questions and three answers each of one to four words, some questions empty and some too long."""
    folder = tmp_path_factory.mktemp("task")
    words = " ".join(TEXTS).split()
    lengths = [0, 5, 400, 12, 3, 9]
    rows = [
        {
            "question": " ".join((words * 4)[i : i + lengths[i % len(lengths)]]),
            "choices": [" ".join(words[k * i + k : k * i + k + 1 + (i + k) % 4]) for k in (1, 2, 3)],
            "label": i % 3,
        }
        for i in range(QUESTIONS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")}
    (folder / "words.yaml").write_text(yaml.safe_dump({**_TASK, "dataset_kwargs": data}))
    yield str(folder / "words.yaml")


def harness(case: TextCase, task: str) -> Any:
    """lm-eval by itself, on the checkpoint's folder, with the tokenizer as its file has it."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    words = None
    if (case.folder / "tokenizer.json").exists():  # of which Llama's class leaves a space out in front
        words = transformers.PreTrainedTokenizerFast.from_pretrained(case.folder)
    model = HFLM(str(case.folder), tokenizer=words, device="cpu", dtype="float32", batch_size=1)
    return lm_eval.evaluate(model, TaskManager(include_defaults=False).load([task]))


@pytest.mark.parametrize("case", [OPT, LLAMA], ids=lambda case: case.name)
def test_equal_to_lm_eval(case: TextCase, task: str) -> None:
    found = accuracies(case.adapter, [task])
    alone = harness(case, task)
    numbers = alone["results"]["words"]
    assert found["words"].value == numbers["acc,none"] and 0 < numbers["acc,none"] < 1
    assert found["words"].stderr == pytest.approx(numbers["acc_stderr,none"]) and found["words"].n == QUESTIONS
    assert accuracies(case.adapter, [task], batch_tokens=600) == found
    assert accuracies(case.adapter, [task], limit=5)["words"].n == 5

    from lm_eval.api.instance import Instance

    from mmerank.jobs.scored_model import ScoredModel

    samples = alone["samples"]["words"]
    pairs = [pair for sample in samples for pair in sample["arguments"]]
    theirs = [answer for sample in samples for (answer,) in sample["resps"]]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    ours = ScoredModel(case.adapter).loglikelihood(requests)
    assert [value for value, _ in ours] == pytest.approx([float(value) for value, _ in theirs], abs=1e-4)
    assert [str(greedy) for _, greedy in ours] == [str(greedy) for _, greedy in theirs]


def test_openelm_which_lm_eval_cannot_load(task: str) -> None:
    """The answer whose tokens add up to the most, by the adapter's forward alone."""
    adapter = OPENELM_CASE.adapter
    rows = [json.loads(line) for line in (Path(task).parent / "rows.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["question"] and len(row["question"].split()) < 100]
    right = []
    for row in rows:
        scores = []
        for choice in row["choices"]:
            question, whole = (adapter.token_ids(text) for text in (row["question"], f"{row['question']} {choice}"))
            ids = torch.tensor([whole])
            with torch.no_grad():
                logits = adapter.logits(adapter.forward(ids, torch.ones_like(ids, dtype=torch.bool)))[0]
            logs = logits.log_softmax(-1)[torch.arange(len(whole) - 1), ids[0, 1:]]
            scores.append(float(logs[len(question) - 1 :].sum()))
        right.append(scores.index(max(scores)) == row["label"])
    folder = Path(task).parent / "short"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")}
    (folder / "words.yaml").write_text(yaml.safe_dump({**_TASK, "dataset_kwargs": data}))
    found = accuracies(adapter, [str(folder / "words.yaml")])["words"]
    assert (found.value, found.n) == (sum(right) / len(right), len(rows))


def test_generators_are_left_alone(task: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2).tolist()
    torch.manual_seed(3)
    accuracies(OPT.adapter, [task], limit=2)
    assert torch.rand(2).tolist() == expected


def test_command(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    data = ("--data", f"text:{tmp_path}/texts.txt", "--no-cache")
    options = ("--accuracy", task, "--accuracy-limit", "6", "--json", str(tmp_path / "out.json"))
    done = run("diff", str(OPT.folder), str(OPENELM_CASE.folder), *data, *options)
    assert done.returncode == 0, done.stderr
    assert "accuracy, words" in done.stdout and "over 6 questions" in done.stdout
    first, second = json.loads((tmp_path / "out.json").read_text())["results"]
    expected = accuracies(OPT.adapter, [task], limit=6)["words"]
    assert (first["accuracy"], first["accuracy_n"]) == ({"words": expected.value}, {"words": 6})
    assert first["accuracy_stderr"] == {"words": pytest.approx(expected.stderr)}
    assert 0 <= second["accuracy"]["words"] <= 1
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, line = failure("diff", str(OPT.folder), *data, "--accuracy", "piqa")
    assert status == 2 and "lm-eval, which is not installed: pip install" in line


def test_what_is_measured_is_shown_when_accuracy_fails(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    data = ("--data", f"text:{tmp_path}/texts.txt", "--no-cache")
    done = run("diff", str(BERT.folder), *data, "--accuracy", task)
    assert done.returncode == 1 and "an encoder predicts no next token" in done.stderr
    assert "Diff-eRank" in done.stdout
    missing = {"data_files": {"test": str(tmp_path / "nowhere.jsonl")}}
    (tmp_path / "missing.yaml").write_text(yaml.safe_dump({**_TASK, "dataset_kwargs": missing}))
    # Before any model is loaded.
    monkeypatch.setattr("mmerank.models.loading.load_text", lambda *_, **__: pytest.fail("a model was loaded"))
    status, line = failure("diff", str(OPT.folder), *data, "--accuracy", str(tmp_path / "missing.yaml"))
    assert status == 1 and "its questions are not to be had" in line


def test_mistakes(task: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file, nowhere.yaml"):
        check_tasks(["nowhere.yaml"])
    with pytest.raises(ModelError, match="an encoder predicts no next token"):
        accuracies(BERT.adapter, [task])
    assert accuracies(BERT.adapter, []) == {}
    missing = {"data_files": {"test": str(tmp_path / "nowhere.jsonl")}}
    (tmp_path / "missing.yaml").write_text(yaml.safe_dump({**_TASK, "dataset_kwargs": missing}))
    with pytest.raises(DataError, match=r"accuracy on .*missing\.yaml: its questions are not to be had"):
        accuracies(OPT.adapter, [str(tmp_path / "missing.yaml")])
    content = yaml.safe_load(Path(task).read_text())
    content["metric_list"][0]["metric"] = "acc_norm"
    (tmp_path / "norm.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="has no `acc`; its metrics: acc_norm"):
        accuracies(OPT.adapter, [str(tmp_path / "norm.yaml")])
    assert Accuracy(0.5, 0.1, 2).n == 2


@pytest.mark.slow
def test_unknown_task() -> None:
    check_tasks(["piqa", "winogrande", "openbookqa"])
    with pytest.raises(UsageError, match="lm-eval knows no task 'piqqa'; close: .*piqa"):
        check_tasks(["piqqa"])


def test_a_continued_run_has_its_accuracy_already(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    asked = ("diff", str(OPT.folder), "--data", f"text:{tmp_path}/texts.txt", "--no-cache", "--accuracy", task)
    options = ("--out", str(tmp_path / "run"), "--json", "-", "--accuracy-limit")
    first = run(*asked, *options, "6")
    assert first.returncode == 0, first.stderr
    measured: list[int | None] = []
    original = lm_eval.evaluate

    def spy(*arguments: Any, **keywords: Any) -> Any:
        measured.append(keywords["limit"])
        return original(*arguments, **keywords)

    monkeypatch.setattr(lm_eval, "evaluate", spy)
    assert run(*asked, *options, "6").stdout == first.stdout and not measured
    (shorter,) = json.loads(run(*asked, *options, "5").stdout)["results"]
    assert measured == [5] and shorter["accuracy_n"] == {"words": 5}
    assert run(*asked, *options, "6").stdout == first.stdout and measured == [5]
