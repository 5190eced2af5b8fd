"""Locality: the share of tokens on unrelated prompts that the edits left as they were.

References:
    - Wang et al., WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language Models,
      NeurIPS 2024, https://arxiv.org/abs/2405.14768 (the `wise` protocol).
"""

import torch
from torch import Tensor

from case_lightning.metrics.edit_metric import EditMetric
from case_lightning.metrics.rows import check_token_ids, mean_of_rows, share_of_rows


def sum_agreement(edited: Tensor, unedited: Tensor, labels_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the rows' shares of unchanged tokens over the rows that have a masked-in position.

    Args:
        edited: The edited model's argmax token ids, `(batch, seq)`.
        unedited: The unedited model's, `(batch, seq)`.
        labels_mask: Booleans, `(batch, seq)`: the positions whose prediction belongs to the answer.

    Returns:
        Two scalars: the sum of the shares, the number of rows.

    Raises:
        ValueError: Where an input has another kind or shape.
    """
    check_token_ids(edited=edited, unedited=unedited)
    if labels_mask.dtype != torch.bool or labels_mask.shape != edited.shape:
        raise ValueError(
            f"`labels_mask` is {labels_mask.dtype} of shape {tuple(labels_mask.shape)}; expected booleans of shape "
            f"{tuple(edited.shape)}, the shape of `edited`. Of labels, pass `labels != -100`."
        )
    shares = share_of_rows(edited == unedited, labels_mask)
    return shares.sum(), torch.tensor(shares.numel(), device=shares.device)


class Locality(EditMetric):
    """Mean over rows of the share of positions at which the edited model's argmax is the unedited model's.

    This is the `wise` protocol's locality. The `harness` protocol's is the accuracy on the unrelated question's true
    answer, so :class:`~case_lightning.metrics.TokenAccuracy`; the two do not belong in one column.

    A row whose mask is empty is left out. Without any row the value is `nan`.

    Shape:
        - `edited`, `unedited`: `(batch, seq)`, argmax token ids
        - `labels_mask`: `(batch, seq)`, booleans
        - value: scalar in [0, 1], float32

    Args:
        kwargs: Those of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: By `update`, where an input has another kind or shape.

    Example:
        >>> import torch
        >>> edited = torch.tensor([[5, 6, 7], [8, 1, 1]])
        >>> unedited = torch.tensor([[5, 6, 0], [8, 1, 1]])
        >>> Locality()(edited, unedited, torch.tensor([[False, True, True], [True, True, False]]))
        tensor(0.7500)
    """

    # States are named apart from the other metrics': a MetricCollection merges metrics that agree in both.
    unchanged_shares: Tensor
    unrelated_rows: Tensor

    def __init__(self, **kwargs: object) -> None:
        """Start without rows."""
        super().__init__(**kwargs)
        self.add_state("unchanged_shares", torch.tensor(0.0, dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("unrelated_rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, edited: Tensor, unedited: Tensor, labels_mask: Tensor) -> None:
        """Add a batch; see the class for shapes."""
        shares, rows = sum_agreement(edited, unedited, labels_mask)
        self.unchanged_shares = self.unchanged_shares + shares
        self.unrelated_rows = self.unrelated_rows + rows

    def compute(self) -> Tensor:
        """Return the mean over the rows so far."""
        return mean_of_rows(self.unchanged_shares, self.unrelated_rows)
