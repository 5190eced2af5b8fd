"""The neuron masks of a run, as the table `masks` of `ledger.sqlite` holds them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from case_lightning.editing.ledger import Ledger
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
        RunError: If the file is not a ledger of this package's version, or a row's counts are not lists of whole
            numbers of one length.
    """
    masks = [_parse_row(row, path) for row in Ledger(path).mask_rows()]
    lengths = {len(counts) for mask in masks for counts in (mask.neurons, mask.kept)}
    if len(lengths) > 1:
        raise RunError(f"{path}: masks: expected counts of one length, found lengths {sorted(lengths)}")
    return masks


def _parse_row(row: dict[str, Any], path: Path) -> LedgerMask:
    neurons, kept = (_parse_counts(row[name], path, row["batch"]) for name in ("neurons", "kept"))
    return LedgerMask(row["batch"], neurons, kept, row["threshold"], row["share"])


def _parse_counts(text: str | None, path: Path, batch: int) -> list[int]:
    try:
        counts = json.loads(text or "")
    except (TypeError, ValueError):
        counts = None
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise RunError(f"{path}: mask of batch {batch}: expected a JSON list of counts, found {str(text)[:80]!r}")
    return counts
