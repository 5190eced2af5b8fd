"""Reliability and generalization: the share of a target's tokens that the edited model predicts, teacher-forced.

References:
    - Wang et al., WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language Models,
      NeurIPS 2024, https://arxiv.org/abs/2405.14768 (the `wise` protocol).
"""

import torch
from torch import Tensor

from case_lightning.metrics.edit_metric import EditMetric
from case_lightning.metrics.rows import IGNORE_INDEX, check_token_ids, mean_of_rows, share_of_rows


def sum_token_accuracy(predictions: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum both accuracies over the rows that have a label.

    Args:
        predictions: Token ids, `(batch, seq)`, each at the position of the label it answers to.
        labels: Token ids, `(batch, seq)`, -100 where there is none.

    Returns:
        Three scalars: the sum of the rows' shares of right tokens, the number of rows that are right in every token,
        the number of rows.

    Raises:
        ValueError: Where either is not token ids, or their shapes differ.
    """
    check_token_ids(predictions=predictions, labels=labels)
    shares = share_of_rows(predictions == labels, labels != IGNORE_INDEX)
    return shares.sum(), (shares == 1).sum(), torch.tensor(shares.numel(), device=shares.device)


def compute_token_accuracy(shares: Tensor, exact_rows: Tensor, rows: Tensor, exact: bool = False) -> Tensor:
    """Mean share of right tokens, or share of rows right in every token; `nan` without a row.

    Args:
        shares: Sum of the rows' shares of right tokens, a scalar.
        exact_rows: Number of rows that are right in every token, a scalar.
        rows: Number of rows, a scalar.
        exact: Whether a row counts only as a whole.
    """
    return mean_of_rows(exact_rows if exact else shares, rows)


class TokenAccuracy(EditMetric):
    """Mean over edits of the share of labelled tokens that are right.

    Nothing is shifted here. Where `logits[:, t]` predicts the token at `t + 1`, as in a causal language model, pass
    `logits.argmax(-1)[:, :-1]` and `labels[:, 1:]`.

    A row without a label is left out. Without any row the value is `nan`.

    Shape:
        - `predictions`: `(batch, seq)`, argmax token ids
        - `labels`: `(batch, seq)`, token ids, -100 where there is none
        - value: scalar in [0, 1], float32

    Args:
        exact: Whether to return exact match instead: the share of rows right in every labelled token.
        kwargs: Those of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: By `update`, where either input is not token ids, or their shapes differ.

    Example:
        >>> import torch
        >>> predictions = torch.tensor([[5, 6, 7], [8, 1, 1]])
        >>> labels = torch.tensor([[-100, 6, 0], [-100, -100, 1]])
        >>> TokenAccuracy()(predictions, labels)
        tensor(0.7500)
        >>> TokenAccuracy(exact=True)(predictions, labels)
        tensor(0.5000)
    """

    # Both sums are kept whatever `exact` is: a MetricCollection merges metrics whose states agree after the first
    # update, and an exact and an inexact metric do agree on a first batch that is all right.
    shares: Tensor
    exact_rows: Tensor
    rows: Tensor

    def __init__(self, exact: bool = False, **kwargs: object) -> None:
        """Store the option and start without rows."""
        super().__init__(**kwargs)
        self.exact = exact
        self.add_state("shares", torch.tensor(0.0, dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("exact_rows", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add a batch; see the class for shapes."""
        shares, exact_rows, rows = sum_token_accuracy(predictions, labels)
        self.shares = self.shares + shares
        self.exact_rows = self.exact_rows + exact_rows
        self.rows = self.rows + rows

    def compute(self) -> Tensor:
        """Return the mean over the rows so far."""
        return compute_token_accuracy(self.shares, self.exact_rows, self.rows, self.exact)


class Reliability(TokenAccuracy):
    """:class:`TokenAccuracy` on the prompts that were edited: does the model say what it was told?

    Example:
        >>> import torch
        >>> Reliability()(torch.tensor([[3, 4, 9]]), torch.tensor([[-100, 4, 5]]))
        tensor(0.5000)
    """


class Generalization(TokenAccuracy):
    """:class:`TokenAccuracy` on rephrases of the edited prompts: does it say so however it is asked?

    Example:
        >>> import torch
        >>> Generalization(exact=True)(torch.tensor([[3, 4, 9]]), torch.tensor([[-100, 4, 9]]))
        tensor(1.)
    """
