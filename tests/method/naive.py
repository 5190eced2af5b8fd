"""The method's formulas restated the slow way: dense `d_out × d_in` matrices, loops over tokens and neurons."""

import math

import torch
from torch import Tensor, nn

from case_lightning.method.conflict import OuterSum


def draw(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def random_sum(seed: int, terms: int, d_out: int, d_in: int) -> OuterSum:
    return OuterSum(*draw(seed, (terms, d_out), (terms, d_in)))


def dense(matrix: OuterSum) -> Tensor:
    """Token by token."""
    total = torch.zeros(matrix.left.shape[1], matrix.right.shape[1])
    for left, right in zip(matrix.left, matrix.right, strict=True):
        total += torch.outer(left, right)
    return total


def from_dense(matrix: Tensor) -> OuterSum:
    """A dense matrix as one term a row."""
    return OuterSum(torch.eye(len(matrix)), matrix)


def dense_cosine(a: Tensor, b: Tensor) -> float:
    inner = sum(x * y for x, y in zip(a.double().flatten().tolist(), b.double().flatten().tolist(), strict=True))
    norms = math.sqrt(a.double().square().sum()) * math.sqrt(b.double().square().sum())
    return inner / norms if norms else 0.0


def effective_count(sensitivity: list[float]) -> int:
    total = math.fsum(sensitivity)
    entropy = -math.fsum(f / total * math.log(f / total) for f in sensitivity if f)
    return math.ceil(math.exp(entropy))


def fisher_of_columns(layer: nn.Linear, inputs: Tensor, targets: Tensor) -> Tensor:
    """Example by example, its gradient from autograd, neuron by neuron.

    Args:
        layer: The projection.
        inputs: `(examples, tokens, d_in)`.
        targets: `(examples, tokens, d_out)`.
    """
    fisher = torch.zeros(layer.in_features)
    for x, y in zip(inputs, targets, strict=True):
        (gradient,) = torch.autograd.grad((layer(x) - y).square().sum(), [layer.weight])
        for neuron in range(layer.in_features):
            fisher[neuron] += sum(value**2 for value in gradient[:, neuron].tolist())
    return fisher
