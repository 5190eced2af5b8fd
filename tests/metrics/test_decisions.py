"""Choices a reader cannot derive from the formula: bits or numbers, dtypes, infinities, a curve's points."""

import math

import matplotlib as mpl
import pytest
import torch

from case_lightning.metrics import BitIdentity, Retention, TargetPerplexity

QUIET_NAN, OTHER_NAN = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32).unbind()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_bit_identity_compares_bits_not_numbers(dtype: torch.dtype) -> None:
    unedited = torch.tensor([[0.0, 1.0], [math.nan, 1.0], [0.5, 1.0]]).to(dtype)
    edited = torch.tensor([[-0.0, 1.0], [math.nan, 1.0], [0.5, 1.0]]).to(dtype)
    assert BitIdentity()(edited[:1], unedited[:1]) == 0  # equal as numbers
    assert BitIdentity()(edited[1:2], unedited[1:2]) == 1  # unequal as numbers
    assert BitIdentity()(edited, unedited) == pytest.approx(2 / 3)


def test_bit_identity_tells_one_nan_from_another() -> None:
    assert BitIdentity()(QUIET_NAN.reshape(1, 1), OTHER_NAN.reshape(1, 1)) == 0


def test_bit_identity_does_not_depend_on_strides() -> None:
    logits = torch.randn(2, 3, 5).transpose(1, 2)
    assert BitIdentity()(logits, logits.contiguous()) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_losses_are_taken_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.randint(7, (3, 4), generator=torch.Generator().manual_seed(1))
    assert TargetPerplexity()(logits, labels) == TargetPerplexity()(logits.float(), labels)


def test_a_confident_wrong_token_has_a_finite_perplexity() -> None:
    """Its float32 softmax is 0, whose logarithm is not finite."""
    logits = torch.tensor([[[150.0, 0.0]]])
    assert logits.softmax(-1)[0, 0, 1] == 0
    assert TargetPerplexity()(logits, torch.tensor([[1]])).item() == pytest.approx(math.exp(150), rel=1e-4)


@pytest.mark.parametrize("reduction", ["mean", "median"])
def test_a_nan_logit_is_not_outvoted(reduction: str) -> None:
    logits = torch.zeros(5, 1, 2)
    logits[3] = math.nan
    assert TargetPerplexity(reduction=reduction)(logits, torch.zeros(5, 1, dtype=torch.long)).isnan()


def test_a_nan_logit_without_a_label_does_not_count() -> None:
    logits = torch.zeros(1, 2, 2)
    logits[0, 0] = math.nan
    assert TargetPerplexity()(logits, torch.tensor([[-100, 1]])).item() == pytest.approx(2)


def test_points_measured_by_several_processes_keep_their_value_to_the_bit() -> None:
    retention = Retention()
    for _ in range(3):
        retention.update(7, torch.tensor(0.1))
    assert retention.compute().equal(torch.tensor([[7.0, 0.1]]))


def test_a_point_that_could_not_be_measured_stays_on_the_curve() -> None:
    retention = Retention()
    retention.update(5, torch.tensor(math.nan))
    assert retention.compute()[0, 1].isnan()


def test_the_curve_is_drawn_over_the_number_of_edits() -> None:
    mpl.use("agg")
    retention = Retention()
    retention.update(100, 1.0)
    retention.update(50, 0.5)
    figure, axis = retention.plot()
    assert axis.lines[0].get_xydata().tolist() == [[50, 0.5], [100, 1]]
    assert axis.lines[0].get_marker() == "o"
    assert axis.get_xlabel() == "edits so far"
    mpl.pyplot.close(figure)
