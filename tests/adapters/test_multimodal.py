"""The adapter for whatever transformers knows, held against the models' own forward on tiny models."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from torch import Tensor

from mmerank import Convention, Example, align, perturb, wrap
from mmerank.convention import SequenceForm
from mmerank.eranks import ERANKS
from mmerank.errors import DataError, ModelError, UsageError
from mmerank.inputs.sequence import IMAGE_ID, KINDS, Kind, Role, TokenSequence
from mmerank.models.adapter import Adapter
from mmerank.models.identity import identity
from mmerank_adapters.llava import Llava
from mmerank_adapters.multimodal import Multimodal
from mmerank_adapters.reading import _without_padding
from tests import reference
from tests.adapters.cases import LLAVA, examples
from tests.adapters.tiny_models import FAMILIES, IMAGE, built, saved, side, words

every_family = pytest.mark.parametrize("name", FAMILIES)


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    drawn = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(drawn)


EXAMPLES = [
    Example("wide", noise(1, (96, 64)), "What is it?", "A red ball on a table."),
    Example("tall", noise(2, (33, 77)), "", "Two dogs run."),
    Example("large", noise(3, (200, 133)), "Tell me.", "A long street, with many cars, and nobody in it."),
]


@cache
def adapter(name: str) -> Adapter:
    model, processor, _ = built(name)
    return wrap(model, processor, name=name)


def flat(states: Any) -> Tensor:
    if not isinstance(states, Tensor):
        states = torch.cat([flat(of) for of in states])
    return states.flatten(0, -2)  # type: ignore[no-any-return]


@torch.inference_mode()
def expected(name: str, example: Example) -> dict[str, Any]:
    """Entropies by eRank, from what the model itself returns on what its processor gives."""
    model, processor, placeholder = built(name)
    states: dict[str, Tensor] = {}
    text = f"{placeholder}{example.text}"
    for label, fed in (
        ("erank3", {"text": placeholder, "images": example.image}),
        ("erank4", {"text": example.text}),
        ("erank5", {"text": text, "images": example.image}),
    ):
        kinds = "mm_token_type_ids" in getattr(processor, "model_input_names", ())
        try:
            inputs = processor(**fed, return_tensors="pt", **({"return_mm_token_type_ids": True} if kinds else {}))
        except Exception:
            inputs = processor.tokenizer(fed["text"], return_tensors="pt")
        inputs.pop("labels", None)
        try:
            encoder = model.get_encoder().text_model if name == "t5gemma2" else None
            if encoder is not None and label == "erank4":
                output = encoder(**inputs, output_hidden_states=True)
            elif encoder is not None:
                start = torch.zeros((1, 1), dtype=torch.long)
                output = model.model(**inputs, decoder_input_ids=start)
                output.hidden_states = (output.encoder_last_hidden_state,)
            else:
                output = model(**inputs, output_hidden_states=True)
        except Exception:  # text alone
            output = model.get_decoder()(**inputs, output_hidden_states=True)
        hidden = getattr(output, "hidden_states", None) or output.language_model_outputs.hidden_states
        states[label] = hidden[-1]
        if label == "erank3":
            pictured = dict(inputs)
    features = None
    inner = model if hasattr(model, "get_image_features") else getattr(model, "model", model)
    if hasattr(inner, "get_image_features") and "aspect_ratio_ids" not in pictured:
        own = {
            key: of for key, of in pictured.items() if key not in ("input_ids", "attention_mask", "token_type_ids")
        }
        own.pop("mm_token_type_ids", None)
        features = inner.get_image_features(**own)
    family = FAMILIES[name]
    states["erank1"] = family.vision(model, pictured, features)
    states["erank2"] = family.connector(model, pictured, features)
    return {label: (len(h := flat(of)), reference.entropy(h.numpy())) for label, of in states.items()}


@every_family
def test_the_models_own_states(name: str) -> None:
    of = adapter(name)
    before = identity(of)
    result = align(of, EXAMPLES)
    assert identity(of) == before, "measuring makes it another model"
    assert not result.skipped
    found = {(r.example, r.point, r.input): r for r in result.records}
    for example in EXAMPLES:
        for label, (n, entropy) in expected(name, example).items():
            if label in of.undefined:
                continue
            record = found[(example.id, *ERANKS[label])]
            assert record.n == n, label
            assert record.entropy == pytest.approx(entropy, abs=1e-5), label


@every_family
def test_batches_order_and_separate_passes_change_nothing(name: str) -> None:
    alone = align(adapter(name), EXAMPLES, batch_tokens=1)
    other = align(adapter(name), EXAMPLES[::-1], batch_tokens=100_000, share_prefix=False)
    assert [r.entropy for r in other.records] == pytest.approx([r.entropy for r in alone.records], abs=1e-6)


@every_family
@pytest.mark.parametrize("form", ["bare", "template"])
def test_roles(name: str, form: SequenceForm) -> None:
    of = adapter(name)
    if form == "template" and not built(name)[2]:
        with pytest.raises(ModelError, match="has no chat template; measure bare sequences"):
            of.sequence(EXAMPLES[0], "pair", form)
        return
    for example in EXAMPLES:
        for kind in KINDS:
            sequence = of.sequence(example, kind, form)
            text = [i for i, role in zip(sequence.ids, sequence.roles, strict=True) if role is Role.TEXT]
            said = example.text if form == "bare" else example.instruction + example.response
            assert of.tokenizer.decode(text) == ("" if kind == "image" else said)
            assert (Role.IMAGE in sequence.roles) == (kind != "text" and not of.undefined)
            bos = of.tokenizer.bos_token_id
            assert all((i == bos) == (role is Role.BOS) for i, role in zip(sequence.ids, sequence.roles, strict=True))


def test_places_without_a_row_of_the_picture_are_template() -> None:
    """The ends of rows of patches, which stand among LLaVA-NeXT's image tokens."""
    of = adapter("llava_next")
    (image,) = of.encode_images([of.pixels(EXAMPLES[0].image, "model")])  # type: ignore[arg-type]
    sequence = of.sequence(EXAMPLES[0], "image", "bare")
    assert image.filled is not None and len(image.filled) == sequence.roles.count(Role.IMAGE)
    newlines = len(image.filled) - sum(image.filled)
    assert newlines > 0 and sequence.with_places(image.filled).roles.count(Role.TEMPLATE) == newlines
    counted = align(of, EXAMPLES[:1], convention=Convention(tokens="modality"))
    assert counted.mean_tokens("erank3") == sum(image.filled)


