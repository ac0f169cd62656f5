"""Likelihoods of answers against plain forwards of transformers, and what is made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from torch import Tensor
from transformers import LlamaForCausalLM

import mmerank
from mmerank.computing import Computing
from mmerank.engine.plans.choices import Answered, Choices
from mmerank.engine.probe import Probe
from mmerank.errors import DataError, ModelError, RunFolderError, UsageError
from mmerank.inputs.demo import MODELS
from mmerank.inputs.example import Skipped
from mmerank.inputs.questions import Question
from tests import forked
from tests.adapters import tiny_models
from tests.test_cli import failure, run

CHOICES = ("Yes", "No", "A red one, or two")
FAMILIES = ("qwen2_vl", "idefics3", "gemma3", "mllama", "internvl")


@pytest.fixture(scope="module")
def llava() -> Any:
    return mmerank.load("demo-llava")


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """The demo's captions, each among those of three other pictures, the right one in every place."""
    pairs: list[Any] = list(mmerank.load_data("demo"))[:12]
    found = []
    for i, pair in enumerate(pairs):
        choices = [pairs[(i + step) % 12].response for step in (1, 4, 6)]
        choices.insert(i % 4, pair.response)
        found.append(Question(pair.id, pair.image, pair.instruction, pair.response, choices, i % 4, "ab"[i % 2]))
    return found


def answers(adapter: Any, asked: list[Question], form: Any = "template", tokens: int | None = None) -> dict[str, Any]:
    probe = Probe(Choices(adapter, form), Computing(batch_tokens=tokens))
    return {found.id: found for found in probe.measure(asked)}


def last_tokens(logits: Tensor, ids: Tensor, count: int) -> float:
    """Log-likelihood of the last tokens of a sequence, each behind those before it, in float64."""
    logs = torch.log_softmax(logits[0].double(), dim=-1)
    return float(sum(logs[i - 1, ids[i]] for i in range(len(ids) - count, len(ids))))


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_families_as_their_own_forward(name: str) -> None:
    """Tokens are bytes there, and nothing stands behind an answer."""
    model, processor, _ = tiny_models.built(name)
    adapter = mmerank.wrap(model, processor, name=name)
    picture: Any = mmerank.load_data("demo").entries[0].image  # type: ignore[union-attr]
    question = Question("q", picture, "Is it red?", "Yes", CHOICES, 0)
    found = answers(adapter, [question])["q"]
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it red?"}]}
    for choice, total, count in zip(CHOICES, found.loglikelihoods, found.counts, strict=True):
        answer = {"role": "assistant", "content": [{"type": "text", "text": choice}]}
        text = processor.apply_chat_template([turn, answer], tokenize=False)
        inputs = processor(text=text, images=picture.convert("RGB"), return_tensors="pt")
        assert count == len(choice)
        expected = last_tokens(model(**inputs).logits, inputs["input_ids"][0], len(choice))
        assert total == pytest.approx(expected, abs=2e-4)
    assert found.tokens < 2 * len(adapter.sequence(question, "pair", "template")) + sum(map(len, CHOICES)) + 60


@torch.inference_mode()
def test_llava_as_its_own_forward(llava: Any, questions: list[Question]) -> None:
    question = questions[0]
    found = answers(llava, [question])[question.id]
    words, model = llava.tokenizer, llava.model
    before, answer = llava._template
    pixels = llava.pixels(question.image.convert("RGB"), "model")[None]  # type: ignore[union-attr]
    for choice, total, count in zip(question.choices, found.loglikelihoods, found.counts, strict=True):
        start = words(before, add_special_tokens=False)["input_ids"]
        if words.bos_token_id is not None:
            start = [words.bos_token_id, *start]
        end = words(f"\n{question.instruction}{answer} {choice}", add_special_tokens=False)["input_ids"]
        ids = torch.tensor([*start, *[model.config.image_token_id] * llava.image_tokens, *end])
        expected = last_tokens(model(input_ids=ids[None], pixel_values=pixels).logits, ids, count)
        assert total == pytest.approx(expected, abs=1e-3)
        # The tokens that count are those of the choice, or with the space before it.
        assert words.decode(ids[-count:]).strip() == choice


