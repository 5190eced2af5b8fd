"""The plots of a comparison: each figure over the number of edits, a line for each method, as the field draws them.

Where all were scored after the same number of edits only, a dot for each method, beside the bytes that it stores. And
what the methods reach over those bytes.
"""

from pathlib import Path

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

PANELS = {
    "reliability": "Reliability",
    "generalization": "Generalization",
    "locality": "Locality",
    "perplexity_median": "Perplexity of targets (median)",
}
STORED = "bytes"
MARKERS = "osD^vP*Xp<>"
INCHES = 3.4
ROW = 0.2  # inches of a method's row of dots


def draw_plots(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write two SVGs for each data set: the figures, and their mean over the bytes that are stored.

    Args:
        table: Rows as `collect_rows` gives them.
        folder: Where to.
    """
    paths = []
    for data, group in table.groupby("data", sort=False):
        panels = {name: title for name, title in PANELS.items() if group[name].notna().any()}
        figure = _draw_lines(group, panels) if group["n_edits"].nunique() > 1 else draw_dots(group, panels)
        for name, drawn in ((data, figure), (f"{data}_bytes", draw_trade_off(group))):
            drawn.suptitle(str(data))
            paths.append(folder / f"{name}.svg")
            drawn.savefig(paths[-1])
    return paths


def _draw_lines(group: pd.DataFrame, panels: dict[str, str]) -> Figure:
    figure = Figure(figsize=(INCHES * len(panels), INCHES), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, name in zip(axes, panels, strict=True):
        _draw_panel(axis, group, name)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False)
    return figure


def draw_dots(group: pd.DataFrame, panels: dict[str, str]) -> Figure:
    """The mean of each method over its seeds, from least to most.

    Args:
        group: Rows of one data set.
        panels: Columns to draw, and their titles; the bytes that are stored come beside them.
    """
    titles = panels | {STORED: "Stored (MB)"}
    methods = list(group["method"].unique())[::-1]  # the first on top
    seeds = group.assign(**{STORED: group[STORED] / 1e6}).groupby("method")[list(titles)]
    mean, least, most = seeds.mean().loc[methods], seeds.min().loc[methods], seeds.max().loc[methods]
    figure = Figure(figsize=(INCHES * len(titles), INCHES / 3 + ROW * len(methods)), layout="constrained")
    axes = figure.subplots(1, len(titles), squeeze=False, sharey=True)[0]
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        logged = name == "perplexity_median"
        axis.set(xlabel=title, xscale=choose_scale(mean[name]) if logged else "linear")  # before what it shall fit
        axis.hlines(methods, least[name], most[name])
        axis.plot(mean[name], methods, "o", markersize=4)
        axis.axvline(mean[name].iloc[-1], linewidth=0.8, linestyle=":")  # the first method, to compare with
        axis.grid(alpha=0.3)
    return figure


def draw_trade_off(group: pd.DataFrame) -> Figure:
    """The mean of reliability, generalization and locality over the bytes stored, a dot for each method.

    Args:
        group: Rows of one data set. Drawn are those at the largest number of edits that most methods were scored at.
    """
    scored = group.groupby("n_edits")["method"].nunique()
    n_edits = scored[scored == scored.max()].index.max()
    dots = group[group["n_edits"] == n_edits].groupby("method")[[STORED, "mean"]].mean()
    figure = Figure(figsize=(2 * INCHES, 1.4 * INCHES), layout="constrained")
    axis = figure.subplots()
    axis.set_xscale(choose_scale(dots[STORED]))
    axis.plot(dots[STORED] / 1e6, dots["mean"], "o", markersize=4)
    for method, (stored, mean) in dots.iterrows():
        axis.annotate(str(method), (stored / 1e6, mean), (4, 4), textcoords="offset points", fontsize="small")
    axis.set(xlabel="Stored (MB)", ylabel=f"Mean of the figures after {n_edits} edits")
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.margins(0.15, 0.1)
    axis.grid(alpha=0.3)
    return figure


def choose_scale(values: pd.Series) -> str:
    """The scale of an axis: logarithmic where values span more than a decade, which its labels need."""
    return "log" if values.max() > 10 * values.min() else "linear"


def _draw_panel(axis: Axes, group: pd.DataFrame, name: str) -> None:
    colors = colormaps["tab10"]
    for index, (method, rows) in enumerate(group.groupby("method", sort=False)):
        seeds = rows.groupby("n_edits")[name]
        mean, least, most = seeds.mean(), seeds.min(), seeds.max()
        marker, color = MARKERS[index % len(MARKERS)], colors(index % 10)
        axis.plot(mean.index, mean, marker=marker, color=color, label=str(method), markersize=4, linewidth=1.2)
        axis.fill_between(mean.index, least, most, color=color, alpha=0.15, linewidth=0)
    axis.set(title=PANELS[name], xlabel="edits", xscale="log")
    axis.xaxis.set_major_formatter(ScalarFormatter())
    if name == "perplexity_median":
        axis.set_yscale(choose_scale(group[name]))
    else:
        axis.set_ylim(-0.02, 1.02)
    axis.grid(alpha=0.3)