def test_the_same_numbers_as_the_adapter_of_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaVA-1.5 by both, fed the same pixels and ids."""
    from transformers import LlavaProcessor

    own = LLAVA.adapter
    assert isinstance(own, Llava)
    processor = LlavaProcessor(
        own._image_processor,
        own.tokenizer,
        patch_size=own.model.config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    general = Multimodal.wrap(own.model, processor, name="general")
    token = own.model.config.image_token_id

    def same_ids(example: Example, kind: Kind, form: SequenceForm) -> TokenSequence:
        """A picture and a text are tokenised apart by the one, and together by the other."""
        sequence = own.sequence(example, kind, form)
        return TokenSequence(tuple(token if i == IMAGE_ID else i for i in sequence.ids), sequence.roles)

    monkeypatch.setattr(general, "sequence", same_ids)
    own_result = align(own, examples(), convention=Convention(image_layout="crop"))
    result = align(general, examples())
    assert [(r.n, r.d) for r in result.records] == [(r.n, r.d) for r in own_result.records]
    assert [r.entropy for r in result.records] == pytest.approx([r.entropy for r in own_result.records], abs=1e-6)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "mllama", "pixtral"])
def test_a_model_in_memory_and_its_checkpoint_are_the_same(name: str, tmp_path: Path) -> None:
    loaded = Multimodal.load(saved(name, tmp_path / "model"), name="m", dtype=None, device="cpu")
    result, other = align(loaded, EXAMPLES), align(adapter(name), EXAMPLES)
    assert [r.entropy for r in result.records] == [r.entropy for r in other.records]
    assert result.source["weights"] == other.source["weights"]
    assert loaded.points == adapter(name).points and loaded.source["inspection"] == adapter(name).source["inspection"]


def changed(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_what_the_processor_puts_around_a_text(tmp_path: Path) -> None:
    """PaliGemma's puts BOS behind the picture itself, whatever is said of its tokenizer."""
    folder = saved("paligemma", tmp_path / "model")
    _, processor, _ = built("paligemma")
    whole = processor(text=IMAGE + EXAMPLES[1].text, images=EXAMPLES[1].image, return_tensors="pt")["input_ids"]
    changed(folder / "tokenizer_config.json", add_bos_token=False)
    with pytest.warns(UserWarning, match="add_bos_token: false, and this family gets <s> in front all the same"):
        of = Multimodal.load(folder, name="m", dtype=None, device="cpu")
    assert of.sequence(EXAMPLES[1], "pair", "bare").ids == tuple(whole[0].tolist())
    assert any("all the same" in caution for caution in of.source["cautions"])


