"""What changes while edits are written: retention, the number of subspaces, and the cost of an edit."""

from collections.abc import Callable, Sequence
from statistics import median

from case_lightning.reporting.ledger import LedgerEdit
from case_lightning.reporting.line_chart import LineChart, Point, Series, draw_line_chart
from case_lightning.reporting.markup import Markup, join
from case_lightning.reporting.run import Run
from case_lightning.reporting.section import group_by_protocol, note, section
from case_lightning.reporting.table import data_table
from case_lightning.reporting.wording import ABSENT, write_bytes, write_number, write_ratio, write_seconds

_MOST_BINS = 50

_COSTS: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("edit_seconds", "Time an edit", write_seconds),
    ("edit_seconds_first_100", "Time an edit, first 100", write_seconds),
    ("edit_seconds_last_100", "Time an edit, last 100", write_seconds),
    ("evaluate_seconds", "Evaluation", write_seconds),
    ("optimizer_steps", "Optimizer steps", write_number),
    ("peak_rss_bytes", "Peak memory", write_bytes),
    ("peak_device_bytes", "Peak device memory", write_bytes),
    ("adapter_bytes", "Adapter on disk", write_bytes),
    ("subspaces", "Subspaces", write_number),
    ("generate_overhead", "Generation, unedited to edited speed", write_ratio),
)

_PARTS = {
    "subspaces": "Subspaces",
    "keys": "Router keys",
    "memory": "Activation memory",
    "other": "Other tensors",
    "header": "Names and shapes",
}


def retention_section(runs: Sequence[Run]) -> Markup:
    """Draw the reliability on all edits so far, over the edits; the runs of one protocol in one chart."""
    figures = []
    for protocol, group in group_by_protocol(runs).items():
        series = [Series(run.name, run.metrics.retention, index) for index, run in group]
        label = f"Reliability on all edits so far ({protocol})"
        key = f"retention-{group[0][0]}"  # a protocol's name may hold what an id cannot
        chart = LineChart(key, "Retention", "edits written", label, series + _reference(runs), 1)
        figures.append(draw_line_chart(chart) if any(each.points for each in series) else None)
    return section(
        "retention",
        "Retention",
        "Reliability on all edits written so far, measured as the stream goes on. A flat line forgets nothing.",
        join(*figures) or note("Retention was not measured."),
    )


def growth_section(runs: Sequence[Run]) -> Markup:
    """Draw the number of subspaces in use over the edits."""
    series = [Series(run.name, count_subspaces(run.edits), index) for index, run in enumerate(runs)]
    chart = LineChart("growth", "Subspace growth", "edits written", "Subspaces in use", series, is_step=True)
    return section(
        "growth",
        "Subspace growth",
        "A subspace is opened when an edit conflicts with all that are not full, or where all are full.",
        draw_line_chart(chart) or note("There is no ledger to count subspaces in."),
    )


def cost_section(runs: Sequence[Run]) -> Markup:
    """Draw the seconds of an edit over the edits, and tabulate what each run took."""
    series = [Series(run.name, bin_seconds(run.edits), index) for index, run in enumerate(runs)]
    chart = LineChart("cost", "Cost of an edit", "edits written", "Seconds an edit", series)
    return section(
        "cost",
        "Cost",
        "Seconds an edit as the stream goes on, each point the median of its neighbours, and what the whole run took.",
        draw_line_chart(chart) or note("There is no ledger with the time of each edit."),
        _tabulate_costs(runs),
        _tabulate_parts(runs),
    )


def count_subspaces(edits: Sequence[LedgerEdit]) -> list[Point]:
    """Return how many subspaces were in use after how many edits: the points where it changes, and the end."""
    used: set[int] = set()
    points = [(0.0, 0.0)]
    for number, edit in enumerate(edits, 1):
        if (subspace := edit.subspace) is not None and subspace not in used:
            used.add(subspace)
            points.append((float(number), float(len(used))))
    return [*points, (float(len(edits)), float(len(used)))] if used else []


def bin_seconds(edits: Sequence[LedgerEdit]) -> list[Point]:
    """Return the median seconds of neighbouring edits, over the number of the last of them, in at most 50 groups."""
    timed = [(number, edit.seconds) for number, edit in enumerate(edits, 1) if edit.seconds is not None]
    size = -(-len(timed) // _MOST_BINS) or 1
    groups = [timed[start : start + size] for start in range(0, len(timed), size)]
    return [(float(group[-1][0]), median(seconds for _, seconds in group)) for group in groups]


def _reference(runs: Sequence[Run]) -> list[Series]:
    reliability = runs[0].metrics.pre.get("reliability")
    if len(runs) > 1 or reliability is None or not runs[0].metrics.retention:
        return []
    return [Series("unedited model", [(0.0, reliability), (runs[0].metrics.retention[-1][0], reliability)], None)]


def _tabulate_costs(runs: Sequence[Run]) -> Markup:
    rows = [[name, *(write(run.metrics.cost.get(key)) for run in runs)] for key, name, write in _COSTS]
    rows.insert(8, ["Adapter, an edit", *(write_bytes(_divide_bytes(run)) for run in runs)])
    rows = [row for row in rows if any(cell != ABSENT for cell in row[1:])]
    if not rows:
        return note("The costs of the run were not measured.")
    return data_table("What it took", ["", *(run.name for run in runs)], rows)


def _tabulate_parts(runs: Sequence[Run]) -> Markup | None:
    parts = dict.fromkeys(name for run in runs for name in run.metrics.adapter_parts)
    rows = [
        [_PARTS.get(name, name), *(write_bytes(run.metrics.adapter_parts.get(name)) for run in runs)] for name in parts
    ]
    rows = [row for row in rows if any(cell != ABSENT for cell in row[1:])]
    return data_table("What the adapter file holds", ["", *(run.name for run in runs)], rows) if rows else None


def _divide_bytes(run: Run) -> float | None:
    size, n_edits = run.metrics.cost.get("adapter_bytes"), run.metrics.settings.n_edits
    return size / n_edits if size is not None and n_edits else None
