"""Counts of neurons by their sensitivity, against a loop over neurons."""

import math

import pytest
import torch

from case_lightning.method.mask_summary import N_BINS, count_neurons, place_bins, summarize_mask
from case_lightning.method.sensitivity import keep_most_sensitive


def find_bin(relative: float) -> int:
    inner = place_bins()[1:-1]
    return sum(relative >= edge for edge in inner)


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 6.0])
def test_counts_match_a_loop_over_neurons(spread: float) -> None:
    sensitivity = torch.exp(torch.randn(200, generator=torch.Generator().manual_seed(0)) * spread)
    mask = keep_most_sensitive(sensitivity)
    expected = [[0, 0] for _ in range(N_BINS)]
    mean = sum(sensitivity.tolist()) / 200
    for value, kept in zip(sensitivity.tolist(), mask.tolist(), strict=True):
        expected[find_bin(value / mean)][0] += 1
        expected[find_bin(value / mean)][1] += kept
    assert count_neurons(sensitivity, mask).tolist() == expected


def test_summary_holds_the_threshold_and_the_share() -> None:
    summary = summarize_mask("up", torch.tensor([6.0, 1.0, 3.0, 2.0]), torch.tensor([True, False, True, False]))
    assert (summary.parameter, sum(summary.neurons), sum(summary.kept)) == ("up", 4, 2)
    assert (summary.threshold, summary.share) == pytest.approx((1.0, 0.75))


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_sensitivities_that_say_nothing_have_no_threshold(value: float) -> None:
    summary = summarize_mask("up", torch.full((5,), value), torch.ones(5, dtype=torch.bool))
    assert (summary.threshold, summary.share) == (None, None)
    assert summary.neurons == summary.kept == (5, *[0] * (N_BINS - 1))


def test_a_mask_of_another_shape_or_kind_is_refused() -> None:
    for mask in (torch.ones(4, dtype=torch.bool), torch.ones(5)):
        with pytest.raises(ValueError, match=r"expected booleans and numbers, both of shape \(neurons,\)"):
            count_neurons(torch.ones(5), mask)
