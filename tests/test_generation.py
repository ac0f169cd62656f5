"""What models write against plain forwards of transformers over prompt and response, read at once."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mmerank
from mmerank.convention import GenerationConvention
from mmerank.engine.plans.generation import Generations
from mmerank.engine.probe import Probe
from mmerank.errors import DataError, ModelError
from mmerank.formulas.changes import acceleration, velocity
from mmerank.inputs.example import Skipped
from mmerank.models.generation import continued
from mmerank.runs.record import Record
from mmerank.states.token_set import TokenSet
from mmerank.states.trajectory import Trajectory
from tests import reference
from tests.adapters import tiny_models
from tests.adapters.text_cases import OPT
from tests.kill_loop import forked
from tests.test_cli import failure, run

NEW, STRIDE = 11, 3
GREEDY = GenerationConvention(max_new_tokens=NEW, stride=STRIDE)


@pytest.fixture(scope="module")
def llava() -> Any:
    return mmerank.load("demo-llava")


@pytest.fixture(scope="module")
def pairs() -> list[mmerank.Example]:
    return [of for of in mmerank.load_data("demo") if isinstance(of, mmerank.Example)][:4]


def written(adapter: Any, example: mmerank.Example, how: GenerationConvention = GREEDY) -> tuple[Record, Record]:
    (found,) = Probe(Generations(adapter, how)).measure([example])
    assert not isinstance(found, Skipped), found.reason
    prompt, response = found.records
    return prompt, response


def check(prompt: Record, response: Record, states: Tensor, logits: Tensor, *, tolerance: float = 1e-5) -> None:
    """Records against states and logits of one pass over the prompt and all tokens of the response but the last."""
    rows, n = states.double().numpy(), prompt.n
    assert len(rows) == n + response.n and response.n == NEW - 1
    assert prompt.entropy == pytest.approx(reference.entropy(rows[:n]), abs=tolerance)
    assert response.entropy == pytest.approx(reference.entropy(rows[n:]), abs=tolerance)
    grown = [reference.entropy(rows[n : n + k]) for k in range(STRIDE, NEW, STRIDE)]
    assert response.trajectory == pytest.approx(grown, abs=tolerance)
    logs = torch.log_softmax(logits[n - 1 :].double(), dim=-1)
    assert response.logit_entropies == pytest.approx(-(logs.exp() * logs).sum(dim=-1).numpy(), abs=1e-4)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "llava_next"])
@torch.inference_mode()
def test_families_as_one_pass_over_all_that_was_read(
    name: str, pairs: list[mmerank.Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmerank.models.generation._ends", lambda *of: [])  # random weights end at once
    model, processor, _ = tiny_models.built(name)
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    # As templates of models that think do: what asks for an answer is not what stands before one.
    thinking = processor.chat_template.replace("{{ '<assistant>' }}", "{{ '<assistant>{think}' }}")
    monkeypatch.setattr(processor, "chat_template", thinking)
    adapter = mmerank.wrap(model, processor, name=name)
    picture: Any = pairs[0].image
    asked = mmerank.Example("q", picture, "What is it?", "A thing.")
    prompt, response = written(adapter, asked)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    text = processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    assert text.endswith("{think}")
    inputs = processor(text=text, images=picture.convert("RGB"), return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    assert processor.tokenizer.decode(ids[0, -NEW:], skip_special_tokens=True) == response.written
    added = ids.shape[1] - 1 - inputs["input_ids"].shape[1]
    whole = {**inputs, "input_ids": ids[:, :-1]}
    for key in inputs:  # masks and kinds of tokens: text follows
        if key != "input_ids" and inputs[key].shape == inputs["input_ids"].shape:
            tail = torch.full((1, added), int(key == "attention_mask"), dtype=inputs[key].dtype)
            whole[key] = torch.cat([inputs[key], tail], dim=1)
    output = model(**whole, output_hidden_states=True)
    check(prompt, response, output.hidden_states[-1][0], output.logits[0])


@torch.inference_mode()
def test_llava_as_one_pass(llava: Any, pairs: list[mmerank.Example]) -> None:
    example, words = pairs[0], llava.tokenizer
    prompt, response = written(llava, example)
    before, answer = llava._template
    start = words(before, add_special_tokens=False)["input_ids"]
    start = [words.bos_token_id, *start] if words.bos_token_id is not None else start
    end = words(f"\n{example.instruction}{answer}", add_special_tokens=False)["input_ids"]
    asked = [*start, *[llava.model.config.image_token_id] * llava.image_tokens, *end]
    pixels = llava.pixels(example.image.convert("RGB"), "model")[None]  # type: ignore[union-attr]
    ids = llava.model.generate(
        input_ids=torch.tensor([asked]), pixel_values=pixels, max_new_tokens=NEW, do_sample=False
    )
    assert words.decode(ids[0, len(asked) :], skip_special_tokens=True) == response.written
    output = llava.model(input_ids=ids[:, :-1], pixel_values=pixels, output_hidden_states=True)
    assert prompt.n == len(asked)
    check(prompt, response, output.hidden_states[-1][0], output.logits[0])


@torch.inference_mode()
def test_minigpt_v2_as_one_pass(pairs: list[mmerank.Example]) -> None:
    adapter: Any = mmerank.load("demo-minigpt-v2")
    prompt, response = written(adapter, pairs[0])
    words, llama = adapter.tokenizer, adapter.model.llama_model
    picture = pairs[0].image.convert("RGB")  # type: ignore[union-attr]
    (image,) = adapter.encode_images([adapter.pixels(picture, "model")])
    start = words("[INST] <Img>", add_special_tokens=False)["input_ids"]
    end = words(f"</Img> {pairs[0].instruction}  [/INST]", add_special_tokens=False)["input_ids"]
    parts = [llama.embed_tokens(torch.tensor(of)) for of in ([words.bos_token_id, *start], end)]
    rows = torch.cat([parts[0], image.connector, parts[1]])[None]
    ids: list[int] = []
    for _ in range(NEW):  # no cache, so that nothing is shared with what is tested
        states = llama(inputs_embeds=rows, use_cache=False).last_hidden_state[0]
        ids.append(int((states[-1] @ adapter._head.T).argmax()))
        last, rows = rows, torch.cat([rows, llama.embed_tokens(torch.tensor([[ids[-1]]]))], dim=1)
    assert last.shape[1] == prompt.n + response.n
    assert words.decode(ids, skip_special_tokens=True) == response.written
    check(prompt, response, states, states @ adapter._head.T)
    with pytest.raises(ModelError, match="no LM head"):
        written(adapter.untrained(0), pairs[0])


@torch.inference_mode()
def test_a_language_model_goes_on_with_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmerank.models.generation._ends", lambda *of: [])
    adapter: Any = mmerank.load_text(OPT.folder, device="cpu")
    monkeypatch.setattr(adapter.model.generation_config, "eos_token_id", None)
    how = GenerationConvention(sequence="bare", max_new_tokens=NEW, stride=STRIDE)
    model, asked = adapter.model, adapter.token_ids("The cat sat on the mat.")
    example = mmerank.Example("t", None, "", "The cat sat on the mat.")
    prompt, response = written(adapter, example, how)
    ids = model.generate(torch.tensor([asked]), max_new_tokens=NEW, do_sample=False)
    output = model(ids[:, :-1], output_hidden_states=True)
    check(prompt, response, output.hidden_states[-1][0], output.logits[0])
    with pytest.raises(ModelError, match="no chat template"):
        Generations(adapter, GREEDY)


def test_entropies_as_rows_are_added() -> None:
    h = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)) + 3
    found = Trajectory(8).fields(TokenSet(h), h, example="", point="", input_kind="")
    expected = [reference.entropy(h[:k].double().numpy()) for k in (8, 16, 24, 32, 40, 48)]
    assert found["trajectory"] == pytest.approx(expected, abs=1e-9) and found["stride"] == 8
    assert len(Trajectory(64).fields(TokenSet(h), h, example="", point="", input_kind="")["trajectory"]) == 0


def test_differences_by_hand() -> None:
    values = [2.0, 5.0, 4.0, 9.0]
    steps = [5 - 2, 4 - 3.5, 9 - 11 / 3]
    assert velocity(values) == pytest.approx(sum(steps) / 3)
    assert acceleration(values) == pytest.approx((steps[1] - steps[0] + steps[2] - steps[1]) / 2)
    assert math.isnan(velocity([1.0])) and math.isnan(acceleration([1.0, 2.0])) and math.isnan(velocity([]))


def test_drawn_tokens_follow_from_seed_and_example(llava: Any, pairs: list[mmerank.Example]) -> None:
    def texts(seed: int, examples: list[mmerank.Example]) -> dict[str, str]:
        how = GenerationConvention(
            max_new_tokens=12, sampling="sampled", temperature=3.0, top_p=0.98, sampling_seed=seed
        )
        torch.manual_seed(len(examples))  # whatever was drawn before
        return {of.example: of.text for of in mmerank.generate(llava, examples, convention=how).responses}

    first = texts(0, pairs)
    assert texts(0, pairs[::-1]) == first and texts(0, pairs[2:]).items() <= first.items()
    assert texts(1, pairs) != first and len(set(first.values())) == len(pairs)


def test_numbers_of_a_data_set(llava: Any, pairs: list[mmerank.Example]) -> None:
    result = mmerank.generate(llava, pairs, convention=GenerationConvention(max_new_tokens=64, stride=4))
    each, numbers = result.responses, result.numbers
    assert [of.example for of in each] == sorted(pair.id for pair in pairs) and result.n == 4
    for name, kind in {"erank_prompt": "prompt", "erank_response": "response"}.items():
        mean = np.mean([record.entropy for record in result.records if record.input == kind])
        assert numbers[name].value == pytest.approx(math.exp(mean))
    assert numbers["erank_velocity"].value == pytest.approx(np.mean([velocity(of.eranks) for of in each]))
    assert numbers["erank_acceleration"].value == pytest.approx(np.mean([acceleration(of.eranks) for of in each]))
    assert numbers["logit_entropy"].value == pytest.approx(np.mean([np.mean(of.logit_entropies) for of in each]))
    assert numbers["response_tokens"].value == np.mean([len(of.logit_entropies) for of in each])
    # Of those alone that are long enough.
    long = [math.log(of.eranks[7]) for of in each if len(of.eranks) > 7]
    at = numbers["erank_response_at_32"]
    assert at.n == len(long) and at.value == pytest.approx(math.exp(np.mean(long)))
    assert "erank_response_at_64" not in numbers  # its last token has no row
    assert set(result.summary()["quantity"]) == set(numbers) and "first difference of eRank" in result.to_markdown()
    assert "eRank of the response" in str(result) and "n = 4 prompts" in result.how_to_report()
    other = mmerank.generate(llava.untrained(0), pairs, convention=result.convention)
    compared = mmerank.compare(other, result)
    assert compared["erank_response"].difference == pytest.approx(
        other.numbers["erank_response"].value - numbers["erank_response"].value
    )
    first = min(name for name in numbers if name.startswith("erank_response_at_"))
    alike = mmerank.compare(other, result, quantities=[first])  # a quantity names its metric
    assert (alike[first].a, alike[first].b) == pytest.approx((other.numbers[first].value, numbers[first].value))


def test_runs_are_continued_shared_and_read_again(llava: Any, tmp_path: Path, pairs: list[mmerank.Example]) -> None:
    how = GenerationConvention(max_new_tokens=12, stride=4)
    whole = mmerank.generate(llava, pairs, convention=how)
    mmerank.generate(llava, pairs[:2], convention=how, out=tmp_path / "first")
    again = mmerank.generate(llava, pairs, convention=how, out=tmp_path / "run")
    again = mmerank.generate(llava, pairs, convention=how, out=tmp_path / "run")
    read = mmerank.Generation.from_run(tmp_path / "run")
    for found in (again, read):
        assert found.to_dict()["intervals"] == whole.to_dict()["intervals"]
        assert [of.text for of in found.responses] == [of.text for of in whole.responses]
        assert [of.eranks for of in found.responses] == [of.eranks for of in whole.responses]
    estimates = mmerank.estimates(tmp_path / "run")
    assert set(estimates["quantity"]) == set(whole.numbers)
    done = run("report", str(tmp_path / "run"), "--out", str(tmp_path / "page"))
    assert not done.returncode
    page = (tmp_path / "page" / "report.html").read_text()
    assert "What models write" in page and "Responses as they grow" in page
    assert (tmp_path / "page" / "figures" / "generation.png").is_file()


def test_what_cannot_be_measured(llava: Any, pairs: list[mmerank.Example], tmp_path: Path) -> None:
    adapter: Any = mmerank.load("demo-llava")
    adapter.max_tokens = 60
    with pytest.raises(DataError, match="a prompt of 71 tokens and 128 new ones; the model reads 60"):
        mmerank.generate(adapter, pairs[:1])
    ends = GenerationConvention(max_new_tokens=3)
    long = mmerank.generate(llava, pairs[:1], convention=ends)
    assert long.n == 1 and math.isnan(long.numbers["erank_velocity"].value)
    with pytest.raises(ModelError, match="has no `generate`"):
        continued(object(), {}, None, ends, lambda of: None)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        GenerationConvention(sampling="sampled", temperature=0)
    with pytest.raises(ValueError, match=r"temperature 0.7 changes nothing of greedy tokens; sampling 'sampled'"):
        GenerationConvention(temperature=0.7)
    (tmp_path / "empty.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    data = ("--data", f"text:{tmp_path}/empty.jsonl#text", "--sequence", "bare", "--max-new-tokens", "9999")
    assert "9999 new ones; the model reads" in failure("generate", str(OPT.folder), "--text-only", *data)[1]


def test_processes_share_the_prompts(llava: Any, pairs: list[mmerank.Example], tmp_path: Path) -> None:
    how = GenerationConvention(max_new_tokens=6, stride=2)

    def work() -> None:
        mmerank.generate(llava, pairs, convention=how, out=tmp_path / "run")

    children = [forked(work, i, 2, tmp_path) for i in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0], (tmp_path / "output-0").read_text()
    alone, shared = mmerank.generate(llava, pairs, convention=how), mmerank.Generation.from_run(tmp_path / "run")
    assert [of.text for of in shared.responses] == [of.text for of in alone.responses]
    assert shared.to_dict()["intervals"] == alone.to_dict()["intervals"]
