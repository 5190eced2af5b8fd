"""The frame that the maps share: edits from left to right, one row for each subspace."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from case_lightning.reporting.markup import Markup, element
from case_lightning.reporting.scale import Scale, find_round_step, write_unit

_WIDTH = 720.0
_LEFT, _RIGHT, _TOP = 56.0, 656.0, 8.0
_MOST_ROW_HEIGHT, _MOST_HEIGHT = 26.0, 360.0
_LABEL_HEIGHT = 20.0

Cell = tuple[float, float, int]


@dataclass(frozen=True)
class RowChart:
    """The frame of a map.

    Attributes:
        key: The map's own name in the page.
        title: What it shows, for those who hear it read out.
        description: What there is to see, in words.
        n_edits: How many edits run from left to right.
        n_rows: How many subspaces there are.
    """

    key: str
    title: str
    description: str
    n_edits: int
    n_rows: int

    def draw(self, marks: Iterable[Markup], row_notes: Sequence[str] = ()) -> Markup:
        """Draw the marks with axis and row names; a row's note stands at its right end."""
        bottom = self._row_top(self.n_rows)
        return element(
            "svg",
            element("title", self.title, id=f"{self.key}-title"),
            element("desc", self.description, id=f"{self.key}-desc"),
            *marks,
            self._draw_rows(row_notes),
            self._draw_axis(bottom),
            viewBox=f"0 0 {_WIDTH:g} {write_unit(bottom + 56)}",
            role="img",
            aria_labelledby=f"{self.key}-title {self.key}-desc",
        )

    def draw_cells(self, style: str, cells: Iterable[Cell], least_width: float = 0) -> Markup:
        """Draw cells of one style as a single path.

        Args:
            style: The cells' class in the style sheet.
            cells: From which edit, up to which (not with it), in which row.
            least_width: How wide a cell is drawn at least, in drawing units.
        """
        x = Scale(0, max(self.n_edits, 1), _LEFT, _RIGHT)
        height = self._row_height - (1 if self._row_height > 4 else 0)
        parts = []
        for first, end, row in cells:
            left = min(x.place(first), _RIGHT - least_width)
            width = max(x.place(end) - left, least_width)
            parts.append(
                f"M{write_unit(left)} {write_unit(self._row_top(row))}"
                f"h{format(width, '.3g')}v{height:.3g}h-{format(width, '.3g')}z"
            )
        return element("path", class_=style, d="".join(parts))

    def draw_ground(self) -> Markup:
        """Draw what lies beneath the marks where an empty place means nothing by itself."""
        height = self._row_top(self.n_rows) - _TOP
        return element("rect", class_="ground", x=_LEFT, y=_TOP, width=_RIGHT - _LEFT, height=write_unit(height))

    @property
    def _row_height(self) -> float:
        return min(_MOST_ROW_HEIGHT, _MOST_HEIGHT / max(self.n_rows, 1))

    def _row_top(self, row: int) -> float:
        return _TOP + row * self._row_height

    def _draw_rows(self, notes: Sequence[str]) -> Markup:
        step = max(1, round(find_round_step(_LABEL_HEIGHT / self._row_height)))
        labels = []
        for row in range(0, self.n_rows, step):
            middle = write_unit(self._row_top(row) + self._row_height / 2)
            labels.append(element("text", f"S{row}", class_="end", x=_LEFT - 8, y=middle, dy=".32em"))
            if notes:
                labels.append(element("text", notes[row], x=_RIGHT + 8, y=middle, dy=".32em"))
        return element("g", *labels, aria_hidden="true")

    def _draw_axis(self, bottom: float) -> Markup:
        x = Scale(0, max(self.n_edits, 1), _LEFT, _RIGHT)
        middle, below = (_LEFT + _RIGHT) / 2, write_unit(bottom + 8)
        ticks = [
            element("text", f"{tick:,.0f}", class_="middle", x=write_unit(x.place(tick)), y=below, dy="1em")
            for tick in x.ticks(whole=True)
        ]
        label = element("text", "edits, in the order written", class_="middle", x=middle, y=below, dy="2.4em")
        return element("g", *ticks, label, aria_hidden="true")
