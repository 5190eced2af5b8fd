"""Where an adapter keeps the activations of past edits."""

import torch
from torch import Tensor, nn


class MemoryStore(nn.Module):
    """Eight-bit rows of past edits: the projection's input, the subspace's output for it, and which subspace.

    Args:
        d_in: Width of an input.
        d_out: Width of an output.
        n_rows: Rows to make room for before a state dict is loaded.
    """

    inputs: Tensor
    input_scales: Tensor
    outputs: Tensor
    output_scales: Tensor
    subspaces: Tensor

    def __init__(self, d_in: int, d_out: int, n_rows: int = 0) -> None:
        """Make room."""
        super().__init__()
        self.register_buffer("inputs", torch.zeros(n_rows, d_in, dtype=torch.int8))
        self.register_buffer("input_scales", torch.zeros(n_rows, 1))
        self.register_buffer("outputs", torch.zeros(n_rows, d_out, dtype=torch.int8))
        self.register_buffer("output_scales", torch.zeros(n_rows, 1))
        self.register_buffer("subspaces", torch.zeros(n_rows, dtype=torch.int16))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.subspaces)

    def replace(self, rows: dict[str, Tensor]) -> None:
        """Take over new rows; `rows` has a tensor for each buffer."""
        for name, value in rows.items():
            setattr(self, name, value.detach().clone().to(self.subspaces.device))
