"""A whole run: load, edit batch by batch, save, score, and show."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import seed_everything
from rich.console import Console

from case_lightning.base import Base
from case_lightning.command_line import quiet_libraries
from case_lightning.config import RunSettings
from case_lightning.data import Edit, EditDataModule, MissingDataError, read_edits
from case_lightning.data.files import locate_data
from case_lightning.display import LiveDisplay, make_console, show_examples, show_metrics
from case_lightning.editing.answering import RoutedModel
from case_lightning.editing.checks import check_records, check_settings, count_tokens
from case_lightning.editing.evaluation import evaluate_model
from case_lightning.editing.figures import N_EXAMPLES, score_run
from case_lightning.editing.ledger import Ledger, Stream, is_left_out
from case_lightning.editing.loading import load_run, open_base
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.scoring import Scorer
from case_lightning.editing.session import Session
from case_lightning.editing.store import Store
from case_lightning.editing.stream import Plan, is_unchanged, plan_stream
from case_lightning.reporting import write_report
from case_lightning.reporting.wording import write_count


def fit_run(settings: RunSettings) -> RunFolder:
    """Edit a model as the settings say and leave a run folder.

    A finished run of the same settings is not repeated, its results are shown again.

    Raises:
        CaseError: A setting, the data, the base model or the run folder cannot be used; nothing is left half-written.
    """
    quiet_libraries()
    console = make_console() if is_first_process() else Console(quiet=True)
    folder = RunFolder(settings.run_dir)
    data = build_data(settings)
    if folder.repeats(settings) and not has_changed(folder, settings, data):
        console.print(f"{folder.path} already holds this run")
        if not folder.report.is_file():
            write_report([folder.path], folder.report)
        show_results(console, folder)
        return folder
    check_settings(settings)
    folder.check_usable(settings)
    data.setup("fit")  # what is wrong with it is said before a model is loaded
    base = open_base(settings.base)
    data.require_fit(lambda text: count_tokens(base, text), base.context_length, int(settings.training.append_end))
    seed_everything(settings.seed, verbose=False)
    with folder.locked() if is_first_process() else nullcontext():
        Run(settings, folder, base, console).fit(data.records)
    return folder


def has_changed(folder: RunFolder, settings: RunSettings, data: EditDataModule) -> bool:
    """Whether the data is another by now than the run was made with; not where it is gone."""
    try:
        records = data.records
    except MissingDataError:
        return False
    ledger = Ledger(folder.ledger)
    mine = [one for one in ledger.streams() if one.data == asdict(settings.data)]
    if not mine or not mine[-1].finished or len(records) > mine[-1].n_records:
        return True
    return not is_unchanged(records, mine, ledger.rows())


def is_first_process() -> bool:
    """Whether this process is the one of a distributed run that writes."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def build_data(settings: RunSettings) -> EditDataModule:
    """The stream of edit batches that the settings speak of."""
    given = vars(settings.data) | {"path": locate_data(settings.data.path)}
    return EditDataModule(**given, on_contradiction=settings.on_contradiction)


