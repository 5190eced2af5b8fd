"""A Lightning logger of a run: `metrics.csv` with one row a batch, also where the run was cut off and went on."""

import csv
import io
from pathlib import Path

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from typing_extensions import override

from case_lightning.writing import write_whole

TABLE = "metrics.csv"
ASIDE = f"-{TABLE}.aside"  # behind a state's name
BATCH = "epoch"  # the column with a batch's number: each is one epoch of the trainer


class BatchLogger(CSVLogger):
    """Lightning's logger of CSV files, which goes on with the file that is there instead of deleting it.

    Args:
        folder: Where `metrics.csv` is written.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is made with the first row."""
        super().__init__(folder.parent, name=folder.name, version="")

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if not isinstance(self._experiment, _Writer):
            self._experiment = _Writer(self.log_dir)
        return self._experiment


class _Writer(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.metrics_keys = _read_table(Path(self.metrics_file_path))[0]

    @override
    def _check_log_dir_exists(self) -> None:
        """Lightning would delete the file here."""


def set_log_aside(folder: Path, state: str) -> None:
    """Keep what `metrics.csv` says while batches are made anew; `state` is the name of the run's state until then."""
    if (folder / TABLE).is_file():
        write_whole(folder / f"{state}{ASIDE}", (folder / TABLE).read_text(encoding="utf-8"))


def bring_log_back(folder: Path, state: str) -> None:
    """Bring back what was set aside, where the run is still in that state: the batches were not made to their end."""
    if (folder / f"{state}{ASIDE}").is_file():
        (folder / f"{state}{ASIDE}").replace(folder / TABLE)
    drop_log_aside(folder)


def drop_log_aside(folder: Path) -> None:
    """Let go of what was set aside."""
    for path in folder.glob(f"*{ASIDE}"):
        path.unlink()


def trim_log(path: Path, n_batches: int) -> str | None:
    """A `metrics.csv` without the rows of batches that a run did not keep, and without a row that was cut off.

    Args:
        path: The file.
        n_batches: How many batches the run holds.

    Returns:
        The text that should be there; `None` where the file is as it should be, or is not there.
    """
    header, rows = _read_table(path)
    kept = [row for row in rows if len(row) == len(header) and _number(row[header.index(BATCH)]) < n_batches]
    if len(kept) == len(rows):
        return None
    text = io.StringIO()
    csv.writer(text).writerows([header, *kept])
    return text.getvalue()


def _read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows; neither where there is no table with a column of batches."""
    try:
        header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError, csv.Error):
        return [], []
    return (header, rows) if BATCH in header else ([], [])


def _number(text: str) -> float:
    return int(text) if text.isdecimal() else float("inf")
