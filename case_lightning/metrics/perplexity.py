"""Perplexity of an edit's target under the edited model, from log-probabilities that cannot underflow.

torchmetrics' `Perplexity` takes a softmax and then its logarithm, which overflows on a confident wrong token, and it
pools all tokens of all rows; edits are scored one by one.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.utilities.data import dim_zero_cat

from case_lightning.errors import ConfigError
from case_lightning.metrics.edit_metric import EditMetric
from case_lightning.metrics.rows import IGNORE_INDEX, check_token_ids

Reduction = Literal["mean", "median"]


def compute_target_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of each row's target, in nats.

    `L_i = -(1/|T_i|) Σ_{t ∈ T_i} log softmax(logits_{i,t})[labels_{i,t}]`, `T_i` the labelled positions of row i, in
    float32 whatever the dtype of the logits. Only labelled positions are cast.

    Args:
        logits: `(batch, seq, vocab)`, each at the position of the label it predicts.
        labels: Token ids, `(batch, seq)`, -100 where there is none.

    Returns:
        `(rows,)`, float32, only of the rows that have a label.

    Raises:
        ValueError: Where shapes do not match, logits are not floating point, or a label is no id of the vocabulary.
    """
    _check(logits, labels)
    labelled = labels != IGNORE_INDEX
    losses = torch.zeros(labels.shape, dtype=torch.float32, device=logits.device)  # (batch, seq)
    losses[labelled] = cross_entropy(logits[labelled].float(), labels[labelled].long(), reduction="none")
    lengths = labelled.sum(dim=1)
    kept = lengths > 0
    return losses.sum(dim=1)[kept] / lengths[kept]


def compute_target_perplexity(losses: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Mean or median over rows of `exp(L_i)`.

    The exponential is taken in float64, on the CPU because not every accelerator has it: float32 ends at a loss of 88
    nats, float64 at 709. Beyond that the perplexity is `inf`, and so is the mean.

    Args:
        losses: Mean negative log-likelihoods, `(rows,)`.
        reduction: `"mean"`, or `"median"` (of an even number of rows, the mean of the middle two).

    Returns:
        A float64 scalar on the CPU; `nan` without a row, or where a loss is `nan`.
    """
    perplexities = losses.cpu().double().exp()
    if reduction == "mean":
        return perplexities.mean()
    lower, upper = perplexities.median(), -(-perplexities).median()  # torch takes the lower of the middle two
    return lower / 2 + upper / 2


class TargetPerplexity(EditMetric):
    """Perplexity of each edit's target, `exp(mean negative log-likelihood)`, then the mean or median over edits.

    Nothing is shifted here. Where `logits[:, t]` predicts the token at `t + 1`, as in a causal language model, pass
    `logits[:, :-1]` and `labels[:, 1:]`.

    Losses are float32 and kept a row each; the exponential is float64. A loss above 709 nats gives `inf`, which a mean
    does not hide and a median may outvote. A row without a label is left out. Without any row the value is `nan`.

    Shape:
        - `logits`: `(batch, seq, vocab)`, any floating dtype
        - `labels`: `(batch, seq)`, token ids, -100 where there is none
        - value: scalar of at least 1, float64, on the CPU

    Args:
        reduction: `"mean"` or `"median"` over edits.
        kwargs: Those of :class:`torchmetrics.Metric`.

    Raises:
        ConfigError: Where `reduction` is neither.
        ValueError: By `update`, where shapes do not match, logits are not floating point, or a label is no id of the
            vocabulary.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2000.0]]])
        >>> labels = torch.tensor([[1, 0], [-100, 1]])
        >>> TargetPerplexity()(logits, labels)
        tensor(1.5000, dtype=torch.float64)
    """

    higher_is_better = False
    plot_lower_bound = 1.0
    plot_upper_bound = None
    losses: list[Tensor]

    def __init__(self, reduction: Reduction = "mean", **kwargs: object) -> None:
        """Check and store the option and start without rows."""
        super().__init__(**kwargs)
        if reduction not in get_args(Reduction):
            raise ConfigError(f"reduction={reduction!r} is not known; expected one of {get_args(Reduction)}.")
        self.reduction = reduction
        self.add_state("losses", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch; see the class for shapes."""
        self.losses.append(compute_target_losses(logits, labels).to(self.dtype))

    def compute(self) -> Tensor:
        """Return the mean or median over the rows so far."""
        losses = dim_zero_cat(self.losses) if len(self.losses) else torch.empty(0, dtype=self.dtype)
        return compute_target_perplexity(losses, self.reduction)


def _check(logits: Tensor, labels: Tensor) -> None:
    check_token_ids(labels=labels)
    if logits.ndim != 3 or logits.shape[:2] != labels.shape or not logits.is_floating_point():
        raise ValueError(
            f"`logits` is {logits.dtype} of shape {tuple(logits.shape)}; expected floating point of shape "
            f"{(*labels.shape, 'vocab')}, a distribution for each of `labels`."
        )
    vocab = logits.shape[2]
    wrong = (labels != IGNORE_INDEX) & ((labels < 0) | (labels >= vocab))
    if wrong.any():
        row, position = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"`labels` holds {labels[row, position].item()} at row {row}, position {position}; expected an id from "
            f"0 to {vocab - 1}, or {IGNORE_INDEX} where there is no label."
        )
