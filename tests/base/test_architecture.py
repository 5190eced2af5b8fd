import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    DeepseekV3Config,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    PreTrainedConfig,
    XLMConfig,
)

from case_lightning.base.architecture import find_architecture
from case_lightning.errors import BaseModelError
from tests.base.large_models import LLAMA_2_7B, LLAMA_3_8B, QWEN_2_5_7B
from tests.base.tiny_models import FAMILIES, SIZES, Family, build_model


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


def test_finds_every_layers_down_projection_and_its_sizes(family: Family) -> None:
    model = build_model(family.config)
    found = find_architecture(model)
    assert found.layers_path == family.layers_path
    assert found.layers is model.get_submodule(family.layers_path)
    assert found.down_projections == tuple(f"{family.layers_path}.{i}.{family.down_projection}" for i in range(3))
    assert (found.d_in, found.d_out, found.n_layers) == (family.d_in, 32, 3)


def test_found_modules_are_where_the_activations_flow(family: Family) -> None:
    """What is found is confirmed by running the model: widths at the down-projection, and norm feeding head."""
    model = build_model(family.config)
    found = find_architecture(model)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def record(name: str) -> object:
        return lambda _, inputs, output: seen.update({name: (inputs[0], output)})

    model.get_submodule(found.down_projections[1]).register_forward_hook(record("down"))
    found.output_head.register_forward_hook(record("head"))
    if found.final_norm is not None:
        found.final_norm.register_forward_hook(record("norm"))
    with torch.no_grad():
        model(torch.tensor([[4, 5, 6]]), use_cache=False)
    assert seen["down"][0].shape[-1] == found.d_in
    assert seen["down"][1].shape[-1] == found.d_out
    assert seen["head"][0].shape[-1] == found.d_out
    if found.final_norm is not None:
        torch.testing.assert_close(seen["norm"][1].reshape(-1), seen["head"][0].reshape(-1), rtol=0, atol=0)


def test_final_norm_is_the_named_one(family: Family) -> None:
    model = build_model(family.config)
    expected = model.get_submodule(family.final_norm) if family.final_norm else None
    assert find_architecture(model).final_norm is expected


@pytest.mark.parametrize(
    ("config", "layers", "d_in", "d_out", "default"),
    [
        pytest.param(LLAMA_2_7B, 32, 11008, 4096, 26, id="LLaMA-2-7B"),
        pytest.param(QWEN_2_5_7B, 28, 18944, 3584, 22, id="Qwen2.5-7B"),
        pytest.param(LLAMA_3_8B, 32, 14336, 4096, 26, id="LLaMA-3-8B"),
    ],
)
def test_large_models_on_the_meta_device(
    config: PreTrainedConfig, layers: int, d_in: int, d_out: int, default: int
) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = find_architecture(model)
    assert (found.n_layers, found.d_in, found.d_out, found.default_layer) == (layers, d_in, d_out, default)


