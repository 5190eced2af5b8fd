"""The subspaces themselves: low-rank updates `ΔW_i = s · B_i A_i` of one projection.

Each row of a batch goes through its own.
"""

import torch
from torch import Tensor, nn

from case_lightning.method.conflict import OuterSum

UNEDITED = -1  # the route of a row that sees the frozen weight alone


class Subspaces(nn.Module):
    """A growing set of low-rank updates of one `d_in → d_out` projection.

    Args:
        d_in: Input width of the projection.
        d_out: Its output width.
        rank: Rank of each subspace.
        scale: `s`.
        seed: Seed of the initial `A`; subspace i starts from seed + i, so a run can be repeated.
    """

    def __init__(self, d_in: int, d_out: int, rank: int, scale: float = 1.0, seed: int = 0) -> None:
        """Start without subspaces."""
        super().__init__()
        self.d_in, self.d_out, self.rank, self.scale, self.seed = d_in, d_out, rank, scale, seed
        self.down = nn.ParameterList()  # A_i, (rank, d_in)
        self.up = nn.ParameterList()  # B_i, (d_out, rank)

    def __len__(self) -> int:
        """Number of subspaces."""
        return len(self.down)

    def open(self, device: torch.device | str | None = None) -> int:
        """Add an initial subspace `ΔW_0^0`, seeded `A` and zero `B`, which changes nothing yet.

        Returns:
            Its index.
        """
        generator = torch.Generator().manual_seed(self.seed + len(self))
        down = torch.randn(self.rank, self.d_in, generator=generator) / self.d_in**0.5
        self.down.append(nn.Parameter(down.to(device)))
        self.up.append(nn.Parameter(torch.zeros(self.d_out, self.rank, device=device)))
        return len(self) - 1

    def update(self, index: int, inputs: Tensor) -> Tensor:
        """`ΔW_i x` in float32.

        Args:
            index: `i`.
            inputs: `x`, `(..., d_in)`.

        Returns:
            `(..., d_out)`.
        """
        down, up = self.down[index], self.up[index]
        update: Tensor = self.scale * (inputs.to(down.dtype) @ down.T) @ up.T
        return update

    def forward(self, output: Tensor, inputs: Tensor, routes: Tensor) -> Tensor:
        """Add each row's own update to the frozen projection's output.

        Args:
            output: `W x`, `(batch, seq, d_out)`.
            inputs: `x`, `(batch, seq, d_in)`.
            routes: Subspace of each row or `UNEDITED`, `(batch,)`.

        Returns:
            `(batch, seq, d_out)`; the rows of `UNEDITED` routes are those of `output`, bit for bit.
        """
        for index in sorted(set(routes.tolist()) - {UNEDITED}):
            rows = (routes == index).nonzero().squeeze(1)
            output = output.index_add(0, rows, self.update(index, inputs[rows]).to(output.dtype))
        return output

    def direction(self, index: int) -> OuterSum:
        """The update direction `E_i` of a subspace, as factors."""
        return OuterSum.from_adapter(self.down[index].detach(), self.up[index].detach(), self.scale)

    @torch.no_grad()
    def round_to(self, dtype: torch.dtype) -> None:
        """Round all parameters to what a file of `dtype` holds: a saved adapter answers exactly like this one."""
        for parameter in self.parameters():
            parameter.copy_(parameter.to(dtype))
