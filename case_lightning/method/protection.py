"""Protection of past keys: a step changes a linear map least where past knowledge reads it.

Ours; the published method has nothing like it. A linear map `W` answers a key `z` by `W z`, so a change `D` of the map
changes what it answers to past keys by `D z` each. With their second moment

    R = Σ_k E[ Σ_n z_n z_nᵀ ]  over the pieces of knowledge k learned so far, each with its keys n

the change that stays nearest to `D` and moves past answers least, `min ‖D' − D‖² + c Σ ‖D' z‖²`, is `D' = D P` with

    P = (I + c R)⁻¹,     c = strength / (mean diagonal of R for one piece of knowledge).

It is made as long as `D` was: the optimizer has chosen how far to go, this says where to. The idea of such a projection
is that of orthogonal weights modification [1] and, in a single update, of null-space constrained editing [2].

References:
    [1] Zeng, Chen, Cui, Yu: Continual learning of context-dependent processing in neural networks. Nature Machine
        Intelligence 2019.
    [2] Fang et al.: AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models. ICLR 2025.
"""

import torch
from torch import Tensor


class KeyMoment:
    """The second moment `R` of the keys of all that was learned.

    Args:
        width: Width of a key.
        device: Where it is kept.

    Attributes:
        total: `R`, `(width, width)` in float32.
        count: How many pieces of knowledge it is a sum over.
    """

    def __init__(self, width: int, device: torch.device | str | None = None) -> None:
        """Start with no keys."""
        self.total = torch.zeros(width, width, device=device)
        self.count = 0

    def add(self, keys: Tensor) -> None:
        """Add the keys of one piece of knowledge, `(keys, width)`."""
        keys = keys.to(self.total)
        self.merge(keys.T @ keys)

    def merge(self, total: Tensor, count: int = 1) -> None:
        """Add a second moment, `(width, width)`, of so many pieces of knowledge."""
        self.total = self.total + total.to(self.total)  # a state that was taken before stays as it was
        self.count += count

    def to(self, device: torch.device) -> None:
        """Keep it on another device."""
        self.total = self.total.to(device)

    def shield(self, strength: float, moving: Tensor) -> Tensor:
        """`P` for the part of the map that may change.

        Args:
            strength: How much past answers weigh against the change; at least 0.
            moving: Which of the map's columns may change, `(width,)` with `moved` true ones.

        Returns:
            `(moved, moved)`, symmetric.
        """
        part = self.total[moving][:, moving]
        typical = self.total.diagonal().mean() / max(self.count, 1)
        factor = strength / typical if typical > 0 else 0.0
        regular = torch.eye(len(part), device=part.device) + factor * part
        return torch.cholesky_inverse(torch.linalg.cholesky(regular))


def turn_away(change: Tensor, shield: Tensor) -> Tensor:
    """A change that moves past answers less, as long as it was.

    Args:
        change: `D`, `(rows, width)`.
        shield: `P`, `(width, width)`.

    Returns:
        `D P ‖D‖ / ‖D P‖`, `(rows, width)`.
    """
    turned = change @ shield
    same: Tensor = turned * (change.norm() / turned.norm().clamp_min(torch.finfo(turned.dtype).tiny))
    return same
