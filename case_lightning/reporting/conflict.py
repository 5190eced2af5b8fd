"""The heat map of conflict scores: how each edit agreed with each subspace that was open at its time."""

import math
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean

from case_lightning.reporting.ledger import LedgerEdit
from case_lightning.reporting.markup import Markup, element
from case_lightning.reporting.row_chart import Cell, RowChart
from case_lightning.reporting.run import Run
from case_lightning.reporting.scale import find_round_step
from case_lightning.reporting.section import for_each_run, note, section
from case_lightning.reporting.table import area_swatch
from case_lightning.reporting.wording import write_count, write_number

N_SHADES = 9

_MOST_COLUMNS = 160
_MIDDLE = N_SHADES // 2


def conflict_section(runs: Sequence[Run]) -> Markup:
    """Draw for each run the conflict scores of its edits against its subspaces."""
    return section(
        "conflict",
        "Conflict scores",
        "The score of each edit against every subspace open at its time: below zero they pull apart, above zero they "
        "agree. Empty is where a subspace was not open yet.",
        for_each_run(runs, _draw_conflicts, "conflict"),
    )


def average_scores(edits: Sequence[LedgerEdit], size: int) -> list[list[float | None]]:
    """Average the scores of every `size` neighbouring edits, subspace by subspace.

    Returns:
        One list for each subspace, with one mean for each group of edits; `None` where no edit of it has a score.
    """
    groups = [edits[start : start + size] for start in range(0, len(edits), size)]
    n_subspaces = max((len(edit.scores) for edit in edits), default=0)
    return [[_average(group, subspace) for group in groups] for subspace in range(n_subspaces)]


def pick_shade(score: float, limit: float) -> int:
    """Return the shade of a score, from 0 for `-limit` or less to `N_SHADES - 1` for `limit` or more."""
    return _MIDDLE + round(max(-1.0, min(1.0, score / limit)) * _MIDDLE)


def gather_shades(
    rows: Sequence[Sequence[float | None]], size: int, n_edits: int, limit: float
) -> dict[int, list[Cell]]:
    """Gather the cells of each shade; neighbours of one shade in one row are one cell.

    Args:
        rows: For each subspace the mean score of each group of edits, or `None`.
        size: How many edits a group holds; the last one may hold fewer.
        n_edits: How many edits there are.
        limit: The score of the strongest shade.
    """
    shades: dict[int, list[Cell]] = {}
    for row, scores in enumerate(rows):
        runs = groupby(enumerate(scores), lambda cell: None if cell[1] is None else pick_shade(cell[1], limit))
        for shade, neighbours in runs:
            columns = [column for column, _ in neighbours]
            cell = (columns[0] * size, min((columns[-1] + 1) * size, n_edits), row)
            if shade is not None:
                shades.setdefault(shade, []).append(cell)
    return shades


def _average(group: Sequence[LedgerEdit], subspace: int) -> float | None:
    scores = [edit.scores[subspace] for edit in group if subspace < len(edit.scores)]
    known = [score for score in scores if score is not None and math.isfinite(score)]
    return fmean(known) if known else None


def _draw_conflicts(run: Run, key: str) -> Markup:
    size = -(-len(run.edits) // _MOST_COLUMNS) or 1
    rows = average_scores(run.edits, size)
    known = [score for row in rows for score in row if score is not None]
    if not known:
        return note("There is no ledger with conflict scores.")
    limit = find_round_step(max(max(map(abs, known)), 1e-6))
    share = sum(score < 0 for score in known) / len(known)
    column = "a column is one edit" if size == 1 else f"a column is the mean of {size} edits"
    description = (
        f"{write_count(len(rows), 'subspace')}; {column}; {share:.0%} of the cells are below zero; "
        f"from {write_number(min(known))} to {write_number(max(known))}."
    )
    chart = RowChart(key, "Conflict scores of edits against subspaces", description, len(run.edits), len(rows))
    shades = gather_shades(rows, size, len(run.edits), limit)
    drawn = chart.draw([chart.draw_cells(f"shade-{shade}", shades[shade]) for shade in sorted(shades)])
    return element("figure", drawn, _draw_key(limit), element("figcaption", description[0].upper() + description[1:]))


def _draw_key(limit: float) -> Markup:
    swatches = [area_swatch(f"shade-{shade}") for shade in range(N_SHADES)]
    ramp = element("span", *swatches, class_="ramp")
    low, high = f"conflict {write_number(-limit)} ", f" {write_number(limit)} agreement"
    return element("p", low, ramp, high, class_="key")
