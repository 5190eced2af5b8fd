"""MEMIT: mass-editing memory in a transformer.

References:
    [1] Meng, Sen Sharma, Andonian, Belinkov, Bau: Mass-editing memory in a transformer. ICLR 2023. arXiv:2210.07229.

With the keys `K` of a batch of edits, what is wanted beyond the present values `R = V − W K` (one column an edit), and
`C = λ E[k kᵀ]` for what the layer knows already, each of several layers is given the least-squares update
[1, equation 14]

    Δ = R Kᵀ (C + K Kᵀ)⁻¹,    the minimum over Δ of  ‖Δ K − R‖² + tr(Δ C Δᵀ) .

The second term is the change of the outputs on general text, weighed as if λ of its tokens had been edits. Nothing is
kept of past edits: they are protected only as far as general text has keys like theirs, and in a long sequence of
batches the updates pile up until the model is gone, as published.

The values come from `target_values`, their spread over layers from `locate_then_edit`, and what a small text means is
said in `key_statistics`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from case_lightning.base import Base
from case_lightning.baselines.key_statistics import add_ridge
from case_lightning.baselines.locate_then_edit import LocateThenEdit, LocateThenEditSettings


@dataclass(frozen=True)
class MEMITSettings(LocateThenEditSettings):
    """Settings of MEMIT.

    Args:
        covariance_weight: λ, how much what the layer knows weighs against the edits.
        ridge: Variance added to every direction, as a share of the mean variance; for texts of fewer tokens than keys
            have entries.
    """

    covariance_weight: float = 15000.0
    ridge: float = 0.01


class MEMIT(LocateThenEdit):
    """Edits by one least-squares update a layer and batch.

    Args:
        base: The frozen base model.
        seed: Of the prefixes.
        settings: Where and how.
    """

    def __init__(self, base: Base, seed: int = 0, settings: MEMITSettings | None = None) -> None:
        """Store the settings."""
        self.settings = settings or MEMITSettings()
        super().__init__(base, seed, self.settings)
        self.known: dict[int, Tensor] = {}

    @override
    def prepare(self) -> None:
        for layer, moment in self.count_keys().items():
            self.known[layer] = self.settings.covariance_weight * add_ridge(moment, self.settings.ridge)

    @override
    def solve(self, layer: int, keys: Tensor, residuals: Tensor) -> Tensor:
        return least_squares_update(keys, residuals, self.known[layer])

    @override
    def progress(self) -> dict[str, Tensor]:
        return {}

    @override
    def load_progress(self, progress: dict[str, Tensor]) -> None:
        pass


def least_squares_update(keys: Tensor, residuals: Tensor, known: Tensor) -> Tensor:
    """`Δ = R Kᵀ (C + K Kᵀ)⁻¹` [1, equation 14].

    Args:
        keys: `K`, `(d_in, edits)`.
        residuals: `R`, `(d_out, edits)`.
        known: `C`, symmetric and positive definite, `(d_in, d_in)`.

    Returns:
        `(d_out, d_in)`.
    """
    solved: Tensor = torch.linalg.solve(known + keys @ keys.T, keys @ residuals.T)
    return solved.T
