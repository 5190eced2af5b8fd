"""The edits of a run, as `ledger.sqlite` holds them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from case_lightning.editing.ledger import Ledger
from case_lightning.errors import RunError


@dataclass(frozen=True)
class LedgerEdit:
    """What the ledger says about one edit; a number or text that it does not hold is `None`.

    Attributes:
        id: The edit's own name.
        prompt: The question.
        target: The answer that was written.
        subspace: The subspace that holds it.
        decision: `shared`, `opened` or `forced`.
        conflict_score: Its score against that subspace; none for the first edit.
        scores: Its score against each subspace that was open at the time, by the subspace's number.
        loss: The loss at the end of its fit.
        seconds: The seconds it took.
        created_at: When it was written.
        retired: Why it no longer speaks, if so: a later edit took its place, or it was taken back.
    """

    id: str
    prompt: str | None
    target: str | None
    subspace: int | None
    decision: str | None
    conflict_score: float | None
    scores: tuple[float | None, ...]
    loss: float | None
    seconds: float | None
    created_at: str | None
    retired: str | None


def read_ledger(path: Path) -> list[LedgerEdit]:
    """Read the edits in the order in which they were written.

    Raises:
        RunError: If the file is not a ledger of this package's version, or a row's scores are not a list of numbers.
    """
    return [_parse_row(row, path) for row in Ledger(path).rows()]


def _parse_row(row: dict[str, Any], path: Path) -> LedgerEdit:
    return LedgerEdit(
        id=str(row["id"]),
        prompt=row["prompt"],
        target=row["target"],
        subspace=row["subspace"],
        decision=row["decision"],
        conflict_score=row["conflict_score"],
        scores=_parse_scores(row["scores"], f"{path}: edit {row['id']!r}"),
        loss=row["loss"],
        seconds=row["seconds"],
        created_at=row["created_at"],
        retired=_describe_end(row),
    )


def _describe_end(row: dict[str, Any]) -> str | None:
    if row["undone_at"] is not None:
        return "undone"
    if row["superseded_by"] is not None:
        return f"superseded by {row['superseded_by']}"
    return None if row["left_out"] is None else "left out"


def _parse_scores(text: str | None, place: str) -> tuple[float | None, ...]:
    try:
        scores = json.loads(text or "[]") or []
    except (TypeError, ValueError) as error:
        raise RunError(f"{place}: scores: expected a JSON list of numbers; {error}") from error
    if not isinstance(scores, list) or not all(score is None or isinstance(score, (int, float)) for score in scores):
        raise RunError(f"{place}: scores: expected a JSON list of numbers, found {str(text)[:80]!r}")
    return tuple(scores)
