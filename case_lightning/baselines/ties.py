"""TIES: merging updates of one matrix that were trained apart, without their conflicts.

With updates `τ_1 … τ_n` of the same weights [1, algorithm 1],

    trim     of each update only the share `d` of entries of largest magnitude stays, the others become 0;
    elect    each entry's sign is that of the sum over updates, `γ = sgn(Σ_i τ_i)`;
    merge    each entry is the mean over those updates that are not 0 there and have the elected sign.

References:
    [1] Yadav, Tam, Choshen, Raffel, Bansal: TIES-merging: resolving interference when merging models. NeurIPS 2023.
        arXiv:2306.01708.
"""

import torch
from torch import Tensor


def trim(update: Tensor, density: float) -> Tensor:
    """An update with its largest entries alone.

    Args:
        update: `τ`, of any shape.
        density: `d`, the share of entries that stay.
    """
    kept = torch.zeros(update.numel(), dtype=torch.bool, device=update.device)
    kept[update.abs().flatten().topk(max(round(density * update.numel()), 1)).indices] = True
    return update * kept.view_as(update)


def merge_updates(updates: Tensor, density: float) -> Tensor:
    """One update in place of several.

    Args:
        updates: `τ_1 … τ_n`, `(n, …)`.
        density: `d`.

    Returns:
        The shape of one.
    """
    trimmed = torch.stack([trim(update, density) for update in updates])
    agreeing = trimmed * (trimmed.sign() == trimmed.sum(0).sign())
    counts = agreeing.count_nonzero(0).clamp_min(1)
    return agreeing.sum(0) / counts
