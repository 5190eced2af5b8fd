"""Subspace growth: how many subspaces are in use while the number of edits grows."""

from operator import index
from typing import cast

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat
from torchmetrics.utilities.plot import _AX_TYPE, _PLOT_OUT_TYPE

from case_lightning.metrics.axes import open_axis
from case_lightning.metrics.edit_metric import EditMetric


def count_in_use(entries: Tensor) -> Tensor:
    """Count the subspaces in use after each edit.

    Args:
        entries: `(2 * edits,)`, number of the edit and of its subspace in turn.

    Returns:
        `(edits, 2)`, number of the edit, strictly increasing, and how many subspaces hold it or an earlier one.
    """
    points: dict[float, float] = {}
    used: set[float] = set()
    for edit, subspace in sorted(entries.reshape(-1, 2).tolist()):
        used.add(subspace)
        points[edit] = float(len(used))
    return torch.tensor(list(points.items()), dtype=entries.dtype, device=entries.device).reshape(-1, 2)


class SubspaceGrowth(EditMetric):
    """Curve of the number of subspaces in use over the edits, `[[edit, subspaces], ...]`.

    Each process of a distributed run may add other edits, or all of them the same. Without an edit the curve is empty.

    Shape:
        - `edit`: whole number, the edit's place in the stream
        - `subspace`: whole number of the subspace that holds it
        - value: `(edits, 2)`, float32, number of the edit strictly increasing

    Args:
        kwargs: Those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: By `update`, where a number is not a whole one.
        ValueError: By `update`, where one is negative.

    Example:
        >>> growth = SubspaceGrowth()
        >>> for edit, subspace in [(1, 0), (2, 1), (3, 0)]:
        ...     growth.update(edit, subspace)
        >>> growth.compute()
        tensor([[1., 1.],
                [2., 2.],
                [3., 2.]])
    """

    higher_is_better = False
    plot_upper_bound = None
    placed: list[Tensor]

    def __init__(self, **kwargs: object) -> None:
        """Start without edits."""
        super().__init__(**kwargs)
        self.add_state("placed", [], dist_reduce_fx="cat")

    def update(self, edit: int, subspace: int) -> None:
        """Add one edit; see the class for what the numbers are."""
        numbers = (index(edit), index(subspace))
        if min(numbers) < 0:
            raise ValueError(f"`edit` and `subspace` are {numbers[0]} and {numbers[1]}; expected 0 or more of each.")
        self.placed.append(torch.tensor(numbers, dtype=self.dtype, device=self.device))

    def compute(self) -> Tensor:
        """Return the curve so far."""
        return count_in_use(dim_zero_cat(self.placed) if len(self.placed) else torch.empty(0, dtype=self.dtype))

    def plot(self, val: Tensor | None = None, ax: _AX_TYPE | None = None) -> _PLOT_OUT_TYPE:  # type: ignore[override]
        """Plot the curve as steps.

        Args:
            val: What `compute` returned. Left out, `compute` is called.
            ax: The axis to draw on. Left out, a figure is made.

        Returns:
            The figure (`None` where `ax` was given) and its axis.

        Raises:
            ModuleNotFoundError: Without matplotlib.
        """
        curve = (self.compute() if val is None else val).cpu()
        figure, axis = open_axis(ax)
        axis.step(curve[:, 0].numpy(), curve[:, 1].numpy(), where="post", marker="." if len(curve) < 2 else "")
        axis.set(xlabel="edits so far", ylabel="subspaces in use", title=type(self).__name__)
        top = max(curve[:, 1].tolist(), default=1.0)
        axis.set_ylim(-0.05 * top, 1.1 * top)
        return figure, cast(_AX_TYPE, axis)
