"""The neuron masks of a run, as the table `masks` of `ledger.sqlite` holds them."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from case_lightning.errors import RunError


@dataclass(frozen=True)
class LedgerMask:
    """One mask.

    Attributes:
        batch: Number of the batch whose fit it was drawn for.
        neurons: How many neurons of each bin of sensitivity there were.
        kept: How many of them were tuned.
        threshold: Relative sensitivity of the least sensitive one that was tuned.
        share: Share of the sensitivity on those that were tuned.
    """

    batch: int
    neurons: list[int]
    kept: list[int]
    threshold: float | None
    share: float | None


def read_masks(path: Path) -> list[LedgerMask]:
    """Read the masks in the order of their batches; none from a ledger of a time before masks were noted.

    Raises:
        RunError: If the file is not a ledger, or a row's counts are not lists of whole numbers of one length.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            if not connection.execute("SELECT name FROM sqlite_master WHERE name = 'masks'").fetchall():
                return []
            columns = "batch, neurons, kept, threshold, share"
            rows = connection.execute(f"SELECT {columns} FROM masks ORDER BY batch, parameter").fetchall()  # noqa: S608
    except sqlite3.Error as error:
        raise RunError(f"{path}: expected a ledger with a table of masks; {error}") from error
    masks = [
        LedgerMask(batch, _parse_counts(neurons, path, batch), _parse_counts(kept, path, batch), threshold, share)
        for batch, neurons, kept, threshold, share in rows
    ]
    lengths = {len(counts) for mask in masks for counts in (mask.neurons, mask.kept)}
    if len(lengths) > 1:
        raise RunError(f"{path}: masks: expected counts of one length, found lengths {sorted(lengths)}")
    return masks


def _parse_counts(text: str | None, path: Path, batch: int) -> list[int]:
    try:
        counts = json.loads(text or "")
    except (TypeError, ValueError):
        counts = None
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise RunError(f"{path}: mask of batch {batch}: expected a JSON list of counts, found {str(text)[:80]!r}")
    return counts
