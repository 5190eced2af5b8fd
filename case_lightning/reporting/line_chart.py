"""A line chart as inline SVG, with its numbers as a table beneath it."""

import math
from dataclasses import dataclass

from case_lightning.reporting.markup import Markup, element, join
from case_lightning.reporting.scale import Scale, write_unit
from case_lightning.reporting.table import data_table, legend, line_swatch
from case_lightning.reporting.wording import write_number

N_COLOURS = 6

_WIDTH, _HEIGHT = 720.0, 334.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 690.0, 44.0, 278.0
_LEAST_DOT_DISTANCE = 10.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: What it shows.
        points: Its points, from left to right; those that are not finite are left out.
        colour: The number of its colour; none for a line that is there to compare with.
    """

    name: str
    points: list[Point]
    colour: int | None = 0

    @property
    def style(self) -> str:
        """The classes of its marks in the style sheet: once all colours are taken they come with other dashes."""
        if self.colour is None:
            return "reference"
        return f"series-{self.colour % N_COLOURS} dash-{(self.colour + self.colour // N_COLOURS) % N_COLOURS}"


@dataclass(frozen=True)
class LineChart:
    """What a line chart shows.

    Attributes:
        key: The chart's own name in the page.
        title: What it shows, for those who hear it read out.
        x_label: What runs from left to right.
        y_label: What runs from bottom to top.
        series: The lines.
        y_high: The top of the chart; by default the highest point.
        is_step: Whether a value holds until the next point, and is a count.
    """

    key: str
    title: str
    x_label: str
    y_label: str
    series: list[Series]
    y_high: float | None = None
    is_step: bool = False


def draw_line_chart(chart: LineChart) -> Markup | None:
    """Draw a chart, its legend where there are several lines, and its table; `None` if there is no point to draw."""
    lines = [(series, _keep_finite(series.points)) for series in chart.series]
    lines = [(series, points) for series, points in lines if points]
    if not lines:
        return None
    x, y = _fit_scales(chart, [point for _, points in lines for point in points])
    summary = "; ".join(f"{series.name}: {_summarise(points)}" for series, points in lines)
    svg = element(
        "svg",
        element("title", chart.title, id=f"{chart.key}-title"),
        element("desc", f"{chart.y_label} over {chart.x_label}. {summary}.", id=f"{chart.key}-desc"),
        _draw_axes(chart, x, y),
        *[_draw_line(series, points, x, y, is_step=chart.is_step) for series, points in lines],
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="img",
        aria_labelledby=f"{chart.key}-title {chart.key}-desc",
    )
    names = legend([(line_swatch(series.style), series.name) for series, _ in lines]) if len(lines) > 1 else None
    return element("figure", svg, names, _tabulate(chart, lines))


def _keep_finite(points: list[Point]) -> list[Point]:
    return [point for point in points if all(map(math.isfinite, point))]


def _fit_scales(chart: LineChart, points: list[Point]) -> tuple[Scale, Scale]:
    x_high = max(x for x, _ in points)
    y_high = chart.y_high or max(y for _, y in points) * 1.08
    return Scale(0, max(x_high, 1), _LEFT, _RIGHT), Scale(0, y_high if y_high > 0 else 1, _BOTTOM, _TOP)


def _summarise(points: list[Point]) -> str:
    (first_x, first_y), (last_x, last_y) = points[0], points[-1]
    start = f"{write_number(first_y)} at {write_number(first_x)}"
    return start if len(points) == 1 else f"{start}, {write_number(last_y)} at {write_number(last_x)}"


def _draw_axes(chart: LineChart, x: Scale, y: Scale) -> Markup:
    rows = [
        join(
            element("line", class_="grid", x1=_LEFT, x2=_RIGHT, y1=write_unit(at), y2=write_unit(at)),
            element("text", f"{tick:,g}", class_="end", x=_LEFT - 8, y=write_unit(at), dy=".32em"),
        )
        for tick in y.ticks(whole=chart.is_step)
        for at in [y.place(tick)]
    ]
    columns = [
        element("text", f"{tick:,.0f}", class_="middle", x=write_unit(x.place(tick)), y=_BOTTOM + 8, dy="1em")
        for tick in x.ticks(whole=True)
    ]
    x_label = element("text", chart.x_label, class_="middle", x=(_LEFT + _RIGHT) / 2, y=_BOTTOM + 8, dy="2.4em")
    y_label = element("text", chart.y_label, x=0, y=_TOP - 28)
    return element("g", *rows, *columns, x_label, y_label, aria_hidden="true")


def _draw_line(series: Series, points: list[Point], x: Scale, y: Scale, *, is_step: bool) -> Markup:
    places = [(write_unit(x.place(px)), write_unit(y.place(py))) for px, py in points]
    joint = "H{0}V{1}" if is_step else "L{0} {1}"
    path = "M{} {}".format(*places[0]) + "".join(joint.format(*place) for place in places[1:])
    distance = (x.place(points[-1][0]) - x.place(points[0][0])) / len(points)
    show_dots = series.colour is not None and not is_step and (len(points) == 1 or distance > _LEAST_DOT_DISTANCE)
    dots = [
        element(
            "circle",
            element("title", f"{series.name}: {write_number(py)} at {write_number(px)}"),
            cx=cx,
            cy=cy,
            r=3,
        )
        for (px, py), (cx, cy) in zip(points, places, strict=True)
        if show_dots
    ]
    return element("g", element("path", d=path), *dots, class_=f"line {series.style}")


def _tabulate(chart: LineChart, lines: list[tuple[Series, list[Point]]]) -> Markup:
    columns = [(series.name, dict(points)) for series, points in lines if series.colour is not None]
    values = sorted({x for _, points in columns for x in points})
    rows = [[write_number(x), *(write_number(points.get(x)) for _, points in columns)] for x in values]
    single = [chart.y_label] if len(columns) == 1 else [name for name, _ in columns]
    table = data_table(f"{chart.y_label} over {chart.x_label}", [chart.x_label, *single], rows)
    return element("details", element("summary", "The numbers"), table)
