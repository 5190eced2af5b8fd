"""Whitening, so that vectors spread evenly in all directions: the router's of token embeddings and of states."""

import torch
from torch import Tensor

RIDGE = 0.1  # of the mean variance: keeps directions that the sample hardly shows from being blown up


def measure_full_whitening(sample: Tensor) -> tuple[Tensor, Tensor]:
    """What makes the mean of a sample zero and its covariance one: `(vectors - mean) @ whiten`.

    Args:
        sample: Vectors of ordinary text, `(n, d)`.

    Returns:
        Mean `(d,)` and whitening `(d, d)`, in the sample's dtype.
    """
    mean = sample.mean(0)
    centred = sample - mean
    variance, directions = torch.linalg.eigh(centred.T @ centred / len(sample))
    return mean, directions / (variance.clamp_min(0) + RIDGE * variance.mean()).sqrt()
