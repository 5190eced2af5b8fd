"""The report of a run: what a run folder left behind, drawn on one HTML page."""

from case_lightning.reporting.page import write_report
from case_lightning.reporting.run import Run, read_run

__all__ = ["Run", "read_run", "write_report"]
