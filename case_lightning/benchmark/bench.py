"""A whole comparison: run what is missing, then write the table and the plots of all that is there."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from filelock import FileLock, Timeout
from rich.markdown import Markdown

from case_lightning.benchmark.build import fill_settings
from case_lightning.benchmark.cell import read_stream
from case_lightning.benchmark.plan import UNREAD, Cell, check_bench, plan_cells
from case_lightning.benchmark.plots import draw_plots
from case_lightning.benchmark.pool import run_cells
from case_lightning.benchmark.settings import BenchSettings, TimingSettings
from case_lightning.benchmark.table import FEW, collect_rows, render_markdown, write_table
from case_lightning.display import make_console
from case_lightning.errors import CaseError, ConfigError, RunError
from case_lightning.writing import write_whole

NAMED = ("methods", "data")
GROWING = ("run_dir", *NAMED, "seeds", "devices", "timing")  # more of these leaves what is done as it is


def run_bench(settings: BenchSettings) -> None:
    """Run the cells that are missing and show the table of all; tables and plots are renewed after every cell.

    Raises:
        CaseError: A setting, the data, the base model or the folder cannot be used. What one cell alone cannot use is
            said once all others are done, which are kept.
    """
    check_bench(settings)
    for name in settings.data:
        read_stream(settings, name)  # what is wrong with it is said before a method is run
    folder = Path(settings.run_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            _run(settings, folder)
    except Timeout as error:
        raise RunError(f"run_dir: {folder} is being written by another process; wait for it to end") from error
    except CaseError:
        raise
    except OSError as error:
        raise RunError(f"run_dir: {folder} cannot be used; {error.strerror or error}") from error


def _run(settings: BenchSettings, folder: Path) -> None:
    console = make_console()
    timing = _note_settings(settings, folder / "config.yaml")
    cells, shown = plan_cells(settings), plan_cells(replace(settings, timing=timing))
    missing = [cell for cell in cells if cell.read(folder) is None]
    console.print(f"{len(cells) - len(missing)} of {len(cells)} runs are there already")

    failures: list[str] = []

    def note(cell: Cell, error: BaseException | None) -> None:
        if error:
            kind = "" if isinstance(error, CaseError) else f"{type(error).__name__}: "
            failures.append(f"{cell.method} on {cell.data}: {kind}{error}")
            console.print(f"failed: {failures[-1]}", markup=False)
            return
        _renew(settings, shown, folder)
        console.print(f"done: {cell.locate(folder)}")

    run_cells(settings, missing, note)
    table = _renew(settings, shown, folder)
    if not table.empty:
        console.print(Markdown(render_markdown(table, FEW)))
        console.print(f"all columns: {folder / 'results.md'}, {folder / 'results.parquet'}")
    if failures:
        raise RunError(f"{len(failures)} of {len(missing)} runs failed, the first: {failures[0]}")


def _renew(settings: BenchSettings, cells: Sequence[Cell], folder: Path) -> pd.DataFrame:
    """Write table and plots of what there is of some cells, and return the table."""
    table = collect_rows(settings, cells)
    if not table.empty:
        write_table(table, folder)
        draw_plots(table, folder)
    return table


def _note_settings(settings: BenchSettings, path: Path) -> TimingSettings:
    """Write the settings down, unless what is there was made with others; of a method all, for defaults may change.

    Returns:
        How the timings that the folder holds were made, or will be.

    Raises:
        ConfigError: They are others: a method, a data set or what all runs share is not what it was.
    """
    methods = {name: fill_settings(name, found) for name, found in settings.methods.items()}
    now: dict[str, Any] = yaml.safe_load(yaml.safe_dump(asdict(replace(settings, methods=methods))))
    try:
        before = (yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None) or {}
    except yaml.YAMLError as error:
        raise RunError(f"{path} is no YAML; restore it from a copy") from error
    for key, old, new in _find_changes(before, now):
        raise ConfigError(f"{key}: {path.parent} holds runs made with {old}, now it is {new}; give another run_dir")
    for key in NAMED:  # those left out this time keep their results, and so their settings
        now[key] = before.get(key, {}) | now[key]
    if not now["timing"]["rounds"]:
        now["timing"] = before.get("timing", now["timing"])
    write_whole(path, yaml.safe_dump(now, sort_keys=False))
    return TimingSettings(**now["timing"])


def _find_changes(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What is not as it was: key, value before, value now."""
    before, now = _take_read(before), _take_read(now)
    pairs = [(key, before[key], now[key]) for key in before if key in now and key not in GROWING]
    old, new = before.get("data", {}), now["data"]
    pairs += [(f"data.{name}", old[name], new[name]) for name in old if name in new]
    pairs += _pair("methods", before.get("methods", {}), now["methods"])
    if before.get("timing", {}).get("rounds") and now["timing"]["rounds"]:
        pairs.append(("timing.edits", before["timing"]["edits"], now["timing"]["edits"]))
    return [pair for pair in pairs if pair[1] != pair[2]]


def _pair(key: str, old: object, new: object) -> Iterator[tuple[str, Any, Any]]:
    """What both have, setting by setting: a folder of an earlier package has fewer of them."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        yield key, old, new
        return
    for name in old:
        if name in new:
            yield from _pair(f"{key}.{name}", old[name], new[name])


def _take_read(config: dict[str, Any]) -> dict[str, Any]:
    """The settings without those that are not read; an earlier package took any value of them."""
    unread = [key.split(".") for key in UNREAD]
    return {
        section: {name: one for name, one in value.items() if [section, name] not in unread}
        if isinstance(value, dict)
        else value
        for section, value in config.items()
    }
