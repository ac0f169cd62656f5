"""The tokenizer that ships is the one that is used; the reference is the `tokenizers` library on the file alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mmerank.errors import ModelError
from mmerank.models.loading import _of_fast, tokenizer_fingerprint
from mmerank.models.special_tokens import check_bos, size_cautions, special_cautions
from mmerank.models.tokenizer import load_tokenizer
from tests.adapters.text_cases import LLAMA, OPT, TEXT_CASES, TEXTS, llama_tokenizer

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
READ = [
    *TEXTS,
    "",
    " leading",
    "two  spaces ",
    "\n\nlines\n",
    "\uff26\uff35\uff2c\uff2c \ufb01ne \u00e9t\u00e9 e\u0301te\u0301",
    "UPPER Lower",
    "12345 678",
    "\u4f60\u597d\uff0c\u4e16\u754c \u0645\u0631\u062d\u0628\u0627",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "a<s>b</s> c",
    "x" * 200,
]


def bpe(pre: Any, *, normalizer: Any = None, special: list[str] | None = None) -> Tokenizer:
    """A byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL if special is None else special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, "12 345 678 " * 99], trainer)
    return tokenizer


def byte_level() -> Tokenizer:
    return bpe(pre_tokenizers.ByteLevel(add_prefix_space=False))


def nfkc() -> Tokenizer:
    return bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizer=normalizers.NFKC())


def lower() -> Tokenizer:
    return bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizer=normalizers.Lowercase())


def prefixed() -> Tokenizer:
    return bpe(pre_tokenizers.ByteLevel(add_prefix_space=True))


def cl100k() -> Tokenizer:
    split = pre_tokenizers.Split(Regex(CL100K), "isolated")
    return bpe(pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))


def digits() -> Tokenizer:
    single = pre_tokenizers.Digits(individual_digits=True)
    return bpe(pre_tokenizers.Sequence([single, pre_tokenizers.ByteLevel(add_prefix_space=False)]))


def with_bos() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def with_eos() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return tokenizer


def with_runs() -> Tokenizer:
    """Runs of spaces that are tokens of their own, as GPT-NeoX and Phi have them."""
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("  ", normalized=False), AddedToken("    ", normalized=False)])
    return tokenizer


def legacy_llama() -> Tokenizer:
    return Tokenizer.from_file(str(LLAMA.folder / "tokenizer.json"))


def metaspace() -> Tokenizer:
    tokenizer = legacy_llama()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    return tokenizer


def gemma() -> Tokenizer:
    tokenizer = legacy_llama()
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    return tokenizer


