"""The ledger: one row an edit, written in the transaction of its batch."""

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from case_lightning.data import Edit
from case_lightning.errors import RunError
from case_lightning.method.allocation import Allocation

SCHEMA = """
CREATE TABLE IF NOT EXISTS edits (
    id TEXT PRIMARY KEY, position INTEGER, batch INTEGER, prompt TEXT, target TEXT, subject TEXT, record TEXT,
    subspace INTEGER, conflict_score REAL, scores TEXT, decision TEXT, loss REAL, seconds REAL, created_at TEXT,
    superseded_by TEXT, undone_at TEXT)
"""


@dataclass(frozen=True)
class LedgerRow:
    """What is known of one edit once it is made.

    Attributes:
        edit: The edit.
        allocation: Its subspace and why.
        loss: Its loss after its own fit.
        seconds: Its share of the time of its batch.
    """

    edit: Edit
    allocation: Allocation
    loss: float
    seconds: float


class Ledger:
    """The `edits` table of a run.

    Args:
        path: The SQLite file; made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        """Note the path."""
        self.path = path

    def append(self, batch: int, rows: Iterable[LedgerRow]) -> None:
        """Write all edits of a batch, or none."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with closing(self._connect()) as connection, connection:
            (start,) = connection.execute("SELECT COUNT(*) FROM edits").fetchone()
            connection.executemany(
                f"INSERT INTO edits VALUES ({', '.join('?' * 16)})",  # noqa: S608  question marks only
                [_values(row, start + offset, batch, now) for offset, row in enumerate(rows)],
            )

    def edits(self) -> list[Edit]:
        """All edits, in the order in which they were made.

        Raises:
            RunError: The file is not there or is no ledger.
        """
        if not self.path.is_file():
            raise RunError(f"{self.path} is not there; the folder holds no finished run")
        try:
            with closing(self._connect()) as connection:
                rows = connection.execute("SELECT record FROM edits ORDER BY position").fetchall()
        except sqlite3.DatabaseError as error:
            raise RunError(f"{self.path} is not a readable ledger ({error}); restore it from a copy") from error
        return [Edit.from_json(record) for (record,) in rows]

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path)
        connection.execute(SCHEMA)
        return connection


def _values(row: LedgerRow, position: int, batch: int, now: str) -> tuple[object, ...]:
    edit, allocation = row.edit, row.allocation
    text = (edit.id, position, batch, edit.prompt, edit.target, edit.subject, edit.to_json())
    choice = (allocation.subspace, allocation.score, json.dumps(allocation.scores), allocation.decision)
    return (*text, *choice, row.loss, row.seconds, now, None, None)
