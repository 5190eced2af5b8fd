"""Distribution of neuron sensitivities, with the threshold that parts tuned neurons from frozen ones."""

from typing import cast

import torch
from torch import Tensor
from torchmetrics.utilities.plot import _AX_TYPE, _PLOT_OUT_TYPE

from case_lightning.method.mask_summary import N_BINS, count_neurons, place_bins, summarize_mask
from case_lightning.metrics.axes import open_axis
from case_lightning.metrics.edit_metric import EditMetric


class SensitivityDistribution(EditMetric):
    """How many neurons are how sensitive, and how many of these a mask keeps, summed over masks.

    Sensitivities are taken relative to the mean of their mask, so that masks of different fits can be summed. The bins
    are those of `case_lightning.method.mask_summary`.

    Shape:
        - `sensitivity`: `(neurons,)`, not negative
        - `mask`: `(neurons,)`, booleans
        - value: `(bins, 2)`, float32, neurons and kept neurons

    Args:
        kwargs: Those of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: By `update`, where the shapes differ or the mask is not boolean.

    Example:
        >>> import torch
        >>> distribution = SensitivityDistribution()
        >>> distribution.update(torch.tensor([4.0, 1.0, 1.0]), torch.tensor([True, False, False]))
        >>> distribution.compute().sum(0)
        tensor([3., 1.])
    """

    higher_is_better = None
    plot_upper_bound = None
    counts: Tensor
    thresholds: Tensor
    masks: Tensor

    def __init__(self, **kwargs: object) -> None:
        """Start without neurons."""
        super().__init__(**kwargs)
        self.add_state("counts", torch.zeros(N_BINS, 2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("thresholds", torch.tensor(0.0, dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("masks", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, sensitivity: Tensor, mask: Tensor) -> None:
        """Add one mask; see the class for shapes."""
        self.counts = self.counts + count_neurons(sensitivity, mask).to(self.counts.device)
        threshold = summarize_mask("", sensitivity, mask).threshold
        if threshold is not None:
            self.thresholds = self.thresholds + threshold
            self.masks = self.masks + 1

    def compute(self) -> Tensor:
        """Return the counts so far."""
        return self.counts.to(self.dtype)

    def plot(self, val: Tensor | None = None, ax: _AX_TYPE | None = None) -> _PLOT_OUT_TYPE:  # type: ignore[override]
        """Plot tuned and frozen neurons over their sensitivity, and the mean threshold of this process's masks.

        Args:
            val: What `compute` returned. Left out, `compute` is called.
            ax: The axis to draw on. Left out, a figure is made.

        Returns:
            The figure (`None` where `ax` was given) and its axis.

        Raises:
            ModuleNotFoundError: Without matplotlib.
        """
        counts = (self.compute() if val is None else val).cpu()
        figure, axis = open_axis(ax)
        edges = place_bins()
        tuned = counts[:, 1].numpy()
        axis.stairs(tuned, edges, fill=True, label="tuned")
        axis.stairs(counts[:, 0].numpy(), edges, baseline=tuned, fill=True, label="frozen", color="0.7")
        if self.masks:
            axis.axvline((self.thresholds / self.masks).item(), linestyle="--", color="black", label="threshold, mean")
        axis.set_xscale("log")
        axis.set(xlabel="sensitivity, in multiples of the mean", ylabel="neurons", title=type(self).__name__)
        top = max(counts[:, 0].tolist()) or 1.0
        axis.set_ylim(-0.01 * top, 1.1 * top)
        axis.legend(loc="upper left")
        return figure, cast(_AX_TYPE, axis)
