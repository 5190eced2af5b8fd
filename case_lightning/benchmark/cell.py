"""One cell of a comparison: a method edits a stream of batches and is scored after some of them."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from case_lightning.base import load_base
from case_lightning.baselines import EditingMethod
from case_lightning.benchmark.build import build_method
from case_lightning.benchmark.plan import MAIN_FIGURES, Cell, Row, split_stream
from case_lightning.benchmark.settings import BenchSettings
from case_lightning.command_line import ignore_library_warnings, quiet_libraries
from case_lightning.data import Edit, EditReader
from case_lightning.data.checks import keep_latest
from case_lightning.data.files import locate_data
from case_lightning.data.reading import CheckEdit
from case_lightning.display import make_console
from case_lightning.editing.checks import check_records
from case_lightning.editing.evaluation import evaluate_model
from case_lightning.editing.figures import measure_peaks
from case_lightning.editing.scoring import Scorer
from case_lightning.errors import ConfigError
from case_lightning.reporting.wording import write_count


def run_cell(settings: BenchSettings, cell: Cell, device: str) -> None:
    """Run one cell in this process, keep its rows and say them.

    Args:
        settings: The comparison.
        cell: The cell.
        device: Where to.

    Raises:
        CaseError: The data, the base model or a setting cannot be used.
    """
    quiet_libraries()
    ignore_library_warnings()
    base = load_base(settings.base.model, settings.base.dtype, device, settings.base.trust_remote_code)
    edits = read_stream(settings, cell.data, lambda edit: check_records(base, [edit], n_end=1))
    torch.manual_seed(cell.seed)
    method = build_method(cell.method, settings.methods[cell.method], base, cell.seed)
    batch_size = settings.data[cell.data].batch_size
    names = {"data": cell.data, "method": cell.method, "seed": cell.seed, "batch_size": batch_size}
    if cell.turn is not None:
        cell.write(settings.run_dir, [names | time_edits(method, edits, batch_size, settings.timing.edits)])
        return
    rows, console = list[Row](), make_console()
    for row in score_stream(settings, method, edits, batch_size):
        rows.append(names | row)
        cell.write(settings.run_dir, rows, ended=False)
        console.print(f"{cell.method} on {cell.data}, seed {cell.seed}, {describe(row)}")
    cell.write(settings.run_dir, rows)


def read_stream(settings: BenchSettings, name: str, check: CheckEdit | None = None) -> list[Edit]:
    """The edits of a data set, as many as are scored or timed at most.

    Args:
        settings: The comparison.
        name: The data set's.
        check: Refuses edits that the base model cannot take; without, none is.

    Raises:
        ConfigError: There are not enough of them for the timing.
    """
    data, timing = settings.data[name], settings.timing
    batch_size = data.batch_size
    most = max([*settings.n_edits, batch_size + timing.edits if timing.rounds else 0])
    reader = EditReader(data.format, data.columns, data.on_error, check)
    edits = reader.read(locate_data(data.path), min(data.limit or most, most), data.offset)
    rest = max(len(edits) - batch_size, 0)
    if timing.rounds and rest < timing.edits:
        raise ConfigError(
            f"timing.edits: expected at most {rest}, what data.{name} has after its first batch, found {timing.edits}"
        )
    return edits


def score_stream(
    settings: BenchSettings, method: EditingMethod, edits: Sequence[Edit], batch_size: int
) -> Iterator[Row]:
    """Edit batch by batch; a row of figures for each number of edits that is asked for.

    A run that took longer than it may is scored where it is, and ends.
    """
    seconds, started = 0.0, time.perf_counter()
    for batch, count in split_stream(edits, batch_size, settings.n_edits):
        before = read_clock(method)
        method.edit(batch)
        seconds += read_clock(method) - before
        late = time.perf_counter() - started > settings.max_seconds
        if late or count in settings.n_edits or count == len(edits):
            row: Row = {"n_edits": count, "complete": not late or count == len(edits), "edit_seconds": seconds / count}
            row |= {"optimizer_steps": method.n_steps / count, "bytes": measure_bytes(method)}
            yield row | _score(settings, method, edits[:count])
        if late:
            return


def describe(row: Row) -> str:
    """One line of the main figures of a row."""
    figures = [(name, row[name]) for name in MAIN_FIGURES]
    told = [f"{name} {value:.3f}" for name, value in figures if value is not None]
    return ", ".join([write_count(row["n_edits"], "edit"), *told, f"{row['edit_seconds']:.2f} s an edit"])


def time_edits(method: EditingMethod, edits: Sequence[Edit], batch_size: int, n_edits: int) -> Row:
    """Seconds an edit of the batches after the first."""
    method.edit(keep_latest(edits[:batch_size]))
    timed = edits[batch_size : batch_size + n_edits]
    started = read_clock(method)
    for start in range(0, n_edits, batch_size):
        method.edit(keep_latest(timed[start : start + batch_size]))
    return {"n_edits": n_edits, "edit_seconds": (read_clock(method) - started) / n_edits}


def read_clock(method: EditingMethod) -> float:
    """Seconds, once the device has done what it was given."""
    if method.base.model.device.type == "cuda":
        torch.cuda.synchronize(method.base.model.device)
    return time.perf_counter()


def measure_bytes(method: EditingMethod) -> int:
    """Bytes of all that a method stores beside the base model."""
    with tempfile.TemporaryDirectory() as folder:
        method.save(Path(folder))
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def _score(settings: BenchSettings, method: EditingMethod, edits: Sequence[Edit]) -> Row:
    """Figures on the edits that hold: of two targets of one prompt the later."""
    edits = keep_latest(edits)
    scorer = Scorer(method, settings.evaluation.batch_size)
    started = time.perf_counter()
    parts, _ = evaluate_model(scorer, edits, settings.evaluation.generate)
    pre = {f"unedited_{name}": parts["pre"][name] for name in ("reliability", "generalization", "perplexity")}
    return {
        **parts["final"],
        "harness_locality": parts["harness"]["locality"],
        **pre,
        "evaluate_seconds": time.perf_counter() - started,
        **measure_peaks(scorer, edits, method.base.model.device),
    }