class Run:
    """One `fit` command at work, on a fresh run or on one that goes on.

    Args:
        settings: Its settings.
        folder: The run's folder, locked.
        base: The base model.
        console: Where it shows itself.
    """

    def __init__(self, settings: RunSettings, folder: RunFolder, base: Base, console: Console) -> None:
        """Open the run."""
        self.settings, self.folder, self.base, self.console = settings, folder, base, console
        self.display = LiveDisplay(console)
        with console.status("restoring") if folder.started else nullcontext():
            self.session = Session(settings, folder, base, is_first_process(), [self.display])

    def fit(self, records: Sequence[Edit]) -> None:
        """Make the edits that are left, then score and show."""
        plan = self._plan(records)
        if not plan.records and self.folder.repeats(self.settings):  # what could not be used was counted as more of it
            show_results(self.console, self.folder)
            return
        batches = list(plan.batches())
        n_new = sum(len(batch) for batch, _ in batches)
        peaks = {} if n_new else self.folder.read_peaks()
        if is_first_process():
            self.folder.create(self.settings)
            if plan.records or not self.folder.started:
                self.session.begin(plan.stream)
        if n_new < len(plan.records):
            known = write_count(len(plan.records) - n_new, "record")
            self.console.print(f"{known} passed over: in the ledger already, see `history {self.folder.path} list`")
        self.display.expect(n_new)
        done = plan.stream.n_records
        with self.display:
            for batch, stream in batches:
                self._edit(batch, stream, self._has_point(done, stream.n_records, len(records)))
                done = stream.n_records
        if is_first_process():
            session = self.session
            left_out = sum(is_left_out(row) and row["stream"] == plan.stream.number for row in session.ledger.rows())
            if batches and left_out:
                self.console.print(f"{write_count(left_out, 'edit')} left out, as another holds that asks the same")
            with self.folder.guarded():
                made = session.editor.edits
                score_run(self.folder, self.settings, self.base, session.model, made, self.console, peaks)
            show_results(self.console, self.folder)

    def _plan(self, records: Sequence[Edit]) -> Plan:
        ledger = self.session.ledger
        if not self.folder.started:
            return plan_stream(self.settings, records, [], [])
        plan = plan_stream(self.settings, records, ledger.streams(), ledger.rows())
        if done := plan.stream.n_records:
            self.console.print(f"{self.folder.path}: going on after record {done}")
        return plan

    def _edit(self, batch: Sequence[Edit], stream: Stream, point: bool) -> None:
        outcome = self.session.edit(batch, stream, point)
        if outcome:
            n_subspaces = len(self.session.editor.adapter.subspaces)
            self.display.advance(len(batch), n_subspaces, sum(outcome.losses) / len(outcome.losses))

    def _has_point(self, before: int, after: int, n_records: int) -> bool:
        points = self.settings.evaluation.retention_points
        return after * points // n_records > before * points // n_records


def open_scorer(path: str, batch_size: int = 32) -> Scorer:
    """Load a finished run to ask it."""
    quiet_libraries()
    run = load_run(path)
    return Scorer(RoutedModel(run.base, run.model), batch_size)


def evaluate_run(path: str, data: dict[str, Any], batch_size: int, generate: bool) -> dict[str, Any]:
    """Score a finished run; on its own edits, which rewrites its `metrics.json`, or on other records.

    Args:
        path: The run's folder.
        data: Arguments of `read_edits`; its `path` is `None` for the run's own edits.
        batch_size: Prompts scored at once.
        generate: Whether answers are also generated freely.

    Returns:
        The content of `metrics.json`, or the figures on the other records.
    """
    quiet_libraries()
    folder = RunFolder(path)
    other = None if data["path"] is None else read_edits(**data | {"path": locate_data(data["path"])})
    if other is not None:
        run = load_run(path)
        check_records(run.base, other)
        parts, _ = evaluate_model(Scorer(RoutedModel(run.base, run.model), batch_size), other, generate)
        return {"protocol": "wise", "dataset": data["path"], "n_records": len(other), **parts}
    settings = folder.read_settings()
    settings.evaluation.batch_size, settings.evaluation.generate = batch_size, generate
    with folder.locked(), folder.guarded():
        run = load_run(path)
        Store(folder, Ledger(folder.ledger)).recover()
        return score_run(folder, settings, run.base, run.model, run.edits, Console(quiet=True), folder.read_peaks())


def show_results(console: Console, folder: RunFolder) -> None:
    """The tables at the end of a run, and what to do next."""
    metrics = folder.read_metrics()
    show_metrics(console, metrics)
    if missed := round(metrics["n_edits"] * (1 - (metrics["final"]["exact_match"] or 0.0))):
        console.print(
            f"{missed} of {write_count(metrics['n_edits'], 'edit')} not right to the last token; see the report"
        )
    show_examples(console, json.loads(folder.examples.read_text(encoding="utf-8"))[:N_EXAMPLES])
    console.print(f"ask it:     python -m case_lightning.generate --run {folder.path}")
    console.print(f"report:     {folder.report}")
