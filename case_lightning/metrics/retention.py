"""Retention: how well all edits so far are answered, while their number grows. Where it falls, the model forgets."""

import math
from collections import defaultdict
from operator import index
from statistics import fmean
from typing import cast

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat
from torchmetrics.utilities.plot import _AX_TYPE, _PLOT_OUT_TYPE, plot_curve

from case_lightning.metrics.edit_metric import EditMetric


def measure_point(n_edits: int, value: float | Tensor) -> Tensor:
    """One measurement of the curve.

    Args:
        n_edits: Number of edits in the model.
        value: Reliability on all of them, in [0, 1], or `nan` where it could not be measured.

    Returns:
        `(2,)`, float32.

    Raises:
        TypeError: Where `n_edits` is not a whole number.
        ValueError: Where it is negative, or `value` is outside [0, 1].
    """
    count, share = index(n_edits), float(value)
    if count < 0:
        raise ValueError(f"`n_edits` is {count}; expected the number of edits made so far, 0 or more.")
    if not (0 <= share <= 1 or math.isnan(share)):
        raise ValueError(f"`value` is {share} at {count} edits; expected a share from 0 to 1, not a percentage.")
    return torch.tensor([count, share], dtype=torch.float32)


def compute_retention(measurements: Tensor) -> Tensor:
    """The curve: measurements in order of their number of edits, those at the same number averaged.

    Args:
        measurements: `(2 * measurements,)`, number of edits and value in turn.

    Returns:
        `(points, 2)`, number of edits strictly increasing.
    """
    values = defaultdict(list)
    for n_edits, value in measurements.reshape(-1, 2).tolist():
        values[n_edits].append(value)
    points = [[n_edits, fmean(values[n_edits])] for n_edits in sorted(values)]
    return torch.tensor(points, dtype=measurements.dtype, device=measurements.device).reshape(-1, 2)


class Retention(EditMetric):
    """Curve of reliability on all edits so far over their number, `[[n_edits, reliability], ...]`.

    `value` is a finished score, such as what `Reliability.compute()` returned, so under DDP it is already that of all
    processes. Each process may add it, or any one of them: measurements at the same number of edits are one point,
    their mean, and points come sorted, whichever process added them.

    Without a measurement the curve is empty.

    Shape:
        - `n_edits`: whole number
        - `value`: scalar in [0, 1], or `nan`
        - curve: `(points, 2)`, float32, number of edits strictly increasing

    Args:
        kwargs: Those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: By `update`, where `n_edits` is not a whole number.
        ValueError: By `update`, where it is negative, or `value` is outside [0, 1].

    Example:
        >>> retention = Retention()
        >>> retention.update(10, 1.0)
        >>> retention.update(20, 0.75)
        >>> retention.compute()
        tensor([[10.0000,  1.0000],
                [20.0000,  0.7500]])
    """

    measurements: list[Tensor]

    def __init__(self, **kwargs: object) -> None:
        """Start without points."""
        super().__init__(**kwargs)
        self.add_state("measurements", [], dist_reduce_fx="cat")

    def update(self, n_edits: int, value: float | Tensor) -> None:
        """Add one measurement; see the class for what it may be."""
        # Flat, because torchmetrics stands in for a process that has none with an empty tensor of one dimension.
        self.measurements.append(measure_point(n_edits, value).to(self.device, self.dtype))

    def compute(self) -> Tensor:
        """Return the curve so far."""
        measurements = dim_zero_cat(self.measurements) if len(self.measurements) else torch.empty(0, dtype=self.dtype)
        return compute_retention(measurements)

    def plot(self, val: Tensor | None = None, ax: _AX_TYPE | None = None) -> _PLOT_OUT_TYPE:  # type: ignore[override]
        """Plot the curve.

        Args:
            val: What `compute` returned, `(points, 2)`. Left out, `compute` is called.
            ax: The axis to draw on. Left out, a figure is made.

        Returns:
            The figure (`None` where `ax` was given) and its axis.

        Raises:
            ModuleNotFoundError: Without matplotlib.
        """
        curve = self.compute() if val is None else val
        names = ("edits so far", "reliability on all of them")
        points = (curve[:, 0], curve[:, 1])
        figure, drawn = plot_curve(points, ax=ax, label_names=names, name=type(self).__name__)  # type: ignore[arg-type]
        axis = cast(_AX_TYPE, drawn)
        axis.lines[-1].set_marker("o")  # a line through one point cannot be seen
        axis.set_ylim(-0.05, 1.05)
        return figure, axis
