"""A whole run: load, edit batch by batch, save, score, and show."""

import json
import logging
import os
import resource
import shutil
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import seed_everything
from rich.console import Console

from case_lightning.base import Base, load_base
from case_lightning.config import RunSettings
from case_lightning.data import Edit, EditDataModule, read_edits
from case_lightning.display import LiveDisplay, make_console, show_examples, show_metrics
from case_lightning.editing.editor import BatchOutcome, Editor, put_adapter
from case_lightning.editing.evaluation import evaluate_model
from case_lightning.editing.ledger import Ledger, LedgerRow
from case_lightning.editing.loading import load_run
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.scoring import Scorer
from case_lightning.errors import ConfigError

N_EXAMPLES = 3
EXAMPLE_TOKENS = 24


def fit_run(settings: RunSettings) -> RunFolder:
    """Edit a model as the settings say and leave a run folder.

    A finished run of the same settings is not repeated, its results are shown again.

    Raises:
        CaseError: A setting, the data, the base model or the run folder cannot be used; nothing is left half-written.
    """
    quiet_libraries()
    console = make_console() if rank_zero_only.rank == 0 else Console(quiet=True)
    folder = RunFolder(settings.run_dir)
    if folder.repeats(settings):
        console.print(f"{folder.path} already holds this run")
        show_results(console, folder)
        return folder
    check_settings(settings)
    data = build_data(settings)
    base = load_base(settings.base.model, settings.base.dtype, settings.base.device, settings.base.trust_remote_code)
    data.require_fit(lambda text: len(base.tokenizer(text).input_ids), context_length(base))
    data.setup("fit")
    if rank_zero_only.rank == 0:
        folder.create(settings)
    seed_everything(settings.seed, verbose=False)
    Run(settings, folder, base, console).fit(list(data.batches()))
    return folder


def build_data(settings: RunSettings) -> EditDataModule:
    """The stream of edit batches that the settings speak of; `sample` is the package's own."""
    data = dict(vars(settings.data))
    if data["path"] == "sample":
        data["path"] = str(files("case_lightning.data") / "samples" / "updates.jsonl")
    return EditDataModule(**data)


def check_settings(settings: RunSettings) -> None:
    """Refuse numbers that cannot work, before anything is loaded.

    Raises:
        ConfigError: The message names the key, the value and what is accepted.
    """
    positive = {
        "training.steps": settings.training.steps,
        "training.learning_rate": settings.training.learning_rate,
        "subspace.rank": settings.subspace.rank,
        "subspace.scale": settings.subspace.scale,
        "conflict.capacity": settings.conflict.capacity,
        "conflict.max_subspaces": settings.conflict.max_subspaces,
        "memory.temperature": settings.memory.temperature,
        "evaluation.batch_size": settings.evaluation.batch_size,
        "trainer.devices": settings.trainer.devices,
    }
    for key, value in positive.items():
        if not value > 0 or value == float("inf"):
            raise ConfigError(f"{key}: expected a number above 0, found {value}")
    least_zero = {
        "training.weight_decay": settings.training.weight_decay,
        "training.n_rehearsed": settings.training.n_rehearsed,
        "memory.size": settings.memory.size,
        "memory.weight": settings.memory.weight,
    }
    for key, value in least_zero.items():
        if not value >= 0:
            raise ConfigError(f"{key}: expected 0 or more, found {value}")
    for key in ("subject_threshold", "relation_threshold"):
        if not 0 <= getattr(settings.subspace, key) <= 1:
            raise ConfigError(f"subspace.{key}: expected 0 to 1, found {getattr(settings.subspace, key)}")


def context_length(base: Base) -> int:
    """Longest text that a base model takes, in tokens."""
    return int(getattr(base.model.config, "max_position_embeddings", None) or 2048)


