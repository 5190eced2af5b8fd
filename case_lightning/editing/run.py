"""A whole run: load, edit batch by batch, save, score, and show."""

import json
import logging
import math
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
from case_lightning.report import write_report

N_EXAMPLES = 3
EXAMPLE_TOKENS = 24
ABOVE_ZERO = (
    "training.steps",
    "training.learning_rate",
    "training.mask_size",
    "subspace.rank",
    "subspace.scale",
    "conflict.capacity",
    "conflict.max_subspaces",
    "memory.temperature",
    "evaluation.batch_size",
    "trainer.devices",
    "trainer.num_nodes",
)
ZERO_OR_MORE = (
    "training.weight_decay",
    "training.n_rehearsed",
    "training.n_variants",
    "subspace.n_directions",
    "memory.size",
    "memory.weight",
    "evaluation.retention_points",
)
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
    if folder.repeats(settings):
        console.print(f"{folder.path} already holds this run")
        show_results(console, folder)
        return folder
    check_settings(settings)
    if is_first_process():
        folder.check_free()
    data = build_data(settings)
    data.setup("fit")  # what is wrong with it is said before a model is loaded
    base = load_base(settings.base.model, settings.base.dtype, settings.base.device, settings.base.trust_remote_code)
    data.require_fit(lambda text: len(base.tokenizer(text).input_ids), context_length(base))
    seed_everything(settings.seed, verbose=False)
    run = Run(settings, folder, base, console, list(data.batches()))
    if is_first_process():
        folder.create(settings)
    run.fit()
    return folder


def is_first_process() -> bool:
    """Whether this process is the one of a distributed run that writes."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def build_data(settings: RunSettings) -> EditDataModule:
    """The stream of edit batches that the settings speak of."""
    return EditDataModule(**vars(settings.data) | {"path": locate_data(settings.data.path)})


def locate_data(path: str) -> str:
    """Where data is; `sample` is the sample that the package carries."""
    return str(files("case_lightning.data") / "samples" / "updates.jsonl") if path == "sample" else path


def check_settings(settings: RunSettings) -> None:
    """Refuse numbers that cannot work, before anything is loaded.

    Raises:
        ConfigError: The message names the key, the value and what is accepted.
    """
    for key in (*ABOVE_ZERO, *ZERO_OR_MORE, *ZERO_TO_ONE, "conflict.threshold"):
        section, name = key.split(".")
        value = getattr(getattr(settings, section), name)
        if not math.isfinite(value):
            raise ConfigError(f"{key}: expected a finite number, found {value}")
        if key in ABOVE_ZERO and value <= 0:
            raise ConfigError(f"{key}: expected a number above 0, found {value}")
        if key in ZERO_OR_MORE and value < 0:
            raise ConfigError(f"{key}: expected 0 or more, found {value}")
        if key in ZERO_TO_ONE and not 0 <= value <= 1:
            raise ConfigError(f"{key}: expected 0 to 1, found {value}")


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
        batches: The edits.
    """

    def __init__(
        self,
        settings: RunSettings,
        folder: RunFolder,
        base: Base,
        console: Console,
        batches: Sequence[Sequence[Edit]],
    ) -> None:
        """Put an adapter on the base model and build the editor; nothing is written yet."""
        self.settings, self.folder, self.base, self.console = settings, folder, base, console
        self.batches = batches
        model = put_adapter(base, settings)
        self.display = LiveDisplay(console, sum(len(batch) for batch in batches))
        self.editor = Editor(base, model, settings, folder.logs, [self.display])
        self.scorer = Scorer(base, model, settings.evaluation.batch_size)
        self.outcomes: list[BatchOutcome] = []
        self.retention: list[list[float]] = []

    def fit(self) -> None:
        """Make all edits, then save, score and show."""
        with self.display:
            for index, batch in enumerate(self.batches):
                outcome = self._edit(index, batch)
                self.display.advance(len(batch), len(self.editor.adapter.subspaces), sum(outcome.losses) / len(batch))
                self._measure_retention(index, len(self.batches))
        if is_first_process():
            self._save()
            self._finish()

    def _edit(self, index: int, batch: Sequence[Edit]) -> BatchOutcome:
        outcome = self.editor.edit(batch)
        self.outcomes.append(outcome)
        if not all(map(math.isfinite, outcome.losses)):
            raise ConfigError(
                f"the loss of edit batch {index} is no finite number after its fit; lower training.learning_rate, "
                f"found {self.settings.training.learning_rate}"
            )
        if is_first_process():
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
        cost = {"evaluate_seconds": seconds, "generate_overhead": measure_overhead(self.scorer, edits)}
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
            "cost": self._sum_cost() | cost,
        }
        self.folder.write_json(self.folder.examples, examples)
        self.folder.write_json(self.folder.metrics, metrics)
        write_report([self.folder.path], self.folder.report)
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
    other = None if data["path"] is None else read_edits(**data | {"path": locate_data(data["path"])})
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


def measure_overhead(scorer: Scorer, edits: Sequence[Edit], repeats: int = 3, tokens: int = 12) -> float:
    """How many times slower edited generation is: tokens a second of the unedited model over the edited one's."""
    questions = [scorer.encode(edit.prompt, edit.target) for edit in edits[:4]]
    prompts = [question.tokens[: question.n_prompt] for question in questions]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        for flag in (True, False):
            started = time.perf_counter()
            scorer.generate_batch(prompts, tokens, edited=flag, least=tokens)
            seconds[flag].append(time.perf_counter() - started)
    return sorted(seconds[True])[repeats // 2] / sorted(seconds[False])[repeats // 2]


def show_results(console: Console, folder: RunFolder) -> None:
    """The tables at the end of a run, and what to do next."""
    show_metrics(console, folder.read_metrics())
    show_examples(console, json.loads(folder.examples.read_text(encoding="utf-8"))[:N_EXAMPLES])
    console.print(f"ask it:     python -m case_lightning.generate --run {folder.path}")
    console.print(f"report:     {folder.report}")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
