"""A checkpoint's own chat template against the one that an adapter feeds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmerank import Example, load
from mmerank.errors import ModelError
from tests.adapters.cases import LLAVA, examples
from tests.conftest import GOLDEN

# As on the hub: without the sentence in front.
PUBLISHED = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% endfor %}"
)
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
GENERATION = PUBLISHED.replace(
    "{{ content['text'] + ' '}}", "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}"
)
VICUNA = (
    "{{ bos_token + '" + SYSTEM.replace("'", "\\'") + "' }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ ' USER: ' + m['content'] }}{% else %}{{ ' ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
PARTS = PUBLISHED.replace("message['role'].upper() + ': '", "'<' + message['role'] + '>'")
BROKEN = "{{ raise_exception('not for you') }}"
PLACES = ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json")


def with_template(folder: Path, template: str, place: str) -> Path:
    shutil.copytree(GOLDEN / "llava_tiny" / "hf_model", folder, copy_function=shutil.copyfile)
    file = folder / place
    if place.endswith("jinja"):
        file.write_text(template)
    else:
        content = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**content, "chat_template": template}))
    return folder


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("template", [PUBLISHED, GENERATION, VICUNA], ids=["published", "generation", "vicuna"])
def test_the_templates_that_are_known(template: str, place: str, tmp_path: Path) -> None:
    adapter = load(with_template(tmp_path / "model", template, place), device="cpu")
    assert "chat_template" not in adapter.source
    (example, *_) = examples()
    assert adapter.sequence(example, "pair", "template") == LLAVA.adapter.sequence(example, "pair", "template")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("template", "says"),
    [
        (INST, "[INST] <image> What is this? [/INST]"),
        (CHATML, "<|im_start|>user"),
        (PARTS, "<user>"),
        (BROKEN, "not for"),
    ],
    ids=["inst", "chatml", "parts", "broken"],
)
def test_another_template_is_refused_where_it_is_asked_for(
    template: str, says: str, place: str, tmp_path: Path
) -> None:
    adapter = load(with_template(tmp_path / "model", template, place), device="cpu")
    assert says in adapter.source["chat_template"]
    (example, *_) = examples()
    for kind in ("image", "text", "pair"):
        assert adapter.sequence(example, kind, "bare") == LLAVA.adapter.sequence(example, kind, "bare")
        for model in (adapter, adapter.untrained(0)):
            with pytest.raises(ModelError, match="its own chat template gives .*--sequence bare"):
                model.sequence(example, kind, "template")


def test_a_template_needs_an_eos(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "llava_tiny" / "hf_model", folder, copy_function=shutil.copyfile)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    adapter = load(folder, device="cpu")
    example = Example("a", None, "What?", "A ball.")
    assert len(adapter.sequence(example, "text", "bare")) > 2
    with pytest.raises(ModelError, match="names no eos_token"):
        adapter.sequence(example, "text", "template")