def test_bos_that_no_text_gets_is_said_to_be_put_by_none(tmp_path: Path) -> None:
    """Of Qwen-VL's, whose tokenizer has none; and where a configuration names another than is put."""
    quiet = Multimodal.load(saved("qwen2_vl", tmp_path / "qwen"), name="m", dtype=None, device="cpu")
    assert "cautions" not in quiet.source
    folder = saved("llava_next", tmp_path / "next")
    config = json.loads((folder / "config.json").read_text())
    changed(folder / "config.json", text_config=config["text_config"] | {"bos_token_id": 258})
    with pytest.warns(UserWarning, match="config.json says that BOS is 258, and the tokenizer's <s> is 257"):
        Multimodal.load(folder, name="m", dtype=None, device="cpu")


def test_a_copy_of_the_weights_is_stated(tmp_path: Path) -> None:
    folder = saved("internvl", tmp_path / "model")
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    assert Multimodal.load(folder, name="m", dtype=None, device="cpu").source["unread"] == [
        "consolidated.safetensors"
    ]


def test_half_precision_finds_the_same_points(tmp_path: Path) -> None:
    for name in ("qwen3_vl", "internvl", "glm4v", "aya_vision"):
        half = Multimodal.load(saved(name, tmp_path / name), name=name, dtype="bfloat16", device="cpu")
        assert (half.points, half.layers, half.causal) == (
            adapter(name).points,
            adapter(name).layers,
            adapter(name).causal,
        )
        assert align(half, EXAMPLES).erank5 == pytest.approx(align(adapter(name), EXAMPLES).erank5, rel=0.05)


def test_a_model_in_training_is_left_as_it_is() -> None:
    model, processor, _ = built("qwen2_vl")
    model.train()
    try:
        wrap(model, processor, name="m")
        assert all(module.training for module in model.modules())
    finally:
        model.eval()
    with pytest.raises(ModelError, match="expected a multimodal model of transformers, got Linear"):
        wrap(torch.nn.Linear(2, 2), processor, name="m")


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next", "mllama", "paligemma"])
def test_everything_that_can_be_asked_for(name: str, tmp_path: Path) -> None:
    asked = Convention(rows=True, companions=True, match_tokens=3, tokens="modality")
    result = align(adapter(name), EXAMPLES, convention=asked, layers="all", out=tmp_path / "run")
    again = align(adapter(name), EXAMPLES, convention=asked, layers="all", out=tmp_path / "run")
    content = result.to_dict()
    assert again.to_dict() == content and json.dumps(content, allow_nan=False)
    layers = result.layers
    assert layers is not None and layers[-1]["all"] == pytest.approx(result.erank5)
    undefined = set(adapter(name).undefined)
    assert {label for label in ERANKS if content[label] is None} == undefined
    assert bool(undefined) == (content["image_text_alignment"] is None) == ("undefined" in content)
    changed = perturb(adapter(name), EXAMPLES, ["rotate:90", "shuffle-words"], controls=["mismatch"], control_draws=2)
    assert json.dumps(changed.to_dict(), allow_nan=False)
    assert changed.checks.reuse < 1e-5 and changed.checks.text < 1e-5


def test_an_untrained_twin_has_the_same_points() -> None:
    of = adapter("internvl")
    twin, same = of.untrained(0), of.untrained(0)
    assert twin.points == of.points and twin.source["untrained"]
    result = align(twin, EXAMPLES)
    assert [r.n for r in result.records] == [r.n for r in align(of, EXAMPLES).records]
    assert result.erank5 == align(same, EXAMPLES).erank5 != align(of, EXAMPLES).erank5


# What cannot be measured.


