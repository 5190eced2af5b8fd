"""Eight-bit storage within its error bound, and the divergence against its formula."""

import math

import pytest
import torch
from torch import Tensor

from case_lightning.method.activation import activation_divergence, dequantize, quantize
from tests.method.naive import draw

ROWS = {
    "normal": draw(0, (5, 9))[0],
    "of very different size": draw(1, (6, 9))[0] * torch.logspace(-30, 30, 6)[:, None],
    "smaller than float32's normal numbers times 127": draw(2, (3, 9))[0] * 1e-37,
    "one large value": torch.tensor([[1000.0, 0.1, -0.2]]),
    "one column": torch.tensor([[3.0], [-2.0], [0.0]]),
    "some zero rows": torch.tensor([[0.0, 0.0], [1.0, -1.0], [-0.0, 0.0]]),
    "none": torch.zeros(0, 4),
    "half precision": draw(3, (2, 9))[0].bfloat16(),
}


@pytest.mark.parametrize("values", ROWS.values(), ids=ROWS)
def test_rounding_is_within_half_a_step_of_the_row(values: Tensor) -> None:
    codes, scale = quantize(values)
    assert (codes.dtype, codes.shape) == (torch.int8, values.shape)
    assert (scale.dtype, scale.shape) == (torch.float32, (len(values), 1))
    for row, code, step in zip(values.double(), codes, scale.double(), strict=True):
        assert step.item() == pytest.approx(row.abs().max().item() / 127, rel=1e-4)
        for value, kept in zip(row.tolist(), code.tolist(), strict=True):
            assert abs(kept * step.item() - value) <= step.item() * 0.5001
            assert abs(kept) <= 127
    torch.testing.assert_close(dequantize(codes, scale), codes.float() * scale)


def test_extremes_and_zeros_are_exact() -> None:
    assert quantize(torch.tensor([[2.0, -2.0, 0.0], [0.0, 0.0, 0.0]]))[0].tolist() == [[127, -127, 0], [0, 0, 0]]
    assert dequantize(*quantize(torch.tensor([[2.0, -2.0, 0.0], [0.0, 0.0, 0.0]]))).tolist() == [[2, -2, 0], [0, 0, 0]]


def diverge_naively(old: Tensor, new: Tensor, temperature: float) -> float:
    def softmax(row: Tensor) -> list[float]:
        powers = [math.exp(value / temperature) for value in row.tolist()]
        return [power / sum(powers) for power in powers]

    rows = [(softmax(a), softmax(b)) for a, b in zip(old, new, strict=True)]
    return sum(p * math.log(p / q) for before, now in rows for p, q in zip(before, now, strict=True)) / len(rows)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(2, 2), (5, 7), (3, 40)])
def test_divergence_is_its_formula(shape: tuple[int, int], temperature: float) -> None:
    old, new = draw(sum(shape), shape, shape)
    expected = diverge_naively(old, new, temperature)
    assert activation_divergence(old, new, temperature).item() == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert expected != pytest.approx(diverge_naively(new, old, temperature), rel=1e-3)  # nor does it go both ways


def test_divergence_is_zero_where_nothing_has_changed_and_positive_elsewhere() -> None:
    old, new = draw(0, (4, 6), (4, 6))
    assert activation_divergence(old, old.clone()).item() == pytest.approx(0, abs=1e-6)
    assert activation_divergence(old, old + 3.0).item() == pytest.approx(0, abs=1e-6)  # a softmax sees no shift
    assert activation_divergence(old, new) > 0.01


def test_only_the_new_activations_carry_a_gradient() -> None:
    old, new = (values.requires_grad_() for values in draw(0, (4, 6), (4, 6)))
    activation_divergence(old, new, temperature=2.0).backward()
    assert old.grad is None
    expected = (torch.softmax(new / 2, -1) - torch.softmax(old / 2, -1)) / 2 / 4  # towards the old, a share of each row
    torch.testing.assert_close(new.grad, expected.detach())


def test_half_precision_activations_are_compared_in_float32() -> None:
    old, new = draw(0, (4, 6), (4, 6))
    found = activation_divergence(old.bfloat16(), new.bfloat16())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(diverge_naively(old.bfloat16().float(), new.bfloat16().float(), 1.0), rel=1e-4)
