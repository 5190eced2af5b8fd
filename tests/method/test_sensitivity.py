"""Fisher information against per-example autograd, and the entropy rule against its formula."""

import math

import pytest
import torch
from torch import Tensor, nn

from case_lightning.method.sensitivity import (
    count_effective,
    keep_most_sensitive,
    keep_random,
    measure_fisher,
    measure_magnitude,
    sum_fisher,
)
from tests.method.naive import draw, effective_count, fisher_of_columns

NEURONS = 1600


def measure_from_factors(layer: nn.Linear, inputs: Tensor, targets: Tensor) -> Tensor:
    """Every example's own `δ` and `x`, as the package measures them: from one backward pass."""
    outputs = layer(inputs)
    (delta,) = torch.autograd.grad((outputs - targets).square().sum(), [outputs])
    return torch.stack([measure_fisher(d, x) for d, x in zip(delta, inputs, strict=True)]).sum(0)


@pytest.mark.parametrize(("examples", "tokens"), [(1, 1), (1, 6), (5, 1), (4, 6)])
def test_fisher_is_that_of_per_example_autograd(examples: int, tokens: int) -> None:
    layer = nn.Linear(7, 4)
    inputs, targets = draw(examples + tokens, (examples, tokens, 7), (examples, tokens, 4))
    expected = fisher_of_columns(layer, inputs, targets)
    torch.testing.assert_close(measure_from_factors(layer, inputs, targets), expected)
    batch_mean = fisher_of_columns(layer, inputs.flatten(0, 1)[None], targets.flatten(0, 1)[None])
    assert torch.allclose(expected, batch_mean) == (examples == 1)  # not the square of the batch's gradient


def test_fisher_of_terms_that_cancel_is_not_negative() -> None:
    delta, inputs = draw(1, (3, 4), (1, 500))
    fisher = measure_fisher(torch.cat([delta, -delta.sum(0, keepdim=True)]), inputs.repeat(4, 1))
    assert (fisher >= 0).all()  # rounding alone would carry some below
    torch.testing.assert_close(fisher, torch.zeros(500), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("shape", "dim"),
    [
        ((3, 5), 0),
        ((3, 5), 1),
        ((3, 5), -1),
        ((4,), 0),
        ((4,), -1),
        ((2, 3, 4, 5), 0),
        ((2, 3, 4, 5), 1),
        ((2, 3, 4), -1),
    ],
)
def test_fisher_of_parameters_is_summed_over_all_but_the_neurons(shape: tuple[int, ...], dim: int) -> None:
    gradients = draw(len(shape), *[shape] * 3)
    found = sum_fisher(gradients, dim)
    assert found.shape == (shape[dim],)
    for neuron in range(shape[dim]):
        own = [gradient.select(dim, neuron).flatten().tolist() for gradient in gradients]
        assert found[neuron].item() == pytest.approx(sum(value**2 for values in own for value in values), rel=1e-5)


def test_fisher_of_small_gradients_in_half_precision_does_not_vanish() -> None:
    gradients = [torch.full((3, 2), 1e-5, dtype=torch.float16)] * 4
    assert sum_fisher(gradients, 1).tolist() == pytest.approx([12e-10] * 2, rel=0.02)


@pytest.mark.parametrize("scale", [1e-30, 0.1, 0.7, 1.0, 1e37])
@pytest.mark.parametrize("kept", [1, 2, 3, 5, 7, 10, 49, 178, NEURONS])
def test_a_uniform_distribution_keeps_its_neurons(kept: int, scale: float) -> None:
    places = torch.randperm(NEURONS, generator=torch.Generator().manual_seed(kept))[:kept]
    sensitivity = torch.zeros(NEURONS).index_fill(0, places, scale)
    assert count_effective(sensitivity) == kept
    assert keep_most_sensitive(sensitivity).nonzero().flatten().tolist() == places.sort().values.tolist()


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_sensitivity_that_says_nothing_keeps_all(value: float, everywhere: bool) -> None:
    sensitivity = torch.full((6,), value)
    if not everywhere and value != 0:
        sensitivity[1:] = 1.0
    assert count_effective(sensitivity) == 6
    assert keep_most_sensitive(sensitivity).tolist() == [True] * 6


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("neurons", [1, 2, 30, 500])
def test_count_is_the_exponential_of_the_entropy(neurons: int, seed: int) -> None:
    (values,) = draw(seed, (neurons,))
    sensitivity = values.abs() ** (seed + 1)  # from flat to steep
    assert count_effective(sensitivity) == effective_count(sensitivity.tolist())


@pytest.mark.parametrize(
    ("sensitivity", "count", "kept"),
    [
        ([0.1, 0.9, 0.5], 2, [1, 2]),
        ([0.1, 0.9, 0.5], 0, [1]),
        ([0.1, 0.9, 0.5], 9, [0, 1, 2]),
        ([0.5, 0.5, 0.5, 0.9], 2, [0, 3]),  # of equals the first
        ([0.5] * 100, 3, [0, 1, 2]),
        ([0.0, 1e-9, 1.0], None, [1, 2]),  # exp(H) just above one
        ([0.0, 0.0, 4.0], None, [2]),
        ([3.0, 1.0, 1.0, 1.0], None, [0, 1, 2, 3]),  # exp(H) = 3.46
    ],
)
def test_the_most_sensitive_are_kept(sensitivity: list[float], count: int | None, kept: list[int]) -> None:
    mask = keep_most_sensitive(torch.tensor(sensitivity), count)
    assert mask.dtype == torch.bool
    assert mask.nonzero().flatten().tolist() == kept


def test_magnitude_is_the_length_of_a_columns_gradient() -> None:
    delta, inputs = draw(3, (6, 4), (6, 7))
    torch.testing.assert_close(measure_magnitude(delta, inputs), (delta.T @ inputs).norm(dim=0))


def test_a_random_mask_is_as_large_as_the_entropy_rules_and_anywhere() -> None:
    sensitivity = torch.arange(40.0) ** 3
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([keep_random(sensitivity, generator) for _ in range(200)])
    assert (masks.sum(1) == count_effective(sensitivity)).all()
    assert masks.any(0).all()
