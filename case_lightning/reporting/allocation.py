"""The map of which edit went to which subspace."""

from collections import Counter
from collections.abc import Sequence

from case_lightning.reporting.ledger import LedgerEdit
from case_lightning.reporting.markup import Markup, element
from case_lightning.reporting.row_chart import Cell, RowChart
from case_lightning.reporting.run import Run
from case_lightning.reporting.section import for_each_run, note, section
from case_lightning.reporting.table import area_swatch, legend
from case_lightning.reporting.wording import write_count

# In the order of drawing: the rare kinds lie on top, and are never drawn too narrow to be seen.
_KINDS = {
    "retired": ("superseded or undone since", 1.0),
    "unknown": ("reason not noted", 1.0),
    "shared": ("shared a subspace", 1.0),
    "forced": ("in conflict, but no room to open another", 2.0),
    "opened": ("opened the subspace", 3.0),
}


def allocation_section(runs: Sequence[Run]) -> Markup:
    """Draw for each run which edit went to which subspace, and why."""
    return section(
        "allocation",
        "Allocation",
        "Each edit is a mark in the row of the subspace that holds it; at the right, how many edits a subspace holds.",
        for_each_run(runs, _draw_allocation, "allocation"),
    )


def _draw_allocation(run: Run, key: str) -> Markup:
    counts = Counter(edit.subspace for edit in run.edits if edit.subspace is not None)
    if not counts:
        return note("There is no ledger that says which subspace holds which edit.")
    n_rows = max(counts) + 1
    largest, held = counts.most_common(1)[0]
    description = (
        f"{write_count(counts.total(), 'edit')} in {write_count(len(counts), 'subspace')}; "
        f"the largest, S{largest}, holds {held:,}."
    )
    kinds = gather_cells(run.edits)
    chart = RowChart(key, "Allocation of edits over subspaces", description, len(run.edits), n_rows)
    marks = [chart.draw_cells(f"kind-{kind}", kinds[kind], _KINDS[kind][1]) for kind in _KINDS if kind in kinds]
    drawn = chart.draw([chart.draw_ground(), *marks], [f"{counts[row]:,}" for row in range(n_rows)])
    entries = [(area_swatch(f"kind-{kind}"), text) for kind, (text, _) in reversed(_KINDS.items()) if kind in kinds]
    return element("figure", drawn, legend(entries), element("figcaption", description))


def gather_cells(edits: Sequence[LedgerEdit]) -> dict[str, list[Cell]]:
    """Gather the cells of each kind of decision; neighbouring edits of one kind in one subspace are one cell."""
    kinds: dict[str, list[Cell]] = {}
    for number, edit in enumerate(edits):
        subspace = edit.subspace
        if subspace is None:
            continue
        cells = kinds.setdefault(_find_kind(edit), [])
        if cells and cells[-1][1:] == (number, subspace):
            cells[-1] = (cells[-1][0], number + 1, subspace)
        else:
            cells.append((number, number + 1, subspace))
    return kinds


def _find_kind(edit: LedgerEdit) -> str:
    if edit.retired is not None:
        return "retired"
    decision = edit.decision
    return decision if decision in ("shared", "opened", "forced") else "unknown"