@torch.inference_mode()
def test_choices_are_predicted_from_one_prefix(llava: Any, questions: list[Question]) -> None:
    """Of `A` the space before it is part of the token, of `B`, which the tokenizer lacks, a token by itself."""
    words, model = llava.tokenizer, llava.model
    question = Question("q", questions[0].image, "Which?", "A", ("A", "B", "red"), 0)
    found = answers(llava, [question])["q"]
    before, answer = llava._template
    pixels = llava.pixels(question.image.convert("RGB"), "model")[None]  # type: ignore[union-attr]
    prefix = words(f"\nWhich?{answer}", add_special_tokens=False)["input_ids"]
    counts = []
    for choice, total in zip(question.choices, found.loglikelihoods, strict=True):
        start = [words.bos_token_id, *words(before, add_special_tokens=False)["input_ids"]]
        end = words(f"\nWhich?{answer} {choice}", add_special_tokens=False)["input_ids"]
        assert end[: len(prefix)] == prefix
        ids = torch.tensor([*start, *[model.config.image_token_id] * llava.image_tokens, *end])
        logits = model(input_ids=ids[None], pixel_values=pixels).logits
        counts.append(len(end) - len(prefix))
        assert total == pytest.approx(last_tokens(logits, ids, counts[-1]), abs=1e-3)
    assert found.counts == tuple(counts) == (1, 2, 1)


@torch.inference_mode()
def test_minigpt_v2_with_the_head_of_its_llama(questions: list[Question]) -> None:
    adapter: Any = mmerank.load("demo-minigpt-v2")
    question = questions[0]
    found = answers(adapter, [question])[question.id]
    own = LlamaForCausalLM.from_pretrained(MODELS["demo-minigpt-v2"].parent / "llama", dtype=torch.float32)
    own.model = adapter.model.llama_model
    picture = question.image.convert("RGB")  # type: ignore[union-attr]
    (image,) = adapter.encode_images([adapter.pixels(picture, "model")])
    for choice, total, count in zip(question.choices, found.loglikelihoods, found.counts, strict=True):
        pair = mmerank.Example("q", picture, question.instruction, choice)
        sequence = adapter.sequence(pair, "pair", "template")
        ids = torch.tensor(sequence.ids[:-1])  # without the EOS
        embedded = own.model.embed_tokens(ids.clamp(min=0))
        embedded[ids < 0] = image.connector
        logits = own(inputs_embeds=embedded[None]).logits
        assert total == pytest.approx(last_tokens(logits, ids, count), abs=1e-3)
    with pytest.raises(ModelError, match="no LM head"):
        answers(adapter.untrained(0), [question])


def test_batches_and_order_change_nothing(llava: Any, questions: list[Question]) -> None:
    alone, together = answers(llava, questions), answers(llava, questions[::-1], tokens=4000)
    for name, found in alone.items():
        assert together[name].loglikelihoods == pytest.approx(found.loglikelihoods, abs=1e-3)
        assert together[name].counts == found.counts


def test_choices_of_one_token_share_a_pass(llava: Any, questions: list[Question]) -> None:
    tiny = tiny_models.built("qwen2_vl")
    adapter = mmerank.wrap(*tiny[:2], name="tiny")
    picture = questions[0].image
    letters = Question("q", picture, "Which?\nA. one\nB. two", "A", ("A", "B"), 0)
    found = answers(adapter, [letters])["q"]
    assert isinstance(found, Answered) and found.counts == (1, 1)
    pair = mmerank.Example("q", picture.convert("RGB"), letters.instruction, "A")  # type: ignore[union-attr]
    assert found.tokens == len(adapter.sequence(pair, "pair", "template")) - 1


def test_score_of_the_demo(llava: Any, questions: list[Question]) -> None:
    result = mmerank.score(llava, [*questions, Skipped("x", "no image"), questions[0]])
    assert result.score.value == 1 and result.n == 12 and result.chance == 0.25
    twice = Skipped(questions[0].id, "the id occurs twice; the first record is kept")
    assert result.skipped == (Skipped("x", "no image"), twice) and list(result.categories) == ["a", "b"]
    assert "n = 12 questions; chance 0.250" in str(result) and "skipped x: no image" in str(result)
    untrained = mmerank.score(llava.untrained(0), questions)
    assert untrained.score.low < 0.25 < untrained.score.high and "holds chance" in str(untrained)
    frame = result.summary()
    assert list(frame["metric"]) == ["acc", "acc_norm", "acc_token"] and set(frame["value"]) == {1.0}
    json.dumps(result.to_dict(), allow_nan=False)


def test_what_is_no_question(llava: Any, questions: list[Question]) -> None:
    with pytest.raises(TypeError, match="load_questions"):
        mmerank.score(llava, mmerank.load_data("demo"))
    with pytest.raises(DataError, match="'x': no image"):
        mmerank.score(llava, [*questions, Skipped("x", "no image")], strict=True)
    with pytest.raises(DataError, match="no question could be asked; first: 'x'"):
        mmerank.score(llava, [Skipped("x", "no image")])
    two = Question("two", [questions[0].image, questions[1].image], "?", "a", ("a", "b"), 0)
    (found,) = answers(llava, [two]).values()
    assert isinstance(found, Skipped) and "2 pictures" in found.reason
    with pytest.raises(ModelError, match="behind a token"):
        Choices(mmerank.wrap(*tiny_models.built("paligemma")[:2], name="tiny"))


