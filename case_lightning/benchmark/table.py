"""The tidy table of a comparison: one row for each method, data set, seed and number of edits; Parquet and Markdown."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from case_lightning.benchmark.plan import MAIN_FIGURES, Cell, Row
from case_lightning.benchmark.settings import BenchSettings
from case_lightning.reporting.wording import write_bytes, write_count

HEADS: dict[str, tuple[str, Callable[[float], str]]] = {
    "reliability": ("Rel", "{:.3f}".format),
    "generalization": ("Gen", "{:.3f}".format),
    "locality": ("Loc", "{:.3f}".format),
    "mean": ("mean", "{:.3f}".format),
    "exact_match": ("exact", "{:.3f}".format),
    "generated_exact_match": ("generated exact", "{:.3f}".format),
    "perplexity_median": ("perplexity (median)", "{:,.2f}".format),
    "timed_seconds": ("s an edit", "{:.2f}".format),
    "optimizer_steps": ("steps an edit", "{:.1f}".format),
    "bytes": ("stored", write_bytes),
    "peak_rss_bytes": ("peak memory", write_bytes),
    "generate_overhead": ("generation overhead", "{:.2f}".format),
}

FEW = ("reliability", "generalization", "locality", "mean", "exact_match", "bytes")  # what a narrow screen has room for


def collect_rows(settings: BenchSettings, cells: Sequence[Cell]) -> pd.DataFrame:
    """All rows of the cells that are done, and those so far of others that were begun, in order.

    `mean` is the mean of those of reliability, generalization and locality that the data has; `timed_seconds` the
    median of the seconds an edit over the turns of the timing, beside `edit_seconds`, those of the scored run itself.
    """
    scored = [cell for cell in cells if cell.turn is None]
    kept = [cell.read(settings.run_dir) or cell.read(settings.run_dir, ended=False) or () for cell in scored]
    found: list[Row] = [row for rows in kept for row in rows]
    table = pd.DataFrame(found)
    if table.empty:
        return table
    table["mean"] = table[MAIN_FIGURES].astype(float).mean(axis=1)
    timed = [row for cell in cells if cell.turn is not None for row in cell.read(settings.run_dir) or ()]
    if not timed:
        return table.assign(timed_seconds=float("nan"))
    seconds = pd.DataFrame(timed).groupby(["data", "method"])["edit_seconds"].median().rename("timed_seconds")
    return table.join(seconds, on=["data", "method"])


def write_table(table: pd.DataFrame, folder: Path) -> None:
    """Write `results.parquet`, and `results.md` with the mean over seeds."""
    table.to_parquet(folder / "results.parquet", index=False)
    (folder / "results.md").write_text(render_markdown(table), encoding="utf-8")


def render_markdown(table: pd.DataFrame, columns: Sequence[str] = tuple(HEADS)) -> str:
    """The mean over seeds as Markdown, one table for each data set and number of edits, the best method first."""
    if table.empty:
        return ""
    parts = []
    for (data, count), group in table.groupby(["data", "n_edits"], sort=False):
        means = group.groupby("method")[list(HEADS)].mean(numeric_only=False).sort_values("mean", ascending=False)
        seeds = group.groupby("method")["seed"].nunique()
        spread = group.groupby("method")["mean"].std()
        head = ["method", *(HEADS[key][0] for key in columns), "seeds"]
        lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for method, row in means.iterrows():
            cells = [_write(row[key], HEADS[key][1]) for key in columns]
            runs = f"{seeds[method]}" + ("" if pd.isna(spread[method]) else f" (± {spread[method]:.3f})")
            lines.append(f"| {' | '.join([str(method), *cells, runs])} |")
        parts.append(f"## {data}, {write_count(count, 'edit')}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _write(value: Any, write: Callable[[float], str]) -> str:  # noqa: ANN401  a figure, or none
    return "" if value is None or pd.isna(value) else write(float(value))