def unigram() -> Tokenizer:
    """As T5, ALBERT and XLNet have it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def wordpiece(lowercase: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*TEXTS, *map(str.upper, TEXTS)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def cased() -> Tokenizer:
    return wordpiece(lowercase=False)


def stripped() -> Tokenizer:
    """Of which a class that has no such normaliser, and names an unknown token that is not there, raises."""
    return bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizer=normalizers.Strip())


BYTE_LEVEL = [byte_level, stripped, nfkc, lower, prefixed, cl100k, digits, with_bos, with_eos, with_runs]
OTHERS = [legacy_llama, metaspace, gemma, unigram, wordpiece, cased]
LABELS = {
    "GPT2Tokenizer": "gpt2",
    "GPTNeoXTokenizer": "gpt_neox",
    "Qwen2Tokenizer": "qwen2",
    "LlamaTokenizer": "llama",
    "LlamaTokenizerFast": "mistral",
    "GemmaTokenizer": "gemma",
    "BloomTokenizerFast": "bloom",
    "CodeGenTokenizer": "phi",
    "RobertaTokenizer": "roberta",
    "BertTokenizer": "bert",
    "CLIPTokenizer": "clip",
    "T5TokenizerFast": "t5",
    "CohereTokenizer": "cohere",
    "PreTrainedTokenizerFast": "opt",
    "OfNobody": "llama",
}


def files(folder: Path, tokenizer: Tokenizer, label: str, model_type: str = "gpt2", **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    named = {"unk_token": "[UNK]"} if tokenizer.token_to_id("[UNK]") else {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": label, **named, **settings}))
    return folder


def same(tokenizer: Any, raw: Tokenizer) -> bool:
    return all(
        tokenizer(text, add_special_tokens=around)["input_ids"] == raw.encode(text, add_special_tokens=around).ids
        for text in READ
        for around in (True, False)
    )


@pytest.mark.parametrize("made", [*BYTE_LEVEL, *OTHERS], ids=lambda made: made.__name__)
@pytest.mark.parametrize("label", LABELS)
def test_the_files_ids_whatever_its_label(label: str, made: Callable[[], Tokenizer], tmp_path: Path) -> None:
    raw = made()
    loaded = load_tokenizer(files(tmp_path, raw, label, LABELS[label]))
    assert same(loaded.tokenizer, raw)
    assert loaded.cautions == ()
    assert loaded.tokenizer.is_fast and loaded.tokenizer("a", return_offsets_mapping=True)["offset_mapping"]


@pytest.mark.parametrize(
    ("label", "made", "reads"),
    [
        ("GPT2Tokenizer", byte_level, False),
        ("GPT2Tokenizer", nfkc, True),
        ("GPT2Tokenizer", lower, True),
        ("Qwen2Tokenizer", cl100k, True),
        ("LlamaTokenizer", legacy_llama, True),
    ],
)
def test_what_was_read_is_stated(label: str, made: Callable[[], Tokenizer], reads: bool, tmp_path: Path) -> None:
    loaded = load_tokenizer(files(tmp_path, made(), label, LABELS[label], unk_token="<unk>", pad_token="<pad>"))
    wrong = not same(AutoTokenizer.from_pretrained(tmp_path), made())
    assert wrong == reads == ("tokenizer_read" in loaded.stated)
    assert not wrong or label in loaded.stated["tokenizer_read"]


@pytest.mark.parametrize(
    "kind", ["GPT2", "GPTNeoX", "Qwen2", "Llama", "Gemma", "Cohere", "CodeGen", "Roberta", "Bart"]
)
def test_what_a_class_saved_itself_is_sound(kind: str, tmp_path: Path) -> None:
    """With its own normaliser, splitting and special tokens, and nothing to say of it."""
    small = byte_level() if kind not in ("Llama", "Gemma", "Cohere") else legacy_llama()
    model = json.loads(small.to_str())["model"]
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = getattr(transformers, f"{kind}Tokenizer")(vocab=model["vocab"], merges=merges, **special)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.cautions == () and same(loaded.tokenizer, Tokenizer.from_file(str(tmp_path / "tokenizer.json")))
    assert [loaded.tokenizer(text)["input_ids"] for text in READ] == [tokenizer(text)["input_ids"] for text in READ]


@pytest.mark.parametrize("case", TEXT_CASES, ids=lambda case: case.name)
def test_published_layouts_are_sound(case: Any) -> None:
    loaded = load_tokenizer(case.folder)
    assert loaded.cautions == ()
    if case.name == "openelm":  # a configuration of no class of transformers
        return
    theirs = AutoTokenizer.from_pretrained(case.folder, trust_remote_code=False)
    assert [loaded.tokenizer(text)["input_ids"] for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]


def lowered(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)


def without_prefix(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)


def with_prefix(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


@pytest.mark.parametrize(
    ("made", "label", "settings", "change"),
    [
        (cased, "BertTokenizer", {"do_lower_case": True}, lowered),
        (prefixed, "GPT2Tokenizer", {"add_prefix_space": False}, without_prefix),
        (byte_level, "GPT2Tokenizer", {"add_prefix_space": True}, with_prefix),
        (byte_level, "PreTrainedTokenizerFast", {"add_prefix_space": True}, None),
    ],
)
def test_settings_that_contradict_the_file_are_followed_where_the_class_does(
    made: Callable[[], Tokenizer],
    label: str,
    settings: dict[str, Any],
    change: Callable[[Tokenizer], None] | None,
    tmp_path: Path,
) -> None:
    raw = made()
    loaded = load_tokenizer(files(tmp_path, raw, label, LABELS[label], **settings))
    (caution,) = loaded.cautions
    assert f"{next(iter(settings))}: " in caution
    assert f"the {'former' if change else 'latter'} is followed" in caution
    if change:
        assert not same(loaded.tokenizer, raw)
        change(raw)
    assert same(loaded.tokenizer, raw)


def test_a_bos_by_settings_or_by_the_file(tmp_path: Path) -> None:
    def first(made: Callable[[], Tokenizer], **settings: Any) -> tuple[list[int], int]:
        loaded = load_tokenizer(files(tmp_path, made(), "PreTrainedTokenizerFast", **settings))
        return loaded.tokenizer("a")["input_ids"], len(loaded.cautions)

    (a,) = byte_level().encode("a").ids
    assert first(byte_level) == ([a], 0)
    assert first(with_bos) == ([1, a], 0)
    assert first(with_eos) == ([a, 2], 0)
    assert first(byte_level, add_bos_token=True) == ([1, a], 0)
    assert first(with_bos, add_bos_token=True, add_eos_token=True) == ([1, a, 2], 0)
    assert first(with_bos, add_eos_token=False) == ([1, a], 0)  # which alone would drop the BOS
    assert first(with_bos, add_bos_token=False) == ([a], 1)


@pytest.mark.parametrize("side", ["bos", "eos"])
def test_a_token_that_is_to_be_added_and_has_no_name(side: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {f"{side}_token": None, f"add_{side}_token": True}
    with pytest.raises(ModelError, match=f"says add_{side}_token: true, and names no {side}_token"):
        load_tokenizer(files(tmp_path, byte_level(), "PreTrainedTokenizerFast", **settings))


def test_bos_that_is_said_and_not_there(tmp_path: Path) -> None:
    folder = files(tmp_path, byte_level(), "PreTrainedTokenizerFast")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    tokenizer = load_tokenizer(folder).tokenizer
    (said,) = special_cautions(tokenizer, {"bos_token_id": 1}, folder)
    assert "names bos_token_id 1, and the tokenizer has no bos_token" in said
    assert len(special_cautions(tokenizer, {"text_config": {"bos_token_id": 1, "eos_token_id": [2, 3]}}, folder)) == 2
    with pytest.raises(ModelError, match='say "bos_token": "<s>" in tokenizer_config.json'):
        check_bos(tokenizer, {"bos_token_id": 1}, folder)
    # Qwen's tokenizer is said to have none.
    (folder / "tokenizer_config.json").write_text('{"bos_token": null, "eos_token": null}')
    assert special_cautions(load_tokenizer(folder).tokenizer, {"bos_token_id": 1, "eos_token_id": 2}, folder) == ()
    folder = files(tmp_path, with_bos(), "PreTrainedTokenizerFast")
    (said,) = special_cautions(load_tokenizer(folder).tokenizer, {"bos_token_id": 3}, folder)
    assert "BOS is 3, and the tokenizer's <s> is 1" in said


def test_tokens_without_an_embedding() -> None:
    tokenizer = load_tokenizer(OPT.folder).tokenizer
    assert size_cautions(tokenizer, len(tokenizer)) == size_cautions(tokenizer, None) == ()
    (said,) = size_cautions(tokenizer, len(tokenizer) - 2)
    assert said.startswith("the tokenizer has 2 tokens more than the embedding has rows")


def test_a_tokenizer_that_draws_at_random(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.model.dropout = 0.1
    with pytest.raises(ModelError, match=r"tokenizer\.json: its model has a dropout of 0\.1"):
        load_tokenizer(files(tmp_path, tokenizer, "GPT2Tokenizer"))


def test_a_tokenizer_that_raises_is_refused(tmp_path: Path) -> None:
    files(tmp_path, Tokenizer(models.WordLevel({"a": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>")), "GPT2Tokenizer")
    with pytest.raises(ModelError, match=r"tokenizer\.json: cannot encode any text"):
        load_tokenizer(tmp_path)


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    folder = files(tmp_path, byte_level(), "LlamaTokenizer", "llama")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json: not a tokenizer .*cannot be loaded"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer there|none of tokenizer\.json, tokenizer\.model"):
        load_tokenizer(folder)


def test_sentencepiece_alone_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files(tmp_path, byte_level(), "LlamaTokenizer", "llama")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    monkeypatch.setattr("mmerank.models.tokenizer._installed", lambda name: name != "sentencepiece")
    with pytest.raises(ModelError, match=r"tokenizer\.model alone needs more packages: pip install sentencepiece"):
        load_tokenizer(folder)


def test_llama_keeps_its_space_in_front(tmp_path: Path) -> None:
    """Two spaces at the beginning are two, as in sentencepiece and in the file; the class of transformers has one."""
    llama_tokenizer(tmp_path)
    ids = load_tokenizer(tmp_path).tokenizer(" leading", add_special_tokens=False)["input_ids"]
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert ids[0] == vocabulary["\u2581"]


def test_the_hash_of_one_content_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is that of earlier versions, by which records are known; an edit in place is another content."""
    _of_fast.cache_clear()
    read, loads = [], json.loads

    def counted(raw: str) -> Any:
        read.append(len(raw))
        return loads(raw)

    monkeypatch.setattr("mmerank.models.loading.json.loads", counted)
    one, other, named = (PreTrainedTokenizerFast(tokenizer_object=byte_level(), bos_token="<s>") for _ in range(3))
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(other) == tokenizer_fingerprint(one)
    assert len(read) == 1
    content = loads(one.backend_tokenizer.to_str())
    del content["truncation"], content["padding"]
    special = [sorted(one.special_tokens_map.items()), sorted(map(str, one.all_special_tokens))]
    stated = json.dumps([type(one).__name__, content, special], sort_keys=True).encode()
    assert tokenizer_fingerprint(one) == hashlib.sha256(stated).hexdigest()[:16]
    other.add_tokens(["anew"])
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(one)
    named.bos_token = "</s>"
    assert tokenizer_fingerprint(named) != tokenizer_fingerprint(one)
