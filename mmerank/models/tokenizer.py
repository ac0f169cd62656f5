"""A checkpoint's tokenizer: the one that its files describe, whatever class transformers reads them with."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmerank.errors import ModelError, first_line
from mmerank.models.plausible import check_folder
from mmerank.models.stored import file_of, json_object

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_VOCABULARIES = (FILE, *_SENTENCEPIECE, "vocab.json", "vocab.txt", "tekken.json")
# Settings that classes put in the place of what tokenizer.json says, where they are not null.
_OLD_SETTINGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space")
# Texts of as many kinds as tokenizers differ on: spaces, forms and cases of letters, digits, scripts, code, controls.
_PLAIN = (
    "",
    " ",
    "\n",
    "a",
    "Hello",
    " hello",
    "hello ",
    "  two  spaces  ",
    "A cat sits on the mat, and the dog doesn't.",
    "It's we'll they've I'm you're he'd DON'T WE'LL",
    "\ttab\tand\r\nlines\n\n\n  indented\n",
    "\u00a0no\u2003break\u3000spaces\u200b",
    "UPPER lower MiXeD",
    "\u00e9t\u00e9 e\u0301te\u0301 na\u00efve \u0130\u0131 \u00df \u017f",
    "\uff26\uff35\uff2c\uff2c \u2460 \ufb01ne \u00bd \u2122 \u212b",
    "0 12 123 1234 12345678 3.14159 1,000,000",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u3053\u3093\u306b\u3061\u306f \uc548\ub155 \ud558\uc138\uc694",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u03ba\u03ac \u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e31",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd \u2764\ufe0f \U0001d538",
    "def f(x):\n    return {'a': [x**2, -1]}  # ok\n",
    "https://example.org/a_b?c=1&d=%20#e me@example.org C:\\x\\y",
    "...!!!??? -- \u2014 \u201cquoted\u201d \u2018single\u2019 (a)[b]{c}<d>",
    "$x_1 = \\frac{a}{b}$ \u2264 \u221e \u00b1",
    "nul\x00bell\x07escape\x1b[0m\x7f",
    "\ufeffmark \u202ertl\u202c soft\u00adhyphen \ufffd",
    "Donaudampfschifffahrtsgesellschaft" * 8,
    "a" * 300,
    "\u2581already \u0120marked ##pieces </w>",
)


@dataclass(frozen=True)
class Loaded:
    """A tokenizer, and what is to be said of it.

    Attributes:
        tokenizer: As transformers has it.
        stated: For the model's `source`: how it was read, where that is not as transformers' class reads it.
        cautions: Where its files contradict each other.
    """

    tokenizer: Any
    stated: Mapping[str, str]
    cautions: tuple[str, ...]


def load_tokenizer(source: str | Path, revision: str | None = None, *, around: bool = True) -> Loaded:
    """The tokenizer of a checkpoint, with the ids that its tokenizer.json gives.

    Several classes of transformers build a tokenizer of their own from the file's vocabulary alone, without its
    normaliser, splitting or special tokens. Texts of many kinds are encoded both ways; where the ids differ, and no
    setting of tokenizer_config.json asks for it, the file is read as it stands.

    Args:
        source: Hub id or directory.
        revision: On the hub; None for the newest.
        around: Whether its files alone say which BOS and EOS are put around texts. Else what transformers' class puts
            there stays, for a processor, or a family that puts them itself.

    Returns:
        The tokenizer, and what is to be said of it.

    Raises:
        ModelError: There is none, it cannot be loaded, it draws at random, or says that it adds a token that it does
            not name; or what lies in the directory is no regular file.
    """
    from transformers import AutoTokenizer

    if Path(source).is_dir():
        check_folder(source)  # which need not be that of the model
    where = {"revision": revision or "main", "trust_remote_code": False}
    file, settings = file_of(source, FILE, revision), json_object(file_of(source, CONFIG, revision))
    raw = None if file is None else _read(file)
    read: dict[str, str] = {}
    cautions: list[str] = []
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
    except Exception as error:  # tokenizers raises bare Exceptions
        if raw is None:
            raise ModelError(
                f"{source}: its tokenizer cannot be loaded ({_reason(source, revision, error)})"
            ) from error
        tokenizer = None
    if raw is not None:
        name = "transformers" if tokenizer is None else type(tokenizer).__name__
        other = None if tokenizer is None else _difference(tokenizer, raw)
        if (variant := _as_stated(file, settings)) and not _alike(variant[1], raw):
            follows = tokenizer is not None and _difference(tokenizer, variant[1]) is None
            which = "former" if follows else "latter"
            cautions.append(f"{CONFIG} says {variant[0]}, and {FILE} does otherwise; the {which} is followed")
            raw, other = (variant[1], None) if follows else (raw, other)
        if tokenizer is None or other is not None or _specials_differ(tokenizer, raw, source, where):
            before, tokenizer = tokenizer, _generic(source, where, instead_of=tokenizer)
            if before is not None and not around:
                tokenizer.backend_tokenizer.post_processor = before.backend_tokenizer.post_processor
            tokenizer.backend_tokenizer.normalizer = raw.normalizer
            tokenizer.backend_tokenizer.pre_tokenizer = raw.pre_tokenizer
            read["tokenizer_read"] = f"{FILE} as it stands, which {name} would read in another way"
            if (other := _difference(tokenizer, raw)) is not None:
                raise ModelError(
                    f"{source}: {name} and {type(tokenizer).__name__} of transformers give {other!r} other ids than "
                    f"its {FILE}; save the tokenizer anew with the version of transformers in use"
                )
    if around:
        _check_added(tokenizer, settings, source)
    if raw is not None:
        cautions += _unknown(tokenizer, raw, settings, source, revision)
        cautions += _around(tokenizer, raw, settings, read) if around else []
    # Without any file of one, several classes of transformers give a tokenizer of nothing but special tokens.
    if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
        raise ModelError(f"{source}: no tokenizer there (its vocabulary would be empty)")
    return Loaded(tokenizer, read, tuple(cautions))


def probed(tokenizer: Any) -> dict[str, list[int]]:
    """The ids of texts of many kinds, none of which begins with white space.

    Args:
        tokenizer: As transformers loads it.

    Returns:
        By text.
    """
    return {text: _ids(tokenizer, text) for text in _PLAIN if text and text[0] not in " \u2581"}


def stated(name: str, loaded: Loaded, *cautions: str) -> dict[str, Any]:
    """What a model's `source` says of its tokenizer; its cautions are warned of.

    Args:
        name: The model's.
        loaded: Its tokenizer.
        *cautions: Further ones.

    Returns:
        JSON values by name; nothing where there is nothing to say.
    """
    said = [*loaded.cautions, *cautions]
    for caution in said:
        warnings.warn(f"{name}: {caution}", stacklevel=3)
    return {**loaded.stated, **({"cautions": said} if said else {})}


def _difference(tokenizer: Any, raw: Any, texts: Iterable[str] = _PLAIN) -> str | None:
    """The first text that two tokenizers split in different ways, without special tokens around it."""
    return _first(
        texts, lambda text: _ids(tokenizer, text), lambda text: raw.encode(text, add_special_tokens=False).ids
    )


def _alike(one: Any, other: Any) -> bool:
    """Whether two tokenizers of the `tokenizers` library give the same ids."""
    return all(one.encode(text).ids == other.encode(text).ids for text in _PLAIN)


def _first(texts: Iterable[str], one: Callable[[str], list[int]], other: Callable[[str], list[int]]) -> str | None:
    for text in texts:
        try:
            if one(text) != other(text):
                return text
        except Exception:  # tokenizers raises bare ones, for a class that names a token which the file does not have
            return text
    return None


def _ids(tokenizer: Any, text: str, *, around: bool = False) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=around, truncation=False, verbose=False)["input_ids"]
    return ids


def _specials_differ(tokenizer: Any, raw: Any, source: str | Path, where: Mapping[str, Any]) -> bool:
    """Whether the class reads special tokens inside a text otherwise than the file and its settings say."""
    from transformers import PreTrainedTokenizerFast

    tokens = [str(token) for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    texts = [text for token in [*tokens[:16], *tokens[-16:]] for text in (token, f"a {token} b{token}c ")]
    if type(tokenizer) is PreTrainedTokenizerFast or _difference(tokenizer, raw, texts) is None:
        return False
    generic = _generic(source, where, instead_of=None)
    return _first(texts, lambda text: _ids(tokenizer, text), lambda text: _ids(generic, text)) is not None


def _around(tokenizer: Any, raw: Any, settings: Mapping[str, Any], read: dict[str, str]) -> list[str]:
    """Have the tokens around a text as the file says, where tokenizer_config.json does not say otherwise."""
    stated = {side: settings.get(f"add_{side}_token") for side in ("bos", "eos")}
    inner, whole = (raw.encode("a", add_special_tokens=around).ids for around in (False, True))
    at = next((i for i in range(len(whole) - len(inner) + 1) if whole[i : i + len(inner)] == inner), 0)
    ends = {"bos": whole[:at], "eos": whole[at + len(inner) :]}
    wanted = dict(ends)
    cautions = []
    for side, says in stated.items():
        if says is None:
            continue
        wanted[side] = [getattr(tokenizer, f"{side}_token_id")] if says else []
        if bool(ends[side]) and not says:
            cautions.append(
                f"{CONFIG} says add_{side}_token: false, and {FILE} adds {raw.id_to_token(ends[side][0])}; the "
                "former is followed"
            )
    if _ids(tokenizer, "a", around=True) != [*wanted["bos"], *inner, *wanted["eos"]]:
        name = type(tokenizer).__name__
        tokenizer.backend_tokenizer.post_processor = (
            raw.post_processor if wanted == ends else _template(tokenizer, wanted["bos"], wanted["eos"])
        )
        read["tokenizer_read"] = f"{FILE} as it stands, which {name} would read in another way"
    return cautions


def _unknown(
    tokenizer: Any, raw: Any, settings: Mapping[str, Any], source: str | Path, revision: str | None
) -> list[str]:
    """What is named as BOS or EOS beside a file that does not have it: transformers makes a token of it."""
    named = [settings, json_object(file_of(source, "special_tokens_map.json", revision))]
    decoder = settings.get("added_tokens_decoder")
    added = {str(token.get("content")) for token in decoder.values()} if isinstance(decoder, dict) else set()
    added |= json_object(file_of(source, "added_tokens.json", revision)).keys()
    return [
        f"{side}_token {token!r} is not in {FILE}: it gets the id {getattr(tokenizer, f'{side}_token_id')}, whose "
        "row of the embedding, if there is one, was not trained"
        for side in ("bos", "eos")
        if (token := getattr(tokenizer, f"{side}_token")) is not None
        and any(part.get(f"{side}_token") for part in named)
        and raw.token_to_id(token) is None
        and token not in added
    ]


def _template(tokenizer: Any, first: Iterable[int], last: Iterable[int]) -> Any:
    from tokenizers import processors

    before, after = ([(tokenizer.convert_ids_to_tokens(i), i) for i in ids] for ids in (first, last))
    single = [*(token for token, _ in before), "$A", *(token for token, _ in after)]
    return processors.TemplateProcessing(single=single, special_tokens=[*before, *after])


def _as_stated(file: Path | None, settings: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The tokenizer of a file with the settings of tokenizer_config.json that old classes put in the file's place.

    Returns:
        The settings that differ, and the tokenizer; None where none does.
    """
    from tokenizers import Tokenizer

    if all(settings.get(key) is None for key in _OLD_SETTINGS):
        return None
    content = json_object(file)
    said: dict[str, Any] = {}

    def follow(part: Any, key: str, setting: str, value: Any = None) -> None:
        wanted = settings.get(setting)
        if wanted is not None and part.get(key) != (wanted if value is None else value):
            part[key] = wanted if value is None else value
            said[setting] = wanted

    for part in _steps(content.get("normalizer")):
        if part.get("type") == "BertNormalizer":
            follow(part, "lowercase", "do_lower_case")
            follow(part, "strip_accents", "strip_accents")
            follow(part, "handle_chinese_chars", "tokenize_chinese_chars")
    for part in _steps(content.get("pre_tokenizer")):
        if part.get("type") == "ByteLevel":
            follow(part, "add_prefix_space", "add_prefix_space")
        elif part.get("type") == "Metaspace":
            prefix = settings.get("add_prefix_space")
            if (part.get("prepend_scheme") == "never") is bool(prefix):  # `first` and `always` both put one
                follow(part, "prepend_scheme", "add_prefix_space", "first" if prefix else "never")
    if not said:
        return None
    return ", ".join(f"{key}: {json.dumps(value)}" for key, value in said.items()), Tokenizer.from_str(
        json.dumps(content)
    )


