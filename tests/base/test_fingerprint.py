from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from case_lightning.base.fingerprint import SAMPLES_PER_TENSOR, fingerprint
from tests.base.tiny_models import SIZES, build_model

CONFIG = LlamaConfig(**SIZES)


def test_is_stable_from_one_version_to_the_next() -> None:
    """Adapters on disk carry it: a change of the recipe orphans them all."""
    linear = nn.Linear(3, 2)
    linear.load_state_dict({"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([0.5, -1.0])})
    assert fingerprint(linear) == "7489d40787f25d1e-a860927fdb4ce7eb5ca93795209b9d0e"


def test_equal_weights_have_equal_fingerprints_after_reload(tmp_path: Path) -> None:
    model = build_model(CONFIG)
    model.save_pretrained(tmp_path)
    assert fingerprint(AutoModelForCausalLM.from_pretrained(tmp_path)) == fingerprint(model)
    assert fingerprint(build_model(CONFIG, seed=1)) != fingerprint(model)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.2.mlp.down_proj.weight", "lm_head.weight"])
def test_one_weight_changes_the_second_half_only(name: str) -> None:
    model = build_model(LlamaConfig(**SIZES | {"vocab_size": 32, "intermediate_size": 32}))
    structure, values = fingerprint(model).split("-")
    with torch.no_grad():
        model.get_parameter(name)[-1, -1].add_(1e-3)
    changed_structure, changed_values = fingerprint(model).split("-")
    assert changed_structure == structure
    assert changed_values != values


def test_a_persistent_buffer_counts() -> None:
    norm = nn.BatchNorm1d(4)
    before = fingerprint(norm)
    norm.running_mean[2] = 1.0
    assert fingerprint(norm) != before


@pytest.mark.parametrize("change", [{"num_attention_heads": 8}, {"intermediate_size": 40}, {"num_hidden_layers": 2}])
def test_sizes_change_the_first_half(change: dict[str, int]) -> None:
    """Eight heads instead of four leave every shape as it is: only the config tells."""
    sizes = SIZES | {"num_key_value_heads": 4, "head_dim": None}
    one, other = (fingerprint(build_model(LlamaConfig(**sizes | extra))) for extra in ({}, change))
    assert one.split("-")[0] != other.split("-")[0]


def test_another_family_of_the_same_shapes_differs_in_the_first_half() -> None:
    linear = nn.Linear(2, 2)
    other = nn.Linear(2, 2)
    other.config = GPT2Config()
    assert fingerprint(linear).split("-")[0] != fingerprint(other).split("-")[0]


def test_the_meta_device_has_structure_only() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG)
    assert fingerprint(model) == f"{fingerprint(build_model(CONFIG)).split('-')[0]}-meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_does_not_matter() -> None:
    model = build_model(CONFIG)
    assert fingerprint(model) == fingerprint(model.to("cuda"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_widening_keeps_it_and_narrowing_does_not(dtype: torch.dtype) -> None:
    model = build_model(CONFIG)
    wide = fingerprint(model)
    narrow = fingerprint(model.to(dtype))
    assert narrow != wide
    assert fingerprint(model.to(torch.float32)) == narrow


@pytest.mark.parametrize("numel", [1, SAMPLES_PER_TENSOR, SAMPLES_PER_TENSOR + 1, 10 * SAMPLES_PER_TENSOR + 7])
def test_the_sample_of_a_tensor_reaches_from_its_start_to_its_end(numel: int) -> None:
    module = nn.Module()
    module.register_buffer("values", torch.zeros(numel))
    before = fingerprint(module)
    stride = -(-numel // SAMPLES_PER_TENSOR)
    for position in (0, (numel - 1) // stride * stride):
        module.values.zero_()[position] = 1.0
        assert fingerprint(module) != before
