"""What is kept of a neuron mask once its fit is over: how sensitive the neurons were, and which of them were tuned.

The unit is `r_j = F_j / mean(F)`: how many times more sensitive a neuron is than it would be if all were alike. Fits of
different loss and width can so be counted together. The bins are the same for every mask, four to a tenfold.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

FIRST_POWER, LAST_POWER, PER_TENFOLD = -4, 2, 4
N_BINS = (LAST_POWER - FIRST_POWER) * PER_TENFOLD


@dataclass(frozen=True)
class MaskSummary:
    """One mask.

    Attributes:
        parameter: Name of the parameter whose neurons it is of.
        neurons: How many neurons of each bin there are, `N_BINS` counts.
        kept: How many of them the mask kept.
        threshold: `r` of the least sensitive neuron that was kept; `None` where the sensitivities say nothing.
        share: Share of the sensitivity that lies on the neurons kept; `None` there, too.
    """

    parameter: str
    neurons: tuple[int, ...]
    kept: tuple[int, ...]
    threshold: float | None
    share: float | None


def summarize_mask(parameter: str, sensitivity: Tensor, mask: Tensor) -> MaskSummary:
    """Sum up one mask.

    Args:
        parameter: Name of the parameter.
        sensitivity: `F`, `(neurons,)`, not negative.
        mask: Which neurons were kept, `(neurons,)`.
    """
    counts = count_neurons(sensitivity, mask)
    relative, kept = measure_relative(sensitivity), mask.to("cpu")
    known = bool(relative.sum() > 0) and bool(kept.any())
    return MaskSummary(
        parameter,
        tuple(counts[:, 0].tolist()),
        tuple(counts[:, 1].tolist()),
        relative[kept].min().item() if known else None,
        (relative[kept].sum() / relative.sum()).item() if known else None,
    )


def count_neurons(sensitivity: Tensor, mask: Tensor) -> Tensor:
    """Count the neurons of each bin, and those of them that were kept.

    Args:
        sensitivity: `F`, `(neurons,)`, not negative.
        mask: Which neurons were kept, `(neurons,)`.

    Returns:
        `(N_BINS, 2)`, whole numbers on the CPU. The outer bins take what lies beyond them.

    Raises:
        ValueError: The shapes differ, or the mask is not boolean.
    """
    if sensitivity.ndim != 1 or mask.shape != sensitivity.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"`mask` is {mask.dtype} of shape {tuple(mask.shape)} and `sensitivity` has shape "
            f"{tuple(sensitivity.shape)}; expected booleans and numbers, both of shape (neurons,)."
        )
    powers = measure_relative(sensitivity).clamp_min(1e-30).log10()
    bins = ((powers - FIRST_POWER) * PER_TENFOLD).floor().long().clamp(0, N_BINS - 1)
    kept = bins[mask.to("cpu")]
    return torch.stack([torch.bincount(part, minlength=N_BINS) for part in (bins, kept)], dim=1)


def measure_relative(sensitivity: Tensor) -> Tensor:
    """The sensitivities `r = F / mean(F)`, float64 on the CPU; zeros where `F` is zero everywhere or not finite."""
    fisher = sensitivity.detach().to("cpu", torch.float64)
    mean = fisher.mean()
    return fisher / mean if torch.isfinite(mean) and mean > 0 else torch.zeros_like(fisher)


def place_bins() -> list[float]:
    """The `N_BINS + 1` values of `r` between which the bins lie."""
    return [10 ** (FIRST_POWER + index / PER_TENFOLD) for index in range(N_BINS + 1)]
