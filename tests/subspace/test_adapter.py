import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import Conv1D, PreTrainedModel

from case_lightning.base import find_architecture
from case_lightning.errors import BaseModelError, ConfigError
from case_lightning.subspace import CaseConfig, CaseLayer
from case_lightning.subspace.config import FORMAT_VERSION
from tests.base.tiny_models import VOCAB
from tests.subspace.tiny_adapters import (
    EDITED_FAMILIES,
    OTHER,
    PROMPT,
    UNRELATED,
    build_adapter,
    build_base,
)

over_families = pytest.mark.parametrize("family", EDITED_FAMILIES)
over_inputs = pytest.mark.parametrize("tune_input", [False, True], ids=["fixed input", "tuned input"])
BATCH = torch.tensor([PROMPT, UNRELATED, OTHER, PROMPT])
ROUTES = torch.tensor([0, -1, 1, 0])


def get_logits(model: torch.nn.Module, tokens: Tensor = BATCH) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens).logits


def materialise(model: PeftModel, index: int) -> PreTrainedModel:
    """A fresh base whose weight is `W + s · B A`, written without any of the tuner's code."""
    config, subspaces = model.peft_config["default"], model.base_model.case_layer.adapter.subspaces
    base = build_base(model.family)
    projection = base.get_submodule(config.target_modules[0])
    with torch.no_grad():
        update = config.scale * subspaces.up[index] @ subspaces.basis(index)  # (d_out, d_in)
        projection.weight += update.T if isinstance(projection, Conv1D) else update
    return base


def build_named(family: str, **settings: object) -> PeftModel:
    model = build_adapter(build_base(family), **settings)
    model.family = family
    return model


@over_families
def test_an_empty_adapter_on_the_default_layer_changes_no_bit(family: str) -> None:
    base = build_base(family)
    before, architecture = get_logits(base), find_architecture(base)
    model = get_peft_model(base, CaseConfig())
    assert model.peft_config["default"].target_modules == [architecture.down_projections[architecture.default_layer]]
    assert torch.equal(get_logits(model), before)
    model.base_model.case_layer.adapter.subspaces.open()
    with model.base_model.forced_routes(torch.zeros(len(BATCH), dtype=torch.long)):
        assert torch.equal(get_logits(model), before)  # an initial subspace has B = 0
    assert all("case_adapter" in name for name, parameter in model.named_parameters() if parameter.requires_grad)


