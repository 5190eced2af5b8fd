"""A run folder, read for its report: `metrics.json` must be there, every other file may be missing."""

import json
from dataclasses import dataclass
from pathlib import Path

from case_lightning.errors import RunError
from case_lightning.reporting.answers import Answers, parse_answers
from case_lightning.reporting.ledger import LedgerEdit, read_ledger
from case_lightning.reporting.masks import LedgerMask, read_masks
from case_lightning.reporting.metrics import Metrics, parse_metrics


@dataclass(frozen=True)
class Run:
    """What one run left behind.

    Attributes:
        name: The folder's name.
        folder: The folder.
        metrics: The figures.
        edits: The edits in the order in which they were written; none without a ledger.
        masks: Which neurons were tuned; none without a ledger that holds them.
        answers: What the model said before and after, for some edits; none without `examples.json`.
        config: The text of `config.yaml`.
    """

    name: str
    folder: Path
    metrics: Metrics
    edits: list[LedgerEdit]
    masks: list[LedgerMask]
    answers: list[Answers]
    config: str | None


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        RunError: If the folder or its `metrics.json` is missing, or a file in it cannot be used.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: expected a run folder, found {'a file' if folder.exists() else 'nothing'} there")
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        raise RunError(f"{metrics}: expected the figures of a run, found no such file; evaluate the run first")
    values = _read_json(metrics)
    if not isinstance(values, dict):
        raise RunError(f"{metrics}: expected an object, found {json.dumps(values)[:80]}")
    ledger, examples = folder / "ledger.sqlite", folder / "examples.json"
    return Run(
        name=folder.resolve().name,
        folder=folder,
        metrics=parse_metrics(values, str(metrics)),
        edits=read_ledger(ledger) if ledger.exists() else [],
        masks=read_masks(ledger) if ledger.exists() else [],
        answers=parse_answers(_read_json(examples), str(examples)),
        config=_read_text(folder / "config.yaml"),
    )


def _read_json(path: Path) -> object:
    text = _read_text(path)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise RunError(f"{path}: expected JSON; {error}") from error


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: expected a text file in UTF-8; {error}") from error
