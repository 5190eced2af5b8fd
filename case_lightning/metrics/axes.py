"""The axis that a plot is drawn on."""

from typing import Any

from torchmetrics.utilities.plot import _AX_TYPE


def open_axis(ax: _AX_TYPE | None) -> tuple[Any, Any]:
    """The figure and axis to draw on; the figure is `None` where an axis is given.

    Raises:
        ModuleNotFoundError: Without matplotlib.
    """
    if ax is not None:
        return None, ax
    from matplotlib import pyplot  # an extra

    return pyplot.subplots()
