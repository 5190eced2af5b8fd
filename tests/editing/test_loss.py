import pytest
import torch
from torch.nn import functional

from case_lightning.editing.loss import ROWS, label_loss


@pytest.mark.parametrize("rows", [1, ROWS, 2 * ROWS + 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_are_those_of_cross_entropy(rows: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(rows)
    values = (torch.randn(rows, 50, generator=generator) * 5).to(dtype)
    labels = torch.randint(50, (rows,), generator=generator)
    weights = torch.rand(rows, generator=generator)
    ours, stock = values.clone().requires_grad_(), values.clone().requires_grad_()
    found, expected = label_loss(ours, labels), functional.cross_entropy(stock.float(), labels, reduction="none")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, stock.grad)


def test_logits_that_would_overflow_an_exponential() -> None:
    logits = torch.tensor([[2000.0, 0.0], [-2000.0, 0.0]], requires_grad=True)
    loss = label_loss(logits, torch.tensor([1, 1]))
    assert loss.tolist() == [2000.0, 0.0]
    loss.sum().backward()
    assert logits.grad.tolist() == [[1.0, -1.0], [0.0, 0.0]]