def test_no_vision_encoder() -> None:
    """Patches go through one linear layer."""
    vision = {"model_type": "fuyu", "vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2}
    vision |= {"intermediate_size": 48, "num_attention_heads": 2, "patch_size": 14}
    processor = hf.FuyuProcessor(
        hf.FuyuImageProcessor(size=side(), patch_size=side(1)), words("|ENDOFTEXT|", "|SPEAKER|", "|NEWLINE|")
    )
    config = hf.AutoConfig.for_model(**vision)
    model = hf.FuyuForCausalLM(config)
    with pytest.raises(ModelError, match="it has no vision encoder .*so eRank1 is undefined"):
        Multimodal.wrap(model, processor, name="m")


def test_a_processor_that_takes_no_pictures() -> None:
    model, processor, _ = built("qwen2_vl")
    with pytest.raises(ModelError, match="takes no pictures and texts; the checkpoint lacks processor files"):
        Multimodal.wrap(model, processor.tokenizer, name="m")
    with pytest.raises(ModelError, match="expected the processor of the model.* got TokenizersBackend"):
        wrap(model, processor.tokenizer, name="m")


def test_processor_files_that_are_missing(tmp_path: Path) -> None:
    folder = saved("qwen2_vl", tmp_path / "model")
    for file in folder.glob("*processor*"):
        file.unlink()
    with pytest.raises(ModelError, match="processor"):
        Multimodal.load(folder, name="m", dtype=None, device="cpu")


def test_a_package_that_a_processor_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs(*args: Any, **kwargs: Any) -> Any:
        raise ImportError("Package `num2words` is required. Install it with `pip install num2words`.")

    monkeypatch.setattr("mmerank_adapters.from_checkpoint.AutoProcessor.from_pretrained", needs)
    with pytest.raises(ModelError, match="processor cannot be loaded .*pip install num2words"):
        Multimodal.load(saved("qwen2_vl", tmp_path / "model"), name="m", dtype=None, device="cpu")


def test_a_picture_that_the_processor_refuses_is_skipped() -> None:
    thin = Example("thin", noise(4, (2, 900)), "", "A line.")
    result = align(adapter("qwen2_vl"), [*EXAMPLES, thin])
    (skipped,) = result.skipped
    assert skipped.id == "thin" and "the model's processor refuses it (absolute aspect ratio" in skipped.reason


@pytest.mark.parametrize("stage", ["picture", "text"])
@pytest.mark.parametrize("says", [ValueError("no such grid"), RuntimeError("shape mismatch")])
def test_what_the_model_itself_refuses_is_skipped(
    stage: str, says: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = adapter("qwen2_vl")
    odd = Example("odd", noise(4, (112, 280)), "", "A line that is longer than " + "all of " * 9 + "the others.")
    entries = [EXAMPLES[0], odd, *EXAMPLES[1:]]
    (grid,) = {tuple(row) for row in of.pixels(noise(4, (112, 280)), "model")["inputs"]["image_grid_thw"].tolist()}
    longest = max(len(of.sequence(entry, "text", "bare")) for entry in entries)
    forward = type(of.model).forward

    @functools.wraps(forward)
    def refuses(self: Any, *args: Any, **kwargs: Any) -> Any:
        grids = kwargs.get("image_grid_thw")
        if stage == "picture" and grids is not None and grids.tolist() == [list(grid)]:
            raise says
        if stage == "text" and grids is None and kwargs["input_ids"].shape[-1] == longest:
            raise says
        return forward(self, *args, **kwargs)

    expected = align(of, EXAMPLES)
    monkeypatch.setattr(type(of.model), "forward", refuses)
    result = align(of, entries)
    assert [(entry.id, entry.reason) for entry in result.skipped] == [("odd", f"the model fails on it ({says})")]
    assert result.n == len(EXAMPLES) and result.erank5 == pytest.approx(expected.erank5, rel=1e-6)
    with pytest.raises(DataError, match=f"8 examples in a row could not be measured.*{says}"):
        align(of, [replace(odd, id=str(i)) for i in range(9)])


def test_a_picture_token_in_a_text_is_no_picture() -> None:
    says = Example("says", EXAMPLES[0].image, "", "See <|image_pad|> there.")
    result = align(adapter("qwen2_vl"), [EXAMPLES[1], says])
    assert [entry.id for entry in result.skipped] == ["says"]


def test_a_token_in_whose_place_rows_are_put_in_a_text() -> None:
    """By another name than those that a configuration usually has for it."""
    of = adapter("aya_vision")
    held = Example("held", EXAMPLES[0].image, "", "See <|IMG_PATCH|> there.")
    for reason in ("the sign for a picture", "in whose place a row of a picture is put"):
        result = align(of, [EXAMPLES[1], held])
        (skipped,) = result.skipped
        assert skipped.id == "held" and reason in skipped.reason
        of = copy.copy(of)
        of.model = copy.copy(of.model)
        of.model.config = copy.deepcopy(of.model.config)
        of.model.config.image_token_id = None  # type: ignore[union-attr]


def test_rows_of_what_a_picture_was_padded_with() -> None:
    """Told by a mask of rows or of tiles, or by patches that are zero; of other rows it says nothing."""
    rows = torch.arange(12.0).reshape(6, 2)
    assert torch.equal(_without_padding(rows, torch.tensor([[1, 1, 0, 1, 0, 0]])), rows[[0, 1, 3]])
    assert torch.equal(_without_padding(rows, torch.tensor([[1, 0, 1]])), rows[[0, 1, 4, 5]])
    patches = torch.tensor([[[0.5, 0.0], [0.0, 0.0], [0.0, -1.0]]])
    assert torch.equal(_without_padding(rows, patches), rows[[0, 1, 4, 5]])
    assert torch.equal(_without_padding(rows[:4], patches), rows[:4])


def test_states_that_are_not_finite() -> None:
    model, processor, _ = built("qwen2_vl")
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.model.language_model.layers[0].mlp.up_proj.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="hidden states of a picture and a text are not finite; weights are damaged"):
        wrap(model, processor, name="m")


def test_a_processor_of_sound() -> None:
    class Sound(hf.ProcessorMixin):  # type: ignore[misc]
        def __init__(self, tokenizer: Any):
            self.tokenizer = tokenizer

    model, processor, _ = built("qwen2_vl")
    with pytest.raises(ModelError, match="is a Sound, which takes no pictures$"):
        Multimodal.wrap(model, Sound(processor.tokenizer), name="m")


def test_more_positions_than_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands where would be told of the wrong rows."""
    model, processor, _ = built("git")
    of = wrap(model, processor, name="m")
    assert of.sequence(EXAMPLES[0], "pair", "bare").roles[:18] == (Role.IMAGE,) * 17 + (Role.BOS,)
    monkeypatch.setattr(of, "_found", replace(of._found, inserted=None))  # type: ignore[attr-defined]
    said = r"no example could be measured.*its LLM read \d+ positions where its processor gave \d+"
    with pytest.raises(DataError, match=said):
        align(of, EXAMPLES)


def test_a_twin_of_a_model_whose_connector_starts_at_zero() -> None:
    twin = adapter("gemma3").untrained(0)
    assert align(twin, EXAMPLES).n == len(EXAMPLES)
    fresh = hf.AutoModelForImageTextToText.from_config(twin.model.config)
    assert not bool(fresh.model.multi_modal_projector.mm_input_projection_weight.any())


def test_layers_of_peft_in_the_model() -> None:
    """Held against the same model with the layers merged into its weights."""
    peft = pytest.importorskip("peft")
    model, processor, _ = built("qwen2_5_vl")
    asked = peft.LoraConfig(r=2, target_modules=r".*(q_proj|v_proj)$", init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        carrying = peft.get_peft_model(copy.deepcopy(model), asked)
    found = align(wrap(carrying, processor, name="m"), EXAMPLES)
    merged = align(wrap(carrying.merge_and_unload(), processor, name="m"), EXAMPLES)
    assert [r.entropy for r in found.records] == pytest.approx([r.entropy for r in merged.records], abs=1e-5)
    assert found.erank5 != pytest.approx(align(adapter("qwen2_5_vl"), EXAMPLES).erank5, rel=1e-3)
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ModelError, match="PROMPT_TUNING, which is not in the layers of the model"):
        wrap(peft.get_peft_model(copy.deepcopy(model), prompts), processor, name="m")


def test_a_chat_template_that_raises() -> None:
    model, processor, _ = built("qwen2_vl")
    broken = copy.deepcopy(processor)
    broken.chat_template = "{{ raise_exception('roles must alternate') }}"
    of = wrap(model, broken, name="m")
    assert align(of, EXAMPLES).n == 3
    with pytest.raises(ModelError, match="its chat template fails .*measure bare sequences"):
        align(of, EXAMPLES, convention=Convention(sequence="template"))


def test_another_layout_is_the_processors() -> None:
    with pytest.raises(UsageError, match="its own processor decides how a picture is laid out"):
        align(adapter("qwen2_vl"), EXAMPLES, convention=Convention(image_layout="pad"))


def test_too_few_rows_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor, _ = built("qwen2_vl")
    handle = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "inputs_embeds": kwargs["inputs_embeds"].flip(-1)}),
        with_kwargs=True,
    )
    try:
        with pytest.raises(ModelError, match="no module puts out 95% of the picture's rows that enter its LLM"):
            wrap(model, processor, name="m")
    finally:
        handle.remove()
