"""Conflict scores: how each edit agreed with each subspace that was open at its time."""

import math
from collections import defaultdict
from collections.abc import Sequence
from operator import index
from statistics import fmean
from typing import cast

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat
from torchmetrics.utilities.plot import _AX_TYPE, _PLOT_OUT_TYPE

from case_lightning.metrics.axes import open_axis
from case_lightning.metrics.edit_metric import EditMetric


def arrange_scores(entries: Tensor) -> Tensor:
    """Arrange scores as a matrix; those of one edit and one subspace are averaged.

    Args:
        entries: `(3 * scores,)`, number of the edit, number of the subspace and score in turn.

    Returns:
        `(edits, subspaces)`, edits in the order of their numbers; `nan` where there is no score.
    """
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for edit, subspace, score in entries.reshape(-1, 3).tolist():
        found[int(edit), int(subspace)].append(score)
    rows = {edit: row for row, edit in enumerate(sorted({edit for edit, _ in found}))}
    width = max((subspace + 1 for _, subspace in found), default=0)
    matrix = torch.full((len(rows), width), math.nan, dtype=entries.dtype, device=entries.device)
    for (edit, subspace), scores in found.items():
        matrix[rows[edit], subspace] = fmean(scores)
    return matrix


class ConflictScores(EditMetric):
    """Scores of edits against subspaces, from -1 for conflict to 1 for agreement, as the heat map of a run.

    Each process of a distributed run may add other edits, or all of them the same. Without a score the matrix is empty.

    Shape:
        - `edit`: whole number, the edit's place in the stream
        - `scores`: `(subspaces,)`, of the subspaces open at the time
        - value: `(edits, subspaces)`, float32, `nan` where a subspace was not open yet; a single
          score is a scalar, for torchmetrics squeezes it

    Args:
        kwargs: Those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: By `update`, where `edit` is not a whole number.
        ValueError: By `update`, where it is negative, or a score is outside [-1, 1].

    Example:
        >>> scores = ConflictScores()
        >>> scores.update(1, [0.5])
        >>> scores.update(2, [-0.25, 0.75])
        >>> scores.compute()
        tensor([[ 0.5000,     nan],
                [-0.2500,  0.7500]])
    """

    plot_lower_bound = None  # scores are drawn as colours
    plot_upper_bound = None
    entries: list[Tensor]

    def __init__(self, **kwargs: object) -> None:
        """Start without scores."""
        super().__init__(**kwargs)
        self.add_state("entries", [], dist_reduce_fx="cat")

    def update(self, edit: int, scores: Tensor | Sequence[float]) -> None:
        """Add the scores of one edit; see the class for what they may be."""
        values = torch.as_tensor(scores, dtype=torch.float32).flatten().tolist()
        number = index(edit)
        if number < 0:
            raise ValueError(f"`edit` is {number}; expected the edit's place in the stream, 0 or more.")
        if not all(-1.001 <= value <= 1.001 for value in values):  # a cosine in float32 may end just beyond 1
            raise ValueError(f"`scores` of edit {number} are {values}; expected cosines from -1 to 1.")
        flat = [part for subspace, value in enumerate(values) for part in (number, subspace, value)]
        self.entries.append(torch.tensor(flat, dtype=self.dtype, device=self.device))

    def compute(self) -> Tensor:
        """Return the matrix so far."""
        return arrange_scores(dim_zero_cat(self.entries) if len(self.entries) else torch.empty(0, dtype=self.dtype))

    def plot(self, val: Tensor | None = None, ax: _AX_TYPE | None = None) -> _PLOT_OUT_TYPE:  # type: ignore[override]
        """Plot the heat map: edits from left to right, a row for each subspace.

        Args:
            val: What `compute` returned. Left out, `compute` is called.
            ax: The axis to draw on. Left out, a figure is made.

        Returns:
            The figure (`None` where `ax` was given) and its axis.

        Raises:
            ModuleNotFoundError: Without matplotlib.
        """
        matrix = self.compute() if val is None else val
        matrix = matrix if matrix.ndim else matrix.reshape(1, 1)
        figure, axis = open_axis(ax)
        known = matrix[matrix.isfinite()].abs()
        limit = max(known.max().item(), 1e-6) if known.numel() else 1.0
        extent = (0.5, matrix.shape[0] + 0.5, matrix.shape[1] - 0.5, -0.5)
        colours = {"cmap": "RdBu", "vmin": -limit, "vmax": limit, "extent": extent, "interpolation": "nearest"}
        axis.imshow(matrix.T.cpu().numpy(), aspect="auto", **colours)
        axis.set(xlabel="edits with a score, in the order written", ylabel="subspace", title=type(self).__name__)
        axis.set_yticks(range(matrix.shape[1]))
        return figure, cast(_AX_TYPE, axis)
