"""The ledger: what a run knows. One row an edit, and what is on disk of the states in between.

Everything that belongs to one batch is written in one transaction, which is the moment in which the batch is made:
its edits, what they superseded, the point of the retention curve, and the snapshot that holds the adapter with them.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from case_lightning.data import Edit
from case_lightning.data.checks import OnContradiction
from case_lightning.errors import RunError
from case_lightning.method.allocation import Allocation
from case_lightning.method.mask_summary import MaskSummary

VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS edits (
    id TEXT PRIMARY KEY, position INTEGER, stream INTEGER, batch INTEGER, prompt TEXT, target TEXT, subject TEXT,
    record TEXT, subspace INTEGER, conflict_score REAL, scores TEXT, decision TEXT, loss REAL, reliability REAL,
    seconds REAL, created_at TEXT, superseded_by TEXT, undone_at TEXT, left_out INTEGER);
CREATE TABLE IF NOT EXISTS streams (
    stream INTEGER PRIMARY KEY, data TEXT, batch_size INTEGER, on_contradiction TEXT, n_records INTEGER,
    finished INTEGER, created_at TEXT);
CREATE TABLE IF NOT EXISTS snapshots (n_batches INTEGER PRIMARY KEY, name TEXT, digest TEXT);
CREATE TABLE IF NOT EXISTS retention (n_edits INTEGER PRIMARY KEY, reliability REAL, batch INTEGER);
CREATE TABLE IF NOT EXISTS masks (
    batch INTEGER, parameter TEXT, neurons TEXT, kept TEXT, threshold REAL, share REAL, PRIMARY KEY (batch, parameter));
"""
ADDED = {"retention": "batch", "edits": "left_out"}  # columns that an older package did not write
OUTCOME = ("batch", "left_out", "subspace", "conflict_score", "scores", "decision", "loss", "reliability", "seconds")


@dataclass(frozen=True)
class LedgerRow:
    """What is known of one edit once it is made.

    Attributes:
        edit: The edit.
        allocation: Its subspace and why.
        loss: Its loss after its own fit.
        reliability: Share of its target's tokens that the model predicted then.
        seconds: Its share of the time of its batch.
    """

    edit: Edit
    allocation: Allocation
    loss: float
    reliability: float
    seconds: float


@dataclass(frozen=True)
class Snapshot:
    """A state of the adapter on disk.

    Attributes:
        n_batches: How many batches it holds.
        name: Its folder.
        digest: SHA-256 of its `adapter_model.safetensors`.
    """

    n_batches: int
    name: str
    digest: str


@dataclass(frozen=True)
class MadeBatch:
    """One batch, ready to be entered.

    Attributes:
        index: Its number, counted over all streams.
        stream: Number of its stream.
        records: Its edits in order, those left out for another one with their question, too.
        rows: The others, as they were made.
        superseded: Id of each edit that one of these takes the place of, to the id of that one.
        snapshot: The adapter with it, where it was written.
        retention: Edits so far and reliability on them, where the curve has a point.
        masks: Which neurons were tuned.
    """

    index: int
    stream: int
    records: Sequence[Edit]
    rows: Sequence[LedgerRow]
    superseded: dict[str, str]
    snapshot: Snapshot | None
    retention: tuple[int, float] | None = None
    masks: Sequence[MaskSummary] = ()


@dataclass(frozen=True)
class Stream:
    """One `fit` command's worth of edits.

    Attributes:
        number: From 0.
        data: The settings that say which edits.
        batch_size: Edits of a fit.
        on_contradiction: What was done about contradictions.
        n_records: Records of the data that are made or left out for good.
        finished: Whether that is all of them.
    """

    number: int
    data: dict[str, Any]
    batch_size: int
    on_contradiction: OnContradiction
    n_records: int = 0
    finished: bool = False