@over_families
@over_inputs
def test_every_row_of_a_mixed_batch_goes_its_own_way(family: str, tune_input: bool) -> None:
    before = get_logits(build_base(family))
    model = build_named(family, scale=0.5, tune_input=tune_input)
    after = get_logits(model)
    assert torch.equal(after[ROUTES == -1], before[ROUTES == -1])
    for row in (0, 2, 3):
        expected = get_logits(materialise(model, int(ROUTES[row])))[row]
        torch.testing.assert_close(after[row], expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(after[row], before[row], atol=1e-2)


@over_families
def test_a_disabled_adapter_changes_no_bit(family: str) -> None:
    before, model = get_logits(build_base(family)), build_named(family)
    edited = get_logits(model)
    with model.disable_adapter():
        assert torch.equal(get_logits(model), before)
    assert torch.equal(get_logits(model), edited)
    assert not torch.equal(edited, before)


def test_what_peft_offers_and_routes_make_senseless_is_refused() -> None:
    model = build_named("llama")
    with pytest.raises(ValueError, match="adapter_names: not taken, as the router decides for each row"):
        model(torch.tensor([[1, 2]]), adapter_names=["__base__"])
    with pytest.raises(ValueError, match="a case adapter cannot be merged"):
        model.merge_and_unload()


@pytest.mark.parametrize(
    ("family", "dtype"),
    [(family, "int8") for family in EDITED_FAMILIES]
    + [("llama", "float32"), ("llama", "float16"), ("gpt2, Conv1D", "bfloat16")],
)
@over_inputs
def test_round_trip(family: str, dtype: str, tune_input: bool, tmp_path: Path) -> None:
    model = build_named(family, storage_dtype=dtype, tune_input=tune_input, n_directions=2)
    memory = {
        "inputs": torch.ones(3, model.base_model.case_layer.in_features, dtype=torch.int8),
        "input_scales": torch.rand(3, 1),
        "outputs": torch.ones(3, model.base_model.case_layer.out_features, dtype=torch.int8),
        "output_scales": torch.rand(3, 1),
        "subspaces": torch.tensor([0, 1, 1], dtype=torch.int16),
    }
    model.base_model.case_layer.adapter.memory.replace(memory)
    model.save_pretrained(tmp_path, save_embedding_layers=False)

    loaded = PeftModel.from_pretrained(build_base(family), tmp_path).eval()
    assert torch.equal(get_logits(loaded), get_logits(model))
    state, again = (one.base_model.case_layer.adapter.state_dict() for one in (model, loaded))
    assert list(state) == list(again)
    for name, value in state.items():
        assert torch.equal(again[name], value), name
        assert again[name].dtype == value.dtype
    config = PeftConfig.from_pretrained(tmp_path)
    sizes = {name: getattr(config, name) for name in vars(config) if name.startswith("n_")}
    sizes_of_the_rest = {"n_keys": 2, "n_key_tokens": 10, "n_calibration": VOCAB - 3, "n_memories": 3}
    assert sizes == {"n_directions": 2, "n_subspaces": 2} | sizes_of_the_rest
    assert isinstance(config, CaseConfig)
    assert config.tune_input == tune_input


@over_inputs
def test_what_a_folder_holds_of_the_subspaces(tune_input: bool, tmp_path: Path) -> None:
    model = build_adapter(build_base(), n_subspaces=1, tune_input=tune_input, n_directions=2)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    found = {name.split(".subspaces.")[1]: value.dtype for name, value in saved.items() if ".subspaces." in name}
    matrices = ["up.0", "down.0"] if tune_input else ["up.0"]
    assert found == (
        {"scales": torch.float32, "directions": torch.float16, "shrinks": torch.float32, "draws": torch.float32}
        | dict.fromkeys(matrices, torch.int8)
        | {f"{name}_scale": torch.float32 for name in matrices}
    )
    directions = next(value for name, value in saved.items() if name.endswith(".directions"))
    assert directions.shape == (2, model.base_model.case_layer.in_features)


def test_whitening_counts_in_the_answers() -> None:
    assert not torch.allclose(
        get_logits(build_adapter(build_base(), n_directions=2)), get_logits(build_adapter(build_base())), atol=1e-2
    )


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("storage_dtype", ["int8", "float16"])
@over_inputs
def test_loading_by_the_names_in_the_folder_alone(
    tmp_path: Path, low_cpu_mem_usage: bool, storage_dtype: str, tune_input: bool
) -> None:
    build_base().save_pretrained(tmp_path / "base")
    base = type(build_base()).from_pretrained(tmp_path / "base")
    names = {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(tmp_path / "base")}
    model = build_adapter(base, **names, storage_dtype=storage_dtype, tune_input=tune_input, n_directions=2)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", low_cpu_mem_usage=low_cpu_mem_usage).eval()
    assert torch.equal(get_logits(loaded), get_logits(model))
    assert all(parameter.dtype == torch.float32 for parameter in loaded.base_model.case_layer.adapter.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_subspaces_are_float32_on_any_base(dtype: torch.dtype, tmp_path: Path) -> None:
    before = get_logits(build_base().to(dtype))
    model = build_adapter(build_base().to(dtype))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    for one in (model, PeftModel.from_pretrained(build_base().to(dtype), tmp_path)):
        assert {parameter.dtype for parameter in one.base_model.case_layer.adapter.parameters()} == {torch.float32}
        after = get_logits(one)
        assert after.dtype == dtype
        assert torch.equal(after[1], before[1])
        assert not torch.equal(after[0], before[0])


def test_moving_an_adapter_leaves_it_float32_where_peft_does_not_cast() -> None:
    """Also the editor moves it, after every fit."""
    model = get_peft_model(build_base().to(torch.bfloat16), CaseConfig(n_subspaces=1), autocast_adapter_dtype=False)
    layer = model.base_model.case_layer
    layer._move_adapter_to_device_of_base_layer("default")
    assert {parameter.dtype for parameter in layer.adapter.parameters()} == {torch.float32}


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_another_base_is_refused(tmp_path: Path) -> None:
    build_adapter(build_base()).save_pretrained(tmp_path, save_embedding_layers=False)
    _edit_config(tmp_path, base_model_name_or_path="the/base")
    other = build_base(seed=1)
    with pytest.raises(BaseModelError, match=r"fingerprint .* not for this one .* load it on the/base"):
        PeftModel.from_pretrained(other, tmp_path)
    assert not any(isinstance(module, CaseLayer) for module in other.modules())
    edited = build_adapter(build_base(seed=1))
    with pytest.raises(BaseModelError, match="fingerprint"):  # also as a second adapter
        edited.load_adapter(tmp_path, "second")


def test_a_future_format_is_refused(tmp_path: Path) -> None:
    build_adapter(build_base()).save_pretrained(tmp_path, save_embedding_layers=False)
    _edit_config(tmp_path, format_version=FORMAT_VERSION + 1)
    with pytest.raises(ConfigError, match=rf"format version {FORMAT_VERSION + 1}.*update case_lightning"):
        PeftModel.from_pretrained(build_base(), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank: expected more than 0, found 0"),
        ({"scale": -1.0}, "scale: expected more than 0"),
        ({"subject_threshold": 1.5}, "subject_threshold: expected 0 to 1, found 1.5"),
        ({"relation_threshold": -0.1}, "relation_threshold: expected 0 to 1"),
        ({"storage_dtype": "int4"}, "storage_dtype: expected float32, float16, bfloat16, int8, found 'int4'"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CaseConfig(**settings)


def test_targets() -> None:
    with pytest.raises(BaseModelError, match="layer 3 does not exist"):
        get_peft_model(build_base(), CaseConfig(layer=3))
    with pytest.raises(ConfigError, match=r"name of one module, found several, the second model.layers.1.mlp"):
        get_peft_model(build_base(), CaseConfig(target_modules=["down_proj"]))
    model = get_peft_model(build_base(), CaseConfig(layer=0))
    assert isinstance(model.get_submodule("base_model.model.model.layers.0.mlp.down_proj"), CaseLayer)


def _by_keywords(model: PeftModel, tokens: Tensor, mask: Tensor) -> Tensor:
    return model(input_ids=tokens, attention_mask=mask).logits


def _by_position(model: PeftModel, tokens: Tensor, mask: Tensor) -> Tensor:
    return model(tokens, mask).logits


def _on_the_base(model: PeftModel, tokens: Tensor, mask: Tensor) -> Tensor:
    return model.get_base_model()(tokens, attention_mask=mask).logits


@pytest.mark.parametrize("call", [_by_keywords, _by_position, _on_the_base])
@torch.no_grad()
def test_a_mask_counts_however_it_is_given(call: Callable[[PeftModel, Tensor, Tensor], Tensor]) -> None:
    """The masked tokens are an edit's prompt; only the rest is the query."""
    tokens = torch.tensor([[*PROMPT, *UNRELATED]])
    mask = torch.tensor([[0] * len(PROMPT) + [1] * len(UNRELATED)])
    assert torch.equal(call(build_adapter(build_base()), tokens, mask), build_base()(tokens, mask).logits)


@torch.no_grad()
def test_embeddings_as_input_are_left_unedited() -> None:
    model = build_adapter(build_base())
    embedded = model.get_input_embeddings()(BATCH)
    assert torch.equal(model(inputs_embeds=embedded).logits, get_logits(build_base()))


def test_forced_routes_are_taken_back_also_after_an_exception() -> None:
    model = build_adapter(build_base())
    edited, tuner = get_logits(model), model.base_model
    with tuner.forced_routes(torch.full((4,), -1)):
        with pytest.raises(RuntimeError), tuner.forced_routes(torch.full((4,), 1)):
            raise RuntimeError
        assert torch.equal(get_logits(model), get_logits(build_base()))
    assert torch.equal(get_logits(model), edited)


def test_unloading_gives_the_base_back_and_a_new_adapter_has_its_own_router() -> None:
    base = build_base()
    before = get_logits(base)
    model = build_adapter(base)
    edited = get_logits(model)
    assert model.unload() is base
    assert torch.equal(get_logits(base), before)
    assert "generate" not in vars(base)
    again = build_adapter(base, keys=False)
    assert torch.equal(get_logits(again), before)
    with again.base_model.forced_routes(ROUTES):
        assert torch.equal(get_logits(again), edited)


def test_two_adapters_on_one_model() -> None:
    base = build_base()
    model = build_adapter(base)
    edited = get_logits(model)
    model.add_adapter("second", CaseConfig(rank=4, layer=0))
    model.set_adapter("second")
    assert torch.equal(get_logits(model), get_logits(build_base()))
    assert model.peft_config["second"].base_fingerprint == model.peft_config["default"].base_fingerprint
    model.set_adapter("default")
    assert torch.equal(get_logits(model), edited)
