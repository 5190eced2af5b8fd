"""The fixed input side of the subspaces: which directions of the edited projection's input an update can tell apart.

Ours. The published subspace is a pair `B A` of which both are tuned. Tuning `A` for new knowledge turns the directions
that past knowledge is read by, and a few directions in which all inputs are large carry most of the activations, so
that what one edit learns there every other edit gets, too. Here `A` is fixed and its inputs are whitened,

    A = R W,    W = (I + Σ_i (√(λ_{k+1} / λ_i) − 1) v_i v_iᵀ) D,    D = diag(c / √(E[x_j²] + ρ)),

with seeded random orthonormal rows `R`, so that what is tuned, `B`, is linear in features that are of like size and
nearly uncorrelated over ordinary text. `λ_i, v_i` are the largest eigenpairs of the second moment of `D x`, cut down to
the next one, `λ_{k+1}`. Of all this a vector and a few directions are stored; `R` comes from its seed.

Whitened features make sequential least squares forget less; the same statistics serve as the preserved keys of null-
space methods [1] and in normalised ones [2], which use a full second moment of the edited layer's input.

References:
    [1] AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models. ICLR 2025.
    [2] UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Language Models. 2025.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

RIDGE = 0.1  # ρ, of the mean of E[x_j²]: keeps neurons that the text hardly wakes from being blown up


@dataclass(frozen=True)
class Whitening:
    """`W` in few numbers.

    Attributes:
        scales: The diagonal of `D`, `(d_in,)`.
        directions: `v_i`, orthonormal, `(k, d_in)`.
        shrinks: `√(λ_{k+1} / λ_i) − 1`, from −1 to 0, `(k,)`.
    """

    scales: Tensor
    directions: Tensor
    shrinks: Tensor


def measure_whitening(inputs: Tensor, n_directions: int, size: float = 1.0) -> Whitening:
    """Whiten by a sample of inputs.

    Args:
        inputs: `x`, `(tokens, d_in)`.
        n_directions: `k`, less than `d_in` and than the number of tokens.
        size: Root mean square that a whitened feature shall have. That of the projection's outputs makes `B` free of
            units, so one learning rate does for layers and models of any scale.

    Raises:
        ValueError: There are too few tokens, or some number is not finite.
    """
    tokens, d_in = inputs.shape
    x = inputs.float()
    energy = x.square().mean(0)
    if not n_directions < min(tokens, d_in) or not 0 < energy.sum() < float("inf"):
        raise ValueError(
            f"whitening {n_directions} directions needs more than that many finite inputs and features, not all zero, "
            f"found {tokens} inputs of {d_in} features; give more text or ask for fewer directions"
        )
    scales = (energy + RIDGE * energy.mean()).rsqrt()
    values, directions = _find_largest(x * scales, n_directions + 1)
    if not values[-1] > 1e-6 * values[0]:
        raise ValueError(f"the inputs span fewer than {n_directions + 1} directions; give more varied text")
    shrinks = (values[-1] / values[:-1]).sqrt() - 1
    whitening = Whitening(scales, directions[:-1], shrinks)
    return replace(whitening, scales=scales * size / whiten(x, whitening).square().mean().sqrt())


def _find_largest(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of `xᵀx`, `(count,)`, and their eigenvectors, `(count, d)`, in falling order."""
    wide = x.shape[1] > x.shape[0]  # then those of the smaller `x xᵀ` lead to them
    values, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    values, vectors = values[-count:].flip(0).clamp_min(1e-12), vectors[:, -count:].flip(1).T
    if wide:
        vectors = vectors @ x / values.sqrt()[:, None]
    return values, vectors


def whiten(x: Tensor, whitening: Whitening) -> Tensor:
    """`W x` for inputs `(..., d_in)`."""
    scaled = x * whitening.scales
    whitened: Tensor = scaled + (scaled @ whitening.directions.T * whitening.shrinks) @ whitening.directions
    return whitened


def draw_basis(rank: int, d_in: int, seed: int) -> Tensor:
    """`R`: seeded random rows, orthonormal where there are no more of them than features, `(rank, d_in)`."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(d_in, rank, generator=generator, dtype=torch.float32, device="cpu")  # whatever the defaults are
    if rank > d_in:
        return draws.T.div(d_in**0.5)
    columns, triangle = torch.linalg.qr(draws)
    rows: Tensor = (columns * triangle.diagonal().sign()).T  # the sign makes the factorisation unique
    return rows.contiguous()


def build_basis(rank: int, whitening: Whitening, seed: int) -> Tensor:
    """`A = R W`, `(rank, d_in)`."""
    rows = draw_basis(rank, len(whitening.scales), seed)
    directions = whitening.directions
    basis: Tensor = (rows + (rows @ directions.T * whitening.shrinks) @ directions) * whitening.scales
    return basis