def _steps(part: Any) -> list[dict[str, Any]]:
    """A normaliser or splitting, or those that it is a sequence of."""
    if not isinstance(part, dict):
        return []
    inner = part.get("normalizers") or part.get("pretokenizers")
    return [step for each in inner for step in _steps(each)] if isinstance(inner, list) else [part]


def _read(file: Path) -> Any:
    """The tokenizer in a file."""
    from tokenizers import Tokenizer

    try:
        raw = Tokenizer.from_file(str(file))
    except Exception as error:  # a bare one
        raise ModelError(f"{file}: not a tokenizer ({first_line(error)}), so it cannot be loaded") from error
    raw.no_truncation()
    raw.no_padding()
    try:
        raw.encode_batch(list(_PLAIN))
    except Exception as error:  # a bare one
        raise ModelError(f"{file}: cannot encode any text ({first_line(error)})") from error
    if getattr(raw.model, "dropout", None):
        raise ModelError(
            f"{file}: its model has a dropout of {raw.model.dropout}, so a text gets other tokens each time; say null"
        )
    return raw


def _generic(source: str | Path, where: Mapping[str, Any], *, instead_of: Any) -> Any:
    """The tokenizer as the file has it; what the class calls BOS, and so on, stays where the file has that token."""
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source, **where)
    except Exception as error:
        raise ModelError(f"{source}: its tokenizer cannot be loaded ({first_line(error)})") from error
    for name in ("bos_token", "eos_token", "unk_token", "pad_token") if instead_of is not None else ():
        token = getattr(instead_of, name)
        if getattr(tokenizer, name) is None and token in tokenizer.get_vocab():
            setattr(tokenizer, name, token)
    return tokenizer


def _check_added(tokenizer: Any, settings: Mapping[str, Any], source: str | Path) -> None:
    for side in ("bos", "eos"):
        if not isinstance(says := settings.get(f"add_{side}_token"), bool | None):
            raise ModelError(f"{source}: {CONFIG} says add_{side}_token: {says!r:.40}, expected true or false")
        if says and getattr(tokenizer, f"{side}_token_id") is None:
            raise ModelError(
                f"{source}: {CONFIG} says add_{side}_token: true, and names no {side}_token; name it, or say false"
            )


def _reason(source: str | Path, revision: str | None, error: Exception) -> str:
    """Why there is no tokenizer, in words that say what to do."""
    there = [name for name in _VOCABULARIES if file_of(source, name, revision)]
    if Path(source).is_dir() and not there:
        return f"none of {', '.join(_VOCABULARIES[:2])}, vocab.json and vocab.txt is there"
    if set(there) & set(_SENTENCEPIECE):
        missing = [name for name in ("sentencepiece", "google.protobuf") if not _installed(name)]
        if missing:
            packages = " ".join(missing).replace("google.", "")
            return f"{there[0]} alone needs more packages: pip install {packages}; or give it a {FILE}"
    return first_line(error)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
