"""What a run shows while it works: a live display on a terminal, a line a minute elsewhere, and tables at the end."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from case_lightning.reporting.wording import write_count

QUIET_SECONDS = 60.0
ABSENT = "-"  # stands for a figure that is not there


class LiveDisplay(Callback):
    """Shows edits done, current loss, subspaces, edits per second and time left.

    Args:
        console: Where; nothing live is drawn where it is no terminal.
    """

    def __init__(self, console: Console) -> None:
        """Start the clock; the display starts with the `with` statement."""
        self.console = console
        self.total = 0
        self.done = 0
        self._started = self._said = time.monotonic()
        self._progress = Progress(
            TextColumn("[bold]editing[/]"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[subspaces]}"),
            TextColumn("{task.fields[rate]} edits/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("edit", total=None, loss=ABSENT, subspaces="", rate=ABSENT)

    def expect(self, total: int) -> None:
        """Say how many edits there will be, and start the clock anew."""
        self.total = total
        self._started = self._said = time.monotonic()
        self._progress.update(self._task, total=total)

    def report(self, done: int, total: int) -> None:
        """Show that so many of so many edits are done."""
        self._progress.update(self._task, completed=done, total=total)

    def __enter__(self) -> "LiveDisplay":
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing."""
        self._progress.stop()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.console.is_terminal:
            self._progress.update(self._task, loss=f"{outputs['loss'].item():.3f}")

    def advance(self, edits: int, subspaces: int, loss: float) -> None:
        """Count edits as done."""
        self.done += edits
        now = time.monotonic()
        rate = self.done / (now - self._started)
        written = write_count(subspaces, "subspace")
        self._progress.update(self._task, advance=edits, subspaces=written, rate=f"{rate:.2f}", loss=f"{loss:.3f}")
        if not self.console.is_terminal and now - self._said >= QUIET_SECONDS:
            self._said = now
            left = f"{(self.total - self.done) / rate:.0f} s left"
            self.console.print(f"{self.done}/{self.total} edits, loss {loss:.3f}, {rate:.2f} edits/s, {left}")


def make_console() -> Console:
    """A console on standard output."""
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=True)


def show_metrics(console: Console, metrics: Mapping[str, Any]) -> None:
    """The table of before and after, and what it cost."""
    table = Table(title=f"{write_count(metrics['n_edits'], 'edit')} in {metrics['base_model']}", title_justify="left")
    table.add_column("")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    pre, final, cost = metrics["pre"], metrics["final"], metrics["cost"]
    for name in ("reliability", "generalization", "locality", "perplexity"):
        table.add_row(name, _format(pre.get(name)), _format(final.get(name)))
    for name in ("exact_match", "generalization_exact_match", "generated_exact_match", "locality_bit_identical"):
        table.add_row(name.replace("_", " "), "", _format(final.get(name)))
    console.print(table)
    console.print(
        f"{_format(cost['edit_seconds'])} s an edit, {write_count(cost['optimizer_steps'], 'optimizer step')}, "
        f"{write_count(cost['subspaces'], 'subspace')}, {cost['adapter_bytes'] / 2**20:.2f} MiB on disk"
    )


def show_examples(console: Console, examples: list[dict[str, Any]], title: str = "Examples") -> None:
    """Some edits with the answers before and after, side by side."""
    table = Table(title=title, title_justify="left", show_lines=True)
    for name in ("prompt", "unedited", "edited"):
        table.add_column(name, overflow="fold", ratio=1)
    for example in examples:
        table.add_row(*(Text(example[name] or "(nothing)") for name in ("prompt", "unedited", "edited")))
    console.print(table)


def _format(value: float | None) -> str:
    if value is None:
        return ABSENT
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
