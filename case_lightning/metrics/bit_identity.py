"""Bit identity: the share of unrelated prompts on which the edited model computes the very same logits.

Stricter than locality, which asks for the same argmax only: a model whose probabilities drift has a locality of 1 until
the first token flips.
"""

import torch
from torch import Tensor

from case_lightning.metrics.edit_metric import EditMetric
from case_lightning.metrics.rows import mean_of_rows

_INTEGER_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes to dtype


def count_identical_rows(edited_logits: Tensor, unedited_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Count the rows that are equal bit for bit.

    Args:
        edited_logits: `(batch, ...)`, usually `(batch, seq, vocab)`.
        unedited_logits: Of the same shape and dtype.

    Returns:
        Two scalars: the number of identical rows, the number of rows.

    Raises:
        ValueError: Where shapes or dtypes differ, or there is nothing but a batch dimension.
    """
    if edited_logits.ndim < 2 or edited_logits.shape != unedited_logits.shape:
        raise ValueError(
            f"`edited_logits` has shape {tuple(edited_logits.shape)} and `unedited_logits` "
            f"{tuple(unedited_logits.shape)}; expected one shape (batch, ...), rows of the same prompts."
        )
    if edited_logits.dtype != unedited_logits.dtype:
        raise ValueError(
            f"`edited_logits` is {edited_logits.dtype} and `unedited_logits` {unedited_logits.dtype}; expected one "
            "dtype. Run both models in the same one: a cast of the logits would hide or make a difference."
        )
    integer = _INTEGER_OF_SIZE[edited_logits.element_size()]
    same = (edited_logits.view(integer) == unedited_logits.view(integer)).flatten(1).all(dim=1)  # (batch,)
    return same.sum(), torch.tensor(same.numel(), device=same.device)


class BitIdentity(EditMetric):
    """Share of rows whose logits are bit-identical to the unedited model's.

    Bit patterns are compared, not numbers: a `nan` equals the same `nan` (a base model that yields one was not changed
    by an edit that leaves it there), and -0.0 differs from 0.0. `torch.equal` decides the other way in both cases.

    Every position passed counts, padding too: of padded prompts pass only what should be compared. Both models have to
    see the same batch, for a row's rounding may depend on the shape of the batch around it. Without any row the value
    is `nan`.

    Shape:
        - `edited_logits`, `unedited_logits`: `(batch, ...)`, usually `(batch, seq, vocab)`, of one dtype
        - value: scalar in [0, 1], float32

    Args:
        kwargs: Those of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: By `update`, where shapes or dtypes differ, or there is nothing but a batch dimension.

    Example:
        >>> import torch
        >>> unedited = torch.zeros(4, 2, 8)
        >>> edited = unedited.clone()
        >>> edited[3, 1, 7] = 1e-30
        >>> BitIdentity()(edited, unedited)
        tensor(0.7500)
    """

    identical_rows: Tensor
    compared_rows: Tensor

    def __init__(self, **kwargs: object) -> None:
        """Start without rows."""
        super().__init__(**kwargs)
        self.add_state("identical_rows", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("compared_rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, edited_logits: Tensor, unedited_logits: Tensor) -> None:
        """Add a batch; see the class for shapes."""
        identical, compared = count_identical_rows(edited_logits, unedited_logits)
        self.identical_rows = self.identical_rows + identical
        self.compared_rows = self.compared_rows + compared

    def compute(self) -> Tensor:
        """Return the share of the rows so far."""
        return mean_of_rows(self.identical_rows, self.compared_rows)
