"""AlphaEdit: MEMIT's update, kept to directions that the model does not use for what it knows.

References:
    [1] Fang, Jiang, Wang, Ma, Shi, Wang, He, Chua: AlphaEdit: null-space constrained knowledge editing for language
        models. ICLR 2025. arXiv:2410.02355.

With `K₀` the keys of general text, let `U` hold the eigenvectors of `E[k kᵀ]` whose eigenvalues are below a threshold,
and `P = U Uᵀ` be the projection on them. An update of the form `Δ P` leaves `Δ P K₀ ≈ 0`: what the model makes of
general text stays as it is. With `K` the keys of a batch, `R` what is wanted beyond the present values, and `K_p` the
keys of all batches before, each of several layers is given [1, equation 14]

    Δ P = R Kᵀ P (K_p K_pᵀ P + K Kᵀ P + λ I)⁻¹,

    the minimum over Δ of  ‖Δ P K − R‖² + ‖Δ P K_p‖² + λ ‖Δ P‖² .

The second term protects past edits, for which MEMIT does nothing.

Values and their spread over layers are those of MEMIT; what a small text means is said in `key_statistics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from case_lightning.base import Base
from case_lightning.baselines.fact_lookup import Lookup
from case_lightning.baselines.locate_then_edit import LocateThenEdit, LocateThenEditSettings
from case_lightning.errors import ConfigError

PAST = "past."  # before a projection's dotted name, in a method's state


@dataclass(frozen=True)
class AlphaEditSettings(LocateThenEditSettings):
    """Settings of AlphaEdit.

    Args:
        threshold: Eigenvalues below it belong to the null space; 0.02 in the authors' code.
        ridge: λ, how much the length of an update weighs; 1 in [1], 10 in the authors' code.
    """

    threshold: float = 0.02
    ridge: float = 1.0


class AlphaEdit(LocateThenEdit):
    """Edits by one least-squares update a layer and batch, in the null space of general text.

    Args:
        base: The frozen base model.
        seed: Of the prefixes.
        settings: Where and how.

    Attributes:
        projections: `P` of each edited layer, `(d_in, d_in)`.
        past: `K_p K_pᵀ` of each edited layer, `(d_in, d_in)`; empty before the first edit.
    """

    def __init__(self, base: Base, seed: int = 0, settings: AlphaEditSettings | None = None) -> None:
        """Store the settings."""
        self.settings = settings or AlphaEditSettings()
        super().__init__(base, seed, self.settings)
        self.projections: dict[int, Tensor] = {}
        self.past: dict[int, Tensor] = {}

    @override
    def prepare(self) -> None:
        for layer, moment in self.count_keys().items():
            self.projections[layer] = project_on_null_space(moment, self.settings.threshold)
            if not self.projections[layer].any():
                raise ConfigError(
                    f"threshold: {self.settings.threshold} is below all eigenvalues of the keys of layer {layer}, so "
                    f"there is no null space; raise it"
                )

    @override
    def solve(self, layer: int, keys: Tensor, residuals: Tensor) -> Tensor:
        past = self.past.get(layer, torch.zeros_like(self.projections[layer]))
        return projected_update(keys, residuals, self.projections[layer], past, self.settings.ridge)

    @override
    def finish(self, lookups: Sequence[Lookup], n_edits: int) -> None:
        for layer in self.layers:
            keys, _ = self.read(layer, lookups, n_edits)
            self.past[layer] = self.past.get(layer, 0) + keys.T @ keys

    @override
    def progress(self) -> dict[str, Tensor]:
        return {PAST + self.names[layer]: value for layer, value in self.past.items()}

    @override
    def load_progress(self, progress: dict[str, Tensor]) -> None:
        device = self.base.model.device
        found = {layer: progress[PAST + name] for layer, name in self.names.items() if PAST + name in progress}
        self.past = {layer: value.to(device) for layer, value in found.items()}


def project_on_null_space(moment: Tensor, threshold: float) -> Tensor:
    """`P = U Uᵀ`, with `U` the eigenvectors whose eigenvalues are below a threshold.

    Args:
        moment: `E[k kᵀ]`, `(d_in, d_in)`.
        threshold: The threshold.

    Returns:
        `(d_in, d_in)`.
    """
    eigenvalues, eigenvectors = torch.linalg.eigh(moment)
    unused = eigenvectors[:, eigenvalues < threshold]
    projection: Tensor = unused @ unused.T
    return projection


def projected_update(keys: Tensor, residuals: Tensor, projection: Tensor, past: Tensor, ridge: float) -> Tensor:
    """`Δ P = R Kᵀ P (K_p K_pᵀ P + K Kᵀ P + λ I)⁻¹` [1, equation 14].

    Args:
        keys: `K`, `(d_in, edits)`.
        residuals: `R`, `(d_out, edits)`.
        projection: `P`, `(d_in, d_in)`.
        past: `K_p K_pᵀ`, `(d_in, d_in)`.
        ridge: `λ`, above 0.

    Returns:
        `(d_out, d_in)`.
    """
    system = projection @ (past + keys @ keys.T) + ridge * torch.eye(len(past)).to(past)
    solved: Tensor = torch.linalg.solve(system, projection @ keys @ residuals.T)
    return solved.T
