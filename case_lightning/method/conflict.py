"""CAA: how much a new piece of knowledge conflicts with what a subspace has already learned.

References:
    [1] CASE: Conflict-Assessed Knowledge-Sensitive Neuron Tuning for Lifelong Model Editing. WWW 2026.
        doi:10.1145/3774904.3792427. Published: the edit gradient at the initial subspace, its cosine with a subspace's
        update direction, sharing at a score of zero or more, opening a new subspace when every score is negative.
    [2] Johnson, Lindenstrauss: Extensions of Lipschitz mappings into a Hilbert space. 1984. The sketch of the mean.

With `x` the input and `δ = ∂L/∂(Wx)` the gradient at the output of the edited projection, over the tokens n of an edit,

    G = −∂L/∂ΔW = −Σ_n δ_n x_nᵀ            the direction in which one descent step moves the initial subspace,
    E = ΔW − ΔW_0 = s · B A                 what a subspace has learned,
    c = ⟨E, G⟩ / (‖E‖ ‖G‖).

Both are sums of few outer products, so every inner product is taken on the factors and no `d_out × d_in` matrix is ever
formed.

Ours: two more scores. All edits share a large common part ("do not say what the base says"), which makes almost every
raw cosine positive. `c = ⟨E, G − Ḡ⟩ / (‖E‖ ‖G − Ḡ‖)` with the running mean Ḡ of past edit gradients is centred, but a
fitted E leans towards its members' share of Ḡ, which makes almost every such cosine negative. Centring both sides
settles it: what a subspace holds is taken as the sum of its members' gradients, each less the mean when it came,

    c = cos( Σ_m (G_m − Ḡ_m), G − Ḡ ),

so that an edit is compared with edits. (Less the mean of today, the members of a single subspace would sum to zero.) Ḡ
and the sums are kept as seeded random sketches [2], of 64 KiB each by default.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from case_lightning.method.sensitivity import widen

# The sketch has a stream of random numbers of its own. Subspaces draw their `A` from small seeds: from the same stream,
# rows of `A` and of the sketch would be the same numbers, and the sketch of `B A` several times too long.
SKETCH_STREAM = 2_747_660_185


@dataclass(frozen=True)
class OuterSum:
    """The matrix `Σ_n left_n right_nᵀ`, kept as its factors.

    Attributes:
        left: `(terms, d_out)`.
        right: `(terms, d_in)`.
    """

    left: Tensor
    right: Tensor

    @classmethod
    def from_gradient(cls, output_gradient: Tensor, inputs: Tensor) -> "OuterSum":
        """The edit gradient `G = −Σ_n δ_n x_nᵀ`.

        Args:
            output_gradient: `δ = ∂L/∂(Wx)`, `(tokens, d_out)`.
            inputs: `x`, `(tokens, d_in)`.
        """
        return cls(-widen(output_gradient), widen(inputs))

    @classmethod
    def from_adapter(cls, down: Tensor, up: Tensor, scale: float = 1.0) -> "OuterSum":
        """The update direction `E = s · B A` of a subspace whose initial `B` is zero.

        Args:
            down: `A`, `(rank, d_in)`.
            up: `B`, `(d_out, rank)`.
            scale: `s`.
        """
        return cls(scale * widen(up).T, widen(down))

    def __add__(self, other: "OuterSum") -> "OuterSum":
        """The sum of the two matrices: the terms of both."""
        return OuterSum(torch.cat([self.left, other.left]), torch.cat([self.right, other.right]))

    def inner(self, other: "OuterSum") -> Tensor:
        """The inner product of the two matrices, `⟨Σ u_n v_nᵀ, Σ p_m q_mᵀ⟩ = Σ_{n,m} (u_n·p_m)(v_n·q_m)`, a scalar."""
        return ((self.left @ other.left.T) * (self.right @ other.right.T)).sum()

    def norm(self) -> Tensor:
        """The Frobenius norm, a scalar."""
        return self.inner(self).clamp_min(0).sqrt()


def cosine(a: OuterSum, b: OuterSum) -> Tensor:
    """The conflict score `c` of an update direction and an edit gradient; 0 where either vanishes.

    Returns:
        A scalar from −1 (they undo each other) to 1 (the same direction).
    """
    return _divide(a.inner(b), a.norm() * b.norm())


class Sketch:
    """A seeded random projection `M ↦ P M Qᵀ` that keeps inner products.

    `⟨M, N⟩` is off by about `2 ‖M‖ ‖N‖ / √size` at worst, where both are one term, and by a few per cent of `‖M‖ ‖N‖`
    where they have dozens.

    Args:
        d_out: Rows of the matrices.
        d_in: Their columns.
        size: Rows and columns of a sketch.
        seed: Two sketches of one seed and size are comparable.
    """

    def __init__(self, d_out: int, d_in: int, size: int = 64, seed: int = 0) -> None:
        """Draw the projection."""
        generator = torch.Generator().manual_seed(SKETCH_STREAM + seed)
        # whatever the default dtype and device are
        plain = partial(torch.randn, generator=generator, dtype=torch.float32, device="cpu")
        self.rows = plain(size, d_out) / size**0.5  # P, E[PᵀP] = I
        self.columns = plain(size, d_in) / size**0.5  # Q

    def __call__(self, matrix: OuterSum) -> Tensor:
        """The sketch of a matrix, `(size, size)`."""
        rows, columns = self.rows.to(matrix.left), self.columns.to(matrix.left)
        sketched: Tensor = (rows @ matrix.left.T) @ (matrix.right @ columns.T)
        return sketched


def cosine_centred(direction: OuterSum, gradient: OuterSum, mean: Tensor, sketch: Sketch) -> Tensor:
    """The centred conflict score, `cos(E, G − Ḡ)`; 0 where either vanishes.

    The terms in `G` alone are exact; those in `Ḡ` come from its sketch.

    Args:
        direction: `E`.
        gradient: `G`.
        mean: Sketch of `Ḡ`, `(size, size)`.
        sketch: What it was made with.
    """
    inner = direction.inner(gradient) - (sketch(direction) * mean).sum()
    square = gradient.inner(gradient) - 2 * (sketch(gradient) * mean).sum() + mean.square().sum()
    return _divide(inner, direction.norm() * square.clamp_min(0).sqrt())


def cosine_members(total: Tensor, gradient: Tensor, mean: Tensor) -> Tensor:
    """The score against a subspace's members, `cos(Σ_m (G_m − Ḡ_m), G − Ḡ)`, from sketches; 0 where either vanishes.

    Args:
        total: Sketch of the sum of the members' gradients, each less the mean when it came, `(size, size)`.
        gradient: Sketch of `G`, `(size, size)`.
        mean: Sketch of `Ḡ`, `(size, size)`.
    """
    new = gradient - mean
    return _divide((total * new).sum(), total.norm() * new.norm())


def _divide(inner: Tensor, norms: Tensor) -> Tensor:
    return torch.where(norms > 0, inner / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0).clamp(-1, 1)