class QuantisedLinear(nn.Module):
    """Stands for quantised layers of other libraries: declared sizes, packed weights."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("packed", torch.zeros(in_features * out_features // 8, dtype=torch.int32))


def test_quantised_layers_are_found_by_their_declared_sizes() -> None:
    model = build_model(LlamaConfig(**SIZES))
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "layers" in name:
            model.set_submodule(name, QuantisedLinear(module.in_features, module.out_features))
    found = find_architecture(model)
    assert found.down_projections[0] == "model.layers.0.mlp.down_proj"
    assert found.d_in == 48


def test_an_adapters_inner_layers_are_not_looked_into() -> None:
    peft = pytest.importorskip("peft")
    model = build_model(LlamaConfig(**SIZES))
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["down_proj", "o_proj"], r=2), model)
    assert find_architecture(model).down_projections[2] == "model.layers.2.mlp.down_proj"


@pytest.mark.parametrize(("n_layers", "expected"), [(1, 0), (2, 1), (3, 2), (10, 8), (24, 19), (30, 24), (32, 26)])
def test_default_layer_is_four_fifths_up(n_layers: int, expected: int) -> None:
    model = build_model(LlamaConfig(**SIZES | {"num_hidden_layers": n_layers}))
    assert find_architecture(model).default_layer == expected


@pytest.mark.parametrize(("declared", "expected"), [(3, "model.layers"), (7, "model.extra")])
def test_the_list_of_the_declared_length_is_taken_or_else_the_longest(declared: int, expected: str) -> None:
    model = build_model(LlamaConfig(**SIZES))
    model.model.extra = nn.ModuleList(model.model.layers[0] for _ in range(5))
    model.config.num_hidden_layers = declared
    assert find_architecture(model).layers_path == expected


def test_of_two_lists_of_the_declared_length_the_one_with_mlps_is_taken() -> None:
    model = build_model(LlamaConfig(**SIZES))
    model.model._modules = {"norms": nn.ModuleList(nn.LayerNorm(32) for _ in range(3)), **model.model._modules}
    assert find_architecture(model).layers_path == "model.layers"


def test_of_two_widths_the_widest_is_the_mlp() -> None:
    """Small projections beside the MLP, as some families inject inputs per layer, look like an MLP too."""
    model = build_model(LlamaConfig(**SIZES))
    for layer in model.model.layers:
        layer.gate, layer.projection = nn.Linear(32, 8), nn.Linear(8, 32)
    assert find_architecture(model).down_projections[0] == "model.layers.0.mlp.down_proj"


def test_a_norm_after_the_layers_goes_before_one_in_front_of_them() -> None:
    model = build_model(LlamaConfig(**SIZES))
    model.model._modules = {"first": nn.LayerNorm(32), **model.model._modules}
    assert find_architecture(model).final_norm is model.model.norm


@pytest.mark.parametrize("layer", [0, 2])
def test_check_layer_passes_a_layer_that_exists(layer: int) -> None:
    assert find_architecture(build_model(LlamaConfig(**SIZES))).check_layer(layer) == layer


@pytest.mark.parametrize("layer", [-1, 3, 24, True, "1", 1.0])
def test_check_layer_names_the_range(layer: object) -> None:
    found = find_architecture(build_model(LlamaConfig(**SIZES)))
    with pytest.raises(BaseModelError, match=r"layer .* does not exist: the base model has layers 0 to 2"):
        found.check_layer(layer)  # type: ignore[arg-type]


MOE = SIZES | {"num_local_experts": 2}
DEEPSEEK = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 1, "first_k_dense_replace": 1}
XLM = {"vocab_size": 64, "emb_dim": 32, "n_layers": 2, "n_heads": 4}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param(lambda: build_model(BertConfig(**SIZES)), "looks ahead, so it is an encoder", id="bert"),
        pytest.param(lambda: nn.Linear(4, 4), r"no list of decoder layers found; module lists seen: none", id="linear"),
        pytest.param(
            lambda: nn.Sequential(nn.ModuleList(nn.Linear(4, 4) for _ in range(2))),
            r"no output head found; module lists seen: 0 \(2 x Linear\); linear layers seen: 0\.0 \(4 to 4\)",
            id="no head",
        ),
        pytest.param(
            lambda: GPT2Model(GPT2Config(n_embd=32, n_layer=2, n_head=4)), "no output head found", id="headless gpt2"
        ),
        pytest.param(lambda: build_model(MixtralConfig(**MOE)), "no MLP down-projection in model.layers.0", id="moe"),
        pytest.param(
            lambda: build_model(DeepseekV3Config(**SIZES, **DEEPSEEK, moe_intermediate_size=16)),
            r"MLPs differ in width, \[16, 48\]",
            id="dense and experts",
        ),
        pytest.param(
            lambda: build_model(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2)),
            "no MLP down-projection in backbone.layers.0",
            id="mamba",
        ),
        pytest.param(lambda: build_model(XLMConfig(**XLM)), "no MLP down-projection", id="layers spread over lists"),
    ],
)
def test_what_cannot_be_edited_raises_and_lists_what_was_seen(model: object, message: str) -> None:
    with pytest.raises(BaseModelError, match=message) as caught:
        find_architecture(model())  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_two_mlps_in_one_layer_are_refused() -> None:
    model = build_model(LlamaConfig(**SIZES))
    for layer in model.model.layers:
        layer.second = type(layer.mlp)(model.config)
    with pytest.raises(BaseModelError, match=r"has 2 MLPs \(mlp.down_proj, second.down_proj\)"):
        find_architecture(model)