def quiet_libraries() -> None:
    """Keep Lightning's hints about devices and finished fits off the screen: here a fit is a batch."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Run:
    """One run in the making.

    Args:
        settings: Its settings.
        folder: Its folder, made already.
        base: The base model.
        console: Where it shows itself.
    """

    def __init__(self, settings: RunSettings, folder: RunFolder, base: Base, console: Console) -> None:
        self.settings, self.folder, self.base, self.console = settings, folder, base, console
        self.model = put_adapter(base, settings)
        self.scorer = Scorer(base, self.model, settings.evaluation.batch_size)
        self.outcomes: list[BatchOutcome] = []
        self.retention: list[list[float]] = []

    def fit(self, batches: Sequence[Sequence[Edit]]) -> None:
        """Make all edits, then save, score and show."""
        total = sum(len(batch) for batch in batches)
        with LiveDisplay(self.console, total) as display:
            self.editor = Editor(self.base, self.model, self.settings, self.folder.logs, [display])
            for index, batch in enumerate(batches):
                outcome = self._edit(index, batch)
                display.advance(len(batch), len(self.editor.adapter.subspaces), sum(outcome.losses) / len(batch))
                self._measure_retention(index, len(batches))
        if rank_zero_only.rank == 0:
            self._save()
            self._finish()

    def _edit(self, index: int, batch: Sequence[Edit]) -> BatchOutcome:
        outcome = self.editor.edit(batch)
        self.outcomes.append(outcome)
        if rank_zero_only.rank == 0:
            seconds = outcome.seconds / len(batch)
            rows = zip(batch, outcome.allocations, outcome.losses, strict=True)
            Ledger(self.folder.ledger).append(index, [LedgerRow(*row, seconds) for row in rows])
        return outcome

    def _measure_retention(self, index: int, n_batches: int) -> None:
        points = max(self.settings.evaluation.retention_points, 1)
        if (index + 1) * points // n_batches > index * points // n_batches:
            done = len(self.editor.edits)
            _, hits = self.editor.check(range(done))
            self.retention.append([done, sum(hits) / done])

    def _save(self) -> None:
        part = self.folder.path / "adapter.part"
        shutil.rmtree(part, ignore_errors=True)
        self.editor.save(part)
        self.folder.replace_adapter(part)

    def _finish(self) -> None:
        edits = self.editor.edits
        with self.console.status("scoring"):
            started = time.perf_counter()
            parts, details = evaluate_model(self.scorer, edits, self.settings.evaluation.generate)
            seconds = time.perf_counter() - started
            examples = make_examples(self.scorer, edits, details)
        metrics = {
            "protocol": "wise",
            "base_model": self.settings.base.model,
            "dataset": self.settings.data.path,
            "n_edits": len(edits),
            "batch_size": self.settings.data.batch_size,
            "seed": self.settings.seed,
            **parts,
            "immediate": {"reliability": _mean([hit for one in self.outcomes for hit in one.hits])},
            "retention": self.retention,
            "cost": self._sum_cost() | {"evaluate_seconds": seconds, "generate_overhead": measure_overhead(self.scorer, edits)},
        }
        self.folder.write_json(self.folder.examples, examples)
        self.folder.write_json(self.folder.metrics, metrics)
        show_results(self.console, self.folder)

    def _sum_cost(self) -> dict[str, Any]:
        each = [one.seconds / len(one.losses) for one in self.outcomes for _ in one.losses]
        on_gpu = torch.cuda.is_available()
        return {
            "edit_seconds": _mean(each),
            "edit_seconds_first_100": _mean(each[:100]),
            "edit_seconds_last_100": _mean(each[-100:]),
            "optimizer_steps": self.editor.trainer.global_step,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peak_device_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
            "adapter_bytes": (self.folder.adapter / "adapter_model.safetensors").stat().st_size,
            "subspaces": len(self.editor.adapter.subspaces),
        }


def open_scorer(path: str, batch_size: int = 32) -> Scorer:
    """Load a finished run to ask it."""
    quiet_libraries()
    run = load_run(path)
    return Scorer(run.base, run.model, batch_size)


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
    metrics = folder.read_metrics()
    other = read_edits(**data) if data["path"] is not None else None
    run = load_run(path)
    started = time.perf_counter()
    parts, _ = evaluate_model(Scorer(run.base, run.model, batch_size), other or run.edits, generate)
    if other is not None:
        return {"protocol": "wise", "dataset": data["path"], "n_records": len(other), **parts}
    metrics |= parts
    metrics["cost"]["evaluate_seconds"] = time.perf_counter() - started
    folder.write_json(folder.metrics, metrics)
    return metrics


def make_examples(scorer: Scorer, edits: Sequence[Edit], details: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every edit's figures, with the answers of both models for the first few and for the worst."""
    order = sorted(range(len(edits)), key=lambda index: details[index]["reliability"])
    chosen = sorted({*range(min(N_EXAMPLES, len(edits))), *order[:N_EXAMPLES]})
    prompts = [edits[index].prompt for index in chosen]
    answers = [scorer.generate(prompts, EXAMPLE_TOKENS, edited=flag) for flag in (False, True)]
    return [
        {"id": edits[i].id, "prompt": edits[i].prompt, "target": edits[i].target, "unedited": old, "edited": new}
        | {name: details[i][name] for name in ("reliability", "generalization")}
        for i, old, new in zip(chosen, *answers, strict=True)
    ]


def measure_overhead(scorer: Scorer, edits: Sequence[Edit], repeats: int = 3, tokens: int = 16) -> float:
    """How many times slower edited generation is: tokens a second of the unedited model over the edited one's."""
    prompts = [edit.prompt for edit in edits[:4]]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        for flag in (True, False):
            started = time.perf_counter()
            scorer.generate(prompts, tokens, edited=flag)
            seconds[flag].append(time.perf_counter() - started)
    return sorted(seconds[True])[repeats // 2] / sorted(seconds[False])[repeats // 2]


def show_results(console: Console, folder: RunFolder) -> None:
    """The tables at the end of a run, and what to do next."""
    show_metrics(console, folder.read_metrics())
    show_examples(console, json.loads(folder.examples.read_text(encoding="utf-8"))[:N_EXAMPLES])
    console.print(f"ask it:     python -m case_lightning.generate --run {folder.path}")
    console.print(f"report:     python -m case_lightning.report {folder.path}")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
