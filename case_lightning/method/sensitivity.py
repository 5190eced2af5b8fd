"""KNT: which neurons a piece of knowledge depends on.

References:
    [1] CASE, doi:10.1145/3774904.3792427. Published: Fisher information chooses the neurons, and a threshold set by the
        entropy of the distribution chooses how many.
    [2] Kirkpatrick et al.: Overcoming catastrophic forgetting in neural networks. PNAS 2017. The diagonal Fisher.

A neuron is an intermediate neuron of the MLP, so a column of `ΔW`, or, where the input side of a subspace is fixed, a
feature `(A x)_j` that it reads, so a column of `B`, with `A x` for `x` below. Its sensitivity is the diagonal of the
empirical Fisher information, per-example gradients squared, summed over the neuron's parameters:

    F_j = Σ_k ‖G_k[:, j]‖²,     G_k = Σ_n δ_n x_nᵀ  over the tokens of example k
        = Σ_k Σ_{n,m} (δ_n·δ_m) x_nj x_mj.

Our reading of "a threshold set dynamically by the entropy": with `p = F/ΣF` and `H = −Σ p log p`, keep the `⌈exp(H)⌉`
most sensitive neurons, for `exp(H)` is the number of neurons that effectively carry the gradient.
"""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor


def measure_fisher(output_gradient: Tensor, inputs: Tensor) -> Tensor:
    """One example's Fisher information of each neuron, without forming its gradient matrix.

    Args:
        output_gradient: `δ`, `(tokens, d_out)`.
        inputs: `x`, `(tokens, d_in)`.

    Returns:
        `F`, `(d_in,)`, not negative.
    """
    gram = output_gradient @ output_gradient.T  # (tokens, tokens)
    return ((gram @ inputs) * inputs).sum(0).clamp_min(0)


def measure_magnitude(output_gradient: Tensor, inputs: Tensor) -> Tensor:
    """What the Fisher information is compared with: the length of each neuron's gradient, `‖G[:, j]‖`.

    Args:
        output_gradient: `δ`, `(tokens, d_out)`.
        inputs: `x`, `(tokens, d_in)`.

    Returns:
        `(d_in,)`, not negative.
    """
    return measure_fisher(output_gradient, inputs).sqrt()


def sum_fisher(gradients: Sequence[Tensor], dim: int) -> Tensor:
    """The same for stock parameters: per-example gradients squared and summed over all but the neuron's axis.

    Args:
        gradients: One gradient of a parameter for each example, all of one shape.
        dim: The axis along which the parameter's neurons lie.

    Returns:
        `F`, `(neurons,)`, in float32 or better: squares of small numbers vanish in half precision.
    """
    total = reduce(torch.add, (widen(gradient).square() for gradient in gradients))
    return total.movedim(dim, 0).flatten(1).sum(1) if total.dim() > 1 else total


def widen(value: Tensor) -> Tensor:
    """A tensor in float32, if it is not in that or a wider dtype."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def count_effective(sensitivity: Tensor) -> int:
    """The entropy rule: `⌈exp(H)⌉` of the distribution `F/ΣF`, at least 1 and at most the number of neurons.

    A sensitivity that is zero everywhere, or not finite, names no neuron: all are kept.
    """
    fisher = sensitivity.double()  # a sum in float32 is off by enough to make seven equal neurons eight
    total = fisher.sum()
    if not torch.isfinite(total) or total <= 0:
        return sensitivity.numel()
    entropy = torch.special.entr(fisher / total).sum().item()
    return min(max(math.ceil(math.exp(entropy) - 1e-9), 1), sensitivity.numel())


def keep_most_sensitive(sensitivity: Tensor, count: int | None = None) -> Tensor:
    """The mask of the `count` most sensitive neurons, by default as many as the entropy rule says.

    Returns:
        Boolean, of the shape of `sensitivity`; of equal neurons the first is kept.
    """
    count = count_effective(sensitivity) if count is None else min(max(count, 1), sensitivity.numel())
    order = torch.sort(sensitivity, descending=True, stable=True).indices
    mask = torch.zeros_like(sensitivity, dtype=torch.bool)
    mask[order[:count]] = True
    return mask


def keep_random(sensitivity: Tensor, generator: torch.Generator) -> Tensor:
    """What the entropy rule is compared with: a mask of as many neurons, whichever they are."""
    order = torch.randperm(sensitivity.numel(), generator=generator).to(sensitivity.device)
    return keep_most_sensitive(sensitivity)[order]
