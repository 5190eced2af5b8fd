"""A fast content hash that tells one base model from another.

An adapter is worth something only on the base it was made for. Hashing every byte of a large model takes minutes; a
fixed strided sample of every tensor takes a fraction of a second and still tells apart any two checkpoints trained
differently. It is an identity check, not a proof against tampering: a change confined to values outside the sample goes
unseen.
"""

import hashlib
import json

import torch
from torch import Tensor, nn

from case_lightning.base.declared import declared_value, text_config

SAMPLES_PER_TENSOR = 1024
SIZES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
)


def fingerprint(model: nn.Module) -> str:
    """Hash a model's structure and a sample of its values.

    The first half covers the config's sizes and every tensor's name and shape, the second at most 1024 evenly spaced
    values of every parameter and persistent buffer, cast to float32. The device does not matter. The dtype matters as
    far as it changes values: a bfloat16 checkpoint loaded as float32 keeps its fingerprint (widening is exact), a
    float32 checkpoint loaded as bfloat16 gets another. A module on the meta device has no values and gets `"meta"` for
    its second half.

    Args:
        model: The base, before any adapter is put on it (adapters rename parameters).

    Returns:
        `<16 hexadecimal digits>-<32 hexadecimal digits>`, or `<16 hexadecimal digits>-meta`.
    """
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    structure = _hash_structure(model, tensors)
    if any(tensor.is_meta for tensor in tensors.values()):
        return f"{structure}-meta"
    values = hashlib.sha256()
    for tensor in tensors.values():
        values.update(_sample(tensor).numpy().data)
    return f"{structure}-{values.hexdigest()[:32]}"


def _hash_structure(model: nn.Module, tensors: dict[str, Tensor]) -> str:
    config = text_config(model)
    sizes = {key: declared_value(config, key) for key in SIZES}
    shapes = [(name, list(tensor.shape)) for name, tensor in tensors.items()]
    return hashlib.sha256(json.dumps([sizes, shapes], default=str).encode()).hexdigest()[:16]


def _sample(tensor: Tensor) -> Tensor:
    """At most `SAMPLES_PER_TENSOR` evenly spaced values as float32 on the CPU, `(samples,)`."""
    flat = tensor.detach().reshape(-1)
    stride = -(-flat.numel() // SAMPLES_PER_TENSOR) or 1
    return flat[::stride].to(device="cpu", dtype=torch.float32).contiguous()
