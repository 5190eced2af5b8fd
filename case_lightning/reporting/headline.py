"""The headline figures, before and after, and every other score of a run."""

from collections.abc import Callable, Sequence

from case_lightning.reporting.markup import Markup, element, join
from case_lightning.reporting.metrics import Metrics
from case_lightning.reporting.run import Run
from case_lightning.reporting.scale import Scale, write_unit
from case_lightning.reporting.section import for_each_run, group_by_protocol, note, section
from case_lightning.reporting.table import data_table
from case_lightning.reporting.wording import ABSENT, write_bytes, write_number, write_seconds, write_share

_HEADLINES: tuple[tuple[str, str, str, Callable[[float | None], str]], ...] = (
    ("reliability", "Reliability", "on the edits as written", write_share),
    ("generalization", "Generalization", "on their rephrases", write_share),
    ("locality", "Locality", "on unrelated questions", write_share),
    ("perplexity", "Perplexity", "of the written answers", write_number),
)


def headline_section(runs: Sequence[Run]) -> Markup:
    """Write the four headline figures: as tiles for one run, as a table for several."""
    if len(runs) == 1:
        content = element("div", *(_draw_tile(runs[0].metrics, *line) for line in _HEADLINES), class_="tiles")
    else:
        content = join(*(_compare(protocol, group) for protocol, group in group_by_protocol(runs).items()))
    return section(
        "headline",
        "Headline figures",
        "All edits scored on the last model, against the unedited model. Shares run from 0 to 1; a lower perplexity is "
        "better.",
        content,
    )


def scores_section(runs: Sequence[Run]) -> Markup:
    """Write every score of each run, before the edits, right after each edit's own batch, and at the end."""
    return section(
        "scores",
        "All scores",
        "What lies between the score right after an edit's own batch and the score at the end has been forgotten.",
        for_each_run(runs, _tabulate_scores, "scores"),
    )


def _draw_tile(metrics: Metrics, key: str, name: str, meaning: str, write: Callable[[float | None], str]) -> Markup:
    before, after = metrics.pre.get(key), metrics.final.get(key)
    bar = None if write is not write_share or after is None else _draw_bar(before, after)
    return element(
        "div",
        element("h3", name),
        element("p", write(after), class_="figure"),
        element("p", f"before {write(before)}", class_="before"),
        element("p", meaning, class_="meaning"),
        bar,
        class_="tile",
    )


def _draw_bar(before: float | None, after: float) -> Markup:
    filled = Scale(0, 1, 0, 100).place(min(max(after, 0), 1))
    mark = None if before is None else Scale(0, 1, 0, 98.8).place(min(max(before, 0), 1))
    return element(
        "svg",
        element("rect", class_="ground", y=3, width=100, height=6),
        element("rect", class_="fill", y=3, width=write_unit(filled), height=6),
        None if mark is None else element("rect", class_="mark", x=write_unit(mark), width=1.2, height=12),
        viewBox="0 0 100 12",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def _compare(protocol: str, group: Sequence[tuple[int, Run]]) -> Markup:
    heads = ["Run", "Edits", *(name for _, name, _, _ in _HEADLINES), "Seconds an edit", "Adapter"]
    rows = [
        [
            run.name,
            write_number(run.metrics.settings.n_edits),
            *(_write_change(run.metrics, key, write) for key, _, _, write in _HEADLINES),
            write_seconds(run.metrics.cost.get("edit_seconds")),
            write_bytes(run.metrics.cost.get("adapter_bytes")),
        ]
        for _, run in group
    ]
    return data_table(f"Before and after, protocol {protocol}", heads, rows)


def _write_change(metrics: Metrics, key: str, write: Callable[[float | None], str]) -> Markup:
    before, after = write(metrics.pre.get(key)), write(metrics.final.get(key))
    return join(element("small", f"{before} → "), element("strong", after))


def _tabulate_scores(run: Run, key: str) -> Markup:
    stages = (run.metrics.pre, run.metrics.immediate, run.metrics.final)
    names = [name for name, *_ in _HEADLINES]
    names += [name for name in dict.fromkeys(name for stage in stages for name in stage) if name not in names]
    rows = [[_write_name(name), *(_write_score(name, stage.get(name)) for stage in stages)] for name in names]
    rows = [row for row in rows if any(cell != ABSENT for cell in row[1:])]
    if not rows:
        return note("This run was not scored.")
    protocol = run.metrics.settings.protocol
    caption = "Scores" if protocol is None else f"Scores, protocol {protocol}"
    return data_table(caption, ["Score", "Before", "After its own batch", "At the end"], rows)


def _write_score(name: str, value: float | None) -> str:
    return write_number(value) if "perplexity" in name else write_share(value)


def _write_name(key: str) -> str:
    return key.replace("_", " ").capitalize()
