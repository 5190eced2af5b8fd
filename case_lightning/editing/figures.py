"""The figures of a run: scored on its final model, written down, and drawn as a report."""

import resource
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from rich.console import Console
from safetensors import safe_open

from case_lightning.base import Base
from case_lightning.config import RunSettings
from case_lightning.data import Edit
from case_lightning.editing.answering import RoutedModel
from case_lightning.editing.consolidation import count_all_steps
from case_lightning.editing.environment import describe_environment
from case_lightning.editing.evaluation import evaluate_model
from case_lightning.editing.ledger import Ledger
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.scoring import Scorer
from case_lightning.editing.store import ADAPTER
from case_lightning.reporting import write_report

N_EXAMPLES = 3
N_SHOWN = 5  # of the best edits and of the worst
ADAPTER_PARTS = ("subspaces", "keys", "memory")
EXAMPLE_TOKENS = 24


def score_run(
    folder: RunFolder,
    settings: RunSettings,
    base: Base,
    model: PeftModel,
    edits: Sequence[Edit],
    console: Console,
    peaks: dict[str, Any],
) -> dict[str, Any]:
    """Score a run on the edits that hold, and write `metrics.json`, `examples.json` and the report.

    Args:
        folder: The run's folder.
        settings: Its settings.
        base: The base model.
        model: The same with the run's adapter.
        edits: The edits that hold.
        console: Where scoring shows itself.
        peaks: What the process that made these edits measured of its costs, where that was another one.

    Returns:
        The content of `metrics.json`.
    """
    method, ledger = RoutedModel(base, model), Ledger(folder.ledger)
    scorer = Scorer(method, settings.evaluation.batch_size)
    with console.status("scoring"):
        started = time.perf_counter()
        parts, details = evaluate_model(scorer, edits, settings.evaluation.generate)
        seconds = time.perf_counter() - started
        streams = {row["id"]: row["stream"] for row in ledger.rows()}
        newest = [index for index, edit in enumerate(edits) if streams[edit.id] == streams[edits[-1].id]]
        examples = make_examples(scorer, edits, details, newest[0] if newest else 0)
    about = {
        "protocol": "wise",
        "base_model": settings.base.model,
        "dataset": ", ".join(dict.fromkeys(stream.data["path"] for stream in ledger.streams())),
        "n_edits": len(edits),
        "batch_size": settings.data.batch_size,
        "seed": settings.seed,
    }
    metrics: dict[str, Any] = about | parts | describe_history(ledger)
    metrics["cost"] |= {
        "evaluate_seconds": seconds,
        "optimizer_steps": ledger.snapshots()[-1].n_batches * settings.training.steps
        + count_all_steps(ledger.rows(), ledger.streams(), settings.consolidation),
        "subspaces": len(method.tuner.case_layer.adapter.subspaces),
        "adapter_bytes": (folder.adapter / ADAPTER).stat().st_size,
    }
    metrics["adapter_parts"] = measure_parts(folder.adapter / ADAPTER)
    metrics["environment"] = describe_environment(settings, base)
    metrics["cost"] |= peaks or measure_peaks(scorer, edits, base.model.device)
    folder.write_json(folder.examples, examples)
    folder.write_json(folder.metrics, metrics)
    write_report([folder.path], folder.report)
    return metrics


def describe_history(ledger: Ledger) -> dict[str, Any]:
    """What the ledger knows of how the edits were made: the parts `immediate`, `retention` and some of `cost`."""
    rows = [row for row in ledger.rows() if row["batch"] is not None]
    seconds = [row["seconds"] for row in rows]
    cost = {
        "edit_seconds": _mean(seconds),
        "edit_seconds_first_100": _mean(seconds[:100]),
        "edit_seconds_last_100": _mean(seconds[-100:]),
    }
    immediate = {"reliability": _mean([row["reliability"] for row in rows])}
    superseded = sum(row["superseded_by"] is not None for row in rows)
    return {"n_superseded": superseded, "immediate": immediate, "retention": ledger.retention(), "cost": cost}


def measure_peaks(scorer: Scorer, edits: Sequence[Edit], device: torch.device) -> dict[str, Any]:
    """Most memory that this process has taken, on a GPU there too, in bytes, and what edits cost in generation."""
    return {
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_device_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "generate_overhead": measure_overhead(scorer, edits),
    }


def measure_parts(path: Path) -> dict[str, int]:
    """What an adapter file is made of: the bytes of the subspaces, of each other part, and of the file's own header."""
    sizes: Counter[str] = Counter()
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  it is no mapping
            tensor = file.get_tensor(name)
            part = next((part for part in ADAPTER_PARTS if f".{part}." in name), "other")
            sizes[part] += tensor.numel() * tensor.element_size()
    return {**sizes, "header": path.stat().st_size - sizes.total()}


def make_examples(
    scorer: Scorer, edits: Sequence[Edit], details: Sequence[dict[str, Any]], first: int = 0
) -> list[dict[str, Any]]:
    """The figures and both models' answers for some edits: a few from one on, then the best and the worst."""
    order = sorted(range(len(edits)), key=lambda index: _rank(details[index]))
    shown = range(len(edits))[first : first + N_EXAMPLES]
    chosen = [*shown, *sorted({*order[:N_SHOWN], *order[-N_SHOWN:]} - {*shown})]
    prompts = [edits[index].prompt for index in chosen]
    answers = [scorer.generate(prompts, EXAMPLE_TOKENS, edited=flag) for flag in (False, True)]
    return [
        {"id": edits[i].id, "prompt": edits[i].prompt, "target": edits[i].target, "unedited": old, "edited": new}
        | {name: details[i][name] for name in ("reliability", "generalization")}
        for i, old, new in zip(chosen, *answers, strict=True)
    ]


def measure_overhead(scorer: Scorer, edits: Sequence[Edit], repeats: int = 3, tokens: int = 8) -> float | None:
    """How many times slower edited generation is: tokens a second of the unedited model over the edited one's.

    `None` without an edit.
    """
    if not edits:
        return None
    questions = [scorer.encode(edit.prompt, edit.target) for edit in edits[:4]]
    prompts = [question.prompt for question in questions]
    tokens = min(tokens, scorer.base.context_length - max(map(len, prompts)))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        for flag in (True, False):
            started = time.perf_counter()
            scorer.generate_batch(prompts, tokens, edited=flag, least=tokens)
            seconds[flag].append(time.perf_counter() - started)
    return sorted(seconds[True])[repeats // 2] / sorted(seconds[False])[repeats // 2]


def _rank(figures: dict[str, Any]) -> tuple[float, float, float]:
    """What edits are ordered by, the best last."""
    return figures["reliability"], figures["generalization"] or 0.0, -figures["loss"]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
