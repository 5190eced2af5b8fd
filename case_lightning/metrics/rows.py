"""Shares of tokens within a row and means over rows, which every score of an edit is made of.

A row is one edit. A row's share weighs the same whatever the number of its tokens, and a row without a counted token
has no share: it is left out, neither right nor wrong.
"""

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""The label of a position that is not part of a target, as in transformers and `cross_entropy`."""


def check_token_ids(**tensors: Tensor) -> None:
    """Check that all tensors, passed by name, hold token ids of one shape.

    Args:
        tensors: Integers, `(batch, seq)` each.

    Raises:
        ValueError: Where one is not an integer tensor of two dimensions, or its shape differs from the first one's.
    """
    first = next(iter(tensors))
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or tensor.is_floating_point() or tensor.dtype == torch.bool:
            raise ValueError(
                f"`{name}` is {tensor.dtype} of shape {tuple(tensor.shape)}; expected integer token ids of shape "
                "(batch, seq). Of logits, pass `logits.argmax(-1)`."
            )
        if tensor.shape != tensors[first].shape:
            raise ValueError(
                f"`{name}` has shape {tuple(tensor.shape)} and `{first}` {tuple(tensors[first].shape)}; expected one "
                "shape (batch, seq), a token in the one beside its counterpart in the other."
            )


def share_of_rows(right: Tensor, counted: Tensor) -> Tensor:
    """Share of each row's counted positions that are right.

    Args:
        right: Booleans, `(batch, seq)`.
        counted: Booleans, `(batch, seq)`: the positions that are looked at.

    Returns:
        `(rows,)`, float32, only of the rows that have a counted position.
    """
    lengths = counted.sum(dim=1)
    kept = lengths > 0
    return (right & counted).sum(dim=1)[kept].float() / lengths[kept]  # of integers alone, the default dtype


def mean_of_rows(total: Tensor, rows: Tensor) -> Tensor:
    """Mean over rows; `nan`, not 0, where there is no row.

    Args:
        total: Sum over the rows, a scalar.
        rows: Their number, a scalar.

    Returns:
        A float32 scalar.
    """
    return total.float() / rows
