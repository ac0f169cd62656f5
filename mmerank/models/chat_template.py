"""Whether a checkpoint's own chat template is the one that an adapter feeds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmerank.files import regular_bytes
from mmerank.models.stored import file_of, json_object

QUESTION, ANSWER, PICTURE = "What is this?", "A red ball.", "<image>"


def other_template(
    checkpoint: str | Path,
    tokenizer: Any,
    expected: Iterable[str],
    *,
    picture: str | None = None,
    revision: str | None = None,
) -> str | None:
    """What the checkpoint's own template makes of one exchange, where that is nothing an adapter would feed.

    Args:
        checkpoint: Directory or hub id.
        tokenizer: Its tokenizer.
        expected: The exchange of `QUESTION` (about a `PICTURE` in front of it) and `ANSWER` as the adapter feeds it,
            in all forms that are the same to it. BOS, EOS and the amount of white space do not count.
        picture: What the checkpoint calls a picture in a text; None for `PICTURE`.
        revision: On the hub; None for the newest.

    Returns:
        The exchange as the checkpoint has it; None where it is among `expected`, or the checkpoint has no template.
    """
    template = _template(checkpoint, revision, tokenizer)
    if template is None:
        return None
    known = {_plain(tokenizer, text, picture) for text in expected}
    parts = [[{"type": "image"}, {"type": "text", "text": QUESTION}], [{"type": "text", "text": ANSWER}]]
    found: list[str] = []
    # Templates of processors read parts, those of tokenizers text.
    for question, answer in (parts, (f"{picture or PICTURE}\n{QUESTION}", ANSWER)):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        try:
            text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
        except Exception as error:  # whatever a template comes to
            found.append(f"nothing ({str(error).strip() or type(error).__name__})")
            continue
        if (plain := _plain(tokenizer, text, picture)) in known:
            return None
        found.append(plain)
    return found[0] if QUESTION in found[0] else found[-1]


def _template(checkpoint: str | Path, revision: str | None, tokenizer: Any) -> str | None:
    """The template of the processor, or that of the tokenizer."""
    if file := file_of(checkpoint, "chat_template.jinja", revision):
        try:
            return regular_bytes(file).decode()
        except (OSError, ValueError):
            return None
    for name in ("chat_template.json", "processor_config.json"):
        if stated := json_object(file_of(checkpoint, name, revision)).get("chat_template"):
            return _chosen(stated)
    return _chosen(getattr(tokenizer, "chat_template", None))


def _chosen(stated: Any) -> str | None:
    """The template, or of several by name the default one."""
    if isinstance(stated, list):
        stated = {each.get("name"): each.get("template") for each in stated if isinstance(each, dict)}
    if isinstance(stated, dict):
        stated = stated.get("default")
    return stated if isinstance(stated, str) else None


def _plain(tokenizer: Any, text: str, picture: str | None) -> str:
    for token in (tokenizer.bos_token, tokenizer.eos_token):
        text = text.replace(token, " ") if token else text
    return " ".join((text.replace(picture, PICTURE) if picture else text).split())
