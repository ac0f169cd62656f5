"""Whatever decides a model's numbers decides what it is known by, when it is measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmerank import Convention, align, diff, load, load_text, perturb, wrap_text
from mmerank.errors import ModelError, RunFolderError, UsageError
from mmerank.jobs.twins import full_twin_name, twin_source
from mmerank.models.adapter import Adapter
from mmerank.models.described import Description
from mmerank.models.identity import identity, weights_fingerprint
from mmerank.models.protocol import LoadedModel
from mmerank.runs.parts import part_files
from mmerank.runs.settings import record_fingerprint
from tests.adapters.cases import CASES, LLAVA, examples
from tests.adapters.text_cases import LLAMA, OPT, TEXT_CASES
from tests.conftest import GOLDEN
from tests.test_diff_erank import texts, trained_model

Change = Callable[[Any], None]


@contextmanager
def edited(folder: Path, name: str) -> Iterator[Any]:
    """The content of a JSON file, which is written back."""
    content = json.loads((folder / name).read_text())
    yield content
    (folder / name).write_text(json.dumps(content))


def with_value(file: str, *path: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with edited(folder, file) as content:
            for key in path[:-1]:
                content = content[key]
            assert content.get(path[-1]) != value
            content[path[-1]] = value

    return change


def with_weights(edit: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(
            {name: h.contiguous() for name, h in weights.items()}, folder / "model.safetensors", {"format": "pt"}
        )

    return change


def permuted(weights: dict[str, torch.Tensor]) -> None:
    """The same rows of the embeddings in another order, all sums of them as before."""
    (name,) = [name for name in weights if name.endswith("embed_tokens.weight")]
    weights[name] = weights[name].flip(0)


def exchanged(weights: dict[str, torch.Tensor]) -> None:
    first, second, *_ = (name for name in weights if name.endswith("self_attn.k_proj.weight"))
    weights[first], weights[second] = weights[second], weights[first]


def one_bit(weights: dict[str, torch.Tensor]) -> None:
    name = next(name for name in weights if name.endswith("mlp.down_proj.weight"))
    weights[name].view(torch.int32)[-1, -1] ^= 1


def other_ids(folder: Path) -> None:
    with edited(folder, "tokenizer.json") as content:
        vocabulary = content["model"]["vocab"]
        one, other = list(vocabulary)[-2:]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]


def chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")


OF_BOTH: dict[str, Callable[[Path], None]] = {
    "weights: rows of the embeddings": with_weights(permuted),
    "weights: two matrices": with_weights(exchanged),
    "weights: a bit": with_weights(one_bit),
    "known_by.tokenizer: ids": other_ids,
    "known_by.chat_template": chat_template,
}
OF_LLAVA: dict[str, Callable[[Path], None]] = {
    "known_by.tokenizer: BOS": with_value("tokenizer_config.json", "bos_token", value="</s>"),
    "configuration: rope_theta": with_value("config.json", "text_config", "rope_parameters", "rope_theta", value=5e3),
    "configuration: rms_norm_eps": with_value("config.json", "text_config", "rms_norm_eps", value=1e-6),
    "configuration: layer_norm_eps": with_value("config.json", "vision_config", "layer_norm_eps", value=1e-6),
    "configuration: hidden_act": with_value("config.json", "vision_config", "hidden_act", value="gelu"),
    "configuration: vision_feature_layer": with_value("config.json", "vision_feature_layer", value=-1),
    "configuration: limit": with_value("config.json", "text_config", "max_position_embeddings", value=500),
    **{
        f"known_by.image_processor: {key}": with_value("processor_config.json", "image_processor", key, value=value)
        for key, value in {
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "resample": 2,
        }.items()
    },
}
OF_LLAMA: dict[str, Callable[[Path], None]] = {
    "configuration: rope_theta": with_value("config.json", "rope_parameters", "rope_theta", value=5e3),
    "configuration: rms_norm_eps": with_value("config.json", "rms_norm_eps", value=1e-3),
    "known_by.tokenizer: BOS": with_value("special_tokens_map.json", "bos_token", value="</s>"),
}


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "llava_tiny" / "hf_model", tmp_path / "llava"))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LLAMA.folder, tmp_path / "llama"))


@pytest.mark.parametrize("name", [*OF_BOTH, *OF_LLAVA])
def test_a_run_of_another_llava_is_refused(name: str, llava: Path, tmp_path: Path) -> None:
    align(load(llava, device="cpu"), examples(), out=tmp_path / "run")
    ({**OF_BOTH, **OF_LLAVA})[name](llava)
    with pytest.raises(RunFolderError, match=rf"models\.{llava}\.{name.partition(':')[0]}: .* there, .* here"):
        align(load(llava, device="cpu"), examples(), out=tmp_path / "run")


@pytest.mark.parametrize("name", [*OF_BOTH, *OF_LLAMA])
def test_a_run_of_another_language_model_is_refused(name: str, llama: Path, tmp_path: Path) -> None:
    diff(load_text(llama, device="cpu"), texts(), out=tmp_path / "run")
    ({**OF_BOTH, **OF_LLAMA})[name](llama)
    with pytest.raises(RunFolderError, match=rf"models\.{llama}\.{name.partition(':')[0]}: .* there, .* here"):
        diff(load_text(llama, device="cpu"), texts(), out=tmp_path / "run")


def test_the_same_files_are_the_same_model(llava: Path, tmp_path: Path) -> None:
    result = align(load(llava, device="cpu"), examples()[:2], out=tmp_path / "run")
    again = align(load(llava, device="cpu"), examples()[:2], out=tmp_path / "run")
    assert again.source == result.source
    with edited(llava, "config.json") as content:
        content |= {"transformers_version": "5.0.0", "_name_or_path": "elsewhere"}
        content["text_config"]["_name_or_path"] = "elsewhere"
    assert align(load(llava, device="cpu"), examples()[:2], out=tmp_path / "run").erank5 == result.erank5


# In memory.


def noise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def stretched(model: nn.Module) -> None:
    """Rotary frequencies, which are saved nowhere."""
    for name, h in model.named_buffers():
        if "inv_freq" in name:
            h.mul_(0.5)


def epsilon(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 0.1  # type: ignore[assignment]


def shorter(model: nn.Module) -> None:
    list_of = next(m for name, m in model.named_modules() if name.endswith("language_model.layers"))
    list_of[1] = nn.Identity()


def other_layer(model: Any) -> None:
    model.config.vision_feature_layer = -1


def steered(model: Any, strength: float = 0.5) -> None:
    """A hook, which adds to what the connector gives."""
    model.model.multi_modal_projector.register_forward_hook(lambda module, args, output: output + strength)


def replaced(model: Any) -> None:
    inner = model.model.multi_modal_projector.linear_2.forward
    model.model.multi_modal_projector.linear_2.forward = lambda h: 2 * inner(h)


def groups(model: nn.Module) -> None:
    """A whole number, as the experts a token goes to, the window of attention, the stride of a convolution."""
    for module in model.modules():
        if hasattr(module, "num_key_value_groups"):
            module.num_key_value_groups += 1  # type: ignore[assignment, operator]


IN_MEMORY: dict[str, Callable[[Any], Any]] = {
    "weights": noise,
    "weights: buffers": stretched,
    "known_by.modules: epsilon": epsilon,
    "known_by.modules: a hook": steered,
    "known_by.modules: a method": replaced,
    "known_by.modules: a whole number": groups,
    "known_by.modules: a block": shorter,
    "configuration": other_layer,
    "dtype": lambda model: model.double(),
}


@pytest.mark.parametrize("name", [name for name in IN_MEMORY if "block" not in name])
def test_a_model_changed_in_memory_is_refused_where_the_old_one_was_measured(name: str, tmp_path: Path) -> None:
    adapter = load(GOLDEN / "llava_tiny" / "hf_model", device="cpu")
    align(adapter, examples(), out=tmp_path / "align")
    perturb(adapter, examples(), ["rotate:90"], out=tmp_path / "perturb")
    IN_MEMORY[name](adapter.model)
    message = rf"models\..*\.{name.partition(':')[0]}: .*measure the model under another name"
    with pytest.raises(RunFolderError, match=message):
        align(adapter, examples(), out=tmp_path / "align")
    with pytest.raises(RunFolderError, match=message):
        perturb(adapter, examples(), ["rotate:90"], out=tmp_path / "perturb")


@pytest.mark.parametrize("name", IN_MEMORY)
def test_a_model_changed_in_memory_is_another(name: str) -> None:
    adapter = load(GOLDEN / "llava_tiny" / "hf_model", device="cpu")
    before = identity(adapter)
    assert identity(adapter) == before
    IN_MEMORY[name](adapter.model)
    assert identity(adapter) != before


def hooked(strength: float) -> Any:
    model = LLAMA.built()
    steered_by = torch.full((1,), strength)
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, output: output + steered_by)
    return identity(wrap_text(model, LLAMA.adapter.tokenizer))["known_by"]["modules"]


def test_a_hook_is_known_by_what_it_does() -> None:
    assert hooked(0.5) == hooked(0.5) != hooked(0.25)
    model = LLAMA.built()
    plain = wrap_text(model, LLAMA.adapter.tokenizer)
    before = identity(plain)["known_by"]
    model.enable_input_require_grads()  # a hook, too, of transformers
    assert identity(plain)["known_by"] == before != hooked(0.5)


def test_what_its_own_passes_write_is_no_change() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.scale = 0, 1.0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.kept(x) * self.scale

        def kept(self, x: Tensor) -> Tensor:
            self.last = x
            return x

    module = Counting()
    before = Description().module("", module)
    module(torch.ones(3))
    assert Description().module("", module) == before
    module.scale = 2.0
    assert Description().module("", module) != before


@pytest.mark.parametrize("around", ["accelerate", "a function of its own"])
def test_what_puts_a_model_on_devices_makes_it_no_other(around: str) -> None:
    model = LLAMA.built()
    adapter = wrap_text(model, LLAMA.adapter.tokenizer)
    before = identity(adapter)
    if around == "accelerate":
        accelerate.hooks.add_hook_to_module(model.model, accelerate.hooks.AlignDevicesHook("cpu"))
        assert identity(adapter) == before
        accelerate.cpu_offload(model, "cpu")
        assert identity(adapter) == before
    else:
        inner = model.model.forward
        model.model.forward = lambda *args, **of: inner(*args, **of)
        assert identity(adapter) != before


def test_a_model_changed_in_memory_has_the_numbers_of_one_that_was_saved_so(tmp_path: Path) -> None:
    adapter = load(GOLDEN / "llava_tiny" / "hf_model", device="cpu")
    old = align(adapter, examples(), out=tmp_path / "old")
    noise(adapter.model)
    new = align(adapter, examples(), out=tmp_path / "new")
    shutil.copytree(GOLDEN / "llava_tiny" / "hf_model", tmp_path / "saved")
    adapter.model.save_pretrained(tmp_path / "saved")  # type: ignore[operator]
    saved = align(load(tmp_path / "saved", device="cpu"), examples())
    assert [r.entropy for r in new.records] == [r.entropy for r in saved.records] and new.erank5 != old.erank5
    assert new.source["weights"] == saved.source["weights"] != old.source["weights"]
    assert {r.fingerprint for r in new.records}.isdisjoint(r.fingerprint for r in old.records)


def test_a_loop_that_measures_every_epoch(tmp_path: Path) -> None:
    model, tokenizer = LLAMA.built(), LLAMA.adapter.tokenizer
    found = []
    for epoch in range(3):
        result = diff(wrap_text(model, tokenizer, name=f"epoch {epoch}"), texts(), out=tmp_path / f"{epoch}")
        found.append(result.diff_erank)
        assert result.diff_erank == diff(wrap_text(model, tokenizer), texts()).diff_erank
        noise(model)
    assert len(set(found)) == 3
    adapter = wrap_text(model, tokenizer)
    diff(adapter, texts(), out=tmp_path / "run")
    noise(model)
    with pytest.raises(RunFolderError, match=r"models\.model\.weights"):
        diff(adapter, texts(), out=tmp_path / "run")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.checkpoint)
def test_measuring_does_not_change_a_model(case: Any) -> None:
    before = identity(case.adapter)
    align(case.adapter, examples())
    assert identity(case.adapter) == before
    json.dumps(before)


@pytest.mark.parametrize("case", TEXT_CASES, ids=lambda case: case.name)
def test_measuring_does_not_change_a_language_model(case: Any) -> None:
    before = identity(case.adapter)
    diff(case.adapter, texts())
    assert identity(case.adapter) == before
    json.dumps(before)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {
            "rope_type": "longrope",
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
            "original_max_position_embeddings": 8,
            "factor": 4.0,
        },
    ],
    ids=lambda rope: str(rope["rope_type"]),
)
def test_angles_that_follow_the_length_of_the_last_text_are_no_change(rope: dict[str, Any]) -> None:
    model = LLAMA.built(max_position_embeddings=8, rope_parameters={**rope, "rope_theta": 1e4})
    adapter = wrap_text(model, LLAMA.adapter.tokenizer)
    adapter.max_tokens = 100
    before = identity(adapter)
    diff(adapter, texts(5))
    assert identity(adapter) == before


# An adapter of a package of its own, whose processor cannot say its settings.


class Own:
    """A LLaVA that is fed by a function."""

    def __init__(self, inner: Adapter, feed: Callable[[torch.Tensor], torch.Tensor]):
        for name in (*LoadedModel.__annotations__, *Adapter.__annotations__):
            setattr(self, name, getattr(inner, name))
        self.name, self.source = "own", {"adapter": "own"}
        self._inner, self._feed = inner, feed

    def pixels(self, picture: Image.Image, layout: Any) -> torch.Tensor:
        return self._feed(self._inner.pixels(picture, layout))

    def __getattr__(self, name: str) -> Any:
        if name in ("sequence", "encode_images", "decode", "untrained"):
            return getattr(self._inner, name)
        raise AttributeError(name)


def test_what_an_adapter_of_its_own_feeds_its_model_counts(tmp_path: Path) -> None:
    plain: Any = Own(LLAVA.adapter, lambda pixels: pixels)
    other: Any = Own(LLAVA.adapter, lambda pixels: pixels * 1.5)
    result = align(plain, examples(), out=tmp_path / "run")
    assert result.source["weights"] == identity(LLAVA.adapter)["weights"]
    with pytest.raises(RunFolderError, match=r"models\.own\.known_by\.pixels"):
        align(other, examples(), out=tmp_path / "run")


# Weights.


def linear(rows: int = 6) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_weights_are_read_to_the_last_bit(dtype: torch.dtype) -> None:
    model = linear(9).to(dtype)
    before = weights_fingerprint(model)
    with torch.no_grad():
        for place in ((0, 0), (8, 3), (4, 1)):
            old = model.weight[place].item()
            model.weight.data[place] = float(np.nextafter(old, 9)) if dtype == torch.float64 else old * 1.01
            assert weights_fingerprint(model) != before
            model.weight.data[place] = old
            assert weights_fingerprint(model) == before


def test_names_shapes_dtypes_and_order_count() -> None:
    model = linear()
    found = {weights_fingerprint(model), weights_fingerprint(nn.ModuleDict({"a": model}))}
    found.add(weights_fingerprint(linear().half()))
    reshaped = linear()
    reshaped.weight.data = reshaped.weight.data.reshape(4, 6)
    found.add(weights_fingerprint(reshaped))
    turned = linear()
    turned.weight.data = turned.weight.data.flip(0)
    found.add(weights_fingerprint(turned))
    assert len(found) == 5
    strided = linear()
    strided.weight.data = strided.weight.data.t().contiguous().t()  # the same values, laid out in another way
    assert weights_fingerprint(strided) == weights_fingerprint(model)


def test_tied_weights_are_those_they_are_tied_to() -> None:
    tied, apart = nn.ModuleDict({"a": linear(4), "b": linear(4)}), nn.ModuleDict({"a": linear(4), "b": linear(4)})
    tied["b"].weight = tied["a"].weight
    assert weights_fingerprint(tied) == weights_fingerprint(apart)
    for model in (tied, apart):
        next(model.parameters()).data.add_(1)
    assert weights_fingerprint(tied) != weights_fingerprint(apart)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_weights_are_read_where_they_lie(where: str, tmp_path: Path) -> None:
    def offloaded(model: nn.Module, folder: Path) -> nn.Module:
        if where == "cpu":
            return accelerate.cpu_offload(model, "cpu")  # type: ignore[no-any-return]
        return accelerate.disk_offload(model, folder, "cpu")  # type: ignore[no-any-return]

    plain = trained_model(LLAMA)
    there = offloaded(trained_model(LLAMA), tmp_path / "a")
    assert any(parameter.is_meta for parameter in there.parameters())
    assert weights_fingerprint(there) == weights_fingerprint(plain)
    other = trained_model(LLAMA)
    noise(other)
    assert weights_fingerprint(offloaded(other, tmp_path / "b")) != weights_fingerprint(plain)


def test_weights_without_values_are_refused() -> None:
    with pytest.raises(ModelError, match="weights bias have no values"):
        weights_fingerprint(linear().to("meta"))


# Twins.


def twin(adapter: Any) -> str:
    return full_twin_name(0, twin_source(identity(adapter), 0))


@pytest.mark.parametrize("name", ["known_by.tokenizer: ids", *OF_LLAMA])
def test_models_that_differ_in_more_than_weights_share_no_twin(name: str, llama: Path) -> None:
    before = twin(load_text(llama, device="cpu"))
    ({**OF_BOTH, **OF_LLAMA})[name](llama)
    assert twin(load_text(llama, device="cpu")) != before


def test_checkpoints_of_a_configuration_share_a_twin(llama: Path) -> None:
    before = twin(load_text(llama, device="cpu"))
    for name in ("weights: a bit", "known_by.chat_template"):
        OF_BOTH[name](llama)
    with edited(llama, "config.json") as content:
        content |= {"transformers_version": "5.0.0", "use_cache": False}
    assert twin(load_text(llama, device="cpu")) == before


def test_other_dtypes_attention_or_kind_make_another_twin() -> None:
    model = LLAMA.built()
    adapter = wrap_text(model, LLAMA.adapter.tokenizer)
    found = {twin(adapter)}
    model.set_attn_implementation("eager")
    found.add(twin(adapter))
    model.lm_head.double()
    found.add(twin(adapter))
    model.config.rope_parameters["rope_theta"] = 77.0
    found.add(twin(adapter))
    assert len(found) == 4
    whole = LLAMA.built()
    body = wrap_text(whole.model, LLAMA.adapter.tokenizer)  # as what has no head, with the same configuration
    assert twin(wrap_text(whole, LLAMA.adapter.tokenizer)) != twin(body)


def test_the_twins_of_an_earlier_result_are_of_the_same_texts_and_tokenizer(llama: Path) -> None:
    first = diff(load_text(llama, device="cpu"), texts())
    assert diff(load_text(llama, device="cpu"), texts(), untrained=first).diff_erank == first.diff_erank
    swapped = [replace(one, response=" ".join(reversed(one.response.split(" ")))) for one in texts()]
    with pytest.raises(UsageError, match="of other texts"):
        diff(load_text(llama, device="cpu"), swapped, untrained=first)
    other_ids(llama)
    with pytest.raises(UsageError, match="another configuration, tokenizer or dtype"):
        diff(load_text(llama, device="cpu"), texts(), untrained=first)


def test_the_mode_of_a_language_model_does_not_count() -> None:
    """It is measured without dropout whatever its mode."""
    model = OPT.built().train()
    adapter = wrap_text(model, OPT.adapter.tokenizer)
    before = identity(adapter)
    diff(adapter, texts())
    assert identity(adapter) == before


def test_a_folder_of_an_earlier_version_is_read_and_not_continued(tmp_path: Path) -> None:
    from mmerank.analysis.finished import read_runs

    result = align(LLAVA.adapter, examples(), out=tmp_path / "run")
    with edited(tmp_path / "run", "run.json") as stated:
        del stated["format"]
        (source,) = stated["models"].values()
        del source["known_by"]
        fingerprint = record_fingerprint(source, stated["convention"])
    (part,) = part_files(tmp_path / "run")
    table = pq.read_table(part)
    place = table.column_names.index("fingerprint")
    table = table.set_column(place, table.schema.field(place), pa.array([fingerprint] * len(table)))
    part.unlink()
    pq.write_table(table, part.with_name("000000.parquet"))
    with pytest.raises(
        RunFolderError, match="begun by an earlier version of mmerank.*`mmerank report` reads the folder"
    ):
        align(LLAVA.adapter, examples(), out=tmp_path / "run", convention=Convention())
    (run,) = read_runs([tmp_path / "run"])
    assert run.results[LLAVA.adapter.name]["erank5"] == result.erank5
