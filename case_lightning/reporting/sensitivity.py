"""The distribution of neuron sensitivities, with the threshold that parts tuned neurons from frozen ones."""

import math
from collections.abc import Sequence
from statistics import median

from case_lightning.method.mask_summary import FIRST_POWER, LAST_POWER, N_BINS, place_bins
from case_lightning.reporting.markup import Markup, element
from case_lightning.reporting.masks import LedgerMask
from case_lightning.reporting.run import Run
from case_lightning.reporting.scale import Scale, write_unit
from case_lightning.reporting.section import for_each_run, note, section
from case_lightning.reporting.table import area_swatch, data_table, legend, line_swatch
from case_lightning.reporting.wording import write_count, write_number, write_share

_WIDTH, _HEIGHT = 720.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 690.0, 44.0, 244.0


def sensitivity_section(runs: Sequence[Run]) -> Markup:
    """Draw for each run how sensitive its neurons were and which of them were tuned."""
    return section(
        "sensitivity",
        "Neuron sensitivity",
        "How many neurons are how sensitive to the new edits of a batch, as the mean over its fits. 1 is a neuron of "
        "average sensitivity. Only neurons above the threshold are tuned.",
        for_each_run(runs, _draw_masks, "sensitivity"),
    )


def average_counts(masks: Sequence[LedgerMask]) -> list[tuple[float, float]]:
    """Average the counts of several masks, bin by bin: neurons that were tuned, and neurons that were frozen."""
    kept = [sum(column) / len(masks) for column in zip(*(mask.kept for mask in masks), strict=True)]
    neurons = [sum(column) / len(masks) for column in zip(*(mask.neurons for mask in masks), strict=True)]
    return [(one, every - one) for one, every in zip(kept, neurons, strict=True)]


def _draw_masks(run: Run, key: str) -> Markup:
    masks = [mask for mask in run.masks if len(mask.neurons) == N_BINS]
    if not masks:
        return note("There is no ledger that holds neuron masks.")
    bars = average_counts(masks)
    thresholds = sorted(mask.threshold for mask in masks if mask.threshold)
    description = _describe(masks, thresholds)
    drawing = element(
        "svg",
        element("title", "Distribution of neuron sensitivities", id=f"{key}-title"),
        element("desc", description, id=f"{key}-desc"),
        *_draw_bars(bars),
        _draw_threshold(median(thresholds)) if thresholds else None,
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
    )
    entries = [(area_swatch("kind-shared"), "tuned"), (area_swatch("kind-retired"), "frozen")]
    entries += [(line_swatch("threshold"), "threshold, median")] if thresholds else []
    return element("figure", drawing, legend(entries), element("figcaption", description), _tabulate(bars))


def _describe(masks: Sequence[LedgerMask], thresholds: Sequence[float]) -> str:
    kept = median(float(sum(mask.kept)) for mask in masks)
    neurons = median(float(sum(mask.neurons)) for mask in masks)
    shares = [mask.share for mask in masks if mask.share is not None]
    parts = [f"{write_count(len(masks), 'mask')}; tuned are {write_number(kept)} of {write_number(neurons)} neurons"]
    parts += [f"which carry {write_share(median(shares))} of the sensitivity"] if shares else []
    if thresholds:
        low, high = write_number(thresholds[0]), write_number(thresholds[-1])
        parts.append(f"threshold {write_number(median(thresholds))}, from {low} to {high}")
    return f"{', '.join(parts)}. Medians over masks."


def _draw_bars(bars: Sequence[tuple[float, float]]) -> list[Markup]:
    x = Scale(0, N_BINS, _LEFT, _RIGHT)
    y = Scale(0, max(max(map(sum, bars)), 1) * 1.08, _BOTTOM, _TOP)
    paths = {"kind-shared": "", "kind-retired": ""}
    for index, (tuned, frozen) in enumerate(bars):
        left, width = x.place(index) + 0.5, x.place(1) - _LEFT - 1
        for style, low, high in (("kind-shared", 0.0, tuned), ("kind-retired", tuned, tuned + frozen)):
            if high > low:
                top, height = y.place(high), y.place(low) - y.place(high)
                box = f"h{width:.3g}v{write_unit(height)}h-{width:.3g}z"
                paths[style] += f"M{write_unit(left)} {write_unit(top)}{box}"
    drawn = [element("path", class_=style, d=path) for style, path in paths.items() if path]
    return [_draw_axes(y), *drawn]


def _draw_axes(y: Scale) -> Markup:
    rows = [
        mark
        for tick in y.ticks(whole=True)
        for at in [write_unit(y.place(tick))]
        for mark in (
            element("line", class_="grid", x1=_LEFT, x2=_RIGHT, y1=at, y2=at),
            element("text", f"{tick:,.0f}", class_="end", x=_LEFT - 8, y=at, dy=".32em"),
        )
    ]
    columns = [
        element("text", f"{10.0**power:g}", class_="middle", x=write_unit(_place(10.0**power)), y=_BOTTOM + 8, dy="1em")
        for power in range(FIRST_POWER, LAST_POWER + 1)
    ]
    label = "sensitivity, in multiples of the mean"
    x_label = element("text", label, class_="middle", x=(_LEFT + _RIGHT) / 2, y=_BOTTOM + 8, dy="2.4em")
    return element("g", *rows, *columns, x_label, element("text", "Neurons", x=0, y=_TOP - 28), aria_hidden="true")


def _draw_threshold(value: float) -> Markup:
    at = write_unit(_place(value))
    return element("g", element("path", d=f"M{at} {_TOP:g}V{_BOTTOM:g}"), class_="line threshold")


def _place(sensitivity: float) -> float:
    power = min(max(math.log10(sensitivity), FIRST_POWER), LAST_POWER)
    return Scale(FIRST_POWER, LAST_POWER, _LEFT, _RIGHT).place(power)


def _tabulate(bars: Sequence[tuple[float, float]]) -> Markup:
    edges = place_bins()
    rows = [
        [f"{write_number(edges[index])} to {write_number(edges[index + 1])}", write_number(tuned), write_number(frozen)]
        for index, (tuned, frozen) in enumerate(bars)
        if tuned or frozen
    ]
    table = data_table("Neurons by their sensitivity, mean over masks", ["sensitivity", "tuned", "frozen"], rows)
    return element("details", element("summary", "The numbers"), table)
