"""Knowledge activation regularisation: past edits' activations, kept in eight bits, hold new fits back.

Published [1]: quantised activations of past edits in a KL term of the loss. Ours: symmetric int8 with one scale a row,
the softmax over the subspace's output with a temperature, and what is stored (the projection's input beside its old
output, so that the new output can be recomputed from the layer alone).

    R = KL( softmax(a_old / T) ‖ softmax(a_new / T) ),   averaged over the rows kept.

[1] doi:10.1145/3774904.3792427
"""

import torch
from torch import Tensor
from torch.nn import functional

INT8_MAX = 127


def quantize(values: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 with one scale a row.

    Args:
        values: `(rows, width)`.

    Returns:
        The int8 codes, `(rows, width)`, and the float32 scales, `(rows, 1)`; the error of a value is at most half its
        row's scale.
    """
    values = values.detach().float()
    largest = values.abs().amax(dim=-1, keepdim=True)
    # a true division, which CUDA has for tensors alone: only so is what is rounded twice what is rounded once
    scale = largest / torch.full_like(largest, INT8_MAX)
    codes = (values / scale.where(scale > 0, 1)).round()
    return codes.clamp(-INT8_MAX, INT8_MAX).to(torch.int8), scale


def dequantize(codes: Tensor, scale: Tensor) -> Tensor:
    """The values that `quantize` kept, `(rows, width)` in float32."""
    return codes.float() * scale


def activation_divergence(old: Tensor, new: Tensor, temperature: float = 1.0) -> Tensor:
    """The regularisation term `R`, a scalar that is zero where nothing has changed.

    Args:
        old: `a_old`, `(rows, width)`.
        new: `a_new`, `(rows, width)`, the only one that carries a gradient.
        temperature: `T`; higher weighs all activations more evenly.
    """
    log_old = functional.log_softmax(old.detach().float() / temperature, dim=-1)
    log_new = functional.log_softmax(new.float() / temperature, dim=-1)
    return functional.kl_div(log_new, log_old, reduction="batchmean", log_target=True)