@pytest.fixture(scope="module")
def file(questions: list[Question], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    rows = []
    for i, question in enumerate(questions):
        question.image.save(folder / f"{i}.png")  # type: ignore[union-attr]
        answer = "ABCD"[question.right]
        rows.append(
            {
                "question": question.instruction,
                "choices": list(question.choices),
                "answer": answer,
                "image": f"{i}.png",
            }
        )
    rows.append({**rows[0], "image": "gone.png"})
    path = folder / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_command_is_continued(file: Path, tmp_path: Path) -> None:
    command = ["score", "demo-llava", "--data", f"choices:{file}", "--answers", "texts", "--out", str(tmp_path / "s")]
    done = run(*command)
    assert done.returncode == 0 and "1.0000" in done.stdout and "skipped 13: gone.png: no such file" in done.stdout
    (kept,) = (tmp_path / "s" / "answers").glob("*.jsonl")
    lines = kept.read_bytes().splitlines(keepends=True)
    # As a process leaves it that is killed in the middle of a line; what is kept is not asked again.
    answered = [json.loads(line) for line in lines[1:] if b"loglikelihoods" in line]
    for entry in answered[0].values():
        entry["loglikelihoods"] = [-8.0] * 4
    whole = [json.dumps(entry).encode() + b"\n" for entry in answered]
    kept.write_bytes(b"".join([lines[0], *whole[:4]]) + whole[4][:9])
    again = run(*command)
    assert again.returncode == 0 and f"{11.25 / 12:.4f}" in again.stdout
    assert "right answers as likely as another: 1" in again.stdout
    assert len(kept.read_bytes().splitlines()) == len(lines)
    other = run("score", "demo-minigpt-v2", *command[2:])
    assert other.returncode == 0
    scores = (tmp_path / "s" / "scores.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in scores[1:]] == ["demo-llava", "demo-minigpt-v2"]
    assert "holds other scores (data:" in failure(*command[:4], "--limit", "3", *command[4:])[1]
    assert (tmp_path / "s" / "command.yaml").is_file()


def test_processes_share_the_questions(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["score", "demo-llava", "--data", f"choices:{file}", "--answers", "texts", "--out", str(tmp_path)]
    for index in ("1", "0"):
        monkeypatch.setenv("RANK", index)
        monkeypatch.setenv("WORLD_SIZE", "2")
        done = run(*command)
        assert done.returncode == 0
        assert ("with other processes" in done.stderr) == (index == "1")
    summary = json.loads((tmp_path / "summary.json").read_text())["results"][0]
    assert summary["n"] == 12 and [of["id"] for of in summary["skipped"]] == ["13"]
    assert len(list((tmp_path / "answers").glob("*.jsonl"))) == 2


def test_another_model_of_the_name(llava: Any, questions: list[Question], tmp_path: Path) -> None:
    mmerank.score(llava, questions[:2], out=tmp_path)
    assert "demo-llava,examples,acc,1.0,2,fraction" in (tmp_path / "scores.csv").read_text()
    other = [replace(of, choices=of.choices[::-1], right=3 - of.right) for of in questions[:2]]
    with pytest.raises(RunFolderError, match="holds other scores"):
        mmerank.score(llava, other, out=tmp_path)
    twin = llava.untrained(0)
    twin.name = llava.name
    with pytest.raises(RunFolderError, match="another model there"):
        mmerank.score(twin, questions[:2], out=tmp_path)
    with pytest.raises(RunFolderError, match="holds other scores"):
        mmerank.score(llava, questions[:2], sequence="bare", out=tmp_path)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x").touch()
    with pytest.raises(RunFolderError, match="not a folder of scores"):
        mmerank.score(llava, questions[:2], out=tmp_path / "more")


@pytest.fixture(scope="module")
def task(questions: list[Question], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A generation task over four pictures, the answer to one of them wrong."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("task")
    rows = {
        "question": [of.instruction for of in questions[:4]],
        "answer": [*(of.response for of in questions[:3]), "something else"],
        "image": [of.image for of in questions[:4]],
    }
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.to_parquet(str(folder / "rows.parquet"))
    stated = {
        "task": "described",
        "dataset_path": "parquet",
        "dataset_kwargs": {
            "data_files": {"test": str(folder / "rows.parquet")},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "<image>{{question}}",
        "doc_to_image": ["image"],
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 90, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    path = folder / "described.yaml"
    path.write_text(yaml.safe_dump(stated))
    yield path


def test_generation_on_the_loaded_model(
    task: Path, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmerank.jobs.generated import generated

    model, processor, _ = tiny_models.built("qwen2_vl")
    adapter = mmerank.wrap(model, processor, name="tiny")
    seen: list[Any] = []
    own = type(model).generate

    def generate(self: Any, *arguments: Any, **options: Any) -> Any:
        seen.append((self, options))
        return own(self, *arguments, **options)

    monkeypatch.setattr(type(model), "generate", generate)
    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", None)
    result = generated(adapter, f"lm-eval:{task}", limit=2)
    assert result.score.value == 0 and result.n == 2 and math.isnan(result.score.low)
    assert all(of is model for of, _ in seen) and len(seen) == 2
    # What is fed is what the processor makes of the chat template.
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": questions[0].instruction}]}
    text = processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    picture = questions[0].image.convert("RGB")  # type: ignore[union-attr]
    expected = processor(text=text, images=picture, return_tensors="pt")["input_ids"]
    assert any(torch.equal(options["input_ids"], expected) for _, options in seen)


def test_generated_answers_are_those_of_lm_eval(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against its own model, which loads the checkpoint itself."""
    from lm_eval import evaluate
    from lm_eval.models.hf_vlms import HFMultimodalLM

    from mmerank.jobs.accuracy import questions_of
    from mmerank.jobs.generated import generated

    checkpoint = tiny_models.saved("qwen2_vl", tmp_path / "tiny")
    theirs = HFMultimodalLM(str(checkpoint), device="cpu", dtype="float32")
    found = evaluate(theirs, questions_of(str(task)), limit=3, bootstrap_iters=0, apply_chat_template=True)
    expected = [sample["resps"][0][0] for sample in found["samples"]["described"]]
    answers: list[str] = []
    own = HFMultimodalLM.generate_until

    def generate_until(self: Any, *arguments: Any, **options: Any) -> list[str]:
        answers.extend(own(self, *arguments, **options))
        return answers

    monkeypatch.setattr(HFMultimodalLM, "generate_until", generate_until)
    generated(mmerank.load(str(checkpoint), dtype="float32"), f"lm-eval:{task}", limit=3)
    assert answers == expected and len(set(answers)) == 3


def test_generation_from_the_command_line(task: Path, tmp_path: Path) -> None:
    done = run("score", "demo-llava", "--data", f"lm-eval:{task}", "--json", "-", "--out", str(tmp_path / "s"))
    (found,) = json.loads(done.stdout)["results"]
    assert found["numbers"]["exact_match"]["value"] == 0.75 and found["n"] == 4
    assert "exact_match,0.75,4" in (tmp_path / "s" / "scores.csv").read_text()
    assert "no processor" in failure("score", "demo-minigpt-v2", "--data", f"lm-eval:{task}")[1]
    status, said = failure("score", "demo-llava", "--data", "lm-eval:none.yaml")
    assert status == 2 and "no such file" in said
    text = task.with_name("choice.yaml")
    stated = yaml.safe_load(task.read_text()) | {"task": "choice", "output_type": "multiple_choice"}
    stated |= {"doc_to_choice": ["a", "b"], "doc_to_target": 0, "metric_list": [{"metric": "acc"}]}
    text.write_text(yaml.safe_dump(stated))
    status, said = failure("score", "demo-llava", "--data", f"lm-eval:{text}")
    assert status == 2 and "only generation tasks" in said


def test_a_job_of_studies(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmerank.jobs.cells._status", forked.cell)
    study = {
        "models": ["demo-llava"],
        "data": ["demo"],
        "limit": 2,
        "jobs": ["align", {"score": {"data": [f"choices:{file}"], "answers": "texts"}}],
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    done = run("study", str(tmp_path / "s.yaml"))
    assert done.returncode == 0 and "2 done" in done.stdout
    assert "--scores" in done.stdout
    said = run("report", str(tmp_path / "s"), "--scores", str(tmp_path / "s"), "--csv", "--out", str(tmp_path / "r"))
    assert said.returncode == 0 and (tmp_path / "r" / "agreement_points.csv").is_file()
    (scores,) = (tmp_path / "s").glob("score-*")
    assert "scores on a benchmark; mmerank report RUN... --scores" in failure("report", str(scores))[1]


def test_bad_arguments(file: Path) -> None:
    with pytest.raises(UsageError, match="did you mean pope"):
        mmerank.load_questions("popp:x.json")
    status, said = failure("score", "demo-llava", "--data", str(file))
    assert status == 2 and "unknown questions" in said
    with pytest.raises(UsageError, match="letters or texts"):
        mmerank.load_questions(f"choices:{file}", answers="both")  # type: ignore[arg-type]