class Ledger:
    """The ledger of a run.

    Args:
        path: The SQLite file; made with the first thing written.
    """

    def __init__(self, path: Path) -> None:
        """Note the path."""
        self.path = path

    def roll_back(self) -> None:
        """Take out of the file what a process was writing as it was cut off; a ledger that never was is then empty."""
        if self.path.is_file():
            with closing(sqlite3.connect(self.path)) as connection, suppress(sqlite3.DatabaseError):
                connection.execute("SELECT * FROM sqlite_master").fetchall()  # SQLite does it with any reading

    def rows(self) -> list[dict[str, Any]]:
        """All rows of `edits`, those undone, superseded and left out, too, in the order of the stream.

        `left_out` is the batch that an edit was left out of for another one with its question.

        Raises:
            RunError: The file is not there or is no ledger.
        """
        added = {"left_out": None}  # a column that an older package did not write
        return [added | dict(row) for row in self._read("SELECT * FROM edits ORDER BY position")]

    def edits(self) -> list[Edit]:
        """The edits that hold: made, and neither undone nor superseded."""
        return [Edit.from_json(row["record"]) for row in self.rows() if holds(row)]

    def streams(self) -> list[Stream]:
        """All streams, in order."""
        found = self._read("SELECT * FROM streams ORDER BY stream")
        return [
            Stream(
                row["stream"],
                json.loads(row["data"]),
                row["batch_size"],
                row["on_contradiction"],
                row["n_records"],
                bool(row["finished"]),
            )
            for row in found
        ]

    def snapshots(self) -> list[Snapshot]:
        """The states on disk, in order; the last one is the run's."""
        return [Snapshot(**dict(row)) for row in self._read("SELECT * FROM snapshots ORDER BY n_batches")]

    def retention(self) -> list[list[float]]:
        """Points of the retention curve: edits so far, reliability on them."""
        return [list(row) for row in self._read("SELECT n_edits, reliability FROM retention ORDER BY n_edits")]

    def mask_rows(self) -> list[dict[str, Any]]:
        """All rows of `masks`, in the order of their batches; none in a ledger from before masks were noted."""
        if not self._read("SELECT name FROM sqlite_master WHERE name = 'masks'"):
            return []
        return [dict(row) for row in self._read("SELECT * FROM masks ORDER BY batch, parameter")]

    def enter_stream(
        self, stream: Stream, snapshot: Snapshot | None = None, left_out: Sequence[Edit] = (), batch: int = 0
    ) -> None:
        """Write a stream, or how far it has come; a state; and edits that were left out before a batch was made."""
        with self._transaction() as connection:
            _put_edits(connection, left_out, stream.number, batch)
            _put_stream(connection, stream)
            _put_snapshot(connection, snapshot)

    def enter(self, made: MadeBatch, stream: Stream) -> None:
        """Write a batch and how far its stream has come, or nothing at all."""
        with self._transaction() as connection:
            _put_edits(connection, made.records, made.stream, made.index)
            _put_outcome(connection, made)
            _put_stream(connection, stream)

    def rewrite(self, n_batches: int, undone: Sequence[str], redone: Sequence[str], made: Sequence[MadeBatch]) -> None:
        """Replace all batches from one on, in one transaction.

        Args:
            n_batches: How many batches stay.
            undone: Ids of edits that are taken out.
            redone: Ids of edits that come back.
            made: The new batches; their edits have rows already.
        """
        with self._transaction() as connection:
            gone = connection.execute("SELECT id FROM edits WHERE batch >= ?", (n_batches,)).fetchall()
            kept = connection.execute("SELECT COUNT(*) FROM edits WHERE batch < ?", (n_batches,)).fetchone()[0]
            connection.executemany("UPDATE edits SET superseded_by = NULL WHERE superseded_by = ?", gone)
            blank = ", ".join(f"{name} = NULL" for name in OUTCOME)
            connection.execute(f"UPDATE edits SET {blank} WHERE batch >= ?", (n_batches,))  # noqa: S608  own names
            connection.execute("DELETE FROM snapshots WHERE n_batches > ?", (n_batches,))
            later = "batch >= ? OR batch IS NULL AND n_edits > ?"  # an older package did not note the batch
            connection.execute(f"DELETE FROM retention WHERE {later}", (n_batches, kept))  # noqa: S608  own words
            connection.execute("DELETE FROM masks WHERE batch >= ?", (n_batches,))
            marks = [(_now(), one) for one in undone] + [(None, one) for one in redone]
            connection.executemany("UPDATE edits SET undone_at = ? WHERE id = ?", marks)
            for one in made:
                places = [(one.index, edit.id) for edit in one.records]
                connection.executemany("UPDATE edits SET left_out = ? WHERE id = ?", places)
                _put_outcome(connection, one)

    def forget_snapshots(self, names: Sequence[str]) -> None:
        """Take snapshots off the list, before their folders go."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM snapshots WHERE name = ?", [(name,) for name in names])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Tables that are not there yet are made in the same transaction, so there is a whole ledger or none."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in (*SCHEMA.split(";")[:-1], f"PRAGMA user_version = {VERSION}"):
                connection.execute(statement)
            for table, added in ADDED.items():
                if added not in [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]:
                    connection.execute(f"ALTER TABLE {table} ADD COLUMN {added} INTEGER")
            yield connection

    def _read(self, query: str) -> list[sqlite3.Row]:
        if not self.path.is_file():
            raise RunError(f"{self.path} is not there; restore it from a copy, or give the folder that 'fit' has left")
        try:
            with closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=rw", uri=True)) as connection:
                connection.row_factory = sqlite3.Row
                self._check_version(connection)
                return connection.execute(query).fetchall()
        except sqlite3.DatabaseError as error:
            raise RunError(f"{self.path} is not a readable ledger ({error}); restore it from a copy") from error

    def _check_version(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            remedy = "update case_lightning" if version > VERSION else "make its edits again with this one"
            raise RunError(f"{self.path} has format version {version}, this package reads version {VERSION}; {remedy}")


def holds(row: dict[str, Any]) -> bool:
    """Whether an edit was made, and is neither undone nor superseded."""
    return row["batch"] is not None and not row["superseded_by"]


def is_left_out(row: dict[str, Any]) -> bool:
    """Whether an edit was left out for another one with its question, and not taken back since."""
    return row["left_out"] is not None and not row["undone_at"]


def _put_edits(connection: sqlite3.Connection, edits: Sequence[Edit], stream: int, batch: int) -> None:
    """Write the edits of a batch as left out, which those that are made are no more once their outcome is written."""
    (start,) = connection.execute("SELECT COALESCE(MAX(position), -1) + 1 FROM edits").fetchone()
    connection.executemany(
        "INSERT INTO edits (id, position, stream, prompt, target, subject, record, created_at, left_out) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (one.id, start + index, stream, one.prompt, one.target, one.subject, one.to_json(), _now(), batch)
            for index, one in enumerate(edits)
        ],
    )


def _put_outcome(connection: sqlite3.Connection, made: MadeBatch) -> None:
    columns = ", ".join(f"{name} = ?" for name in OUTCOME)
    for row in made.rows:
        one = row.allocation
        values = (made.index, None, one.subspace, one.score, json.dumps(one.scores), one.decision)
        figures = (row.loss, row.reliability, row.seconds)
        connection.execute(f"UPDATE edits SET {columns} WHERE id = ?", (*values, *figures, row.edit.id))  # noqa: S608
    pairs = [(new, old) for old, new in made.superseded.items()]
    connection.executemany("UPDATE edits SET superseded_by = ? WHERE id = ?", pairs)
    _put_snapshot(connection, made.snapshot)
    if made.retention:
        connection.execute("INSERT OR REPLACE INTO retention VALUES (?, ?, ?)", (*made.retention, made.index))
    for mask in made.masks:
        counts = (json.dumps(mask.neurons), json.dumps(mask.kept))
        connection.execute(
            "INSERT OR REPLACE INTO masks VALUES (?, ?, ?, ?, ?, ?)",
            (made.index, mask.parameter, *counts, mask.threshold, mask.share),
        )


def _put_snapshot(connection: sqlite3.Connection, one: Snapshot | None) -> None:
    if one:
        connection.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", (one.n_batches, one.name, one.digest))


def _put_stream(connection: sqlite3.Connection, stream: Stream) -> None:
    connection.execute(
        "INSERT INTO streams VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (stream) DO UPDATE SET n_records = excluded.n_records, finished = excluded.finished",
        (
            stream.number,
            json.dumps(stream.data),
            stream.batch_size,
            stream.on_contradiction,
            stream.n_records,
            int(stream.finished),
            _now(),
        ),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
