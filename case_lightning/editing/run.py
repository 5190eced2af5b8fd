"""A whole run: load, edit batch by batch, save, score, and show."""

import json
import logging
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from importlib.resources import files
from operator import attrgetter
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import seed_everything
from rich.console import Console

from case_lightning.base import Base
from case_lightning.config import RunSettings
from case_lightning.data import Edit, EditDataModule, check_fits, read_edits
from case_lightning.data.fields import require_text
from case_lightning.display import LiveDisplay, make_console, show_examples, show_metrics
from case_lightning.editing.answering import RoutedModel
from case_lightning.editing.encoding import encode_prompt
from case_lightning.editing.evaluation import evaluate_model
from case_lightning.editing.figures import N_EXAMPLES, score_run
from case_lightning.editing.ledger import Ledger, Stream
from case_lightning.editing.loading import load_run, open_base
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.scoring import Scorer
from case_lightning.editing.session import Session
from case_lightning.editing.stream import Plan, plan_stream
from case_lightning.errors import CaseError, ConfigError, DataError

ABOVE_ZERO = (
    "training.steps",
    "training.learning_rate",
    "training.mask_size",
    "subspace.rank",
    "subspace.scale",
    "conflict.capacity",
    "conflict.max_subspaces",
    "memory.temperature",
    "consolidation.passes",
    "consolidation.edits",
    "consolidation.batch_size",
    "evaluation.batch_size",
    "trainer.devices",
    "trainer.num_nodes",
)
ZERO_OR_MORE = (
    "training.weight_decay",
    "training.n_rehearsed",
    "training.protection",
    "training.n_variants",
    "subspace.n_directions",
    "memory.size",
    "memory.weight",
    "consolidation.every",
    "evaluation.retention_points",
    "seed",
)
AT_MOST = {"subspace.rank": 1 << 20, "subspace.n_directions": 1 << 20, "seed": (1 << 32) - 1}
ZERO_TO_ONE = ("subspace.subject_threshold", "subspace.relation_threshold")


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
    if folder.repeats(settings) and not has_grown(folder, settings, data):
        console.print(f"{folder.path} already holds this run")
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


def has_grown(folder: RunFolder, settings: RunSettings, data: EditDataModule) -> bool:
    """Whether the data holds more by now than the run was made with; not where it can't be read any more."""
    try:
        mine = [one for one in Ledger(folder.ledger).streams() if one.data == asdict(settings.data)]
        return not mine or not mine[-1].finished or len(data.records) > mine[-1].n_records
    except CaseError:
        return False


def is_first_process() -> bool:
    """Whether this process is the one of a distributed run that writes."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def build_data(settings: RunSettings) -> EditDataModule:
    """The stream of edit batches that the settings speak of."""
    given = vars(settings.data) | {"path": locate_data(settings.data.path)}
    return EditDataModule(**given, on_contradiction=settings.on_contradiction)


def locate_data(path: str) -> str:
    """Where data is; `sample` is the sample that the package carries."""
    return str(files("case_lightning.data") / "samples" / "updates.jsonl") if path == "sample" else path


def check_settings(settings: RunSettings) -> None:
    """Refuse numbers that cannot work, before anything is loaded.

    Raises:
        ConfigError: The message names the key, the value and what is accepted.
    """
    for key in (*ABOVE_ZERO, *ZERO_OR_MORE, *ZERO_TO_ONE, "conflict.threshold"):
        value = attrgetter(key)(settings)
        if value is None:  # left to its default
            continue
        if not math.isfinite(value):
            raise ConfigError(f"{key}: expected a finite number, found {value}")
        if key in ABOVE_ZERO and value <= 0:
            raise ConfigError(f"{key}: expected a number above 0, found {value}")
        if key in ZERO_OR_MORE and value < 0:
            raise ConfigError(f"{key}: expected 0 or more, found {value}")
        if key in ZERO_TO_ONE and not 0 <= value <= 1:
            raise ConfigError(f"{key}: expected 0 to 1, found {value}")
        if value > AT_MOST.get(key, math.inf):
            raise ConfigError(f"{key}: expected at most {AT_MOST[key]}, found {value}")


def count_tokens(base: Base, text: str) -> int:
    """Length of a text in tokens, special tokens included."""
    return len(encode_prompt(base.tokenizer, text))


def check_prompt(base: Base, prompt: str, max_new_tokens: int) -> None:
    """Refuse a prompt that cannot be answered, or not in so many tokens.

    Raises:
        DataError: It is not text, has no token, or does not fit the context together with its answer.
    """
    require_text(prompt, "--prompt")
    found, most = count_tokens(base, prompt), base.context_length
    if found <= count_tokens(base, ""):
        raise DataError(f"--prompt: expected text that has tokens, found none in {prompt!r}")
    if found + max_new_tokens > most:
        raise DataError(
            f"--prompt: expected it to fit the context of {most} tokens with an answer of {max_new_tokens}, found "
            f"{found} tokens; shorten it, or lower --max_new_tokens"
        )


def check_records(base: Base, edits: Sequence[Edit], n_end: int = 0) -> None:
    """Refuse edits that do not fit the model's context, with so many tokens behind the target.

    Raises:
        DataError: The message names the edit and both lengths.
    """
    for edit in edits:
        check_fits(edit, lambda text: count_tokens(base, text), base.context_length, n_end)


def quiet_libraries() -> None:
    """Keep Lightning's hints about devices and finished fits off the screen: here a fit is a batch."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


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
        batches = list(plan.batches())
        if is_first_process():
            self.folder.create(self.settings)
            if plan.records or not self.folder.started:
                self.session.begin(plan.stream)
        self.display.expect(sum(len(batch) for batch, _ in batches))
        done = plan.stream.n_records
        with self.display:
            for batch, stream in batches:
                self._edit(batch, stream, self._has_point(done, stream.n_records, len(records)))
                done = stream.n_records
        if is_first_process():
            session = self.session
            with self.folder.guarded():
                score_run(self.folder, self.settings, self.base, session.model, session.editor.edits, self.console)
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
        return score_run(folder, settings, run.base, run.model, run.edits, Console(quiet=True))


def show_results(console: Console, folder: RunFolder) -> None:
    """The tables at the end of a run, and what to do next."""
    show_metrics(console, folder.read_metrics())
    show_examples(console, json.loads(folder.examples.read_text(encoding="utf-8"))[:N_EXAMPLES])
    console.print(f"ask it:     python -m case_lightning.generate --run {folder.path}")
    console.print(f"report:     {folder.report}")
