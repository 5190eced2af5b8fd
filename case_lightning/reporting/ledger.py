"""The edits of a run, as `ledger.sqlite` holds them."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from case_lightning.errors import RunError

_COLUMNS = (
    "id, prompt, target, subspace, conflict_score, scores, decision, loss, seconds, created_at, "
    "superseded_by, undone_at"
)


@dataclass(frozen=True)
class Allocation:
    """Where one edit went, and why; a number or text that the ledger does not hold is `None`.

    Attributes:
        subspace: The subspace that holds it.
        decision: `shared`, `opened` or `forced`.
        conflict_score: Its score against that subspace; none for the first edit.
        scores: Its score against each subspace that was open at the time, by the subspace's number.
    """

    subspace: int | None
    decision: str | None
    conflict_score: float | None
    scores: tuple[float | None, ...]


@dataclass(frozen=True)
class LedgerEdit:
    """What the ledger says about one edit; a number or text that it does not hold is `None`.

    Attributes:
        id: The edit's own name.
        prompt: The question.
        target: The answer that was written.
        allocation: Where it went, and why.
        loss: The loss at the end of its fit.
        seconds: The seconds it took.
        created_at: When it was written.
        retired: Why it no longer speaks, if so: a later edit took its place, or it was taken back.
    """

    id: str
    prompt: str | None
    target: str | None
    allocation: Allocation
    loss: float | None
    seconds: float | None
    created_at: str | None
    retired: str | None


def read_ledger(path: Path) -> list[LedgerEdit]:
    """Read the edits in the order in which they were written; the file is not changed.

    Raises:
        RunError: If the file is not a ledger, or a row's scores are not a list of numbers.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute(f"SELECT {_COLUMNS} FROM edits ORDER BY position, rowid").fetchall()  # noqa: S608
    except sqlite3.Error as error:
        raise RunError(f"{path}: expected a ledger with a table of edits; {error}") from error
    return [_parse_row(row, path) for row in rows]


def _parse_row(row: sqlite3.Row, path: Path) -> LedgerEdit:
    scores = _parse_scores(row["scores"], f"{path}: edit {row['id']!r}")
    return LedgerEdit(
        id=str(row["id"]),
        prompt=row["prompt"],
        target=row["target"],
        allocation=Allocation(row["subspace"], row["decision"], row["conflict_score"], scores),
        loss=row["loss"],
        seconds=row["seconds"],
        created_at=row["created_at"],
        retired=_describe_end(row),
    )


def _describe_end(row: sqlite3.Row) -> str | None:
    if row["undone_at"] is not None:
        return "undone"
    return None if row["superseded_by"] is None else f"superseded by {row['superseded_by']}"


def _parse_scores(text: str | None, place: str) -> tuple[float | None, ...]:
    try:
        scores = json.loads(text or "[]") or []
    except (TypeError, ValueError) as error:
        raise RunError(f"{place}: scores: expected a JSON list of numbers; {error}") from error
    if not isinstance(scores, list) or not all(score is None or isinstance(score, (int, float)) for score in scores):
        raise RunError(f"{place}: scores: expected a JSON list of numbers, found {str(text)[:80]!r}")
    return tuple(scores)
