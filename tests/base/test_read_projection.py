"""What enters and leaves a projection, against a hook by hand on one piece of the text at a time."""

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, LlamaConfig, OPTConfig, PreTrainedConfig

from case_lightning.base.architecture import find_architecture
from case_lightning.base.partial import PIECE, PIECES_AT_ONCE, read_projection
from tests.base.tiny_models import SIZES, VOCAB, build_model
from tests.subspace.tiny_adapters import build_adapter, draw_tokens

LONG = SIZES | {"max_position_embeddings": 2 * PIECE}
CONFIGS = {
    "llama": LlamaConfig(**LONG),
    "gpt2": GPT2Config(vocab_size=VOCAB, n_positions=2 * PIECE, n_embd=32, n_layer=3, n_head=4),
    "opt": OPTConfig(**LONG, ffn_dim=48, word_embed_proj_dim=32),
}


def read_by_hand(config: PreTrainedConfig, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
    model = build_model(config)
    found: list[tuple[Tensor, Tensor]] = []
    projection = model.get_submodule(find_architecture(model).down_projections[layer])
    projection.register_forward_hook(lambda _, args, output: found.append((args[0], output)))
    for start in range(0, len(tokens) - PIECE + 1, PIECE):
        model(input_ids=tokens[None, start : start + PIECE])
    pairs = [(inputs.view(PIECE, -1)[1:], outputs.view(PIECE, -1)[1:]) for inputs, outputs in found]
    return torch.cat([inputs for inputs, _ in pairs]), torch.cat([outputs for _, outputs in pairs])


@pytest.mark.parametrize("length", [PIECE, 3 * PIECE + 5, (PIECES_AT_ONCE + 2) * PIECE])
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_readings_are_those_of_a_hook_by_hand(config: PreTrainedConfig, layer: int, length: int) -> None:
    model, tokens = build_model(config), draw_tokens(length)
    projection = model.get_submodule(find_architecture(model).down_projections[layer])
    readings = read_projection(model, projection, tokens)
    for found, expected in zip(readings, read_by_hand(config, layer, tokens), strict=True):
        assert found.shape == (length // PIECE * (PIECE - 1), expected.shape[1])
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_empty_adapter_on_the_projection_reads_the_same() -> None:
    model, tokens = build_model(CONFIGS["llama"]), draw_tokens(2 * PIECE)
    layer = build_adapter(model, n_subspaces=0, keys=False, layer=1).base_model.case_layer
    for found, expected in zip(
        read_projection(model, layer, tokens), read_by_hand(CONFIGS["llama"], 1, tokens), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
