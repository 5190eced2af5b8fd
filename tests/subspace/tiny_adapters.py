"""Tiny models with an adapter whose subspaces answer loudly, for the tests of the tuner and of the suffix."""

import copy

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from case_lightning.subspace import CaseConfig
from tests.base.tiny_models import FAMILIES, VOCAB, build_model

EDITED_FAMILIES = [name for name in FAMILIES if not name.startswith(("falcon", "lfm2"))]
SUBJECT, RELATION = [10, 11], [20, 21, 22]  # of the prompt that every adapter here has in scope
PROMPT = [*SUBJECT, *RELATION]
OTHER = [30, 31, 40, 41, 42]  # in the scope of the second key
UNRELATED = [50, 51, 52, 53, 54]


def build_base(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A tiny model with embeddings as large as its other weights, so that tokens matter."""
    model = build_model(copy.deepcopy(FAMILIES[family].config), seed)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(std=0.1)
    return model


def build_adapter(model: PreTrainedModel, n_subspaces: int = 2, keys: bool = True, **settings: object) -> PeftModel:
    """A model with random subspaces; with `keys`, `PROMPT` goes through the first and `OTHER` through the second."""
    peft_model = get_peft_model(model, CaseConfig(rank=4, **settings))
    adapter = peft_model.base_model.case_layer.adapter
    generator = torch.Generator().manual_seed(5)
    if settings.get("n_directions"):
        layer = peft_model.base_model.case_layer
        sizes = torch.logspace(-1, 1, layer.in_features)
        inputs = torch.randn(300, layer.in_features, generator=generator) * sizes
        adapter.subspaces.whiten(inputs, torch.randn(300, layer.out_features, generator=generator))
    for index in range(n_subspaces):
        adapter.subspaces.open()
        with torch.no_grad():
            adapter.subspaces.up[index].copy_(torch.randn(adapter.subspaces.up[index].shape, generator=generator) * 100)
    adapter.keys.calibrate(torch.arange(3, VOCAB))
    if keys:
        for index, prompt in enumerate((PROMPT, OTHER)):
            in_subject = torch.tensor([True, True, False, False, False])
            adapter.keys.add(torch.tensor(prompt), in_subject, index)
    adapter.subspaces.round_to(getattr(torch, peft_model.peft_config["default"].storage_dtype))
    return peft_model.eval()


def draw_tokens(*shape: int) -> Tensor:
    """Random tokens, none of them special."""
    return torch.randint(4, VOCAB, shape, generator=torch.Generator().manual_seed(1))
