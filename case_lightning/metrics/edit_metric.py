"""What the metrics of this package have in common: their plot, their bounds, and states that stay exact enough."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities.plot import _AX_TYPE, _PLOT_OUT_TYPE


class EditMetric(Metric):
    """Base of every metric here: a share between 0 and 1, higher is better, unless a subclass says otherwise.

    States are float32 or integers whatever the default dtype is, and remain so when the module that holds the metric is
    cast. Lightning's `bf16-true` casts every submodule, and a bfloat16 sum of shares stops growing at 256. Only
    `set_dtype` changes them.

    Args:
        kwargs: Those of :class:`torchmetrics.Metric`, such as `process_group` or `sync_on_compute`.
    """

    is_differentiable = False
    higher_is_better: bool | None = True
    full_state_update = False
    plot_lower_bound: float | None = 0.0
    plot_upper_bound: float | None = 1.0

    def __init__(self, **kwargs: object) -> None:
        """Pin the dtype of states."""
        super().__init__(**kwargs)
        self.set_dtype(torch.float32)  # also what a rank without data contributes to a gathered state

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: _AX_TYPE | None = None) -> _PLOT_OUT_TYPE:
        """Plot one value, or several as a series.

        Args:
            val: What `forward` or `compute` returned, or a list of these. Left out, `compute` is called.
            ax: The axis to draw on. Left out, a figure is made.

        Returns:
            The figure (`None` where `ax` was given) and its axis.

        Raises:
            ModuleNotFoundError: Without matplotlib.
        """
        return self._plot(val, ax)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor.new_empty(0)).device)

        return super()._apply(fn if self._dtype_convert else move, exclude_state)
